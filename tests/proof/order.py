"""Whether a word of codexd's ever left before what it says was synced to the disk, by the order of its system calls.

    python -m tests.proof.order --acks 1000 --json

kill -9 cannot show a missing sync, since what is written outlives the process; strace can. A word is the first mention
of a session or a turn, or of a place in the log, in anything that is sent on a socket: to a client, to a subscriber, to
the keeper. It must come after the sync that followed the first write of it to the log. `--unsynced` runs codexd on a
log that does not sync its commits: then the check has to fail, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from baa.scripted import Hold, Say, ScriptedModel, when
from tests.proof.figures import Figure, told
from tests.support.asking import act, turn_of
from tests.support.node import Node, until
from tests.support.oracle import Oracle

POSTERS = 8
SCENARIOS = (when("held", (Say.numbered(5), Hold("held"), Say.numbered(5, start=5))),)
UNSYNCED = Path(__file__).parents[1] / "support" / "unsynced_codexd.py"

CALL = re.compile(r"(\d+) +(\w+)\(\d+<(.*?)>(?:[,)]| <unf)")
RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>.*= 0$")
ID = re.compile(r"\b(?:trn|ses)_[0-9a-z]{26}\b")
WRITTEN_SEQ = re.compile(r'\{\\"seq\\":(\d+),')
TOLD_SEQ = re.compile(r'\\"(?:next|cursor)\\":\\"\w+:(\d+)\\"')
WRITES, SYNCS, SENDS = {"pwrite64", "write"}, {"fdatasync", "fsync"}, {"sendto", "sendmsg", "write", "writev"}
SOCKETS = ("TCP", "UNIX", "socket:")


@dataclass
class Order:
    """What a trace says, line by line: how many words were told, and which of them `early`."""

    words: int = 0
    early: list[str] = field(default_factory=list)
    syncs: int = 0
    _written: set[str] = field(default_factory=set)
    _synced: set[str] = field(default_factory=set)
    _told: set[str] = field(default_factory=set)
    _written_seq: int = 0
    _synced_seq: int = 0
    _told_seq: int = 0
    _syncing: set[str] = field(default_factory=set)

    def read(self, lines: Iterable[str]) -> Order:
        """Take the lines of a trace."""
        for line in lines:
            if call := CALL.match(line):
                self._called(line, *call.groups())
            elif (resumed := RESUMED.match(line)) and resumed[1] in self._syncing:
                self._syncing.discard(resumed[1])
                self._sync()
        return self

    def _called(self, line: str, pid: str, name: str, file: str) -> None:
        if file.endswith("codexd.sqlite3-wal"):
            if name in WRITES:
                self._written.update(ID.findall(line))
                self._written_seq = max([self._written_seq, *map(int, WRITTEN_SEQ.findall(line))])
            elif name in SYNCS and line.rstrip().endswith("<unfinished ...>"):
                self._syncing.add(pid)
            elif name in SYNCS and line.rstrip().endswith("= 0"):
                self._sync()
        elif name in SENDS and file.startswith(SOCKETS):
            self._send(line)

    def _sync(self) -> None:
        self.syncs += 1
        self._synced |= self._written
        self._synced_seq = self._written_seq

    def _send(self, line: str) -> None:
        for word in set(ID.findall(line)) - self._told:
            self._told.add(word)
            self.words += 1
            if word not in self._synced:
                self.early.append(word)
        seq = max(map(int, TOLD_SEQ.findall(line)), default=0)
        if seq > self._told_seq:
            self._told_seq = seq
            self.words += 1
            if seq > self._synced_seq:
                self.early.append(f"seq {seq}, while {self._synced_seq} was synced")


async def traced(folder: Path, *, acks: int, unsynced: bool = False) -> Order:
    """codexd under strace until it has acknowledged so much, while eight clients ask and one reads along."""
    trace = folder.with_suffix(".trace")
    async with ScriptedModel(SCENARIOS) as model, Node(folder, model.base_url) as node:
        # Grandchildren are let go of when they become another program: only codexd and its threads are followed.
        strace = ("strace", "-D", "-f", "-b", "execve", "-y", "-y", "-s", "4200", "-o", str(trace))
        calls = ("-e", f"trace={','.join(sorted(WRITES | SYNCS | SENDS))}", "--", sys.executable)
        node.command = (*strace, *calls, *((str(UNSYNCED),) if unsynced else ("-m", "baa.codexd")))
        await node.start()
        pid = node.pid
        left = iter(range(acks))
        async with Oracle(node) as oracle, asyncio.TaskGroup() as tasks:
            for number in range(POSTERS):
                tasks.create_task(_ask(node, oracle, left), name=f"poster {number}")
        assert await node.stop() == 0, node.stderr
        await until(lambda: re.search(rf"^{pid} +\+\+\+ exited", _tail(trace), re.MULTILINE))
    with trace.open(errors="replace") as lines:
        return Order().read(lines)


async def _ask(node: Node, oracle: Oracle, left: Iterable[int]) -> None:
    """A session with a running turn, behind which turns wait and are cancelled, and sessions beside it."""
    session_id = await node.session()
    await oracle.saw("item.delta", await node.turn(session_id, "held"))
    for number in left:
        if number % 3 == 0:
            await node.session()
        else:
            turn_id = await turn_of(node, session_id, "held", onBusy="enqueue")
            if number % 3 == 1:
                assert (await act(node, turn_id, "interrupt")).status_code == 202


def _tail(trace: Path) -> str:
    with trace.open("rb") as file:
        file.seek(max(0, trace.stat().st_size - 4096))
        return file.read().decode(errors="replace")


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--acks", type=int, default=1000, help="how many acknowledgements (1000)")
    parser.add_argument("--unsynced", action="store_true", help="on a log that does not sync: the check has to fail")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="baa-order-"))
    order = asyncio.run(traced(folder / "node", acks=given.acks, unsynced=given.unsynced))
    figures = [
        Figure("acks_before_fsync", len(order.early), "acks", order.words, must=0),
        Figure("fsyncs_of_the_log", order.syncs, "syncs", order.words),
    ]
    print(told(figures, as_json=given.json))
    if all(figure.holds for figure in figures):
        shutil.rmtree(folder)
        return 0
    print(*order.early[:20], f"The trace is kept in {folder}", sep="\n", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
