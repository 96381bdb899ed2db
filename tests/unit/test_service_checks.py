"""The static checks on real folders, files, sockets and processes: each line in its good and its bad forms."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from baa import config
from baa.config import Address, Config
from baa.http.tokens import ensure_tokens
from baa.runtime import checks
from baa.runtime.checks import Line, static_checks
from baa.runtime.hosts import Host, Launchd, Systemd
from baa.runtime.services import SERVICES, Service, as_service, describe

NO_FILE = Path("/dev/null")


class Installed:
    """A home with descriptions in it, as an install would have written them."""

    def __init__(self, folder: Path, host: type[Systemd] | type[Launchd] = Systemd) -> None:
        self.folder = folder
        self.host: Host = host({"HOME": str(folder)})
        for service in self.services():
            self.host.path(service).parent.mkdir(parents=True, exist_ok=True)
            self.host.path(service).write_bytes(self.host.render(service))

    def config(self, **settings: str) -> Config:
        given = {"BAA_HOME": str(self.folder / "baa"), "BAA_NODE_ID": "desk", **settings}
        return as_service(config.load(NO_FILE, given))

    def services(self, **settings: str) -> tuple[Service, ...]:
        return describe(self.config(**settings), SERVICES, python=Path(sys.executable), environ={"PATH": "/bin"})

    def lines(self, **settings: str) -> dict[str, Line]:
        found = static_checks(self.config(**settings), self.services(**settings), self.host)
        assert len({line.name for line in found}) == len(found), "each line has a name of its own"
        return {line.name: line for line in found}

    def unit(self) -> Path:
        return self.host.path(next(service for service in self.services() if service.name == "codexd"))


@pytest.fixture(params=[Systemd, Launchd])
def installed(tmp_path: Path, request: pytest.FixtureRequest) -> Installed:
    return Installed(tmp_path, request.param)


def test_a_fresh_install_is_well_and_every_thing_that_was_checked_is_named(installed: Installed) -> None:
    lines = installed.lines()
    assert [line for line in lines.values() if line.level != "ok"] == []
    assert {
        "codexd description",
        "codexd program",
        "codexd address",
        "codexd event stream path",
        "codexd logs folder",
        "codexd state folder",
        "codexd app-server child",
        "codexd control API base",
        "tokens",
        "conductor address",
        "status-api address",
        "status-api interface",
        "worker-runner description",
    } <= lines.keys()
    assert "/v1/codexd/events" in lines["codexd event stream path"].evidence
    assert "app-server" in lines["codexd app-server child"].evidence
    assert not any("/runs" in line.evidence + str(line.cure) for line in lines.values())


def test_a_description_that_is_gone_edited_or_of_other_settings(installed: Installed) -> None:
    unit = installed.unit()
    good = unit.read_bytes()
    unit.write_bytes(good.replace(b"=process", b"=mixed").replace(b"<key>Umask</key>", b"<key>Umaks</key>"))
    line = installed.lines()["codexd description"]
    assert (line.level, line.cure) == ("fail", "baa service install --service codexd")
    assert "edited" in line.evidence
    unit.write_bytes(b"<?xml torn")
    assert installed.lines()["codexd description"].level == "fail"
    unit.write_bytes(good)
    line = installed.lines(BAA_CODEXD_ORPHAN_MS="5")["codexd description"]
    assert line.level == "warn"
    assert line.evidence.endswith("BAA_CODEXD_ORPHAN_MS")
    unit.unlink()
    line = installed.lines()["codexd description"]
    assert (line.level, line.cure) == ("fail", "baa service install --service codexd")


def test_the_control_api_base_is_compared_only_where_one_is_asked_for(installed: Installed) -> None:
    line = installed.lines(BAA_CONTROL_API_BASE="https://one.example")["codexd control API base"]
    assert line.level == "fail"
    assert line.cure == "baa service install --service codexd --control-api-base https://one.example"
    for service in installed.services(BAA_CONTROL_API_BASE="https://one.example"):
        installed.host.path(service).write_bytes(installed.host.render(service))
    lines = installed.lines()
    assert lines["codexd control API base"] == Line("ok", "codexd control API base", "https://one.example")
    assert lines["codexd description"].level == "ok", "nothing depends on it"
    assert installed.lines(BAA_CONTROL_API_BASE="https://two.example")["codexd control API base"].level == "fail"


def test_an_odd_setting_is_compared_as_it_was_before_it_was_quoted(installed: Installed) -> None:
    base = "https://control.example/a%20b\"c'd\\e;f"
    for service in installed.services(BAA_CONTROL_API_BASE=base):
        installed.host.path(service).write_bytes(installed.host.render(service))
    line = installed.lines(BAA_CONTROL_API_BASE=base)["codexd control API base"]
    assert (line.level, line.evidence) == ("ok", base)


def test_another_shell_is_no_other_configuration_and_codex_is_looked_for_with_the_services_path(
    installed: Installed, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "my-codex").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "my-codex").chmod(0o755)
    settings = {"BAA_CODEXD_SERVER_COMMAND": "my-codex"}
    config = installed.config(**settings)
    here, there = ({"PATH": str(tmp_path / name)} for name in ("bin", "nothing"))

    def lines(environ: dict[str, str]) -> dict[str, Line]:
        (service,) = describe(config, ("codexd",), python=Path(sys.executable), environ=environ)
        return {line.name: line for line in static_checks(config, (service,), installed.host)}

    (service,) = describe(config, ("codexd",), python=Path(sys.executable), environ=here)
    installed.host.path(service).write_bytes(installed.host.render(service))
    found = lines(there)
    assert (found["codexd description"].level, found["codexd app-server child"].level) == ("ok", "ok")
    assert "PATH" in found["codexd description"].evidence
    assert str(tmp_path / "bin" / "my-codex") in found["codexd app-server child"].evidence


def test_a_program_or_an_interpreter_that_is_gone_is_named(installed: Installed) -> None:
    line = installed.lines(BAA_CODEXD_SERVER_COMMAND="/nowhere/codex")["codexd app-server child"]
    assert line.level == "fail"
    assert "binary gone: BAA_CODEXD_SERVER_COMMAND is '/nowhere/codex'" in line.evidence
    line = installed.lines(BAA_CODEXD_SERVER_ARGS="exec --json")["codexd app-server child"]
    assert (line.level, line.cure) == ("fail", "set BAA_CODEXD_SERVER_ARGS=app-server")
    services = describe(installed.config(), ("codexd",), python=Path("/nowhere/python"), environ={})
    found = {line.name: line for line in static_checks(installed.config(), services, installed.host)}
    assert found["codexd program"].level == "fail"


LISTENS = """
import socket, sys
sock = socket.create_server(("127.0.0.1", 0))
print(sock.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def another_program(command: str) -> Iterator[tuple[int, int]]:
    """A process that listens on a port: the two numbers. `command` is further arguments of it."""
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENS, command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process.pid
        process.kill()


def test_a_port_is_free_or_its_own_or_anothers_who_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        free = sock.getsockname()[1]
    assert checks.port("codexd address", Address("127.0.0.1", free), "codexd").level == "ok"
    with another_program("baa.codexd") as (port, pid):
        line = checks.port("codexd address", Address("127.0.0.1", port), "codexd")
        assert (line.level, line.evidence) == ("ok", f"http://127.0.0.1:{port}, held by codexd (pid {pid})")
        line = checks.port("conductor address", Address("127.0.0.1", port), "conductor")
        assert line.level == "fail"
        assert f"port {port} is held by another program: python" in line.evidence
        assert f"(pid {pid})" in line.evidence
        assert f"kill {pid}" in str(line.cure)
    assert checks.port("codexd address", Address("127.0.0.1", 0), "codexd").level == "fail"


def test_folders(tmp_path: Path) -> None:
    assert "will be made" in checks.folder("x", tmp_path / "a" / "b", private=True).evidence
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    assert checks.folder("x", tmp_path / "open", private=False).level == "ok"
    line = checks.folder("x", tmp_path / "open", private=True)
    assert (line.level, line.cure) == ("warn", f"chmod 700 '{tmp_path / 'open'}'")
    (tmp_path / "file").touch()
    assert "is not a folder" in checks.folder("x", tmp_path / "file", private=False).evidence
    assert checks.folder("x", tmp_path / "file" / "below", private=False).level == "fail"


def test_tokens_that_others_may_have_read(installed: Installed) -> None:
    folder = installed.config().tokens_dir
    ensure_tokens(folder)
    assert installed.lines()["tokens"].level == "ok"
    (folder / "read").chmod(0o644)
    line = installed.lines()["tokens"]
    assert line.level == "fail"
    assert "has mode 0644" in line.evidence
    assert line.cure is not None


def test_an_address_that_this_machine_has_not(installed: Installed) -> None:
    line = installed.lines(BAA_STATUS_API_BASE="http://100.64.3.2:4318")["status-api interface"]
    assert line.level == "fail"
    assert line.evidence == "status-api address missing on this machine: 100.64.3.2"
    assert "BAA_STATUS_API_BASE" in str(line.cure)


def test_only_failures_fail() -> None:
    assert not checks.failed([Line("ok", "a", ""), Line("warn", "b", "", "do")])
    assert checks.failed([Line("ok", "a", ""), Line("fail", "b", "", "do")])
