"""Options that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import Parameter

File: TypeAlias = Annotated[
    Path | None,
    Parameter(name="--config", show_default=False, help="The configuration file; else BAA_CONFIG, else baa.toml."),
]
Json: TypeAlias = Annotated[bool, Parameter(name="--json", negative=(), help="JSON for programs.")]
