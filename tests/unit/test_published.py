"""endpoint.json, written by several programs at once, torn, and cleared by those that wrote it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from baa.api.endpoint import Endpoint, Program
from baa.http.published import Name, forget, publish

NAMES: tuple[Name, ...] = ("codexd", "conductor", "status_api")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "endpoint.json"


def program(pid: int, port: int = 1) -> Program:
    return Program(f"http://127.0.0.1:{port}", pid, "dmn_x", "2026-01-01T00:00:00.000Z")


def told(file: Path) -> Endpoint:
    return msgspec.json.decode(file.read_bytes(), type=Endpoint)


def test_each_program_stands_beside_the_others(file: Path) -> None:
    for pid, name in enumerate(NAMES):
        publish(file, name, program(pid))

    assert told(file) == Endpoint(program(0), program(1), program(2))
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_program_that_comes_back_takes_its_place(file: Path) -> None:
    publish(file, "codexd", program(1))
    publish(file, "conductor", program(2))
    publish(file, "codexd", program(3, port=3))

    assert told(file) == Endpoint(codexd=program(3, port=3), conductor=program(2))


def test_a_program_takes_only_itself_out(file: Path) -> None:
    publish(file, "codexd", program(1))
    publish(file, "conductor", program(2))

    forget(file, "codexd", 7)  # the one before: another took its place
    forget(file, "status_api", 1)
    assert told(file) == Endpoint(codexd=program(1), conductor=program(2))
    forget(file, "codexd", 1)
    assert told(file) == Endpoint(conductor=program(2))


def test_the_file_goes_with_the_last(file: Path) -> None:
    publish(file, "codexd", program(1))
    publish(file, "conductor", program(2))
    forget(file, "conductor", 2)
    forget(file, "codexd", 1)

    assert not file.exists()
    forget(file, "codexd", 1)
    assert not file.exists()


@pytest.mark.parametrize("torn", [b"", b'{"codexd":{"addr', b"[]", b'{"codexd":1}', b"\xff"])
def test_a_torn_file_is_written_anew(file: Path, torn: bytes) -> None:
    file.write_bytes(torn)
    forget(file, "codexd", 1)
    assert file.read_bytes() == torn  # what nobody can read is nobody's to remove
    publish(file, "conductor", program(2))

    assert told(file) == Endpoint(conductor=program(2))


def test_without_a_folder_publishing_fails_and_forgetting_does_not(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "gone" / "endpoint.json", "codexd", program(1))

    forget(tmp_path / "gone" / "endpoint.json", "codexd", 1)


COMES_AND_GOES = """
import os, sys
from pathlib import Path
from baa.api.endpoint import Program
from baa.http.published import forget, publish

file, name = Path(sys.argv[1]), sys.argv[2]
for round in range(150):
    publish(file, name, Program("http://127.0.0.1:1", os.getpid(), "dmn_x", str(round)))
    if round < 149:
        forget(file, name, os.getpid())
"""


def test_programs_that_write_at_once_lose_nothing_of_each_other(file: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", COMES_AND_GOES, str(file), name], stderr=subprocess.PIPE)
        for name in NAMES
    ]
    try:
        ends = [process.communicate(timeout=60)[1] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()

    assert ends == [b"", b"", b""]
    found = told(file)
    assert [getattr(found, name).pid for name in NAMES] == [process.pid for process in started]
    assert [path.name for path in file.parent.iterdir() if path.name not in (file.name, "endpoint.lock")] == []
