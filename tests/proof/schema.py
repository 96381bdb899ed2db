"""What a release of Codex says of itself, in the part that codexd uses: `python -m tests.proof.schema A B`.

Each release writes the JSON schema of its app-server. Here it is read at the places that codexd sends to or reads
from, and these are taken from codexd itself: its lines as it writes them, its message types, its tables of methods.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Raw, Struct

from baa.api.interactions import AnswerInteraction, InteractionKind, Scope
from baa.api.sessions import (
    ApprovalPolicy,
    Fork,
    LocalImage,
    Personality,
    Sandbox,
    SessionSettings,
    TextInput,
    TurnRequest,
)
from baa.codexd.appserver import attached, lines, methods, translate
from baa.codexd.appserver import messages as m
from baa.codexd.machines import inputs as i

ABSENT: Final = "absent"
REFUSED: Final = "refused"
SOMETIMES: Final = " (not always)"

Facts = Mapping[str, str]
"""A place in the protocol, and what is there; what codexd uses and is not there is ABSENT."""

# --- what codexd sends, as it sends it

_FULL: Final = SessionSettings(
    cwd="/a",
    sandbox=Sandbox.WORKSPACE_WRITE,
    approval_policy=ApprovalPolicy.ON_REQUEST,
    model="model",
    model_provider="provider",
    writable_roots=("/b",),
    base_instructions="be",
    developer_instructions="do",
    personality=Personality.NONE,
    service_tier="tier",
    ephemeral=True,
)
_PARTS: Final = (TextInput("see"), LocalImage("/a.png"))


def _request(sandbox: Sandbox) -> TurnRequest:
    return TurnRequest(prompt="see", input=_PARTS, sandbox=sandbox, output_schema={})


_EFFECTS: Final[tuple[i.LineEffect, ...]] = (
    i.OpenThread("ses", None, _FULL),
    i.OpenThread("ses", "thread", _FULL),
    i.OpenThread("ses", None, _FULL, Fork("ses", "thread", "turn")),
    *(i.HandTurn("trn", "thread", _request(sandbox), _FULL, "model", "high") for sandbox in Sandbox),
    i.HandTurn("trn", "thread", _request(Sandbox.READ_ONLY), _FULL, "model", None, forget_effort=True),
    i.HandTurn("trn", "thread", TurnRequest(prompt="/compact", compact=True), _FULL, "model", None),
    i.SteerTurn("trn", "str", "thread", "turn", _PARTS, None, None),
    i.InterruptTurn("trn", "thread", "turn"),
    i.CleanTerminals("trn", "thread"),
    i.ReadHistory("ses", "thread"),
    i.UnloadThread("ses", "thread"),
)
_YES: Final = AnswerInteraction(decision="accept", answers={"q": "a"}, content="text", scope=Scope.SESSION)
_GRANT: Final = AnswerInteraction(decision="accept", content={}, scope=Scope.SESSION)
"""What is granted is a part of what was asked: Codex's own words, not ours."""


def sent() -> dict[str, list[dict[str, Any]]]:
    """The parameters of every method that codexd sends, with everything that they can hold."""
    own = [
        lines.handshake(1, "1.0"),
        lines.read_account(1),
        lines.read_limits(1),
        lines.ping(1),
        lines.read_thread(1, "thread"),
        lines.read_last_turns(1, "thread"),
        attached.skills(1, "key", "/a"),
        *(lines.line_of(effect, 1) for effect in _EFFECTS),
    ]
    found: dict[str, list[dict[str, Any]]] = {}
    for line in own:
        told = json.loads(line.data)
        found.setdefault(told["method"], []).append(told["params"])
    passed_on = attached.LOOKS | {attached.RESUME: attached.RESUMES, attached.RENAME: frozenset({"threadId", "name"})}
    for method, names in passed_on.items():
        found.setdefault(method, []).append(dict.fromkeys(names))  # the values are the terminal's
    return found


def answered() -> dict[str, list[dict[str, Any]]]:
    """What codexd answers to each question of Codex's, yes and no."""
    return {method: [_answer(kind, yes=True), _answer(kind, yes=False)] for method, kind in translate.QUESTIONS.items()}


def _answer(kind: InteractionKind, *, yes: bool) -> dict[str, Any]:
    given = (_GRANT if kind is InteractionKind.PERMISSIONS else _YES) if yes else None
    effect = i.Answer(1, kind, Raw(b"{}"), "accept" if yes else "decline", given)
    result: dict[str, Any] = json.loads(lines.line_of(effect, 1).data)["result"]
    return result


def unsent() -> frozenset[str]:
    """What the child may be sent and nothing sends: no release is held to it."""
    return methods.ALLOWED - sent().keys() - {"initialized"}


# --- what codexd reads, by the types that it reads it with

_UPDATED: Final = ("thread/tokenUsage/updated", "turn/plan/updated", "turn/diff/updated")
READ: Final[dict[str, type[Struct]]] = {
    **dict.fromkeys(translate.STREAMS, m.DeltaMessage),
    **dict.fromkeys(_UPDATED, m.UpdateMessage),
    **dict.fromkeys(("turn/started", "turn/completed"), m.TurnMessage),
    **dict.fromkeys(("item/started", "item/completed"), m.ItemMessage),
    "account/rateLimits/updated": m.LimitsMessage,
    "serverRequest/resolved": m.ResolvedMessage,
    "error": m.ErrorMessage,
}
"""Notifications."""

RESULTS: Final[dict[str, tuple[str, type[Struct]]]] = {
    "initialize": ("InitializeResponse", m.InitializeResult),
    "account/read": ("GetAccountResponse", m.AccountResult),
    "account/rateLimits/read": ("GetAccountRateLimitsResponse", m.LimitsMessage),
    "thread/start": ("ThreadStartResponse", m.ThreadResult),
    "thread/resume": ("ThreadResumeResponse", m.ThreadResult),
    "thread/fork": ("ThreadForkResponse", m.ThreadResult),
    "thread/read": ("ThreadReadResponse", m.StoredThreadResult),
    "thread/turns/list": ("ThreadTurnsListResponse", m.TurnsResult),
}
"""Answers that are looked into, with the name that the schema has for each."""

ITEM: Final = ("ThreadItem", m.ItemHead)
"""What an item is read with, wherever one comes."""


# --- the schema of a release


class Schema:
    """The schema bundle that a release writes. Names are unique in the part that is looked at."""

    def __init__(self, *bundles: Mapping[str, Any]) -> None:
        """`bundles`: the documents, the one that decides first."""
        self._named: dict[str, Any] = {}
        for bundle in bundles:
            definitions = bundle["definitions"]
            for names in (definitions, definitions.get("v2", {})):
                for name, schema in names.items():
                    self._named.setdefault(name, schema)

    def named(self, name: str) -> Any:
        """A definition, or None."""
        return self._named.get(name)

    def requests(self, union: str) -> dict[str, str | None]:
        """The methods of one of the schema's unions of messages, and the name of each one's parameters."""
        found: dict[str, str | None] = {}
        for each in (self.named(union) or {}).get("oneOf", ()):
            properties = each["properties"]
            found[properties["method"]["enum"][0]] = _name_of(properties.get("params", {}))
        return found

    def variants(self, schema: Any) -> Iterator[Any]:
        """The schemas that something may be one of."""
        schema = self.named(_name_of(schema) or "") if isinstance(schema, dict) and "$ref" in schema else schema
        if not isinstance(schema, dict):
            return
        choices = [each for key in ("anyOf", "oneOf", "allOf") for each in schema.get(key, ())]
        if not choices:
            yield schema
        for each in choices:
            for variant in self.variants(each):
                yield _with(schema, variant) if "properties" in schema else variant


def _with(outer: Mapping[str, Any], variant: Mapping[str, Any]) -> dict[str, Any]:
    """One of several shapes, with what all of them have."""
    properties = {**outer["properties"], **variant.get("properties", {})}
    return {"properties": properties, "required": [*outer.get("required", ()), *variant.get("required", ())]}


def _name_of(schema: Mapping[str, Any]) -> str | None:
    ref = schema.get("$ref")
    return None if ref is None else str(ref).rpartition("/")[2]


def _tag(schema: Mapping[str, Any]) -> str | None:
    """What the `type` of an object of this shape says, if that says which of several it is."""
    told = schema.get("properties", {}).get("type", {}).get("enum", ())
    return told[0] if len(told) == 1 else None


def shape(schema: Any, known: Schema, depth: int = 1) -> str:
    """In a few words what a place holds: kinds, the words of an enumeration, the tags of what is told apart by one."""
    found: set[str] = set()
    for each in known.variants(schema):
        if "enum" in each:
            found.update(map(json.dumps, each["enum"]))
        elif "properties" in each:
            found.add(f"<{_tag(each)}>" if _tag(each) else "object")
        elif each.get("type") == "array" and depth > 0:
            found.add(f"[{shape(each.get('items', {}), known, depth - 1)}]")
        else:
            kind = each.get("type", "any")
            found.update(kind if isinstance(kind, list) else [kind])
    return " | ".join(sorted(found)) or "any"


def facts(known: Schema) -> dict[str, str]:
    """What a release has at every place that codexd uses."""
    found: dict[str, str] = {}
    asked = known.requests("ClientRequest")
    for method, samples in sent().items():
        if method not in asked:
            found[method] = ABSENT
            continue
        found[method] = "there"
        _walk_sent(f"{method} params", samples, {"$ref": f"/{asked[method]}"}, known, found)
    for method, (name, type_) in RESULTS.items():
        if method in asked:
            _walk_read(f"{method} result", type_, known.named(name), known, found)
    told = known.requests("ServerNotification")
    for method, type_ in READ.items():
        found[method] = "there" if method in told else ABSENT
        if method in told:
            _walk_read(f"{method} params", type_, known.named(told[method] or ""), known, found)
    _walk_read("item", ITEM[1], known.named(ITEM[0]), known, found)
    answers = answered()
    for method, params in known.requests("ServerRequest").items():
        answer = "asked of a person" if method in answers else "declined" if method in translate.DECLINED else REFUSED
        found[f"question {method}"] = answer
        if method in answers and params is not None:
            response = {"$ref": f"/{params.removesuffix('Params')}Response"}
            _walk_read(f"question {method} params", m.QuestionParams, known.named(params), known, found, missing=False)
            _walk_sent(f"question {method} answer", answers[method], response, known, found)
    for method in translate.QUESTIONS:
        found.setdefault(f"question {method}", ABSENT)
    return found


def _objects(schema: Any, known: Schema) -> list[Any]:
    return [each for each in known.variants(schema) if "properties" in each]


def _walk_sent(place: str, samples: list[Any], schema: Any, known: Schema, found: dict[str, str]) -> None:
    for sample in samples:
        if isinstance(sample, list):
            items = [item for each in known.variants(schema) for item in known.variants(each.get("items", {}))]
            _walk_sent(place, sample, {"anyOf": items}, known, found)
        elif isinstance(sample, dict):
            _walk_object(place, sample, _objects(schema, known), known, found)


def _walk_object(place: str, sample: dict[str, Any], objects: list[Any], known: Schema, found: dict[str, str]) -> None:
    if not objects:  # a map, or what Codex takes as it is
        return
    tag = sample.get("type")
    if isinstance(tag, str):
        place, objects = f"{place}<{tag}>", [each for each in objects if _tag(each) == tag]
        found[place] = "there" if objects else ABSENT
        if not objects:
            return
    required = set.intersection(*(set(each.get("required", ())) for each in objects)) - {"type"}
    found[f"{place} requires"] = ", ".join(sorted(required)) or "nothing"
    for name, value in sample.items():
        if name == "type" and tag is not None:
            continue
        inner = [each["properties"][name] for each in objects if name in each["properties"]]
        found[f"{place}.{name}"] = shape({"anyOf": inner}, known) if inner else ABSENT
        if inner:
            _walk_sent(f"{place}.{name}", [value], {"anyOf": inner}, known, found)


def _walk_read(
    place: str, type_: type[Struct], schema: Any, known: Schema, found: dict[str, str], *, missing: bool = True
) -> None:
    """`missing`: a field that is not there is worth a word. It is not where one type reads several messages."""
    objects = _objects(schema, known)
    for field in msgspec.structs.fields(type_):
        name = field.encode_name
        having = [each for each in objects if name in each["properties"]]
        if not having:
            if missing:
                found[f"{place}.{name}"] = ABSENT
            continue
        inner = {"anyOf": [each["properties"][name] for each in having]}
        always = len(having) == len(objects) and all(name in each.get("required", ()) for each in having)
        what = "passed on" if field.type in (Raw, list[Raw]) else shape(inner, known)
        found[f"{place}.{name}"] = what + ("" if always else SOMETIMES)
        read = _struct_in(field.type)
        if read is not None:
            items = [item for each in known.variants(inner) for item in known.variants(each.get("items", each))]
            _walk_read(f"{place}.{name}", read, {"anyOf": items}, known, found)


def _struct_in(type_: Any) -> type[Struct] | None:
    """The message type that a field holds, or a list of which it holds."""
    if get_origin(type_) is list:
        return _struct_in(get_args(type_)[0])
    return type_ if isinstance(type_, type) and issubclass(type_, Struct) else None


# --- two releases


class Difference(NamedTuple):
    """One place at which two releases differ; None: it is not spoken of there."""

    place: str
    old: str | None
    new: str | None

    @property
    def lost(self) -> bool:
        """The second has not what codexd uses of the first."""
        return self.old not in (None, ABSENT, REFUSED) and self.new in (None, ABSENT)


def differences(old: Facts, new: Facts) -> list[Difference]:
    """Where two releases differ, what is inside of something that one has not left out."""
    places = [place for place in sorted({*old, *new}) if old.get(place) != new.get(place)]
    gone = {place for facts_ in (old, new) for place, fact in facts_.items() if fact == ABSENT}
    return [
        Difference(place, old.get(place), new.get(place))
        for place in places
        if not any(place.startswith((f"{outer} ", f"{outer}.", f"{outer}<")) for outer in gone if outer != place)
    ]


def lacks(facts_: Facts, reference: Facts) -> list[str]:
    """What codexd uses, the reference has and this release has not."""
    return [each.place for each in differences(reference, facts_) if each.lost]


def report(old: str, new: str, found: list[Difference]) -> str:
    """The differences, one a line, for people."""
    if not found:
        return f"Codex {old} and {new} are the same in all that codexd uses."
    rows = []
    for place, was, is_ in found:
        if was in (None, ABSENT):
            rows.append(f"+ {place}" + ("" if is_ == "there" else f": {is_}"))
        elif is_ in (None, ABSENT):
            rows.append(f"- {place}" + ("" if was == "there" else f": {was}"))
        else:
            rows.append(f"~ {place}: {_changed(was, is_)}")
    return "\n".join([f"Codex {old} -> {new}, in what codexd uses: + new, - gone, ~ changed", *rows])


def _changed(was: str, is_: str) -> str:
    """Of two long lists of words only what is not in both."""
    old, new = was.removesuffix(SOMETIMES).split(" | "), is_.removesuffix(SOMETIMES).split(" | ")
    if len(old) + len(new) <= 4 or not {*old} & {*new} or was.startswith("["):
        return f"{was} -> {is_}"
    words = [f"+ {word}" for word in new if word not in old] + [f"- {word}" for word in old if word not in new]
    return ", ".join(words) or f"{was} -> {is_}"


def schema_of(codex: Path) -> Schema:
    """The schema that this program writes of its own app-server, experimental parts included.

    Raises CalledProcessError if it cannot.
    """
    with tempfile.TemporaryDirectory() as folder:
        home, out = Path(folder) / "home", Path(folder) / "schema"
        home.mkdir()
        command = [str(codex), "app-server", "generate-json-schema", "--experimental", "--out", str(out)]
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "CODEX_HOME": str(home)}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        names = ("codex_app_server_protocol.v2.schemas.json", "codex_app_server_protocol.schemas.json")
        return Schema(*(json.loads((out / name).read_text()) for name in names))


def main(arguments: list[str]) -> int:
    """Print how two releases differ. Each is a version, which is installed if it must be, or the path of a codex."""
    from tests.proof.releases import NoRelease, codex_of

    if len(arguments) != 2:
        print("Say which two: make schema-diff A=0.163.0 B=0.171.0 (versions of Codex, or paths of programs).")
        return 64
    try:
        old, new = (facts(schema_of(codex_of(each))) for each in arguments)
    except (NoRelease, subprocess.CalledProcessError) as why:
        print(why)
        return 69
    print(report(arguments[0], arguments[1], differences(old, new)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
