"""Every command as a user meets it: help with an example, JSON for programs, and a wrong use told in plain lines."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import pytest

from baa.cli import app
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


def test_every_option_says_what_it_is_for() -> None:
    assert [f"{command} {name}" for command in ALL for name, about in command.options.items() if not about] == []
