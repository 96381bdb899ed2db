"""`baa up`: the programs of this node in the foreground. This release has one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from baa import config
from baa.api.errors import CannotStart
from baa.codexd import program
from baa.codexd.__main__ import main as codexd

SERVICES: Final = ("codexd",)
EX_USAGE: Final = 64


def run(services: tuple[str, ...], config_file: Path | None) -> int:
    """Run the services until they are stopped; the exit code. Raises CannotStart."""
    unknown = sorted(set(services) - set(SERVICES))
    if unknown:
        raise CannotStart(
            f"There is no service {', '.join(unknown)} in this release. There is: {', '.join(SERVICES)}.",
            exit_code=EX_USAGE,
        )
    resolved = config.load(config_file)
    try:
        program.find(resolved.server_command)
    except program.NoProgram as missing:
        sys.stderr.write(f"child: unavailable. {missing}\n")

    def say_where(address: str) -> None:
        print(f"codexd {address}  (log: {resolved.logs_dir}, stop: Ctrl-C)", flush=True)

    return codexd(config_file, on_started=say_where)
