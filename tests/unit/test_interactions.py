"""What a session makes of Codex's questions: each ends once, and never without an end in sight."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from msgspec import Raw

from baa.api import events as e
from baa.api.events import EventType
from baa.api.interactions import AnswerInteraction, InteractionKind, ResolvedBy
from baa.api.sessions import ApprovalPolicy, Sandbox, SessionSettings, TurnRequest, TurnStatus
from baa.api.status import ChildState
from baa.codexd.appserver.lines import line_of
from baa.codexd.machines import inputs as i
from baa.codexd.machines.child import Child
from baa.codexd.machines.inputs import Effect, Input
from baa.codexd.machines.interaction import Question, decided, decisions_of, misfit, told
from baa.codexd.machines.session import Session
from baa.codexd.machines.step import step
from baa.codexd.machines.turn import StopWish, Turn, TurnChange

CHILD = Child(ChildState.READY, generation=1)
RUNNING = Session(
    "ses_a",
    SessionSettings(cwd="/work", sandbox=Sandbox.READ_ONLY, approval_policy=ApprovalPolicy.UNTRUSTED),
    thread_id="thread",
    resumable=True,
    loaded_in=1,
    turns=(
        Turn("trn_a", TurnRequest(prompt="work"), status=TurnStatus.IN_PROGRESS, codex_turn_id="codex", generation=1),
    ),
)
DECISIONS = ("accept", {"acceptWithExecpolicyAmendment": {"execpolicy_amendment": ["ls"]}}, "cancel", "decline")
ASKED = i.Asked(
    interaction_id="int_a",
    generation=1,
    request_id=7,
    kind=InteractionKind.COMMAND,
    codex_turn_id="codex",
    item_id="item",
    request=Raw(b"{}"),
    decisions=DECISIONS,
    deadline_ms=900_000,
    deadline_at="then",
)
OUT = msgspec.structs.replace(ASKED, codex_turn_id=None)
RESTING = replace(RUNNING, turns=())
NO_MORE = i.AskedNoMore(1, 7)


def play(*given: Input, session: Session = RUNNING) -> tuple[Session, list[tuple[EventType, object]], list[Effect]]:
    """Where the session stands after these inputs, and how its questions began and ended on the way."""
    events: list[tuple[EventType, object]] = []
    effects: list[Effect] = []
    for each in given:
        done = step(session, each, CHILD)
        session = done.session
        effects += done.effects
        for event in done.events:
            payload = event.payload
            events.append((event.type, payload.resolved_by if isinstance(payload, e.InteractionEnded) else None))
    return session, events, effects


def test_a_question_is_told_with_its_deadline() -> None:
    session, events, effects = play(ASKED)
    assert [question.turn_id for question in session.questions] == ["trn_a"]
    assert events == [(EventType.INTERACTION_REQUESTED, None)]
    assert effects == [i.SetTimer("int_a", i.TimerKind.ANSWER, 900_000)]


def test_a_question_that_is_asked_again_is_the_same() -> None:
    session, events, effects = play(ASKED, ASKED)
    assert (len(session.questions), len(events)) == (1, 1)
    assert effects[1:] == [i.Count("asked twice")]


def test_after_its_deadline_a_question_is_declined() -> None:
    session, events, effects = play(ASKED, i.TimeUp("int_a", i.TimerKind.ANSWER), NO_MORE)
    assert session.questions == ()
    assert events[1:] == [(EventType.INTERACTION_EXPIRED, ResolvedBy.DEADLINE)]
    assert effects[1:] == [i.Answer(7, InteractionKind.COMMAND, Raw(b"{}"), None, None)]


def test_the_first_answer_counts_and_codexs_word_on_it_ends_nothing_twice() -> None:
    accept, decline = AnswerInteraction(decision="accept"), AnswerInteraction(decision="decline")
    given = [i.InteractionAnswered("int_a", answer) for answer in (accept, decline)]
    _, events, effects = play(ASKED, *given, NO_MORE, i.TimeUp("int_a", i.TimerKind.ANSWER))
    assert events[1:] == [(EventType.INTERACTION_RESOLVED, ResolvedBy.CLIENT)]
    answers = [effect for effect in effects if isinstance(effect, i.Answer)]
    assert answers == [i.Answer(7, InteractionKind.COMMAND, Raw(b"{}"), "accept", accept)]


def test_a_question_that_codex_withdraws_is_resolved_by_it() -> None:
    _, events, _ = play(ASKED, NO_MORE)
    assert events[1:] == [(EventType.INTERACTION_RESOLVED, ResolvedBy.CODEX)]


def test_a_question_of_an_interrupted_turn_ends_with_the_turn_though_codex_says_so_later() -> None:
    stop = i.StopTurn("trn_a", StopWish(TurnChange.INTERRUPTED, "requested"))
    session, events, _ = play(ASKED, stop, i.TurnFinished("codex", i.TurnEnd.INTERRUPTED, None, None), NO_MORE)
    assert session.running is not None  # what it left running is looked for
    assert events[1:] == [(EventType.INTERACTION_RESOLVED, ResolvedBy.TURN_ENDED)]


def test_a_question_out_of_any_turn_belongs_to_the_session() -> None:
    session, _, _ = play(OUT)
    assert [question.turn_id for question in session.questions] == [None]


def test_a_session_rests_once_its_last_question_is_over() -> None:
    answered = i.InteractionAnswered("int_a", AnswerInteraction(decision="accept"))
    for over in (answered, i.TimeUp("int_a", i.TimerKind.ANSWER), NO_MORE):
        session, _, effects = play(OUT, i.TimeUp("ses_a", i.TimerKind.IDLE), over, session=RESTING)
        assert session == RESTING  # it kept its thread as long as Codex waited in it
        assert effects[-1] == i.Idle("ses_a")


def test_a_closed_session_declines_what_is_asked_in_it() -> None:
    session, events, effects = play(OUT, i.CloseRequested(), NO_MORE, session=RESTING)
    assert (session.questions, session.closed) == ((), True)
    assert events[1:] == [
        (EventType.INTERACTION_RESOLVED, ResolvedBy.SESSION_CLOSED),
        (EventType.SESSION_CLOSED, None),
    ]
    assert i.Answer(7, InteractionKind.COMMAND, Raw(b"{}"), None, None) in effects


def question(kind: InteractionKind, *decisions: object) -> Question:
    return Question("int_a", 1, 7, kind, "trn_a", decisions or decisions_of(kind, None), Raw(b"{}"))


def test_a_decision_may_be_named_by_its_key() -> None:
    asked = question(InteractionKind.COMMAND, *DECISIONS)
    by_name = AnswerInteraction(decision="acceptWithExecpolicyAmendment")
    assert decided(asked, by_name) == DECISIONS[1]
    assert decided(asked, AnswerInteraction(decision={"acceptWithExecpolicyAmendment": {}})) is None


@pytest.mark.parametrize(
    ("kind", "answer", "flaw"),
    [
        (InteractionKind.COMMAND, AnswerInteraction(decision="maybe"), "must be one of: accept, "),
        (InteractionKind.COMMAND, AnswerInteraction(decision="accept", answers={"q": "a"}), "`answers` belongs to"),
        (InteractionKind.COMMAND, AnswerInteraction(decision="accept", content={}), "`content` belongs to"),
        (InteractionKind.ELICITATION, AnswerInteraction(decision="decline", content={}), "`accept` only"),
        (InteractionKind.ELICITATION, AnswerInteraction(decision="accept", content="Bob"), "must be an object"),
        (InteractionKind.PERMISSIONS, AnswerInteraction(decision="accept", content=[]), "must be an object"),
        (InteractionKind.TOOL_CALL, AnswerInteraction(decision="accept", content=["a"]), "a text, or a list of items"),
        (InteractionKind.USER_INPUT, AnswerInteraction(decision="accept"), "`answers` is needed"),
        (InteractionKind.PERMISSIONS, AnswerInteraction(decision="cancel"), "must be one of: accept, decline."),
    ],
)
def test_an_answer_that_does_not_fit_is_told_why(kind: InteractionKind, answer: AnswerInteraction, flaw: str) -> None:
    told = misfit(question(kind), answer)
    assert told is not None
    assert flaw in told


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (InteractionKind.ELICITATION, {"name": "Bob"}),
        (InteractionKind.PERMISSIONS, {}),
        (InteractionKind.TOOL_CALL, "found"),
        (InteractionKind.TOOL_CALL, [{"type": "inputText", "text": "found"}]),
        (InteractionKind.TOOL_CALL, None),
    ],
)
def test_content_that_codex_can_read_fits(kind: InteractionKind, content: object) -> None:
    assert misfit(question(kind), AnswerInteraction(decision="accept", content=content)) is None


@pytest.mark.parametrize(
    ("kind", "request_", "said", "shown"),
    [
        (InteractionKind.USER_INPUT, {"questions": [{"id": "a", "isSecret": True}, {"id": "b"}]}, "answers", "b"),
        (InteractionKind.USER_INPUT, {"questions": [{"id": "a"}, {"id": "b", "isSecret": False}, 7]}, "answers", "ab"),
        (InteractionKind.USER_INPUT, {"questions": None}, "answers", "ab"),
        (
            InteractionKind.ELICITATION,
            {"requestedSchema": {"properties": {"a": {"format": "password"}, "b": {"type": "string"}}}},
            "content",
            "b",
        ),
        (InteractionKind.ELICITATION, {"requestedSchema": {"properties": {"b": {"writeOnly": True}}}}, "content", "a"),
        (InteractionKind.ELICITATION, {"requestedSchema": [], "url": "x"}, "content", "ab"),
        (InteractionKind.TOOL_CALL, {"questions": [{"id": "a", "isSecret": True}]}, "content", "ab"),
        (InteractionKind.USER_INPUT, [], "answers", "ab"),
    ],
)
def test_what_is_asked_for_as_a_secret_is_not_told(
    kind: InteractionKind, request_: object, said: str, shown: str
) -> None:
    given = {"a": "one", "b": "two"}
    answer = AnswerInteraction(decision="accept", **{said: given})  # type: ignore[arg-type]
    seen = getattr(told(kind, Raw(msgspec.json.encode(request_)), answer), said)
    assert seen == {name: words if name in shown else "[redacted]" for name, words in given.items()}
    assert told(kind, Raw(msgspec.json.encode(request_)), AnswerInteraction(decision="decline")).answers is None


def test_an_answered_secret_reaches_codex_as_it_is_and_the_log_without_it() -> None:
    request = Raw(b'{"questions":[{"id":"key","isSecret":true}]}')
    asked = msgspec.structs.replace(ASKED, kind=InteractionKind.USER_INPUT, request=request, decisions=("accept",))
    answer = AnswerInteraction(decision="accept", answers={"key": "x"})
    session, _, _ = play(asked)
    done = step(session, i.InteractionAnswered("int_a", answer), CHILD)
    (ended,) = [event.payload for event in done.events if isinstance(event.payload, e.InteractionEnded)]
    assert ended.answer == AnswerInteraction(decision="accept", answers={"key": "[redacted]"})
    (line,) = [effect for effect in done.effects if isinstance(effect, i.Answer)]
    assert (line.answer, line_of(line, 1).secret) == (answer, True)
    assert not line_of(msgspec.structs.replace(line, answer=None), 1).secret
