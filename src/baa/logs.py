"""Structured logs: one JSON object a line, an event's fixed name and its fields, never a prompt or an answer."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from baa.redaction import Redactor

FILE_BYTES: Final = 10 * 1024 * 1024
FILES_KEPT: Final = 5

SHAPES_ONLY: Final = Redactor()


def to_folder(
    folder: Path, program: str, *, redactor: Callable[[], Redactor] = lambda: SHAPES_ONLY, also_stderr: bool = False
) -> None:
    """From now on every logger writes to `folder`/`program`.jsonl (0600, 10 MiB, five older ones kept).

    `redactor` gives what finds the secrets that are not to be told. `also_stderr`: and the same lines to stderr. A log
    that cannot be written does not stop the program. Raises OSError if the file cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{program}.jsonl"
    handler = _Owners(path, maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8")
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]
    handlers: list[logging.Handler] = [handler]
    if also_stderr:
        handlers.append(logging.StreamHandler())
    for each in handlers:
        each.setFormatter(_json_lines(shared, redactor))
    logging.raiseExceptions = False
    root = logging.getLogger()
    root.handlers = handlers
    root.setLevel(logging.INFO)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells of every request, and we make some each second
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _json_lines(shared: list[Any], redactor: Callable[[], Redactor]) -> logging.Formatter:
    def serialize(entry: dict[str, Any], **_: object) -> str:
        line, redact = _serialized(entry), redactor()
        if redact.suspects(line):
            line = bytes(redact.value(msgspec.Raw(line)))
        return _ascii(line)

    render = structlog.processors.JSONRenderer(serializer=serialize)
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,  # what libraries log becomes a JSON line too
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            render,
        ],
    )


class _Owners(RotatingFileHandler):
    """Every file that it begins is for its owner only, whatever the umask."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        return open(descriptor, "a", encoding=self.encoding)


def _serialized(entry: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(entry, enc_hook=str)
    except UnicodeEncodeError:  # A file's name may hold bytes that are no text.
        return json.dumps(entry, default=str).encode()


def _ascii(line: bytes) -> str:
    """The line with all that a terminal or another reader could take for its end, or for a command, escaped."""
    told = line.decode()
    return (told if told.isascii() else json.dumps(json.loads(told))).replace("\x7f", "\\u007f")
