"""The command `baa`. What a command needs is imported when it runs, so that `baa --help` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from cyclopts import App, Parameter

from baa import __version__
from baa.cli.ending import ended
from baa.cli.options import File, Json

SandboxName: TypeAlias = Literal["read-only", "workspace-write", "danger-full-access"]
ApprovalName: TypeAlias = Literal["untrusted", "on-request", "never"]

app = App(
    name="baa",
    help="""Codex, always on, on your own machines.

See it work, without an account: `baa demo`. Run it: `baa up`.""",
    version=f"baa {__version__}",
    help_format="markdown",
)
app.register_install_completion_command(help="Complete commands in this shell (bash, zsh, fish), from now on.")


@app.command(name="up")
def run_services(
    *,
    service: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    all_services: Annotated[bool, Parameter(negative=())] = False,
    config: Annotated[Path | None, Parameter(show_default=False)] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Run the programs of this node in the foreground, with one stream of their logs, until Ctrl-C.

    A program that dies is started again. At the end nothing is left running.

    Example: `baa up --service codexd`

    Parameters
    ----------
    service:
        A program to run, once for each; without it conductor, codexd and status-api.
    all_services:
        All four: with worker-runner.
    config:
        The configuration file; without it BAA_CONFIG, else baa.toml in your configuration folder.
    json:
        The log lines as they were written, each with its program.
    """
    from baa.cli.up import run

    return run(service, all_services=all_services, config_file=config, as_json=json)


@app.command(name="backup")
def back_up(
    to: Annotated[Path | None, Parameter(show_default=False)] = None,
    *,
    config: Annotated[Path | None, Parameter(show_default=False)] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Copy codexd's log into a new folder, while codexd runs and turns go on, or while it does not.

    The copy is verified before the command says that it is done. It holds sessions, turns, ledgers and events; Codex's
    own folder (its login and threads) is not in it.

    Example: `baa backup /mnt/safe/monday`

    Parameters
    ----------
    to:
        The folder to make; without it one below state/backups, named after the time.
    config:
        The configuration file; without it BAA_CONFIG, else baa.toml in your configuration folder.
    json:
        JSON for programs.
    """
    from baa.cli.backup import backup

    return backup(to, config_file=config, as_json=json)


@app.command(name="restore")
def restore_backup(
    backup: Path,
    *,
    config: Annotated[Path | None, Parameter(show_default=False)] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Put a backup in the place of codexd's log, here or on another machine. codexd must not run.

    The backup is verified first. The log that is there is set aside in the state folder, never deleted. The next codexd
    ends what still ran, tells turns that were open as lost, and every cursor of before as expired.

    Example: `baa restore /mnt/safe/monday`

    Parameters
    ----------
    backup:
        The folder that `baa backup` made.
    config:
        The configuration file; without it BAA_CONFIG, else baa.toml in your configuration folder.
    json:
        JSON for programs.
    """
    from baa.cli.backup import restore

    return restore(backup, config_file=config, as_json=json)


@app.command(name="attach")
def attach_terminal(session: str, /, *, config: File = None, json: Json = False) -> int:
    """Open a session in Codex's own terminal UI. Leaving it leaves the turn running.

    What is typed there is a turn like any other, under the node's ceiling; a question of Codex's can be answered there
    or anywhere else. When codexd is restarted, the UI comes back by itself.

    What works: turns, more input while one runs, interrupting, questions, /model (for what is typed here), /compact (a
    turn of its own, while no other runs), /rename (the name that Codex's terminals show of it; `baa` shows its
    purpose), /init, /skills, /ps, /stop, /status. What does not, and is told with what to do instead: /fork, /side,
    /new, /clear, /review, !commands; with the reason: /plan. Of these the UI only says that they failed: /goal, /mcp,
    /archive, /delete, /feedback, /logout; and of /permissions that this server does not support it. Nothing changes
    Codex's configuration, and /resume finds no other session.

    Example: `baa attach ses_01hzy3v9q8f2k4m6n7p0r5t1wx`

    Parameters
    ----------
    session:
        The session's id.
    json:
        Open nothing: print the one-time ticket and the socket that a terminal UI would be let in with.
    """
    from baa.cli.attach import run, ticket

    return ticket(session, config_file=config) if json else run(session, config_file=config)


@app.command(name="watch")
def watch_sessions(
    session: Annotated[str | None, Parameter(show_default=False)] = None, /, *, config: File = None, json: Json = False
) -> int:
    """All sessions, what each does and what waits for an answer, live; keys answer, steer and interrupt.

    The footer names the keys. `a` opens what the chosen session, else the oldest one, asks: the whole of it, and the
    decisions, of which a digit takes one. A question or a form is then answered field after field, by the number of a
    choice or in words; what does not fit is asked again. What a line cannot hold goes with the `baa answer` shown.

    It goes on where it was when codexd is killed or restarted. Leaving it changes nothing.

    Example: `baa watch`

    Parameters
    ----------
    session:
        The session to begin with; without it the newest.
    json:
        What the screen would show now, once: the sessions, what Codex asks, and the chosen one's newest turn.
    """
    if json:
        from baa.cli.snapshot import snapshot

        return snapshot(session, config=config)
    from baa.cli.watch import run

    return run(config_file=config, session_id=session)


@app.command(name="run")
def run_turn(
    prompt: Annotated[str | None, Parameter(show_default=False)] = None,
    /,
    *,
    cwd: Annotated[Path | None, Parameter(show_default=False)] = None,
    continue_: Annotated[bool, Parameter(name="--continue", negative=())] = False,
    detach: Annotated[bool, Parameter(negative=())] = False,
    output: Annotated[str | None, Parameter(show_default=False)] = None,
    output_schema: Annotated[Path | None, Parameter(show_default=False)] = None,
    sandbox: Annotated[SandboxName | None, Parameter(show_default=False)] = None,
    network: Annotated[bool, Parameter(negative="")] = False,
    approval_policy: Annotated[ApprovalName | None, Parameter(show_default=False)] = None,
    model: Annotated[str | None, Parameter(show_default=False)] = None,
    config: File = None,
    json: Json = False,
) -> int:
    """Give Codex one thing to do, and follow it to its end. Into a pipe goes only the answer.

    What Codex asks in a terminal is asked there, and answered by a key; otherwise stderr says where to answer it.
    Ctrl-C interrupts the turn; pressed again it leaves the turn alone. The exit code: 0 completed, 1 failed,
    124 expired, 130 interrupted, 70 lost.

    Example: `baa run "Which tests are slow, and why?" --cwd ~/project`

    Parameters
    ----------
    prompt:
        What to do; without it, what comes from stdin.
    cwd:
        The folder to work in; without it the one you are in.
    continue_:
        In the session that `baa run` last had in this folder.
    detach:
        Print the id of the turn, and do not wait: `baa turn show` tells of it.
    output:
        Print only this field of the turn, such as finalMessage, output, diff, usage or turnId.
    output_schema:
        A file with the JSON Schema that the answer must fit; `--output output` prints it.
    sandbox:
        What commands may touch; no more than the ceiling of this node.
    network:
        Let commands reach the network, if the node allows it.
    approval_policy:
        When Codex asks before it acts; without it on-request in a terminal, else never.
    model:
        The model; without it Codex's own choice.
    """
    from baa.api.sessions import ApprovalPolicy, Sandbox
    from baa.cli.run import run

    return run(
        prompt,
        cwd=cwd,
        go_on=continue_,
        detach=detach,
        output=output,
        sandbox=None if sandbox is None else Sandbox(sandbox),
        network=network,
        model=model,
        approval_policy=None if approval_policy is None else ApprovalPolicy(approval_policy),
        output_schema=output_schema,
        config=config,
        json=json,
    )


@app.command(name="login")
def log_in(
    *,
    device_auth: Annotated[bool, Parameter(negative=())] = False,
    with_api_key: Annotated[bool, Parameter(negative=())] = False,
    import_: Annotated[bool, Parameter(name="--import", negative=())] = False,
    config: File = None,
    json: Json = False,
) -> int:
    """Log Codex in for codexd, which has a login of its own: `codex login` in codexd's CODEX_HOME.

    Example: `baa login --device-auth`

    Parameters
    ----------
    device_auth:
        With a code to enter on another device, for a machine without a browser.
    with_api_key:
        Read an API key from stdin: `printenv OPENAI_API_KEY | baa login --with-api-key`
    import_:
        First take over config.toml and AGENTS.md from ~/.codex. The login itself is never copied.
    """
    from baa.cli.login import login

    return login(device_auth=device_auth, with_api_key=with_api_key, import_=import_, config=config, json=json)


@app.command(name="answer")
def answer_question(
    which: Annotated[str | None, Parameter(show_default=False)] = None,
    /,
    *,
    decision: Annotated[str | None, Parameter(show_default=False)] = None,
    answer: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    content: Annotated[str | None, Parameter(show_default=False)] = None,
    config: File = None,
    json: Json = False,
) -> int:
    """Answer what Codex asks: it is shown whole, with the command or the changes, and you decide by a key.

    Example: `baa answer ses_01hzy3v9q8f2k4m6n7p0r5t1wx --decision accept`

    Parameters
    ----------
    which:
        A question, int_…, or the session or turn that asks; without it the only one that there is.
    decision:
        One of the decisions that Codex offers, such as accept or decline; without it you are asked.
    answer:
        For a question with several parts: QUESTION=ANSWER, once for each.
    content:
        For a form: its content, as JSON; for a call of a tool: what it gave, as JSON.
    """
    from baa.cli.answer import answer as give

    return give(which, decision=decision, answers=answer, content=content, config=config, json=json)


@app.command(name="events")
def print_events(
    *,
    after: Annotated[str | None, Parameter(show_default=False)] = None,
    session: Annotated[str | None, Parameter(show_default=False)] = None,
    type_: Annotated[tuple[str, ...], Parameter(name="--type", negative=(), show_default=False)] = (),
    follow: Annotated[bool, Parameter(negative=())] = False,
    config: File = None,
    json: Json = False,
) -> int:
    """Print the events of codexd's log, and with --follow those to come, across restarts of codexd.

    Example: `baa events --follow --type turn.completed --type turn.failed`

    Parameters
    ----------
    after:
        The cursor after which to begin, EPOCH:SEQ, or 0 for the oldest; without it the oldest, with --follow now.
    session:
        Only events of this session.
    type_:
        Only events of this type, once for each.
    follow:
        Go on with what comes, until Ctrl-C.
    json:
        One JSON object a line, whole; without it the payload is cut.
    """
    from baa.cli.events import events

    return events(after, session=session, types=type_, follow=follow, config=config, json=json)


@app.command(name="report")
def report_tasks(
    *,
    since: str = "yesterday",
    config: File = None,
    json: Json = False,
) -> int:
    """What became of the tasks, for the morning: done, failed and why, asked and not answered, spent.

    Example: `baa report --since 8h`

    Parameters
    ----------
    since:
        From when on: yesterday, today, 8h, 2026-11-25 or 2026-11-25T18:00.
    """
    from baa.cli.report import report

    return report(since, config=config, json=json)


@app.command(name="doctor")
def examine(
    *,
    bundle: Annotated[Path | None, Parameter(show_default=False)] = None,
    config: File = None,
    json: Json = False,
) -> int:
    """Find what is wrong with this node: configuration, Codex and its login, sandbox, ports, leftovers, permissions.

    Each line says what mends what is wrong. The exit code is 0 only if nothing failed.

    Example: `baa doctor --bundle report.tar.gz`

    Parameters
    ----------
    bundle:
        Write a file for a bug report too: versions, settings, these lines, the ends of the logs. No token, no login.
    """
    from baa.cli.doctor import doctor

    return doctor(bundle=bundle, config=config, json=json)


@app.command(name="logs")
def print_logs(
    *,
    service: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    lines: int = 50,
    follow: Annotated[bool, Parameter(negative=())] = False,
    config: File = None,
    json: Json = False,
) -> int:
    """Print the logs of the programs of this node, however they were started.

    Example: `baa logs --service codexd --follow`

    Parameters
    ----------
    service:
        A program, once for each; without it all that have a log.
    lines:
        How many of each program's last lines.
    follow:
        Go on with what is written, until Ctrl-C.
    json:
        The lines as they were written.
    """
    from baa import config as configuration
    from baa.cli import service_log
    from baa.runtime.services import chosen

    found = configuration.load(config)
    names = chosen(service, all_services=not service)
    files = {name: found.logs_of(name) / f"{name}.jsonl" for name in names}
    return service_log.show(files, number=lines, follow=follow, as_json=json)


# The help of a group stands here, so that listing it loads nothing.
app.command(
    "baa.cli.session:app",
    name="session",
    help="The sessions of codexd: a folder each, and what Codex may do in it. `baa run` makes its own.",
)
app.command("baa.cli.turn:app", name="turn", help="What a turn did, and what can be done to one that runs.")
app.command("baa.cli.config:app", name="config", help="The settings that are in force, and where each came from.")
app.command(
    "baa.cli.service:app",
    name="service",
    help="""The programs of this node as services, which start with you and come back when they die.

Without `--service` the default set is meant: conductor, codexd and status-api. A whole node: `baa node install`.
""",
)
app.command(
    "baa.cli.node:app",
    name="node",
    help="This machine as a node: `baa node install` sets it up whole, `baa node check` says how it is. And the fleet.",
)
app.command(
    "baa.cli.task:app",
    name="task",
    help="Work that finishes by itself, checked: queue it, watch it, bring it home. In the morning: `baa report`.",
)
app.command(
    "baa.cli.token:app",
    name="token",
    help="""The node's two tokens: `read` may look, `drive` may do everything that this user may.

baa and the Python client find them by themselves. Other programs send one as `Authorization: Bearer TOKEN`.
""",
)


@app.command(name="demo")
def run_demo(
    *, keep: Annotated[bool, Parameter(negative=())] = False, json: Annotated[bool, Parameter(negative=())] = False
) -> int:
    """See the real Codex work through codexd, and codexd killed in the middle of a turn without losing a word.

    It takes ten seconds, no account and no configuration; everything happens in a temporary folder. The exit code is 0
    only if all that it says was checked.

    Example: `baa demo`

    Parameters
    ----------
    keep:
        Leave codexd and its scripted model running afterwards, until Ctrl-C, and say how to reach them.
    json:
        Print only the result, as JSON.
    """
    from baa.cli.demo import run

    return run(keep=keep, json=json)


def main() -> None:
    """The entry point: runs the command line and exits with its code (sysexits)."""
    sys.exit(ended(lambda: app(exit_on_error=False, print_error=False, result_action="return_value")))
