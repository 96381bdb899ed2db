"""A short run of bad input: a program of its own, whose exit code says whether its figures hold."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.support.faults import saw
from tests.support.node import within

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]


async def test_whatever_a_description_allows_and_forbids_is_answered_as_described() -> None:
    """The seed is fixed: chance belongs into `make proof`, which tries far more."""
    arguments = ("--examples", "20", "--seed", "7", "--short", "--json")
    command = [sys.executable, "-m", "tests.proof.inputs", *arguments]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE, stderr=PIPE)
    try:
        figures, said = await within(process.communicate(), 270)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    print(said.decode())
    assert process.returncode == 0, figures.decode()
    told = {figure["name"]: figure["value"] for figure in json.loads(figures)}
    assert told["bad_inputs_5xx"] == told["bad_inputs_crashes"] == told["bad_inputs_leaks"] == 0
    saw("F80", told["bad_inputs_tried"] > 1000, f"{told['bad_inputs_tried']:.0f} requests were made of the description")
