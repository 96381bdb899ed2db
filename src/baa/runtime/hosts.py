"""The service managers of the two systems, each behind the same few words. What is run is always an argument list."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct

from baa.api.errors import EX_UNAVAILABLE, CannotStart
from baa.runtime import services
from baa.runtime.services import Service

CALL_S: Final = 120.0
"""Seconds for one call, beside what a stop may take: a start may take 90."""

KILLED_S: Final = 5.0
"""Seconds for launchd to be rid of a job whose stop took all of its time, so that it was killed."""


class State(Struct, frozen=True, kw_only=True):
    """What the service manager says of a service. `restarts`: since it was started by hand; None = it does not say."""

    installed: bool
    active: str
    pid: int | None
    restarts: int | None


class Host(Protocol):
    """A service manager."""

    folder: Path
    name: str

    def path(self, service: Service) -> Path:
        """Where the service's description lies."""

    def render(self, service: Service) -> bytes:
        """The description."""

    def reread(self, service: Service) -> None:
        """Take the description, new or changed, so that a login starts the service."""

    def start(self, service: Service) -> None:
        """Start it, if it does not run; returns when it said that it is ready."""

    def stop(self, service: Service) -> None:
        """Stop it, if it runs; returns when it is gone."""

    def restart(self, service: Service) -> None:
        """Stop and start."""

    def forget(self, service: Service) -> None:
        """Undo `reread`, once the description is gone."""

    def state(self, service: Service) -> State:
        """What it does now."""


def this_host(environ: Mapping[str, str] = os.environ) -> Host:
    """The service manager of this user on this system."""
    return Launchd(environ) if sys.platform == "darwin" else Systemd(environ)


class Systemd:
    """systemd, as this user's."""

    name = "systemd"

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        base = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".config"
        self.folder = Path(base) / "systemd" / "user"

    def path(self, service: Service) -> Path:
        """Where the unit lies."""
        return self.folder / service.unit

    def render(self, service: Service) -> bytes:
        """The unit."""
        return services.systemd_unit(service).encode()

    def reachable(self) -> None:
        """Raises CannotStart (69) if this user has no systemd to speak to."""
        _systemctl("show", "--property=Version")

    def reread(self, service: Service) -> None:
        """daemon-reload and enable."""
        _systemctl("daemon-reload")
        _systemctl("enable", "--quiet", service.unit)

    def start(self, service: Service) -> None:
        """Start; a failure that was remembered is forgotten first."""
        _systemctl("reset-failed", service.unit, check=False)
        _systemctl("start", service.unit)

    def stop(self, service: Service) -> None:
        """Stop."""
        _systemctl("stop", service.unit, check=False, extra=service.stop_seconds)

    def restart(self, service: Service) -> None:
        """Restart."""
        _systemctl("restart", service.unit, extra=service.stop_seconds)

    def forget(self, service: Service) -> None:
        """Remove what enabling made, and read the units again."""
        (self.folder / "default.target.wants" / service.unit).unlink(missing_ok=True)
        _systemctl("daemon-reload", check=False)

    def state(self, service: Service) -> State:
        """The unit's state."""
        told = _systemctl("show", service.unit, "--property=ActiveState,SubState,MainPID,NRestarts").splitlines()
        found = dict(line.partition("=")[::2] for line in told)
        pid = int(found.get("MainPID", "0") or 0)
        return State(
            installed=self.path(service).exists(),
            active=f"{found.get('ActiveState', 'unknown')} ({found.get('SubState', 'unknown')})",
            pid=pid or None,
            restarts=int(found.get("NRestarts", "0") or 0),
        )


def _systemctl(*arguments: str, check: bool = True, extra: float = 0) -> str:
    try:
        done = _call(["systemctl", "--user", *arguments], extra)
    except FileNotFoundError:
        raise CannotStart(
            "There is no systemctl here. Run the programs with `baa up` instead.", exit_code=EX_UNAVAILABLE
        ) from None
    if done.returncode != 0 and ("connect to bus" in done.stderr or "XDG_RUNTIME_DIR" in done.stderr):
        raise CannotStart(
            "This user has no systemd to speak to (is this a login session?). Log in by ssh or at the machine and run"
            " `loginctl enable-linger`, or run the programs with `baa up`.",
            exit_code=EX_UNAVAILABLE,
        )
    if check and done.returncode != 0:
        raise CannotStart(
            f"`systemctl --user {' '.join(arguments)}` failed: {done.stderr.strip() or done.returncode}."
            " See `baa service check` and `baa service logs`.",
            exit_code=EX_UNAVAILABLE,
        )
    return done.stdout


class Launchd:
    """launchd, in the domain of this user's session."""

    name = "launchd"

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self.folder = Path(environ.get("HOME", "~")).expanduser() / "Library" / "LaunchAgents"
        self._domain = f"gui/{os.getuid()}"

    def path(self, service: Service) -> Path:
        """Where the property list lies."""
        return self.folder / f"{service.label}.plist"

    def render(self, service: Service) -> bytes:
        """The property list."""
        return services.launchd_plist(service)

    def reread(self, service: Service) -> None:
        """Enable; a changed description is taken by `start` and `restart`, which load it anew."""
        self._launchctl("enable", f"{self._domain}/{service.label}")

    def start(self, service: Service) -> None:
        """Load it, which starts it."""
        if not self._loaded(service):
            self._launchctl("bootstrap", self._domain, str(self.path(service)))

    def stop(self, service: Service) -> None:
        """Unload it: a job that is kept alive is stopped in no other way."""
        if not self._loaded(service):
            return
        # It may say "in progress" (36) and does not wait; and what goes on cannot be loaded again.
        said = _call(["launchctl", "bootout", f"{self._domain}/{service.label}"])
        until = time.monotonic() + service.stop_seconds + KILLED_S
        while self._loaded(service):
            if time.monotonic() > until:
                raise CannotStart(
                    f"{service.label} does not end: {said.stderr.strip() or 'launchd goes on with it'}."
                    " See `baa service status`.",
                    exit_code=EX_UNAVAILABLE,
                )
            time.sleep(0.1)

    def restart(self, service: Service) -> None:
        """Unload and load, so that a changed description counts."""
        self.stop(service)
        self.start(service)

    def forget(self, service: Service) -> None:
        """Nothing is left once it is unloaded and its file gone."""

    def state(self, service: Service) -> State:
        """What `launchctl print` says."""
        done = _call(["launchctl", "print", f"{self._domain}/{service.label}"])
        told = dict(line.strip().partition(" = ")[::2] for line in done.stdout.splitlines() if line.startswith("\t"))
        pid = told.get("pid", "")
        return State(
            installed=self.path(service).exists(),
            active=told.get("state", "not loaded"),
            pid=int(pid) if pid.isdecimal() else None,
            restarts=None,
        )

    def _loaded(self, service: Service) -> bool:
        return _call(["launchctl", "print", f"{self._domain}/{service.label}"]).returncode == 0

    def _launchctl(self, *arguments: str) -> None:
        done = _call(["launchctl", *arguments])
        if done.returncode != 0:
            raise CannotStart(
                f"`launchctl {' '.join(arguments)}` failed: {done.stderr.strip() or done.returncode}.",
                exit_code=EX_UNAVAILABLE,
            )


def _call(command: list[str], extra: float = 0) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=CALL_S + extra, check=False)
    except subprocess.TimeoutExpired:
        raise CannotStart(
            f"`{' '.join(command)}` does not end. See `baa service status`.", exit_code=EX_UNAVAILABLE
        ) from None
