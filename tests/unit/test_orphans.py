"""What outlives its child: real processes, known by their marker or by pid and start, never by name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from baa.codexd.leftovers import Recorded, start_of
from baa.codexd.orphans import Past, told
from baa.codexd.program import MARKER

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the tests look at /proc")

SLEEPER = "import signal; print('up', flush=True); signal.pause()"
STUBBORN = f"import signal; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; {SLEEPER}"


@contextmanager
def process(code: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-I", "-S", "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, start_new_session=True) as started:
        assert started.stdout is not None
        try:
            assert started.stdout.readline() == b"up\n"
            yield started
        finally:
            started.kill()


@pytest.fixture
def keeper_id(tmp_path: Path) -> str:
    return f"kpr_{tmp_path.name}_{os.getpid()}"


def test_what_has_the_marker_is_ended_and_all_else_is_left_alone(keeper_id: str) -> None:
    past = Past()
    past.add(keeper_id, "kpr_of_nobody", "")
    with (
        process(SLEEPER, **{MARKER: keeper_id}) as one,
        process(STUBBORN, **{"FIRST": "1", MARKER: keeper_id}) as stubborn,
        process(SLEEPER, **{MARKER: f"{keeper_id}x"}) as of_another,
        process(SLEEPER, **{f"X{MARKER}": keeper_id}) as alike,
        process(SLEEPER, **{MARKER: ""}) as plain,
    ):
        assert {left.pid for left in past.left()} == {one.pid, stubborn.pid}
        assert past.end() == []
        assert (one.wait(), stubborn.wait()) == (-9, -9)
        assert [each.poll() for each in (of_another, alike, plain)] == [None] * 3


def test_a_recorded_child_is_ended_without_a_marker_and_a_later_process_of_its_pid_is_not(keeper_id: str) -> None:
    with process(SLEEPER) as child, process(SLEEPER) as later:
        past = Past()
        past.add(keeper_id, child=Recorded(child.pid, start_of(child.pid)))
        past.add(keeper_id, child=Recorded(later.pid, str(int(start_of(later.pid)) - 1)))
        past.add(keeper_id, child=Recorded(0, ""))
        assert past.end() == []
        assert child.wait() == -9
        assert later.poll() is None


def test_nothing_of_a_child_that_lives_is_ended(keeper_id: str) -> None:
    past = Past()
    with process(SLEEPER, **{MARKER: keeper_id}) as living:
        assert past.end() == []
        assert living.poll() is None


def test_a_codexd_that_was_started_by_a_command_of_that_child_ends_neither_itself_nor_who_started_it(
    keeper_id: str,
) -> None:
    code = "import sys; from baa.codexd.orphans import Past; past = Past(); past.add(sys.argv[1]); print(past.end())"
    command = f'"{sys.executable}" -c "{code}" {keeper_id}; echo goes on'
    done = subprocess.run(
        ["sh", "-c", command], env=os.environ | {MARKER: keeper_id}, capture_output=True, check=True, text=True
    )
    assert done.stdout == "[]\ngoes on\n"


def test_what_can_not_be_ended_is_named() -> None:
    assert "kill -9 12 7" in told([Recorded(12, "1"), Recorded(7, "1")])
