"""The rendered units as systemd itself reads them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from baa import config
from baa.runtime.services import SERVICES, Service, describe, systemd_unit

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze: apt-get install systemd"
)


def verified(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    unit = folder / "baa-codexd.service"
    unit.write_text(text)
    return subprocess.run(
        ["systemd-analyze", "--user", "verify", "--recursive-errors=yes", "--man=no", str(unit)],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def service(python: str) -> Service:
    return Service(
        name="codexd",
        about="Codex, hosted by baa-conductor",
        argv=(python, "-P", "-m", "baa.codexd"),
        environment={"PATH": "/usr/bin:/bin", "BAA_HOME": "/home/you/a b%c$d'e\"f\\g"},
        logs=Path("/home/you/logs"),
        stop_seconds=70,
    )


@pytest.mark.parametrize("name", SERVICES)
def test_every_unit_passes_with_no_word_said(tmp_path: Path, name: str) -> None:
    loaded = config.load(Path("/dev/null"), {"BAA_HOME": str(tmp_path)})
    (rendered,) = describe(loaded, (name,), python=Path(sys.executable), environ=os.environ)
    done = verified(tmp_path, systemd_unit(rendered))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_odd_settings_pass_too(tmp_path: Path) -> None:
    done = verified(tmp_path, systemd_unit(service("/bin/sh")))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_program_with_an_odd_path_is_found_by_systemd(tmp_path: Path) -> None:
    odd = tmp_path / "100% mine $HOME;x"
    odd.symlink_to("/bin/sh")
    done = verified(tmp_path, systemd_unit(service(str(odd))))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("good", "bad"),
    [("KillMode=process", "KillMode=gently"), ("OOMPolicy=continue", "OOMPolice=continue"), ("/bin/sh", "/no/such")],
)
def test_what_is_wrong_would_be_found(tmp_path: Path, good: str, bad: str) -> None:
    text = systemd_unit(service("/bin/sh"))
    assert good in text
    done = verified(tmp_path, text.replace(good, bad))
    assert done.returncode != 0 or done.stderr != ""
