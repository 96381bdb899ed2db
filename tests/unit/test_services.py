"""What a service is, rendered for both service managers: held against golden files, and read back."""

from __future__ import annotations

import plistlib
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest

from baa import config
from baa.api.errors import CannotStart
from baa.config import Config
from baa.config_file import CodexdFile
from baa.runtime import services
from baa.runtime.services import DEFAULT_SET, SERVICES, Service, chosen, describe, launchd_plist, systemd_unit

GOLDEN = Path(__file__).parent / "golden"
ENVIRON = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/home/you",
    "BAA_SHARED_TOKEN": "secret",
    "OPENAI_API_KEY": "secret",
}
NO_FILE = Path("/dev/null")
PYTHON = Path("/home/you/baa/.venv/bin/python")

# launchd.plist(5): what may stand in a LaunchAgent of ours, and as what.
KEYS: dict[str, type | tuple[type, ...]] = {
    "Label": str,
    "ProgramArguments": list,
    "EnvironmentVariables": dict,
    "RunAtLoad": bool,
    "KeepAlive": bool,
    "ThrottleInterval": int,
    "ExitTimeOut": int,
    "AbandonProcessGroup": bool,
    "Umask": int,
    "ProcessType": str,
    "WorkingDirectory": str,
    "SoftResourceLimits": dict,
    "StandardOutPath": str,
    "StandardErrorPath": str,
}


def described(*names: str, python: Path = PYTHON, settings: dict[str, str] | None = None) -> tuple[Service, ...]:
    return describe(meant(settings or {}), names or SERVICES, python=python, environ=ENVIRON)


def meant(settings: dict[str, str]) -> Config:
    """The configuration of a shell with these variables."""
    given = {"BAA_HOME": "/home/you/baa-home", "BAA_NODE_ID": "desk", **settings}
    return config.load(NO_FILE, given)


def by_name(**settings: str) -> dict[str, Service]:
    return {service.name: service for service in described(settings=settings)}


@pytest.mark.parametrize("service", described(), ids=lambda service: service.name)
def test_the_renders_are_the_golden_files(service: Service) -> None:
    assert systemd_unit(service) == (GOLDEN / service.unit).read_text()
    assert launchd_plist(service) == (GOLDEN / f"{service.label}.plist").read_bytes()


def test_there_is_no_golden_file_too_many() -> None:
    names = {service.unit for service in described()} | {f"{service.label}.plist" for service in described()}
    assert {path.name for path in GOLDEN.iterdir()} == names


def test_which_services_are_meant() -> None:
    assert DEFAULT_SET == ("conductor", "codexd", "status-api")
    assert chosen((), all_services=False) == DEFAULT_SET
    assert chosen((), all_services=True) == (*DEFAULT_SET, "worker-runner")
    assert chosen(("codexd", "codexd"), all_services=False) == ("codexd",)
    with pytest.raises(CannotStart, match=r"There is no service runs\. There are: conductor, codexd") as refused:
        chosen(("runs",), all_services=False)
    assert refused.value.exit_code == 64


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_said_of_runs_or_exec_and_no_secret_is_written(name: str) -> None:
    (service,) = described(name)
    for text in (systemd_unit(service), launchd_plist(service).decode()):
        assert "secret" not in text
        assert "SHARED_TOKEN" not in text
        assert "/runs" not in text.lower().replace("worker-runner", "")
        assert "codex exec" not in text


def test_codexd_has_the_seeds_settings_and_app_server_defaults() -> None:
    environment = by_name()["codexd"].environment
    assert environment["BAA_CODEXD_LOCAL_API_BASE"] == "http://127.0.0.1:4319"
    assert environment["BAA_CODEXD_STATE_DIR"] == "/home/you/baa-home/state/codexd"
    assert environment["BAA_CODEXD_LOGS_DIR"] == "/home/you/baa-home/logs/codexd"
    assert environment["BAA_CODEXD_EVENT_STREAM_PATH"] == "/v1/codexd/events"
    assert environment["BAA_CODEXD_SERVER_COMMAND"] == "codex"
    assert environment["BAA_CODEXD_SERVER_ARGS"] == "app-server"
    table = {f"BAA_CODEXD_{field.name.upper()}" for field in msgspec.structs.fields(CodexdFile)}
    assert table <= environment.keys()
    assert all("BAA_CONTROL_API_BASE" not in service.environment for service in described())
    with_base = by_name(BAA_CONTROL_API_BASE="https://control.example")
    assert {service.environment["BAA_CONTROL_API_BASE"] for service in with_base.values()} == {
        "https://control.example"
    }


@pytest.mark.parametrize("name", SERVICES)
def test_a_program_that_is_started_so_has_the_settings_that_were_meant(name: str) -> None:
    settings = {
        "BAA_CODEXD_LOCAL_API_BASE": "http://127.0.0.1:5319",
        "BAA_CODEXD_SERVER_ARGS": "app-server --flag 'two words'",
        "BAA_CODEXD_STATE_DIR": "/var/elsewhere",
        "BAA_CONDUCTOR_LOCAL_API_BASE": "http://[::1]:5317",
        "BAA_STATUS_API_BASE": "http://100.64.0.7:5318",
        "BAA_ENGINE_URL": "sqlite:////var/engine",
        "BAA_WORKER_SLOTS": "7",
        "BAA_WORKER_NODE_TTL_MS": "2000",
        "BAA_WORKER_WORKTREES": "/srv/worktrees",
        "BAA_WORKER_EMBEDDED": "false",
        "BAA_WORKER_DRAIN_MS": "45000",
        "BAA_CONTROL_API_BASE": "https://control.example",
    }
    (service,) = described(name, settings=settings)
    has = config.load(NO_FILE, service.environment)
    used = {
        "codexd": ("address", "event_stream_path", "state_dir", "logs_dir", "codex_home", "server_args"),
        "conductor": ("address", "event_stream_path", "conductor_address", "engine_url", "node_ttl_ms", "worker_slots"),
        "status-api": ("address", "conductor_address", "status_api_address"),
        "worker-runner": ("engine_url", "worker_slots", "worker_worktrees", "node_ttl_ms"),
    }[name]
    for field in ("home", "node_id", "control_api_base", "tokens_dir", "endpoint_file", *used):
        assert getattr(has, field) == getattr(meant(settings), field), field


def test_the_password_of_a_database_is_in_no_description() -> None:
    url = "postgresql://me:secret@db/baa"
    for service in described(settings={"BAA_ENGINE_URL": url}):  # as a configuration file gives it
        assert "BAA_ENGINE_URL" not in service.environment
        assert "secret" not in systemd_unit(service)
    with pytest.raises(CannotStart, match="engine_url into") as refused:
        describe(meant({}), SERVICES, python=PYTHON, environ=ENVIRON | {"BAA_ENGINE_URL": url})
    assert "secret" not in refused.value.message


def test_the_time_for_a_stop_follows_from_the_drain_budget() -> None:
    assert by_name()["codexd"].environment["BAA_CODEXD_DRAIN_MS"] == "30000"
    assert by_name()["codexd"].stop_seconds == 30 + 5 + 15 + 5 + services.STOP_S
    longer = by_name(BAA_CODEXD_DRAIN_MS="90000")
    assert longer["codexd"].stop_seconds == 90 + 5 + 15 + 5 + services.STOP_S
    assert "TimeoutStopSec=130\n" in systemd_unit(longer["codexd"])
    assert plistlib.loads(launchd_plist(longer["codexd"]))["ExitTimeOut"] == 130
    assert longer["status-api"].stop_seconds == services.STOP_S
    worker = by_name(BAA_WORKER_DRAIN_MS="90000", BAA_WORKER_EMBEDDED="false")
    assert worker["worker-runner"].stop_seconds == 90 + services.LEAVE_S + services.STOP_S
    assert worker["conductor"].stop_seconds == services.STOP_S, "it runs no tasks"
    assert by_name()["conductor"].stop_seconds == services.STOP_S, "worker-runner is there too"
    (alone,) = described("conductor")
    assert alone.stop_seconds == 30 + services.LEAVE_S + services.STOP_S


def test_one_of_the_two_runs_the_nodes_tasks() -> None:
    def embedded(*names: str, beside: tuple[str, ...] = (), told: str = "true") -> str:
        config = meant({"BAA_WORKER_EMBEDDED": told})
        (conductor, *_) = describe(config, names, python=PYTHON, environ=ENVIRON, beside=beside)
        return conductor.environment["BAA_WORKER_EMBEDDED"]

    assert embedded(*DEFAULT_SET) == "true"
    assert embedded(*DEFAULT_SET, told="false") == "false"
    assert embedded(*SERVICES) == "false"
    assert embedded("conductor", beside=("conductor", "worker-runner")) == "false"
    assert embedded("conductor", beside=("conductor", "codexd")) == "true"


@pytest.mark.parametrize("service", described(), ids=lambda service: service.name)
def test_a_property_list_holds_known_keys_of_the_right_type_and_comes_back(service: Service) -> None:
    job: dict[str, Any] = plistlib.loads(launchd_plist(service))
    assert {key for key in job if key not in KEYS} == set()
    assert {key for key, type_ in KEYS.items() if type(job[key]) is not type_} == set()
    assert job["Label"] == service.label
    assert job["ProgramArguments"] == list(service.argv)
    assert job["EnvironmentVariables"] == service.environment
    assert job["Umask"] == 0o077
    assert all(Path(job[key]).is_absolute() for key in ("StandardOutPath", "StandardErrorPath", "WorkingDirectory"))
    assert Path(job["ProgramArguments"][0]).is_absolute()


ODD = "/home/you/100% mine $HOME;x/bin/python"


def test_odd_paths_are_read_back_as_they_were() -> None:
    (service,) = described("codexd", python=Path(ODD), settings={"BAA_CODEXD_CODEX_HOME": "/home/you/a b%c$d"})
    unit = systemd_unit(service)
    (line,) = [line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert shlex.split(line.replace("%%", "%"))[0] == ODD
    assert 'Environment="BAA_CODEXD_CODEX_HOME=/home/you/a b%%c$d"\n' in unit
    assert plistlib.loads(launchd_plist(service))["ProgramArguments"][0] == ODD
    with pytest.raises(CannotStart, match="quote or a backslash"):
        systemd_unit(described("codexd", python=Path("/home/you/it's/python"))[0])
    with pytest.raises(CannotStart, match="control character"):
        systemd_unit(described("codexd", python=Path("/home/you/a\nExecStart=/bin/sh"))[0])
