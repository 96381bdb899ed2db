"""What `baa watch` shows, apart from any screen: sessions, open questions, and one session's stream, from events alone.

Everything is bounded: a stream forgets its oldest blocks, a block its oldest text. Nothing here is escaped yet except
what `rows_of` and the like give out, which is all that a screen may show.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Final

import msgspec

from baa.api.events import Event
from baa.api.interactions import Interaction, InteractionKind
from baa.api.sessions import Session, SessionStatus
from baa.cli.asked import OpenQuestion
from baa.cli.plain import plain
from baa.cli.rows import Row, diff_of, diff_rows

BLOCKS_MAX: Final = 300
"""Blocks of a stream: more than anybody scrolls back; `baa turn show` has the rest."""

BLOCK_CHARS_MAX: Final = 32 * 1024
STREAM_CHARS_MAX: Final = 1024 * 1024
SESSIONS_MAX: Final = 2000
SHOWN_LINES: Final = 200
"""Of a command's output, when it is unfolded."""

TURN_ENDS: Final = {f"turn.{end}": end for end in ("completed", "failed", "interrupted", "expired", "lost")}

# --- sessions


@dataclass(slots=True)
class SessionRow:
    """A session in the list."""

    session_id: str
    name: str
    closed: bool = False
    running: str | None = None
    waiting: set[str] = field(default_factory=set)
    last: str | None = None

    def text(self, asks: bool) -> str:
        """Its line."""
        mark = "?" if asks else "x" if self.closed else "●" if self.running or self.waiting else "○"
        return plain(f"{mark} {self.name}").replace("\n", " ")


# --- one session's stream


@dataclass(slots=True)
class Block:
    """A piece of a stream. `head` is always shown, `text` where it is not folded away."""

    kind: str
    head: str
    text: str = ""
    state: str = ""
    cut: bool = False

    def add(self, text: str) -> None:
        """More of it; only the end of very much is kept."""
        self.replace(self.text + text)

    def replace(self, text: str) -> None:
        """All of it anew."""
        self.cut = len(text) > BLOCK_CHARS_MAX or (self.cut and len(text) >= BLOCK_CHARS_MAX)
        self.text = text[-BLOCK_CHARS_MAX:]

    def rows(self, *, unfolded: bool) -> list[Row]:
        """Its lines, ready for a terminal."""
        return [(style, plain(line)) for style, line in _ROWS.get(self.kind, _rows_of_note)(self, unfolded)]


def _rows_of_turn(block: Block, _: bool) -> list[Row]:
    return [("bold", f"> {block.text}"), *([("dim", f"  {block.head}")] if block.head else [])]


def _rows_of_more(block: Block, _: bool) -> list[Row]:
    return [("bold", f"> {block.text}")]


def _rows_of_message(block: Block, _: bool) -> list[Row]:
    return [("dim", "…")] * block.cut + [("", line) for line in block.text.split("\n")]


def _rows_of_thought(block: Block, unfolded: bool) -> list[Row]:
    lines = [line for line in block.text.split("\n") if line.strip()]
    return [("dim", line) for line in (lines if unfolded else lines[:1])]


def _rows_of_command(block: Block, unfolded: bool) -> list[Row]:
    lines = block.text.rstrip("\n").split("\n") if block.text.strip() else []
    style = "bad" if block.state.startswith("exit") or block.state in ("failed", "declined") else "command"
    told = f"  [{block.state}]" if block.state else ""
    if not unfolded:
        more = f"  … {len(lines)} lines" if lines else ""
        return [(style, f"$ {block.head}{told}{more}")]
    return [(style, f"$ {block.head}{told}"), *(("dim", f"  {line}") for line in lines[-SHOWN_LINES:])]


def _rows_of_edit(block: Block, _: bool) -> list[Row]:
    rows: list[Row] = [("command", f"± {block.head}" + (f"  [{block.state}]" if block.state else ""))]
    return rows + diff_rows(block.text)


def _rows_of_end(block: Block, _: bool) -> list[Row]:
    return [("good" if block.state == "completed" else "bad", f"— {block.head}")]


def _rows_of_note(block: Block, _: bool) -> list[Row]:
    return [("dim", f"· {line}") for line in (block.head or block.text).split("\n")]


_ROWS: Final = {
    "turn": _rows_of_turn,
    "more": _rows_of_more,
    "message": _rows_of_message,
    "thought": _rows_of_thought,
    "command": _rows_of_command,
    "edit": _rows_of_edit,
    "end": _rows_of_end,
}


class Stream:
    """The chosen session's events as blocks. `changed` are the blocks to show anew, `gone` those to take away."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.blocks: dict[str, Block] = {}
        self.changed: set[str] = set()
        self.gone: list[str] = []
        self._chars = 0

    def apply(self, event: Event) -> None:
        """The next event of this session."""
        told, turn_id = event.payload, event.turn_id or ""
        match event.type:
            case "turn.queued" if told.get("request"):
                origin = told.get("origin", "api")
                self._put(
                    f"{turn_id}:turn", Block("turn", "" if origin == "api" else origin, told["request"]["prompt"])
                )
            case "turn.steered":
                words = "\n".join(part.get("text", part.get("path", "")) for part in told.get("input", ()))
                self._put(f"{turn_id}:steer:{event.seq}", Block("more", "", words))
            case "item.started" | "item.completed":
                self._item(turn_id, told, ended=event.type == "item.completed")
            case "item.delta":
                self._grow(f"{turn_id}:{told['itemId']}", told)
            case "item.abandoned":
                self._abandon(f"{turn_id}:{told['itemId']}", told)
            case "codex.warning":
                message = _text_of((told.get("params") or {}), "message", "summary") or str(told.get("method"))
                self._put(f"note:{event.seq}", Block("note", message))
            case "interaction.requested":
                self._put(f"asks:{told['interactionId']}", Block("note", "Codex asks, and waits for an answer."))
            case "interaction.resolved" | "interaction.expired":
                answer = told.get("answer") or {}
                decision = answer.get("decision") or told.get("resolvedBy")
                name = next(iter(decision)) if isinstance(decision, dict) else decision
                self._put(f"asks:{told['interactionId']}", Block("note", f"Codex asked: {name}"))
            case type_ if type_ in TURN_ENDS:
                reason = told.get("reason")
                error = _text_of(told.get("error") or {}, "message")
                words = ", ".join(str(each) for each in (TURN_ENDS[type_], reason, error) if each)
                self._put(f"{turn_id}:end", Block("end", words, state=TURN_ENDS[type_]))

    def _item(self, turn_id: str, told: dict[str, Any], *, ended: bool) -> None:
        key, item = f"{turn_id}:{told['itemId']}", told.get("item") or {}
        block = self.blocks.get(key)
        made = _block_of(told.get("kind", ""), item, turn_id, ended=ended)
        if made is None:
            return
        if block is not None and not made.text:
            made.text, made.cut = block.text, block.cut  # what it said so far, if its end does not repeat it
        self._put(key, made)

    def _grow(self, key: str, told: dict[str, Any]) -> None:
        block = self.blocks.get(key)
        if block is None:
            return  # forgotten, or a kind that is not shown
        before = len(block.text)
        block.add(told["delta"])
        self._chars += len(block.text) - before
        self.changed.add(key)
        self._forget()

    def _abandon(self, key: str, told: dict[str, Any]) -> None:
        block = self.blocks.get(key)
        if block is None:
            return
        if told.get("reason") == "retried":
            self._drop(key)
            return
        block.state = block.state or ("" if block.kind == "message" else "abandoned")
        if told.get("text") and not block.text:
            block.replace(told["text"])
        self.changed.add(key)

    def _put(self, key: str, block: Block) -> None:
        before = self.blocks.get(key)
        self._chars += len(block.text) - (0 if before is None else len(before.text))
        self.blocks[key] = block
        self.changed.add(key)
        self._forget()

    def _drop(self, key: str) -> None:
        self._chars -= len(self.blocks.pop(key).text)
        self.changed.discard(key)
        self.gone.append(key)

    def _forget(self) -> None:
        while len(self.blocks) > BLOCKS_MAX or (self._chars > STREAM_CHARS_MAX and len(self.blocks) > 1):
            self._drop(next(iter(self.blocks)))


def _block_of(kind: str, item: dict[str, Any], turn_id: str, *, ended: bool) -> Block | None:
    match kind:
        case "userMessage":
            return None  # the turn's own input, or a steer: both have an event of ours
        case "agentMessage":
            block = Block("message", "")
            block.replace(_text_of(item, "text"))
        case "reasoning":
            block = Block("thought", "")
            parts = [*(item.get("summary") or ()), *(item.get("content") or ())]
            block.replace("\n".join(part for part in parts if isinstance(part, str)))
        case "plan":
            block = Block("message", "")
            block.replace(_text_of(item, "text"))
        case "commandExecution":
            block = Block("command", _text_of(item, "command"), state=_state_of_command(item, ended))
            block.replace(_text_of(item, "aggregatedOutput"))
        case "fileChange":
            changes = [each for each in item.get("changes") or () if isinstance(each, dict)]
            names = ", ".join(_text_of(each, "path") for each in changes)
            block = Block("edit", names, state="" if not ended else _unless(item.get("status"), "completed"))
            block.replace("\n".join(map(diff_of, changes)))
        case _:
            words = (kind, *(_text_of(item, name) for name in ("server", "tool", "query", "status", "path")))
            block = Block("note", " ".join(word for word in words if word))
    return block


def _state_of_command(item: dict[str, Any], ended: bool) -> str:
    if not ended:
        return "runs"
    code = item.get("exitCode")
    return f"exit {code}" if code else _unless(item.get("status"), "completed")


def _unless(value: Any, usual: str) -> str:
    return "" if value == usual else str(value or "")


def _text_of(told: dict[str, Any], *names: str) -> str:
    return next((told[name] for name in names if isinstance(told.get(name), str)), "")


# --- all of it


class View:
    """Sessions and open questions. `changed` are the sessions whose line is to be shown anew."""

    def __init__(self) -> None:
        self.sessions: dict[str, SessionRow] = {}
        self.questions: dict[str, OpenQuestion] = {}
        self.changed: set[str] = set()
        self.questions_changed = False

    def load(self, sessions: Iterable[Session]) -> None:
        """What there is, oldest first, before the events that come after it."""
        for session in sessions:
            row = SessionRow(session.session_id, _name_of(session.purpose, session.cwd, session.session_id))
            row.closed = session.status is SessionStatus.CLOSED
            row.running = session.current_turn_id
            row.last = None if session.last_turn_status is None else session.last_turn_status.value
            self._add(row)

    def load_questions(self, interactions: Iterable[Interaction]) -> None:
        """The open questions of a session, before the events that come after."""
        for each in interactions:
            self._ask(
                OpenQuestion(
                    each.interaction_id,
                    each.session_id,
                    each.turn_id,
                    each.kind,
                    _told(msgspec.json.decode(each.request)),
                    tuple(each.decisions),
                    each.item_id,
                    each.deadline_at,
                )
            )

    def apply(self, event: Event) -> None:
        """The next event of any session. One that tells what is known already changes nothing."""
        session_id, told = event.session_id, event.payload
        if session_id is None:
            return
        if event.type == "session.registered" and session_id not in self.sessions:
            settings = told.get("settings") or {}
            self._add(SessionRow(session_id, _name_of(settings.get("purpose"), settings.get("cwd", ""), session_id)))
        row = self.sessions.get(session_id)
        if row is None:
            return
        match event.type:
            case "session.closed":
                row.closed = True
            case "turn.queued":
                row.waiting.add(event.turn_id or "")
                if row.running == event.turn_id:
                    row.running = None
            case "turn.accepted" | "turn.started":
                row.waiting.discard(event.turn_id or "")
                row.running = event.turn_id
            case "interaction.requested":
                self._ask(
                    OpenQuestion(
                        told["interactionId"],
                        session_id,
                        event.turn_id,
                        InteractionKind(told["kind"]),
                        _told(told.get("request")),
                        tuple(told["decisions"]),
                        told.get("itemId"),
                        told.get("deadlineAt", ""),
                    )
                )
            case "interaction.resolved" | "interaction.expired":
                self.questions_changed |= self.questions.pop(told["interactionId"], None) is not None
            case type_ if type_ in TURN_ENDS:
                row.waiting.discard(event.turn_id or "")
                row.last = TURN_ENDS[type_]
                if row.running == event.turn_id:
                    row.running = None
        self.changed.add(session_id)

    def asks(self, session_id: str) -> bool:
        """Whether Codex waits for an answer there."""
        return any(question.session_id == session_id for question in self.questions.values())

    def question_of(self, session_id: str | None) -> OpenQuestion | None:
        """The question to answer next: the chosen session's, else the oldest."""
        waiting = list(self.questions.values())
        return next((each for each in waiting if each.session_id == session_id), waiting[0] if waiting else None)

    def question_rows(self, count: int) -> list[Row]:
        """The open questions, the oldest first, in at most `count` lines."""
        waiting = list(self.questions.values())
        shown = waiting if len(waiting) <= count else waiting[: count - 1]
        names = [self.sessions[each.session_id].name if each.session_id in self.sessions else "" for each in shown]
        rows = [("asks", plain(f"? {name}: ") + each.summary()) for each, name in zip(shown, names, strict=True)]
        return rows + [("dim", f"… and {len(waiting) - len(shown)} more")] * (len(waiting) > len(shown))

    def _ask(self, question: OpenQuestion) -> None:
        self.questions[question.interaction_id] = question
        self.questions_changed = True

    def _add(self, row: SessionRow) -> None:
        self.sessions[row.session_id] = row
        self.changed.add(row.session_id)
        if len(self.sessions) > SESSIONS_MAX:
            oldest = next((each for each in self.sessions.values() if each.closed), next(iter(self.sessions.values())))
            del self.sessions[oldest.session_id]
            self.changed.add(oldest.session_id)


def _told(request: Any) -> dict[str, Any]:
    return request if isinstance(request, dict) else {}


def _name_of(purpose: str | None, cwd: str, session_id: str) -> str:
    return purpose or f"{PurePath(cwd).name or cwd} {session_id[-6:]}"
