"""The body is counted as it comes, whatever was announced."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from baa.api.errors import Code, Rejected
from baa.http.limits import MAX_BODY_BYTES, Message, Receive, check_announced, read_body, replay


def client_sends(messages: Iterable[Message]) -> Receive:
    waiting = iter(messages)

    async def receive() -> Message:
        return next(waiting)

    return receive


def piece(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_in_pieces_is_handed_on_whole_and_then_the_client_is_heard_again() -> None:
    gone = {"type": "http.disconnect"}

    async def scenario() -> list[Message]:
        receive = client_sends([piece(b"a", more=True), piece(b"", more=True), piece(b"bc", more=False), gone])
        body = await read_body(receive)
        assert body is not None
        again = replay(body, receive)
        return [await again(), await again()]

    assert asyncio.run(scenario()) == [piece(b"abc", more=False), gone]


def test_a_client_that_goes_away_leaves_no_body() -> None:
    receive = client_sends([piece(b"a", more=True), {"type": "http.disconnect"}])

    assert asyncio.run(read_body(receive)) is None


def test_a_body_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    half = MAX_BODY_BYTES // 2

    whole = asyncio.run(read_body(client_sends([piece(b"x" * half, more=True), piece(b"x" * half, more=False)])))
    assert whole is not None
    assert len(whole) == MAX_BODY_BYTES

    with pytest.raises(Rejected) as caught:
        asyncio.run(read_body(client_sends([piece(b"x" * half, more=True), piece(b"x" * (half + 1), more=True)])))
    assert caught.value.code is Code.TOO_LARGE


@pytest.mark.parametrize("announced", [None, "", "0", "-5", "nonsense", "1048576", "0001048576", "²"])
def test_an_announcement_within_the_limit_or_not_to_be_understood_is_left_to_the_counting(
    announced: str | None,
) -> None:
    check_announced(announced)


@pytest.mark.parametrize("announced", [f"{MAX_BODY_BYTES + 1}", f"0000{MAX_BODY_BYTES + 1}", "9" * 10_000])
def test_an_announcement_above_the_limit_is_believed(announced: str) -> None:
    with pytest.raises(Rejected):
        check_announced(announced)
