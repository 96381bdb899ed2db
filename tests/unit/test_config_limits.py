"""Numbers of the configuration that cannot be."""

from __future__ import annotations

import pytest

from baa.api.errors import CannotStart
from baa.config import load

HOME = {"BAA_HOME": "/somewhere"}


@pytest.mark.parametrize("name", ["BAA_CODEXD_ORPHAN_MS", "BAA_CODEXD_DRAIN_MS", "BAA_CODEXD_IDLE_MS"])
def test_a_time_must_not_be_negative(name: str) -> None:
    load(environ=HOME | {name: "0"})
    with pytest.raises(CannotStart, match="0 or more"):
        load(environ=HOME | {name: "-1"})


@pytest.mark.parametrize("name", ["BAA_CODEXD_CHILD_SOFT_MIB", "BAA_CODEXD_CHILD_HARD_MIB"])
def test_a_limit_of_memory_must_not_be_negative(name: str) -> None:
    with pytest.raises(CannotStart, match="0 \\(no limit\\) or more"):
        load(environ=HOME | {name: "-1"})


def test_somebody_must_be_able_to_connect() -> None:
    with pytest.raises(CannotStart, match="connections must be 1 or more"):
        load(environ=HOME | {"BAA_CODEXD_CONNECTIONS": "0"})


@pytest.mark.parametrize("name", ["BAA_CODEXD_WATCH_MS", "BAA_CODEXD_ANSWER_MS"])
def test_the_child_is_always_watched(name: str) -> None:
    with pytest.raises(CannotStart, match="watch_ms and answer_ms are milliseconds: 1 or more"):
        load(environ=HOME | {name: "0"})
