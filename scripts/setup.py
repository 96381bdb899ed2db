"""Makes .venv ready: `setup.py demo` for what baa needs to run, `setup.py dev` for that and the tools of the tests.

Standard library only, since it runs before anything is installed. Done work is remembered in .venv/setup.json, so that
a second run only compares; a lock lets two runs in one checkout follow each other, and what a running demo uses is not
installed again beneath it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "setup.json"


def main(kind: str) -> None:
    with (ROOT / ".venv.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another setup of this checkout.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        prepare(kind)


def prepare(kind: str) -> None:
    # Scripts and the editable install hold absolute paths: a checkout that was moved needs a new environment.
    home = f"{ROOT} {sys.base_prefix} {sys.version}"
    done = read_stamp()
    if done.get("home") != home:
        say(f"Making .venv with Python {sys.version.split()[0]}.")
        venv.create(VENV, clear=True, with_pip=True)
        done = {"home": home}
        write_stamp(done)

    wanted = digest(f"requirements/{kind}.txt")
    if done.get(kind) != wanted:
        hint = "" if "demo" in done else " Codex itself is a download of about 140 MB."
        say(f"Installing requirements/{kind}.txt into .venv.{hint}")
        started = time.monotonic()
        pip("--require-hashes", "-r", f"requirements/{kind}.txt")
        say(f"Installed in {time.monotonic() - started:.0f} s.")
        done[kind] = wanted
        if kind == "dev":  # It holds all of demo, in the same versions.
            done["demo"] = digest("requirements/demo.txt")
        write_stamp(done)

    wanted = digest("pyproject.toml")
    if done.get("package") != wanted:
        pip("--no-deps", "--no-build-isolation", "--editable", ".")
        done["package"] = wanted
        write_stamp(done)


def pip(*arguments: str) -> None:
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", *arguments]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code != 0:
        sys.exit(f"setup: pip could not install (exit {code}); the reason is above. To begin afresh: make clean.")


def digest(name: str) -> str:
    return hashlib.sha256((ROOT / name).read_bytes()).hexdigest()


def read_stamp() -> dict[str, str]:
    try:
        stamp: dict[str, str] = json.loads(STAMP.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return stamp if PYTHON.exists() else {}


def write_stamp(done: dict[str, str]) -> None:
    STAMP.write_text(json.dumps(done, indent=1))


def say(line: str) -> None:
    print(f"setup: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        sys.exit("setup: stopped. The same command goes on from here.")
