"""docs/codexd-api.md, executed: its blocks in their order, as one shell, against codexd and the real Codex."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from baa.scripted import Hold, Run, Say, ScriptedModel, when
from tests.support.node import Node, within

pytestmark = pytest.mark.timeout(180)

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "codexd-api.md"
SCENARIOS: Final = (
    when("Say hello", Say("Hello.")),
    # Codex asks the model anew with what it was steered by.
    *(when(phrase, Hold("never")) for phrase in ("Count to", "even ones", "backwards")),
    when(
        "Make a file",
        Run("touch made.txt", sandbox_permissions="require_escalated", justification="May I?"),
        Say("So."),
    ),
    when("Which port", Say('{"port": 4319}')),
)
EXPECTED: Final = "#>"
BETWEEN: Final = "\x1e"

MISSING: Final = [program for program in ("bash", "curl", "jq") if shutil.which(program) is None]


class Block(NamedTuple):
    """A block of the document: what is run, and what should come out, line by line."""

    script: str
    expected: list[str]


def blocks(text: str) -> list[Block]:
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        lines = block.splitlines()
        expected = [line.removeprefix(EXPECTED).removeprefix(" ") for line in lines if line.startswith(EXPECTED)]
        found.append(Block("\n".join(line for line in lines if not line.startswith(EXPECTED)), expected))
    return found


def fits(expected: str, said: str) -> bool:
    """Whether a line came out as written; an ellipsis stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, expected.split("…"))), said) is not None


def flaws(block: Block, said: str) -> list[str]:
    lines = said.splitlines()
    flaws = [
        f"{said!r} and not {wanted!r}"
        for wanted, said in zip(block.expected, lines, strict=False)
        if not fits(wanted, said)
    ]
    if len(lines) != len(block.expected):
        flaws.append(f"{len(lines)} lines and not {len(block.expected)}: {lines}")
    return flaws


async def run(script: str, node: Node, errors: Path) -> tuple[int | None, str]:
    """The shell's exit code, and what it said. What it leaves in the background may hold stderr: hence a file."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(node.folder / "user"),
        "BAA_HOME": str(node.home),
        "BAA_CODEXD_LOCAL_API_BASE": node.address,
        "LC_ALL": "C.UTF-8",
    }
    with errors.open("wb") as stderr:
        shell = await asyncio.create_subprocess_exec(
            *("bash", "-eu", "-c", script),
            cwd=node.work,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
        said, _ = await within(shell.communicate(), 120)
    return shell.returncode, said.decode()


@pytest.mark.skipif(bool(MISSING), reason=f"apt-get install {' '.join(MISSING)}")
async def test_what_the_document_shows_is_what_happens(tmp_path: Path) -> None:
    shown = blocks(DOCUMENT.read_text())
    script = f"\nprintf '{BETWEEN}'\n".join(block.script for block in shown)
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        await node.child()
        code, said = await run(script, node, tmp_path / "errors")
        told = said.split(BETWEEN)
        wrong = {block.script: flaws(block, out) for block, out in zip(shown, told, strict=False)}
        assert {script: found for script, found in wrong.items() if found} == {}
        assert ((tmp_path / "errors").read_text(), code, len(told)) == ("", 0, len(shown))


def test_what_is_wrong_in_a_document_would_be_found() -> None:
    (block,) = blocks("text\n```sh\necho one\n#> one\n#>\n```\n```json\n{}\n```\n")
    assert block == Block("echo one", ["one", ""])
    assert flaws(block, "one\n\n") == []
    assert flaws(block, "two\n\n") == ["'two' and not 'one'"]
    assert flaws(block, "one\n") == ["1 lines and not 2: ['one']"]
    assert fits('{"a":"…"}', '{"a":"b"}')
    assert not fits("a…", "b")
