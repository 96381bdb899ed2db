"""Schemathesis against a running program of ours: what its OpenAPI document promises, held against requests by the
thousand, good ones and bad ones.

All of its phases run: examples, coverage (every bound, each field missing, of another type, beyond its limit), fuzzing,
and stateful (what one answer gives goes into the next request). Of its checks two are off, see CHECKS.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from tests.support.node import Json

CHECKS: Final = {
    "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "503", "507"]},  # where they are described
    "negative_data_rejection": {"expected-statuses": ["4xx"]},  # 410: of two things that are wrong, it tells one
    "unsupported_method": {"enabled": False},  # ours is 404: the contract says never 405
    "positive_data_acceptance": {"enabled": False},  # a schema cannot say that a folder exists, or `prompt` or `input`
}
LONGEST_WAIT_MS: Final = 20
KNOWN_SHARE: Final = 0.5
"""How often an id is one of those that exist."""

STATEFUL_MAX: Final = 200
"""Stateful sequences at most: each is some twenty requests."""

PROMPT: Final = "Go on."


@dataclass
class Fuzzed:
    """What was tried: `answers` by operation and status (0: none came), and what is wrong.

    `flaws` are answers that are not as described, `leaks` those with a secret in them.
    """

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    flaws: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """How many requests."""
        return sum(self.answers.values())

    @property
    def failed(self) -> int:
        """How many answers say that the server failed. 503 and 507 say that it cannot now, and are described."""
        return sum(n for (_, status), n in self.answers.items() if status >= 500 and status not in (503, 507))

    def of(self, name: str, statuses: Iterable[int] = range(600)) -> int:
        """How many answers of an operation."""
        return sum(self.answers[name, status] for status in statuses)


def operations(document: Json) -> set[str]:
    """The names of all that it describes."""
    return {told["operationId"] for methods in document["paths"].values() for told in methods.values()}


def fuzz(
    found: Fuzzed,
    address: str,
    document: Json,
    token: str,
    *,
    seed: int,
    examples: int,
    names: Iterable[str],
    known: Mapping[str, list[str]],
    folder: Path,
    secrets: Iterable[str] = (),
) -> None:
    """Try these operations of the document, each with so many examples in fuzzing; `found` is added to.

    `known` are values that exist, by where they go (`path.turnId`, `body.cwd`). Nothing is written but below `folder`.
    It blocks: call it in a thread.
    """
    schema = schemathesis.openapi.from_dict(
        _part(document, set(names)), config=_config(address, token, seed, examples, known)
    )
    schemathesis.hook(_tame(folder))
    try:
        for event in from_schema(schema).execute():
            if isinstance(event, events.ScenarioFinished):
                _take(event.recorder, found, [secret.encode() for secret in secrets])
            elif isinstance(event, events.NonFatalError):
                found.flaws.append(f"{event.label}: {event.value!r}")
            elif isinstance(event, events.FatalError):
                raise event.exception
    finally:
        schemathesis.hooks.unregister_all()


def _config(address: str, token: str, seed: int, examples: int, known: Mapping[str, list[str]]) -> SchemathesisConfig:
    return SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "base-url": address,
            "headers": {"Authorization": f"Bearer {token}"},
            "continue-on-failure": True,
            "request-timeout": 60.0,
            "max-stream-events": 3,
            "workers": 1,
            "generation": {"max-examples": examples, "database": "none", "no-shrink": True},
            "checks": CHECKS,
            "phases": {
                "coverage": {"unexpected-methods": []},  # see CHECKS
                "stateful": {"generation": {"max-examples": min(examples, STATEFUL_MAX)}},
            },
            "dictionaries": {name.replace(".", "-"): {"values": values} for name, values in known.items()},
            "parameters": {name: {"dictionary": name.replace(".", "-"), "probability": KNOWN_SHARE} for name in known},
        }
    )


def _part(document: Json, names: set[str]) -> Json:
    part = copy.deepcopy(document)
    for path, methods in list(part["paths"].items()):
        part["paths"][path] = {method: told for method, told in methods.items() if told["operationId"] in names}
        if not part["paths"][path]:
            del part["paths"][path]
    return part


def _tame(folder: Path) -> Any:
    """Before each call: nobody waits for long, and a copy goes nowhere but below `folder`."""

    def before_call(_: Any, case: Any, **__: Any) -> None:
        wait = (case.query or {}).get("waitMs")
        if isinstance(wait, int | str) and str(wait).isdecimal() and LONGEST_WAIT_MS < int(wait) <= 60_000:
            case.query["waitMs"] = LONGEST_WAIT_MS
        if case.headers and "Last-Event-ID" in case.headers:
            (case.query or {}).pop("after", None)  # nobody looks at it then
        if not isinstance(body := case.body, dict):
            return
        if isinstance(to := body.get("to"), str) and to.startswith("/"):
            body["to"] = f"{folder}/{quote(to, safe='')}"
        # What a schema does not say: one of the two has to be given. Few turns would ever start.
        if isinstance(body.get("prompt"), str):
            body.pop("input", None)
        elif case.operation.definition.raw["operationId"] == "startTurn" and body.get("input", None) is None:
            body["prompt"] = PROMPT
        if case.operation.definition.raw["operationId"] == "submitTask":
            _place(body)

    return before_call


def _place(body: dict[str, Any]) -> None:
    """A task that some folder takes, where only a schema speaks against it: no text by chance is a path or an id.

    What has another type than it must have stays as it is.
    """
    if isinstance(body.get("cwd"), str | None) and isinstance(body.get("repository"), str | None):
        body.pop("repository", None)
        if isinstance(body.get("ref"), str | None):
            body.pop("ref", None)
        body["cwd"] = "/" + (body.get("cwd") or "w")
    if isinstance(body.get("node"), str):
        body["node"] = "nobody"
    needs = body.get("dependsOn")
    if isinstance(needs, list) and len(needs) <= 100 and all(isinstance(each, str) for each in needs):
        body["dependsOn"] = []


def _take(recorder: Any, found: Fuzzed, secrets: list[bytes]) -> None:
    for case_id, interaction in recorder.interactions.items():
        told = recorder.cases[case_id].value.operation.definition.raw
        response = interaction.response
        found.answers[told["operationId"], response.status_code if response is not None else 0] += 1
        if response is not None and any(secret in response.content for secret in secrets):
            found.leaks.append(f"{told['operationId']} answered {response.status_code} with a secret in it")
    for case_id, checks in recorder.checks.items():
        for check in checks:
            if check.failure_info is not None:
                response = getattr(recorder.interactions.get(case_id), "response", None)
                answer = "no answer" if response is None else f"{response.status_code} {response.content[:300]!r}"
                failure = check.failure_info
                found.flaws.append(
                    f"{recorder.label}: {check.name}: {failure.failure.message}\n{failure.code_sample}\n{answer}"
                )
