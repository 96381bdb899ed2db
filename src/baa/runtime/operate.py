"""What is done to the services of a node: install, uninstall, reload, restart, start, stop. Each step is said.

Everything may be done again. A restart of codexd is announced to it first, so that running turns go on.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import Final, ParamSpec

import httpx2

from baa.api.errors import EX_UNAVAILABLE, BaaError, CannotStart
from baa.client.codexd import Codexd
from baa.client.discovery import Unreachable, address_of
from baa.config import Config
from baa.runtime.hosts import Host
from baa.runtime.services import Service

P = ParamSpec("P")
Say = Callable[[str], None]

HEALTHY_S: Final = 60.0
"""Seconds to wait for codexd's `/healthz` after a start: longer than it takes with any log."""

HANDOVER_MS: Final = 60_000
ASK_S: Final = 5.0


class Operator:
    """Does things to `services` by way of `host`; with `dry_run` it only says them. All methods raise CannotStart."""

    def __init__(self, config: Config, host: Host, *, say: Say, dry_run: bool = False) -> None:
        self._config = config
        self._host = host
        self._tell = say
        self._dry = dry_run

    def install(self, services: Iterable[Service]) -> None:
        """Write the descriptions and start the services; one that runs with an old description is restarted."""
        for service in services:
            path = self._host.path(service)
            if path.exists() and path.read_bytes() == self._host.render(service):
                self._tell(f"{service.name}: {path} is as it should be")
                changed = False
            else:
                self._do(f"{service.name}: write {path}", self._write, service)
                changed = True
            self._do(f"{service.name}: enable", self._host.reread, service)
            if changed and self._runs(service):
                self._restart(service)
            else:
                self._start(service)
        self._tell("To undo this: baa service uninstall")

    def uninstall(self, services: Iterable[Service]) -> None:
        """Stop the services and remove their descriptions. State and logs stay."""
        chosen = tuple(services)
        for service in chosen:
            self._do(f"{service.name}: stop", self._host.stop, service)
            path = self._host.path(service)
            if path.exists():
                self._do(f"{service.name}: remove {path}", path.unlink)
            self._do(f"{service.name}: disable", self._host.forget, service)
        self._end_what_a_crash_left(chosen)
        self._tell(f"State and logs are still in {self._config.home}. To undo this: baa service install")

    def reload(self, services: Iterable[Service]) -> None:
        """Restart the services with their descriptions as they are now. Waits for codexd's /healthz only."""
        for service in services:
            self._must_be_installed(service)
            self._do(f"{service.name}: read its description", self._host.reread, service)
            self._restart(service)

    def restart(self, services: Iterable[Service]) -> None:
        """Restart the services."""
        for service in services:
            self._must_be_installed(service)
            self._restart(service)

    def start(self, services: Iterable[Service]) -> None:
        """Start the services that do not run."""
        for service in services:
            self._must_be_installed(service)
            self._start(service)
        self._tell("To undo this: baa service stop")

    def stop(self, services: Iterable[Service]) -> None:
        """Stop the services. What a crash of codexd had left running is ended too."""
        chosen = tuple(services)
        for service in chosen:
            self._do(f"{service.name}: stop", self._host.stop, service)
        self._end_what_a_crash_left(chosen)
        self._tell("To undo this: baa service start (without it they start again with the next login)")

    def _must_be_installed(self, service: Service) -> None:
        if not self._host.path(service).exists():
            raise CannotStart(
                f"{service.name} is not installed. Install it: baa service install --service {service.name}"
            )

    def _start(self, service: Service) -> None:
        self._do(f"{service.name}: start", self._host.start, service)
        if service.name == "codexd":
            self._do("codexd: wait for /healthz", self._wait_for_codexd)

    def _restart(self, service: Service) -> None:
        if service.name == "codexd" and self._runs(service):
            self._do("codexd: announce the hand-over, so that running turns go on", self._announce)
        self._do(f"{service.name}: restart", self._host.restart, service)
        if service.name == "codexd":
            self._do("codexd: wait for /healthz", self._wait_for_codexd)

    def _end_what_a_crash_left(self, services: Iterable[Service]) -> None:
        """Last, because it fails where a codexd runs that the service manager did not start."""
        for service in services:
            if service.name == "codexd":
                self._do("codexd: end what a crash left", self._end_leftovers, service)

    def _do(self, what: str, act: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        self._tell(f"would {what}" if self._dry else what)
        if not self._dry:
            act(*args, **kwargs)

    def _runs(self, service: Service) -> bool:
        try:
            return self._host.state(service).pid is not None
        except CannotStart:
            if self._dry:  # what cannot be asked runs nothing; who does it in earnest is told
                return False
            raise

    def _write(self, service: Service) -> None:
        path = self._host.path(service)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            service.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            draft.write_bytes(self._host.render(service))
            draft.chmod(0o600)
            draft.replace(path)
        except OSError as error:
            raise CannotStart(f"{path} cannot be written: {error}", exit_code=73) from error

    def _announce(self) -> None:
        """Without an announcement a SIGTERM would be a stop, which ends the turns: then rather nothing is done."""
        try:
            asyncio.run(self._handover())
        except (BaaError, Unreachable, TimeoutError) as error:
            raise CannotStart(
                f"codexd runs, and does not take the announcement of a hand-over ({error}). A restart now would end its"
                " running turns. If that may be: baa service stop --service codexd, then baa service start.",
                exit_code=EX_UNAVAILABLE,
            ) from error

    async def _handover(self) -> None:
        async with asyncio.timeout(ASK_S), Codexd(self._config) as codexd:
            await codexd.handover(HANDOVER_MS)

    def _wait_for_codexd(self) -> None:
        until = time.monotonic() + HEALTHY_S
        while True:
            address = address_of(self._config, "codexd")
            try:
                if address is not None and httpx2.get(f"{address}/healthz", trust_env=False, timeout=ASK_S).is_success:
                    return
            except httpx2.HTTPError:
                pass
            if time.monotonic() > until:
                raise CannotStart(
                    f"codexd was started and does not answer at {address}. See: baa service logs --service codexd",
                    exit_code=EX_UNAVAILABLE,
                )
            time.sleep(0.1)

    def _end_leftovers(self, service: Service) -> None:
        done = subprocess.run(
            [*service.argv, "--end-leftovers"],
            env={**service.environment, "HOME": os.path.expanduser("~")},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise CannotStart((done.stderr or done.stdout).strip(), exit_code=done.returncode)
        if "nothing" not in done.stdout:
            self._tell(done.stdout.strip())
