"""A turn's ledger as Markdown, for people to read and to paste: what was asked, what was done, how it ended."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import UNSET

from baa.api.interactions import Interaction
from baa.api.sessions import Item, LocalImage, Turn

OUTPUT_CHARS: Final = 20_000
"""Characters of a command's output that are shown, its end."""


def markdown(turn: Turn) -> str:
    """The transcript of a turn that was read with its ledger."""
    told = [f"# Turn {turn.turn_id}", _facts(turn), "## Prompt", _fenced(turn.prompt)]
    told += [f"![image]({_one_line(part.path)})" for part in turn.input if isinstance(part, LocalImage)]
    for item in [] if turn.items is UNSET else turn.items:
        told += _item(item)
    for interaction in [] if turn.interactions is UNSET else turn.interactions:
        told += _interaction(interaction)
    if turn.diff:
        told += ["## Diff", _fenced(turn.diff, "diff")]
    told += ["## End", _end(turn)]
    return "\n\n".join(told) + "\n"


def _facts(turn: Turn) -> str:
    facts = {
        "session": turn.session_id,
        "status": turn.status.value,
        "reason": turn.reason,
        "queued": turn.queued_at,
        "started": turn.started_at,
        "ended": turn.ended_at,
        "tokens": None if turn.usage is None else turn.usage.get("totalTokens"),
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items() if value is not None)


def _item(item: Item) -> list[str]:
    body: dict[str, Any] = msgspec.json.decode(item.item)
    unfinished = "" if item.status.value == "completed" else f" ({item.status.value})"
    match item.kind:
        case "userMessage":
            return []
        case "agentMessage":
            text = body.get("text") or item.text
            return [f"## Codex{unfinished}", _quoted(str(text))] if text else []
        case "reasoning":
            text = "\n\n".join(map(str, body.get("summary") or [])) or item.text
            return [f"## Reasoning{unfinished}", _quoted(str(text))] if text else []
        case "commandExecution":
            output = body.get("aggregatedOutput") or item.text or ""
            code = body.get("exitCode")
            ended = unfinished if code is None else f" (exit {code})"
            told = [f"## Command{ended}", _fenced(str(body.get("command", "")), "sh")]
            return told + ([_fenced(str(output)[-OUTPUT_CHARS:])] if output else [])
        case "fileChange":
            changes = body.get("changes") or []
            paths = "\n".join(f"- {_one_line(change.get('path'))}" for change in changes if isinstance(change, dict))
            return [f"## File change ({body.get('status', item.status.value)})", paths]
        case _:
            return [f"## {item.kind}{unfinished}"]


def _interaction(interaction: Interaction) -> list[str]:
    how = interaction.status.value
    if interaction.answer is not None:
        how = f"answered {msgspec.json.encode(interaction.answer.decision).decode()}"
    elif interaction.resolved_by is not None:
        how = f"{how} by {interaction.resolved_by.value}"
    return [f"## Question: {interaction.kind.value}", f"- asked: {interaction.requested_at}\n- {how}"]


def _end(turn: Turn) -> str:
    told = [f"{turn.status.value}{f', {turn.reason}' if turn.reason else ''}"]
    for name, value in (("error", turn.error), ("evidence", turn.evidence or None), ("output", turn.output)):
        if value is not None:
            told.append(f"{name}:\n\n{_fenced(msgspec.json.format(msgspec.json.encode(value)).decode(), 'json')}")
    return "\n\n".join(told)


def _one_line(path: object) -> str:
    """A path, which may hold line ends: each a space here."""
    return " ".join(str(path).splitlines())


def _quoted(text: str) -> str:
    """Words of a model's: quoted, so that no heading or fence of theirs can pass for the transcript's own."""
    return "\n".join(f"> {line}" for line in text.splitlines())


def _fenced(text: str, language: str = "") -> str:
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
