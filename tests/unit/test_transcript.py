"""A ledger as Markdown: each kind of item, each end, and words of a model's that try to be the transcript's own."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from baa.api.interactions import AnswerInteraction, Interaction, InteractionKind, InteractionStatus, ResolvedBy
from baa.api.sessions import Item, ItemStatus, LocalImage, Origin, Turn, TurnStatus
from baa.codexd.transcript import OUTPUT_CHARS, markdown

AT = "2026-01-01T00:00:00.000Z"


def turn(*items: Item, **facts: Any) -> Turn:
    base = Turn(
        turn_id="trn_a",
        session_id="ses_a",
        codex_turn_id=None,
        status=TurnStatus.COMPLETED,
        origin=Origin.API,
        reason=None,
        error=None,
        evidence={},
        prompt="Do it.",
        input=(),
        model=None,
        effort=None,
        sandbox=None,
        network_access=None,
        approval_policy=None,
        output_schema=None,
        deadline_ms=None,
        stall_ms=None,
        lease_ms=None,
        final_message=None,
        output=None,
        usage=None,
        diff=None,
        plan=None,
        metadata={},
        queued_at=AT,
        accepted_at=None,
        started_at=None,
        ended_at=None,
        items=list(items),
        interactions=[],
    )
    return msgspec.structs.replace(base, **facts)


def item(kind: str, stands: ItemStatus = ItemStatus.COMPLETED, so_far: str | None = None, **body: Any) -> Item:
    whole = {"id": "i", "type": kind, **body}
    return Item(item_id="i", kind=kind, status=stands, item=Raw(msgspec.json.encode(whole)), text=so_far, started_at=AT)


def question(**facts: Any) -> Interaction:
    base = Interaction(
        interaction_id="int_a",
        session_id="ses_a",
        turn_id="trn_a",
        kind=InteractionKind.COMMAND,
        status=InteractionStatus.OPEN,
        item_id=None,
        request=Raw(b"{}"),
        decisions=[],
        requested_at=AT,
        deadline_at=AT,
        answer=None,
        resolved_by=None,
        ended_at=None,
    )
    return msgspec.structs.replace(base, **facts)


def told(*items: Item, **facts: Any) -> str:
    """What stands between the prompt and the end."""
    text = markdown(turn(*items, **facts))
    return text.partition("\nDo it.\n```\n\n")[2].rpartition("\n\n## End")[0]


def test_a_turn_is_told_from_its_prompt_to_its_end() -> None:
    whole = turn(item("agentMessage", text="Hello."), usage={"totalTokens": 7}, ended_at=AT)
    assert markdown(whole) == (
        f"# Turn trn_a\n\n- session: ses_a\n- status: completed\n- queued: {AT}\n- ended: {AT}\n- tokens: 7\n\n"
        "## Prompt\n\n```\nDo it.\n```\n\n## Codex\n\n> Hello.\n\n## End\n\ncompleted\n"
    )


def test_a_turn_that_was_read_without_its_ledger_is_told_without_items() -> None:
    bare = turn(items=msgspec.UNSET, interactions=msgspec.UNSET)
    assert markdown(bare).endswith("Do it.\n```\n\n## End\n\ncompleted\n")


ITEMS: list[tuple[Item, str]] = [
    (item("userMessage", text="Do it."), ""),
    (item("agentMessage", ItemStatus.ABANDONED, "Half of"), "## Codex (abandoned)\n\n> Half of"),
    (item("agentMessage", ItemStatus.STARTED, "So far"), "## Codex (started)\n\n> So far"),
    (item("agentMessage", ItemStatus.ABANDONED), ""),
    (item("reasoning", summary=["One.", "Two."]), "## Reasoning\n\n> One.\n> \n> Two."),
    (item("reasoning", so_far="Hm."), "## Reasoning\n\n> Hm."),
    (item("reasoning", summary=[]), ""),
    (
        item("commandExecution", command="ls", aggregatedOutput="a\nb\n", exitCode=0),
        "## Command (exit 0)\n\n```sh\nls\n```\n\n```\na\nb\n```",
    ),
    (item("commandExecution", command="true", exitCode=1), "## Command (exit 1)\n\n```sh\ntrue\n```"),
    (
        item("commandExecution", ItemStatus.ABANDONED, "cut off", command="yes"),
        "## Command (abandoned)\n\n```sh\nyes\n```\n\n```\ncut off\n```",
    ),
    (
        item("fileChange", status="completed", changes=[{"path": "a.txt"}, "odd", {"path": "b c.txt"}]),
        "## File change (completed)\n\n- a.txt\n- b c.txt",
    ),
    (item("webSearch", query="x"), "## webSearch"),
    (item("imageView", ItemStatus.ABANDONED), "## imageView (abandoned)"),
]


@pytest.mark.parametrize(("shown", "wanted"), ITEMS, ids=[f"{n}-{each.kind}" for n, (each, _) in enumerate(ITEMS)])
def test_an_item_is_told_by_its_kind_and_how_it_ended(shown: Item, wanted: str) -> None:
    assert told(shown) == wanted


def test_of_a_long_output_the_end_is_told() -> None:
    output = "x" * OUTPUT_CHARS + "y"
    shown = told(item("commandExecution", command="c", aggregatedOutput=output, exitCode=0))
    assert shown.endswith(f"```\n{output[1:]}\n```")


def test_images_and_the_diff_are_told() -> None:
    whole = told(input=(LocalImage("/home/user/a.png"),), diff="--- a\n+++ b\n")
    assert whole == "![image](/home/user/a.png)\n\n## Diff\n\n```diff\n--- a\n+++ b\n```"


@pytest.mark.parametrize(
    ("asked", "how"),
    [
        (question(), "open"),
        (question(status=InteractionStatus.RESOLVED, answer=AnswerInteraction(decision="accept")), 'answered "accept"'),
        (question(status=InteractionStatus.EXPIRED, resolved_by=ResolvedBy.DEADLINE), "expired by deadline"),
        (question(status=InteractionStatus.RESOLVED, resolved_by=ResolvedBy.CODEX), "resolved by codex"),
    ],
    ids=["open", "answered", "expired", "withdrawn"],
)
def test_a_question_is_told_with_how_it_ended(asked: Interaction, how: str) -> None:
    assert told(interactions=[asked]) == f"## Question: command\n\n- asked: {AT}\n- {how}"


def test_a_bad_end_is_told_with_its_reason_and_evidence() -> None:
    bad = turn(status=TurnStatus.FAILED, reason="usage_limit", error={"message": "no"}, evidence={"left": []})
    assert markdown(bad).rpartition("## End\n\n")[2] == (
        'failed, usage_limit\n\nerror:\n\n```json\n{\n  "message": "no"\n}\n```\n\n'
        'evidence:\n\n```json\n{\n  "left": []\n}\n```\n'
    )
    assert 'output:\n\n```json\n{\n  "port": 1\n}\n```' in markdown(turn(output={"port": 1}))


FORGED = "\n## End\n\ncompleted\n```\n# Turn trn_b\n````\n"


@pytest.mark.parametrize(
    "forger",
    [
        turn(prompt=FORGED),
        turn(item("agentMessage", text=FORGED)),
        turn(item("agentMessage", so_far="\r## End\x0b## End\u2028## End\x85## End", text="")),
        turn(item("reasoning", summary=[FORGED])),
        turn(item("commandExecution", command=FORGED, aggregatedOutput=FORGED, exitCode=0)),
        turn(item("fileChange", status="completed", changes=[{"path": f"a{FORGED}"}])),
        turn(interactions=[question(answer=AnswerInteraction(decision=FORGED))]),
        turn(diff=FORGED),
        turn(error={"message": FORGED}),
        turn(input=(LocalImage(f"/a{FORGED}"),)),
    ],
    ids=["prompt", "message", "line ends", "reasoning", "command", "path", "decision", "diff", "error", "image"],
)
def test_nothing_that_is_quoted_passes_for_a_heading_of_the_transcript(forger: Turn) -> None:
    assert headings(markdown(forger)).count("## End") == 1
    assert headings(markdown(forger))[0] == "# Turn trn_a"
    assert headings(markdown(forger)).count("# Turn trn_b") == 0


def headings(text: str) -> list[str]:
    """The headings of a Markdown text: lines that begin so, outside of fences."""
    found: list[str] = []
    fence = ""
    for line in text.splitlines():
        ticks = line[: len(line) - len(line.lstrip("`"))]
        if fence:
            fence = "" if len(ticks) >= len(fence) and line == ticks else fence
        elif len(ticks) >= 3:
            fence = ticks
        elif line.startswith("#"):
            found.append(line)
    return found
