"""What a script says: scenarios, their replies, and the steps of a reply; and which reply a request gets.

The choice depends on the request alone: a retry, a restart of Codex or of this server gets the same answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

import msgspec

from baa.scripted.request import Request

ECHO_CHARS_MAX = 200  # Enough to name a prompt; an echo of a whole pasted file would be no "short answer".


class _Written(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", tag_field="step", tag=str.lower
):
    """The JSON form of a step: its lower-case name under "step", its fields in camelCase."""


class Say(_Written, frozen=True):
    """Answer text. Says that follow one another, also across a `Hold`, are one message.

    `text` is cut into words, or is the deltas themselves; `pace_ms` is the mean time between two deltas, 0 for no wait.
    """

    text: str | tuple[str, ...]
    pace_ms: float = 0

    @classmethod
    def numbered(cls, count: int, pace_ms: float = 0, *, start: int = 0) -> Self:
        """Deltas "w0 ", "w1 ", …: a reader can tell which of them it missed or got twice."""
        return cls(tuple(f"w{number} " for number in range(start, start + count)), pace_ms)

    @property
    def deltas(self) -> tuple[str, ...]:
        """The pieces to stream; joined they are the text."""
        return _words(self.text) if isinstance(self.text, str) else self.text


class Reason(_Written, frozen=True):
    """A summary of reasoning, streamed by the word, as an item of its own."""

    text: str

    @property
    def deltas(self) -> tuple[str, ...]:
        """The pieces to stream; joined they are the text."""
        return _words(self.text)


class Run(_Written, frozen=True):
    """Codex runs a shell command, under its own sandbox and approval policy.

    `yield_time_ms` is how long Codex waits before it goes on without the end of the command (it allows 250 to 30000).
    `sandbox_permissions="require_escalated"` asks to run outside the sandbox, with `justification` as the question.
    """

    command: str
    yield_time_ms: int = 10_000
    sandbox_permissions: str | None = None
    justification: str | None = None


class Patch(_Written, frozen=True):
    """Codex edits files: `text` is a whole patch, "*** Begin Patch" to "*** End Patch".

    It goes through the command tool, where Codex takes it for an edit whatever the model is called; the `apply_patch`
    tool exists for a few models only.
    """

    text: str

    @property
    def command(self) -> str:
        """The shell command that Codex recognises as an edit."""
        return f"apply_patch <<'EOF'\n{self.text.rstrip()}\nEOF\n"


class Call(_Written, frozen=True):
    """A call of any other tool that Codex offers its model: one of its own, or in the `namespace` of an MCP server.

    A server `x` of Codex's configuration has the namespace `mcp__x`.
    """

    name: str
    arguments: dict[str, Any] = {}
    namespace: str | None = None


class Limits(_Written, frozen=True):
    """How much of the account's usage limit is used up, and when it resets (in seconds since 1970): told by headers.

    An account has two: the primary one, usually over 5 hours, and the secondary one, over a week.
    """

    used_percent: int
    resets_at: int
    window_minutes: int = 300
    window: Literal["primary", "secondary"] = "primary"

    @property
    def headers(self) -> list[tuple[str, str]]:
        """As OpenAI's own servers send it."""
        told = {"used-percent": self.used_percent, "window-minutes": self.window_minutes, "reset-at": self.resets_at}
        return [(f"x-codex-{self.window}-{name}", str(value)) for name, value in told.items()]


class Hold(_Written, frozen=True):
    """The answer waits here until `gate` is released. A released gate stays open."""

    gate: str


class Refuse(_Written, frozen=True):
    """An HTTP error instead of a stream, status 400 to 599; the default body has the shape of OpenAI's own."""

    status: int = 500
    body: str = '{"error":{"message":"Refused by the script.","type":"server_error","code":null}}'

    def __post_init__(self) -> None:
        if not 400 <= self.status <= 599:
            raise ValueError(f"{self.status} is no HTTP error")

    @classmethod
    def usage_limit(cls) -> Self:
        """What an account whose usage limit is reached is answered."""
        return cls(429, '{"error":{"type":"usage_limit_reached","message":"The usage limit has been reached."}}')


class Drop(_Written, frozen=True):
    """The connection is cut in the middle of the stream, after all that was said before."""


Step = Say | Reason | Run | Patch | Call | Limits | Hold | Refuse | Drop
Reply = tuple[Step, ...]

DONE: Reply = (Say("Done."),)


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The replies of a turn whose prompt contains `phrase`: the first, then one for each time Codex reports back.

    Codex asks again only after a reply with a `Run`, `Patch` or `Call`, so that all replies but the last need one. Past
    the last reply the answer is "Done.". An empty phrase is in every prompt. ValueError for what could not be played.
    """

    phrase: str
    replies: tuple[Reply, ...]

    def __post_init__(self) -> None:
        if not self.replies or not all(self.replies):
            raise ValueError(f"scenario {self.phrase!r}: no replies, or an empty one")
        if not all(map(_calls, self.replies[:-1])):
            raise ValueError(f"scenario {self.phrase!r}: only the last reply can be without Run, Patch and Call")
        if any(isinstance(step, Drop | Refuse) for reply in self.replies for step in reply[:-1]):
            raise ValueError(f"scenario {self.phrase!r}: Drop and Refuse end their reply")
        for reply in self.replies:
            if isinstance(reply[-1], Refuse) and not all(isinstance(step, Hold | Limits) for step in reply[:-1]):
                raise ValueError(f"scenario {self.phrase!r}: before Refuse there can only be Hold and Limits")
            if not all(isinstance(step, Limits) for step in reply[: len(limits_of(reply))]):
                raise ValueError(f"scenario {self.phrase!r}: Limits begin their reply")


def when(phrase: str, *replies: Step | Sequence[Step]) -> Scenario:
    """A scenario in short: each reply is a step, or a sequence of steps."""
    return Scenario(phrase, tuple(tuple(reply) if isinstance(reply, Sequence) else (reply,) for reply in replies))


def choose(scenarios: Iterable[Scenario], request: Request) -> Reply:
    """The reply to this request: the first scenario found in its prompt, and as far on as Codex has reported back."""
    for scenario in scenarios:
        if scenario.phrase in request.prompt:
            return _next_reply(scenario, request.outputs)
    return (Say(f"Nothing is scripted for: {request.prompt[:ECHO_CHARS_MAX]}"),)


def limits_of(reply: Reply) -> list[Limits]:
    """What a reply tells of the account's limits."""
    return [step for step in reply if isinstance(step, Limits)]


def encode_script(scenarios: Iterable[Scenario]) -> bytes:
    """The script as JSON, for a server in a process of its own."""
    return msgspec.json.encode(tuple(scenarios))


def decode_script(document: bytes) -> tuple[Scenario, ...]:
    """The scenarios of a JSON script. Raises msgspec.ValidationError or DecodeError, which name the place."""
    return msgspec.json.decode(document, type=tuple[Scenario, ...])


def _next_reply(scenario: Scenario, outputs: int) -> Reply:
    for reply in scenario.replies:
        calls = _calls(reply)
        if outputs < max(calls, 1):
            return reply
        outputs -= calls
    return DONE


def _calls(reply: Reply) -> int:
    return sum(isinstance(step, Run | Patch | Call) for step in reply)


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\s*\S+\s*|\s+", text))
