"""Many small worlds in which codexd, its keeper and Codex die at any moment (tests/support/world.py).

Each must come to rest, with every turn ended once, every delta told once, and nothing done twice. A world that fails is
had again by its number; BAA_SIM_SEEDS=1000 tries more of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.judge import judge
from tests.support.world import World

SEEDS = int(os.environ.get("BAA_SIM_SEEDS", "40"))


@pytest.mark.parametrize("seed", range(1000, 1000 + SEEDS))
async def test_whatever_dies_nothing_is_lost_or_done_twice(seed: int, tmp_path: Path) -> None:
    world = World(seed, tmp_path)
    await world.run(lives=10, steps=300)

    judge(world)
