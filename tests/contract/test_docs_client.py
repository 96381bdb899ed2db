"""docs/client.md, executed: each of its programs by itself, against codexd and the real Codex."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Final

import pytest

from baa.scripted import Run, Say, ScriptedModel, when
from tests.contract.test_docs_api import Block, flaws
from tests.support.node import Node, within

pytestmark = pytest.mark.timeout(120)

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "client.md"
SCENARIOS: Final = (
    when("Say hello", Say("Hello.")),
    when("Count to three", Say(("One, ", "two, ", "three.\n"))),
    when(
        "Make a file",
        Run("touch made.txt", sandbox_permissions="require_escalated", justification="May I?"),
        Say("So."),
    ),
)


def programs(text: str) -> list[Block]:
    """The programs of a document, and what each says."""
    found = []
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        lines = block.splitlines()
        expected = [line.removeprefix("# > ") for line in lines if line.startswith("# >")]
        found.append(Block("\n".join(line for line in lines if not line.startswith("# >")), expected))
    return found


async def test_what_the_document_shows_is_what_happens(tmp_path: Path) -> None:
    async with ScriptedModel(SCENARIOS) as model, Node(tmp_path, model.base_url) as node:
        await node.start()
        await node.child()
        shown = programs(DOCUMENT.read_text())
        assert len(shown) >= 5
        for program in shown:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", program.script),
                cwd=node.work,
                env=node.environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            said, errors = await within(process.communicate())
            assert (errors.decode(), process.returncode) == ("", 0), program.script
            assert flaws(program, said.decode()) == [], program.script
