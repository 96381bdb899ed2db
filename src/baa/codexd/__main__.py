"""`python -m baa.codexd [--config FILE]`: codexd alone, in the foreground."""

from __future__ import annotations

import sys
from typing import Final

from baa import process
from baa.codexd import daemon, ending

END_LEFTOVERS: Final = process.Errand(
    "--end-leftovers", "end what a codexd that died left running here, and start none", ending.end_leftovers
)

if __name__ == "__main__":
    sys.exit(process.main("codexd", daemon.run, errand=END_LEFTOVERS))
