"""The parts of the client that need no peer."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import msgspec
import pytest

from baa import config
from baa.api.endpoint import Endpoint, Program
from baa.api.errors import STATUS, BaaError, CannotStart, Code, PeerFailed, Rejected, Unavailable
from baa.client import answers
from baa.client.discovery import Location, Unreachable, locate
from baa.client.pauses import LONGEST_S, pauses
from baa.config import Config
from baa.http.envelope import failure
from baa.http.tokens import ensure_tokens


@pytest.fixture
def home(tmp_path: Path) -> Config:
    (tmp_path / "baa.toml").touch()
    (tmp_path / "state").mkdir()
    return config.load(environ={"BAA_HOME": str(tmp_path), "BAA_CONFIG": str(tmp_path / "baa.toml")})


def write_down(home: Config, address: str) -> None:
    program = Program(address, 4711, "dmn_x", "2026-01-01T00:00:00.000Z")
    home.endpoint_file.write_bytes(msgspec.json.encode(Endpoint(codexd=program)))


@pytest.mark.parametrize("code", list(Code))
def test_every_error_that_codexd_sends_comes_out_as_it_was(code: Code) -> None:
    status = STATUS[code]
    kind = next((kind for kind in (Rejected, Unavailable, PeerFailed) if status in kind.statuses), BaaError)
    sent = kind(code, "Do this.", details={"field": "x"})
    found = answers.failure(status, failure(sent))
    told = (found.code, found.message, dict(found.details), found.retry_after_ms)
    assert told == (code, "Do this.", {"field": "x"}, sent.retry_after_ms)
    assert type(found) is kind


@pytest.mark.parametrize(
    ("status", "kind"), [(418, Rejected), (429, Unavailable), (502, PeerFailed), (500, BaaError), (503, BaaError)]
)
def test_an_unknown_code_counts_by_its_status(status: int, kind: type[BaaError]) -> None:
    body = b'{"ok":false,"error":{"code":"new","message":"m"}}'
    found = answers.failure(status, body)
    assert (type(found), found.message, dict(found.details)) == (kind, "m", {"code": "new"})


def test_pauses_grow_to_a_limit_and_never_end() -> None:
    first = list(islice(pauses(), 100))
    assert 0 < first[0] <= 0.05
    assert max(first) <= LONGEST_S
    assert min(first[10:]) >= LONGEST_S / 2


def test_codexd_is_found_by_what_it_wrote_down(home: Config) -> None:
    tokens = ensure_tokens(home.tokens_dir)
    write_down(home, "http://127.0.0.1:4319")
    found = locate(home)
    assert found == Location("http://127.0.0.1:4319", 4711, tokens.drive)
    assert tokens.drive not in repr(found)
    assert locate(home, scope="read").token == tokens.read


def test_no_codexd_is_told_with_the_command_that_starts_one(home: Config) -> None:
    with pytest.raises(Unreachable, match="baa up --service codexd"):
        locate(home)
    home.endpoint_file.write_bytes(b'{"codexd":null}')
    with pytest.raises(Unreachable, match="baa up --service codexd"):
        locate(home)


def test_a_torn_endpoint_file_is_told_with_its_path(home: Config) -> None:
    home.endpoint_file.write_bytes(b'{"codexd":{"addr')
    with pytest.raises(Unreachable, match=r"endpoint\.json"):
        locate(home)


def test_the_token_is_sent_to_loopback_only(home: Config) -> None:
    ensure_tokens(home.tokens_dir)
    write_down(home, "http://192.0.2.1:4319")
    with pytest.raises(CannotStart, match=r"endpoint\.json"):
        locate(home)


def test_a_token_that_others_can_read_is_not_used(home: Config) -> None:
    ensure_tokens(home.tokens_dir)
    write_down(home, "http://127.0.0.1:4319")
    (home.tokens_dir / "drive").chmod(0o644)
    with pytest.raises(CannotStart, match="mode 0644"):
        locate(home)
