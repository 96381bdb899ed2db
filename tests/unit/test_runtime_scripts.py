"""The seed's seven scripts: each is a wrapper of one command, with its flags."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "runtime"
COMMANDS = {
    "install-mini.sh": ("node install", ["--all-services", "--dry-run"]),
    "install-launchd.sh": ("service install", ["--service", "codexd", "--all-services", "--dry-run"]),
    "check-launchd.sh": ("service check", ["--all-services", "--control-api-base", "https://control.example"]),
    "status-launchd.sh": ("service status", ["--skip-http", "--service", "codexd"]),
    "reload-launchd.sh": ("service reload", ["--service", "codexd", "--dry-run"]),
    "restart-launchd.sh": ("service restart", ["--service", "codexd", "--dry-run"]),
    "check-node.sh": ("node check", ["--all-services", "--expect-role", "leader"]),
}


def run(tmp_path: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script with a home of its own."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "BAA_HOME": str(tmp_path / "baa")}
    return subprocess.run(
        [str(SCRIPTS / script), *arguments], env=environment, capture_output=True, text=True, check=False, timeout=50
    )


def test_there_are_the_seven_and_no_more() -> None:
    assert {path.name for path in SCRIPTS.iterdir()} == set(COMMANDS)
    assert all(len(path.read_text().splitlines()) == 3 for path in SCRIPTS.iterdir())


@pytest.mark.parametrize("script", COMMANDS)
def test_each_is_its_command_with_every_argument_passed_on(tmp_path: Path, script: str) -> None:
    command, flags = COMMANDS[script]
    helped = run(tmp_path, script, "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert f"baa {command}" in helped.stdout

    done = run(tmp_path, script, *flags)
    assert done.returncode in (0, 1, 69, 78), done.stderr  # not 64: the flags are known
    assert "Traceback" not in done.stderr

    assert run(tmp_path, script, "--no-such-flag").returncode == 64
