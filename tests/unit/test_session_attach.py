"""What a session makes of somebody who looks at its thread in Codex's own terminal UI."""

from __future__ import annotations

import pytest

from baa.api import events as e
from baa.api.events import EventType
from baa.api.sessions import Origin
from baa.codexd.machines import inputs as i
from tests.support.script import (
    ASKED,
    BACKOFF,
    NEXT,
    Script,
    accepted,
    doubtful,
    event,
    hand,
    idle,
    loaded,
    open_thread,
    opened,
    opening,
    queued,
    running,
)
from tests.support.script import asked as turn_asked

LOOKS = i.OpenWanted()


def test_the_thread_is_opened_once_in_each_child() -> None:
    script = idle().got(LOOKS).beside(NEXT).got(LOOKS, open_thread("thread")).got(LOOKS)
    script.got(opened(generation=2, fresh=False), loaded(generation=2, fresh=False), i.Idle("ses_a")).got(LOOKS)


def test_a_turn_that_comes_meanwhile_waits_for_the_thread() -> None:
    script = idle().beside(NEXT).got(LOOKS, open_thread("thread")).got(turn_asked("trn_b"), queued("trn_b"))
    given = opened(generation=2, fresh=False)
    script.got(given, loaded(generation=2, fresh=False), accepted("trn_b", generation=2), hand("trn_b"))


def test_a_refused_opening_ends_nothing() -> None:
    script = idle().beside(NEXT).got(LOOKS, open_thread("thread"))
    script.got(i.ThreadRefused({"message": "no"}), i.Count("late_thread")).got(LOOKS, open_thread("thread"))


@pytest.mark.parametrize(
    "script",
    [Script(), opening(), running(), doubtful(keeper=False), idle().beside(BACKOFF), idle().played(i.CloseRequested())],
)
def test_what_is_not_there_or_there_already_is_not_opened(script: Script) -> None:
    script.got(LOOKS)


def test_a_turn_says_where_it_came_from() -> None:
    typed = i.TurnRequested("trn_b", ASKED, origin=Origin.ATTACHED)
    said = event(EventType.TURN_QUEUED, e.TurnQueued(request=ASKED, origin=Origin.ATTACHED), "trn_b")
    running().got(typed, said)
