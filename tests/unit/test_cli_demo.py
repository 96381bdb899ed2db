"""The parts of the demo that start nothing: what it shows, what its reader finds, when its verdict is good."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from baa.api.events import Event, EventType
from baa.cli.demo_reader import OutsideReader
from baa.cli.demo_result import Result
from baa.cli.demo_sandbox import cause, cure
from baa.cli.demo_script import ANSWER, FILES, MENDED, NUMBERS, SCENARIOS
from baa.cli.demo_show import Show, command

FOLDER = Path("/demo/work")
TURN = "trn_x"


def event(seq: int, type_: EventType, at: str = "2026-01-01T00:00:00.000Z", **payload: Any) -> Event:
    return Event(seq, at, type_, "ses_x", TURN, payload)


def delta(seq: int, text: str, stream: str = "text") -> Event:
    return event(seq, EventType.ITEM_DELTA, itemId="i", stream=stream, delta=text)


def item(seq: int, type_: EventType, kind: str, **fields: Any) -> Event:
    return event(seq, type_, itemId="i", kind=kind, item={"type": kind, **fields})


def shown(*events: Event, width: int = 40) -> str:
    out = io.StringIO()
    show = Show(Console(file=out, width=width, highlight=False, color_system=None), FOLDER)
    for told in events:
        show.event(told)
    show.line("END", indent=0)
    return out.getvalue().removesuffix("END\n")


def test_an_answer_is_shown_word_by_word_and_wrapped_between_words() -> None:
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    said = shown(*(delta(n, f"{word} ") for n, word in enumerate(words)), width=24)
    assert said == "     one two three four\n     five six seven\n     eight nine ten\n"


def test_lines_of_an_answer_stay_lines() -> None:
    assert shown(delta(1, "one\ntwo"), delta(2, " words\n\nthree")) == "     one\n     two words\n     three\n"


def test_other_deltas_than_the_answer_are_not_shown() -> None:
    assert shown(delta(1, "secret", stream="reasoning")) == ""


def test_a_command_is_shown_with_its_output_and_exit_code() -> None:
    run = {"command": "/bin/bash -lc 'sh test.sh'", "aggregatedOutput": None, "exitCode": None}
    done = run | {"aggregatedOutput": "FAILED\n\x1b[31m", "exitCode": 1}
    said = shown(
        item(1, EventType.ITEM_STARTED, "commandExecution", **run),
        item(2, EventType.ITEM_COMPLETED, "commandExecution", **done),
    )
    assert said == "     $ sh test.sh\n       FAILED\n       \\x1b[31m\n       exit 1\n"


def test_a_long_output_is_cut() -> None:
    output = "".join(f"{number}\n" for number in range(50))
    said = shown(
        item(1, EventType.ITEM_COMPLETED, "commandExecution", command="x", aggregatedOutput=output, exitCode=0)
    )
    assert said.endswith("       19\n       … 30 more lines\n       exit 0\n")


def test_an_edit_is_shown_as_a_diff_of_a_file_in_the_folder() -> None:
    changes = [{"path": f"{FOLDER}/greet.sh", "kind": {"type": "update"}, "diff": "@@ -1 +1 @@\n-a\n+b\n"}]
    said = shown(item(1, EventType.ITEM_COMPLETED, "fileChange", changes=changes))
    assert said == "     update greet.sh\n       @@ -1 +1 @@\n       -a\n       +b\n"


def test_the_end_of_a_turn_is_shown_with_its_time_or_its_reason() -> None:
    queued = event(1, EventType.TURN_QUEUED, request={"prompt": "Do\x1b it."})
    later = "2026-01-01T00:00:02.250Z"
    assert shown(queued, event(2, EventType.TURN_COMPLETED, later)).splitlines()[1:] == [
        "   > Do\\x1b it.",
        "   completed in 2.2 s",
    ]
    failed = shown(queued, event(2, EventType.TURN_FAILED, later, reason="codex_error"))
    assert "failed after 2.2 s: codex_error" in failed


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ({"code": 3, "stderrTail": "first\nno such \x07luck\n"}, "Codex ended (code 3): no such \\x07luck"),
        ({"signal": 9}, "Codex ended (signal 9)"),
        ({}, "Codex ended (code None)"),
    ],
)
def test_the_end_of_codex_is_shown_with_its_last_word(payload: dict[str, Any], told: str) -> None:
    assert shown(event(1, EventType.CHILD_EXITED, **payload)) == f"   {told}\n"


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("/bin/bash -lc 'sh test.sh && git diff'", "sh test.sh && git diff"),
        ("/bin/zsh -c ls", "ls"),
        ("git status", "git status"),
        ("/bin/bash -lc 'unclosed", "/bin/bash -lc 'unclosed"),
    ],
)
def test_the_shell_around_a_command_is_not_shown(line: str, asked: str) -> None:
    assert command(line) == asked


async def reader_of(*events: Event) -> OutsideReader:
    reader = OutsideReader(lambda _: None)
    for told in events:
        await reader._take(told)
    return reader


@pytest.mark.parametrize(
    ("seqs", "gaps", "repeats"),
    [([1, 2, 3], 0, 0), ([2, 3], 1, 0), ([1, 2, 6], 3, 0), ([1, 2, 2, 3], 0, 1), ([1, 2, 1, 2], 0, 1), ([], 0, 0)],
)
async def test_the_reader_counts_what_is_missing_and_what_comes_again(seqs: list[int], gaps: int, repeats: int) -> None:
    reader = await reader_of(*(delta(seq, "x") for seq in seqs))
    assert (reader.gaps, reader.repeats) == (gaps, repeats)


async def test_the_reader_tells_which_deltas_were_written_while_codexd_was_dead() -> None:
    reader = await reader_of(
        event(1, EventType.DAEMON_STARTED),
        delta(2, "a"),
        event(3, EventType.DAEMON_STARTED),
        delta(4, "b"),
        delta(5, "c"),
        event(6, EventType.CHILD_ADOPTED),
        delta(7, "d"),
    )
    assert reader.deltas(TURN) == ["a", "b", "c", "d"]
    assert reader.written_meanwhile() == 2


@pytest.mark.parametrize(
    ("finished", "statements", "holds"),
    [(True, [1, 1], True), (True, [1, 0], False), (False, [1, 1], False), (True, [], False)],
)
def test_the_verdict_is_good_only_if_the_demo_ended_and_all_was_true(
    finished: bool, statements: list[int], holds: bool
) -> None:
    result = Result(finished=finished)
    for true in statements:
        result.check(true, "it is so")
    assert result.holds is holds


def test_a_failed_demo_says_which_statement_did_not_hold() -> None:
    out = io.StringIO()
    result = Result()
    result.check(True, "turn 1: completed")
    result.failed(TimeoutError())
    result.tell(Show(Console(file=out, width=80, color_system=None), FOLDER), took=1.0)
    said = out.getvalue()
    assert "FAILED  the demo comes to its end: TimeoutError: it took too long" in said
    assert "1 of 2 statements did not hold." in said
    assert "everything else was real" not in said


NAMESPACES = "kernel/unprivileged_userns_clone"
APPARMOR = "kernel/apparmor_restrict_unprivileged_userns"


@pytest.mark.parametrize(
    ("platform", "settings", "container", "told"),
    [
        ("linux", {NAMESPACES: "0"}, False, "sudo sysctl kernel.unprivileged_userns_clone=1"),
        ("linux", {NAMESPACES: "1", APPARMOR: "1"}, False, "apparmor_restrict_unprivileged_userns=0"),
        ("linux", {"user/max_user_namespaces": "0"}, False, "user.max_user_namespaces=15000"),
        ("linux", {}, True, "--security-opt seccomp=unconfined"),
        ("linux", {NAMESPACES: None}, False, "unshare -Ur true"),
        ("darwin", {}, False, "sandbox-exec"),
    ],
)
def test_a_missing_sandbox_has_a_cure(
    platform: str, settings: dict[str, str | None], container: bool, told: str
) -> None:
    assert told in cure(platform, settings, container=container)


def test_the_cause_of_a_missing_sandbox_is_what_codex_says_last() -> None:
    said = "WARNING: proceeding, even though\nbwrap: No permissions to create new namespace\n"
    assert cause(said, 1) == "bwrap: No permissions to create new namespace"
    assert cause("WARNING: x\n", 134) == "`codex sandbox` ended with code 134 and no word"


def test_the_script_answers_its_own_prompts() -> None:
    assert len({scenario.phrase for scenario in SCENARIOS}) == len(SCENARIOS) == 3
    assert FILES["greet.sh"] != MENDED
    assert len(ANSWER.split()) > 20
    assert len(set(NUMBERS)) == 120
