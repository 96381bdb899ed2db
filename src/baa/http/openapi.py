"""Operations as an OpenAPI 3.1 document. Pure: a table in, a dict out. The tables stand in the programs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct

from baa import __version__
from baa.api.errors import STATUS, Code
from baa.http.described import OF_ACCESS, OF_EVERY_ROUTE, OF_NO_ROUTE, Operation, Parameter
from baa.http.guard import Access

REF: Final = "#/components/schemas/"
LATER: Final = frozenset({429, 503, 507})
"""The statuses that come with Retry-After."""

_WORD: Final = re.compile(r"`([a-z]+(?:_[a-z]+)+)`")


@dataclass(frozen=True, slots=True)
class Stream:
    """The live stream, which OpenAPI has no words for: where it is, its frames by name, and why it is closed, by code.

    `takes` are the parameters of the path's GET that a handshake may have too.
    """

    path: str
    about: str
    takes: frozenset[str]
    frames: Mapping[str, type]
    close: Mapping[str, str]


def document(
    title: str,
    introduction: str,
    described: tuple[Operation, ...],
    about: Mapping[Code, str],
    stream: Stream,
    *,
    more: Iterable[type] = (),
    amend: Callable[[dict[str, Any]], None] = lambda schemas: None,
) -> dict[str, Any]:
    """The whole document of a program. `about` says what each code means; `more` are structs that are described too.

    `amend` may change the schemas, by their names, where the structs do not say all.
    """
    paths: dict[str, dict[str, Any]] = {}
    for each in described:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, about)
    paths[stream.path]["get"]["x-websocket"] = _websocket(stream, paths[stream.path]["get"])
    schemas = _schemas(described, {*stream.frames.values(), *more})
    amend(schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": __version__,
            "description": introduction,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"UnknownRoute": _failure(STATUS[OF_NO_ROUTE], [OF_NO_ROUTE], about)},
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


def _operation(operation: Operation, about: Mapping[Code, str]) -> dict[str, Any]:
    responses = {str(operation.status): _success(operation)}
    codes = codes_of(operation)
    for status in sorted({STATUS[code] for code in codes}):
        responses[str(status)] = _failure(status, [code for code in codes if STATUS[code] == status], about)
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


def _failure(status: int, codes: list[Code], meaning: Mapping[Code, str]) -> dict[str, Any]:
    narrowed: dict[str, Any] = {"code": {"enum": [code.value for code in codes]}}
    told: dict[str, Any] = {"description": "\n".join(f"- `{code.value}`: {meaning[code]}." for code in codes)}
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


def _websocket(stream: Stream, get: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": stream.about,
        "parameters": [parameter for parameter in get["parameters"] if parameter["name"] in stream.takes],
        "frame": {"oneOf": [{"$ref": REF + name} for name in stream.frames]},
        "close": dict(stream.close),
    }


# --- schemas


def _schemas(described: tuple[Operation, ...], more: set[type]) -> dict[str, Any]:
    bodies = {each.body for each in described if each.body is not None}
    answers = {each.data for each in described if each.data is not None}
    named = sorted(bodies | answers | more, key=lambda type_: type_.__name__)
    _, schemas = msgspec.json.schema_components(named, ref_template=REF + "{name}")
    structs = _structs(named)
    assert schemas.keys() - structs.keys() <= {name for name, schema in schemas.items() if "enum" in schema}
    for name, schema in schemas.items():
        schema["description"] = inspect.cleandoc(schema.get("description", ""))
        if name in structs:
            _describe(structs[name], schema)
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
    """Names as they are on the wire; and what is always written, it is said to write always."""
    fields = msgspec.structs.fields(struct)
    wire = {field.name: field.encode_name for field in fields}
    schema["description"] = _WORD.sub(lambda found: f"`{wire.get(found[1], found[1])}`", schema["description"])
    config = struct.__struct_config__
    if config.forbid_unknown_fields or config.omit_defaults:
        return
    schema["required"] += [field.encode_name for field in fields if not field.required and field.default is not UNSET]
    for field in fields:
        schema["properties"][field.encode_name].pop("default", None)


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
