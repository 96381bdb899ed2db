"""The queue's library asks SQLite for the time in a way that not every SQLite knows."""

from __future__ import annotations

import time

import sqlalchemy as sa

from baa.engine import sqlite_time


def test_sqlite_tells_the_time_in_parts_of_a_second_whatever_its_release() -> None:
    sqlite_time.listen()
    sqlite_time.listen()
    before = time.time()
    with sa.create_engine("sqlite://").connect() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE t (n INTEGER, at INTEGER NOT NULL DEFAULT (unixepoch('subsec') * 1000))"
        )
        connection.exec_driver_sql("INSERT INTO t (n) VALUES (1)")
        at = connection.exec_driver_sql("SELECT at FROM t").scalar_one()
    assert (before - 0.001) * 1000 <= at <= time.time() * 1000
