"""Whether Codex's sandbox can run on this machine, and if not, why and what to do. Asked of Codex itself."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROBE: Final = ("sandbox", "-c", 'sandbox_mode="workspace-write"', "--", "/bin/sh", "-c", ":")
PROBE_S: Final = 10.0
"""It takes 0.05 s where it works."""

CAUSE_CHARS: Final = 300

SYSCTLS: Final = {
    "kernel/unprivileged_userns_clone": ("0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
    "kernel/apparmor_restrict_unprivileged_userns": ("1", "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
    "user/max_user_namespaces": ("0", "sudo sysctl user.max_user_namespaces=15000"),
}
"""What keeps a user from making namespaces: the file below /proc/sys, its forbidding value, the cure."""

CONTAINER_FILES: Final = ("/.dockerenv", "/run/.containerenv")


@dataclass(frozen=True, slots=True)
class NoSandbox:
    """Why there is none, in Codex's words, and what to do about it."""

    cause: str
    cure: str


async def probe(codex: Path, environment: Mapping[str, str], folder: Path) -> NoSandbox | None:
    """Run nothing in Codex's sandbox, as a turn would run its commands; None = it works."""
    process = await asyncio.create_subprocess_exec(
        codex,
        *PROBE,
        cwd=folder,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PROBE_S):
            _, said = await process.communicate()
    except TimeoutError:
        said = f"it did not end within {PROBE_S:.0f} s".encode()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode == 0:
        return None
    settings = {name: _read(Path("/proc/sys") / name) for name in SYSCTLS}
    container = any(Path(name).exists() for name in CONTAINER_FILES)
    return NoSandbox(
        cause(said.decode(errors="replace"), process.returncode),
        cure(sys.platform, settings, container=container),
    )


def cause(said: str, code: int | None) -> str:
    """What of Codex's stderr tells why: its last lines, without the warnings before."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("WARNING")]
    return " ".join(lines[-2:])[-CAUSE_CHARS:] or f"`codex sandbox` ended with code {code} and no word"


def cure(platform: str, settings: Mapping[str, str | None], *, container: bool) -> str:
    """What to do so that it works. `settings` are the kernel's, by their names in SYSCTLS."""
    if platform != "linux":
        return "do not run this inside another sandbox: `sandbox-exec` cannot be nested"
    commands = [command for name, (forbids, command) in SYSCTLS.items() if settings.get(name) == forbids]
    if container:
        commands.insert(
            0, "start the container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
        )
    if commands:
        return ", or ".join(commands)
    return "let this user make user namespaces (`unshare -Ur true` must succeed)"


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
