"""The commands as a user has them: `baa demo` and `baa up`, each from its start to its end, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import psutil
import pytest
from codex_cli_bin import bundled_codex_path

SOURCES = str(Path(__file__).parents[2] / "src")
WAIT_SECONDS = 30

STATEMENTS = (
    "turn 1: completed",
    "turn 2: completed",
    "turn 3: completed",
    "turn 2: Codex ran the test (exit 1), edited a file, ran the test again (exit 0)",
    "turn 2: the file on disk and `git diff` show that edit and no other",
    "turn 3: 120 of 120 deltas came, each exactly once and in order",
    "over 2 connections, gaps 0, repeats 0",
    "SIGTERM ends codexd with exit 0; of 3 processes (codexd, its keeper, Codex) 0 are left",
    "   gaps      0, as the outside reader found",
)
REAL = "The model was scripted; everything else was real."
UNCONFINED = "The model was scripted, and there was no sandbox; everything else was real."


class Machine:
    """A user's machine: `home` and `temporary` are folders of its own, and what it runs can be found by them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.temporary = folder / "tmp"
        for made in (self.home, self.temporary):
            made.mkdir()

    def command(self, *arguments: str) -> list[str]:
        """The command `baa`."""
        return [sys.executable, "-m", "baa.cli", *arguments]

    def environment(self, **settings: str) -> dict[str, str]:
        """A user's environment, with these variables beside."""
        usual = {"PATH": os.environ["PATH"], "HOME": str(self.home), "TMPDIR": str(self.temporary)}
        return usual | {"PYTHONPATH": SOURCES} | settings

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run `baa` to its end."""
        with self.start(*arguments, **settings) as process:
            stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    @contextmanager
    def start(self, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
        """`baa` while it runs. At the end nothing of it runs, whatever the test did."""
        process = subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(**settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            with process:
                yield process
        finally:
            for left in self.processes():
                with suppress(psutil.NoSuchProcess):
                    left.kill()

    def processes(self) -> list[psutil.Process]:
        """Every living process whose environment names this machine's folders."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                ours = any(str(self.folder) in value for value in process.environ().values())
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def untouched(self) -> None:
        """Nothing runs, and no file was left."""
        assert self.processes() == []
        assert [*self.home.iterdir(), *self.temporary.iterdir()] == []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def until_says(process: subprocess.Popen[str], word: str) -> str:
    """The first line of its stdout with this word in it."""
    assert process.stdout is not None
    for line in process.stdout:
        if word in line:
            return line
    assert process.stderr is not None
    raise AssertionError(f"it never said {word!r}; stderr: {process.stderr.read()}")


def a_codex(folder: Path, body: str) -> str:
    """A program that stands for Codex: the real one is `$CODEX` in it."""
    path = folder / "codex"
    path.write_text(f"#!/bin/sh\nCODEX='{bundled_codex_path()}'\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_the_demo_shows_what_it_says_and_leaves_nothing(machine: Machine) -> None:
    done = machine.run("demo")
    assert (done.returncode, done.stderr) == (0, "")
    assert [statement for statement in STATEMENTS if statement not in done.stdout] == []
    assert "FAILED  " not in done.stdout
    assert REAL in done.stdout or UNCONFINED in done.stdout
    assert "\x1b" not in done.stdout
    machine.untouched()


def test_two_demos_at_once_and_a_users_own_settings_do_not_disturb_one_another(machine: Machine) -> None:
    foreign = {
        "BAA_HOME": str(machine.folder / "nowhere"),
        "BAA_CONFIG": str(machine.folder / "none.toml"),
        "BAA_CODEXD_LOCAL_API_BASE": "http://127.0.0.1:1",
        "CODEX_HOME": str(machine.folder / "nowhere"),
        "GIT_DIR": str(machine.folder / "nowhere"),
        "http_proxy": "http://127.0.0.1:9",
        "FORCE_COLOR": "1",
    }
    with machine.start("demo") as one, machine.start("demo", **foreign) as other:
        said = [process.communicate() for process in (one, other)]
    assert [(process.returncode, stderr) for process, (_, stderr) in zip((one, other), said, strict=True)] == [
        (0, "")
    ] * 2
    assert "\x1b[" in said[1][0]
    assert not (machine.folder / "nowhere").exists()
    machine.untouched()


def test_where_codex_has_no_sandbox_the_demo_says_why_and_goes_on_without(machine: Machine) -> None:
    refusing = 'if [ "$1" = sandbox ]; then echo "bwrap: No permissions" >&2; exit 1; fi; exec "$CODEX" "$@"'
    done = machine.run("demo", BAA_CODEXD_SERVER_COMMAND=a_codex(machine.folder, refusing))
    assert (done.returncode, done.stderr) == (0, "")
    assert "cause     bwrap: No permissions\n" in done.stdout
    assert "   cure      " in done.stdout
    assert "sandbox   danger-full-access" in done.stdout
    assert UNCONFINED in done.stdout
    machine.untouched()


def test_a_demo_whose_codex_does_not_stay_up_fails_and_keeps_its_folder(machine: Machine) -> None:
    dying = 'if [ "$1" = sandbox ]; then exit 0; fi; echo "no such luck" >&2; exit 3'
    done = machine.run("demo", BAA_CODEXD_SERVER_COMMAND=a_codex(machine.folder, dying))
    assert (done.returncode, done.stderr) == (1, "")
    assert "Codex ended (code 3): no such luck" in done.stdout
    assert "Codex does not stay up" in done.stdout
    assert REAL not in done.stdout
    (kept,) = machine.temporary.iterdir()
    assert f"Kept: {kept.resolve()}" in done.stdout
    assert machine.processes() == []


@pytest.mark.parametrize("word", ["codexd is dead", "> The test fails", "folder "])
def test_ctrl_c_leaves_no_process_and_no_folder(machine: Machine, word: str) -> None:
    with machine.start("demo") as process:
        until_says(process, word)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (130, "")
    assert stdout.endswith("Stopped. No process and no folder is left.\n")
    machine.untouched()


def test_for_programs_the_result_is_json(machine: Machine) -> None:
    done = machine.run("demo", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["ok"]
    assert all(statement["ok"] for statement in told["statements"])
    assert [turn["status"] for turn in told["turns"]] == ["completed"] * 3
    machine.untouched()


def test_a_demo_that_is_kept_says_how_to_reach_it_until_ctrl_c(machine: Machine) -> None:
    with machine.start("demo", "--keep") as process:
        until_says(process, "It runs on until Ctrl-C:")
        status = until_says(process, "/v1/codexd/status").split()[1]
        assert httpx2.get(status, trust_env=False).json()["ok"]
        assert "/openapi.json" in until_says(process, "described")
        line = until_says(process, "curl -s -H")
        command = line.split(maxsplit=1)[1]
        said = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)  # noqa: S602
        assert json.loads(said.stdout)["ok"]
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate()
    assert (process.returncode, stdout.strip()) == (0, "Stopped. No process and no folder is left.")
    machine.untouched()


def test_a_reader_that_goes_away_ends_the_demo_in_order(machine: Machine) -> None:
    with machine.start("demo") as process:
        until_says(process, "folder ")
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 128 + signal.SIGHUP
    machine.untouched()


def test_up_serves_until_ctrl_c_and_leaves_no_process(machine: Machine) -> None:
    settings = {"BAA_HOME": str(machine.folder / "baa"), "BAA_CODEXD_LOCAL_API_BASE": "http://127.0.0.1:0"}
    with machine.start("up", "--service", "codexd", **settings) as process:
        line = until_says(process, "codexd http")
        assert "Ctrl-C" in line
        address = line.split()[1]
        assert httpx2.get(f"{address}/healthz", trust_env=False).json() == {"ok": True, "data": {"status": "ok"}}
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, "")
    assert stdout.splitlines()[-1].split() == [stdout.splitlines()[-1].split()[0], "codexd", "stopped"]
    machine.untouched()


def test_up_without_any_codex_serves_what_it_knows_and_says_what_to_install(machine: Machine) -> None:
    settings = {
        "BAA_HOME": str(machine.folder / "baa"),
        "BAA_CODEXD_LOCAL_API_BASE": "http://127.0.0.1:0",
        "BAA_CODEXD_SERVER_COMMAND": str(machine.folder / "none"),
    }
    with machine.start("up", "--service", "codexd", **settings) as process:
        address = until_says(process, "codexd http").split()[1]
        open_to_all = httpx2.get(f"{address}/v1/codexd/status", trust_env=False).json()["data"]
        token = (machine.folder / "baa" / "state" / "tokens" / "read").read_text().strip()
        with_token = {"authorization": f"Bearer {token}"}
        status = httpx2.get(f"{address}/v1/codexd/status", trust_env=False, headers=with_token).json()["data"]
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert status["child"]["state"] == "unavailable"
    assert "BAA_CODEXD_SERVER_COMMAND" in status["child"]["problem"]
    assert str(machine.folder) not in open_to_all["child"]["problem"], "a path is told to holders of a token"
    assert stderr == f"child: unavailable. {status['child']['problem']}\n"
    assert process.returncode == 0
    machine.untouched()
