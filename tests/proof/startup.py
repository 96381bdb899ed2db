"""How long the command line takes until it does something: `python -m tests.proof.startup`.

Each figure is the median of several runs, of wall time and of CPU time (which a busy machine changes less).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import Final

RUNS: Final = 15
MEASURED: Final = {
    "python -c pass": (sys.executable, "-c", "pass"),
    "import baa.client.sync": (sys.executable, "-c", "import baa.client.sync"),
    "baa --version": (sys.executable, "-m", "baa.cli", "--version"),
    "baa --help": (sys.executable, "-m", "baa.cli", "--help"),
    "baa run --help": (sys.executable, "-m", "baa.cli", "run", "--help"),
    "baa turn --help": (sys.executable, "-m", "baa.cli", "turn", "--help"),
}


def measured(command: tuple[str, ...]) -> tuple[float, float]:
    """Milliseconds of wall and of CPU time, each the median."""
    walls, cpus = [], []
    for _ in range(RUNS):
        before, began = os.times(), time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        walls.append((time.perf_counter() - began) * 1000)
        cpus.append(1000 * sum(after[2:4]) - 1000 * sum(before[2:4]))
    return statistics.median(walls), statistics.median(cpus)


def main() -> None:
    """Print a row for each."""
    print("| | wall, ms | CPU, ms |\n|---|---|---|")
    for name, command in MEASURED.items():
        wall, cpu = measured(command)
        print(f"| `{name}` | {wall:.0f} | {cpu:.0f} |")


if __name__ == "__main__":
    main()
