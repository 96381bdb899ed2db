"""docs/runtime against the code: every variable, command, flag, route, script and link in it exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cyclopts import App

from baa import config
from baa.cli import app
from baa.codexd.operations import operations
from baa.conductor import http as conductor_http
from baa.config_file import File
from baa.status_api import http as status_http

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs" / "runtime").glob("*.md"))
OF_THE_TESTS = {"BAA_NO_APT"}
RESERVED = {"BAA_SHARED_TOKEN"}
PREFIXES = {"BAA_CODEXD_X", "BAA_"}
REFUSED = "/v1/codexd/runs*"

VARIABLE = re.compile(r"\bBAA_[A-Z_]*")
ROUTE = re.compile(r"(?<![\w.~/-])/(?:healthz|readyz|rolez|openapi\.json|v1/[\w/*{}-]+)")
LINK = re.compile(r"\]\(([^)#]+)")
SCRIPT = re.compile(r"scripts/[\w./-]+\.sh")
CODE = re.compile(r"`([^`\n]+)`")


def code(text: str) -> Iterator[str]:
    """Every piece of a document that stands as code: lines of blocks, without their comments, and words in a line."""
    fences = text.split("```")
    for block in fences[1::2]:
        yield from (line.partition("  #")[0].strip() for line in block.splitlines()[1:])
    for prose in fences[::2]:
        yield from CODE.findall(prose)


def unknown_variables(text: str) -> set[str]:
    """Variables that no setting has."""
    return set(VARIABLE.findall(text)) - set(config.variables()) - OF_THE_TESTS - RESERVED - PREFIXES


def wrong_commands(text: str) -> list[str]:
    """Commands of ours that there are not, or not with these flags."""
    return [line for line in code(text) if line.startswith("baa ") and not _is_command(line)]


def _is_command(line: str) -> bool:
    words = [word for word in shlex.split(line)[1:] if word != "…"]
    command: App = app
    while words and not words[0].startswith("-"):
        name = words.pop(0)
        if name in list(command):
            command = command[name]
        elif command.default_command is None or command is app:  # else it is an argument
            return False
    flags = {word for word in words if word.startswith("--")}
    known = {name for argument in command.assemble_argument_collection() for name in argument.names}
    return flags <= known | {"--help"}


def routes() -> set[str]:
    """Every route of the three programs, codexd's from its table and the others' as their modules write them."""
    folders = {Path(str(module.__file__)).parent for module in (conductor_http, status_http)}
    written = "".join(path.read_text() for folder in folders for path in folder.glob("http*.py"))
    of_codexd = {operation.path for operation in operations(File().codexd.event_stream_path)}
    return of_codexd | set(re.findall(r'"(/(?:healthz|readyz|rolez|v1/[\w/{}:]+?)/?)"', written))


def unknown_routes(text: str) -> set[str]:
    """Routes that no program has, but for the one that is named because it is refused."""
    return {route for route in ROUTE.findall(text) if route not in routes() | {REFUSED}}


def missing_files(text: str, folder: Path) -> list[str]:
    """Links and scripts that lead nowhere."""
    links = [link for link in LINK.findall(text) if "://" not in link and not (folder / link).exists()]
    return links + [script for script in SCRIPT.findall(text) if not (ROOT / script).exists()]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_everything_that_a_document_names_is_there(path: Path) -> None:
    text = path.read_text()
    assert unknown_variables(text) == set()
    assert wrong_commands(text) == []
    assert unknown_routes(text) == set()
    assert missing_files(text, path.parent) == []


def test_there_are_the_six_documents() -> None:
    names = {path.name for path in DOCS}
    assert names == {"README.md", "backup.md", "codexd.md", "environment.md", "launchd.md", "node-verification.md"}


def test_what_is_wrong_would_be_found() -> None:
    bad = "`BAA_CODEXD_NOPE` `baa nope` `baa up --nope` `baa service nope` /v1/codexd/nope [x](nope.md) scripts/nope.sh"
    assert unknown_variables(bad) == {"BAA_CODEXD_NOPE"}
    assert wrong_commands(bad) == ["baa nope", "baa up --nope", "baa service nope"]
    assert unknown_routes(bad) == {"/v1/codexd/nope"}
    assert missing_files(bad, ROOT) == ["nope.md", "scripts/nope.sh"]


def test_every_setting_is_documented_with_its_default() -> None:
    text = (ROOT / "docs" / "runtime" / "environment.md").read_text()
    rows = dict(re.findall(r"^\| `(BAA_\w+)` \| (.+?) \|", text, re.MULTILINE))
    assert set(rows) == set(config.variables())
    for table in config.TABLES:
        for field in msgspec.structs.fields(getattr(File(), table)):
            default = field.default
            shown = " ".join(default) if isinstance(default, tuple) else str(default)
            shown = shown.lower() if isinstance(default, bool) else shown
            assert rows[f"BAA_{table.upper()}_{field.name.upper()}"] == f"`{shown}`"


def test_the_conductor_passes_on_what_the_documents_say_of_codexd() -> None:
    assert conductor_http.CODEXD == "/v1/codexd/"
