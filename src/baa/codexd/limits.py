"""The account's usage limits, as Codex tells them: in pieces, and only what it just learned."""

from __future__ import annotations

from typing import Any

from baa.clock import rfc3339


def merged(known: dict[str, Any] | None, told: dict[str, Any]) -> dict[str, Any]:
    """The limits by their ids, with what was just told of one. Codex tells null for what it does not know this time."""
    limit_id = str(told.get("limitId") or "codex")
    before = (known or {}).get(limit_id, {})
    return {**(known or {}), limit_id: {**before, **{name: value for name, value in told.items() if value is not None}}}


def resets_at(limits: dict[str, Any] | None) -> str | None:
    """When the last of the limits that are used up resets; None if Codex did not say."""
    windows = (limit.get(name) for limit in (limits or {}).values() for name in ("primary", "secondary"))
    used_up = [window for window in windows if isinstance(window, dict) and window.get("usedPercent", 0) >= 100]
    resets = [window["resetsAt"] for window in used_up if isinstance(window.get("resetsAt"), int)]
    return rfc3339(max(resets) * 1000) if resets else None
