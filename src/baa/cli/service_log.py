"""A program's log file as people read it: time, program, what happened, and its fields."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TextIO

from baa.api.errors import CannotStart
from baa.cli.plain import plain

POLL_S: Final = 0.2
HIDDEN: Final = ("at", "event", "level", "logger")


def readable(program: str, line: str) -> str:
    """One line of a log for a person; what is no JSON object is given as it is, made harmless."""
    try:
        entry: dict[str, Any] = json.loads(line)
        at, event = str(entry.get("at", ""))[11:23], str(entry.get("event", ""))
    except (ValueError, AttributeError):
        return plain(f"{'':12}  {program:13}  {line.rstrip()}")
    level = "" if entry.get("level") in ("info", None) else f"{entry['level'].upper()} "
    fields = " ".join(f"{key}={_value(value)}" for key, value in entry.items() if key not in HIDDEN)
    return plain(f"{at:12}  {program:13}  {level}{event}  {fields}".rstrip())


def _value(value: object) -> str:
    return value if isinstance(value, str) and value and " " not in value else json.dumps(value, ensure_ascii=False)


def show(files: Mapping[str, Path], *, number: int, follow: bool, as_json: bool) -> int:
    """Print the last `number` lines of each file, in the order of time, and then what follows. Raises CannotStart."""
    with ExitStack() as stack:
        opened: dict[str, TextIO] = {}
        for program, path in files.items():
            if path.exists():
                opened[program] = stack.enter_context(path.open(encoding="utf-8", errors="replace"))
        if not opened:
            missing = ", ".join(map(str, files.values()))
            raise CannotStart(f"There is no log yet: {missing}. Start the programs: baa service start", exit_code=66)
        last = [(line, program) for program, file in opened.items() for line in deque(file, maxlen=max(0, number))]
        for line, program in sorted(last, key=_time):
            print(line.rstrip() if as_json else readable(program, line), flush=True)
        while follow:
            new = [(line, program) for program, file in opened.items() for line in _more(file)]
            for line, program in sorted(new, key=_time):
                print(line.rstrip() if as_json else readable(program, line), flush=True)
            if not new:
                opened = {program: _still(stack, files[program], file) for program, file in opened.items()}
                time.sleep(POLL_S)
    return 0


def _time(entry: tuple[str, str]) -> str:
    """When it was written; what does not say goes first."""
    _, found, rest = entry[0].rpartition('"at":"')
    return rest if found else ""


def _more(file: TextIO) -> Iterator[str]:
    """Whole lines that were added; half a line waits for its end."""
    while True:
        place = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(place)
            return
        yield line


def _still(stack: ExitStack, path: Path, file: TextIO) -> TextIO:
    """The open file, or the new one of that name after the log was rotated."""
    try:
        if path.stat().st_ino != os.fstat(file.fileno()).st_ino:
            return stack.enter_context(path.open(encoding="utf-8", errors="replace"))
    except OSError:
        return file
    return file
