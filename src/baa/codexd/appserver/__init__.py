"""Quarantine: the only code that knows Codex's dialect. Everything outside speaks of sessions and turns."""
