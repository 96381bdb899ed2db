"""The error tree: every code has one status, and a class takes only codes of its own cause."""

from __future__ import annotations

import pytest

from baa.api.errors import STATUS, BaaError, Code, PeerFailed, Rejected, Unavailable


def test_every_code_has_a_status() -> None:
    assert set(STATUS) == set(Code)


@pytest.mark.parametrize("code", Code)
def test_exactly_one_cause_takes_a_code(code: Code) -> None:
    causes = [cause for cause in (Rejected, Unavailable, PeerFailed) if STATUS[code] in cause.statuses]

    assert len(causes) == (0 if code is Code.INTERNAL_ERROR else 1)


def test_a_code_of_another_cause_is_a_programming_error() -> None:
    with pytest.raises(AssertionError):
        Rejected(Code.DRAINING, "codexd is stopping.")


def test_what_may_pass_later_says_when() -> None:
    error: BaaError = Unavailable(Code.DRAINING, "codexd is stopping. Try again.", retry_after_ms=2500)

    assert (error.status, error.retry_after_ms, str(error)) == (503, 2500, "codexd is stopping. Try again.")
