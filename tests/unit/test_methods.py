"""What may be said to the child: DESIGN section 5, and what Codex's own terminal UI is passed on; nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from baa.codexd.appserver import attached, jsonrpc, methods
from baa.codexd.appserver.lines import Line
from baa.codexd.appserver.methods import ForbiddenMethod
from baa.codexd.eventlog import Transaction
from tests.unit.test_generation import Kept, kept  # noqa: F401

DESIGN = [
    "initialize",
    "initialized",
    "thread/start",
    "thread/resume",
    "thread/fork",
    "thread/read",
    "thread/unsubscribe",
    "thread/turns/list",
    "thread/items/list",
    "thread/loaded/list",
    "thread/backgroundTerminals/clean",
    "thread/backgroundTerminals/list",
    "turn/start",
    "turn/steer",
    "turn/interrupt",
    "model/list",
    "account/read",
    "account/rateLimits/read",
]
UI = [
    "collaborationMode/list",
    "configRequirements/read",
    "skills/list",
    "thread/compact/start",
    "thread/goal/get",
    "thread/name/set",
]
POWERFUL = [
    "thread/shellCommand",
    "command/exec",
    "command/exec/write",
    "process/spawn",
    "fs/readFile",
    "fs/writeFile",
    "fs/remove",
    "config/read",
    "config/value/write",
    "config/batchWrite",
    "account/login/start",
    "account/logout",
    "thread/delete",
    "thread/archive",
    "thread/rollback",
    "review/start",
    "mcpServer/tool/call",
    "turn/startx",
    "Turn/start",
    "thread/start/",
    "initialize\\u0000",
]


def test_the_list_is_the_designs_and_that_of_attached_terminals() -> None:
    assert sorted(DESIGN) == sorted(methods.OWN)
    assert sorted([*DESIGN, *UI]) == sorted(methods.ALLOWED)


@pytest.mark.parametrize("method", sorted(methods.ALLOWED))
def test_what_is_allowed_is_sent(method: str) -> None:
    methods.check(jsonrpc.request("a:b:1", method, {}))


@pytest.mark.parametrize("method", POWERFUL)
def test_any_other_method_is_sent_by_nobody(method: str) -> None:
    with pytest.raises(ForbiddenMethod):
        methods.check(b'{"id":"x:y:1","method":"%b","params":{}}\n' % method.encode())


BROKEN = {
    "two lines": jsonrpc.notification("initialized") + b'{"id":1,"method":"command/exec"}\n',
    "no end": b'{"method":"initialized"}',
    "no JSON": b"hello\n",
    "empty": b"\n",
    "neither": b'{"params":{}}\n',
    "an answer that is two": b'{"id":1,"result":{},"error":{}}\n',
    "an answer that is none": b'{"id":1}\n',
    "its method twice": b'{"method":"initialized","method":"command/exec"}\n',
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=list(BROKEN))
def test_what_is_not_one_message_is_not_sent(line: bytes) -> None:
    with pytest.raises(ForbiddenMethod):
        methods.check(line)


def test_answers_are_sent() -> None:
    methods.check(jsonrpc.answer(7, {"decision": "decline"}))
    methods.check(jsonrpc.refusal("seven", -32601, "no"))


async def test_the_one_way_to_the_child_lets_nothing_else_through(kept: Kept) -> None:  # noqa: F811
    transaction = Transaction()
    with pytest.raises(ForbiddenMethod, match="thread/shellCommand is not for the child"):
        kept.generation.send(transaction, Line(None, jsonrpc.request("x:y:1", "thread/shellCommand", {})))
    assert (transaction.statements, transaction.done) == ([], [])


def test_nothing_else_writes_into_the_outbox_or_to_a_keeper() -> None:
    """The source itself: one statement puts lines down, and one place gives them to the keeper."""
    source = Path(methods.__file__).parents[2]
    texts = {path.name: path.read_text() for path in source.rglob("*.py")}
    assert [name for name, text in texts.items() if "INSERT INTO outbox" in text] == ["generation.py"]
    assert [name for name, text in texts.items() if "link.line(" in text] == ["generation.py"]
    assert attached.SKILLS in methods.ALLOWED
