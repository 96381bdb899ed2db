"""The child: the table of its states, and the little that is remembered from one child to the next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from baa.api.status import ChildState
from baa.codexd.machines import Impossible


class ChildChange(StrEnum):
    """What can happen to the child."""

    START = "start"  # a keeper is being spawned, or a living one was adopted
    READY = "ready"  # the handshake is complete
    RETRY = "retry"  # it ended, or codexd ends it; the next one starts after a pause
    GIVE_UP = "give_up"  # it ended too often; the next one is a rare probe
    MISSING = "missing"  # there is nothing to start, or what is there can never start
    DRAIN = "drain"  # codexd stops, and ends the child
    END = "end"  # it is gone, and no other will be started


CHILD_TABLE: Final[dict[ChildState, dict[ChildChange, ChildState]]] = {
    ChildState.STOPPED: {ChildChange.START: ChildState.STARTING, ChildChange.MISSING: ChildState.UNAVAILABLE},
    ChildState.STARTING: {
        ChildChange.READY: ChildState.READY,
        ChildChange.RETRY: ChildState.BACKOFF,
        ChildChange.GIVE_UP: ChildState.CRASH_LOOP,
        ChildChange.MISSING: ChildState.UNAVAILABLE,
        ChildChange.DRAIN: ChildState.DRAINING,
    },
    ChildState.READY: {
        ChildChange.RETRY: ChildState.BACKOFF,
        ChildChange.GIVE_UP: ChildState.CRASH_LOOP,
        ChildChange.DRAIN: ChildState.DRAINING,
    },
    ChildState.BACKOFF: {
        ChildChange.START: ChildState.STARTING,
        ChildChange.GIVE_UP: ChildState.CRASH_LOOP,
        ChildChange.MISSING: ChildState.UNAVAILABLE,
        ChildChange.END: ChildState.STOPPED,
    },
    ChildState.CRASH_LOOP: {
        ChildChange.START: ChildState.STARTING,
        ChildChange.MISSING: ChildState.UNAVAILABLE,
        ChildChange.END: ChildState.STOPPED,
    },
    ChildState.UNAVAILABLE: {
        ChildChange.START: ChildState.STARTING,
        ChildChange.MISSING: ChildState.UNAVAILABLE,
        ChildChange.END: ChildState.STOPPED,
    },
    ChildState.DRAINING: {ChildChange.END: ChildState.STOPPED},
}


@dataclass(frozen=True, slots=True)
class Child:
    """The child as decisions see it. `generation` counts the children of this state folder; 0 = there was none."""

    state: ChildState = ChildState.STOPPED
    generation: int = 0

    @property
    def ready(self) -> bool:
        """Whether turns may be handed over."""
        return self.state is ChildState.READY

    @property
    def lives(self) -> bool:
        """Whether it can be asked something: also while codexd stops, until the child has been ended."""
        return self.state in (ChildState.READY, ChildState.DRAINING)

    @property
    def refuses_turns(self) -> bool:
        """Whether a new turn would wait for something that may never come."""
        return self.state in (ChildState.CRASH_LOOP, ChildState.UNAVAILABLE)

    def change(self, change: ChildChange, *, generation: int | None = None) -> Child:
        """The child after `change`, in a new generation if one is given. Raises Impossible for an unlisted pair."""
        state = CHILD_TABLE[self.state].get(change)
        if state is None:
            raise Impossible(f"child: {change} in {self.state}")
        return replace(self, state=state, generation=self.generation if generation is None else generation)
