"""Ids say what they name, sort by age, and are told from anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baa.api import ids
from baa.api.ids import is_id, new_id
from tests.support.faults import saw

NOW_MS = 1_795_478_562_388
GOOD = "trn_" + "0123456789abcdefghjkmnpqrs"


@pytest.mark.parametrize("prefix", [ids.SESSION, ids.TURN, ids.DAEMON, ids.KEEPER])
def test_a_new_id_is_one_of_its_own_prefix_only(prefix: str) -> None:
    made = new_id(prefix, NOW_MS)

    assert len(made) == 30
    assert [other for other in (ids.SESSION, ids.TURN, ids.DAEMON, ids.KEEPER) if is_id(made, other)] == [prefix]


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1))
def test_ids_sort_by_the_millisecond_of_their_birth(one_ms: int, other_ms: int) -> None:
    one, other = new_id(ids.TURN, one_ms), new_id(ids.TURN, other_ms)

    assert one != other
    assert one_ms == other_ms or (one < other) is (one_ms < other_ms)


def test_ids_of_one_millisecond_differ() -> None:
    assert len({new_id(ids.TURN, NOW_MS) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (GOOD, True),
        (GOOD.replace("trn", "ses"), False),
        (GOOD[:-1], False),
        (GOOD + "0", False),
        (GOOD + "\n", False),
        (GOOD.upper(), False),
        (GOOD.replace("0", "o"), False),
        (GOOD.replace("j", "i"), False),
        (GOOD.replace("m", "l"), False),
        (GOOD.replace("s", "u"), False),
        (GOOD.replace("0", "/"), False),
        (GOOD.replace("0", "\u0660"), False),
        ("trn_../../../../../../../../../", False),
        ("trn", False),
        ("trn_", False),
        ("_" + GOOD, False),
        (" " + GOOD, False),
        (GOOD + " ", False),
        ("\n" + GOOD, False),
        (GOOD + "\0", False),
        (GOOD + "\u200b", False),
        (GOOD.replace("_", "-"), False),
        (GOOD.replace("trn_", "trn__")[:30], False),
        (GOOD.replace("0", "\uff10"), False),
        (GOOD.replace("s", "\u017f"), False),
        (GOOD.replace("k", "\u212a"), False),
        (GOOD.replace("0", "%"), False),
        (GOOD.replace("0", "."), False),
        (GOOD.replace("0", "\ud800"), False),
        (GOOD + "/..", False),
        (GOOD * 400, False),
        ("", False),
    ],
)
def test_what_is_no_turn_id_is_told_from_one(text: str, good: bool) -> None:
    assert is_id(text, ids.TURN) is good
    saw("F84", True, f"an id that is one: {good}")


PREFIXES = [ids.SESSION, ids.TURN, ids.INTERACTION, ids.DAEMON, ids.KEEPER, ids.TASK]


@pytest.mark.parametrize("other", PREFIXES)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_an_id_is_one_of_its_prefix_alone(prefix: str, other: str) -> None:
    assert is_id(GOOD.replace("trn", prefix), other) is (prefix == other)


@pytest.mark.parametrize("place", range(4, 30))
def test_at_every_place_of_an_id_there_are_the_32_characters_and_no_others(place: int) -> None:
    taken = {char for char in map(chr, range(0x3000)) if is_id(GOOD[:place] + char + GOOD[place + 1 :], ids.TURN)}
    assert taken == set("0123456789abcdefghjkmnpqrstvwxyz")
