"""Where worktrees of tasks are made, by the settings alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from baa.api.errors import CannotStart
from baa.config import load


@pytest.mark.parametrize(
    ("named", "roots", "meant"),
    [
        ("", ["~"], "~/baa-worktrees"),
        ("", ["/srv", "~"], "~/baa-worktrees"),
        ("", ["/srv/work", "~/work"], "/srv/work/baa-worktrees"),
        ("", [], "~/baa-worktrees"),
        ("~/trees", ["/srv"], "~/trees"),
    ],
)
def test_worktrees_are_made_where_codexd_works(tmp_path: Path, named: str, roots: list[str], meant: str) -> None:
    file = tmp_path / "baa.toml"
    file.write_text(f"[ceiling]\nroots = {roots}\n")
    assert load(file, {"BAA_HOME": "/srv/baa", "BAA_WORKER_WORKTREES": named}).worktrees_dir == Path(meant).expanduser()


def test_the_folder_of_worktrees_is_absolute() -> None:
    with pytest.raises(CannotStart, match="absolute"):
        load(Path("/dev/null"), {"BAA_WORKER_WORKTREES": "trees"})
