"""A short crash loop: a program of its own, whose exit code says whether its figures hold (`make crashloop`)."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.support.faults import saw
from tests.support.node import within

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the crash loop looks at /proc"),
    pytest.mark.timeout(240),
]

ROOT = Path(__file__).parents[2]
KILLS = 9


async def test_a_short_crash_loop_loses_nothing_and_does_nothing_twice() -> None:
    command = [sys.executable, "-m", "tests.proof.crashloop", "--kills", str(KILLS), "--json"]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE, stderr=PIPE)
    try:
        figures, said = await within(process.communicate(), 200)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    print(said.decode())
    assert process.returncode == 0, figures.decode()
    told = {figure["name"]: figure for figure in json.loads(figures)}
    assert all(figure["holds"] for figure in told.values())
    assert (told["kills_of_codexd"]["value"], told["kills_in_startup"]["value"]) == (KILLS, KILLS / 3)
    saw("F01", told["kills_of_codexd"]["value"] == KILLS, f"codexd was killed {KILLS} times by an outsider")
    assert told["kills_of_child"]["value"] + told["kills_of_keeper"]["value"] >= 2
    assert told["events_lost"]["n"] > 0
