"""The PostgreSQL that the tests run: real, synced, apart from every other, and still whole after what is done to it."""

from __future__ import annotations

import psutil
import psycopg
import pytest

from tests.support.postgres import PostgreSQL


def ask(url: str, sql: str) -> object:
    with psycopg.connect(url, autocommit=True, connect_timeout=20) as connection:
        answer = connection.execute(sql.encode())
        row = answer.fetchone() if answer.description else None
        return None if row is None else row[0]


def test_it_syncs_as_in_production_and_gives_no_rights_over_itself(postgres: PostgreSQL, postgres_url: str) -> None:
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        assert ask(postgres_url, f"SHOW {name}") == "on"
    assert ask(postgres_url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    assert ask(postgres_url, "SHOW listen_addresses") == "127.0.0.1"
    assert psutil.Process(postgres.pid).uids().effective != 0


def test_every_database_is_empty_and_apart(postgres: PostgreSQL, postgres_url: str) -> None:
    ask(postgres_url, "CREATE TABLE mine (number INTEGER)")
    other = postgres.database()
    assert ask(other, "SELECT to_regclass('mine')") is None
    postgres.drop(other)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        ask(other, "SELECT 1")


def test_what_was_committed_survives_a_kill_and_nothing_of_the_server_does(
    postgres: PostgreSQL, postgres_url: str
) -> None:
    ask(postgres_url, "CREATE TABLE kept AS SELECT 7 AS number")
    held = psycopg.connect(postgres_url, connect_timeout=20)
    everyone = [postgres.pid, *(child.pid for child in psutil.Process(postgres.pid).children())]
    postgres.kill()
    assert not any(psutil.pid_exists(pid) for pid in everyone)
    with pytest.raises(psycopg.OperationalError):
        held.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        ask(postgres_url, "SELECT 1")
    postgres.start()
    assert ask(postgres_url, "SELECT number FROM kept") == 7
    assert "automatic recovery in progress" in postgres.log
    port = postgres.port
    postgres.restart()
    assert ask(postgres_url, "SELECT number FROM kept") == 7
    assert postgres.port == port


def test_a_test_may_leave_it_down_or_frozen(postgres: PostgreSQL, postgres_url: str) -> None:
    postgres.freeze()
    assert psutil.Process(postgres.pid).status() == psutil.STATUS_STOPPED
    postgres.thaw()
    assert ask(postgres_url, "SELECT 1") == 1
    postgres.freeze()


def test_another_server_may_run_beside_it_and_leaves_nothing(postgres: PostgreSQL, postgres_url: str) -> None:
    with PostgreSQL() as other:
        assert other.port != postgres.port
        assert ask(other.database(), "SELECT 1") == 1
        pid, folder = other.pid, other.folder
    assert not psutil.pid_exists(pid)
    assert not folder.exists()
    assert ask(postgres_url, "SELECT 1") == 1
