"""What the tests need of the system, beside Python: found, or installed where that can be done with apt-get as root.

It says what it will install and how big that is; BAA_NO_APT=1 prevents it. With CI set it is silent unless it fails.
Whatever is still missing afterwards is skipped by the tests that need it, which say so. Standard library only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

NEEDED = (
    ("/lib/systemd/systemd", "systemd", "services on a real systemd"),
    ("systemctl", "systemd", "services on a real systemd"),
    ("systemd-analyze", "systemd", "units held against systemd's own reading"),
    ("unshare", "util-linux", "a systemd of the tests' own"),
    ("nsenter", "util-linux", "a systemd of the tests' own"),
    ("ip", "iproute2", "status-api on a private address"),
    ("tmux", "tmux", "screens: baa watch, baa attach"),
    ("curl", "curl", "the examples of docs/codexd-api.md"),
    ("strace", "strace", "what codexd does in which order, and disks that fail"),
    ("jq", "jq", "the examples of docs/codexd-api.md"),
    ("/usr/lib/postgresql/*/bin/postgres", "postgresql", "the queue of a fleet"),
)
QUIET = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}


def main() -> None:
    absent = {package: what for program, package, what in NEEDED if not found(program)}
    if not absent or sys.platform != "linux":
        return
    packages = sorted(absent)
    for_what = "; ".join(f"{package} ({absent[package]})" for package in packages)
    if os.environ.get("BAA_NO_APT"):
        say(f"Not installed, since BAA_NO_APT is set: {for_what}. Tests that need them are skipped.")
    elif not Path("/etc/debian_version").exists() or shutil.which("apt-get") is None or os.geteuid() != 0:
        say(f"Not here: {for_what}. Tests that need them are skipped. As root: apt-get install {' '.join(packages)}")
    else:
        install(packages, for_what)


def found(program: str) -> bool:
    """A name is looked up on the PATH, a path as it stands; a `*` in it is any one folder."""
    if "*" in program:
        return any(Path("/").glob(program.removeprefix("/")))
    return shutil.which(program) is not None


def install(packages: list[str], for_what: str) -> None:
    size = size_of(packages)
    if size is None:
        apt("update")
        size = size_of(packages)
    if not os.environ.get("CI"):
        told = size or "a size that apt-get does not tell"
        say(f"Installing with apt-get: {for_what}; {told}. BAA_NO_APT=1 prevents this.")
    done = apt("install", "--yes", "--no-install-recommends", *packages)
    if done.returncode != 0:
        say(f"apt-get could not install {' '.join(packages)}: {done.stderr.strip()}. Tests that need them are skipped.")


def size_of(packages: list[str]) -> str | None:
    """What apt-get says that they take; None if it knows them not, or not yet."""
    told = apt("install", "--assume-no", "--no-install-recommends", *packages).stdout
    adds = re.search(r"^After this operation, (.+ of additional disk space will be used)", told, re.MULTILINE)
    needs = re.search(r"^Need to get (.+?) of archives", told, re.MULTILINE)
    if adds is None:
        return None
    return f"{needs.group(1)} to download, {adds.group(1)}" if needs else adds.group(1)


def apt(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["apt-get", *arguments], env=QUIET, capture_output=True, text=True, check=False)


def say(line: str) -> None:
    print(f"system: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
