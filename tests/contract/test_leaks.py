"""Planted secrets are found nowhere: in no file of ours, no answer, no frame, no log and on no terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proof.leaks import leaks

pytestmark = pytest.mark.timeout(240)


async def test_no_planted_secret_is_found_anywhere(tmp_path: Path) -> None:
    """With three kinds of secrets, our tokens and a login; `make proof` does it with every kind."""
    found, looked = await leaks(tmp_path, seed=1, kinds=3)
    assert found == []
    assert looked > 100
