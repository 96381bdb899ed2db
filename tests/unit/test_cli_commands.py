"""Every command as a user meets it: help with an example, JSON for programs, and a wrong use told in plain lines."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, Literal

import pytest

from baa.api.errors import STATUS, Code, PeerFailed, Rejected, Unavailable
from baa.api.events import TURN_ENDS
from baa.api.sessions import TurnStatus
from baa.cli import app
from baa.cli.remote import exit_code
from baa.cli.run import EXIT
from tests.support.commands import Command, commands, document

ALL: Final = commands()
DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


@pytest.mark.parametrize("command", ALL, ids=str)
def test_its_help_has_an_example_that_begins_with_it(command: Command) -> None:
    assert command.about
    assert f"baa {' '.join(command.words)}" in command.example, command.example


@pytest.mark.parametrize("command", ALL, ids=str)
def test_programs_get_json(command: Command) -> None:
    assert "--json" in command.options


def test_the_document_is_what_the_commands_say() -> None:
    assert DOCUMENT.read_text() == document(), "python -m tests.support.commands > docs/cli.md"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete_every_command(shell: Literal["bash", "zsh", "fish"]) -> None:
    script = app.generate_completion(prog_name="baa", shell=shell)
    assert [word for command in ALL for word in command.words if word not in script] == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="apt-get install bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("baa ses", {"session"}),
        ("baa turn ", {"show", "list", "interrupt", "steer", "diff"}),
        ("baa run --sandbox ", {"read-only", "workspace-write", "danger-full-access"}),
    ],
)
def test_bash_completes_commands_and_the_values_of_options(typed: str, offered: set[str], tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    install = [sys.executable, "-m", "baa.cli", "--install-completion", "--shell", "bash"]
    subprocess.run(install, env=environment, capture_output=True, check=True)
    words = typed.split(" ")
    ask = f'. ~/.bashrc; COMP_WORDS=("$@"); COMP_CWORD={len(words) - 1}; _baa; printf "%s\\n" "${{COMPREPLY[@]}}"'
    command = ["bash", "--norc", "-c", ask, "bash", *words]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert set(said.stdout.split()) >= offered
    assert set(said.stdout.split()) == offered or typed.endswith(" ")


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.INTERNAL_ERROR])
def test_every_refusal_has_an_exit_code_that_the_document_explains(code: Code) -> None:
    kind = next(kind for kind in (Rejected, Unavailable, PeerFailed) if STATUS[code] in kind.statuses)
    assert str(exit_code(kind(code, "no"))) in explained()


def test_every_end_of_a_turn_has_an_exit_code_of_its_own() -> None:
    assert set(EXIT) == {status for status in TurnStatus if status.value in {type_[5:] for type_ in TURN_ENDS}}
    assert (EXIT[TurnStatus.COMPLETED], len(set(EXIT.values()))) == (0, len(EXIT))


def explained() -> set[str]:
    """The exit codes of docs/cli.md's first lines."""
    return set(re.findall(r"\b\d+\b", DOCUMENT.read_text().partition("Exit codes are")[2].partition("\n\n")[0]))


def test_every_option_says_what_it_is_for() -> None:
    assert [f"{command} {name}" for command in ALL for name, about in command.options.items() if not about] == []
