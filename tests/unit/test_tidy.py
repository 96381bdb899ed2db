"""The house rules that no linter knows, held by a test, since a rule that nothing checks is a wish.

Strings that are forbidden here are put together from pieces, so that this file passes its own test.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]

KEEPER = "src/baa/keeper"

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

BANNED_NAME = re.compile(
    r"(?<![a-z])(manager|helper|util|utility|utilities|common|misc)s?(?![a-z])|(?<![a-z])base_|handler_factory"
)
BOUNDARY = re.compile(r"# boundary: [a-z]")
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME)\b")

# People of examples may have homes in tests and documents; nobody else may.
HOMES = r"/(?:home|Users)/(?!(?:you|me|user)\b)\w|/ro" r"ot/\w"
REGISTRIES = r"://(?:test\.)?pypi\.o" r"rg|pythonho" r"sted|file://" r"/\w|registry\.npm" r"js|/sim" r"ple/"
INDEX_OPTIONS = r"^\s*(?:-i|-f|--index-url|--extra-index-url|--find-links)\b"
STANDARD_FOLDERS = {"Users", "home", "media", "mnt", "opt", "private", "root", "srv", "tmp", "usr", "var"}

Node = TypeVar(
    "Node", ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler, ast.Call, ast.Import, ast.ImportFrom
)


@cache
def texts() -> dict[str, str]:
    """Every text file that is or would be committed."""
    found = {}
    for name in files():
        try:
            found[name] = (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError):  # An image; a deletion that is not yet committed.
            continue
    return found


def files() -> list[str]:
    try:
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        return sorted(set(listed.split("\0")) - {""})
    except (FileNotFoundError, subprocess.CalledProcessError):  # No git, or an unpacked archive.
        folders = ("src", "tests", "scripts", "docs", "requirements")
        paths = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
        return sorted(str(path.relative_to(ROOT)) for path in paths if "__pycache__" not in path.parts)


@cache
def modules() -> dict[str, ast.Module]:
    return {name: ast.parse(text, name) for name, text in texts().items() if name.endswith(".py")}


def nodes(kind: type[Node], under: str = "") -> Iterator[tuple[str, Node]]:
    for name, module in modules().items():
        if name.startswith(under):
            yield from ((f"{name}:{node.lineno}", node) for node in ast.walk(module) if isinstance(node, kind))


def test_no_file_is_too_long_to_be_read_in_one_sitting() -> None:
    lengths = {name: len(texts()[name].splitlines()) for name in modules()}
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES_MAX} == {}


def test_every_function_fits_on_a_screen() -> None:
    functions: list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]] = [
        *nodes(ast.FunctionDef),
        *nodes(ast.AsyncFunctionDef),
    ]
    lengths = {f"{where} {node.name}": (node.end_lineno or 0) - node.lineno + 1 for where, node in functions}
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES_MAX} == {}


def test_files_and_classes_are_named_for_what_they_are() -> None:
    names = [(name, part) for name in modules() for part in Path(name).with_suffix("").parts]
    names += [(where, re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", node.name)) for where, node in nodes(ast.ClassDef)]
    assert [f"{where} {name}" for where, name in names if BANNED_NAME.search(name.lower())] == []


def test_every_folder_of_modules_is_a_package() -> None:
    """The import contract does not see into any other; the keeper is no package, but run by its folder's path."""
    folders = {str(Path(name).parent) for name in modules() if name.startswith("src/baa")} - {KEEPER}
    assert {folder for folder in folders if f"{folder}/__init__.py" not in modules()} == set()


def test_every_broad_except_names_the_boundary_that_it_guards() -> None:
    broad = [where for where, node in nodes(ast.ExceptHandler, "src/") if catches_everything(node.type)]
    broad += [
        where
        for where, node in nodes(ast.Call, "src/")
        if ast.unparse(node.func) in {"suppress", "contextlib.suppress"} and any(map(catches_everything, node.args))
    ]
    assert [where for where in broad if not BOUNDARY.search(source_line(where))] == []


def catches_everything(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(map(catches_everything, caught.elts))
    return caught is None or ast.unparse(caught) in {"Exception", "BaseException"}


def source_line(where: str) -> str:
    name, _, number = where.rpartition(":")
    return texts()[name].splitlines()[int(number) - 1]


def test_nothing_is_left_for_later() -> None:
    assert matches(UNFINISHED, set(texts()) - {"LICENSE"}) == []


def test_tests_wait_for_facts_and_never_for_time_to_pass() -> None:
    sleeps = [
        where
        for where, node in nodes(ast.Call, "tests/")
        if ast.unparse(node.func).rpartition(".")[2] == "sleep" and [ast.unparse(a) for a in node.args] != ["0"]
    ]
    assert sleeps == []


def test_tests_do_not_replace_parts_of_our_own_modules() -> None:
    """unittest.mock is banned by the linter; this is the other way to do the same."""
    replaced = [
        where
        for where, node in nodes(ast.Call, "tests/")
        if ast.unparse(node.func).endswith("monkeypatch.setattr") and is_ours(where, node.args[0])
    ]
    assert replaced == []


def is_ours(where: str, target: ast.expr) -> bool:
    if isinstance(target, ast.Constant):
        return str(target.value).startswith("baa.")
    imports = [
        node for _, node in nodes(ast.ImportFrom, where.partition(":")[0]) if (node.module or "").startswith("baa")
    ]
    ours = {alias.asname or alias.name for node in imports for alias in node.names}
    return ast.unparse(target).split(".")[0] in {"baa", *ours}


def test_no_file_knows_the_machine_that_it_was_written_on() -> None:
    # The folder that holds this checkout, unless every machine has one of that name.
    top = ROOT.parts[1]
    pattern = HOMES if top in STANDARD_FOLDERS else rf"{HOMES}|(?<![\w.])/{re.escape(top)}/\w"
    assert matches(re.compile(pattern), set(texts())) == []


def test_no_file_names_a_registry() -> None:
    assert matches(re.compile(REGISTRIES), set(texts())) == []
    assert matches(re.compile(INDEX_OPTIONS), {name for name in texts() if name.startswith("requirements/")}) == []


def matches(pattern: re.Pattern[str], names: set[str]) -> list[str]:
    return [
        f"{name}:{number} {line.strip()}"
        for name in sorted(names)
        if pattern.search(texts()[name])
        for number, line in enumerate(texts()[name].splitlines(), 1)
        if pattern.search(line)
    ]


def test_the_keeper_imports_the_standard_library_and_itself_only() -> None:
    itself = {Path(name).stem for name in modules() if name.startswith(KEEPER)}
    assert itself & sys.stdlib_module_names == set()
    assert {name for name in imported(f"{KEEPER}/") if name.split(".")[0] not in sys.stdlib_module_names} <= itself


def test_nobody_imports_the_keeper() -> None:
    assert {name for name in imported("") if name.startswith("baa.keeper")} == set()


def imported(under: str) -> set[str]:
    found = {alias.name for _, node in nodes(ast.Import, under) for alias in node.names}
    return found | {node.module or "." for _, node in nodes(ast.ImportFrom, under)}
