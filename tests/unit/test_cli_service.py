"""`baa service` and `baa node` as a user types them, where there is no service manager to be reached."""

from __future__ import annotations

import json
import os
import plistlib
import subprocess
import sys
from pathlib import Path

import pytest

from baa.cli.service import app

SUBCOMMANDS = ("install", "uninstall", "check", "render", "status", "reload", "restart", "start", "stop", "logs")
CHANGING = ("install", "uninstall", "reload", "restart", "start", "stop")
NEEDS = {"render": ("--output", "x")}


def baa(home: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "BAA_HOME": str(home / "baa"), "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "-m", "baa.cli", *arguments],
        env=environment | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


@pytest.mark.parametrize(
    "command", [*(("service", name) for name in SUBCOMMANDS), ("node", "install"), ("node", "check")], ids=" ".join
)
def test_every_help_has_an_example(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = baa(tmp_path, *command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Example: baa {' '.join(command)}" in done.stdout
    assert "/v1/codexd/runs" not in done.stdout


def test_an_unknown_service_is_told_which_there_are(tmp_path: Path) -> None:
    done = baa(tmp_path, "service", "check", "--service", "runs")
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr == ("baa: There is no service runs. There are: conductor, codexd, status-api, worker-runner.\n")


@pytest.mark.parametrize("deed", CHANGING)
def test_a_dry_run_says_what_it_would_do_and_does_nothing(tmp_path: Path, deed: str) -> None:
    baa(tmp_path, "service", "render", "--output", str(tmp_path / ".config" / "systemd" / "user"), "--all-services")
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    done = baa(tmp_path, "service", deed, "--dry-run", "--all-services", "--json")
    if sys.platform == "linux":
        assert (done.returncode, done.stderr) == (0, "")
        told = json.loads(done.stdout)
        assert told["ok"]
        assert all(
            step.startswith(("would ", "To undo", "State and logs")) or "as it should be" in step
            for step in told["steps"]
        )
        assert any("codexd" in step for step in told["steps"])
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_takes_services_by_name_and_all_of_them(name: str) -> None:
    arguments = {flag for each in app[name].assemble_argument_collection() for flag in each.names}
    assert {"--service", "--all-services", "--json"} <= arguments
    _, bound, _ = app[name].parse_args(["--service", "codexd", "--service", "conductor", *NEEDS.get(name, ())])
    assert bound.arguments["service"] == ("codexd", "conductor")
    _, bound, _ = app[name].parse_args(["--all-services", *NEEDS.get(name, ())])
    assert bound.arguments["all_services"]


def test_services_that_were_named_are_meant_and_no_other(tmp_path: Path) -> None:
    named = ("--service", "worker-runner", "--service", "codexd")
    done = baa(tmp_path, "service", "install", "--dry-run", *named, "--json")
    steps = json.loads(done.stdout)["steps"]
    assert {step.split(":")[0] for step in steps} == {"would worker-runner", "would codexd", "To undo this"}


def test_a_conductor_that_is_installed_follows_worker_runner(tmp_path: Path) -> None:
    if sys.platform != "linux":
        return
    units = tmp_path / ".config" / "systemd" / "user"
    conductor = units / "baa-conductor.service"

    def written(*named: str) -> bool:
        done = baa(tmp_path, "service", "install", "--dry-run", "--json", *named)
        steps = json.loads(done.stdout)["steps"]
        assert (f"conductor: {conductor} is as it should be" in steps) != (
            f"would conductor: write {conductor}" in steps
        )
        return f"would conductor: write {conductor}" in steps

    baa(tmp_path, "service", "render", "--output", str(units))
    assert not written()
    assert written("--service", "worker-runner")
    (units / "baa-worker-runner.service").touch()
    assert written(), "it is there"
    baa(tmp_path, "service", "render", "--output", str(units), "--all-services")
    assert not written()
    assert "BAA_WORKER_EMBEDDED=false" in conductor.read_text()


def test_linger_is_looked_up_in_the_folder_that_is_named(tmp_path: Path) -> None:
    """A stand-in: there is no logind where this is tested."""
    if sys.platform != "linux":
        return
    (tmp_path / "linger").mkdir()
    arguments = ("node", "check", "--service", "worker-runner", "--linger-dir", str(tmp_path / "linger"), "--json")
    lines = {
        line["name"]: line for line in json.loads(baa(tmp_path, *arguments, USER="you", LOGNAME="you").stdout)["lines"]
    }
    assert (lines["linger"]["level"], lines["linger"]["cure"]) == ("warn", "loginctl enable-linger you")
    assert lines["linger"]["evidence"].startswith("no linger: ")
    (tmp_path / "linger" / "you").touch()
    lines = {
        line["name"]: line for line in json.loads(baa(tmp_path, *arguments, USER="you", LOGNAME="you").stdout)["lines"]
    }
    assert lines["linger"]["level"] == "ok"


def test_an_install_says_what_it_would_write_and_how_to_undo_it(tmp_path: Path) -> None:
    done = baa(tmp_path, "service", "install", "--dry-run", "--service", "codexd")
    assert done.returncode == 0
    assert "would codexd: write" in done.stdout
    assert "conductor" not in done.stdout.replace("baa-conductor", "")
    assert "To undo this: baa service uninstall" in done.stdout


def test_codexd_alone_needs_no_shared_token_and_none_is_written(tmp_path: Path) -> None:
    output = tmp_path / "out"
    for settings in ({}, {"BAA_SHARED_TOKEN": "secret-token"}):
        done = baa(tmp_path, "service", "render", "--service", "codexd", "--output", str(output), **settings)
        assert (done.returncode, done.stderr) == (0, "")
        (unit,) = output.iterdir()
        assert "secret-token" not in unit.read_text()


def test_both_renders_are_written_to_a_folder(tmp_path: Path) -> None:
    base = ("--control-api-base", "https://control.example")
    done = baa(tmp_path, "service", "render", "--manager", "launchd", "--output", str(tmp_path / "l"), *base, "--json")
    files = json.loads(done.stdout)["files"]
    assert [Path(file).name for file in files] == [
        f"baa-conductor.{name}.plist" for name in ("conductor", "codexd", "status-api")
    ]
    job = plistlib.loads(Path(files[1]).read_bytes())
    assert job["EnvironmentVariables"]["BAA_CONTROL_API_BASE"] == "https://control.example"
    done = baa(tmp_path, "service", "render", "--manager", "systemd", "--output", str(tmp_path / "s"), "--all-services")
    assert len(done.stdout.splitlines()) == 4


def test_check_names_what_is_missing_and_exits_1(tmp_path: Path) -> None:
    done = baa(tmp_path, "service", "check", "--service", "codexd")
    assert done.returncode == 1
    assert "mend it: baa service install --service codexd" in done.stdout
    assert "\x1b" not in done.stdout, "colour only on a terminal"
    told = json.loads(baa(tmp_path, "service", "check", "--service", "codexd", "--json").stdout)
    assert not told["ok"]
    assert {"level", "name", "evidence", "cure"} == set(told["lines"][0])


def test_without_a_service_manager_the_cure_is_named(tmp_path: Path) -> None:
    if sys.platform == "darwin":
        return
    done = baa(tmp_path, "service", "status")
    assert done.returncode == 69
    assert "baa up" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_logs_are_for_people_and_escapes_do_nothing(tmp_path: Path) -> None:
    done = baa(tmp_path, "service", "logs")
    assert done.returncode == 66
    assert "There is no log yet" in done.stderr
    for program, at, event in (("codexd", "10:00:02", "child.ready"), ("conductor", "10:00:01", "role.leader")):
        folder = tmp_path / "baa" / "logs" / program
        folder.mkdir(parents=True)
        entry = {"term": 1, "note": "a\x1b[31mb", "event": event, "level": "info", "at": f"2026-01-01T{at}.123456Z"}
        (folder / f"{program}.jsonl").write_text("not json\n" + json.dumps(entry, separators=(",", ":")) + "\n")
    done = baa(tmp_path, "service", "logs", "--lines", "1")
    assert done.stdout.splitlines() == [
        "10:00:01.123  conductor      role.leader  term=1 note=a\\x1b[31mb",
        "10:00:02.123  codexd         child.ready  term=1 note=a\\x1b[31mb",
    ]
    raw = baa(tmp_path, "service", "logs", "--service", "codexd", "--json").stdout.splitlines()
    assert (raw[0], json.loads(raw[1])["event"]) == ("not json", "child.ready")


def test_a_followed_log_goes_on_after_it_was_rotated(tmp_path: Path) -> None:
    folder = tmp_path / "baa" / "logs" / "codexd"
    folder.mkdir(parents=True)
    log = folder / "codexd.jsonl"
    log.write_text('{"event":"one","at":"1"}\n')
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "BAA_HOME": str(tmp_path / "baa")}
    command = [sys.executable, "-m", "baa.cli", "service", "logs", "--service", "codexd", "--follow", "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "one" in process.stdout.readline()
            with log.open("a") as file:
                file.write('{"event":"two","at":"2"}\n')
            assert "two" in process.stdout.readline()
            log.rename(folder / "codexd.jsonl.1")
            log.write_text('{"event":"three","at":"3"}\n')
            assert "three" in process.stdout.readline()
        finally:
            process.kill()


def test_a_node_install_stops_at_what_is_missing_and_writes_nothing(tmp_path: Path) -> None:
    done = baa(tmp_path, "node", "install", BAA_CODEXD_SERVER_COMMAND="/nowhere/codex")
    assert done.returncode == 69
    assert "binary gone" in done.stdout
    assert not (tmp_path / ".config").exists()
    assert not (tmp_path / "baa").exists()
