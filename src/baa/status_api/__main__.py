"""`python -m baa.status_api [--config FILE]`: status-api, in the foreground."""

from __future__ import annotations

import sys

from baa import process
from baa.status_api import daemon

if __name__ == "__main__":
    sys.exit(process.main("status-api", daemon.run))
