"""A program as a process: its arguments, its exit codes, its one line on stdout, and what stops it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.faults import saw
from tests.support.node import Node, until, within

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the node's tests look at /proc"),
    pytest.mark.timeout(120),
]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A node without Codex, of which no codexd was started."""
    async with Node(tmp_path, "http://127.0.0.1:1", server_command=str(tmp_path / "codex")) as made:
        yield made


@asynccontextmanager
async def running(node: Node, *arguments: str, **settings: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "baa.codexd", *arguments),
        env=node.environment(**settings),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def served(process: Process) -> str:
    assert process.stdout is not None
    line = (await within(process.stdout.readline())).decode()
    assert line.startswith("codexd http://127.0.0.1:")
    return line


async def ended(process: Process) -> tuple[int | None, str, str]:
    """Exit code, the rest of stdout, stderr. Reads the pipes as they are: communicate() would end stdin first."""
    assert process.stdout is not None
    assert process.stderr is not None
    code = await within(process.wait())
    return code, (await process.stdout.read()).decode(), (await process.stderr.read()).decode()


# --- stops


async def test_the_end_of_stdin_is_a_stop_for_who_asked_for_it(node: Node) -> None:
    async with running(node, "--stop-with-stdin") as process:
        await served(process)
        assert process.stdin is not None
        process.stdin.write(b"what is written there means nothing\n")
        await process.stdin.drain()
        process.stdin.close()
        assert await ended(process) == (0, "", "")
    assert not (node.home / "state" / "endpoint.json").exists()


async def test_the_end_of_stdin_means_nothing_to_others(node: Node) -> None:
    async with running(node) as process:
        await served(process)
        assert process.stdin is not None
        process.stdin.close()
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == (0, "", "")


async def test_with_the_foreground_a_codexd_ends_that_had_announced_a_hand_over(node: Node) -> None:
    async with running(node, "--stop-with-stdin") as process:
        node.address = (await served(process)).split()[1]
        assert (await node.post("/v1/codexd/status/handover", {})).status_code == 202
        assert process.stdin is not None
        process.stdin.close()
        assert await ended(process) == (0, "", "")
    assert '"event":"stopped"' in node.log
    assert '"event":"handed over"' not in node.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_codexd_that_is_stopped_while_it_starts_leaves_nothing(
    node: Node, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "codex").write_text("#!/bin/sh\nexec tail -f /dev/null\n")  # starts, and never answers
    (tmp_path / "codex").chmod(0o700)
    async with running(node) as process:
        await until((node.state / "daemon.lock").exists)  # made after the signals have their handlers
        process.send_signal(number)
        code, _, complained = await ended(process)
        assert (code, complained) == (0, "")
    assert node.left() == []


# --- starts


async def test_a_configuration_that_is_wrong_is_78_and_says_where(node: Node, tmp_path: Path) -> None:
    (tmp_path / "unknown.toml").write_text("[codexd]\ndrain = 1\n")
    (tmp_path / "type.toml").write_text("[codexd]\ndrain_ms = 'long'\n")
    (tmp_path / "huge.toml").write_bytes(b"x" * 5_000_000)
    for arguments, told in (
        (("--config", str(tmp_path / "unknown.toml")), "unknown field `drain`"),
        (("--config", str(tmp_path / "type.toml")), "$.codexd.drain_ms"),
        (("--config", str(tmp_path / "huge.toml")), "huge.toml"),
        (("--config", str(tmp_path / "missing.toml")), "does not exist"),
    ):
        async with running(node, *arguments) as process:
            code, said, complained = await ended(process)
        assert (code, said) == (78, "")
        assert complained.startswith("codexd: ")
        assert told in complained
        assert complained.count("\n") == 1
        assert len(complained) < 1000
        saw("F90", code == 78, f"codexd was started with a configuration that is wrong: {told}")
    assert not node.database.exists()


async def test_a_token_that_others_can_read_is_78_and_says_which(node: Node) -> None:
    folder = node.home / "state" / "tokens"
    folder.mkdir(mode=0o700, parents=True)
    (folder / "drive").write_text("t" * 43)
    (folder / "drive").chmod(0o644)
    async with running(node) as process:
        code, said, complained = await ended(process)
    assert (code, said) == (78, "")
    assert str(folder / "drive") in complained
    saw("F90", code == 78, "codexd was started with a token that others can read")


async def test_an_argument_that_is_unknown_is_refused(node: Node) -> None:
    async with running(node, "--exec") as process:
        code, said, complained = await ended(process)
    assert (code, said) == (2, "")
    assert "--exec" in complained


async def test_a_log_that_cannot_be_written_is_73(node: Node, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with running(node, logs_dir=str(tmp_path / "file" / "logs")) as process:
        code, said, complained = await ended(process)
    assert (code, said) == (73, "")
    assert "The log cannot be written to" in complained


async def test_the_log_goes_to_stderr_too_where_that_was_asked_for(node: Node) -> None:
    async with running(node, "--log-to-stderr") as process:
        await served(process)
        process.send_signal(signal.SIGTERM)
        code, said, complained = await ended(process)
    assert (code, said) == (0, "")
    lines = [json.loads(line) for line in complained.splitlines()]
    assert [line["event"] for line in lines if line["event"] in ("serving", "stopped")] == ["serving", "stopped"]
    assert complained == node.log
