"""Keepers as processes: how one is spawned, and how one is met again."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from baa.codexd import cgroups, leftovers, program
from baa.codexd.appserver.keeper_link import KeeperGone, KeeperLink, KeeperRefused
from baa.codexd.generation import Generation
from baa.codexd.installed import Installed

KEEPER: Final = Path(__file__).resolve().parents[1] / "keeper"

PROGRAM: Final = "program"
"""The file in a keeper's folder that says what its child runs."""

MEET_S: Final = 5.0
"""Seconds in which a living keeper says hello; a new one needs some 50 ms, most of them Python's own start."""

KNOCK_S: Final = 0.01
"""Seconds between two tries to meet a keeper that is starting: it makes its socket when it is ready for us."""

_log = structlog.get_logger("keepers")


@dataclass(frozen=True, slots=True)
class Setting:
    """Where keepers live and what they run. `umask` is the user's own: what Codex writes is theirs."""

    keepers: Path
    daemon_lock: Path
    codex_home: Path
    server_command: str
    server_args: tuple[str, ...]
    orphan_ms: int
    umask: int
    version: str


def spawn(generation: Generation, found: Path, setting: Setting) -> subprocess.Popen[bytes]:
    """Spawn the keeper of a generation that is in the log already; `found` is the program to run as the child.

    It starts the child only when told to, and ends by itself if nobody tells it to. Raises OSError.
    """
    generation.folder.mkdir(mode=0o700, parents=True)
    if generation.program is not None:  # for a codexd that comes back, which must know whether it is outdated
        (generation.folder / PROGRAM).write_text(f"{generation.program.path}\n{generation.program.file}\n")
    cgroup = cgroups.make(generation.keeper_id)
    if cgroup is not None:
        (generation.folder / cgroups.FILE).write_text(str(cgroup))
    command = [
        *(sys.executable, "-I", "-S", str(KEEPER)),
        *("--folder", str(generation.folder), "--keeper-id", generation.keeper_id),
        *("--generation", str(generation.number), "--daemon-lock", str(setting.daemon_lock)),
        *("--orphan-ms", str(setting.orphan_ms), "--cgroup", str(cgroup or ""), "--"),
        *program.arguments(found, setting.server_args),
    ]
    environment = program.environment(os.environ, codex_home=setting.codex_home, keeper_id=generation.keeper_id)
    with (generation.folder / "keeper.log").open("ab") as log:
        return subprocess.Popen(
            command,
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            umask=setting.umask,
        )


def program_of(folder: Path) -> Installed | None:
    """What the child of this keeper runs; None if it was started by a codexd that did not put it down."""
    try:
        path, file = (folder / PROGRAM).read_text().splitlines()
    except (OSError, ValueError):
        return None
    return Installed(Path(path), file)


async def meet(generation: Generation, spawned: subprocess.Popen[bytes] | None = None) -> KeeperLink | None:
    """The link to the keeper of a generation; None if it is dead, or did not answer and was ended for it.

    Raises KeeperNewer.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(MEET_S):
            while True:
                try:
                    return await KeeperLink.connect(generation.folder, generation.keeper_id)
                except KeeperGone:
                    if not (spawned.poll() is None if spawned else leftovers.keeper_of(generation.folder)):
                        return None
                    await asyncio.sleep(KNOCK_S)
                except KeeperRefused as refused:
                    _log.error("keeper.refused", why=str(refused))
                    break
    keeper = leftovers.keeper_of(generation.folder)
    if keeper is not None:
        _log.error("keeper.ended", pid=keeper.pid, why="it did not answer")
        await leftovers.end_keeper(keeper, at_once=True)
    return None
