"""All tables of bad input against one codexd, counted beside what Schemathesis tries (fuzz.py)."""

from __future__ import annotations

from collections.abc import Iterable

from tests.support import bad_http, bad_lines, bad_values, bad_websocket
from tests.support.fuzz import Fuzzed
from tests.support.node import Node

SWITCHED = 101


async def try_requests(found: Fuzzed, node: Node, name: str, cases: Iterable[bad_http.Case]) -> None:
    """Each on a connection of its own; what is wrong with an answer, and secrets in it, go into `found`."""
    token = node.token()
    for case in cases:
        came = await bad_http.exchange(node.address, bad_http.filled(case.raw, node.address, token), half=case.half)
        found.answers[name, max(bad_http.statuses(came), default=0)] += 1
        if (flaw := bad_http.flaw(case, came, sessions=True)) is not None:
            found.flaws.append(f"{name}: {flaw}")
        if token.encode() in came:
            found.leaks.append(f"{name}: {case.name} was answered with a secret in it")


async def try_frames(found: Fuzzed, node: Node) -> None:
    """The same of what is sent on WebSockets."""
    token = node.token("read")
    for case in bad_websocket.CASES:
        close = await bad_websocket.close_of(node.address, token, case)
        found.answers["frames", SWITCHED] += 1
        if close != case.close:
            found.flaws.append(f"frames: {case.name}: {close} and not {case.close}")


async def try_all(found: Fuzzed, node: Node) -> None:
    """Every table of requests and frames. The node's folder for work must be empty, and has a sandbox's ceiling."""
    bad_values.furnish(node.work)
    for name, cases in (
        ("bytes", bad_http.CASES),
        ("ids", bad_values.IDS),
        ("page tokens", bad_values.PAGE_TOKENS),
        ("cursors", bad_values.CURSORS),
        ("JSON", bad_values.JSON),
        ("folders", bad_values.folders(node.work)),
    ):
        await try_requests(found, node, name, cases)
    await try_frames(found, node)


def try_lines(found: Fuzzed, seed: int, count: int) -> list[str]:
    """Lines as a child might write them; those that would end codexd. `found` counts them, as statuses 200."""
    found.answers["child lines", 200] += count
    return [crash for line in bad_lines.lines(seed, count) if (crash := bad_lines.crash(line)) is not None]
