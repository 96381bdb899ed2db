"""A codexd of a few lines for tests of the keeper: it spawns keepers, holds the daemon's lock and speaks the protocol.

Run as a program it is a stranger, or a codexd that dies in the middle of a line.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

FRAME = struct.Struct(">cQI")
KEEPER = Path(__file__).parents[2] / "src" / "baa" / "keeper"
CHILD = Path(__file__).with_name("misbehaving_child.py")
KEEPER_ID = "kpr_test"
MARKER = "BAA_KEEPER_TEST"
WAIT_SECONDS = 20.0  # Far more than anything here takes: a test that needs it has failed.


def wait_until(fact: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
    pause = threading.Event()
    for _ in range(int(seconds / 0.005)):
        if fact():
            return
        pause.wait(0.005)
    raise AssertionError(f"it did not come true in {seconds} s")


def alive(pid: int) -> bool:
    """A zombie that waits for its parent is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in {b"Z", b"X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def resident_kilobytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def spool_of(folder: Path) -> bytes:
    """All that is left of it."""
    segments = sorted((folder / "spool").iterdir(), key=lambda segment: int(segment.name))
    return b"".join(segment.read_bytes() for segment in segments)


def misbehaving(*verbs: str) -> list[str]:
    return [sys.executable, "-I", "-S", str(CHILD), *verbs]


class Frame(NamedTuple):
    kind: str
    number: int
    payload: bytes

    @property
    def facts(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.payload.decode().splitlines())


class Record(NamedTuple):
    """What stands in the file `exit`."""

    facts: dict[str, str]
    stderr: bytes

    @classmethod
    def parse(cls, content: bytes) -> Self:
        head, _, stderr = content.partition(b"\nstderr=")
        return cls(dict(line.split("=", 1) for line in head.decode().splitlines()), stderr)


class Gone(Exception):
    """The keeper closed the connection."""


class KeeperClient:
    """One connection to a keeper, before its hello."""

    def __init__(self, folder: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(WAIT_SECONDS)
        self.inbox = bytearray()
        # The path of a socket ends after 104 to 108 bytes; that of a folder does not.
        with tempfile.TemporaryDirectory() as short:
            Path(short, "k").symlink_to(folder)
            wait_until(lambda: self.socket.connect_ex(f"{short}/k/socket") == 0)  # It is bound, then it listens.

    def close(self) -> None:
        self.socket.close()

    def send(self, kind: str, number: int = 0, payload: bytes = b"") -> None:
        self.socket.sendall(FRAME.pack(kind.encode(), number, len(payload)) + payload)

    def hello(self, keeper_id: str = KEEPER_ID, version: int = 2) -> Frame:
        self.send("H", version, f"keeperId={keeper_id}\npid={os.getpid()}\n".encode())
        return self.receive()

    def receive(self) -> Frame:
        self._fill(FRAME.size)
        kind, number, size = FRAME.unpack_from(self.inbox)
        self._fill(FRAME.size + size)
        payload = bytes(self.inbox[FRAME.size : FRAME.size + size])
        del self.inbox[: FRAME.size + size]
        return Frame(kind.decode(), number, payload)

    def _fill(self, size: int) -> None:
        while len(self.inbox) < size:
            chunk = self.socket.recv(65536)
            if not chunk:
                raise Gone
            self.inbox += chunk

    def has_news(self, seconds: float) -> bool:
        return bool(self.inbox or select.select([self.socket], [], [], seconds)[0])

    def expect(self, kind: str, number: int = 0) -> Frame:
        """The next frame of that kind whose number is at least that; what comes before it is passed over."""
        while (frame := self.receive()).kind != kind or frame.number < number:
            pass
        return frame

    def start(self) -> int:
        """Starts the child; its pid."""
        self.send("S")
        return int(self.expect("s").facts["childPid"])


class Keeper(NamedTuple):
    """A keeper that runs, or has run, in its folder."""

    folder: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """Holds it still; `go` lets it find at once what has come in the meantime."""
        self.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.process.pid}/stat")
        wait_until(lambda: stat.read_bytes().rpartition(b")")[2].split()[0] == b"T")

    def go(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    @property
    def spool(self) -> bytes:
        return spool_of(self.folder)

    @property
    def record(self) -> Record:
        """Once the keeper has ended by itself."""
        assert self.process.wait(WAIT_SECONDS) == 0
        return Record.parse((self.folder / "exit").read_bytes())


class House:
    """A state folder with the daemon's lock, which this process holds, and all that was started in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.daemon_lock = root / "daemon.lock"
        self._lock = self.daemon_lock.open("w")  # Closing any descriptor of it in this process gives the lock back.
        self._numbers = itertools.count(1)
        self._keepers: list[Keeper] = []
        self._clients: list[KeeperClient] = []
        self.lock()

    def lock(self) -> None:
        fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def unlock(self) -> None:
        fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def spawn(
        self, argv: list[str], *, folder: Path | None = None, env: dict[str, str] | None = None, **options: object
    ) -> Keeper:
        folder = folder or self.root / f"generation-{next(self._numbers)}"
        folder.mkdir(mode=0o700, exist_ok=True)
        given: dict[str, object] = {
            "--folder": folder,
            "--keeper-id": KEEPER_ID,
            "--generation": 7,
            "--daemon-lock": self.daemon_lock,
            **{f"--{name.replace('_', '-')}": value for name, value in options.items()},
        }
        command = [sys.executable, "-I", "-S", str(KEEPER), *(str(part) for pair in given.items() for part in pair)]
        environment = {"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"], MARKER: str(self.root), **(env or {})}
        with (folder / "keeper.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--", *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                umask=0o022,
            )
        self._keepers.append(Keeper(folder, process))
        wait_until(lambda: (folder / "socket").exists() or process.poll() is not None)
        return self._keepers[-1]

    def connect(self, keeper: Keeper) -> KeeperClient:
        self._clients.append(KeeperClient(keeper.folder))
        return self._clients[-1]

    def greet(self, keeper: Keeper) -> KeeperClient:
        client = self.connect(keeper)
        assert client.hello().kind == "h"
        return client

    def run(self, argv: list[str], **options: object) -> tuple[Keeper, KeeperClient]:
        """A keeper whose child runs."""
        keeper = self.spawn(argv, **options)  # type: ignore[arg-type]
        client = self.greet(keeper)
        client.start()
        return keeper, client

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for keeper in self._keepers:
            keeper.process.kill()  # Popen looks first whether it has ended: it hits no stranger.
            keeper.process.wait()
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.left())
        self._lock.close()

    def left(self) -> list[int]:
        """The living processes of this house that are neither keepers nor codexds."""
        marker = f"{MARKER}={self.root}".encode()
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if marker in environment_of(path / "environ")]


def environment_of(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\0")  # Empty for a zombie.
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def stranger(folder: Path, lock: Path | None = None) -> list[str]:
    """The command of a process that says hello and then what it got; `lock`: a file to read-lock first."""
    return [sys.executable, "-m", "tests.support.keeper_client", "stranger", str(folder), str(lock or "")]


def dying_codexd(folder: Path, lock: Path, taken: int, lines: list[bytes]) -> list[str]:
    """The command of a codexd that sends these lines, the last one by half, says so, and waits to be killed."""
    command = [sys.executable, "-m", "tests.support.keeper_client", "dying", str(folder), str(lock), str(taken)]
    return [*command, *(line.hex() for line in lines)]


def be_stranger(folder: str, lock: str) -> None:
    if lock:
        fcntl.lockf(os.open(lock, os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB)
    client = KeeperClient(Path(folder))
    with suppress(BrokenPipeError):  # It is shown the door before it has spoken.
        client.send("H", 2, f"keeperId={KEEPER_ID}\n".encode())
    frame = client.receive()
    print(frame.kind, frame.payload.decode())


def be_dying_codexd(folder: str, lock: str, taken: str, *lines: str) -> None:
    fcntl.lockf(os.open(lock, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
    client = KeeperClient(Path(folder))
    client.hello()
    client.start()
    *whole, last = (bytes.fromhex(line) for line in lines)
    number = int(taken)
    for line in whole:
        client.send("L", number := number + 1, line)
    client.expect("a", number)
    client.socket.sendall(FRAME.pack(b"L", number + 1, len(last)) + last[: len(last) // 2])
    print("in the middle of a line", flush=True)
    signal.pause()


if __name__ == "__main__":
    be = be_stranger if sys.argv[1] == "stranger" else be_dying_codexd
    be(*sys.argv[2:])
