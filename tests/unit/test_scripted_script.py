"""The script's decisions and the bytes of its answers, without any network."""

from __future__ import annotations

import json
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baa.scripted import (
    Call,
    Drop,
    Hold,
    Limits,
    Patch,
    Reason,
    Refuse,
    Request,
    Run,
    Say,
    Scenario,
    Step,
    encode_script,
    when,
)
from baa.scripted.request import read_request
from baa.scripted.script import DONE, choose, decode_script
from baa.scripted.stream import DELTAS_PER_SEND, Pause, stream

EDIT = "*** Begin Patch\n*** Add File: a.txt\n+a\n*** End Patch"


def user(text: str) -> dict[str, object]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def body(*items: dict[str, object]) -> bytes:
    return json.dumps({"model": "scripted", "stream": True, "input": items}).encode()


def events(*reply: Step) -> list[dict[str, object]]:
    """The events of a reply, with a marker where it waits or is cut."""
    seen: list[dict[str, object]] = []
    for part in stream(reply, response_id="r", input_chars=400):
        if not isinstance(part, bytes):
            seen.append({"type": type(part).__name__.lower()})
            continue
        for frame in part.decode().removesuffix("\n\n").split("\n\n"):
            name, data = frame.split("\n")
            event = json.loads(data.removeprefix("data: "))
            assert name == f"event: {event['type']}"
            seen.append(event)
    return seen


def types(*reply: Step) -> list[object]:
    return [event["type"] for event in events(*reply)]


def test_the_prompt_is_the_last_user_message_and_reports_are_what_came_since() -> None:
    earlier: list[dict[str, object]] = [
        user("<environment_context/>"),
        user("old"),
        {"type": "function_call_output", "call_id": "a", "output": "x"},
    ]
    later: list[dict[str, object]] = [
        {"type": "function_call", "call_id": "b", "name": "exec_command", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "b", "output": "y"},
        {"type": "reasoning", "summary": [], "content": None},
        {"type": "custom_tool_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "z"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "on it"}]},
    ]
    assert read_request(body(*earlier, user("new"), *later)) == Request("new", 2, ("y", "z"))


def test_a_prompt_may_have_several_parts_or_be_plain_text() -> None:
    parts = [
        {"type": "input_text", "text": "one"},
        {"type": "input_image", "image_url": "x"},
        {"type": "input_text", "text": "two"},
    ]
    assert read_request(body({"role": "user", "content": parts})) == Request("one\n\ntwo", 0)
    assert read_request(body({"role": "user", "content": "plain"})) == Request("plain", 0)
    assert read_request(b'{"input":"bare"}') == Request("bare", 0)


def test_a_request_without_a_prompt_has_an_empty_one() -> None:
    assert read_request(body()) == Request("", 0)


def test_the_first_scenario_whose_phrase_is_in_the_prompt_answers() -> None:
    scenarios = [when("count", Say("1")), when("count to two", Say("2")), when("", Say("any"))]
    assert choose(scenarios, Request("please count to two", 0)) == (Say("1"),)
    assert choose(scenarios, Request("hello", 0)) == (Say("any"),)


def test_an_unscripted_prompt_is_named_in_the_answer() -> None:
    assert choose([when("count", Say("1"))], Request("dance", 0)) == (Say("Nothing is scripted for: dance"),)
    (step,) = choose([], Request("x" * 1000, 0))
    assert isinstance(step, Say)
    assert len(step.text) < 300


def test_each_report_of_codex_brings_the_next_reply() -> None:
    first, second, third = (Run("a"), Run("b")), (Say("now the edit"), Patch(EDIT)), (Say("ready"),)
    scenario = when("work", first, second, third)
    replies = [choose([scenario], Request("work", outputs)) for outputs in range(5)]
    assert replies == [first, first, second, third, DONE]


def test_after_the_last_reply_the_answer_is_done() -> None:
    scenario = when("work", Run("a"))
    assert [choose([scenario], Request("work", outputs)) for outputs in range(3)] == [(Run("a"),), DONE, DONE]


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ((), "no replies"),
        (((),), "an empty one"),
        (((Say("a"),), (Say("b"),)), "only the last reply"),
        (((Drop(), Say("a")),), "end their reply"),
        (((Refuse(), Run("a")),), "end their reply"),
        (((Say("a"), Refuse()),), "only be Hold and Limits"),
        (((Hold("g"), Limits(1, 2)),), "begin their reply"),
    ],
)
def test_a_scenario_that_could_not_be_played_is_refused(replies: tuple[tuple[Step, ...], ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Scenario("x", replies)


def test_a_refusal_is_an_http_error() -> None:
    with pytest.raises(ValueError, match="204 is no HTTP error"):
        Refuse(204)


def test_a_script_survives_its_json_form() -> None:
    script = (
        when(
            "all",
            (Reason("why"), Say.numbered(3, 0.5), Hold("g"), Run("ls", 250, "require_escalated", "May I?")),
            Drop(),
        ),
        when("edit", Patch(EDIT), (Limits(99, 1_800_000_000), Hold("g"), Refuse(429, "{}"))),
        when("tool", Call("ask", {"q": [1, None]}, "mcp__x"), Call("plain")),
    )
    assert decode_script(encode_script(script)) == script


def test_a_hand_written_script_is_read() -> None:
    document = (
        b'[{"phrase":"hi","replies":[[{"step":"run","command":"ls","yieldTimeMs":300}],[{"step":"say","text":"yo"}]]}]'
    )
    assert decode_script(document) == (when("hi", Run("ls", yield_time_ms=300), Say("yo")),)


@pytest.mark.parametrize(
    "step", ['{"step":"shout","text":"x"}', '{"step":"say","text":"x","pace":1}', '{"step":"say"}']
)
def test_a_mistake_in_a_script_is_named(step: str) -> None:
    with pytest.raises(ValueError, match=r"\$\[0\]\.replies\[0\]\[0\]|`step`|required field"):
        decode_script(f'[{{"phrase":"","replies":[[{step}]]}}]'.encode())


def test_a_message_streams_as_codex_reads_it() -> None:
    message = {"type": "message", "role": "assistant", "id": "msg_r_0"}
    at = {"item_id": "msg_r_0", "output_index": 0, "content_index": 0}
    usage = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 102,
    }
    empty, whole = ([{"type": "output_text", "text": text}] for text in ("", 'say "hi"'))
    assert events(Say('say "hi"')) == [
        {"type": "response.created", "response": {"id": "r"}},
        {"type": "response.output_item.added", "output_index": 0, "item": message | {"content": empty}},
        {"type": "response.output_text.delta", **at, "delta": "say "},
        {"type": "response.output_text.delta", **at, "delta": '"hi"'},
        {"type": "response.output_item.done", "output_index": 0, "item": message | {"content": whole}},
        {"type": "response.completed", "response": {"id": "r", "usage": usage}},
    ]


def test_a_command_is_a_call_of_the_command_tool() -> None:
    (item,) = [event["item"] for event in events(Run("ls", 250)) if event["type"] == "response.output_item.done"]
    assert isinstance(item, dict)
    assert json.loads(item.pop("arguments")) == {"cmd": "ls", "yield_time_ms": 250}
    assert item == {"type": "function_call", "id": "fc_r_0", "call_id": "call_r_0", "name": "exec_command"}


def test_any_tool_can_be_called() -> None:
    calls = events(Call("ask", {"q": 1}, "mcp__x"), Call("plain"))
    named, plain = (event["item"] for event in calls if event["type"] == "response.output_item.done")
    assert isinstance(named, dict)
    assert isinstance(plain, dict)
    assert (named["name"], named["namespace"], named["arguments"]) == ("ask", "mcp__x", '{"q":1}')
    assert (plain["name"], plain["arguments"]) == ("plain", "{}")
    assert "namespace" not in plain


def test_a_call_is_reported_back_like_a_command() -> None:
    scenario = when("work", Call("a"), Say("told"))
    assert choose([scenario], Request("work", 1)) == (Say("told"),)


def test_a_patch_goes_through_the_command_tool() -> None:
    assert Patch(EDIT).command == f"apply_patch <<'EOF'\n{EDIT}\nEOF\n"


def test_says_with_a_hold_between_them_are_one_message() -> None:
    assert types(Say("a"), Hold("g"), Say("b"), Run("ls"), Say("c")) == [
        "response.created",
        "response.output_item.added",
        "response.output_text.delta",
        "hold",
        "response.output_text.delta",
        "response.output_item.done",
        "response.output_item.added",
        "response.output_item.done",
        "response.output_item.added",
        "response.output_text.delta",
        "response.output_item.done",
        "response.completed",
    ]


def test_items_of_an_answer_have_ids_of_their_own() -> None:
    done = [
        event["item"]
        for event in events(Reason("x"), Say("a"), Run("ls"), Run("ls"))
        if "done" in str(event["type"]) and "item" in event
    ]
    assert [item["id"] for item in done if isinstance(item, dict)] == ["rs_r_0", "msg_r_1", "fc_r_2", "fc_r_3"]


def test_a_dropped_answer_ends_in_the_middle_of_its_message() -> None:
    assert types(Say("a"), Drop())[-2:] == ["response.output_text.delta", "drop"]


def test_a_message_may_be_empty() -> None:
    assert types(Say.numbered(0), Say("")) == [
        "response.created",
        "response.output_item.added",
        "response.output_item.done",
        "response.completed",
    ]


def test_a_pace_waits_after_every_delta() -> None:
    waits = [part for part in stream((Say.numbered(3, 20),), response_id="r", input_chars=0) if isinstance(part, Pause)]
    assert waits == [Pause(0.02)] * 3


@pytest.mark.parametrize("count", [DELTAS_PER_SEND - 1, DELTAS_PER_SEND, 20_000])
def test_deltas_without_a_pace_go_out_many_at_a_time_and_each_once(count: int) -> None:
    sends = [part for part in stream((Say.numbered(count),), response_id="r", input_chars=0) if isinstance(part, bytes)]
    framed = [frame for part in sends for frame in part.split(b"\n\n") if b'"delta"' in frame]
    assert [json.loads(frame.partition(b"data: ")[2])["delta"] for frame in framed] == [f"w{n} " for n in range(count)]
    assert len(sends) <= count / DELTAS_PER_SEND + 5


def test_numbered_deltas_can_go_on_from_another_number() -> None:
    assert Say.numbered(2, start=10).deltas == ("w10 ", "w11 ")


@given(st.text())
def test_the_deltas_of_a_text_are_the_text(text: str) -> None:
    assert "".join(Say(text).deltas) == text
    assert "".join(Reason(text).deltas) == text


@given(st.lists(st.text()).map(tuple))
def test_any_text_survives_the_framing(deltas: tuple[str, ...]) -> None:
    answer = events(Say(deltas))
    assert [event["delta"] for event in answer if "delta" in event] == list(deltas)
    before = takewhile(lambda event: event["type"] != "response.completed", answer)
    assert sum(event["type"] == "response.output_item.done" for event in before) == 1
