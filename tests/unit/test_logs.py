"""Our own log files: one JSON object a line, whoever logged and whatever; for nobody else to read."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from baa import logs
from baa.codexd import lifecycle
from baa.codexd.stored import Stored
from baa.known_secrets import KnownSecrets
from tests.support.planted import Planted, core

EVIL = 'first\nsecond\r\x1b[31mred\x1b[0m\x00\u2028\u2029\x85\x9b31m\x7f\u202e "quoted" \\ é😀'


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    root, raise_exceptions = logging.getLogger(), logging.raiseExceptions
    before, level = root.handlers[:], root.level
    umask = os.umask(0o022)
    logs.to_folder(tmp_path / "made" / "logs", "codexd")
    yield tmp_path / "made" / "logs"
    os.umask(umask)
    for handler in root.handlers:
        handler.close()
    root.handlers, logging.raiseExceptions = before, raise_exceptions
    root.setLevel(level)
    structlog.reset_defaults()


def entries(folder: Path) -> list[dict[str, Any]]:
    raw = (folder / "codexd.jsonl").read_bytes()
    assert raw.endswith(b"\n")
    assert not [byte for byte in raw if not 0x20 <= byte < 0x7F and byte != 0x0A], "a terminal could obey this"
    return [json.loads(line) for line in raw.decode().removesuffix("\n").split("\n")]


def test_an_event_is_its_name_and_its_fields(folder: Path) -> None:
    structlog.get_logger("codexd").info("turn.completed", turn_id="trn_a", seq=7, path=Path("/home/user"), none=None)
    (entry,) = entries(folder)

    assert entry.pop("at").endswith("Z")
    assert entry == {
        "event": "turn.completed",
        "level": "info",
        "turn_id": "trn_a",
        "seq": 7,
        "path": "/home/user",
        "none": None,
    }


def test_whatever_is_said_stays_on_one_line(folder: Path) -> None:
    logger = structlog.get_logger("codexd")
    logger.warning(EVIL, field=EVIL, nested={EVIL: [EVIL]}, raw=b"\xff", some=object, numbers={1})
    (entry,) = entries(folder)

    assert (entry["event"], entry["field"], entry["nested"]) == (EVIL, EVIL, {EVIL: [EVIL]})


def test_no_field_can_pass_for_a_line_of_its_own(folder: Path) -> None:
    forged = '"}\n{"event":"turn.completed","level":"info"}\n'
    structlog.get_logger("codexd").info("said", text=forged, **{forged: forged})
    logging.getLogger("library").info(forged)

    assert [entry["event"] for entry in entries(folder)] == ["said", forged]


SECRETS = Planted(11)


def test_secrets_are_told_nowhere_in_a_line(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "tokens").mkdir()
    known = KnownSecrets(tmp_path / "tokens", None, {"A_SECRET": SECRETS.named})
    for handler in logging.getLogger().handlers:
        handler.close()
    logs.to_folder(folder, "codexd", redactor=known.redactor)
    (tmp_path / "tokens" / "drive").write_text("a-token-that-came-later")
    for secret in (*SECRETS.shaped.values(), SECRETS.named, "a-token-that-came-later"):
        structlog.get_logger("codexd").info(f"is {secret}", field=[secret], **{secret: EVIL})
        logging.getLogger("library").error("%s", secret)
        try:
            raise ValueError(secret)
        except ValueError:
            structlog.get_logger("codexd").exception("it broke")
        told = entries(folder)[-3:]
        assert core(secret) not in repr(told)
        assert all("[redacted]" in repr(entry) for entry in told)


def test_what_libraries_log_becomes_such_a_line_too(folder: Path) -> None:
    logging.getLogger("uvicorn.error").error("%s and %d", EVIL, 7)
    logging.getLogger("asyncio").warning("no arguments %s")
    first, second = entries(folder)

    assert (first["event"], first["level"]) == (f"{EVIL} and 7", "error")
    assert (second["event"], second["level"]) == ("no arguments %s", "warning")
    assert first["at"].endswith("Z")


@pytest.mark.parametrize("library", [False, True])
def test_an_exception_is_one_line_with_its_traceback(folder: Path, library: bool) -> None:
    logger: Any = logging.getLogger("library") if library else structlog.get_logger("codexd")
    try:
        raise ValueError(EVIL)
    except ValueError:
        logger.exception("it broke")
    (entry,) = entries(folder)

    assert (entry["event"], entry["level"]) == ("it broke", "error")
    assert "ValueError: first" in entry["exception"]
    assert "test_logs.py" in entry["exception"]


def test_a_name_that_is_no_text_is_told_all_the_same(folder: Path) -> None:
    """A file's name may hold any bytes; Python tells the strange ones as lone surrogates."""
    structlog.get_logger("codexd").error("cannot read", path=os.fsdecode(b"/home/user/\xff"))
    structlog.get_logger("codexd").info("next")

    assert [entry["event"] for entry in entries(folder)] == ["cannot read", "next"]


def test_the_lifecycle_is_told_by_its_ids_and_what_was_said_is_not(folder: Path) -> None:
    bodies = [b'{"turnId":"trn_a","payload":{"request":{"prompt":"secret"}}}', b'{"turnId":null,"payload":{}}']
    lifecycle.write(
        [
            Stored(1, "ses_a", "turn.queued", bodies[0]),
            Stored(2, None, "child.ready", bodies[1]),
            Stored(3, "ses_a", "item.delta", bodies[0]),
            Stored(4, "ses_a", "codex.warning", bodies[0]),
        ]
    )

    assert [{name: entry[name] for name in ("event", "seq", "session_id", "turn_id")} for entry in entries(folder)] == [
        {"event": "turn.queued", "seq": 1, "session_id": "ses_a", "turn_id": "trn_a"},
        {"event": "child.ready", "seq": 2, "session_id": None, "turn_id": None},
    ]
    assert b"secret" not in (folder / "codexd.jsonl").read_bytes()


def test_details_are_not_told_below_info(folder: Path) -> None:
    structlog.get_logger("codexd").debug("nothing")
    logging.getLogger("library").debug("nothing")
    structlog.get_logger("codexd").info("something")

    assert [entry["event"] for entry in entries(folder)] == ["something"]


FILLER = "x" * (logs.FILE_BYTES - 1000)  # one such line fits into a file, and nothing of its size after it


def test_the_file_is_for_its_owner_only_also_after_it_was_begun_anew(folder: Path) -> None:
    structlog.get_logger("codexd").info("one", filler=FILLER)
    structlog.get_logger("codexd").info("two", filler=FILLER)
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}

    assert files == {"codexd.jsonl": 0o600, "codexd.jsonl.1": 0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_only_so_many_old_files_are_kept(folder: Path) -> None:
    for _ in range(logs.FILES_KEPT + 4):
        structlog.get_logger("codexd").info("next", filler=FILLER)

    assert len(list(folder.iterdir())) == logs.FILES_KEPT + 1


def test_a_program_goes_on_with_the_file_that_is_there(folder: Path) -> None:
    structlog.get_logger("codexd").info("one")
    for handler in logging.getLogger().handlers:
        handler.close()
    logs.to_folder(folder, "codexd")
    structlog.get_logger("codexd").info("two")

    assert [entry["event"] for entry in entries(folder)] == ["one", "two"]
