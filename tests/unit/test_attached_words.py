"""What Codex's own terminal UI says, read into what codexd does: answers to questions above all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from baa.api.interactions import AnswerInteraction, InteractionKind, Scope
from baa.codexd.appserver import attached as dialect
from baa.codexd.appserver import attached_told, lines
from baa.codexd.appserver.attached_answers import answer_of
from baa.codexd.appserver.methods import ALLOWED, OWN
from baa.codexd.machines.interaction import Question

NO = AnswerInteraction(decision="decline")


def question(kind: InteractionKind) -> Question:
    return Question("int_a", 1, 7, kind, "trn_a", ("accept", "decline"), Raw(b'{"threadId":"thread"}'))


def say(message: object) -> Any:
    return dialect.meant(json.dumps(message).encode(), "ses_a")


@pytest.mark.parametrize(
    ("kind", "result", "answer"),
    [
        ("command", {"decision": "accept"}, AnswerInteraction(decision="accept")),
        ("command", {"decision": {"acceptAlways": {"a": 1}}}, AnswerInteraction(decision={"acceptAlways": {"a": 1}})),
        ("command", {"decision": 7}, NO),
        ("command", {}, NO),
        ("file_change", {"decision": "cancel"}, AnswerInteraction(decision="cancel")),
        ("permissions", {"permissions": {}, "scope": "turn"}, NO),
        ("permissions", {"permissions": {"network": None}}, NO),
        ("permissions", {"permissions": {"n": {"on": True}}, "scope": "for ever"}, NO),
        (
            "permissions",
            {"permissions": {"n": {"on": True}}, "scope": "session"},
            AnswerInteraction(decision="accept", content={"n": {"on": True}}, scope=Scope.SESSION),
        ),
        (
            "user_input",
            {"answers": {"q": {"answers": ["a", "b"]}, "bad": 7}},
            AnswerInteraction(decision="accept", answers={"q": ["a", "b"]}),
        ),
        ("user_input", {"answers": {}}, NO),
        ("user_input", {"answers": 7}, NO),
        (
            "elicitation",
            {"action": "accept", "content": {"a": 1}},
            AnswerInteraction(decision="accept", content={"a": 1}),
        ),
        ("elicitation", {"action": "cancel", "content": {"a": 1}}, AnswerInteraction(decision="cancel")),
        ("elicitation", {}, NO),
        (
            "tool_call",
            {"success": True, "contentItems": [{"type": "inputText", "text": "x"}]},
            AnswerInteraction(decision="accept", content=[{"type": "inputText", "text": "x"}]),
        ),
        ("tool_call", {"success": "yes", "contentItems": []}, NO),
        ("command", None, NO),
        ("command", [1], NO),
    ],
)
def test_an_answer_is_one_of_ours_and_what_is_no_yes_is_a_no(kind: str, result: Any, answer: AnswerInteraction) -> None:
    raw = None if result is None else Raw(json.dumps(result).encode())
    assert answer_of(question(InteractionKind(kind)), raw) == answer


@pytest.mark.parametrize("kind", list(InteractionKind))
def test_each_kind_of_question_is_asked_in_codexs_words_under_our_id(kind: InteractionKind) -> None:
    told = json.loads(attached_told.question(question(kind)))
    assert (told["id"], told["params"]) == ("int_a", {"threadId": "thread"})
    assert say({"id": "int_a", "result": {"decision": "accept"}}) == dialect.Answered(
        "int_a", Raw(b'{"decision": "accept"}')
    )
    over = json.loads(attached_told.no_more(question(kind)))
    assert over["params"] == {"threadId": "thread", "requestId": "int_a"}


def test_what_only_looks_is_passed_on_with_known_parameters_only() -> None:
    given = {"threadId": "t", "limit": 5, "cursor": None, "path": "/etc/passwd", "config": {}}
    meant = say({"id": 1, "method": "thread/turns/list", "params": given})
    assert meant == dialect.Look(1, "thread/turns/list", {"threadId": "t", "limit": 5}, "t")
    line = dialect.look(9, "att_a.1", meant)
    assert line.request_id == "att_a.1:look:9"
    assert json.loads(line.data)["params"] == {"threadId": "t", "limit": 5}
    assert say({"id": 2, "method": "configRequirements/read"}) == dialect.Look(2, "configRequirements/read", {}, None)
    assert json.loads(dialect.skills(9, "att_a.2", "/work").data)["params"] == {"cwds": ["/work"]}


@pytest.mark.parametrize(
    "message",
    [
        {"id": 1, "method": "thread/read", "params": {}},
        {"id": 1, "method": "thread/read", "params": {"threadId": 7}},
        {"id": 1, "method": "thread/read", "params": [1]},
        {"id": 1, "method": "turn/start", "params": {"threadId": "t"}},
        {"id": 1, "method": "turn/start", "params": {"threadId": "t", "input": [{"type": "image", "url": "x"}]}},
        {"id": 1, "method": "whatever/comes", "params": {}},
    ],
)
def test_what_cannot_be_is_refused_with_its_id(message: Any) -> None:
    meant = say(message)
    assert isinstance(meant, dialect.Ready)
    told = json.loads(meant.line)
    assert (told["id"], told["error"]["code"]) == (1, -32600)


@pytest.mark.parametrize("message", [{"method": "initialized"}, {}, {"method": "cancelled", "params": {}}])
def test_notes_need_no_doing(message: Any) -> None:
    assert say(message) == dialect.Nothing()


def test_what_is_waived_looks_like_a_turn_that_failed_unless_one_runs() -> None:
    meant = say({"id": 3, "method": "thread/shellCommand", "params": {"threadId": "t"}})
    assert isinstance(meant, dialect.Waived)
    done, started, ended = map(json.loads, attached_told.waived(meant, idle=True))
    assert done["id"] == 3
    assert (started["method"], ended["params"]["turn"]["status"]) == ("turn/started", "failed")
    done, warning = map(json.loads, attached_told.waived(meant, idle=False))
    assert (done["id"], warning["method"]) == (3, "warning")


NEVER = (
    *("thread/queue/add", "thread/queue/list", "config/value/write", "config/batchWrite", "account/login/start"),
    *("account/logout", "command/exec", "command/exec/write", "process/spawn", "fs/readFile", "fs/writeFile"),
    *("fs/remove", "thread/start", "thread/fork", "thread/archive", "thread/delete", "thread/rollback"),
    *("thread/goal/set", "thread/metadata/update", "mcpServer/tool/call", "feedback/upload", "whatever/comes"),
)


@pytest.mark.parametrize("method", NEVER)
def test_what_is_not_for_a_terminal_is_refused_in_words_and_reaches_nobody(method: str) -> None:
    meant = say({"id": 1, "method": method, "params": {"threadId": "t", "command": "true"}})
    assert isinstance(meant, dialect.Ready)
    error = json.loads(meant.line)["error"]
    assert error["message"].startswith(f"{method} is not available in a session of codexd's (baa attach).")
    assert method not in ALLOWED or method in OWN


@pytest.mark.parametrize("method", dialect.WAIVED)
def test_what_would_end_the_ui_is_not_done_either(method: str) -> None:
    meant = say({"id": 1, "method": method, "params": {"threadId": "t", "command": "true"}})
    assert isinstance(meant, dialect.Waived)
    assert (meant.thread_id, method in meant.why, method in ALLOWED) == ("t", True, False)


def test_every_method_of_the_ui_has_one_meaning() -> None:
    read = {dialect.RESUME, dialect.RENAME, dialect.SKILLS, lines.COMPACT, "initialize", "thread/loaded/list"}
    turns = {"turn/start", "turn/steer", "turn/interrupt"}
    tables = (read, turns, set(dialect.LOOKS), set(dialect.CANNED), set(dialect.WAIVED), set(NEVER))
    assert sum(map(len, tables)) == len(set().union(*tables))
    assert set(dialect.INSTEAD) <= {*NEVER, *dialect.WAIVED}


def test_who_is_told_no_hears_what_to_do_instead() -> None:
    for method, words in (("thread/fork", "baa session fork ses_a"), ("thread/start", "baa run PROMPT")):
        meant = say({"id": 1, "method": method, "params": {"threadId": "t"}})
        assert words in json.loads(meant.line)["error"]["message"]


def test_a_name_is_passed_on_and_one_that_would_act_on_a_terminal_is_not() -> None:
    given = {"threadId": "t", "name": " Tabs in the parser ", "path": "/etc"}
    meant = say({"id": 1, "method": "thread/name/set", "params": given})
    params = {"threadId": "t", "name": "Tabs in the parser"}
    assert meant == dialect.Look(1, "thread/name/set", params, "t", renames=True)
    assert dialect.borne(meant, "no") == dialect.Waived(1, "t", "no", awaits=False)
    for name in ("", "  ", "a\x1b]0;owned\x07", "a\nb", "a\u202eb", "x" * 201):
        refused = say({"id": 1, "method": "thread/name/set", "params": {"threadId": "t", "name": name}})
        assert isinstance(refused, dialect.Waived), repr(name)
        assert not refused.awaits


def test_a_review_that_is_not_begun_has_the_answer_that_the_ui_can_read() -> None:
    meant = say({"id": 3, "method": "review/start", "params": {"threadId": "t", "target": {}}})
    done, _, ended = map(json.loads, attached_told.waived(meant, idle=True))
    assert (done["result"]["reviewThreadId"], done["result"]["turn"]["id"]) == ("t", ended["params"]["turn"]["id"])
    assert "in words" in ended["params"]["turn"]["error"]["message"]


def test_a_turn_that_shortens_the_history_is_asked_for_with_nothing_but_its_thread() -> None:
    given = {"threadId": "t", "model": "big", "prompt": "mine"}
    assert say({"id": 3, "method": "thread/compact/start", "params": given}) == dialect.Compact(3, "t")
    refused = json.loads(attached_told.unsteerable(4))
    assert (refused["id"], refused["error"]["message"]) == (4, "cannot steer a compact turn")
    assert refused["error"]["data"]["codexErrorInfo"] == {"activeTurnNotSteerable": {"turnKind": "compact"}}


def test_a_message_of_the_users_keeps_the_name_that_the_ui_gave_it() -> None:
    line = b'{"method":"item/started","params":{"item":{"clientId":"trn_a","type":"userMessage"}}}'
    assert b'"clientId":"its \\"own\\""' in attached_told.renamed(line, {"trn_a": 'its "own"'})
    assert attached_told.renamed(line, {"trn_b": "x"}) == line
