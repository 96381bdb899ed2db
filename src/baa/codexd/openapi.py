"""The operations of codexd as an OpenAPI 3.1 document. Pure: a table in, a dict out."""

from __future__ import annotations

import inspect
import re
from http import HTTPStatus
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct

from baa import __version__
from baa.api import events as e
from baa.api.errors import STATUS, Code
from baa.codexd.operations import ABOUT, OF_ACCESS, OF_EVERY_ROUTE, OF_NO_ROUTE, Operation, Parameter, operations
from baa.http.guard import Access

REF: Final = "#/components/schemas/"
LATER: Final = frozenset({429, 503, 507})
"""The statuses that come with Retry-After."""

FRAMES: Final = {"Hello": e.Hello, "Events": e.Events, "Heartbeat": e.Heartbeat}

_WORD: Final = re.compile(r"`([a-z]+(?:_[a-z]+)+)`")

INTRODUCTION: Final = """\
codexd hosts `codex app-server` and speaks of four nouns: status, sessions, turn, events. Every answer in JSON is
`{"ok": true, "data": …}` or `{"ok": false, "error": {"code", "message", "details"}}`. What is not described is 404.

Times are UTC, RFC 3339 with milliseconds; durations end in `Ms`. Schemas of answers may gain fields; those of requests
take no others than these. Requests need the exact Host, and no Origin. The event stream is also a WebSocket: see
`x-websocket` at its path."""


def document(events_path: str) -> dict[str, Any]:
    """The whole document of a codexd whose event stream is at this path."""
    described = operations(events_path)
    paths: dict[str, dict[str, Any]] = {}
    for each in described:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each)
    paths[events_path]["get"]["x-websocket"] = _websocket(paths[events_path]["get"])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "codexd",
            "version": __version__,
            "description": INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": _schemas(described),
            "responses": {"UnknownRoute": _failure(STATUS[OF_NO_ROUTE], [OF_NO_ROUTE])},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The node's tokens are the files `read` and `drive` in `state/tokens` below"
                    " BAA_HOME: the token is the scope, and the drive token may all that the read token may.",
                }
            },
        },
    }


def codes_of(operation: Operation) -> list[Code]:
    """Every error that the operation can meet."""
    return sorted(
        {*OF_EVERY_ROUTE, *OF_ACCESS[operation.access], *operation.codes}, key=lambda code: (STATUS[code], code)
    )


def _operation(operation: Operation) -> dict[str, Any]:
    responses = {str(operation.status): _success(operation)}
    codes = codes_of(operation)
    for status in sorted({STATUS[code] for code in codes}):
        responses[str(status)] = _failure(status, [code for code in codes if STATUS[code] == status])
    told: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.about,
        "security": _security(operation.access),
        "responses": responses,
    }
    if operation.parameters:
        told["parameters"] = [_parameter(parameter) for parameter in operation.parameters]
    if operation.body is not None:
        content = {"application/json": {"schema": {"$ref": REF + operation.body.__name__}}}
        told["requestBody"] = {"required": not operation.body_optional, "content": content}
    return told


def _security(access: Access) -> list[dict[str, list[str]]]:
    return [] if access == "open" else [{"bearer": [access]}]


def _parameter(parameter: Parameter) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.about,
        "required": parameter.required,
        "schema": parameter.schema,
    }
    if parameter.schema["type"] == "array":
        told |= {"style": "form", "explode": False}
    return told


def _success(operation: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.data is not None:
        content["application/json"] = {"schema": _enveloped(operation.data)}
    for media_type, about in operation.plain:
        type_ = "object" if media_type == "application/json" else "string"
        content[media_type] = {"schema": {"type": type_, "description": about}}
    return {"description": _phrase(operation.status), "content": content}


def _enveloped(data: type) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"ok": {"const": True}, "data": {"$ref": REF + data.__name__}},
        "required": ["ok", "data"],
        "additionalProperties": False,
    }


def _failure(status: int, codes: list[Code]) -> dict[str, Any]:
    narrowed: dict[str, Any] = {"code": {"enum": [code.value for code in codes]}}
    told: dict[str, Any] = {"description": "\n".join(f"- `{code.value}`: {ABOUT[code]}." for code in codes)}
    if status in LATER:
        retry = {"retryAfterMs": {"type": "integer", "minimum": 1, "description": "When it may pass."}}
        narrowed["details"] = {"properties": retry, "required": ["retryAfterMs"]}
        about = "Seconds after which the same request may pass."
        told["headers"] = {
            "Retry-After": {"description": about, "required": True, "schema": {"type": "integer", "minimum": 1}}
        }
    if status == 401:
        told["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}}}
    schema = {"$ref": REF + "Failure", "properties": {"error": {"properties": narrowed}}}
    return {**told, "content": {"application/json": {"schema": schema}}}


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase


def _websocket(get: dict[str, Any]) -> dict[str, Any]:
    """The live stream, which OpenAPI has no words for."""
    wanted = {"after", "sessionId", "types"}
    return {
        "description": "The same path as a WebSocket: `Hello`, then `Events` and, when it is quiet, `Heartbeat`. What"
        " is wrong is answered before the upgrade, as a page would be. One that does not read is closed with 4408.",
        "parameters": [parameter for parameter in get["parameters"] if parameter["name"] in wanted],
        "frame": {"oneOf": [{"$ref": REF + name} for name in FRAMES]},
        "close": {
            "1012": "codexd stops; come back by the cursor",
            "4401": "the token was changed; come back by the cursor, with the new one",
            "4408": "the reader does not read",
            "4410": "cursor_expired: the log let go of what the reader was to read next",
        },
    }


# --- schemas


def _schemas(described: tuple[Operation, ...]) -> dict[str, Any]:
    bodies = {each.body for each in described if each.body is not None}
    answers = {each.data for each in described if each.data is not None}
    payloads = set(e.PAYLOADS.values())
    named = sorted(bodies | answers | payloads | set(FRAMES.values()), key=lambda type_: type_.__name__)
    _, schemas = msgspec.json.schema_components(named, ref_template=REF + "{name}")
    structs = _structs(named)
    assert schemas.keys() - structs.keys() <= {name for name, schema in schemas.items() if "enum" in schema}
    for name, schema in schemas.items():
        schema["description"] = inspect.cleandoc(schema.get("description", ""))
        if name in structs:
            _describe(structs[name], schema)
    schemas["Event"] = _event(schemas["Event"])
    schemas["Failure"] = _any_failure()
    return dict(sorted(schemas.items()))


def _structs(types: list[type]) -> dict[str, type[Struct]]:
    """Every struct that these are made of, by its name."""
    found: dict[str, type[Struct]] = {}

    def look(type_: msgspec.inspect.Type) -> None:
        match type_:
            case msgspec.inspect.StructType(cls=cls):
                if cls.__name__ not in found:
                    found[cls.__name__] = cls
                    for field in type_.fields:
                        look(field.type)
            case msgspec.inspect.UnionType():
                for each in type_.types:
                    look(each)
            case msgspec.inspect.Metadata():
                look(type_.type)
            case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType():
                look(type_.item_type)
            case msgspec.inspect.DictType():
                look(type_.value_type)

    for type_ in types:
        look(msgspec.inspect.type_info(type_))
    return found


def _describe(struct: type[Struct], schema: dict[str, Any]) -> None:
    """Names as they are on the wire; and what codexd always writes, it is said to write always."""
    fields = msgspec.structs.fields(struct)
    wire = {field.name: field.encode_name for field in fields}
    schema["description"] = _WORD.sub(lambda found: f"`{wire.get(found[1], found[1])}`", schema["description"])
    config = struct.__struct_config__
    if config.forbid_unknown_fields or config.omit_defaults:
        return
    schema["required"] += [field.encode_name for field in fields if not field.required and field.default is not UNSET]
    for field in fields:
        schema["properties"][field.encode_name].pop("default", None)


def _event(schema: dict[str, Any]) -> dict[str, Any]:
    """An event, with the payload that belongs to its type."""
    types: dict[type, list[str]] = {}
    for type_, payload in e.PAYLOADS.items():
        types.setdefault(payload, []).append(type_.value)
    variants = [
        {"properties": {"type": {"enum": names}, "payload": {"$ref": REF + payload.__name__}}}
        for payload, names in types.items()
    ]
    return {**schema, "oneOf": variants}


def _any_failure() -> dict[str, Any]:
    error = {
        "type": "object",
        "properties": {
            "code": {"type": "string", "description": "What went wrong, in a word that programs may rely on."},
            "message": {"type": "string", "description": "What to do next, for people."},
            "details": {"type": "object"},
        },
        "required": ["code", "message", "details"],
        "additionalProperties": False,
    }
    return {
        "description": "The answer to a request that failed.",
        "type": "object",
        "properties": {"ok": {"const": False}, "error": error},
        "required": ["ok", "error"],
        "additionalProperties": False,
    }
