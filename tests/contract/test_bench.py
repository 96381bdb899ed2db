"""`make bench` in its short form: every part runs to its end and counts right. No figure is looked at."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
import pytest

from tests.support.node import within

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
async def test_the_short_form_measures_everything(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "bench",
            "--short",
            "--json",
            str(tmp_path / "json"),
            "--plots",
            str(tmp_path / "plots"),
        ),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, told = await within(process.communicate(), 240)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, told.decode()
    rows = {row["name"]: row for row in msgspec.json.decode((tmp_path / "json").read_bytes())["rows"]}
    held = [row for row in rows.values() if row["target"]]
    assert len(held) >= 14
    assert all(row["name"] in said.decode() for row in held)
    assert rows["subscribers that missed an event"]["figure"] == 0
    compared = rows["a small turn, asked to ended"]["columns"]
    assert set(compared) == {"bare", "ws listener", "python sdk", "codexd"}
    plots = sorted(path.read_text() for path in (tmp_path / "plots").iterdir())
    assert len(plots) == 9
    assert all(plot.startswith("<svg") and "circle" in plot for plot in plots)
