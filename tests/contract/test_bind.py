"""Where the servers listen: on loopback or not at all."""

from __future__ import annotations

import asyncio
import socket

import pytest

from baa.api.errors import EX_CONFIG, EX_UNAVAILABLE, CannotStart
from baa.http.serve import base_url, bind


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "::",
        "",
        "192.168.1.1",
        "100.64.0.1",
        "127.0.0.2",
        "127.1",
        "2130706433",
        "::ffff:127.0.0.1",
        "::1%lo",
        "evil.example",
        "localhost.evil.example",
        "LOCALHOST.",
    ],
)
def test_only_loopback_is_bound(host: str) -> None:
    with pytest.raises(CannotStart, match="not a loopback address") as caught:
        bind(host, 0)
    assert caught.value.exit_code == EX_CONFIG


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "8.8.8.8", "169.254.1.1", "127.0.0.2", "2001:db8::1", "example"])
def test_what_may_be_seen_beyond_loopback_is_private_all_the_same(host: str) -> None:
    with pytest.raises(CannotStart, match="not a loopback address"):
        bind(host, 0, beyond_loopback=True)


def test_an_address_that_this_machine_has_not_may_come_later() -> None:
    with pytest.raises(CannotStart, match=r"100\.64\.3\.2 is no address of this machine now") as caught:
        bind("100.64.3.2", 0, beyond_loopback=True)
    assert caught.value.exit_code == EX_UNAVAILABLE


def test_the_bound_address_is_told_as_clients_write_it() -> None:
    with bind("localhost", 0) as sock:
        assert base_url(sock) == f"http://127.0.0.1:{sock.getsockname()[1]}"


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_the_ipv6_loopback_is_served_and_told_in_brackets() -> None:
    with bind("::1", 0) as sock:
        assert base_url(sock) == f"http://[::1]:{sock.getsockname()[1]}"


def test_a_port_in_use_is_named_with_who_holds_it() -> None:
    with bind("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(CannotStart, match=rf"Port {port} on 127.0.0.1 is in use") as caught:
            bind("127.0.0.1", port)
    assert caught.value.exit_code == EX_UNAVAILABLE


async def test_an_accepted_connection_answers_at_once_and_does_not_wait_for_the_client() -> None:
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def look(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with bind("127.0.0.1", 0) as sock:
        async with asyncio.timeout(10), await asyncio.start_server(look, sock=sock):
            _, writer = await asyncio.open_connection(*sock.getsockname()[:2])
            assert await accepted == 1
            writer.close()
