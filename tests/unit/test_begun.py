"""A call that is begun by hand: nearly always that is all of it, and else its rest is awaited like any other."""

from __future__ import annotations

import asyncio

import pytest

from baa.codexd.subscriptions import begun


async def told(seen: list[str], *rooms: asyncio.Event) -> None:
    try:
        for number, room in enumerate(rooms):
            await room.wait()
            seen.append(str(number))
    except asyncio.CancelledError:
        seen.append("left")
        raise


def room(*, free: bool) -> asyncio.Event:
    event = asyncio.Event()
    if free:
        event.set()
    return event


async def test_what_need_not_wait_is_done_at_once() -> None:
    seen: list[str] = []
    assert begun(told(seen, room(free=True), room(free=True))) is None
    assert seen == ["0", "1"]


async def test_what_has_to_wait_is_waited_for_as_often_as_it_must() -> None:
    seen: list[str] = []
    rooms = [room(free=True), room(free=False), room(free=False)]
    rest = begun(told(seen, *rooms))
    assert rest is not None
    assert seen == ["0"]
    for each in rooms[1:]:
        asyncio.get_running_loop().call_soon(each.set)
    await rest
    assert seen == ["0", "1", "2"]


async def test_whoever_waits_for_the_rest_can_leave() -> None:
    seen: list[str] = []
    rest = begun(told(seen, room(free=False)))
    assert rest is not None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await rest
    assert seen == ["left"]


@pytest.mark.parametrize("late", [False, True])
async def test_what_goes_wrong_is_raised_where_it_is_waited_for(late: bool) -> None:
    gate = room(free=not late)

    async def failing() -> None:
        await gate.wait()
        raise OSError("gone")

    if not late:
        with pytest.raises(OSError, match="gone"):
            begun(failing())
        return
    rest = begun(failing())
    assert rest is not None
    gate.set()
    with pytest.raises(OSError, match="gone"):
        await rest
