"""The scripted model as a process of its own, so that answering costs the measuring process nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from baa.scripted import Say, Scenario, encode_script, when

SMALL = "small."
"""The prompt of a turn that says a few words."""

STEADY = "steady."
"""The prompt of a turn that speaks at 100 deltas a second."""

STEADY_DELTAS = 300


def flood(count: int) -> str:
    """The prompt that is answered with this many deltas, as fast as they go."""
    return f"flood {count}."


def script(*counts: int, steady: int = STEADY_DELTAS) -> tuple[Scenario, ...]:
    """Floods of these sizes, the steady turn and the small one."""
    floods = (when(flood(count), Say.numbered(count)) for count in counts)
    return (*floods, when(STEADY, Say.numbered(steady, 10)), when(SMALL, Say("That is all.")))


@contextmanager
def served(folder: Path, scenarios: tuple[Scenario, ...]) -> Iterator[str]:
    """The address that Codex takes as its provider's."""
    file = folder / "script.json"
    file.write_bytes(encode_script(scenarios))
    command = (sys.executable, "-m", "baa.scripted", "--script", str(file))
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            base_url: str = msgspec.json.decode(process.stdout.readline())["baseUrl"]
            yield base_url
        finally:
            process.terminate()
