"""Structured logs: one JSON object a line, an event's fixed name and its fields, never a prompt or an answer."""

from __future__ import annotations

import json
import logging
import os
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

FILE_BYTES: Final = 10 * 1024 * 1024
FILES_KEPT: Final = 5


def to_folder(folder: Path, program: str, *, also_stderr: bool = False) -> None:
    """From now on every logger writes to `folder`/`program`.jsonl (0600, 10 MiB, five older ones kept).

    `also_stderr`: and the same lines to stderr. A log that cannot be written does not stop the program.
    Raises OSError if the file cannot be made.
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
        each.setFormatter(_json_lines(shared))
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


def _json_lines(shared: list[Any]) -> logging.Formatter:
    render = structlog.processors.JSONRenderer(serializer=_serialize)
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


def _serialize(entry: dict[str, Any], **_: object) -> str:
    try:
        return msgspec.json.encode(entry, enc_hook=str).decode()
    except UnicodeEncodeError:  # A file's name may hold bytes that are no text.
        return json.dumps(entry, default=str)
