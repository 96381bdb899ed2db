"""One child's life as codexd sees it: where it has read to in the spool, and which lines it has for the child.

Both stand in the log's file, changed in the transaction of what they belong to, so a codexd that comes back goes on
with the very next byte and the very next line.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import apsw

from baa.clock import Clock, rfc3339
from baa.codexd.appserver import methods
from baa.codexd.appserver.keeper_link import Exit, KeeperLink
from baa.codexd.appserver.lines import Line
from baa.codexd.appserver.spool import Spool
from baa.codexd.eventlog import Transaction
from baa.codexd.installed import Installed
from baa.codexd.redacting import Private
from baa.codexd.seal import Seal

IN_FLIGHT_MAX: Final = 64
"""Requests that Codex may have at once: it takes 128, refuses some beyond that, and of 3,000 never answered 565."""


@dataclass(slots=True)
class Generation:
    """A child, living or dying. `link` is None while nobody listens.

    `lines` is the number of the last line for it, `given` of the last one that a keeper may have, `taken` of the last
    one that it said it has. `program`: what it runs, as it was found then.
    """

    number: int
    keeper_id: str
    folder: Path
    spool: Spool
    clock: Clock
    lines: int = 0
    given: int = 0
    taken: int = 0
    child_pid: int | None = None
    child_start: str = ""
    version: str | None = None
    was_ready: bool = False
    started: float = 0.0
    link: KeeperLink | None = None
    reading: bool = True
    more: bool = False
    asked: dict[str, int] = field(default_factory=dict)
    told: Exit | None = None
    program: Installed | None = None
    _pruned: int = 0
    _held: deque[tuple[int, bytes]] = field(default_factory=deque)
    _flying: set[int] = field(default_factory=set)

    @property
    def next_number(self) -> int:
        """The number that the next line will have."""
        return self.lines + 1

    def send(self, transaction: Transaction, line: Line) -> None:
        """Put a line into the outbox, and have it sent after the commit. The one way to the child."""
        methods.check(line.data)
        self.lines += 1
        number = self.lines
        if line.request_id is not None:
            self.asked[line.request_id] = number
        transaction.statements.append(
            (
                "INSERT INTO outbox (generation, number, request_id, line, note) VALUES (?, ?, ?, ?, ?)",
                (
                    *(self.number, number, line.request_id, Private(line.data, surely=line.secret)),
                    None if line.note is None else Private(line.note),
                ),
            )
        )
        transaction.statements.append(self._set("lines", number))
        transaction.done.append(lambda _: self._give(number, line.data))

    def _give(self, number: int, data: bytes) -> None:
        if self.link is not None:  # if not: what the keeper did not take is given when it is met again
            self._held.append((number, data))
            self._flow()

    def _flow(self) -> None:
        """Give the keeper what waits, as far as Codex has time for it: lines go in order, so all wait for one."""
        asks = set(self.asked.values())
        while self._held and self.link is not None:
            number, data = self._held[0]
            if number in asks:
                if len(self._flying) >= IN_FLIGHT_MAX:
                    return
                self._flying.add(number)
            self._held.popleft()
            self.given = max(self.given, number)
            self.link.line(number, data)

    def holds(self, owner_id: str, asked: tuple[str, ...]) -> bool:
        """Whether what was to be asked for this owner waits for other answers."""
        numbers = (self.number_of(f"{owner_id}:{what}") for what in asked)
        held = self._held[0][0] if self._held else self.lines + 1
        return any(number is not None and number >= held for number in numbers)

    def give_again(self, connection: apsw.Connection, seal: Seal, link: KeeperLink) -> None:
        """Give the keeper the lines that it did not take, and all later ones as they come."""
        rows = connection.execute(
            "SELECT number, line FROM outbox WHERE generation = ? AND number > ? ORDER BY number",
            (self.number, link.hello.taken),
        )
        self._flying = {number for number in self.asked.values() if number <= link.hello.taken}
        self._held = deque((number, _opened(seal, line)) for number, line in rows)
        self.link = link
        self._flow()

    def answered(self, transaction: Transaction, request_id: str) -> None:
        """The answer to a request is in the log with this transaction."""
        number = self.asked.pop(request_id, None)
        if number is not None:
            self._flying.discard(number)
            if self._held:
                transaction.done.append(lambda _: self._flow())
            statement = "DELETE FROM outbox WHERE generation = ? AND number = ?"
            transaction.statements.append((statement, (self.number, number)))

    def number_of(self, what: str) -> int | None:
        """The number of the unanswered request that begins so."""
        return next((number for asked, number in self.asked.items() if asked.startswith(what + ":")), None)

    def read_lines(self) -> list[bytes]:
        """The next lines of the spool."""
        lines, self.more = self.spool.read()
        return lines

    def advance(self, transaction: Transaction) -> None:
        """Everything read so far belongs to this transaction; taken lines that ask nothing need not be kept."""
        offset = self.spool.offset
        transaction.statements.append(self._set("spool_read", offset))
        if self.spool.passed:
            transaction.done.append(lambda _: self.spool.let_go(offset))
        if self.taken > self._pruned:
            statement = "DELETE FROM outbox WHERE generation = ? AND number <= ? AND request_id IS NULL"
            transaction.statements.append((statement, (self.number, self.taken)))
            self._pruned = self.taken

    def begin(self, transaction: Transaction) -> None:
        """Put the generation down before its keeper is born."""
        statement = "INSERT INTO generation (generation, keeper_id, folder, started_at) VALUES (?, ?, ?, ?)"
        values = (self.number, self.keeper_id, self.folder.name, rfc3339(self.clock.utc_ms()))
        transaction.statements.append((statement, values))

    def born(self, transaction: Transaction, pid: int, start: str) -> None:
        """The child runs; `start` tells it from a later process of the same pid."""
        self.child_pid, self.child_start = pid, start
        transaction.statements.append(self._set("child_pid", pid))
        transaction.statements.append(self._set("child_start", start))

    def ready(self, transaction: Transaction, version: str) -> None:
        """The handshake is complete."""
        self.version, self.was_ready = version, True
        transaction.statements.append(self._set("version", version))
        transaction.statements.append(self._set("ready_at", rfc3339(self.clock.utc_ms())))

    def end(self, transaction: Transaction, told: Exit) -> None:
        """The child is gone, and its spool is read to the end."""
        statement = (
            "UPDATE generation SET ended_at = ?, code = ?, signal = ?, reason = ?, keeper_died = ? WHERE generation = ?"
        )
        at = rfc3339(self.clock.utc_ms())
        values = (at, told.code, told.signal, told.reason, int(told.keeper_died), self.number)
        transaction.statements.append((statement, values))
        transaction.statements.append(("DELETE FROM outbox WHERE generation = ?", (self.number,)))

    def _set(self, column: str, value: Any) -> tuple[str, tuple[Any, ...]]:
        return (f"UPDATE generation SET {column} = ? WHERE generation = ?", (value, self.number))


def _opened(seal: Seal, line: bytes) -> bytes:
    opened = seal.open(line)
    assert opened is not None  # or the log had gone back (redacting.cannot_open)
    return opened
