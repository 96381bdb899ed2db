"""Lines and envelopes: however the bytes arrive, the same lines; whatever a line holds, a value."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from baa.codexd.appserver import jsonrpc
from baa.codexd.appserver.jsonrpc import LINE_MAX, NESTED_MAX, SAMPLE_MAX, Envelope, LineSplitter, Unreadable, decode

STREAM = b'{"id":1}\n\n{"method":"x","params":{"text":"\xc3\xa9"}}\r\n[]\n{"half":'
LINES = [b'{"id":1}', b"", b'{"method":"x","params":{"text":"\xc3\xa9"}}\r', b"[]"]


# --- the stream


def split(*pieces: bytes) -> tuple[list[bytes], LineSplitter]:
    splitter = LineSplitter()
    return [line for piece in pieces for line in splitter.feed(piece)], splitter


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_a_stream_cut_at_any_byte_gives_the_same_lines(cut: int) -> None:
    lines, splitter = split(STREAM[:cut], STREAM[cut:])

    assert lines == LINES
    assert (splitter.consumed, splitter.pending) == (len(STREAM) - 8, 8)


def test_a_stream_that_comes_byte_by_byte_gives_the_same_lines() -> None:
    lines, splitter = split(*(STREAM[at : at + 1] for at in range(len(STREAM))))

    assert lines == LINES
    assert (splitter.consumed, splitter.pending) == (len(STREAM) - 8, 8)


@given(st.lists(st.binary(max_size=20)), st.binary(max_size=20), st.lists(st.integers(0, 400)))
def test_any_lines_cut_anywhere_come_out_whole(lines: list[bytes], rest: bytes, cuts: list[int]) -> None:
    lines, rest = [line.replace(b"\n", b"") for line in lines], rest.replace(b"\n", b"")
    stream = b"".join(line + b"\n" for line in lines) + rest
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[start:end] for start, end in pairwise(places)]

    given_out, splitter = split(*pieces)

    assert given_out == lines
    assert (splitter.consumed, splitter.pending) == (len(stream) - len(rest), len(rest))


@given(st.lists(st.binary(max_size=20)), st.integers(0, 100))
def test_a_reader_that_comes_back_at_consumed_goes_on_with_the_very_next_line(pieces: list[bytes], left: int) -> None:
    lines, splitter = split(*pieces[:left])
    stream = b"".join(pieces)

    again, _ = split(stream[splitter.consumed :])

    assert lines + again == stream.split(b"\n")[:-1]


def long_line(pieces: int, size: int = LINE_MAX // 2) -> Iterator[bytes]:
    yield from (b"x" * size for _ in range(pieces))


def test_a_line_of_the_limit_is_given_out() -> None:
    lines, splitter = split(*long_line(2), b"\nnext\n")

    assert [len(line) for line in lines] == [LINE_MAX, 4]
    assert (splitter.oversize, splitter.consumed) == (0, LINE_MAX + 6)


@pytest.mark.parametrize("ending", [(b"\nnext\n",), (b"", b"\n", b"next\n"), (b"x" * 9, b"xx\nnex", b"t\n")])
def test_a_line_past_the_limit_is_skipped_to_its_end_and_counted_once(ending: tuple[bytes, ...]) -> None:
    lines, splitter = split(b"first\n", *long_line(5), *ending)

    assert lines == [b"first", b"next"]
    assert (splitter.oversize, splitter.pending) == (1, 0)
    assert splitter.consumed == 6 + 5 * (LINE_MAX // 2) + sum(map(len, ending))


def test_what_is_skipped_counts_as_consumed_at_once_so_that_nobody_reads_it_again() -> None:
    _, splitter = split(*long_line(3))

    assert (splitter.consumed, splitter.pending) == (3 * (LINE_MAX // 2), 0)


def test_two_lines_past_the_limit_are_two() -> None:
    lines, splitter = split(*long_line(3), b"\n", *long_line(3), b"\nok\n")

    assert (lines, splitter.oversize) == ([b"ok"], 2)


# --- the message in a line


@pytest.mark.parametrize(
    ("line", "envelope"),
    [
        (b'{"id":"a:b:1","method":"m","params":{"x":1}}', Envelope("a:b:1", "m", Raw(b'{"x":1}'))),
        (b'{"id":0,"method":"m"}', Envelope(0, "m")),
        (b'{"method":"m","emittedAtMs":5}', Envelope(method="m", emitted_at_ms=5)),
        (b'{"method":"m","emittedAtMs":null}', Envelope(method="m")),
        (b'{"id":-1,"result":null}', Envelope(-1, result=Raw(b"null"))),
        (b'{"id":1,"result":[1, 2]}', Envelope(1, result=Raw(b"[1, 2]"))),
        (b'{"id":1,"error":{"code":-32600}}', Envelope(1, error={"code": -32600})),
        (b'{"jsonrpc":"2.0","id":1,"result":{},"unknown":[{}]}', Envelope(1, result=Raw(b"{}"))),
        (b'{"id":1,"id":2,"method":"a","method":"b"}', Envelope(2, "b")),
        (b'  {"method":"m"}\r', Envelope(method="m")),
        (b'{"method":"\xc3\xa9\\ud83d\\ude00"}', Envelope(method="é😀")),
        (b"{}", Envelope()),
    ],
)
def test_a_message_is_taken_apart_no_further_than_its_envelope(line: bytes, envelope: Envelope) -> None:
    assert decode(line) == envelope


UNREADABLE = {
    "nothing": b"",
    "blank": b"  \r",
    "garbage": b"thread 'main' panicked at src/main.rs",
    "a terminal's colours": b"\x1b[31mwarning\x1b[0m",
    "an array": b'[{"id":1}]',
    "null": b"null",
    "a string": b'"x"',
    "a half": b'{"method":"m","params":{"x":',
    "two": b'{"method":"m"}{"method":"m"}',
    "a byte order mark": b'\xef\xbb\xbf{"method":"m"}',
    "UTF-16": '{"method":"m"}'.encode("utf-16"),
    "NUL": b'{"method":"m\x00"}',
    "a raw control character": b'{"method":"m","params":{"x":"\x01"}}',
    "invalid UTF-8 in the envelope": b'{"method":"\xff"}',
    "invalid UTF-8 in the parameters": b'{"method":"m","params":{"x":"\xff"}}',
    "an overlong encoding": b'{"method":"m","params":{"x":"\xc0\x80"}}',
    "an encoded surrogate": b'{"method":"m","params":{"x":"\xed\xa0\x80"}}',
    "a lone surrogate": b'{"method":"m","params":{"x":"\\ud800 and more"}}',
    "the other surrogate": b'{"method":"m","params":{"x":"\\udc00"}}',
    "NaN": b'{"method":"m","params":{"x":NaN}}',
    "Infinity": b'{"method":"m","params":{"x":-Infinity}}',
    "single quotes": b"{'method':'m'}",
    "a comma too many": b'{"method":"m",}',
    "a huge id": b'{"id":' + b"9" * 5000 + b',"result":{}}',
    "a huge number in an error": b'{"id":1,"error":{"code":' + b"9" * 5000 + b"}}",
    "an id that is true": b'{"id":true,"result":{}}',
    "an id that is null": b'{"id":null,"result":{}}',
    "an id with a fraction": b'{"id":1.5,"result":{}}',
    "an error that is a word": b'{"id":1,"error":"no"}',
    "a method that is a number": b'{"method":7}',
    "a time before 1970": b'{"method":"m","emittedAtMs":-1}',
    "a time after 9999": b'{"method":"m","emittedAtMs":253402300800000}',
    "a time with a fraction": b'{"method":"m","emittedAtMs":1.5}',
    "a deep array": b'{"method":"m","params":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"method":"m","params":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "a deep half": b'{"method":"m","params":' + b"[" * 100_000,
}


@pytest.mark.parametrize("line", UNREADABLE.values(), ids=list(UNREADABLE))
def test_what_is_no_message_is_a_value_that_tells_why(line: bytes) -> None:
    told = decode(line)

    assert isinstance(told, Unreadable)
    assert told.why
    assert told.sample == line[:SAMPLE_MAX].decode("utf-8", "replace")
    assert msgspec.json.decode(msgspec.json.encode(told))["sample"] == told.sample


def nested(depth: int, inside: bytes = b"1") -> bytes:
    """A line whose brackets go `depth` deep."""
    return b'{"method":"m","params":' + b"[" * (depth - 1) + inside + b"]" * (depth - 1) + b"}"


def test_a_line_may_nest_to_the_limit_and_no_deeper() -> None:
    assert decode(nested(NESTED_MAX)) == Envelope(method="m", params=Raw(nested(NESTED_MAX)[23:-1]))
    assert decode(nested(NESTED_MAX + 1)) == Unreadable(
        nested(NESTED_MAX + 1).decode(), f"more than {NESTED_MAX} levels of nesting"
    )


@pytest.mark.parametrize(
    "inside",
    [
        b'"' + b"[{" * 1000 + b'"',
        b'"\\"' + b"[" * 1000 + b'\\\\"',
        b"[]," * 1000 + b"1",
        b'{"}":"]","[":"{"},' * 500 + b"1",
    ],
)
def test_brackets_beside_one_another_or_in_strings_are_no_nesting(inside: bytes) -> None:
    assert isinstance(decode(nested(NESTED_MAX - 2, inside)), Envelope)
    assert isinstance(decode(nested(NESTED_MAX + 1, inside)), Unreadable)


def test_the_limit_of_nesting_lies_below_what_the_interpreter_can_take() -> None:
    assert sys.getrecursionlimit() > 2 * NESTED_MAX


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_value(line: bytes) -> None:
    assert isinstance(decode(line), Envelope | Unreadable)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_parameters_are_passed_on_byte_for_byte(params: object) -> None:
    data = msgspec.json.encode(params)

    assert decode(b'{"method":"m","params":%b}' % data) == Envelope(method="m", params=Raw(data))


# --- our own lines


@given(st.text(max_size=20), st.text(max_size=20), JSON)
def test_every_line_that_we_send_is_one_line_and_reads_back(id_: str, text: str, value: object) -> None:
    data = msgspec.json.encode(value)
    sent = {
        jsonrpc.request(id_, text, value): Envelope(id_, text, Raw(data)),
        jsonrpc.notification(text): Envelope(method=text),
        jsonrpc.answer(7, value): Envelope(7, result=Raw(data)),
        jsonrpc.refusal(id_, -32601, text): Envelope(id_, error={"code": -32601, "message": text}),
    }

    for line, envelope in sent.items():
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
        assert decode(line[:-1]) == envelope


def test_fields_that_are_not_there_are_not_sent() -> None:
    assert jsonrpc.notification("initialized") == b'{"method":"initialized"}\n'
    assert Envelope(method="initialized").params is UNSET
