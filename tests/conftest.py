"""What was skipped is said loudly at the end; where CI is set, it is a failure."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.support.postgres import PostgreSQL

FAILED: Final = 1


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """All of ours runs on asyncio."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _faults_seen(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test says of the faults that it makes goes with its report."""
    faults = sys.modules.get("tests.support.faults")  # not imported: no test here has anything to say
    with nullcontext() if faults is None else faults.reporting_to(request.node.user_properties):
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    """A real PostgreSQL, started for the first test of this process that asks for it."""
    from tests.support.postgres import PostgreSQL, missing

    if (reason := missing()) is not None:
        pytest.skip(reason)
    with PostgreSQL() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgreSQL) -> Iterator[str]:
    """A database of the test's own on it."""
    from tests.support.postgres import database_of

    with database_of(postgres) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def engine_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """BAA_ENGINE_URL of an empty engine: the test runs on both databases."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'engine.sqlite3'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what was skipped, by reason; the reason says how to get it."""
    reasons = _skipped(terminalreporter)
    if not reasons:
        return
    terminalreporter.section("SKIPPED: these tests did not run here", sep="!", red=True)
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count} x {reason}")
    if os.environ.get("CI"):
        terminalreporter.line("CI is set: every test must run, so this counts as a failure.", red=True)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn skips into a failure, in the process that has seen all of them."""
    reporter: pytest.TerminalReporter | None = session.config.pluginmanager.get_plugin("terminalreporter")
    controls = not hasattr(session.config, "workerinput")
    if os.environ.get("CI") and controls and reporter is not None and _skipped(reporter) and session.exitstatus == 0:
        session.exitstatus = FAILED


def _skipped(reporter: pytest.TerminalReporter) -> Counter[str]:
    reports = reporter.stats.get("skipped", [])
    return Counter(str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else "?" for report in reports)
