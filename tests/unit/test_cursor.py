"""A cursor is used on the log that it came from and nowhere else: no empty page, no silent jump."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baa.api.errors import Code, Rejected
from baa.api.events import Cursor, parse_cursor

# A log that holds the events 5 to 9.
LOG = {"epoch": "abc", "oldest": "abc:4", "head": "abc:9"}


def parse(text: str) -> Cursor:
    return parse_cursor(text, epoch="abc", oldest=5, head=9)


@pytest.mark.parametrize(
    ("text", "seq"),
    [("0", 4), ("abc:4", 4), ("abc:5", 5), ("abc:9", 9), ("abc:009", 9)],
)
def test_a_cursor_of_the_log_is_a_place_in_it(text: str, seq: int) -> None:
    assert parse(text) == Cursor("abc", seq)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("abc:3", Code.CURSOR_EXPIRED),
        ("abc:0", Code.CURSOR_EXPIRED),
        ("old:7", Code.CURSOR_EXPIRED),
        ("old:99", Code.CURSOR_EXPIRED),
        ("ABC:7", Code.CURSOR_EXPIRED),
        ("a:bc:7", Code.CURSOR_EXPIRED),
        ("abc:10", Code.CURSOR_AHEAD),
        ("abc:999999999999999999", Code.CURSOR_AHEAD),
    ],
)
def test_any_other_place_is_refused_and_the_log_says_where_it_stands(text: str, code: Code) -> None:
    with pytest.raises(Rejected) as caught:
        parse(text)

    assert (caught.value.code, caught.value.details) == (code, {"oldest": LOG["oldest"], "head": LOG["head"]})


@pytest.mark.parametrize(
    "text",
    ["", "7", ":7", "abc:", "abc", "abc:-1", "abc:+7", "abc: 7", "abc:7 ", "abc:7.0", "abc:\u0667", "abc:²", "abc:0x7",
     "abc:1_0", "00", "abc:" + "1" * 19],
)  # fmt: skip
def test_what_is_no_cursor_is_an_invalid_request(text: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse(text)

    assert caught.value.code is Code.INVALID_REQUEST


@given(st.from_regex(r"[a-z0-9]{1,12}", fullmatch=True), st.integers(0, 10**17))
def test_a_cursor_survives_its_wire_form(epoch: str, seq: int) -> None:
    assert parse_cursor(str(Cursor(epoch, seq)), epoch=epoch, oldest=1, head=10**18) == Cursor(epoch, seq)


def test_the_cursor_of_an_empty_log_is_its_beginning() -> None:
    assert parse_cursor("0", epoch="abc", oldest=1, head=0) == parse_cursor("abc:0", epoch="abc", oldest=1, head=0)
