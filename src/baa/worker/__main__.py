"""`python -m baa.worker [--config FILE]`: worker-runner, in the foreground."""

from __future__ import annotations

import sys

from baa import process
from baa.worker import runner

if __name__ == "__main__":
    sys.exit(process.main("worker-runner", runner.run))
