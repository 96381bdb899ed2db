"""A reply as the events of the OpenAI Responses API (server-sent events): pure, the waiting is left to the server.

The fields are those that Codex reads; research/app-server.md §8 lists them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import assert_never

import msgspec

from baa.scripted.script import Call, Drop, Hold, Limits, Patch, Reason, Refuse, Reply, Run, Say

DELTAS_PER_SEND = 256  # About 40 KiB of events: one system call for many deltas, and still not all of them in memory.
CHARS_PER_TOKEN = 4  # OpenAI's rule of thumb for English text.
# Codex believes these figures, however long the thread really is; told of more than its model's window (258400 for a
# model that it does not know) it would compact the thread, with requests of its own that no script expects.
TOKENS_MAX = 60_000


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait until `seconds` after the last pause was due, so that a pace holds on average."""

    seconds: float


def stream(reply: Reply, *, response_id: str, input_chars: int) -> Iterator[bytes | Pause | Hold | Drop]:
    """What to send and what to wait for, in order. Nothing comes after a `Drop`."""
    yield _event("response.created", response={"id": response_id})
    answer = _Answer(response_id)
    for step in reply:
        match step:
            case Say():
                yield from answer.say(step)
            case Reason():
                yield from answer.reason(step)
            case Run() | Patch() | Call():
                yield from answer.call(step)
            case Limits():
                pass  # told by the head of the response
            case Hold():
                yield step
            case Drop():
                yield step
                return
            case Refuse():
                raise AssertionError("a refusal is not streamed")
            case _:
                assert_never(step)
    yield from answer.end_message()
    yield _event("response.completed", response={"id": response_id, "usage": answer.usage(input_chars)})


@dataclass(slots=True)
class _Answer:
    """How far an answer has come: which item is next, and the message that is still open."""

    response_id: str
    items: int = 0
    said: list[str] | None = None
    message_chars: int = 0
    reasoning_chars: int = 0

    def say(self, step: Say) -> Iterator[bytes | Pause]:
        """The deltas; before them the start of a message, if none is open."""
        item_id = self._item_id("msg")
        if self.said is None:
            self.said = []
            yield self._added({"type": "message", "role": "assistant", "id": item_id, "content": [_output_text("")]})
        self.said += step.deltas
        self.message_chars += sum(map(len, step.deltas))
        at = {"item_id": item_id, "output_index": self.items, "content_index": 0}
        yield from _deltas("response.output_text.delta", at, step.deltas, step.pace_ms)

    def end_message(self) -> Iterator[bytes]:
        """The whole text of the open message, if there is one."""
        if self.said is not None:
            content = [_output_text("".join(self.said))]
            self.said = None
            yield self._done({"type": "message", "role": "assistant", "id": self._item_id("msg"), "content": content})

    def reason(self, step: Reason) -> Iterator[bytes | Pause]:
        """A reasoning item with one part of summary."""
        yield from self.end_message()
        self.reasoning_chars += len(step.text)
        item_id = self._item_id("rs")
        at = {"item_id": item_id, "output_index": self.items, "summary_index": 0}
        part = {"type": "summary_text", "text": step.text}
        yield self._added({"type": "reasoning", "id": item_id, "summary": []})
        yield _event("response.reasoning_summary_part.added", **at, part=part | {"text": ""})
        yield from _deltas("response.reasoning_summary_text.delta", at, step.deltas, 0)
        yield _event("response.reasoning_summary_text.done", **at, text=step.text)
        yield _event("response.reasoning_summary_part.done", **at, part=part)
        yield self._done({"type": "reasoning", "id": item_id, "summary": [part]})

    def call(self, step: Run | Patch | Call) -> Iterator[bytes]:
        """A call of one of Codex's tools."""
        yield from self.end_message()
        tool = step if isinstance(step, Call) else Call("exec_command", _command(step))
        written = msgspec.json.encode(tool.arguments).decode()
        self.message_chars += len(written)
        ids = {"id": self._item_id("fc"), "call_id": self._item_id("call")}
        call = {"type": "function_call", **ids, "name": tool.name}
        if tool.namespace is not None:
            call["namespace"] = tool.namespace
        yield self._added(call | {"arguments": ""})
        yield self._done(call | {"arguments": written})

    def usage(self, input_chars: int) -> dict[str, object]:
        """Token counts that fit the lengths, up to a limit."""
        asked = _tokens(input_chars)
        reasoned = _tokens(self.reasoning_chars)
        answered = _tokens(self.message_chars) + reasoned
        return {
            "input_tokens": asked,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": answered,
            "output_tokens_details": {"reasoning_tokens": reasoned},
            "total_tokens": asked + answered,
        }

    def _item_id(self, kind: str) -> str:
        # Codex takes these ids over as its item ids, so they must differ between all answers of a thread.
        return f"{kind}_{self.response_id}_{self.items}"

    def _added(self, item: Mapping[str, object]) -> bytes:
        return _event("response.output_item.added", output_index=self.items, item=item)

    def _done(self, item: Mapping[str, object]) -> bytes:
        event = _event("response.output_item.done", output_index=self.items, item=item)
        self.items += 1
        return event


def _command(step: Run | Patch) -> dict[str, object]:
    """The arguments of Codex's command tool."""
    arguments: dict[str, object] = {"cmd": step.command}
    if isinstance(step, Run):
        arguments["yield_time_ms"] = step.yield_time_ms
        if step.sandbox_permissions is not None:
            arguments["sandbox_permissions"] = step.sandbox_permissions
        if step.justification is not None:
            arguments["justification"] = step.justification
    return arguments


def _deltas(kind: str, at: Mapping[str, object], deltas: tuple[str, ...], pace_ms: float) -> Iterator[bytes | Pause]:
    frame = _event(kind, **at, delta="")
    head, tail = frame[: -len(b'""}\n\n')], b"}\n\n"
    framed = (head + msgspec.json.encode(delta) + tail for delta in deltas)
    if pace_ms > 0:
        for event in framed:
            yield event
            yield Pause(pace_ms / 1000)
        return
    for _ in range(0, len(deltas), DELTAS_PER_SEND):
        yield b"".join(islice(framed, DELTAS_PER_SEND))


def _tokens(chars: int) -> int:
    return min(-(-chars // CHARS_PER_TOKEN), TOKENS_MAX)


def _output_text(text: str) -> dict[str, str]:
    return {"type": "output_text", "text": text}


def _event(kind: str, **fields: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **fields}))
