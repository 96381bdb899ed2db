"""What is said to the two service managers, and what is made of their answers: with stand-ins for their programs.

A real systemd is asked in tests/fault/test_services.py. There is no launchd where this is tested.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from baa.api.errors import CannotStart
from baa.runtime import hosts
from baa.runtime.hosts import Launchd, State, Systemd
from baa.runtime.services import Service

SERVICE = Service(
    name="codexd", about="a test's", argv=("/bin/true",), environment={}, logs=Path("/nowhere"), stop_seconds=50
)
HURRIED = msgspec.structs.replace(SERVICE, stop_seconds=-int(hosts.CALL_S))
"""One that may take no time at all beyond that of a call."""

SYSTEMCTL = """#!/bin/sh
echo "$@" >> "$BOOK"
case "$2" in
  show) printf '%s' "$SHOWN" ;;
  *) [ -z "$HANGS" ] || exec sleep 60; echo "$SAYS" >&2; exit "${FAILS:-0}" ;;
esac
"""

LAUNCHCTL = """#!/bin/sh
echo "$@" >> "$BOOK"
case "$1" in
  print) [ -e "$BOOK.loaded" ] || { echo "Could not find service" >&2; exit 113; }
    [ ! -e "$BOOK.ending" ] || { rm "$BOOK.ending" "$BOOK.loaded"; }
    printf '%s' "$SHOWN" ;;
  bootstrap) echo "$SAYS" >&2; [ "${FAILS:-0}" = 0 ] || exit "$FAILS"; : > "$BOOK.loaded" ;;
  bootout) [ -n "$HANGS" ] || : > "$BOOK.ending"; echo "Boot-out failed: 36: Operation now in progress" >&2; exit 36 ;;
esac
"""


class StandIn:
    """A stand-in for a program of the system's: what it was told, and what it is to say."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = folder
        self.book = folder / "book"
        self._monkeypatch = monkeypatch
        path = folder / "bin"
        path.mkdir()
        for name, script in (("systemctl", SYSTEMCTL), ("launchctl", LAUNCHCTL)):
            (path / name).write_text(script)
            (path / name).chmod(0o755)
        self.set(PATH=f"{path}{os.pathsep}{os.environ['PATH']}", BOOK=str(self.book))

    def set(self, **settings: str) -> None:
        for name, value in settings.items():
            self._monkeypatch.setenv(name, value)

    def told(self) -> list[str]:
        """What it was told since the last time."""
        said = self.book.read_text().splitlines() if self.book.exists() else []
        self.book.unlink(missing_ok=True)
        return [line.removeprefix("--user ") for line in said]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(tmp_path, monkeypatch)


def systemd(manager: StandIn) -> Systemd:
    return Systemd({"HOME": str(manager.home)})


def launchd(manager: StandIn) -> Launchd:
    return Launchd({"HOME": str(manager.home)})


# --- systemd


def test_systemd_is_told_each_deed_in_its_words(manager: StandIn) -> None:
    host = systemd(manager)
    unit = "baa-codexd.service"
    for deed, words in (
        (host.reread, ["daemon-reload", f"enable --quiet {unit}"]),
        (host.start, [f"reset-failed {unit}", f"start {unit}"]),
        (host.stop, [f"stop {unit}"]),
        (host.restart, [f"restart {unit}"]),
        (host.forget, ["daemon-reload"]),
    ):
        deed(SERVICE)
        assert manager.told() == words


def test_systemds_folder_is_where_the_user_said(manager: StandIn) -> None:
    assert systemd(manager).path(SERVICE) == manager.home / ".config/systemd/user/baa-codexd.service"
    elsewhere = Systemd({"HOME": str(manager.home), "XDG_CONFIG_HOME": "/etc/you"})
    assert elsewhere.path(SERVICE) == Path("/etc/you/systemd/user/baa-codexd.service")


@pytest.mark.parametrize(
    ("shown", "active", "pid", "restarts"),
    [
        ("ActiveState=active\nSubState=running\nMainPID=12\nNRestarts=3\n", "active (running)", 12, 3),
        ("ActiveState=failed\nSubState=failed\nMainPID=0\nNRestarts=5\n", "failed (failed)", None, 5),
        ("", "unknown (unknown)", None, 0),
    ],
)
def test_what_systemd_says_of_a_unit_is_read(
    manager: StandIn, shown: str, active: str, pid: int | None, restarts: int
) -> None:
    manager.set(SHOWN=shown)
    assert systemd(manager).state(SERVICE) == State(installed=False, active=active, pid=pid, restarts=restarts)


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ("Failed to connect to bus: No medium found", "no systemd to speak to"),
        ("$XDG_RUNTIME_DIR not defined", "no systemd to speak to"),
        ("Unit not found.", "`systemctl --user start baa-codexd.service` failed: Unit not found"),
        ("", "failed: 1"),
    ],
)
def test_what_systemd_refuses_is_told_in_its_words_with_what_to_do(manager: StandIn, says: str, words: str) -> None:
    manager.set(FAILS="1", SAYS=says)
    with pytest.raises(CannotStart, match=words) as refused:
        systemd(manager).start(SERVICE)
    assert refused.value.exit_code == 69


def test_a_stop_of_what_is_not_there_is_no_failure(manager: StandIn) -> None:
    manager.set(FAILS="5", SAYS="Unit baa-codexd.service not loaded.")
    systemd(manager).stop(SERVICE)


@pytest.mark.parametrize("deed", ["stop", "restart"])
def test_a_systemctl_that_does_not_end_is_told(manager: StandIn, deed: str) -> None:
    manager.set(HANGS="1")
    with pytest.raises(CannotStart, match=f"`systemctl --user {deed} baa-codexd.service` does not end") as refused:
        getattr(systemd(manager), deed)(HURRIED)
    assert refused.value.exit_code == 69


def test_where_there_is_no_systemctl_there_is_another_way(manager: StandIn) -> None:
    manager.set(PATH=str(manager.home))
    with pytest.raises(CannotStart, match="Run the programs with `baa up` instead"):
        systemd(manager).start(SERVICE)


# --- launchd


def test_launchd_is_told_each_deed_in_its_words(manager: StandIn) -> None:
    host = launchd(manager)
    domain = f"gui/{os.getuid()}"
    job = f"{domain}/baa-conductor.codexd"
    look = f"print {job}"
    host.reread(SERVICE)
    assert manager.told() == [f"enable {job}"]
    host.start(SERVICE)
    assert manager.told() == [
        look,
        f"bootstrap {domain} {manager.home}/Library/LaunchAgents/baa-conductor.codexd.plist",
    ]
    host.start(SERVICE)
    assert manager.told() == [look], "it runs already"
    host.restart(SERVICE)
    assert [word for word in manager.told() if word != look] == [
        f"bootout {job}",
        f"bootstrap {domain} {manager.home}/Library/LaunchAgents/baa-conductor.codexd.plist",
    ]
    host.stop(SERVICE)
    assert manager.told() == [look, f"bootout {job}", look, look], "it waits until the job is gone"
    host.stop(SERVICE)
    assert manager.told() == [look], "it does not run"
    host.forget(SERVICE)
    assert manager.told() == []


def test_what_launchd_says_of_a_job_is_read(manager: StandIn) -> None:
    host = launchd(manager)
    assert host.state(SERVICE) == State(installed=False, active="not loaded", pid=None, restarts=None)
    host.start(SERVICE)
    manager.set(SHOWN="gui/501/baa-conductor.codexd = {\n\tactive count = 1\n\tstate = running\n\n\tpid = 71\n}\n")
    assert host.state(SERVICE) == State(installed=False, active="running", pid=71, restarts=None)


def test_what_launchd_refuses_is_told_in_its_words(manager: StandIn) -> None:
    manager.set(FAILS="5", SAYS="Bootstrap failed: 5: Input/output error")
    with pytest.raises(CannotStart, match=r"failed: Bootstrap failed: 5: Input/output error\.") as refused:
        launchd(manager).start(SERVICE)
    assert refused.value.exit_code == 69


def test_a_job_that_does_not_end_is_told_and_not_loaded_anew(manager: StandIn) -> None:
    host = launchd(manager)
    host.start(SERVICE)
    manager.told()
    manager.set(HANGS="1")
    with pytest.raises(CannotStart, match=r"baa-conductor\.codexd does not end: Boot-out failed: 36"):
        host.restart(HURRIED)
    assert not any(word.startswith("bootstrap") for word in manager.told())
