"""Which releases of Codex are known, newer, older, refused: by their numbers, and nothing that is newer is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from baa.api.status import Support
from baa.codexd.appserver.versions import KNOWN, OLDEST, said, support, too_old

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("version", "is_"),
    [
        ("0.163.0", Support.KNOWN),
        ("0.171.0", Support.KNOWN),
        ("0.171.1", Support.NEWER),
        ("0.1000.0", Support.NEWER),
        ("1.0.0", Support.NEWER),
        ("0.172.0-alpha.2", Support.NEWER),
        ("0.163.1", Support.OLDER),
        ("0.163.0-alpha.2", Support.OLDER),
        ("0.162.9", Support.OLDER),
        ("0.144.5", Support.OLDER),
        ("0.144.4", Support.KNOWN),
        ("0.144.3", Support.TOO_OLD),
        ("0.0.1", Support.TOO_OLD),
        ("0.0.0", Support.UNKNOWN),
        ("", Support.UNKNOWN),
        ("nightly", Support.UNKNOWN),
        (None, Support.UNKNOWN),
    ],
)
def test_a_version_is_judged(version: str | None, is_: Support) -> None:
    assert support(version) is is_
    if version is not None:
        assert (too_old(version) is not None) == (is_ is Support.TOO_OLD)


def test_the_pinned_release_is_known() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (pinned,) = (line.partition("==")[2] for line in extras["codex"] if line.startswith("openai-codex-cli-bin"))
    assert support(pinned) is Support.KNOWN
    assert list(KNOWN) == sorted(KNOWN)
    assert KNOWN[0] >= OLDEST


def test_a_method_that_a_release_does_not_have_is_named_and_not_all_that_it_has() -> None:
    unknown = {
        "code": -32600,
        "message": "Invalid request: unknown variant `turn/steer`, expected one of `initialize`, …",
    }
    message = "The Codex that runs has no turn/steer. Another release may."
    assert said(unknown) == {"code": -32600, "message": message, "missingMethod": "turn/steer"}


@pytest.mark.parametrize("message", ["no active turn to steer", "Invalid request: missing field `threadId`", None])
def test_any_other_error_is_told_as_it_came(message: str | None) -> None:
    assert said({"code": -32600, "message": message}) == {"code": -32600, "message": message}
