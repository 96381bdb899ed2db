"""What status-api makes of what it heard. Pure."""

from __future__ import annotations

from html.parser import HTMLParser

import msgspec
import pytest

from baa.api.conductor import Checked, Node, NodeState, Readiness, Role, RoleName
from baa.api.overview import Overview
from baa.api.status import (
    ChildState,
    ChildStatus,
    CodexStatus,
    Counts,
    DaemonState,
    DaemonStatus,
    LogStatus,
    RecentEvent,
    Status,
    Support,
)
from baa.status_api.page import page
from baa.status_api.view import FromCodexd, FromConductor, Heard, overview

THEN, NOW = "2026-01-01T00:00:00.000Z", "2026-01-01T00:01:00.000Z"
SECRET = "secret<script>"  # in everything that may only stand in the detail

STATUS = Status(
    daemon=DaemonStatus(
        daemon_id=SECRET, pid=4711, version="1.2.3", started_at=THEN, state=DaemonState.RUNNING, address=SECRET
    ),
    child=ChildStatus(
        state=ChildState.READY,
        generation=1,
        pid=4712,
        codex_version="0.1.0",
        support=Support.TOO_OLD,
        started_at=THEN,
        restarts=3,
        last_exit=None,
        problem=SECRET,
    ),
    counts=Counts(sessions=5, turns_queued=1, turns_running=2, turns_ended=9, open_interactions=0, subscribers=0),
    log=LogStatus(epoch=SECRET, head=7, oldest=1),
    recent_events=[RecentEvent(seq=1, at=THEN, type=SECRET)],
    codex=CodexStatus(logged_in=False, limits=None),
)
ROLE = Role(role=RoleName.LEADER, node_id=SECRET, leader_id=SECRET, term=4, expires_at=THEN, version="1.2.4")


def node(state: NodeState) -> Node:
    return Node(
        node_id=SECRET, incarnation=SECRET, version="1", slots=2, state=state, pid=4713, started_at=THEN, seen_at=THEN
    )


READY = Readiness(status="ready", engine=Checked(ok=True, message=SECRET), codexd=Checked(ok=True, message=SECRET))
NODES = [node(NodeState.ACTIVE), node(NodeState.ACTIVE), node(NodeState.GONE)]
CODEXD = Heard(at=THEN, codexd=FromCodexd(status=STATUS), problem=None)
CONDUCTOR = Heard(at=THEN, conductor=FromConductor(role=ROLE, readiness=READY, nodes=NODES), problem=None)
HEARD = {
    "fresh": (CODEXD, CONDUCTOR),
    "stale": (
        msgspec.structs.replace(CODEXD, problem=SECRET),
        msgspec.structs.replace(CONDUCTOR, problem=SECRET),
    ),
    "never": (Heard(problem=SECRET), Heard(problem=SECRET)),
}


def seen(codexd: str, conductor: str, *, with_detail: bool = False) -> Overview:
    return overview(HEARD[codexd][0], HEARD[conductor][1], now=NOW, with_detail=with_detail)


@pytest.mark.parametrize("codexd", HEARD)
@pytest.mark.parametrize("conductor", HEARD)
def test_every_mixture_says_what_is_known_and_how_old_it_is(codexd: str, conductor: str) -> None:
    told = seen(codexd, conductor)
    assert told.stale is not (codexd == conductor == "fresh")
    assert told.as_of == NOW
    assert (told.codexd.stale, told.conductor.stale) == (codexd != "fresh", conductor != "fresh")
    if codexd == "never":
        assert (told.codexd.state, told.codexd.as_of, told.counts, told.codexd.child) == ("unknown", None, None, None)
    else:
        assert (told.codexd.state, told.codexd.as_of, told.codexd.version) == ("running", THEN, "1.2.3")
        assert told.counts == STATUS.counts
        child = told.codexd.child
        assert child is not None
        assert (child.state, child.codex_version, child.restarts, child.logged_in) == ("ready", "0.1.0", 3, False)
    if conductor == "never":
        assert (told.conductor.state, told.conductor.role, told.nodes) == ("unknown", None, None)
    else:
        assert (told.conductor.state, told.conductor.role, told.conductor.term) == ("ready", "leader", 4)
        assert told.nodes is not None
        assert (told.nodes.active, told.nodes.draining, told.nodes.gone) == (2, 0, 1)


@pytest.mark.parametrize("codexd", HEARD)
@pytest.mark.parametrize("conductor", HEARD)
def test_the_open_part_holds_no_id_no_path_and_no_problem(codexd: str, conductor: str) -> None:
    open_part = msgspec.json.encode(seen(codexd, conductor)).decode()
    assert "secret" not in open_part
    assert "471" not in open_part, "nor a pid"
    assert "secret" not in page(seen(codexd, conductor))
    assert "detail" not in open_part
    assert "secret" in msgspec.json.encode(seen(codexd, conductor, with_detail=True)).decode()


def test_a_conductor_that_is_not_ready_or_does_not_tell_its_nodes() -> None:
    last = FromConductor(role=ROLE, readiness=None, nodes=None)
    told = overview(CODEXD, Heard(at=THEN, conductor=last, problem=None), now=NOW, with_detail=False)
    assert (told.conductor.state, told.nodes) == ("not_ready", None)


class Parsed(HTMLParser):
    """The words and the tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def test_the_page_says_in_words_what_is_fresh_stale_and_unknown() -> None:
    fresh = Parsed(page(seen("fresh", "fresh")))
    assert "All programs answer." in fresh.words
    assert "version 1.2.3; Codex 0.1.0 (too old): ready, not logged in" in fresh.words
    assert "version 1.2.4; leader, term 4" in fresh.words
    assert "2 active, 0 draining, 1 gone" in fresh.words
    assert "script" not in fresh.tags
    mixed = Parsed(page(seen("stale", "never")))
    assert f"stale: last at {THEN}" in mixed.words
    assert {"unknown", "never"} <= set(mixed.words)
