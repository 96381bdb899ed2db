"""What a service manager is told, on a real socket; and that nobody waits for one that does not listen."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from baa import notify


class Listener:
    """A service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(20)

    def told(self) -> str:
        return self.socket.recv(4096).decode()

    def silent(self) -> bool:
        """Whether nothing more was told by now."""
        if not select.select([self.socket], [], [], 0)[0]:
            return True
        self.socket.recv(4096)
        return False


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    path = tmp_path / "notify"
    listening = Listener(str(path))
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    for name in ("WATCHDOG_PID", "WATCHDOG_USEC"):
        monkeypatch.delenv(name, raising=False)
    yield listening
    listening.socket.close()


@pytest.mark.parametrize("state", [notify.READY, notify.STOPPING, notify.WATCHDOG])
def test_the_manager_is_told_a_state_in_one_datagram(manager: Listener, state: str) -> None:
    notify.notify(state)

    assert manager.told() == state
    assert manager.silent()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="abstract names are Linux's")
def test_a_socket_may_have_an_abstract_name(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"baa-test-{os.getpid()}"
    listening = Listener("\0" + name)
    monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
    try:
        notify.notify(notify.READY)
        assert listening.told() == "READY=1"
    finally:
        listening.socket.close()


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1", "/nowhere/at/all", "/" + "x" * 300])
def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)

    notify.notify(notify.READY)


def test_a_manager_that_does_not_read_is_not_waited_for(manager: Listener) -> None:
    for _ in range(5000):  # far more than a socket holds
        notify.notify(notify.WATCHDOG)

    assert manager.told() == "WATCHDOG=1"


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("3000000", None, 3.0),
        ("3000000", "own", 3.0),
        ("3000000", "1", None),
        ("3000000", "nobody", None),
        ("0", None, None),
        ("-1", None, None),
        ("soon", None, None),
        ("", None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_is_of_the_process_that_it_names(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, seconds: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)

    assert notify.watchdog_seconds() == seconds


async def test_the_watchdog_is_fed_while_the_program_is_alive_and_only_then(
    manager: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000")
    alive, asked = True, asyncio.Event()

    def is_alive() -> bool:
        asked.set()
        return alive

    async def asked_again() -> None:
        asked.clear()
        async with asyncio.timeout(20):
            await asked.wait()

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(notify.watch(is_alive))
        await asked_again()
        assert manager.told() == "WATCHDOG=1"
        alive = False
        await asked_again()
        while not manager.silent():
            pass
        await asked_again()
        await asked_again()
        assert manager.silent()
        alive = True
        await asked_again()
        await asked_again()
        assert manager.told() == "WATCHDOG=1"
        watching.cancel()


async def test_where_no_watchdog_waits_watching_ends_at_once(manager: Listener) -> None:
    await notify.watch(lambda: True)

    assert manager.silent()
