"""What `make test` does about programs that are not there, with a stand-in for apt-get; and what becomes of skips."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
APT = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in
  *--assume-no*) [ -e "$CALLS.updated" ] || [ -n "$KNOWN" ] || exit 100
    echo "Need to get 4567 kB of archives."
    echo "After this operation, 12.3 MB of additional disk space will be used." ;;
  update) touch "$CALLS.updated" ;;
  *) exit "${FAILS:-0}" ;;
esac
"""
as_root_on_debian = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/etc/debian_version").exists(), reason="it installs as root on Debian: run it there"
)


def system(tmp_path: Path, **settings: str) -> tuple[str, list[str]]:
    """Run the script where only the stand-in and Python are found; what it said, and how apt-get was called."""
    path = tmp_path / "bin"
    path.mkdir(exist_ok=True)
    (path / "apt-get").write_text(APT)
    (path / "apt-get").chmod(0o755)
    for name in ("touch", "sh"):
        if not (path / name).exists():
            (path / name).symlink_to(shutil.which(name) or name)
    calls = tmp_path / "calls"
    calls.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "system.py")],
        env={"PATH": str(path), "CALLS": str(calls), **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    return done.stderr, calls.read_text().splitlines() if calls.exists() else []


@as_root_on_debian
def test_it_says_what_it_installs_and_how_big_that_is(tmp_path: Path) -> None:
    said, calls = system(tmp_path, KNOWN="1")
    assert "iproute2" in said
    assert "systemd" in said
    assert "4567 kB to download, 12.3 MB of additional disk space" in said
    assert "BAA_NO_APT=1" in said
    *options, packages = calls[-1].partition("--no-install-recommends ")
    assert options == ["install --yes ", "--no-install-recommends "]
    known = {"curl", "iproute2", "jq", "strace", "systemd", "tmux", "util-linux"}  # postgresql is looked for elsewhere
    assert set(packages.split()) - {"postgresql"} == known
    assert "update" not in calls


@as_root_on_debian
def test_packages_that_apt_does_not_know_yet_are_looked_up_first(tmp_path: Path) -> None:
    said, calls = system(tmp_path)
    assert "12.3 MB" in said
    assert "update" in calls


@as_root_on_debian
def test_it_is_silent_in_ci_unless_it_fails(tmp_path: Path) -> None:
    said, calls = system(tmp_path, KNOWN="1", CI="true")
    assert (said, len(calls)) == ("", 2)
    said, _ = system(tmp_path, KNOWN="1", CI="true", FAILS="100")
    assert "could not install" in said


def test_it_installs_nothing_where_that_is_not_wanted(tmp_path: Path) -> None:
    said, calls = system(tmp_path, BAA_NO_APT="1")
    assert "BAA_NO_APT is set" in said
    assert calls == []


@pytest.mark.skipif(shutil.which("systemctl") is None or shutil.which("ip") is None, reason="run `make test` as root")
def test_it_says_nothing_where_nothing_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "system.py")], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


SKIPPING = """
import pytest
def test_runs(): pass
@pytest.mark.skipif(True, reason="no frobnicator: apt-get install frobnicator")
def test_skips(): pass
"""


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
@pytest.mark.parametrize("workers", ["0", "2"])
def test_skips_are_listed_loudly_and_are_failures_in_ci(tmp_path: Path, ci: str, code: int, workers: str) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(SKIPPING)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            workers,
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(tmp_path),
            ".",
        ],
        cwd=tmp_path,
        env={**environment, "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    assert "SKIPPED: these tests did not run here" in done.stdout
    assert "1 x Skipped: no frobnicator: apt-get install frobnicator" in done.stdout
