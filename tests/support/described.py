"""What an OpenAPI document says of an answer, held against the answer."""

from __future__ import annotations

import copy
from typing import Any, TypeAlias

import jsonschema_rs

Json: TypeAlias = dict[str, Any]


class Described:
    """A document, closed: an answer that holds a field more than it tells of is a flaw too."""

    def __init__(self, document: Json) -> None:
        self.document = document
        self.operations: dict[str, tuple[str, str, Json]] = {
            told["operationId"]: (method.upper(), path, told)
            for path, methods in document["paths"].items()
            for method, told in methods.items()
        }
        self._schemas = copy.deepcopy(document["components"]["schemas"])
        for schema in self._schemas.values():
            if "properties" in schema:
                schema.setdefault("additionalProperties", False)

    def promised(self) -> set[tuple[str, int, str]]:
        """All that is promised: operation, status, and an error's code or a success's media type."""
        found: set[tuple[str, int, str]] = set()
        for name, (_, _, told) in self.operations.items():
            for status, response in told["responses"].items():
                if int(status) < 400:
                    found |= {(name, int(status), media_type) for media_type in response["content"]}
                else:
                    found |= {(name, int(status), code) for code in codes_of(response)}
        return found

    def flaws(self, name: str, status: int, headers: dict[str, str], body: Any) -> list[str]:
        """What is wrong with an answer in JSON."""
        response = self.operations[name][2]["responses"].get(str(status))
        if response is None:
            return [f"{name}: {status} is not described"]
        content = response["content"].get("application/json")
        if content is None:
            return [f"{name}: {status} in JSON is not described"]
        return self.misfits(content["schema"], body) + _header_flaws(response, headers)

    def misfits(self, schema: Json, body: Any) -> list[str]:
        """Where a body does not fit a schema of the document."""
        whole = {**schema, "components": {"schemas": self._schemas}}
        validator = jsonschema_rs.validator_for(whole)
        return [f"{'/'.join(map(str, error.instance_path))}: {error.message}" for error in validator.iter_errors(body)]

    def misfits_of(self, component: str, body: Any) -> list[str]:
        """Where a body does not fit a named schema."""
        return self.misfits({"$ref": f"#/components/schemas/{component}"}, body)


def codes_of(response: Json) -> list[str]:
    """The error codes that a described response can have."""
    schema = response["content"]["application/json"]["schema"]
    codes: list[str] = schema["properties"]["error"]["properties"]["code"]["enum"]
    return codes


def _header_flaws(response: Json, headers: dict[str, str]) -> list[str]:
    known = {name.lower(): told["schema"] for name, told in response.get("headers", {}).items()}
    flaws = []
    for name in ("retry-after", "www-authenticate"):
        if (name in known) != (name in headers):
            flaws.append(f"{name}: {'missing' if name in known else 'not described'}")
        elif name in known:
            value = int(headers[name]) if known[name].get("type") == "integer" else headers[name]
            flaws += [error.message for error in jsonschema_rs.validator_for(known[name]).iter_errors(value)]
    return flaws
