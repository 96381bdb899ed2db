"""What `baa watch` makes of events, without a screen: blocks, rows, questions, and the bounds of them."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from baa.api.events import Event
from baa.cli.rows import STYLES, Row
from baa.cli.watching import (
    BLOCK_CHARS_MAX,
    BLOCKS_MAX,
    SESSIONS_MAX,
    STREAM_CHARS_MAX,
    Stream,
    View,
)

_seqs = count(1)


def event(type_: str, turn_id: str | None = "trn_a", session_id: str = "ses_a", **payload: Any) -> Event:
    return Event(next(_seqs), "", type_, session_id, turn_id, payload)


def item(kind: str, item_id: str = "i", *, ended: bool = False, **told: Any) -> Event:
    return event("item.completed" if ended else "item.started", itemId=item_id, kind=kind, item=told)


def delta(text: str, item_id: str = "i") -> Event:
    return event("item.delta", itemId=item_id, stream="text", delta=text)


def shown(*events: Event, unfolded: bool = False) -> list[Row]:
    """All rows of a stream of these events."""
    stream = Stream("ses_a")
    for each in events:
        stream.apply(each)
    rows = [row for block in stream.blocks.values() for row in block.rows(unfolded=unfolded)]
    assert {style for style, _ in rows} <= set(STYLES)
    return rows


def test_a_turn_from_its_prompt_to_its_end() -> None:
    assert shown(
        event("turn.queued", request={"prompt": "Fix it"}, origin="attached"),
        item("userMessage", "u", content=[{"type": "text", "text": "Fix it"}]),
        item("agentMessage", text=""),
        delta("On "),
        delta("it.\nNow."),
        event("turn.steered", input=[{"type": "text", "text": "faster"}]),
        event("turn.failed", reason="usage_limit", error={"message": "No more."}),
    ) == [
        ("bold", "> Fix it"),
        ("dim", "  attached"),
        ("", "On it."),
        ("", "Now."),
        ("bold", "> faster"),
        ("bad", "— failed, usage_limit, No more."),
    ]


def test_a_finished_item_has_its_own_words_and_one_without_any_keeps_what_it_said() -> None:
    assert shown(item("agentMessage", text=""), delta("half"), item("agentMessage", ended=True, text="whole")) == [
        ("", "whole")
    ]
    command = [
        item("commandExecution", command="ls"),
        delta("a\nb\n"),
        item("commandExecution", ended=True, command="ls"),
    ]
    assert shown(*command, unfolded=True) == [("command", "$ ls"), ("dim", "  a"), ("dim", "  b")]
    assert shown(event("item.delta", itemId="never", stream="text", delta="x")) == []


@pytest.mark.parametrize(
    ("told", "head"),
    [
        ({"exitCode": 0, "status": "completed", "aggregatedOutput": "a\nb\n"}, ("command", "$ ls  … 2 lines")),
        ({"exitCode": 2, "status": "failed"}, ("bad", "$ ls  [exit 2]")),
        ({"exitCode": None, "status": "declined"}, ("bad", "$ ls  [declined]")),
    ],
)
def test_a_command_is_folded_and_says_how_it_ended(told: dict[str, Any], head: Row) -> None:
    assert shown(item("commandExecution", ended=True, command="ls", **told)) == [head]
    assert shown(item("commandExecution", command="ls")) == [("command", "$ ls  [runs]")]


def test_a_diff_is_coloured_and_a_new_file_is_all_added() -> None:
    changes = [
        {"path": "a", "kind": {"type": "update"}, "diff": "@@ -1 +1 @@\n-x\n+y\n z\n"},
        {"path": "b", "kind": {"type": "add"}, "diff": "new\n"},
        {"path": "c", "kind": {"type": "delete"}, "diff": "old\n"},
        {"path": "d"},
    ]
    assert shown(item("fileChange", ended=True, changes=changes, status="completed")) == [
        ("command", "± a, b, c, d"),
        ("place", "  @@ -1 +1 @@"),
        ("removed", "  -x"),
        ("added", "  +y"),
        ("dim", "   z"),
        ("added", "  +new"),
        ("removed", "  -old"),
        ("dim", "  "),
    ]


def test_thoughts_are_folded_and_what_was_begun_anew_is_taken_away() -> None:
    thought = item("reasoning", ended=True, summary=["one\ntwo"], content=[])
    assert shown(thought) == [("dim", "one")]
    assert shown(thought, unfolded=True) == [("dim", "one"), ("dim", "two")]
    begun = item("agentMessage", "x", text="")
    assert shown(begun, delta("no", "x"), event("item.abandoned", itemId="x", reason="retried")) == []
    assert shown(begun, event("item.abandoned", itemId="x", text="so far")) == [("", "so far")]
    assert shown(event("item.abandoned", itemId="never")) == []


def test_what_is_not_modelled_is_a_note() -> None:
    assert shown(item("webSearch", query="x"), event("codex.warning", method="warning", params={"message": "Hm."})) == [
        ("dim", "· webSearch x"),
        ("dim", "· Hm."),
    ]


def test_nothing_of_a_model_reaches_the_terminal_as_it_came() -> None:
    evil = "\x1b]0;x\x07\x9b2J\u202e\r"
    events = [
        event("turn.queued", request={"prompt": evil}),
        event("turn.steered", input=[{"type": "localImage", "path": evil}]),
        item("agentMessage", "m", text=evil),
        item("reasoning", "r", ended=True, summary=[evil]),
        item("commandExecution", "c", ended=True, command=evil, aggregatedOutput=evil, exitCode=1),
        item("fileChange", "f", ended=True, changes=[{"path": evil, "diff": evil}], status=evil),
        item(evil, "o", tool=evil),
        event("codex.warning", method=evil, params={"message": evil}),
        event("interaction.resolved", interactionId="int_a", answer={"decision": evil}),
        event("turn.failed", reason=evil, error={"message": evil}),
    ]
    view = View()
    view.apply(event("session.registered", settings={"purpose": evil, "cwd": "/"}))
    view.apply(
        event("interaction.requested", interactionId="int_a", kind="command", decisions=[evil],
              request={"command": evil, "reason": evil})
    )  # fmt: skip
    lines = [line for _, line in (*shown(*events, unfolded=True), *view.question_rows(4))]
    lines.append(view.sessions["ses_a"].text(asks=True))
    for line in lines:
        assert line.isprintable(), line
    assert len(lines) > len(events)


def test_a_stream_is_bounded_and_tells_what_it_forgot() -> None:
    stream = Stream("ses_a")
    for number in range(BLOCKS_MAX + 10):
        stream.apply(item("agentMessage", str(number), text="x"))
    assert len(stream.blocks) == BLOCKS_MAX
    assert stream.gone == [f"trn_a:{number}" for number in range(10)]
    stream.apply(delta("too late", "3"))
    assert "trn_a:3" not in stream.changed

    for number in range(100):
        stream.apply(item("agentMessage", f"long {number}", text=""))
        stream.apply(delta("y" * (BLOCK_CHARS_MAX + 1), f"long {number}"))
    assert sum(len(block.text) for block in stream.blocks.values()) <= STREAM_CHARS_MAX
    assert list(stream.blocks.values())[-1].rows(unfolded=False)[0] == ("dim", "…")


def test_a_delta_changes_one_block_only() -> None:
    stream = Stream("ses_a")
    for number in range(50):
        stream.apply(item("agentMessage", str(number), text="x"))
    stream.changed.clear()
    stream.apply(delta("more", "49"))
    assert stream.changed == {"trn_a:49"}


# --- sessions and questions


def registered(session_id: str = "ses_a", **settings: Any) -> Event:
    return event("session.registered", None, session_id, settings={"cwd": "/home/me/project", **settings})


def test_a_session_says_what_it_does() -> None:
    view = View()
    told = []
    for each in (
        registered(),
        event("turn.queued"),
        event("turn.accepted"),
        event("turn.started"),
        event("turn.queued", "trn_b"),
        event("turn.completed"),
        event("turn.interrupted", "trn_b"),
        event("session.closed", None),
    ):
        view.apply(each)
        told.append(view.sessions["ses_a"].text(asks=False)[0])
    assert "".join(told) == "○●●●●●○x"
    assert view.sessions["ses_a"].text(asks=True) == "? project ses_a"
    view.apply(registered())  # as it is told again after a restart
    assert view.sessions["ses_a"].closed
    view.apply(event("turn.queued", session_id="ses_unknown"))
    assert set(view.sessions) == {"ses_a"}


def asks(interaction_id: str, session_id: str = "ses_a", kind: str = "command", **more: Any) -> Event:
    told = {"decisions": ["accept", {"acceptAlways": {}}, "decline"], "request": {"command": "ls"}, **more}
    return event("interaction.requested", "trn_a", session_id, interactionId=interaction_id, kind=kind, **told)


def test_open_questions_stand_on_top_until_they_are_over() -> None:
    view = View()
    view.apply(registered("ses_a", purpose="one"))
    view.apply(registered("ses_b", purpose="two"))
    assert view.question_of("ses_a") is None
    for number in range(6):
        view.apply(asks(f"int_{number}", "ses_b" if number == 5 else "ses_a"))
    assert view.questions_changed
    assert view.question_rows(4) == [("asks", "? one: run ls")] * 3 + [("dim", "… and 3 more")]
    assert (view.asks("ses_a"), view.asks("ses_b"), view.asks("ses_c")) == (True, True, False)
    chosen, oldest = view.question_of("ses_b"), view.question_of(None)
    assert chosen is not None
    assert oldest is not None
    assert (chosen.interaction_id, oldest.interaction_id) == ("int_5", "int_0")
    view.questions_changed = False
    view.apply(event("interaction.resolved", interactionId="int_unknown"))
    assert not view.questions_changed
    for number in range(6):
        view.apply(event("interaction.expired", interactionId=f"int_{number}"))
    assert (view.question_rows(4), view.questions_changed) == ([], True)


@pytest.mark.parametrize(
    ("kind", "request_", "summary"),
    [
        ("file_change", {"reason": "May I?"}, "change files (May I?)"),
        ("permissions", {}, "more permissions"),
        ("user_input", {"questions": [{"id": "q", "question": "Which?"}]}, "Which?"),
        ("user_input", {}, "a question"),
        ("elicitation", {"message": "Your name"}, "Your name"),
        ("tool_call", {"tool": "look"}, "call look"),
    ],
)
def test_each_kind_of_question_has_its_words(kind: str, request_: dict[str, Any], summary: str) -> None:
    view = View()
    view.apply(registered())
    view.apply(asks("int_a", kind=kind, request=request_))
    assert view.questions["int_a"].summary() == summary


def test_sessions_are_bounded_and_closed_ones_go_first() -> None:
    view = View()
    for number in range(SESSIONS_MAX):
        view.apply(registered(f"ses_{number}"))
    view.apply(event("session.closed", None, "ses_7"))
    view.apply(registered("ses_new"))
    view.apply(registered("ses_newer"))
    assert len(view.sessions) == SESSIONS_MAX
    assert {"ses_7", "ses_0"}.isdisjoint(view.sessions)
    assert "ses_1" in view.sessions
