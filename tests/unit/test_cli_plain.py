"""What came from a model cannot act on a terminal."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baa.cli.plain import ACTING, json_line, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text,\n\ttwo lines", "plain text,\n\ttwo lines"),
        ("été 漢字 🐑 שלום", "été 漢字 🐑 שלום"),
        ("👩\u200d🌾 क्\u200cष", "👩\u200d🌾 क्\u200cष"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x1b]52;c;cm0gLXJm\x1b\\", "\\x1b]52;c;cm0gLXJm\\x1b\\"),
        ("\x9b2J\x9d0;x\x9c", "\\x9b2J\\x9d0;x\\x9c"),
        ("over\rwritten\b\x7f", "over\\x0dwritten\\x08\\x7f"),
        ("dos\r\nlines\r\n", "dos\nlines\n"),
        ("access \u202etxt.exe\u2066", "access \\u202etxt.exe\\u2066"),
        ("tags \U000e0041\U000e007f", "tags \\U000e0041\\U000e007f"),
        ("\u2028\u2029\ufeff\u00ad", "\\u2028\\u2029\\ufeff\\xad"),
        ("half \ud83d", "half \\ud83d"),
        ("\0\x0e\x85", "\\x00\\x0e\\x85"),
    ],
)
def test_what_would_act_is_written_out(text: str, shown: str) -> None:
    assert plain(text) == shown


@given(st.text())
def test_nothing_is_left_that_acts(text: str) -> None:
    left = {character for character in plain(text) if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert left <= set("\n\t\u200c\u200d")


@given(st.text(st.characters(exclude_categories=("C", "Z"))))
def test_what_only_shows_stays_as_it_is(text: str) -> None:
    assert plain(text) == text


@pytest.mark.parametrize("category", sorted(ACTING))
def test_json_of_a_model_is_json_and_acts_nowhere(category: str) -> None:
    acting = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) == category]
    sent = {"text": "".join(each for each in acting if not "\ud800" <= each <= "\udfff"), "umlaut": "ä"}
    line = json_line(sent)
    assert json.loads(line) == sent
    assert line.isascii()
    assert line.isprintable()
