"""A PostgreSQL of the tests' own: Debian's binaries, a folder and a port that nobody else has, one database a test.

It syncs as in production. It runs as the user `postgres` where the tests run as root, which it refuses to run as.
"""

from __future__ import annotations

import os
import pwd
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import psutil
import psycopg

from tests.support.keeper_client import wait_until

USER: Final = "postgres"
ROLE: Final = "baa"
PORTS: Final = range(20_000, 30_000)
"""Below those that Linux gives to whoever asks for any: a server finds its port free when it comes back."""

SECONDS: Final = 60


def binaries() -> Path | None:
    """The folder of the newest PostgreSQL here; Debian does not put it on the PATH."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda path: [int(number) for number in re.findall(r"\d+", path.parent.name)])
    on_path = shutil.which("initdb")
    return None if on_path is None else Path(on_path).resolve().parent


def missing() -> str | None:
    """Why no server can run here, and what to do about it; None where one can."""
    if binaries() is None:
        return "no PostgreSQL: apt-get install postgresql, or brew install postgresql"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(USER)
        except KeyError:
            return f"PostgreSQL refuses to run as root, and there is no user {USER}: apt-get install postgresql"
    return None


class PostgreSQL:
    """A server. `with PostgreSQL() as server:` runs it; whatever was done to it, it is gone at the end.

    Only `ROLE`, which is no superuser, is given to what is tested.
    """

    def __init__(self, *, listen: str = "127.0.0.1", address: str = "127.0.0.1", inside: int | None = None) -> None:
        """`inside`: the network namespace of that process, where it is reached by `address`. Needs root."""
        found = binaries()
        assert found is not None, missing()
        self._bin = found
        self._listen = listen
        self.address = address
        self._inside = inside
        self._password = secrets.token_hex(8)
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            entry = pwd.getpwnam(USER)
            self._as = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self.folder = Path(tempfile.mkdtemp(prefix="baa-pg-"))
        if self._as:
            os.chown(self.folder, self._as["user"], self._as["group"])
        self._data = self.folder / "data"
        self._log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self.port = _free_port()

    def __enter__(self) -> Self:
        try:
            self._initialise()
            self.start()
            self._admin(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{self._password}'")
        except BaseException:  # boundary: the caller gets it, and nothing is left of the server
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    @property
    def runs(self) -> bool:
        """Whether its first process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its first process, the postmaster."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it said."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    def database(self) -> str:
        """The URL of a new, empty database."""
        self._databases += 1
        name = f"test_{self._databases}"
        self._admin(f"CREATE DATABASE {name} OWNER {ROLE}")
        return f"postgresql://{ROLE}:{self._password}@{self.address}:{self.port}/{name}"

    def drop(self, url: str) -> None:
        """Remove a database, whoever still uses it."""
        self._admin(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def start(self) -> None:
        """Start it, until it takes connections; after a `kill` it recovers first."""
        assert not self.runs
        settings = {
            "listen_addresses": self._listen,
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "max_connections": "200",
            "fsync": "on",
            "logging_collector": "off",
        }
        command = [str(self._bin / "postgres"), "-D", str(self._data)]
        command += [f"--{name}={value}" for name, value in settings.items()]
        by = self._as
        if self._inside is not None:  # it enters as root, and is nobody's root then
            who = [f"--reuid={by['user']}", f"--regid={by['group']}", "--clear-groups"]
            command = ["nsenter", f"--net=/proc/{self._inside}/ns/net", "setpriv", *who, *command]
            by = {}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=_ENVIRONMENT, **by
            )
        wait_until(lambda: self._ready() or not self.runs, SECONDS)
        assert self._ready(), self.log

    def stop(self) -> None:
        """As its service would: connections are cut, what was committed is kept."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL, to every process of it at once; it is down when this returns."""
        assert self._process is not None
        with suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(self.pid)
            postmaster.suspend()  # it starts no further one
            everyone = [*postmaster.children(recursive=True), postmaster]
            for process in everyone:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(everyone, timeout=SECONDS)
        self._process.wait(SECONDS)

    def restart(self) -> None:
        """Stop it, then start it."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP to every process of it: connections stand, nothing answers."""
        postmaster = psutil.Process(self.pid)
        for process in (postmaster, *postmaster.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # one that just ended
                process.suspend()

    def thaw(self) -> None:
        """The end of `freeze`."""
        postmaster = psutil.Process(self.pid)
        for process in (*postmaster.children(recursive=True), postmaster):
            with suppress(psutil.NoSuchProcess):  # one that just ended
                process.resume()

    def _initialise(self) -> None:
        secret = self.folder / "password"
        secret.write_text(self._password)
        if self._as:
            os.chown(secret, self._as["user"], self._as["group"])
        command = [str(self._bin / "initdb"), "-D", str(self._data), "-U", USER, "-A", "scram-sha-256"]
        command += ["--pwfile", str(secret), "-E", "UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run(
            command, cwd=self.folder, env=_ENVIRONMENT, capture_output=True, text=True, check=False, **self._as
        )
        assert done.returncode == 0, done.stderr
        with (self._data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all all scram-sha-256\n")

    def _ready(self) -> bool:
        """What its pid file says of it, in the last of eight lines."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def run(self, *command: str, answers: str = "") -> None:
        """A command of PostgreSQL's own, as its administrator; `answers` is what is typed."""
        where = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": USER, "PGPASSWORD": self._password}
        program = str(self._bin / command[0])
        done = subprocess.run(
            [program, *command[1:]],
            env=_ENVIRONMENT | where,
            cwd=self.folder,
            input=answers,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,  # without a terminal it reads what is typed from its input
            **self._as,
        )
        assert done.returncode == 0, done.stderr

    def _admin(self, statement: str) -> None:
        where = f"host={self.address} port={self.port} user={USER} password={self._password} dbname=postgres"
        with psycopg.connect(where, autocommit=True, connect_timeout=SECONDS) as connection:
            connection.execute(statement.encode())

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(SECONDS)

    def _remove(self) -> None:
        if self.runs:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


_ENVIRONMENT: Final = {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}


def _free_port() -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as trial, suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port


@contextmanager
def database_of(server: PostgreSQL) -> Iterator[str]:
    """The URL of a database for one test; a server that the test left down, or frozen, runs again."""
    url = server.database()
    try:
        yield url
    finally:
        if server.runs:
            server.thaw()
        else:
            server.start()
        server.drop(url)
