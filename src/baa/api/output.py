"""Whether an output is what its schema promised, and whether that is a schema."""

from __future__ import annotations

from typing import Any, NoReturn

import jsonschema_rs

FLAW_CHARS = 500


def flaw_of(schema: dict[str, Any], value: Any) -> str | None:
    """Where `value` is not what `schema` says; None if it is. The schema was checked when it came."""
    validator = jsonschema_rs.validator_for(schema, retriever=_retrieve)
    error = next(iter(validator.iter_errors(value)), None)
    if error is None:
        return None
    place = "/".join(str(step) for step in error.instance_path) or "its root"
    return f"The final message does not fit the output schema at {place}: {error.message[:FLAW_CHARS]}"


def schema_flaw(schema: dict[str, Any]) -> str | None:
    """What is wrong with a schema itself; None if nothing is."""
    try:
        jsonschema_rs.validator_for(schema, retriever=_retrieve)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        return str(error)[:FLAW_CHARS]
    return None


def _retrieve(uri: str) -> NoReturn:
    """Nothing outside the schema is ever fetched."""
    raise ValueError(f"{uri[:FLAW_CHARS]} lies outside the schema")
