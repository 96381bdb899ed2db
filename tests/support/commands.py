"""The commands of `baa` as data, read off the command line itself; as a program it writes docs/cli.md.

python -m tests.support.commands > docs/cli.md
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from typing import Any

from cyclopts import App

from baa.cli import app as whole

HEAD = """# The command line

Made from the commands themselves: `python -m tests.support.commands > docs/cli.md`.

Every command has `--help`. With `--json` it says the same for programs, in one object that has `ok`; a failure is
`{"ok":false,"error":{"code","message","details"}}`, with a code of codexd's, or `unreachable` (no program answers),
`usage` (wrong use) or `cannot_start`. Exit codes are those of sysexits.h: 0 done, 64 wrong use, 65 refused as it was
asked, 66 there is no such thing, 69 a program does not answer, 70 a mistake of ours, 73 and 74 a file cannot be made
or written, 75 not now, 77 not allowed or not logged in, 78 the configuration; 1 a check failed; 130 Ctrl-C,
141 nobody reads on what it prints.
`baa --install-completion` is for bash, zsh and fish.
"""


@dataclass
class Command:
    """A command: its words after `baa`, what it does, its example, its arguments and options with what each is for."""

    words: tuple[str, ...]
    about: str
    example: str
    arguments: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join(self.words)


def commands() -> list[Command]:
    """All of them, in the order of their names."""
    return sorted(_below(whole, ()), key=lambda command: command.words)


def _below(app: App, words: tuple[str, ...]) -> list[Command]:
    names = [name for name in app if not name.startswith("-")]
    if not names:
        return [_command(app, words)]
    return [found for name in names for found in _below(app[name], (*words, name))]


def _command(app: App, words: tuple[str, ...]) -> Command:
    function: Any = app.default_command
    text = re.sub(r"\n +", "\n", (function.__doc__ or "").partition("Parameters\n")[0]).strip()
    about, _, example = text.partition("Example: ")
    found = Command(words, about.strip(), example.strip().strip("`"))
    for argument in app.assemble_argument_collection(parse_docstring=True):
        if not argument.show:
            continue
        about = " ".join((argument.parameter.help or "").split())
        name = argument.name
        (found.options if name.startswith("--") else found.arguments)[name] = about
    return found


def document() -> str:
    """docs/cli.md."""
    parts = [HEAD]
    group = ""
    for command in commands():
        if command.words[0] != group:
            group = command.words[0]
            if len(command.words) > 1:
                parts.append(f"\n## baa {group}\n")
        level = "##" if len(command.words) == 1 else "###"
        parts.append(f"\n{level} baa {command}\n\n{command.about}\n\n```sh\n{command.example}\n```\n")
        rows = [*command.arguments.items(), *command.options.items()]
        if rows:
            parts.append("\n| | |\n|---|---|\n" + "".join(f"| `{name}` | {about} |\n" for name, about in rows))
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(document())
