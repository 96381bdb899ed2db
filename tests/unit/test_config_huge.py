"""A configuration file that is far too large, or made to cost its reader: refused at once, in few words."""

from __future__ import annotations

from pathlib import Path

import pytest

from baa.api.errors import EX_CONFIG, CannotStart
from baa.config import load
from tests.support.faults import saw

HUGE: dict[str, tuple[bytes, str]] = {
    "one word": (b"x" * 60_000, "Expected '='"),
    "a name that nobody knows": (b"x" * 60_000 + b" = 1", "unknown field"),
    "a value without an end": (b"home = '" + b"x" * 60_000, "Expected"),
    "lists in lists": (b"home = " + b"[" * 60_000, "recursion"),
    "tables in tables": (b"a." * 20_000 + b"a = 1", "recursion|unknown field"),
    "megabytes": (b"#\n" * 1_000_000, "more than 65536 characters"),
}


@pytest.mark.parametrize(("content", "told"), HUGE.values(), ids=list(HUGE))
def test_a_huge_file_is_refused_in_few_words(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "baa.toml"
    file.write_bytes(content)
    with pytest.raises(CannotStart, match=told) as caught:
        load(file, {"BAA_HOME": str(tmp_path)})
    assert (caught.value.exit_code, len(caught.value.message) < 1000) == (EX_CONFIG, True)
    saw("F90", file.stat().st_size > 40_000, "a configuration file was huge")
