"""The command line: what it answers by itself, and how it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from baa import __version__

HEAVY = ("textual", "apsw", "asyncio", "httpx2", "litestar", "psutil", "structlog", "uvicorn", "websockets")


def baa(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "baa.cli", *arguments]
    path = {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=path | environment, stdin=subprocess.DEVNULL
    )


def test_the_version_is_told() -> None:
    done = baa("--version")
    assert (done.returncode, done.stdout) == (0, f"baa {__version__}\n")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("up", "--help"), ("demo", "--help")])
def test_help_teaches_with_an_example(arguments: tuple[str, ...]) -> None:
    done = baa(*arguments, COLUMNS="120")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"baa {arguments[0]}" if len(arguments) > 1 else "baa up" in done.stdout


def test_help_needs_nothing_heavy() -> None:
    code = f"import sys, baa.cli; print([name for name in {HEAVY} if name in sys.modules])"
    path = {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=path)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("upp",), 'Unknown command "upp". Did you mean "up"?'),
        (("up", "--bogus"), "Unknown option: --bogus."),
        (("up", "--service"), "--service requires an argument."),
        (("up", "--service", "conductr", "--service", "codexd"), "There is no service conductr."),
    ],
)
def test_a_misuse_is_told_in_plain_lines_with_its_code(arguments: tuple[str, ...], told: str) -> None:
    done = baa(*arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith("baa: ")
    assert told in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert done.stderr.isascii()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--json", "upp"), "Unknown command"),
        (("up", "--bogus", "--json"), "Unknown option: --bogus.\nSee: baa up --help"),
        (("up", "--json", "--service", "nope"), "There is no service nope."),
        (("run", "x", "--json", "--output", "nope"), "A turn has no field nope."),
        (("answer", "--json", "--answer", "x"), "QUESTION=ANSWER"),
        (("session", "show", "--json"), "requires an argument"),
    ],
)
def test_a_misuse_is_told_to_programs_as_every_other_failure(arguments: tuple[str, ...], told: str) -> None:
    done = baa(*arguments, HOME="/nowhere")
    failure = json.loads(done.stdout)
    assert (done.returncode, done.stderr, failure["ok"]) == (64, "", False)
    assert set(failure["error"]) == {"code", "message", "details"}
    assert (failure["error"]["code"], failure["error"]["details"]) == ("usage", {})
    assert told in failure["error"]["message"]


@pytest.mark.parametrize("arguments", [("watch",), ("attach", "ses_a"), ("session", "list"), ("service", "check")])
def test_what_cannot_start_is_told_to_programs(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "baa.toml").write_text("listen = 1\n")
    done = baa(*arguments, "--json", "--config", str(tmp_path / "baa.toml"), HOME=str(tmp_path))
    failure = json.loads(done.stdout)
    assert (done.returncode, done.stderr, failure["error"]["code"]) == (78, "", "cannot_start")
    assert "listen" in failure["error"]["message"]


def test_what_stands_after_two_dashes_is_no_option() -> None:
    done = baa("up", "--", "--json")
    assert (done.returncode, done.stdout) == (64, "")


def test_an_unknown_service_is_told_which_there_are() -> None:
    assert "There are: conductor, codexd, status-api, worker-runner." in baa("up", "--service", "nope").stderr


def test_a_configuration_that_cannot_be_is_refused_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "baa.toml"
    file.write_text("[codexd]\nlisten = 1\n")
    done = baa("up", "--config", str(file), BAA_HOME=str(tmp_path))
    assert done.returncode == 78
    assert str(file) in done.stderr
    assert "listen" in done.stderr


def test_the_demo_says_what_to_install_when_there_is_no_codex(tmp_path: Path) -> None:
    done = baa("demo", HOME=str(tmp_path), TMPDIR=str(tmp_path), BAA_CODEXD_SERVER_COMMAND=str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (69, "")
    assert "BAA_CODEXD_SERVER_COMMAND" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [("watch",), ("attach", "ses_a")])
def test_a_screen_needs_a_terminal(command: tuple[str, ...]) -> None:
    done = baa(*command, HOME="/nowhere")
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith(f"baa: baa {command[0]} needs a terminal.")


@pytest.mark.parametrize(
    "arguments", [("config", "show"), ("token", "show", "--json"), ("--help",), ("--version",), ("turn", "--help")]
)
def test_whoever_has_read_enough_is_not_told_a_traceback(arguments: tuple[str, ...], tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    environment = {
        "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
        "BAA_HOME": str(tmp_path),
        "HOME": str(tmp_path),
    }
    command = [sys.executable, "-m", "baa.cli", *arguments]
    try:
        done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, check=False, env=environment)
    finally:
        os.close(writes)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("arguments", [(b"run", b"x\xff"), (b"run",)])
def test_a_prompt_that_is_no_text_is_refused(arguments: tuple[bytes, ...], tmp_path: Path) -> None:
    environment = {
        "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
        "BAA_HOME": str(tmp_path),
        "HOME": str(tmp_path),
    }
    command = [sys.executable.encode(), b"-m", b"baa.cli", *arguments]
    done = subprocess.run(command, input=b"x\xff", capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (65, b"", b"baa: The prompt is not UTF-8 text.\n")
