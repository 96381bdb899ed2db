"""Where the engine's database is: a file or a server, and what of its address is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from baa.api.errors import CannotStart
from baa.config import load, settings

HOME = {"BAA_HOME": "/home/user/baa", "BAA_NODE_ID": "here"}


@pytest.mark.parametrize(
    "url",
    [
        "/srv/e.sqlite3",
        "sqlite:e",
        "sqlite://e",
        "sqlite://",
        "sqlite:///",
        "file:e",
        "mysql://me:secret@db/baa",
        "postgresql+asyncpg://me:secret@db/baa",
        "postgresql://me:secret@db",
        "postgresql://me:secret@db/",
        "postgresql:///baa",
        "postgresql://me:secret@db:x/baa",
        "postgresql://me:secret@db/b aa",
    ],
)
def test_an_engine_that_is_neither_a_file_of_sqlite_nor_a_postgresql_is_refused(url: str) -> None:
    with pytest.raises(CannotStart, match="BAA_ENGINE_URL must be empty, sqlite:///PATH or postgresql:") as refused:
        load(environ=HOME | {"BAA_ENGINE_URL": url})
    assert "secret" not in refused.value.message


def test_the_engine_is_a_file_or_at_a_server_and_told_without_its_password() -> None:
    file = load(environ=HOME | {"BAA_ENGINE_URL": "sqlite:////srv/e.sqlite3"})
    assert (file.engine_file, file.engine_place) == (Path("/srv/e.sqlite3"), "The engine's file e.sqlite3")
    server = load(environ=HOME | {"BAA_ENGINE_URL": "postgresql://me:secret@db:1/baa"})
    assert (server.engine_file, server.engine_place) == (None, "The engine's database at db")


def test_a_heartbeat_must_have_time_to_arrive() -> None:
    with pytest.raises(CannotStart, match="BAA_WORKER_NODE_TTL_MS"):
        load(environ=HOME | {"BAA_WORKER_NODE_TTL_MS": "999"})


def test_the_password_is_not_among_the_settings() -> None:
    _, found = settings(environ=HOME | {"BAA_ENGINE_URL": "postgresql://baa:secret@db:5433/baa"})
    assert {each.value for each in found if each.key == "engine_url"} == {"postgresql://baa:***@db:5433/baa"}


@pytest.mark.parametrize(("variable", "value"), [("DRAIN_MS", "-1"), ("EMBEDDED", "yes")])
def test_a_worker_has_a_time_and_a_place_that_can_be(variable: str, value: str) -> None:
    with pytest.raises(CannotStart, match=f"BAA_WORKER_{variable} "):
        load(environ=HOME | {f"BAA_WORKER_{variable}": value})


@pytest.mark.parametrize("slots", ["0", "-1"])
def test_a_worker_has_a_slot_at_least(slots: str) -> None:
    with pytest.raises(CannotStart, match="BAA_WORKER_SLOTS must be 1 or more"):
        load(environ=HOME | {"BAA_WORKER_SLOTS": slots})


@pytest.mark.parametrize("name", ["BAA_WORKER_DRAIN_MS", "BAA_CONDUCTOR_HISTORY_MS"])
def test_a_time_of_the_queue_is_not_negative(name: str) -> None:
    with pytest.raises(CannotStart, match=f"{name}.* milliseconds: 0 or more"):
        load(environ=HOME | {name: "-1"})
