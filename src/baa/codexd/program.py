"""What is run as the child, and with which environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from baa.codexd.appserver.lines import OFF

PASSED: Final = ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "USER", "LOGNAME", "SHELL", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""What the child sees of our environment, and LC_*: an agent's commands can read all of it, so no secret goes there."""

MARKER: Final = "BAA_KEEPER_ID"
"""Inherited by everything that the child starts: by it, what outlived a generation can be told from all else."""


def arguments(program: Path, server_args: tuple[str, ...]) -> list[str]:
    """The child's argument list: what was configured, and the settings that keep it to itself."""
    overrides = [part for setting in OFF for part in ("-c", setting)]
    return [str(program), *server_args, *overrides]


def environment(environ: Mapping[str, str], *, codex_home: Path, keeper_id: str) -> dict[str, str]:
    """The child's environment, built from nothing."""
    passed = {name: value for name, value in environ.items() if name in PASSED or name.startswith("LC_")}
    passed.setdefault("PATH", os.defpath)
    # Without a UTF-8 locale Python would add LC_CTYPE to the keeper's environment, and so to the child's.
    passed.setdefault("LANG", "C.UTF-8")
    return {**passed, "CODEX_HOME": str(codex_home), "RUST_LOG": "warn", MARKER: keeper_id}
