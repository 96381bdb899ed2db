"""The tables of turn and child: what they list happens, everything else is impossible, and the page shows just that."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from itertools import product
from typing import TypeVar

import pytest

from baa.api.sessions import TURN_ENDED, TurnRequest, TurnStatus
from baa.api.status import ChildState
from baa.codexd.machines import Impossible
from baa.codexd.machines.child import CHILD_TABLE, Child, ChildChange
from baa.codexd.machines.turn import TURN_TABLE, Item, Turn, TurnChange
from tests.support import states

State = TypeVar("State", bound=StrEnum)
Change = TypeVar("Change", bound=StrEnum)

TURN = Turn("trn_a", TurnRequest(prompt="go"), generation=3, open_items=(Item("i", "plan"),), unresolved=3)


@pytest.mark.parametrize(("status", "change"), list(product(TurnStatus, TurnChange)))
def test_a_turn_changes_as_its_table_lists_and_in_no_other_way(status: TurnStatus, change: TurnChange) -> None:
    turn = Turn("trn_a", TURN.request, status, generation=3, open_items=(Item("i", "plan"),), unresolved=3)
    listed = TURN_TABLE[status].get(change)

    if listed is None:
        with pytest.raises(Impossible, match=f"trn_a: {change} in {status}"):
            turn.change(change)
    else:
        assert turn.change(change) == Turn(
            "trn_a", TURN.request, listed, generation=3, open_items=(Item("i", "plan"),), unresolved=3
        )


@pytest.mark.parametrize(("state", "change"), list(product(ChildState, ChildChange)))
def test_the_child_changes_as_its_table_lists_and_in_no_other_way(state: ChildState, change: ChildChange) -> None:
    listed = CHILD_TABLE[state].get(change)

    if listed is None:
        with pytest.raises(Impossible, match=f"{change} in {state}"):
            Child(state, 4).change(change)
    else:
        assert Child(state, 4).change(change) == Child(listed, 4)
        assert Child(state, 4).change(change, generation=5) == Child(listed, 5)


def test_the_ends_of_a_turn_are_listed_with_nothing_after_them() -> None:
    assert {status for status, row in TURN_TABLE.items() if not row} == TURN_ENDED


def test_the_child_can_leave_every_state() -> None:
    assert all(CHILD_TABLE.values())


def test_every_state_is_listed_and_can_come_about() -> None:
    assert reachable(TURN_TABLE, TurnStatus.QUEUED) == set(TURN_TABLE) == set(TurnStatus)
    assert reachable(CHILD_TABLE, ChildState.STOPPED) == set(CHILD_TABLE) == set(ChildState)


def test_every_change_is_listed_somewhere() -> None:
    assert {change for row in TURN_TABLE.values() for change in row} == set(TurnChange)
    assert {change for row in CHILD_TABLE.values() for change in row} == set(ChildChange)


def test_from_every_state_a_turn_can_still_end_and_the_child_can_still_stop() -> None:
    assert all(reachable(TURN_TABLE, status) & TURN_ENDED for status in TurnStatus)
    assert all(ChildState.STOPPED in reachable(CHILD_TABLE, state) for state in ChildState)


def reachable(table: Mapping[State, Mapping[Change, State]], start: State) -> set[State]:
    found, new = set[State](), {start}
    while new:
        found |= new
        new = {after for state in new for after in table[state].values()} - found
    return found


@pytest.mark.parametrize("state", ChildState)
def test_only_a_ready_child_is_handed_turns_and_only_a_hopeless_one_refuses_them(state: ChildState) -> None:
    child = Child(state, 1)

    assert child.ready is (state is ChildState.READY)
    assert child.refuses_turns is (state in {ChildState.CRASH_LOOP, ChildState.UNAVAILABLE})


def test_the_page_of_states_shows_the_tables() -> None:
    assert states.PAGE.read_text() == states.page(), "run `python -m tests.support.states`"
