"""Another program's hand in the engine's file. Never apsw's: two copies of SQLite in one process break their locks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.pool import NullPool


@contextmanager
def outside(path: Path) -> Iterator[sa.Connection]:
    """A connection of its own to the file; each statement is committed by itself."""
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
