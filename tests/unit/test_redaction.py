"""Secrets in texts: found whatever stands around them and however they are cut; and what is none is left alone."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from baa.redaction import (
    CONTEXT,
    FRESH,
    HEAD_MAX,
    REDACTED,
    SHAPES,
    SHOWN_MAX,
    Redactor,
    Tail,
    in_document,
    in_environment,
)
from tests.support.planted import Planted, core

PLANTED = Planted(7)
SHAPED = PLANTED.shaped
KNOWN = ("correct-horse-battery-staple", 'pa"ss\\wo/rd\n1', "größe-ist-geheim", PLANTED.named, "12345678")
REDACTOR = Redactor(KNOWN)
EVERY = {**SHAPED, **{f"known {number}": secret for number, secret in enumerate(KNOWN)}}

AROUND = {
    "nothing": ("", ""),
    "words": ("the key is ", " and that was it."),
    "a variable": ("OPENAI_API_KEY=", "\nPATH=/bin"),
    "quotes": ('{"token": "', '", "more": 1}'),
    "JSON in a text": ('{\\"token\\": \\"', '\\"}'),
    "an escaped line end": ("first\\n", "\\nlast"),
    "an address": ("https://example.com/?key=", "&x=1"),
    "itself": (f"{PLANTED.named} ", f" {PLANTED.named}"),
}


def joined(pieces: list[str], redactor: Redactor = REDACTOR) -> str:
    """What is told of a text that comes in these pieces."""
    told, tail = [], FRESH
    for piece in pieces:
        shown, tail = redactor.piece(tail, piece)
        told.append(shown)
    return "".join([*told, redactor.rest(tail)])


def leaks(secret: str, told: str) -> bool:
    """Whether more of a secret is told than its beginning."""
    return secret in told or core(secret) in told


@pytest.mark.parametrize("around", AROUND.values(), ids=list(AROUND))
@pytest.mark.parametrize("secret", EVERY.values(), ids=list(EVERY))
def test_a_secret_is_not_told_and_what_stands_around_it_is(secret: str, around: tuple[str, str]) -> None:
    before, after = around
    told = REDACTOR.text(f"{before}{secret}{after}")
    assert not leaks(secret, told)
    assert REDACTED in told
    if PLANTED.named not in before:
        assert told.startswith(before)
        assert told.endswith(after)


@pytest.mark.parametrize("secret", EVERY.values(), ids=list(EVERY))
def test_a_secret_is_not_told_at_whatever_place_its_text_is_cut(secret: str) -> None:
    text = f"the key is {secret}\nand that was it."
    whole = REDACTOR.text(text)
    for cut in range(len(text) + 1):
        told = joined([text[:cut], text[cut:]])
        assert not leaks(secret, told), cut
        assert told.endswith("\nand that was it."), cut
        assert len(told) <= len(whole) + len(secret) // 8 + 1, cut


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 16, 50])
@pytest.mark.parametrize("secret", EVERY.values(), ids=list(EVERY))
def test_a_secret_is_not_told_in_pieces_of_any_size(secret: str, size: int) -> None:
    text = f"{secret} is the key, once more: {secret}"
    told = joined([text[at : at + size] for at in range(0, len(text), size)])
    assert not leaks(secret, told)
    assert " is the key, once more: " in told


@given(st.lists(st.one_of(st.text(max_size=20), st.sampled_from(sorted(EVERY.values()))), max_size=6), st.data())
def test_however_a_text_is_cut_no_secret_is_told(parts: list[str], data: st.DataObject) -> None:
    text = " ".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    told = joined([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)])
    whole = REDACTOR.text(text)
    for secret in EVERY.values():
        assert secret not in told
        assert secret not in whole


@given(st.text(alphabet='abk s-_.\n"\\19ghpoey=JBear'))
def test_what_holds_no_secret_is_told_as_it_is(text: str) -> None:
    redactor = Redactor(())
    if REDACTED not in redactor.text(text):
        for size in (1, 3, 8):
            assert joined([text[at : at + size] for at in range(0, len(text), size)], redactor) == text


HARMLESS = (
    "the task-force-management-2024 branch",
    "pip install sk-learn-compatible-estimators",
    "sk-short1",
    "desk-98765432109876543210987",
    "a Bearer authentication-is-required header",
    "Bearer of good news, and more of them",
    'if line == "-----BEGIN RSA PRIVATE KEY-----":',
    "-----BEGIN CERTIFICATE-----\nMIIBkTCB+wIJAK\n-----END CERTIFICATE-----",
    "eyJhbGciOiJIUzI1NiJ9 is a header alone",
    "AKIA is how they begin, AKIATOOSHORT",
    "github_pat_ and ghp_ and xoxb- are prefixes",
    "donkey = monkey",
)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_one_is_told_also_in_pieces(text: str) -> None:
    assert REDACTOR.text(text) == text
    for size in (1, 4, 11):
        assert joined([text[at : at + size] for at in range(0, len(text), size)]) == text


@given(
    st.lists(st.text("sk-abcdefghijABC 0") | st.sampled_from(["ghp_", "eyJ", "-----BEGIN ", PLANTED.named]), max_size=8)
)
def test_a_text_that_may_be_told_as_it_is_stands_where_it_stands_piece_by_piece(parts: list[str]) -> None:
    tail, told = FRESH, ""
    plain: Tail | None = FRESH
    for part in parts:
        plain = None if plain is None else REDACTOR.plain(plain, part)
        piece, tail = REDACTOR.piece(tail, part)
        told += piece
    at_once = REDACTOR.plain(FRESH, "".join(parts))
    if at_once is not None:
        assert (told, tail) == ("".join(parts), at_once)
        assert plain == at_once


def test_no_more_is_held_back_than_what_may_begin_a_secret() -> None:
    redactor = Redactor(["correct-horse-battery-staple"])
    tail = FRESH
    for piece, shown in (("It is corr", "It is "), ("ect", ""), ("ly spelled. sk-", "correctly spelled. sk-")):
        told, tail = redactor.piece(tail, piece)
        assert told == shown
    told, tail = redactor.piece(tail, "abc")
    assert (told, redactor.rest(tail)) == ("", "abc")


def test_of_a_known_secret_an_eighth_may_be_told_before_more_of_it_comes() -> None:
    secret = "x" + "y" * 39 + "z"
    told = joined(list(secret), Redactor([secret]))
    assert told == f"xyyyy{REDACTED}"


def test_a_secret_that_another_begins_with_is_waited_for() -> None:
    redactor = Redactor(["password", "password-and-more"])
    for pieces in (["password", "-and-more"], ["pass", "word-", "and-more"]):
        assert "more" not in joined(pieces, redactor)
    assert joined(["password", "-and-less"], redactor) == f"{REDACTED}-and-less"


def test_short_values_are_no_known_secrets() -> None:
    assert Redactor(["false", "1234567", ""]).known == frozenset()


def test_known_secrets_show_in_no_repr() -> None:
    assert PLANTED.named not in repr(REDACTOR)


# --- in values, and in JSON


@pytest.mark.parametrize("secret", EVERY.values(), ids=list(EVERY))
def test_a_secret_in_json_is_suspected_and_goes_however_it_is_escaped(secret: str) -> None:
    value = {"text": secret, "nested": [{"arguments": msgspec.json.encode({"k": secret}).decode()}], secret: 1}
    encoded = msgspec.json.encode(value)
    for written in (encoded, encoded.replace(b"/", b"\\/")):
        assert REDACTOR.suspects(written)
        told = bytes(REDACTOR.value(Raw(written)))
        assert not leaks(secret, repr(msgspec.json.decode(told)))


def test_needlessly_escaped_letters_hide_nothing() -> None:
    written = b'{"text":"\\u0063orrect-horse-battery-stapl\\u0065"}'
    assert REDACTOR.suspects(written)
    assert bytes(REDACTOR.value(Raw(written))) == b'{"text":"[redacted]"}'


def test_numbers_and_all_else_in_json_stay_byte_for_byte() -> None:
    written = (
        b'{ "at" : 12345678, "big":123456789012345678901234567890, "text":"12345678","x":1e999, "same":"\\u00e9" }'
    )
    told = bytes(REDACTOR.value(Raw(written)))
    assert told == written.replace(b'"12345678"', b'"[redacted]"')


def test_a_value_without_secrets_is_the_value_itself() -> None:
    for value in (Raw(b'{"a":[1,"b"]}'), {"a": ["b", ("c",)]}, "text", 1, None):
        assert REDACTOR.value(value) is value


# --- which are known


def test_variables_are_secrets_by_their_name() -> None:
    environ = {
        "GITHUB_TOKEN": "a-token-of-github",
        "OPENAI_API_KEY": "a-key-of-openai",
        "AWS_SECRET_ACCESS_KEY": "a-key-of-aws",
        "DB_PASSWORD": "a-password",
        "MY_SECRET": "a-secret",
        "npm_config_authToken": "a-token-of-npm",
        "SSH_KEY": "/etc/keys/id",
        "PATH": "/usr/local/bin:/usr/bin",
        "MONKEY": "just-an-animal",
        "KEYBOARD": "de-latin1-nodeadkeys",
        "ENGINE_URL": "postgresql://user:pass%2Fword-1@localhost/db",
        "BAD_URL": "http://[user:x@",
    }
    wanted = {"a-token-of-github", "a-key-of-openai", "a-key-of-aws", "a-password", "a-secret", "a-token-of-npm"}
    assert in_environment(environ) == wanted | {"pass/word-1"}


def test_texts_of_a_login_are_secrets_by_the_names_they_stand_under() -> None:
    login = {
        "auth_mode": "chatgpt",
        "OPENAI_API_KEY": None,
        "tokens": {"id_token": "one", "access_token": "two", "refresh_token": "three", "account_id": "four"},
        "servers": [{"clientSecret": "five"}],
        "last_refresh": "2026-11-26T00:00:00Z",
    }
    assert in_document(login) == {"one", "two", "three", "five"}


def test_no_beginning_of_a_secret_is_longer_than_what_is_looked_back_for() -> None:
    assert max(len(shape.head) for shape in SHAPES) == HEAD_MAX < CONTEXT - 1
    assert SHOWN_MAX < HEAD_MAX
