"""Codex's own terminal UI as a client of codexd: what it may ask, in Codex's words. What it is told: attached_told.py.

Nothing that the UI sent goes to the child as it came: a request is read into one of the shapes below, or refused. What
only looks is passed on with the parameters named here; all else codexd decides and writes by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from baa.api.sessions import ApprovalPolicy, InputPart, LocalImage, Sandbox, TextInput
from baa.codexd.appserver import attached_messages as asked_for
from baa.codexd.appserver import jsonrpc
from baa.codexd.appserver import messages as m
from baa.codexd.appserver.lines import COMPACT, Line

RequestId = str | int

_THREAD: Final = frozenset({"threadId"})
_PAGE: Final = frozenset({"cursor", "limit", "sortDirection"})

LOOKS: Final[dict[str, frozenset[str]]] = {
    "thread/read": _THREAD | {"includeTurns"},
    "thread/turns/list": _THREAD | _PAGE | {"itemsView"},
    "thread/items/list": _THREAD | _PAGE | {"turnId", "deferOutput"},
    "thread/goal/get": _THREAD,
    "thread/backgroundTerminals/clean": _THREAD,
    "thread/backgroundTerminals/list": _THREAD | {"cursor", "limit"},
    "account/read": frozenset(),
    "account/rateLimits/read": frozenset(),
    "collaborationMode/list": frozenset(),
    "configRequirements/read": frozenset(),
    "model/list": frozenset({"cursor", "limit", "includeHidden"}),
}
"""What the UI asks to have something to show, and the parameters of it that reach the child.

One of them does something: it ends the commands that the thread's turns left running, as codexd itself does.
"""

SKILLS: Final = "skills/list"
RESUME: Final = "thread/resume"
RESUMES: Final = _THREAD | {"excludeTurns", "initialTurnsPage"}
"""A resume that changes nothing: the thread stands as codexd has opened it."""

CANNED: Final[dict[str, dict[str, Any]]] = {
    "account/bedrock/checkGovCloudRequirements": {"isGovCloud": False, "shouldWarn": False},
    "config/read": {"config": {}, "origins": {}, "layers": None},
    "hooks/list": {"data": []},
    "thread/list": {"data": [], "nextCursor": None, "backwardsCursor": None},
    "thread/unsubscribe": {"status": "unsubscribed"},
}
"""What has the same answer for every UI: it sees no other session's threads and no configuration, and unloads none."""

WAIVED: Final = {
    "thread/approveGuardianDeniedAction": False,
    "review/start": True,
    "thread/memoryMode/set": False,
    "thread/shellCommand": True,
}
"""What is not done and must not be refused as such: an error here ends the UI. True: it waits for a turn, then."""

INSTEAD: Final = {
    "config/batchWrite": "What you chose holds for what you type here, until you leave.",
    "review/start": "Ask for it in words, as in: Review what is not committed.",
    "thread/fork": "Leave this screen, and make one there: baa session fork {session}",
    "thread/shellCommand": "Ask Codex to run it, or run it in a terminal of your own.",
    "thread/start": "Leave this screen, and begin another session there: baa run PROMPT",
}
"""What to do instead of what is not available here, as the UI shows it."""

RENAME: Final = "thread/name/set"
NAME_MAX: Final = 200
"""Characters of a thread's name. It comes to other terminals too, so nothing in it may act there."""

INVALID: Final = -32600


# --- what a message of the UI means


class Greeting(Struct, frozen=True):
    """The handshake. `unwanted`: notifications that this UI does not want."""

    request_id: RequestId
    unwanted: frozenset[str]


class Begin(Struct, frozen=True):
    """A turn was typed. `folders` are all that it would work in, `network` whether it wants one; None: as before."""

    request_id: RequestId
    thread_id: str
    parts: tuple[InputPart, ...]
    message_id: str | None
    model: str | None
    effort: str | None
    sandbox: Sandbox | None
    approval_policy: ApprovalPolicy | None
    folders: frozenset[str]
    network: bool | None


class Steer(Struct, frozen=True):
    """More was typed for the turn that runs."""

    request_id: RequestId
    thread_id: str
    codex_turn_id: str
    parts: tuple[InputPart, ...]
    message_id: str | None


class Interrupt(Struct, frozen=True):
    """The turn is to be ended."""

    request_id: RequestId
    thread_id: str
    codex_turn_id: str


class Compact(Struct, frozen=True):
    """The thread's history is to be shortened."""

    request_id: RequestId
    thread_id: str


class Look(Struct, frozen=True):
    """Something to pass on. `thread_id`: whose it is; `resumes`: from then on it is told all.

    `renames`: it changes the thread's name, and nothing else does anything.
    """

    request_id: RequestId
    method: str
    params: dict[str, Any]
    thread_id: str | None
    resumes: bool = False
    renames: bool = False


class Skills(Struct, frozen=True):
    """The skills of the session's folder are asked for."""

    request_id: RequestId


class Loaded(Struct, frozen=True):
    """The threads in memory are asked for: for this UI that is its session's."""

    request_id: RequestId


class Ready(Struct, frozen=True):
    """What codexd answers at once."""

    line: bytes


class Waived(Struct, frozen=True):
    """What is not done, and not refused as such; `awaits`: the UI waits for a turn of it."""

    request_id: RequestId
    thread_id: str | None
    why: str
    awaits: bool


class Answered(Struct, frozen=True):
    """An answer to a question of codexd's; without a result, a refusal to answer."""

    interaction_id: RequestId
    result: Raw | None


class Nothing(Struct, frozen=True):
    """A message that needs no doing."""


Meant = Greeting | Begin | Steer | Interrupt | Compact | Look | Skills | Loaded | Ready | Waived | Answered | Nothing


class _Refusal(Exception):
    """What the UI asks for cannot be had: told to it in these words."""


def meant(data: bytes, session_id: str) -> Meant | jsonrpc.Unreadable:
    """What one message of the UI on this session means. What is not allowed or cannot be read has its refusal ready."""
    message = jsonrpc.decode(data)
    if isinstance(message, jsonrpc.Unreadable):
        return message
    if message.method is UNSET:
        if message.id is UNSET:
            return Nothing()
        return Answered(message.id, None if message.result is UNSET else message.result)
    if message.id is UNSET:  # `initialized`, and whatever a later UI notes
        return Nothing()
    try:
        return _asked(message.id, message.method, message.params, session_id)
    except msgspec.DecodeError as error:
        return Ready(jsonrpc.refusal(message.id, INVALID, f"codexd cannot read this {message.method}: {error}"))
    except _Refusal as no:
        return Ready(jsonrpc.refusal(message.id, INVALID, str(no)))


def _asked(request_id: RequestId, method: str, params: Raw | UnsetType, session_id: str) -> Meant:
    given = Raw(b"{}") if params is UNSET or bytes(params) == b"null" else params
    reader = _READERS.get(method)
    if reader is not None:
        return reader(request_id, given)
    if method in LOOKS:
        return _look(request_id, method, given, LOOKS[method])
    if method == RESUME:
        return _look(request_id, method, given, RESUMES, resumes=True)
    if method in CANNED:
        return Ready(jsonrpc.answer(request_id, CANNED[method]))
    told = " ".join(
        (f"{method} is not available in a session of codexd's (baa attach).", *_instead(method, session_id))
    )
    if method in WAIVED:
        return Waived(request_id, msgspec.json.decode(given, type=m.About).thread_id, told, WAIVED[method])
    raise _Refusal(told)


def _instead(method: str, session_id: str) -> tuple[str, ...]:
    return (INSTEAD[method].format(session=session_id),) if method in INSTEAD else ()


def _look(request_id: RequestId, method: str, given: Raw, names: frozenset[str], *, resumes: bool = False) -> Look:
    told = msgspec.json.decode(given, type=dict[str, Any])
    params = {name: value for name, value in told.items() if name in names and value is not None}
    thread_id = params.get("threadId")
    if names & _THREAD and not isinstance(thread_id, str):
        raise _Refusal(f"{method} needs a threadId.")
    return Look(request_id, method, params, thread_id, resumes)


def _greeting(request_id: RequestId, given: Raw) -> Greeting:
    capabilities = msgspec.json.decode(given, type=asked_for.InitializeParams).capabilities or {}
    unwanted = capabilities.get("optOutNotificationMethods") or []
    return Greeting(request_id, frozenset(name for name in unwanted if isinstance(name, str)))


def _begin(request_id: RequestId, given: Raw) -> Begin:
    told = msgspec.json.decode(given, type=asked_for.StartParams)
    mode = told.collaboration_mode or asked_for.Mode()
    own = mode.settings or {}
    if mode.mode != "default":
        raise _Refusal(f"The mode {mode.mode!r} is not available in a session of codexd's: a turn could not say it.")
    if told.output_schema is not None or told.approvals_reviewer not in (None, "user"):
        raise _Refusal("codexd's sessions take no output schema from a terminal, and no reviewer but the user.")
    if told.permissions is not None:
        raise _Refusal("Permission profiles are not available in a session of codexd's. Choose a sandbox mode.")
    sandbox, folders, network = _sandbox(told.sandbox_policy)
    return Begin(
        request_id,
        told.thread_id,
        _parts(told.input),
        told.client_user_message_id,
        _text(own.get("model")) or told.model,
        _text(own.get("reasoning_effort")) or told.effort,
        sandbox,
        _approval(told.approval_policy),
        frozenset(folders) | frozenset(told.runtime_workspace_roots or ()) | ({told.cwd} if told.cwd else frozenset()),
        network,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _approval(value: Any) -> ApprovalPolicy | None:
    if value is None:
        return None
    try:
        return ApprovalPolicy(value)
    except ValueError:
        raise _Refusal("codexd knows the approval policies untrusted, on-request and never.") from None


_SANDBOXES: Final = {
    "readOnly": Sandbox.READ_ONLY,
    "workspaceWrite": Sandbox.WORKSPACE_WRITE,
    "dangerFullAccess": Sandbox.DANGER_FULL_ACCESS,
}


def _sandbox(policy: dict[str, Any] | None) -> tuple[Sandbox | None, list[str], bool | None]:
    """A sandbox as it is asked for: which, with which folders to write in, and whether with a network."""
    if policy is None:
        return None, [], None
    sandbox = _SANDBOXES.get(str(policy.get("type")))
    roots = policy.get("writableRoots") or []
    if sandbox is None or not all(isinstance(root, str) for root in roots):
        raise _Refusal("codexd knows the sandboxes readOnly, workspaceWrite and dangerFullAccess.")
    if sandbox is Sandbox.DANGER_FULL_ACCESS:
        return sandbox, roots, None
    return sandbox, roots, policy.get("networkAccess", False) is not False


def _parts(given: list[asked_for.UserInput]) -> tuple[InputPart, ...]:
    parts: list[InputPart] = []
    for each in given:
        match each.type:
            case "text":
                parts.append(TextInput(each.text))
            case "localImage":
                parts.append(LocalImage(each.path))
            case _:
                raise _Refusal(f"A turn of codexd's takes text and images from files, and no {each.type}.")
    return tuple(parts)


def _steer(request_id: RequestId, given: Raw) -> Steer:
    told = msgspec.json.decode(given, type=asked_for.SteerParams)
    message_id = told.client_user_message_id
    return Steer(request_id, told.thread_id, told.expected_turn_id, _parts(told.input), message_id)


def _interrupt(request_id: RequestId, given: Raw) -> Interrupt:
    told = msgspec.json.decode(given, type=asked_for.InterruptParams)
    return Interrupt(request_id, told.thread_id, told.turn_id)


def _rename(request_id: RequestId, given: Raw) -> Look | Waived:
    told = msgspec.json.decode(given, type=asked_for.NameParams)
    name = told.name.strip()
    if not name or len(name) > NAME_MAX or not name.isprintable():
        why = f"A name has 1 to {NAME_MAX} characters, and none that would act on a terminal. It keeps its old one."
        return Waived(request_id, told.thread_id, why, awaits=False)
    return Look(request_id, RENAME, {"threadId": told.thread_id, "name": name}, told.thread_id, renames=True)


def _compact(request_id: RequestId, given: Raw) -> Compact:
    return Compact(request_id, msgspec.json.decode(given, type=asked_for.CompactParams).thread_id)


_READERS: Final[dict[str, Callable[[RequestId, Raw], Meant]]] = {
    "initialize": _greeting,
    "turn/start": _begin,
    "turn/steer": _steer,
    "turn/interrupt": _interrupt,
    COMPACT: _compact,
    RENAME: _rename,
    SKILLS: lambda request_id, _: Skills(request_id),
    "thread/loaded/list": lambda request_id, _: Loaded(request_id),
}


def borne(asked: Meant, why: str = "") -> Waived | None:
    """What is told instead of a refusal of this, where the UI would end of one."""
    match asked:
        case Compact(request_id, thread_id):
            return Waived(request_id, thread_id, why, awaits=True)
        case Look(request_id, _, _, thread_id, renames=True):
            return Waived(request_id, thread_id, why, awaits=False)
        case _:
            return None


# --- what the child is asked for it


def look(number: int, key: str, asked: Look) -> Line:
    """The line that passes a look on; the answer comes back with `key`."""
    return _line(number, key, asked.method, asked.params)


def skills(number: int, key: str, cwd: str) -> Line:
    """The line that asks for the skills of a folder."""
    return _line(number, key, SKILLS, {"cwds": [cwd]})


def _line(number: int, key: str, method: str, params: dict[str, Any]) -> Line:
    request_id = f"{key}:look:{number}"
    return Line(request_id, jsonrpc.request(request_id, method, params))
