"""What a request may ask for: in which folders work may be done, and what may be given along."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from baa.api.errors import Code, Rejected
from baa.api.sessions import (
    PROMPT_MAX,
    ApprovalPolicy,
    CreateSession,
    InputPart,
    LocalImage,
    Personality,
    Sandbox,
    SessionSettings,
    StartTurn,
    TextInput,
)
from baa.codexd.policy import Policy
from tests.support.faults import saw
from tests.support.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path.resolve())


GOOD: list[tuple[str, str]] = [
    ("work/project", "work/project"),
    ("work", "work"),
    ("work/project/", "work/project"),
    ("work//project/.", "work/project"),
    ("work/project/../project", "work/project"),
    ("in", "work/project"),
    ("a.b", "a.b"),
    (".ssh/../work", "work"),
]


@pytest.mark.parametrize(("cwd", "real"), GOOD)
def test_a_folder_inside_the_roots_is_taken_by_its_real_path(home: Home, cwd: str, real: str) -> None:
    assert home.policy.folder(f"{home.path}/{cwd}") == home.path / real


OUTSIDE: dict[str, Callable[[Home], str]] = {
    "a sibling that begins alike": lambda home: str(home.beside),
    "a folder above": lambda home: str(home.path.parent),
    "the way up": lambda home: f"{home.path}/../adam",
    "the root of all": lambda _: "/",
    "another place": lambda _: tempfile.gettempdir(),
    "a long way round": lambda home: f"{home.path}/work/" + "../work/" * 500 + "../../adam",
    "up from a symlink that leads out": lambda home: f"{home.path}/out/../adam",
    "a symlink that leads out": lambda home: str(home.path / "out"),
    "a dot folder": lambda home: str(home.path / ".ssh"),
    "a symlink into a dot folder": lambda home: str(home.path / "hidden"),
    "a folder that begins with two dots": lambda home: str(home.path / "a.b" / "..c"),
    "our own state": lambda home: str(home.state),
    "inside our own state": lambda home: str(home.state / "state"),
    "the folder that holds our state": lambda home: str(home.path),
}


@pytest.mark.parametrize("make", OUTSIDE.values(), ids=list(OUTSIDE))
def test_a_folder_that_is_not_for_work_is_above_the_ceiling(home: Home, make: Callable[[Home], str]) -> None:
    with pytest.raises(Rejected) as caught:
        home.policy.folder(make(home))

    assert (caught.value.code, caught.value.details) == (Code.POLICY_CEILING, {"field": "cwd"})
    saw("F88", caught.value.status == 403, "a folder that is not for work was asked for")


NO_FOLDER: dict[str, Callable[[Home], str]] = {
    "missing": lambda home: str(home.path / "missing"),
    "a file": lambda home: str(home.path / "file"),
    "below a file": lambda home: str(home.path / "file" / "x"),
    "a FIFO": lambda home: str(home.path / "fifo"),
    "a device": lambda _: "/dev/null",
    "a dangling symlink": lambda home: str(home.path / "dangling"),
    "a symlink to itself": lambda home: str(home.path / "loop"),
    "a name that is too long": lambda home: str(home.path / ("x" * 5000)),
    "a NUL": lambda home: f"{home.path}/work\0",
    "a lone surrogate": lambda home: f"{home.path}/\ud800",
    "a name that is no UTF-8": lambda home: f"{home.path}/bad\udcff",
    "a symlink to a name that is no UTF-8": lambda home: str(home.path / "odd"),
    "a file with a slash behind it": lambda home: f"{home.path}/file/",
    "a space before it": lambda home: f" {home.path}/work",
    "a line end behind it": lambda home: f"{home.path}/work\n",
    "in percent": lambda home: f"{home.path}/%77ork",
    "composed otherwise": lambda home: f"{home.path}/\u0435\u0308",
    "a variable": lambda _: "$HOME/work",
    "a backslash": lambda home: f"{home.path}\\work",
    "empty": lambda _: "",
    "relative": lambda _: ".",
    "a tilde": lambda _: "~",
    "a URL": lambda home: f"file:{home.path}/work",
}


@pytest.mark.parametrize("make", NO_FOLDER.values(), ids=list(NO_FOLDER))
def test_what_is_no_absolute_path_of_a_folder_is_an_invalid_request(home: Home, make: Callable[[Home], str]) -> None:
    with pytest.raises(Rejected) as caught:
        home.policy.folder(make(home))

    assert (caught.value.code, caught.value.details) == (Code.INVALID_REQUEST, {"field": "cwd"})
    saw("F88", caught.value.status == 422, "what is no folder was asked for")


def test_a_state_folder_inside_a_project_keeps_only_those_above_and_below_it_away(home: Home) -> None:
    state = home.project / "state"
    (state / "deep").mkdir(parents=True)
    (home.project / "src").mkdir()
    policy = Policy(sandbox=Sandbox.READ_ONLY, roots=(home.path,), private=(home.state, state))

    assert policy.folder(str(home.project / "src")) == home.project / "src"
    for folder in (home.project, state, state / "deep"):
        with pytest.raises(Rejected, match="codexd's own state"):
            policy.folder(str(folder))


BY_ANOTHER_NAME = """
import sys
from pathlib import Path
from baa.api.errors import Rejected
from baa.api.sessions import Sandbox
from baa.codexd.policy import Policy
root, *asked = map(Path, sys.argv[1:])
policy = Policy(sandbox=Sandbox.READ_ONLY, roots=(root,), private=(root / "own" / "state",))
for folder in asked:
    try:
        print(policy.folder(str(folder)).name)
    except Rejected as refused:
        print(refused.status, "own state" in refused.message)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="it mounts a folder, in a namespace of its own"
)
def test_our_state_is_known_by_what_it_is_and_not_only_by_its_name(tmp_path: Path) -> None:
    """Where names differ in case alone (macOS), the same folder has many; here a mount gives it another."""
    root = tmp_path.resolve()
    for name in ("own/state/deep", "own/work", "other"):
        (root / name).mkdir(parents=True)
    asked = ["other/state/deep", "other/state", "other", "other/work"]
    script = 'mount --bind "$1/own" "$1/other" && shift && exec "$@"'
    command = ["unshare", "-m", "sh", "-ec", script, "sh", str(root)]
    run = [sys.executable, "-c", BY_ANOTHER_NAME, str(root), *(str(root / name) for name in asked)]
    done = subprocess.run([*command, *run], capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (["403 True"] * 3 + ["work"], "")
    saw("F88", done.stdout, "our state was asked for by another name of it")


def test_any_of_several_roots_will_do_and_a_dot_folder_may_be_one(home: Home) -> None:
    policy = Policy(sandbox=Sandbox.READ_ONLY, roots=(home.beside, home.path / ".ssh"), private=(home.state,))

    assert policy.folder(str(home.beside)) == home.beside
    assert policy.folder(str(home.path / ".ssh")) == home.path / ".ssh"


def test_without_roots_nothing_is_allowed(home: Home) -> None:
    with pytest.raises(Rejected, match="outside the folders"):
        Policy(sandbox=Sandbox.READ_ONLY, roots=(), private=()).folder(str(home.project))


# --- input: words, and images by their path


def test_an_image_inside_the_roots_is_taken_by_its_real_path(home: Home) -> None:
    (home.project / "a.png").touch()
    (home.path / "link.png").symlink_to(home.project / "a.png")
    for path in (home.project / "a.png", home.path / "in" / "a.png", home.path / "link.png"):
        assert home.policy.image(str(path)) == home.project / "a.png"


NO_IMAGE: dict[str, tuple[Callable[[Home], str], Code]] = {
    "outside": (lambda home: str(home.beside / "secret"), Code.POLICY_CEILING),
    "a symlink that leads out": (lambda home: str(home.path / "out" / "secret"), Code.POLICY_CEILING),
    "in a dot folder": (lambda home: str(home.path / ".ssh" / "secret"), Code.POLICY_CEILING),
    "a dot file": (lambda home: str(home.path / ".secret"), Code.POLICY_CEILING),
    "of our own state": (lambda home: str(home.state / "secret"), Code.POLICY_CEILING),
    "missing": (lambda home: str(home.path / "missing"), Code.INVALID_REQUEST),
    "a folder": (lambda home: str(home.project), Code.INVALID_REQUEST),
    "a FIFO": (lambda home: str(home.path / "fifo"), Code.INVALID_REQUEST),
    "a device": (lambda _: "/dev/null", Code.INVALID_REQUEST),
    "dangling": (lambda home: str(home.path / "dangling"), Code.INVALID_REQUEST),
    "a loop": (lambda home: str(home.path / "loop"), Code.INVALID_REQUEST),
    "relative": (lambda _: "file", Code.INVALID_REQUEST),
    "empty": (lambda _: "", Code.INVALID_REQUEST),
    "a NUL": (lambda home: f"{home.path}/file\0", Code.INVALID_REQUEST),
    "a URL": (lambda home: f"file://{home.path}/file", Code.INVALID_REQUEST),
}


@pytest.mark.parametrize(("make", "code"), NO_IMAGE.values(), ids=list(NO_IMAGE))
def test_any_other_path_is_no_image_and_no_file_of_others_is_told_from_a_missing_one(
    home: Home, make: Callable[[Home], str], code: Code
) -> None:
    for folder in (home.beside, home.path / ".ssh", home.state):
        (folder / "secret").touch()
    (home.path / ".secret").touch()
    with pytest.raises(Rejected) as caught:
        home.policy.image(make(home))

    assert (caught.value.code, caught.value.details) == (code, {"field": "input"})


def test_input_is_words_and_images_in_their_order(home: Home) -> None:
    (home.project / "a.png").touch()
    parts: list[InputPart] = [TextInput("See:"), LocalImage(f"{home.path}/in/a.png"), TextInput("What is it?")]
    real = (TextInput("See:"), LocalImage(str(home.project / "a.png")), TextInput("What is it?"))

    assert home.policy.input(None, parts) == real
    request = home.policy.request(StartTurn(session_id="ses_a", input=parts))
    assert (request.prompt, request.input, request.parts) == ("See:\nWhat is it?", real, real)
    plain = home.policy.request(StartTurn(session_id="ses_a", prompt="Go."))
    assert (plain.prompt, plain.input, plain.parts) == ("Go.", (), (TextInput("Go."),))


@pytest.mark.parametrize(
    ("prompt", "parts", "field"),
    [
        (None, None, "prompt"),
        ("Go.", [TextInput("Go.")], "prompt"),
        (None, [], "input"),
        ("x" * (PROMPT_MAX + 1), None, "prompt"),
        (None, [TextInput("x" * PROMPT_MAX), TextInput("x")], "prompt"),
    ],
    ids=["neither", "both", "empty", "too long", "too long together"],
)
def test_input_that_cannot_be_is_refused(
    home: Home, prompt: str | None, parts: list[InputPart] | None, field: str
) -> None:
    with pytest.raises(Rejected) as caught:
        home.policy.input(prompt, parts)

    assert (caught.value.code, caught.value.details["field"]) == (Code.INVALID_REQUEST, field)
    assert len(home.policy.input("x" * PROMPT_MAX, None)) == 1


# --- the ceiling


def test_everything_else_is_taken_as_it_was_asked_for(home: Home) -> None:
    asked = CreateSession(
        cwd=f"{home.path}/in",
        purpose="p",
        model="m",
        model_provider="mp",
        sandbox=Sandbox.READ_ONLY,
        approval_policy=ApprovalPolicy.ON_REQUEST,
        writable_roots=[f"{home.path}/in"],
        base_instructions="b",
        developer_instructions="d",
        personality=Personality.FRIENDLY,
        service_tier="flex",
        ephemeral=True,
        metadata={"k": "v"},
    )

    settings = msgspec.to_builtins(home.policy.settings(asked, f"{home.path}/in"))
    wanted = {**msgspec.to_builtins(asked), "cwd": str(home.project), "writable_roots": (str(home.project),)}
    wanted["networkAccess"] = False
    wanted = {"writableRoots" if name == "writable_roots" else name: value for name, value in wanted.items()}
    assert {name: tuple(value) if name == "writableRoots" else value for name, value in settings.items()} == {
        name: value for name, value in wanted.items() if name != "threadId"
    }


def test_a_session_of_a_higher_ceiling_is_worked_in_no_further(home: Home) -> None:
    settings = SessionSettings(
        cwd=str(home.project), sandbox=Sandbox.WORKSPACE_WRITE, approval_policy=ApprovalPolicy.NEVER
    )
    home.policy.go_on(settings)
    lower = Policy(sandbox=Sandbox.READ_ONLY, roots=(home.path,), private=())
    lower.go_on(settings, StartTurn(session_id="ses", prompt="p", sandbox=Sandbox.READ_ONLY))
    elsewhere = Policy(sandbox=Sandbox.WORKSPACE_WRITE, roots=(home.beside,), private=())
    wider = msgspec.structs.replace(settings, cwd=str(home.beside), writable_roots=(str(home.project),))
    for policy, refused, field in (
        (lower, settings, "sandbox"),
        (elsewhere, settings, "cwd"),
        (elsewhere, wider, "writableRoots"),
    ):
        with pytest.raises(Rejected) as caught:
            policy.go_on(refused)
        assert (caught.value.code, caught.value.details["field"]) == (Code.POLICY_CEILING, field)
    gone = msgspec.structs.replace(settings, cwd=str(home.project / "gone"))
    home.policy.go_on(gone)


SWAPPED: dict[str, Callable[[Home], Path]] = {
    "out of the roots": lambda home: home.beside,
    "into our own state": lambda home: home.state,
    "into a dot folder": lambda home: home.path / ".ssh",
    "to another folder inside the roots": lambda home: home.path / "a.b",
    "to nothing": lambda home: home.path / "nowhere",
}


@pytest.mark.parametrize("part", ["cwd", "its parent", "writableRoots"])
@pytest.mark.parametrize("target", SWAPPED.values(), ids=list(SWAPPED))
def test_a_folder_that_has_become_a_link_is_worked_in_no_further(
    home: Home, part: str, target: Callable[[Home], Path]
) -> None:
    settings = home.policy.settings(CreateSession(writable_roots=[str(home.path / "a.b")]), str(home.project))
    home.policy.go_on(settings)
    swapped = {"cwd": home.project, "its parent": home.project.parent, "writableRoots": home.path / "a.b"}[part]
    to = target(home)
    swapped.rename(home.path / "moved")
    if not to.exists() and to == swapped:
        to = home.path / "moved"
    swapped.symlink_to(to)
    with pytest.raises(Rejected) as caught:
        home.policy.go_on(settings)
    field = "writableRoots" if part == "writableRoots" else "cwd"
    assert (caught.value.code, caught.value.details["field"]) == (Code.POLICY_CEILING, field)
    saw("F88", swapped.is_symlink(), f"{part} was changed for a link after it was checked")


def test_the_configuration_is_as_private_as_the_state(home: Home) -> None:
    file = home.project / "baa.toml"
    policy = Policy(sandbox=Sandbox.READ_ONLY, roots=(home.path,), private=(file,))
    (home.project / "src").mkdir()
    assert policy.folder(str(home.project / "src")) == home.project / "src"
    for folder in (home.project, home.project.parent):
        with pytest.raises(Rejected, match="configuration"):
            policy.folder(str(folder))
