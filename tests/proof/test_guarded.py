"""The guard matrix and its mutants, a part of them at each run; `python -m tests.proof.guarded` tries all."""

from __future__ import annotations

import os
import random

import pytest

from tests.proof.guarded import cells, killed, matrix, routes_of
from tests.support.doors import PROGRAMS, tables
from tests.support.faults import saw
from tests.support.mutants import MUTANTS, Mutant

SEED = int(os.environ.get("BAA_TEST_SEED", random.randrange(2**32)))
SHARE = 0.1
EVERY = list(cells(routes_of(tables())))


async def test_every_cell_is_right() -> None:
    tried, wrong = await matrix(SEED, SHARE)
    assert wrong == [], f"seed {SEED}"
    saw("F86", tried > 1000, f"{tried} cells of the guard matrix were tried")


def test_no_route_is_left_out() -> None:
    known = tables()
    for program in PROGRAMS:
        tried = {(cell.kind, cell.method, cell.path) for cell in EVERY if cell.program == program}
        assert routes_of(known)[program] <= tried
        assert {access for *_, access in known[program]} <= {"open", "passed", "read", "drive"}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_a_guard_with_one_check_less_is_noticed(mutant: Mutant) -> None:
    gave_away = await killed(mutant, SEED, EVERY)
    assert gave_away is not None, f"seed {SEED}"
    saw("F86", gave_away, f"a guard without its check was noticed: {mutant.name}")
