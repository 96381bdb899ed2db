"""A program of ours under a wall clock that somebody moves: by as many seconds as stand in a file.

moved_clock.py FILE MODULE, instead of `-m MODULE`: nothing of ours is changed; what Python tells as the time of day is.
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path
from typing import Final

SCRIPT: Final = Path(__file__)


def under(moved: Path, module: str) -> tuple[str, ...]:
    """The command of a module whose clock is moved by what stands in that file."""
    return (sys.executable, str(SCRIPT), str(moved), module)


if __name__ == "__main__":
    moved, module = Path(sys.argv.pop(1)), sys.argv.pop(1)
    real, real_ns = time.time, time.time_ns

    def seconds() -> int:
        return int(moved.read_text() or 0)

    time.time = lambda: real() + seconds()
    time.time_ns = lambda: real_ns() + seconds() * 10**9
    runpy.run_module(module, run_name="__main__", alter_sys=True)
