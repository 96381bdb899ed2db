"""The schema that the pinned Codex writes of itself has every place that codexd sends to and reads from."""

from __future__ import annotations

from pathlib import Path

from codex_cli_bin import bundled_codex_path

from baa.codexd.appserver import attached
from tests.proof.schema import ABSENT, facts, schema_of


def test_the_pinned_release_has_all_that_codexd_uses() -> None:
    found = facts(schema_of(Path(bundled_codex_path())))
    lacking = {place for place, fact in found.items() if fact == ABSENT}
    of_newer_terminals = {f"{method} params.{name}" for method, names in attached.LOOKS.items() for name in names}
    assert lacking - of_newer_terminals == set()
    assert found["turn/start params.clientUserMessageId"] == "null | string"
