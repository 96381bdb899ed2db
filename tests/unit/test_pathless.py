"""The open status says what is wrong, and not where on this machine."""

from __future__ import annotations

import pytest

from baa.codexd.status import _pathless


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (None, None),
        ("nothing is wrong", "nothing is wrong"),
        ("POST /v1/codexd/status/child/restart and/or wait 1/2 h", None),
        ("X is '/home/me/My Code/codex', and", "X is '(a path; `baa doctor` names it)', and"),
        ("look at /srv/x/y.log, then", "look at (a path; `baa doctor` names it), then"),
        ("~/.codex is gone", "(a path; `baa doctor` names it) is gone"),
        ("(/etc/codex)", "((a path; `baa doctor` names it))"),
    ],
)
def test_paths_are_taken_out_and_routes_stay(problem: str | None, told: str | None) -> None:
    assert _pathless(problem) == (problem if told is None else told)
