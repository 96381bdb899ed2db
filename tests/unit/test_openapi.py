"""What codexd and the conductor say of themselves: well-formed, and about the routes, structs and errors there are."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from baa.api.errors import STATUS, Code
from baa.api.events import PAYLOADS, EventType
from baa.api.sessions import Sandbox
from baa.clock import SystemClock
from baa.codexd import http
from baa.codexd.attaching import Attaching
from baa.codexd.backup import Backups
from baa.codexd.commands import Commands
from baa.codexd.eventlog import EventLog
from baa.codexd.handover import Announcement
from baa.codexd.keepers import Setting
from baa.codexd.main_loop import MainLoop
from baa.codexd.openapi import document
from baa.codexd.operations import ABOUT, operations
from baa.codexd.policy import Policy
from baa.codexd.restore import Restored
from baa.codexd.retention import Limits, Retention
from baa.codexd.status import Daemon
from baa.codexd.subscriptions import Subscriptions
from baa.codexd.supervisor import Supervisor
from baa.codexd.watch import Watching
from baa.conductor import openapi as conductor_openapi
from baa.conductor import operations as conductor_operations
from baa.config_file import File
from baa.http.described import OF_NO_ROUTE
from baa.http.patience import Patience
from baa.http.request import PAGE_MAX, WAIT_MAX_MS
from baa.http.routes import RouteTable
from tests.support.described import Described, codes_of
from tests.support.doors import tables

EVENTS = File().codexd.event_stream_path
ROOT = Path(__file__).resolve().parents[2]
META = json.loads((ROOT / "tests" / "unit" / "data" / "openapi-3.1.json").read_text())
DOCUMENT: dict[str, Any] = json.loads(msgspec.json.encode(document(EVENTS)))
OF_THE_CONDUCTOR: dict[str, Any] = json.loads(msgspec.json.encode(conductor_openapi.document()))
DOCUMENTS = {"codexd": DOCUMENT, "conductor": OF_THE_CONDUCTOR}
OPERATIONS = {"codexd": operations(EVENTS), "conductor": conductor_operations.operations()}
MEANINGS = {"codexd": ABOUT, "conductor": conductor_operations.ABOUT}
RAISED_IN = {
    "codexd": ("api/events.py", "http/*.py", "codexd/*.py", "codexd/**/*.py"),
    "conductor": ("api/events.py", "http/*.py", "conductor/*.py", "engine/*.py"),
}
TABLES = {"operations.py", "openapi.py", "described.py", "passthrough.py"}
"""Where codes stand that are not raised; or, in the last one, on behalf of codexd."""

both = pytest.mark.parametrize("program", ["codexd", "conductor"])


@both
def test_it_is_an_openapi_document(program: str) -> None:
    validator = jsonschema_rs.validator_for(META)
    assert [error.message for error in validator.iter_errors(DOCUMENTS[program])] == []
    assert not validator.is_valid({**DOCUMENTS[program], "paths": {"nope": 1}})


@both
def test_its_schemas_are_schemas_and_lead_somewhere(program: str) -> None:
    schemas = DOCUMENTS[program]["components"]["schemas"]
    for schema in schemas.values():
        jsonschema_rs.meta.validate({"$schema": META["$schema"], **schema})
    led_to = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENTS[program])))
    assert led_to == set(schemas)


async def routes(folder: Path) -> RouteTable:
    """The routes of a codexd that does not run."""
    clock = SystemClock()
    log = EventLog(folder / "log", clock=clock)
    try:
        loop = MainLoop(log, Restored(), clock=clock)
        setting = Setting(
            keepers=folder,
            daemon_lock=folder / "lock",
            codex_home=folder,
            server_command="codex",
            server_args=(),
            orphan_ms=1,
            umask=0o077,
            version="1",
        )
        daemon = Daemon(
            daemon_id=log.daemon_id,
            pid=1,
            version="1",
            started_at="",
            address="",
            clock=clock,
            log=log,
            loop=loop,
            commands=Commands(loop, clock=clock),
            supervisor=Supervisor(loop, setting, Watching(1, 0, 0), clock=clock),
            subscriptions=Subscriptions(log),
            handover=Announcement(clock),
            patience=Patience(),
            retention=Retention(log, Limits(0, 0, 0), clock=clock),
            backups=Backups(log.path, folder, Patience()),
        )
        policy = Policy(Sandbox.READ_ONLY, (), ())
        attaching = Attaching(
            loop, daemon.commands, policy, clock=clock, path=folder / "attach.sock", codex_home=folder
        )
        return http.application(daemon, policy, attaching, EVENTS, {})[1]
    finally:
        log.close()


async def test_it_describes_the_routes_that_there_are_and_who_may_use_them(tmp_path: Path) -> None:
    assert _told(DOCUMENT) == {
        (kind, method, re.sub(r"\{[^}]+\}", "{}", path), access)
        for kind, method, path, access in await routes(tmp_path)
    }
    assert ("websocket", "GET", EVENTS, "read") in _told(DOCUMENT)


def test_the_conductor_describes_its_own_routes_and_none_that_it_passes_on() -> None:
    assert _told(OF_THE_CONDUCTOR) == {
        (kind, method, re.sub(r"\{[^}]+\}", "{}", path), access)
        for kind, method, path, access in tables()["conductor"]
        if access != "passed"
    }
    assert ("websocket", "GET", "/v1/events", "read") in _told(OF_THE_CONDUCTOR)


def _told(document: dict[str, Any]) -> set[tuple[str, str, str, str]]:
    """What a document describes, as a table of routes has it."""
    described = {
        ("http", method, re.sub(r"\{\w+\}", "{}", path), (told["security"] or [{"bearer": ["open"]}])[0]["bearer"][0])
        for method, path, told in Described(document).operations.values()
    }
    live = {
        ("websocket", "GET", path, "read")
        for path, told in document["paths"].items()
        if "x-websocket" in told.get("get", {})
    }
    return described | live


def test_the_event_stream_is_where_it_was_configured() -> None:
    elsewhere = document("/live")["paths"]
    assert EVENTS not in elsewhere
    assert set(elsewhere) - {"/live"} == set(DOCUMENT["paths"]) - {EVENTS}
    assert "x-websocket" in elsewhere["/live"]["get"]


@both
def test_it_tells_of_every_error_that_the_program_can_answer_and_of_no_other(program: str) -> None:
    raised = set()
    for pattern in RAISED_IN[program]:
        for path in (ROOT / "src" / "baa").glob(pattern):
            if path.name not in TABLES:
                raised |= {
                    Code[node.attr]
                    for node in ast.walk(ast.parse(path.read_text()))
                    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Code"
                }
    document = DOCUMENTS[program]
    responses = [
        response
        for _, _, told in Described(document).operations.values()
        for status, response in told["responses"].items()
        if int(status) >= 400
    ]
    responses.append(document["components"]["responses"]["UnknownRoute"])
    told = {Code(code) for response in responses for code in codes_of(response)}
    assert told == raised == set(MEANINGS[program])
    assert OF_NO_ROUTE in told


@both
def test_every_error_stands_at_its_status(program: str) -> None:
    for _, _, told in Described(DOCUMENTS[program]).operations.values():
        for status, response in told["responses"].items():
            if int(status) >= 400:
                assert {STATUS[Code(code)] for code in codes_of(response)} == {int(status)}


@both
def test_a_body_takes_no_fields_but_those_described(program: str) -> None:
    for operation in OPERATIONS[program]:
        if operation.body is not None:
            schema = DOCUMENTS[program]["components"]["schemas"][operation.body.__name__]
            assert schema["additionalProperties"] is False, operation.name
            assert set(schema["properties"]) == {f.encode_name for f in msgspec.structs.fields(operation.body)}


@both
def test_parameters_of_a_path_are_those_that_it_names(program: str) -> None:
    for method, path, told in Described(DOCUMENTS[program]).operations.values():
        named = [each["name"] for each in told.get("parameters", []) if each["in"] == "path"]
        assert named == re.findall(r"\{(\w+)\}", path), (method, path)


@both
def test_bounds_of_parameters_are_those_that_are_checked(program: str) -> None:
    bounds = {
        (each["name"], each["schema"]["minimum"], each["schema"]["maximum"])
        for _, _, told in Described(DOCUMENTS[program]).operations.values()
        for each in told.get("parameters", [])
        if each["schema"]["type"] == "integer"
    }
    assert bounds == {("limit", 1, PAGE_MAX), ("waitMs", 0, WAIT_MAX_MS)}


def test_an_event_is_described_with_the_payload_of_its_type() -> None:
    variants = DOCUMENT["components"]["schemas"]["Event"]["oneOf"]
    told = {
        type_: variant["properties"]["payload"]["$ref"].rpartition("/")[2]
        for variant in variants
        for type_ in variant["properties"]["type"]["enum"]
    }
    assert told == {type_.value: PAYLOADS[type_].__name__ for type_ in EventType}


@both
def test_words_of_the_code_do_not_reach_the_wire(program: str) -> None:
    snakes = {
        (name, word)
        for name, schema in DOCUMENTS[program]["components"]["schemas"].items()
        for word in re.findall(r"`(\w+_\w+)`", schema["description"])
    }
    values = {"not_loaded", "thread_gone", "too_old"}
    assert {word for _, word in snakes} <= values, snakes
