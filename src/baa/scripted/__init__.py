"""A model server that answers from a script, so that a real Codex can run without an account and without chance.

`script` says what is answered, `request` reads what Codex asks, `stream` turns a reply into bytes and waits (pure),
`connection` is one client's HTTP, `server` joins them on loopback, `codex_config` points Codex at it, and
`python -m baa.scripted` runs it as a process of its own. Used by `baa demo`, tests and benchmarks; imports nothing of
ours.
"""

from __future__ import annotations

from baa.scripted.codex_config import codex_config
from baa.scripted.request import Request
from baa.scripted.script import (
    Call,
    Drop,
    Hold,
    Limits,
    Patch,
    Reason,
    Refuse,
    Run,
    Say,
    Scenario,
    Step,
    encode_script,
    when,
)
from baa.scripted.server import ScriptedModel

__all__ = [
    "Call",
    "Drop",
    "Hold",
    "Limits",
    "Patch",
    "Reason",
    "Refuse",
    "Request",
    "Run",
    "Say",
    "Scenario",
    "ScriptedModel",
    "Step",
    "codex_config",
    "encode_script",
    "when",
]
