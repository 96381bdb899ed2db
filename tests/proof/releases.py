"""Releases of Codex in a cache of this checkout, `.codex-releases/VERSION`: each a folder that goes before all others.

Such a folder holds the package `codex_cli_bin`, as the extra `codex` installs it: with it in PYTHONPATH, codexd and the
tests find that release and no other. Packages come from wherever pip and npm of this machine are set to take them.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / ".codex-releases"
PACKAGE: Final = "codex_cli_bin"


class NoRelease(Exception):
    """This release cannot be had; the text says why."""


def folder_of(version: str) -> Path:
    """The folder of a release, installed if it is not there yet. `latest` is npm's. Raises NoRelease."""
    version = latest() if version == "latest" else version
    folder = CACHE / version
    if not (folder / PACKAGE / "bin" / "codex").is_file():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as made:  # whole, or not at all
            new = Path(made) / "new"
            whys = [why for way in (_from_pypi, _from_npm) if (why := way(version, new))]
            if len(whys) == 2:
                raise NoRelease(f"Codex {version} is neither on PyPI ({whys[0]}) nor on npm ({whys[1]}).")
            shutil.rmtree(folder, ignore_errors=True)
            new.rename(folder)
    return folder


def codex_of(release: str) -> Path:
    """The program of a release, or the program itself if that is what is named. Raises NoRelease."""
    if "/" in release:
        if not Path(release).is_file():
            raise NoRelease(f"{release} is no program.")
        return Path(release)
    return folder_of(release) / PACKAGE / "bin" / "codex"


def latest() -> str:
    """The newest release on npm. Raises NoRelease."""
    asked = _run("npm", "view", "@openai/codex", "version")
    if asked.returncode != 0:
        raise NoRelease(f"npm does not say which Codex is the latest: {_last(asked)}")
    return asked.stdout.strip()


def _from_pypi(version: str, new: Path) -> str | None:
    """None, or why it could not be installed."""
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps")
    done = _run(*pip, "--no-compile", "--target", str(new), f"openai-codex-cli-bin=={version}")
    return None if done.returncode == 0 else _last(done)


def _from_npm(version: str, new: Path) -> str | None:
    """None, or why it could not be installed. What the package of one platform holds is what the wheel holds."""
    system = {"linux": "linux", "darwin": "darwin"}.get(sys.platform, sys.platform)
    machine = "arm64" if platform.machine() in ("arm64", "aarch64") else "x64"
    with tempfile.TemporaryDirectory(dir=CACHE) as packed:
        done = _run("npm", "pack", "--silent", f"@openai/codex@{version}-{system}-{machine}", folder=Path(packed))
        files = list(Path(packed).glob("*.tgz"))
        if done.returncode != 0 or not files:
            return _last(done)
        with tarfile.open(files[0]) as archive:
            archive.extractall(packed, filter="data")
        (vendored,) = (Path(packed) / "package" / "vendor").iterdir()
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        vendored.rename(new / PACKAGE)
    (new / PACKAGE / "__init__.py").write_text(_finder())
    return None


def _finder() -> str:
    """The module by which the program in its own package is found, as the installed wheel has it."""
    import codex_cli_bin

    return Path(codex_cli_bin.__file__).read_text()


def _run(*command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def _last(done: subprocess.CompletedProcess[str]) -> str:
    said = done.stderr.strip() or done.stdout.strip()
    return said.splitlines()[-1] if said else f"exit {done.returncode}"
