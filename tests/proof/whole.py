"""The whole proof: every part after the other, in view, within its time; then the figures, or the few lines of them.

    python -m tests.proof.whole --seed 7 --lines

The parts are programs of their own: the order of system calls, the crash loop, the machine of all that clients and
killers may do, bad input, and the catalogue of faults. Exit code 1 if a figure is not what it must be, or a part came
to no end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.proof.figures import Figure, told

ROOT: Final = Path(__file__).parents[2]
PYTHON: Final = (sys.executable, "-m")
PART_S: Final = 480.0
INPUTS_S: Final = 1800.0
EXAMPLES, STEPS = 12, 25


def part(
    name: str, *arguments: str, seconds: float = PART_S, environment: dict[str, str] | None = None
) -> tuple[int | None, str]:
    """Run it; its exit code, None if it took too long, and what it said on stdout."""
    print(f"\n=== {name}", file=sys.stderr, flush=True)
    began = time.monotonic()
    process = subprocess.Popen(
        [*PYTHON, *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=seconds)
        code: int | None = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        said, code = process.communicate()[0], None
    print(f"=== {name}: exit code {code} after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return code, said


def figures_of(name: str, *arguments: str, seconds: float = PART_S) -> list[Figure]:
    """What a part of ours measured; a figure that does not hold if it measured nothing."""
    code, said = part(name, *arguments, "--json", seconds=seconds)
    try:
        return [
            Figure(**{key: value for key, value in figure.items() if key != "holds"}) for figure in json.loads(said)
        ]
    except ValueError:
        return [Figure(f"{name}_came_to_its_end", 0, f"exit code {code}", 1, must=1)]


def machine(seed: int) -> Figure:
    """The machine of hypothesis, for longer than in CI."""
    more = {"BAA_TEST_SEED": str(seed), "BAA_MACHINE_EXAMPLES": str(EXAMPLES), "BAA_MACHINE_STEPS": str(STEPS)}
    code, said = part(
        "machine", "pytest", "-q", "-p", "no:cacheprovider", "-s", "tests/proof/test_machine.py", environment=more
    )
    print(said, file=sys.stderr, flush=True)
    return Figure("machine_flaws", 0 if code == 0 else 1, "flaws", EXAMPLES, seed, must=0)


def lines(figures: list[Figure]) -> str:
    """The lines that say it all, and whatever does not hold."""
    by = {figure.name: figure for figure in figures}
    none = Figure("", 0, "", 0)
    survived, lost, early, orphans = (
        by.get(name, none) for name in ("faults_survived", "events_lost", "acks_before_fsync", "orphans")
    )
    kills = sum(by.get(f"kills_of_{what}", none).value for what in ("codexd", "child", "keeper"))
    failed, crashes, leaks = (by.get(f"bad_inputs_{what}", none) for what in ("5xx", "crashes", "leaks"))
    bad = f"5xx {failed.value:g}, crashes {crashes.value:g}, leaks {leaks.value:g}"
    cells, mutants = by.get("guard_cells_wrong", none), by.get("guard_mutants_alive", none)
    secrets = by.get("leaks", none)
    p50, p99 = by.get("recovery_p50", none), by.get("recovery_p99", none)
    return "\n".join(
        [
            f"faults survived   {survived.value:g}/{survived.n}",
            f"events lost       {lost.value:g} of {lost.n:,} over {kills:g} kills (seed {lost.seed})",
            f"acks before fsync {early.value:g} of {early.n:,}",
            f"orphans           {orphans.value:g} after {orphans.n} kills",
            f"recovery p50/p99  {p50.value:.2f}/{p99.value:.2f} s of {p50.n} starts",
            f"bad inputs        {failed.n:,} tried: {bad}",
            f"guard cells       {cells.n - int(cells.value)}/{cells.n}",
            f"mutants killed    {mutants.n - int(mutants.value)}/{mutants.n}",
            f"secrets leaked    {secrets.value:g} of {secrets.n:,} that were planted and looked for",
            *(f"does not hold: {figure}" for figure in figures if not figure.holds),
        ]
    )


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how often codexd is killed (200)")
    parser.add_argument(
        "--acks", type=int, default=1000, help="how many acknowledgements are held against syncs (1000)"
    )
    parser.add_argument("--examples", type=int, default=1000, help="of bad input to each operation (1000)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of all that chance decides")
    parser.add_argument("--lines", action="store_true", help="a few lines instead of every figure")
    given = parser.parse_args()
    figures = [
        *figures_of("guard", "tests.proof.guarded", "--seed", str(given.seed)),
        *figures_of("order", "tests.proof.order", "--acks", str(given.acks)),
        *figures_of("crashloop", "tests.proof.crashloop", "--kills", str(given.kills), "--seed", str(given.seed)),
        machine(given.seed),
        *figures_of(
            "inputs",
            "tests.proof.inputs",
            "--examples",
            str(given.examples),
            "--seed",
            str(given.seed),
            seconds=INPUTS_S,
        ),
        *figures_of("leaks", "tests.proof.leaks", "--seed", str(given.seed)),
        *figures_of("faults", "tests.proof.survived"),
    ]
    print(lines(figures) if given.lines else told(figures, as_json=False))
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
