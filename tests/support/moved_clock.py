"""codexd under a wall clock that somebody moves: by as many seconds as stand in a file.

moved_clock.py FILE, instead of `-m baa.codexd`: nothing of ours is changed; what Python tells as the time of day is.
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    moved = Path(sys.argv.pop(1))
    real, real_ns = time.time, time.time_ns

    def seconds() -> int:
        return int(moved.read_text() or 0)

    time.time = lambda: real() + seconds()
    time.time_ns = lambda: real_ns() + seconds() * 10**9
    runpy.run_module("baa.codexd", run_name="__main__", alter_sys=True)
