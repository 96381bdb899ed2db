"""Who listens on a port: really listening sockets, of this process, of another one, and of another user."""

from __future__ import annotations

import os
import socket

import psutil
import pytest

from baa.http.ports import holder_of


def listening(host: str, port: int = 0) -> socket.socket:
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def test_the_process_that_listens_is_named_and_nobody_when_it_is_closed() -> None:
    with listening("127.0.0.1") as sock:
        port = sock.getsockname()[1]
        holder = holder_of("127.0.0.1", port)
        assert holder is not None
        assert holder.pid == os.getpid()
        assert f"(pid {os.getpid()})" in holder.told
        assert holder.argv
        assert f"kill {os.getpid()}" in holder.cure
    assert holder_of("127.0.0.1", port) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_who_listens_everywhere_is_in_the_way_of_every_address(host: str) -> None:
    with listening(host) as sock:
        assert holder_of("127.0.0.1", sock.getsockname()[1]) is not None


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="only Linux has all of 127/8")
def test_another_address_with_the_same_port_is_in_nobodys_way() -> None:
    """As a proxy's of a tailnet's address is, in front of a program on loopback."""
    with listening("127.0.0.2") as sock:
        port = sock.getsockname()[1]
        assert holder_of("127.0.0.1", port) is None
        assert holder_of("127.0.0.2", port) is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes another user: run the tests as root")
def test_another_users_port_is_not_called_free() -> None:
    with listening("127.0.0.1") as sock:
        port = sock.getsockname()[1]
        answer, told = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                sock.close()
                os.setuid(65534)
                os.write(told, repr(holder_of("127.0.0.1", port)).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(told)
        with os.fdopen(answer) as file:
            said = file.read()
    assert said == 'Holder(told="one of another user\'s", pid=None, argv=())'


def test_where_the_system_tells_all_only_to_root_each_user_learns_of_the_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS does it."""

    def refused(kind: str) -> list[object]:
        raise psutil.AccessDenied(0, kind)

    monkeypatch.setattr(psutil, "net_connections", refused)
    with listening("127.0.0.1") as sock:
        port = sock.getsockname()[1]
        holder = holder_of("127.0.0.1", port)
        assert holder is not None
        assert holder.pid == os.getpid()
    assert holder_of("127.0.0.1", port) is None
