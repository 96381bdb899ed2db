"""Starts that must be refused, stops that must leave nothing, a Codex that is not there, and a log that went back."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest
from codex_cli_bin import bundled_codex_path

from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.support.faults import saw
from tests.support.keeper_client import alive
from tests.support.node import Node, until, within
from tests.support.oracle import Oracle, flaws_of, numbered, refusal, stream, types

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc"),
    pytest.mark.timeout(180),  # later than any wait of ours gives up, so that a test that fails cleans up
]

BEHIND = "echo >begun; exec tail -f /dev/null >behind 2>&1"
SCENARIOS = (
    when("plain", Say("Fine.")),
    when("held", (Say.numbered(50), Hold("held"), Say("the end"))),
    when("endless", Run("echo begun; tail -f /dev/null", yield_time_ms=30_000)),
    when("behind", Run(f"setsid sh -c '{BEHIND}' & until [ -e begun ]; do :; done"), Say("It runs on.")),
)
NOWHERE = "http://127.0.0.1:1"


class House(NamedTuple):
    """A node that serves, and the model behind its Codex."""

    node: Node
    model: ScriptedModel


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        yield House(node, model)


# --- SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_in_mid_turn_interrupts_it_and_leaves_no_process(house: House, number: signal.Signals) -> None:
    node, _ = house
    async with Oracle(node) as oracle:
        session_id = await node.session()
        turn_id = await node.turn(session_id, "endless")
        await oracle.saw("item.started", turn_id, where=lambda event: event["payload"]["kind"] == "commandExecution")
        assert node.running("tail")
        assert len(node.left()) >= 3  # keeper, child, command
        saw("F04", node.running("tail"), f"{number.name} while a command of a turn ran")
        node.signal(number)
        assert await node.ended() == 0
        assert node.left() == []
        assert not (node.home / "state" / "endpoint.json").exists()
        await node.start()
        assert (await oracle.end_of(turn_id))["type"] == "turn.interrupted"
        turn = await node.ledger(turn_id)
        assert turn["status"] == "interrupted"
        assert turn["reason"] == "daemon_stopped"
        command = turn["items"][-1]  # Codex tells how it ended: as cut off or by SIGKILL; and may do so too late
        ends = (("completed", -1), ("completed", 128 + signal.SIGKILL), ("abandoned", None))
        assert (command["status"], command["item"].get("exitCode")) in ends
        assert (await node.status())["counts"]["turnsRunning"] == 0
        assert (await node.play(session_id, "plain"))["finalMessage"] == "Fine."
        await oracle.caught_up()
    stop = next(n for n, event in enumerate(oracle.events) if event["type"] == "daemon.stopping")
    beside = ("usage.updated", "item.completed", "item.abandoned")
    assert [type_ for type_ in types(oracle.events[stop:]) if type_ not in beside][:4] == [
        *("daemon.stopping", "turn.interrupted", "child.exited", "daemon.started")
    ]
    assert flaws_of(oracle.events) == []


async def test_a_stop_ends_what_a_finished_turn_left_running(house: House) -> None:
    node, _ = house
    assert (await node.play(await node.session(), "behind"))["status"] == "completed"
    await until(lambda: node.running("tail"))
    assert await node.stop() == 0
    assert node.left() == []


async def drained(house: House, oracle: Oracle) -> tuple[str, str]:
    """A codexd that drains for an hour, while a turn runs: the session and the turn."""
    node, model = house
    await node.stop()
    node.settings["drain_ms"] = "3600000"
    await node.start()
    session_id = await node.session()
    turn_id = await node.turn(session_id, "held")
    await within(model.held("held"))
    await oracle.saw("item.delta", turn_id, count=50)
    node.signal(signal.SIGTERM)
    await oracle.saw("daemon.stopping", count=2)
    return session_id, turn_id


async def test_a_drain_takes_no_turn_and_a_second_signal_ends_it(house: House) -> None:
    node, _ = house
    async with Oracle(node) as oracle:
        session_id, turn_id = await drained(house, oracle)
        state = (await node.status())["daemon"]["state"]
        saw("F04", state == "stopping", "SIGTERM in mid-turn; a second one follows while codexd drains")
        for path, body in (
            ("sessions", {"cwd": str(node.work)}),
            ("turn", {"sessionId": session_id, "prompt": "plain"}),
        ):
            answer = await node.post(f"/v1/codexd/{path}", body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
            assert int(answer.headers["retry-after"]) >= 1
        assert (await node.ledger(turn_id))["status"] == "in_progress"
        node.signal(signal.SIGTERM)
        assert await node.ended() == 0
        assert node.left() == []
        await node.start()
        turn = await node.ledger(turn_id)
        assert (turn["status"], turn["reason"]) == ("interrupted", "daemon_stopped")
        assert turn["items"][-1]["text"] == "".join(numbered(50))
        assert (await node.play(session_id, "plain"))["status"] == "completed"
        await oracle.caught_up()
    assert flaws_of(oracle.events) == []


async def test_a_drain_lets_a_turn_end_by_itself(house: House) -> None:
    node, model = house
    async with Oracle(node) as oracle:
        _, turn_id = await drained(house, oracle)
        model.release("held")
        assert await node.ended() == 0
        assert node.left() == []
        await node.start()
        assert (await node.ledger(turn_id))["status"] == "completed"
        await oracle.caught_up()
    assert flaws_of(oracle.events) == []


# --- starts that must be refused


@pytest.fixture
async def idle(tmp_path: Path) -> AsyncIterator[Node]:
    """A node without Codex that was not started."""
    async with Node(tmp_path, NOWHERE, server_command=str(tmp_path / "codex")) as node:
        yield node


async def test_a_second_codexd_on_the_same_state_is_refused_and_disturbs_nothing(idle: Node) -> None:
    await idle.start()
    endpoint = (idle.home / "state" / "endpoint.json").read_text()
    assert f'"pid":{idle.pid}' in endpoint
    for _ in range(2):  # the first refusal must not have let go of the lock
        code, said = await idle.another()
        saw("F61", code == 75, "a second codexd was started on the same folder")
        assert (code, said.startswith("codexd: Another codexd runs on")) == (75, True)
    assert (idle.home / "state" / "endpoint.json").read_text() == endpoint
    assert (await idle.status())["daemon"]["pid"] == idle.pid
    await idle.session()


async def test_a_way_to_the_state_through_a_link_is_the_same_state(idle: Node) -> None:
    await idle.start()
    link = idle.folder / "link"
    link.symlink_to(idle.state)
    code, said = await idle.another(state_dir=str(link))
    saw("F61", code == 75, "a second codexd was started through a symlink")
    assert (code, said.startswith("codexd: Another codexd runs on")) == (75, True)
    assert (await idle.status())["daemon"]["pid"] == idle.pid


RUSH = """\
import os, signal, sys
from pathlib import Path
from baa.api.errors import CannotStart
from baa.codexd.daemon import hold

pids = []
begin, go = os.pipe()
told, tell = os.pipe()
for n in range(50):
    if not (pid := os.fork()):
        os.close(go)
        os.read(begin, 1)
        try:
            hold(Path(sys.argv[1 + n % 2]))
        except CannotStart as refused:
            os._exit(refused.exit_code)
        os.write(tell, b"held")
        signal.pause()
    pids.append(pid)
os.close(begin)
os.close(go)
ended = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(49)]
print(sorted(set(ended)), os.read(told, 100))
"""


def test_of_fifty_that_start_at_once_on_one_state_one_lives(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "link").symlink_to("state")
    paths = [str(tmp_path / name / "daemon.lock") for name in ("state", "link")]
    command = [sys.executable, "-c", RUSH, *paths]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as rush:
        assert rush.stdout is not None
        try:
            told = rush.stdout.readline()
            saw("F61", told, "50 processes took the lock at once")
            assert told == "[75] b'held'\n"
        finally:
            os.killpg(rush.pid, signal.SIGKILL)


async def test_a_taken_port_is_refused(idle: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        code, said = await idle.another(local_api_base=address)
    saw("F60", "is in use by" in said, "the port was taken")
    assert (code, "is in use by" in said) == (69, True)


async def test_the_log_of_a_newer_release_is_refused_and_left_alone(idle: Node) -> None:
    await idle.start()
    await idle.stop()
    connection = apsw.Connection(str(idle.database))
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = idle.database.read_bytes()
    code, said = await idle.another()
    saw("F46", "schema 99" in said, "the log was marked as that of a newer release")
    assert (code, "schema 99" in said) == (78, True)
    assert idle.database.read_bytes() == before


@pytest.mark.parametrize("address", ["http://0.0.0.0:4319", "http://192.0.2.1:4319", "https://127.0.0.1:4319"])
async def test_an_address_that_is_not_loopback_is_refused(idle: Node, address: str) -> None:
    code, said = await idle.another(local_api_base=address)
    assert (code, "BAA_CODEXD_LOCAL_API_BASE" in said) == (78, True)
    assert not idle.database.exists()


# --- a Codex that is not there, or will not stay


async def test_without_codex_reads_go_on_and_turns_are_refused(idle: Node) -> None:
    await idle.start()
    child = await idle.child_is("unavailable")
    assert str(idle.folder / "codex") in child["problem"]
    saw("F62", child["state"] == "unavailable", "there is no program where Codex should be")
    assert (child["generation"], child["pid"]) == (0, None)
    session_id = await idle.session()
    answer = await idle.post("/v1/codexd/turn", {"sessionId": session_id, "prompt": "plain"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "child_unavailable")
    assert answer.headers["retry-after"] == "30"
    assert (await idle.session_of(session_id))["status"] == "not_loaded"
    assert (await idle.get("/healthz")).status_code == 200
    assert types(await idle.events()) == ["daemon.started", "session.registered"]
    assert await idle.stop() == 0


async def test_a_codex_that_is_installed_later_is_found(house: House, tmp_path: Path) -> None:
    node, _ = house
    await node.stop()
    installed = tmp_path / "codex-of-tomorrow"
    node.settings["server_command"] = str(installed)
    await node.start()
    await node.child_is("unavailable")
    session_id = await node.session()
    installed.symlink_to(bundled_codex_path())
    assert (await node.child_is("ready"))["problem"] is None
    assert (await node.play(session_id, "plain"))["finalMessage"] == "Fine."


async def test_a_child_that_always_ends_is_told_and_tried_ever_later(idle: Node) -> None:
    crashing = idle.folder / "codex"
    crashing.write_text("#!/bin/sh\necho boom >&2\nexit 3\n")
    crashing.chmod(0o700)
    await idle.start()
    async with Oracle(idle) as oracle:
        session_id = await idle.session()
        loop = (await oracle.saw("child.crash_loop"))["payload"]
        told = [event for event in oracle.events if event["type"].startswith("child.")]
        assert types(told) == [*(["child.started", "child.exited", "child.backoff"] * 5), *types(told)[-3:]]
        assert types(told)[-3:] == ["child.started", "child.exited", "child.crash_loop"]
        ends = [event["payload"] for event in told if event["type"] == "child.exited"]
        saw("F08", len(ends) == 6, "six children ended at once, with exit code 3")
        assert {(end["code"], end["stderrTail"]) for end in ends} == {(3, "boom\n")}
        assert [end["generation"] for end in ends] == [1, 2, 3, 4, 5, 6]
        pauses = [event["payload"]["delayMs"] for event in told if event["type"] == "child.backoff"]
        assert pauses[0] == 0
        assert all(500 * 2**n <= pause <= 1000 * 2**n for n, pause in enumerate(pauses[1:]))
        assert (loop["failures"], loop["delayMs"] > 500_000) == (6, True)
        status = await idle.status()
        assert (status["child"]["state"], status["child"]["lastExit"]["code"]) == ("crash_loop", 3)
        assert "6 times in a row" in status["child"]["problem"]
        answer = await idle.post("/v1/codexd/turn", {"sessionId": session_id, "prompt": "plain"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "child_unavailable")
        assert (await idle.session_of(session_id))["lastTurnId"] is None
        assert idle.left() == []
        assert await idle.stop() == 0


# --- keepers that are not as they should be


async def test_a_stop_is_not_held_up_by_a_frozen_keeper(house: House) -> None:
    node, _ = house
    child, keeper = await node.child(), node.keeper
    os.kill(keeper, signal.SIGSTOP)
    node.signal(signal.SIGTERM)
    assert await node.ended() == 0
    assert node.left() == []
    assert not alive(child)
    await node.start()
    exits = [event["payload"]["reason"] for event in await node.events() if event["type"] == "child.exited"]
    assert exits == ["its keeper died"]


async def test_a_child_that_dies_while_codexd_drains_is_told_so_and_is_the_last(house: House) -> None:
    node, _ = house
    async with Oracle(node) as oracle:
        session_id, turn_id = await drained(house, oracle)
        os.kill((await node.status())["child"]["pid"], signal.SIGKILL)
        assert await node.ended() == 0
        node.settings["drain_ms"] = "0"
        await node.start()
        await oracle.end_of(turn_id)
        turn = await node.ledger(turn_id)
        assert (turn["status"], turn["reason"]) == ("interrupted", "child_exited")
        assert (await node.play(session_id, "plain"))["finalMessage"] == "Fine."
        await oracle.caught_up()
    started = [event["payload"]["generation"] for event in oracle.events if event["type"] == "child.started"]
    assert started[-2:] == [started[-1] - 1, started[-1]]  # none between the one that died and the next codexd's


# --- a log that went back


def copy_of(database: Path, to: Path) -> None:
    """A copy as a backup makes it, while codexd writes on."""
    source, target = apsw.Connection(str(database)), apsw.Connection(str(to))
    with target.backup("main", source, "main") as backup:
        while not backup.done:
            backup.step(100)
    target.close()
    source.close()


def put_back(copy: Path, database: Path) -> None:
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    shutil.copy(copy, database)


async def test_a_log_that_went_back_is_another_log(house: House, tmp_path: Path) -> None:
    node, model = house
    session_id, other = await node.session(), await node.session()
    turn_id = await node.turn(session_id, "held")
    await within(model.held("held"))
    copy_of(node.database, tmp_path / "copy")
    assert (await node.play(other, "plain"))["status"] == "completed"  # of this the copy knows nothing
    cursor, child, keeper = await node.head(), await node.child(), node.keeper
    await node.kill()
    put_back(tmp_path / "copy", node.database)
    await node.start()
    assert await node.child() != child
    assert not alive(child)
    assert not alive(keeper)

    went_back = (await node.head()).partition(":")[0] != cursor.partition(":")[0]
    saw("F44", went_back, "an older copy of the log was put in its place while codexd was dead")
    for after in (cursor, cursor.partition(":")[0] + ":1"):
        answer = await node.get("/v1/codexd/events", after=after)
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "cursor_expired")
        status, error = await refusal(stream(node, f"?after={after}"))
        assert (status, error["code"]) == (410, "cursor_expired")
    turn = await node.ledger(turn_id)
    assert (turn["status"], turn["reason"]) == ("lost", "log_went_back")
    assert (await node.status())["child"]["generation"] == 2
    for session in (session_id, other):
        assert (await node.play(session, "plain"))["finalMessage"] == "Fine."
    assert flaws_of(await node.events()) == []


async def test_a_turn_that_the_copy_holds_as_queued_is_not_run_twice(house: House, tmp_path: Path) -> None:
    node, model = house
    session_id, child = await node.session(), await node.child()
    os.kill(child, signal.SIGSTOP)  # it opens no thread, so the turn has to wait
    turn_id = await node.turn(session_id, "plain")
    copy_of(node.database, tmp_path / "copy")
    os.kill(child, signal.SIGCONT)
    assert (await node.end_of_turn(turn_id))["status"] == "completed"
    await node.kill()
    put_back(tmp_path / "copy", node.database)
    await node.start()
    await node.child()
    turn = await node.ledger(turn_id)
    assert (turn["status"], turn["reason"]) == ("lost", "log_went_back")
    assert (await node.play(session_id, "plain"))["finalMessage"] == "Fine."
    assert len(model.requests) == 2


async def test_a_log_that_knows_only_an_older_child_is_another_log_too(house: House, tmp_path: Path) -> None:
    node, model = house
    session_id, child = await node.session(), await node.child()
    turn_id = await node.turn(session_id, "held")
    await within(model.held("held"))
    copy_of(node.database, tmp_path / "copy")
    os.kill(child, signal.SIGKILL)
    assert (await node.end_of_turn(turn_id))["status"] == "interrupted"
    second, keeper, cursor = await node.child(), node.keeper, await node.head()
    await node.kill()
    put_back(tmp_path / "copy", node.database)
    await node.start()
    await node.child()
    assert not alive(second)
    assert not alive(keeper)
    answer = await node.get("/v1/codexd/events", after=cursor)
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "cursor_expired")
    turn = await node.ledger(turn_id)
    assert (turn["status"], turn["reason"]) == ("lost", "log_went_back")
