"""docs/events.md against the code: every type, field, frame, reason and figure in it is there, and none is missing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import msgspec

from baa.api.events import PAYLOADS, Events, EventType, Heartbeat, Hello, Payload
from baa.codexd.appserver.translate import STREAMS
from baa.codexd.openapi import document
from baa.codexd.subscriptions import CLOSED_SLOW, HEARTBEAT_S, PARAMETERS, UNREAD_S
from baa.config_file import File
from baa.http.request import PAGE, PAGE_MAX, WAIT_MAX_MS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "events.md").read_text()
ROWS = re.findall(r"^\| `([a-z]+(?:\.[a-z_]+)?)` \| (.*?) \| (.*?) \|(?: (.*?) ?\|)?$", TEXT, re.MULTILINE)
WORD = re.compile(r"`(\w+)`")


def wire(struct: type) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(struct)}


def fields_of(text: str) -> set[str]:
    return set(WORD.findall(text))


def test_every_type_of_event_is_told_once_and_no_other() -> None:
    told = [type_ for type_, *_ in ROWS if "." in type_]
    assert sorted(told) == sorted(type_.value for type_ in EventType)


def test_every_field_of_a_payload_is_told_and_none_that_does_not_exist() -> None:
    common = wire(Payload)
    assert "`emittedAt`" in TEXT
    told: dict[type, set[str]] = {}
    for type_, _, payload, _ in ROWS:
        if "." in type_:
            struct = PAYLOADS[EventType(type_)]
            assert fields_of(payload) <= wire(struct) - common, type_
            told.setdefault(struct, set()).update(fields_of(payload))
    assert told == {struct: wire(struct) - common for struct in set(PAYLOADS.values())}


def test_what_is_always_there_is_told_at_every_type() -> None:
    for type_, _, payload, _ in ROWS:
        if "." in type_:
            struct = PAYLOADS[EventType(type_)]
            assert {f.encode_name for f in msgspec.structs.fields(struct) if f.required} <= fields_of(payload), type_


def test_every_frame_is_told_with_its_fields() -> None:
    told = {name: fields_of(fields) for name, fields, *_ in ROWS if name in ("hello", "events", "heartbeat")}
    assert told == {"hello": wire(Hello), "events": wire(Events), "heartbeat": wire(Heartbeat)}


def test_every_parameter_is_told() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| [^|]*\|$", TEXT, re.MULTILINE)
    assert {name for row in rows for name in WORD.findall(row)} == PARAMETERS


def test_every_reason_of_an_end_is_told_and_no_other() -> None:
    """What the machines and commands say as `reason` of a turn's end."""
    said: set[str] = set()
    for path in (ROOT / "src" / "baa" / "codexd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "StopWish":
                said |= _words(node.args[1])
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "end":
                said |= {word for keyword in node.keywords if keyword.arg == "reason" for word in _words(keyword.value)}
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "reason":
                said |= _words(node.value)
            elif isinstance(node, ast.Return) and node.value is not None:
                said |= {word for word in _words(node.value) if word in ("usage_limit", "child_exited")}
    paragraph = TEXT[TEXT.index("Reasons:") : TEXT.index("### Items")]
    assert fields_of(paragraph) == said


def _words(node: ast.expr) -> set[str]:
    return {
        each.value
        for each in ast.walk(node)
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and re.fullmatch(r"[a-z_]+", each.value)
    }


def test_every_stream_of_a_delta_is_told() -> None:
    (row,) = (row for row in ROWS if row[0] == "item.delta")
    assert fields_of(row[1]) == {"stream", *STREAMS.values()}


def test_figures_are_those_of_the_code() -> None:
    assert f"after {HEARTBEAT_S:.0f} s of quiet" in TEXT
    assert f"no frame for {UNREAD_S:.0f} s is closed with {CLOSED_SLOW}" in TEXT
    assert f"`waitMs` (at most {WAIT_MAX_MS})" in TEXT
    assert f"at most {PAGE_MAX} events ({PAGE} if not given), at most {WAIT_MAX_MS} ms (0)" in TEXT
    assert File().codexd.event_stream_path in TEXT
    assert set(re.findall(r"closed with (\d+)", TEXT)) == set(
        document("/live")["paths"]["/live"]["get"]["x-websocket"]["close"]
    )
