"""The two shapes of an answer, and the strict way in: what is not exactly our JSON is refused."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baa.api.errors import BaaError, Code, Rejected, Unavailable
from baa.http.envelope import decode, failure, failure_headers, success
from tests.support.faults import saw


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Lid(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    hinge_count: int = 0


class Box(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    box_name: str
    size: int = 0
    weight: float = 0.0
    colour: Colour | None = None
    lid: Lid | None = None
    parts: list[Lid] = []
    labels: dict[str, str] = {}
    anything: Any = None


def refusal(body: bytes) -> Rejected:
    with pytest.raises(Rejected) as caught:
        decode(body, Box)
    return caught.value


def test_a_success_is_ok_and_data() -> None:
    assert json.loads(success({"box": Box(box_name="b")}))["data"]["box"]["boxName"] == "b"
    assert success({"n": 1}) == b'{"ok":true,"data":{"n":1}}'


def test_a_failure_is_not_ok_and_tells_code_message_and_details() -> None:
    error = Rejected(Code.TURN_ENDED, "The turn has ended. Start another.", details={"status": "failed"})

    assert json.loads(failure(error)) == {
        "ok": False,
        "error": {
            "code": "turn_ended",
            "message": "The turn has ended. Start another.",
            "details": {"status": "failed"},
        },
    }
    assert failure_headers(error) == {}


def test_a_failure_that_may_pass_says_when_in_whole_seconds_and_in_ms() -> None:
    error = Unavailable(Code.CHILD_UNAVAILABLE, "Codex does not run. Try again.", retry_after_ms=1001)

    assert failure_headers(error) == {"retry-after": "2"}
    assert json.loads(failure(error))["error"]["details"] == {"retryAfterMs": 1001}


def test_good_json_becomes_the_type() -> None:
    body = (
        b'{"boxName":"\\u00e9\\ud83d\\ude00","size":9223372036854775807,"lid":{"hingeCount":2},'
        b'"colour":"red","labels":{"a":"b"}}'
    )

    assert decode(body, Box) == Box(
        box_name="é😀", size=2**63 - 1, lid=Lid(hinge_count=2), colour=Colour.RED, labels={"a": "b"}
    )


def nested(depth: int) -> bytes:
    """A body whose containers are nested `depth` deep, the outermost object counted."""
    return b'{"boxName":"b","anything":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b'{"boxName":"b"',
        b'{"boxName":"b"} ,',
        b"\xef\xbb\xbf{}",
        b'{"boxName":"\xff"}',
        b'{"boxName":"\xed\xa0\x80"}',
        '{"boxName":"b"}'.encode("utf-16"),
        b'{"boxName":"a\nb"}',
        b'{"boxName":"b","boxName":"c"}',
        b'{"boxName":"b","anything":{"k":1,"k":1}}',
        b'{"boxName":"b","weight":NaN}',
        b'{"boxName":"b","weight":-Infinity}',
        b'{"boxName":"b","weight":1e999}',
        b'{"boxName":"b","size":9223372036854775808}',
        b'{"boxName":"b","size":-9223372036854775809}',
        b'{"boxName":"b","size":' + b"9" * 100_000 + b"}",
        b'{"boxName":"b","anything":' + b"[1,2]," * 5 + b"}",
        b'{"boxName":"b","anything":[' + b"0," * 10_000 + b"0]}",
        nested(33),
        b'{"boxName":"b","size":-' + b"9" * 5000 + b"}",
        b'{"boxName":"b","weight":' + b"9" * 400 + b".0}",
        b'{"boxName":"b","size":1.0e400}',
        nested(100_000),
        b"[" * 500_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda body: f"{len(body)}-{body[:30]!r}",
)
def test_what_is_not_our_json_is_invalid_json(body: bytes) -> None:
    error = refusal(body)

    assert (error.status, error.code) == (400, Code.INVALID_JSON)
    saw("F81", error.status == 400, "a body was no JSON of ours")
    saw("F82", error.status == 400, "or a number, or a depth, beyond what is taken")


@pytest.mark.parametrize("size", [2**53, 2**53 + 1, 2**63 - 1, -(2**63)])
def test_an_integer_of_64_bits_is_that_very_number(size: int) -> None:
    assert decode(b'{"boxName":"b","size":%d}' % size, Box).size == size


@pytest.mark.parametrize("more", [0, 1])
def test_values_are_counted_up_to_the_limit(more: int) -> None:
    """The object and its name's value are two of them, the list is one."""
    body = b'{"boxName":"b","anything":[' + b",".join([b"0"] * (10_000 - 3 + more)) + b"]}"
    if more:
        assert refusal(body).code is Code.INVALID_JSON
    else:
        assert len(decode(body, Box).anything) == 9_997


def test_nesting_up_to_the_limit_passes() -> None:
    assert decode(nested(32), Box).box_name == "b"


@pytest.mark.parametrize("text", ["\\ud800", "\\udc00x", "\\u0000", "a\\ud83d\\u0041"])
def test_text_that_cannot_be_stored_is_an_invalid_request(text: str) -> None:
    as_value = f'{{"boxName":"{text}"}}'.encode()
    as_key = f'{{"boxName":"b","labels":{{"{text}":"x"}}}}'.encode()

    assert [(refusal(body).status, refusal(body).code) for body in (as_value, as_key)] == [
        (422, Code.INVALID_REQUEST)
    ] * 2
    saw("F83", as_key, "a text was none, as a value and as a key")


@pytest.mark.parametrize(
    ("body", "field", "allowed"),
    [
        (
            b'{"boxName":"b","env":{}}',
            "$.env",
            ["anything", "boxName", "colour", "labels", "lid", "parts", "size", "weight"],
        ),
        (b'{"boxName":"b","lid":{"hinge_count":1}}', "$.lid.hinge_count", ["hingeCount"]),
        (b'{"boxName":"b","parts":[{},{"x":1}]}', "$.parts[1].x", ["hingeCount"]),
        (b'{"boxName":"b","colour":"green"}', "$.colour", ["red", "blue"]),
        (b'{"boxName":"b","\\u001b]0;x\\u0007\\u202e":1}', "$.\\x1b]0;x\\x07\\u202e", None),
    ],
)
def test_what_is_not_known_is_named_with_what_is_allowed(body: bytes, field: str, allowed: list[str] | None) -> None:
    error = refusal(body)

    assert (error.status, error.code, error.details["field"]) == (422, Code.INVALID_REQUEST, field)
    assert field in error.message
    assert allowed is None or error.details["allowed"] == allowed


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{}", "Object missing required field `boxName` at $."),
        (b"[]", "Expected `object`, got `array` at $."),
        (b'{"boxName":1}', "Expected `str`, got `int` at $.boxName."),
        (b'{"boxName":"b","lid":{"hingeCount":true}}', "Expected `int`, got `bool` at $.lid.hingeCount."),
    ],
)
def test_what_does_not_fit_is_named(body: bytes, message: str) -> None:
    error = refusal(body)

    assert (error.status, error.code, error.message) == (422, Code.INVALID_REQUEST, message)


def test_a_refusal_quotes_little_of_a_large_request() -> None:
    body = json.dumps({"boxName": "b", "k" * 100_000: 1}).encode()

    assert len(failure(refusal(body))) < 1000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["boxName", "lid", "x"]) | st.text(), inner),
)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_decoded_or_refused(body: bytes) -> None:
    try:
        decoded = decode(body, Box)
    except BaaError as error:
        answer = failure(error)
        assert error.status in (400, 422)  # noqa: PT017  (either way out is right)
    else:
        answer = success(decoded)
    json.loads(answer)


class Loose(msgspec.Struct):
    """Takes what it does not know, so that whole values go through."""

    value: Any


@given(json_values)
def test_what_passes_is_what_was_sent(value: Any) -> None:
    body = json.dumps({"value": value}).encode()
    try:
        decoded = decode(body, Loose)
    except BaaError:
        return
    assert decoded.value == value
