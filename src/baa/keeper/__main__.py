"""The keeper: the small process that owns the child's pipes, so that codexd may die and come back.

    codexd ── hello, numbered lines, control ──▶ keeper ── stdin ───────────▶ child
    codexd ◀─ acknowledgements, rings, the end ─ keeper ◀─ stdout, stderr ── child
    codexd ◀═ reads and removes the files itself ═ spool ◀═ keeper

Run as `python -I -S /abs/keeper` in a session of its own; it needs the standard library only and parses nothing that
the child writes. Its environment and umask are the child's (Python adds LC_CTYPE where the locale would be C). Its
folder serves one generation, once: `lock` (flock held for life; "pid starttime"), `socket`, `spool/` (the child's
stdout, in segments), `exit`, `keeper.log` (its stderr, redirected by the spawner). Exit 75: another keeper is in it,
73: one was.

The protocol, version 2 (1 had a spool of one file). A frame is kind (1 byte), number (u64), payload length (u32), all
big-endian, then the payload.

    codexd → keeper                                     keeper → codexd
    H  hello; number = version; `key=value` lines:      h  hello; number = version; lines: keeperId, generation, pid,
       keeperId, pid                                       state (waiting, running, ended), ending (why, or empty),
    S  start the child (again: told again)                 childPid, childStart, taken, spool (size), dropped
    L  line `number`, whole, with its newline           s  the child runs; lines as in the hello
    O  orphanMs = number                                a  lines up to `number` are taken
    E  the earliest turn lease ends in `number` ms      r  ring: the spool's size is `number`
       (0: there is none)                               x  the end; what stands in the file `exit`
    T  end the child by the ladder (1: by SIGKILL)      e  refused, then closed; number = version, and why

A line is taken when it stands in the buffer before the child's stdin. One that is taken already is dropped and
acknowledged; one after a gap is refused; one that can no longer reach the child is neither taken nor acknowledged.
While that buffer is full, frames before the next line are still obeyed: a new connection can always say `T`.

`exit`: lines `key=value`: keeperId, generation, childPid, childStart, taken, spool (size), dropped (bytes that a full
disk cost), code (-1: none), signal (0: none), at (ms UTC), reason (`exited`, `ended by ladder: …`, `cannot start: …`,
`never started: …`); at last `stderr=` and, raw and to the end of the file, its last bytes.
"""

import ctypes
import fcntl
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress

from child import READ_BYTES, Child
from peer import NEVER, Peer, holds_lock
from spool import Spool
from system import DARWIN, kill_children, log, parent_and_start, within

PROTOCOL_VERSION = 2
STDIN_BYTES_MAX = 4 << 20  # above it no line is taken: a child that does not read must not fill the memory
DRAIN_READS = 16  # the largest pipe; more is from somebody else who holds the dead child's stdout
NEWCOMERS_MAX = 8  # connections before their hello; the oldest gives way
DEFAULTS = {
    "--child-cwd": "/",
    "--cgroup": "",  # none: where codexd owns one, the child is born in it
    "--orphan-ms": "600000",  # a restart or an upgrade of codexd takes less
    "--start-ms": "30000",  # codexd says start at once, or it has died; this one and the rest are set by tests only
    "--hello-ms": "2000",  # the hello is the first thing sent
    "--spool-bytes": f"{16 << 20},{256 << 20}",  # a segment; all: of a busy Codex that is some ten minutes
    "--ladder-ms": "5000,3000",  # after EOF and SIGTERM: Codex takes 10-30 ms, what it runs may take longer
}
RETRY_SECONDS = 1.0  # a full disk is freed by people, not in milliseconds
LAST_SECONDS = 60.0  # for the last writes: a disk that is full for longer stays full
SWEEP_SECONDS = 2.0  # a fork bomb may outrun the killing: codexd looks for survivors by their marker
# Codex writes a line a system call, so an eager reader wakes for each: a stream is paced, a small turn is not.
PACE_SECONDS, PACE_AFTER_READS, PACE_GAP_SECONDS = 0.002, 8, 0.004
WAITING, RUNNING, ENDED, LEFT = "waiting", "running", "ended", "left"
LADDER = ("closed stdin", "SIGTERM", "SIGKILL")


class Keeper:
    """The loop, and what it decides: about peers, lines, clocks, and the child's end."""

    def __init__(self, given: dict[str, str], argv: list[str], listener: socket.socket, spool: Spool) -> None:
        self.given, self.argv, self.listener = given, argv, listener
        self.spool, self.child, self.state = spool, Child(spool), WAITING
        self.peers: list[Peer] = []  # all connections;
        self.peer: Peer | None = None  # the one whose hello was good
        self.taken = self.told_size = 0
        self.ack_due = self.sigterm = self.recorded = False
        self.ending, self.step, self.reason, self.record = "", -1, "", b""  # the ladder: why, how far; how it ended
        self.orphan_seconds = int(given["--orphan-ms"]) / 1000
        self.ladder_seconds = [*(int(wait) / 1000 for wait in given["--ladder-ms"].split(",")), NEVER]
        self.alone_since = time.monotonic()
        self.start_due = self.alone_since + int(given["--start-ms"]) / 1000
        self.lease_due = self.step_due = self.ended_at = NEVER
        self.read_at, self.close_reads = 0.0, 0
        self.wake, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "sigterm", True))
        signal.signal(signal.SIGCHLD, lambda *_: None)  # it only has to end the poll

    def run(self) -> None:
        while self.state != LEFT:
            poller, wait_ms = self.watch(time.monotonic())
            ready = dict(poller.poll(wait_ms))
            if self.wake in ready:
                os.read(self.wake, READ_BYTES)
                self.reap()
            if self.listener.fileno() in ready:
                self.accept()
            for peer in list(self.peers):
                if peer in self.peers:  # not replaced by one before it
                    self.hear(peer, news=ready.get(peer.descriptor, 0) & ~select.POLLOUT != 0)
            streaming = self.serve_child(ready)
            self.keep_time(time.monotonic())
            self.tell_peer()
            if streaming:
                time.sleep(PACE_SECONDS)

    def watch(self, now: float) -> tuple[select.poll, float | None]:
        """What to wait for, and how long. Made anew each time, without a system call: nothing can be forgotten."""
        poller, child = select.poll(), self.child
        for descriptor in {self.wake, self.listener.fileno(), child.stderr} - {-1}:
            poller.register(descriptor, select.POLLIN)
        for peer in self.peers:  # a stuck one still tells that it has gone
            mask = 0 if peer.stuck else select.POLLIN
            poller.register(peer.descriptor, mask | (select.POLLOUT if peer.outbox else 0))
        if child.unsent:
            poller.register(child.stdin, select.POLLOUT)
        due = [self.start_due, self.step_due, self.alone_due(), *(peer.hello_due for peer in self.peers)]
        due += [now + RETRY_SECONDS] * bool(self.spool.unspooled or self.state == ENDED)
        due += [now] * (any(peer.stuck for peer in self.peers) and len(child.unsent) < STDIN_BYTES_MAX)
        # While ending it reads on whatever the disk says: a child that cannot write does not read its EOF.
        if child.stdout >= 0 and (self.ending or not self.spool.unspooled):
            poller.register(child.stdout, select.POLLIN)
        return poller, max(0.0, (min(due) - now) * 1000) if min(due) < NEVER else None

    def serve_child(self, ready: dict[int, int]) -> bool:
        """Feeds and reads. True if stdout streams, and the next bytes are better read together."""
        child, now, streaming = self.child, time.monotonic(), False
        if child.stdin in ready:
            child.feed()
        if child.stderr in ready:
            child.read(child.stderr)
        if child.stdout in ready:
            size = child.read(child.stdout)
            self.close_reads = self.close_reads + 1 if now - self.read_at < PACE_GAP_SECONDS else 0
            streaming = self.close_reads >= PACE_AFTER_READS and size < READ_BYTES
            self.read_at = now
        return streaming

    def accept(self) -> None:
        with suppress(OSError):  # gone already
            peer = Peer(self.listener.accept()[0], time.monotonic() + int(self.given["--hello-ms"]) / 1000)
            self.peers.append(peer)
            if not holds_lock(peer.connection, self.given["--daemon-lock"]):
                self.drop(peer, "you do not hold the daemon's lock")
            elif len(newcomers := [peer for peer in self.peers if peer is not self.peer]) > NEWCOMERS_MAX:
                self.drop(newcomers[0], "too many connections without a hello")

    def hear(self, peer: Peer, news: bool) -> None:
        try:
            if news:
                peer.receive()
            while frame := peer.next_frame(len(self.child.unsent) < STDIN_BYTES_MAX):
                self.obey(peer, *frame)
            if time.monotonic() >= peer.hello_due:
                raise ConnectionAbortedError("no hello in time")
        except ConnectionError as reason:
            self.drop(peer, str(reason))

    def drop(self, peer: Peer, reason: str) -> None:
        log(f"dropped a peer: {reason}")
        peer.send(b"e", PROTOCOL_VERSION, reason.encode())
        peer.flush()
        peer.connection.close()
        self.peers.remove(peer)
        if peer is self.peer:
            self.peer, self.alone_since = None, time.monotonic()

    def obey(self, peer: Peer, kind: bytes, number: int, payload: bytes) -> None:
        match kind:
            case _ if peer is not self.peer:
                self.greet(peer, kind, number, payload)
            case b"L":
                self.take_line(number, payload)
            case b"S":
                self.start(peer)
            case b"O":
                self.orphan_seconds = number / 1000
            case b"E":
                self.lease_due = time.monotonic() + number / 1000 if number else NEVER
            case b"T":
                self.end_child("asked by codexd", step=2 if number else 0)
            case _:
                raise ConnectionAbortedError(f"a frame of kind {kind!r}")

    def greet(self, peer: Peer, kind: bytes, number: int, payload: bytes) -> None:
        if kind != b"H" or number != PROTOCOL_VERSION:
            raise ConnectionAbortedError(f"wanted: hello, protocol version {PROTOCOL_VERSION}; got: {kind!r} {number}")
        if b"keeperId=" + self.given["--keeper-id"].encode() not in payload.split(b"\n"):
            raise ConnectionAbortedError("another keeperId")
        if self.peer:
            self.drop(self.peer, "replaced by a later connection")
        self.peer, peer.hello_due = peer, NEVER
        peer.send(b"h", PROTOCOL_VERSION, self.facts(pid=os.getpid(), state=self.state, ending=self.ending))

    def facts(self, **more: object) -> bytes:
        facts: dict[str, object] = {"keeperId": self.given["--keeper-id"], "generation": self.given["--generation"]}
        facts |= {"childPid": self.child.pid, "childStart": self.child.start, "taken": self.taken}
        facts |= {"spool": self.spool.size, "dropped": self.spool.dropped, **more}
        return "".join(f"{key}={value}\n" for key, value in facts.items()).encode(errors="surrogateescape")

    def start(self, peer: Peer) -> None:
        try:
            if self.state == WAITING:
                with within(self.given["--cgroup"]):
                    self.child.spawn(self.argv, self.given["--child-cwd"])
                self.state, self.start_due = RUNNING, NEVER
        except OSError as failure:
            self.end(f"cannot start: {failure}")
        if self.state == RUNNING:
            peer.send(b"s", 0, self.facts())

    def take_line(self, number: int, line: bytes) -> None:
        if self.state == WAITING:
            raise ConnectionAbortedError("a line before the start")
        if number > self.taken and self.child.stdin < 0:
            return  # it can no longer reach the child
        if number > self.taken + 1 or not line.endswith(b"\n"):
            raise ConnectionAbortedError(f"line {number} after line {self.taken}, of {len(line)} bytes")
        if number > self.taken:
            self.taken = number
            self.child.unsent += line
            self.child.feed()
        self.ack_due = True

    def tell_peer(self) -> None:
        if not (peer := self.peer):
            return
        peer.flush()
        if not peer.outbox:  # else the poll tells when there is room, and then the newest is told
            if self.ack_due:
                peer.send(b"a", self.taken)
            if self.told_size != self.spool.size:
                peer.send(b"r", self.spool.size)
            if self.record and not peer.told_end:
                peer.send(b"x", 0, self.record)
            self.ack_due, self.told_size, peer.told_end = False, self.spool.size, bool(self.record)
            peer.flush()

    def reap(self) -> None:
        """The one place where processes are reaped: the child, and orphans of its that came to us."""
        with suppress(ChildProcessError):
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                if reaped[0] == self.child.pid:
                    code = os.waitstatus_to_exitcode(reaped[1])
                    self.child.code, self.child.signal = (code, 0) if code >= 0 else (-1, -code)
                    self.end(f"ended by ladder: {self.ending}, {LADDER[self.step]}" if self.ending else "exited")

    def alone_due(self) -> float:
        alone = self.state == RUNNING and not self.peer and not self.ending
        return min(self.alone_since + self.orphan_seconds, self.lease_due) if alone else NEVER

    def keep_time(self, now: float) -> None:
        if self.sigterm:
            self.end_child("SIGTERM")
        if now >= self.alone_due():
            self.end_child("a turn's lease ended" if now >= self.lease_due else "codexd is gone")
        if now >= self.start_due:
            self.end_child("no word to start")
        if now >= self.step_due:
            self.end_child(self.ending, self.step + 1)
        self.spool.keep()
        if self.state == ENDED:
            self.finish(now)

    def end_child(self, reason: str, step: int = 0) -> None:
        """One step of the ladder. After the last only waiting is left: while it is there no other child may start."""
        if self.state == WAITING:
            self.end(f"never started: {reason}")
        if self.state == RUNNING and step > self.step:
            log(f"ending the child: {reason}, {LADDER[step]}")
            self.child.feed()
            self.child.close_stdin()
            if step:
                os.kill(self.child.pid, signal.SIGTERM if step == 1 else signal.SIGKILL)
            self.ending, self.step = self.ending or reason, step
            self.step_due = time.monotonic() + self.ladder_seconds[step]

    def end(self, reason: str) -> None:
        self.state, self.reason, self.start_due, self.step_due = ENDED, reason, NEVER, NEVER
        self.ended_at, self.died_at = time.monotonic(), int(time.time() * 1000)
        self.child.close_stdin()
        self.spool.segments_max = NEVER  # what is left is a pipe's content, and nobody writes more

    def finish(self, now: float) -> None:
        """The child is dead: sweep, drain, record, tell, leave. Comes back for what is not done yet."""
        child, late = self.child, now >= self.ended_at + LAST_SECONDS
        if not self.record:
            if kill_children() and now < self.ended_at + SWEEP_SECONDS:
                return
            for _ in range(DRAIN_READS if child.pid else 0):
                self.serve_child(dict.fromkeys({child.stdout, child.stderr} - {-1}, 0))
            if self.spool.unspooled and not self.ending and not late:
                return
            self.spool.give_up()
            end = self.facts(code=child.code, signal=child.signal, at=self.died_at, reason=self.reason)
            self.record = end + b"stderr=" + child.stderr_tail
        with suppress(OSError):
            if not self.recorded:
                path = os.path.join(self.given["--folder"], "exit")
                with open(os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                    file.write(self.record)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(path + ".new", path)
                self.recorded = True
        self.tell_peer()
        if late or (self.recorded and not (self.peer and self.peer.outbox)):
            self.state = LEFT


def main() -> None:
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        cut = sys.argv.index("--")
        given = DEFAULTS | dict(zip(sys.argv[1:cut:2], sys.argv[2:cut:2], strict=True))
        given |= {name: os.path.abspath(given[name]) for name in ("--folder", "--daemon-lock")}
        umask = os.umask(0o177)
        os.chdir(given["--folder"])  # a socket's path must be short; the folder's may not be
        lock = os.open("lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.write(lock, b"%d %d\n" % (os.getpid(), parent_and_start(os.getpid())[1]))
        segment_bytes, most_bytes = map(int, given["--spool-bytes"].split(","))
        spool = Spool(segment_bytes, most_bytes // segment_bytes)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind("socket")
    except BlockingIOError:
        log("another keeper holds this folder")
        sys.exit(os.EX_TEMPFAIL)
    except FileExistsError:
        log("this folder has served its generation")
        sys.exit(os.EX_CANTCREAT)
    listener.listen(2 * NEWCOMERS_MAX)
    listener.setblocking(False)
    os.umask(umask)
    if not DARWIN:
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    Keeper(given, sys.argv[cut + 1 :], listener, spool).run()


if __name__ == "__main__":
    main()
