"""`python -m baa.scripted --script FILE --port 0`: the scripted model server as a process of its own.

Prints one line of JSON, {"baseUrl": …}, once it listens; ends on SIGTERM or SIGINT with exit status 0.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from baa.scripted.script import Scenario, decode_script
from baa.scripted.server import ScriptedModel


def main() -> None:
    """Reads the command line and serves until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m baa.scripted", description=__doc__)
    parser.add_argument("--script", type=Path, required=True, help="JSON: a list of {phrase, replies: [[{step, …}]]}")
    parser.add_argument("--port", type=int, default=0, help="loopback port; 0, the default, takes a free one")
    options = parser.parse_args()
    try:
        scenarios = decode_script(options.script.read_bytes())
    except (OSError, msgspec.DecodeError) as unusable:
        parser.error(f"{options.script}: {unusable}")
    asyncio.run(serve(scenarios, port=options.port))


async def serve(scenarios: Iterable[Scenario], *, port: int) -> None:
    """Serves until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with ScriptedModel(scenarios, port=port) as model:
        sys.stdout.write(msgspec.json.encode({"baseUrl": model.base_url}).decode() + "\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    main()
