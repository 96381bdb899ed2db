"""`baa session`: the sessions of this node's codexd."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from cyclopts import App, Parameter

from baa.api.answers import SessionPage
from baa.api.sessions import ApprovalPolicy, CreateSession, Sandbox, Session, SessionStatus
from baa.cli import lines
from baa.cli.options import File, Json
from baa.cli.pick import folder, pages
from baa.cli.remote import ask
from baa.client.codexd import Codexd

app = App(name="session", help_format="markdown")

SessionId: TypeAlias = Annotated[str, Parameter(help="The id of a session, ses_…")]

HEADS: Final = ("session", "status", "turn", "asks", "updated", "folder")


@app.command(name="list")
def list_sessions(
    *,
    all_: Annotated[bool, Parameter(name="--all", negative=(), help="Closed ones too.")] = False,
    needs_answer: Annotated[bool, Parameter(negative=(), help="Only those in which Codex asks something.")] = False,
    purpose: Annotated[str | None, Parameter(show_default=False, help="Only those of this purpose.")] = None,
    limit: Annotated[int, Parameter(help="How many at most.")] = 50,
    config: File = None,
    json: Json = False,
) -> int:
    """List the sessions, newest first.

    Example: `baa session list --needs-answer`
    """

    async def do(codexd: Codexd) -> list[Session]:
        async def page(token: str | None, size: int) -> tuple[list[Session], str | None]:
            found: SessionPage = await codexd.sessions(
                purpose=purpose, needs_answer=needs_answer, limit=size, page_token=token
            )
            kept = [each for each in found.sessions if all_ or each.status is not SessionStatus.CLOSED]
            return kept, found.next_page_token

        return await pages(page, limit)

    def show(sessions: list[Session]) -> None:
        rows = [
            (
                each.session_id,
                each.status.value,
                "running" if each.current_turn_id else each.last_turn_status or "",
                str(each.open_interactions or ""),
                each.updated_at[:19].replace("T", " "),
                each.cwd,
            )
            for each in sessions
        ]
        lines.as_rows([HEADS, *rows] if rows else [("No sessions. Start one: baa run PROMPT",)])

    return ask(do, show, config=config, json=json, told=lambda sessions: {"sessions": sessions})


@app.command
def show(session_id: SessionId, /, *, config: File = None, json: Json = False) -> int:
    """Show a session, and what Codex asks in it.

    Example: `baa session show ses_01hzy3v9q8f2k4m6n7p0r5t1wx`
    """
    return ask(
        lambda codexd: codexd.session(session_id), _show, config=config, json=json, told=lambda it: {"session": it}
    )


@app.command
def new(
    *,
    cwd: Annotated[str | None, Parameter(show_default=False, help="Its folder; else the one you are in.")] = None,
    purpose: Annotated[str | None, Parameter(show_default=False, help="A word to find it by.")] = None,
    sandbox: Annotated[Sandbox | None, Parameter(show_default=False, help="What commands may touch.")] = None,
    network: Annotated[
        bool, Parameter(negative="", help="Let commands reach the network, if the node allows it.")
    ] = False,
    approval_policy: Annotated[ApprovalPolicy | None, Parameter(show_default=False, help="When Codex asks.")] = None,
    model: Annotated[str | None, Parameter(show_default=False, help="The model.")] = None,
    config: File = None,
    json: Json = False,
) -> int:
    """Make a session: a folder, and what Codex may do in it. Its id is printed.

    Example: `baa session new --cwd ~/project --approval-policy on-request`
    """
    asked = CreateSession(
        cwd=folder(cwd),
        purpose=purpose,
        sandbox=sandbox,
        network_access=network or None,
        approval_policy=approval_policy,
        model=model,
    )
    return ask(
        lambda codexd: codexd.create_session(asked),
        lambda session: print(session.session_id),
        config=config,
        json=json,
        told=lambda it: {"session": it},
    )


@app.command
def close(session_id: SessionId, /, *, config: File = None, json: Json = False) -> int:
    """End a session; a turn that runs in it is interrupted first.

    Example: `baa session close ses_01hzy3v9q8f2k4m6n7p0r5t1wx`
    """
    return ask(
        lambda codexd: codexd.close_session(session_id),
        _show,
        config=config,
        json=json,
        told=lambda it: {"session": it},
    )


@app.command
def fork(session_id: SessionId, /, *, config: File = None, json: Json = False) -> int:
    """Make another session with this one's settings and its history so far. Its id is printed.

    Example: `baa session fork ses_01hzy3v9q8f2k4m6n7p0r5t1wx`
    """
    return ask(
        lambda codexd: codexd.fork_session(session_id),
        lambda session: print(session.session_id),
        config=config,
        json=json,
        told=lambda it: {"session": it},
    )


def _show(session: Session) -> None:
    facts = [
        ("session", session.session_id),
        ("status", session.status.value),
        ("folder", session.cwd),
        ("sandbox", session.sandbox.value),
        ("network", "yes" if session.network_access else "no"),
        ("approvals", session.approval_policy.value),
        ("model", session.model or "Codex's choice"),
        ("purpose", session.purpose or ""),
        ("thread", session.thread_id or "none yet"),
        ("turn", session.current_turn_id or ""),
        ("last turn", f"{session.last_turn_id or ''} {session.last_turn_status or ''}".strip()),
        ("waiting", str(session.queued_turns or "")),
        ("created", session.created_at),
        ("updated", session.updated_at),
    ]
    asked = [("asks", f"{each.kind.value}: baa answer {each.interaction_id}") for each in session.interactions or []]
    lines.as_rows([fact for fact in facts if fact[1]] + asked)
