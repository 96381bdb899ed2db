"""`python -m baa.conductor [--config FILE]`: the conductor, in the foreground."""

from __future__ import annotations

import sys

from baa import process
from baa.conductor import daemon

if __name__ == "__main__":
    sys.exit(process.main("conductor", daemon.run))
