"""What is run as the child, and what it sees of our environment."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from baa.codex import DEFAULT_COMMAND, NoProgram, find
from baa.codexd.program import arguments, environment

KEEPER_ID = "kpr_x"


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither the extra nor anything on PATH; the folder that is PATH."""
    monkeypatch.setitem(sys.modules, "codex_cli_bin", None)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_program_that_was_set_is_that_very_file(nothing_installed: Path, tmp_path: Path) -> None:
    mine = executable(tmp_path / "my codex" / "codex")

    assert find(str(mine)) == mine
    assert find("~/my codex/codex") == mine
    assert find("./my codex/codex") == mine


def test_a_name_that_was_set_is_looked_for_on_path(nothing_installed: Path) -> None:
    mine = executable(nothing_installed / "codex-nightly")

    assert find("codex-nightly") == mine


def test_what_is_set_and_cannot_be_run_is_told_and_nothing_else_is_taken_for_it(
    nothing_installed: Path, tmp_path: Path
) -> None:
    executable(nothing_installed / "codex")
    (tmp_path / "text").write_text("no program")
    for command in (str(tmp_path / "missing"), str(tmp_path / "text"), str(tmp_path), "codex-nightly"):
        with pytest.raises(NoProgram, match=f"BAA_CODEXD_SERVER_COMMAND is '{command}'"):
            find(command)


def test_by_default_the_extras_program_wins_over_one_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codex_cli_bin import bundled_codex_path

    executable(tmp_path / "codex")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find(DEFAULT_COMMAND) == Path(bundled_codex_path())


def test_without_the_extra_the_one_on_path_is_taken(nothing_installed: Path) -> None:
    codex = executable(nothing_installed / "codex")

    assert find(DEFAULT_COMMAND) == codex


def test_without_any_codex_it_is_said_how_to_get_one(nothing_installed: Path) -> None:
    with pytest.raises(NoProgram, match=r"pip install 'baa-conductor\[codex\]'"):
        find(DEFAULT_COMMAND)


def test_the_settings_that_keep_codex_to_itself_come_after_what_was_configured() -> None:
    assert arguments(Path("/opt/codex"), ("app-server", "-c", "a=1")) == [
        *("/opt/codex", "app-server", "-c", "a=1"),
        *("-c", "features.plugins=false"),
        *("-c", "analytics.enabled=false"),
        *("-c", "feedback.enabled=false"),
        *("-c", "check_for_update_on_startup=false"),
    ]


# --- the environment

SECRETS = dict.fromkeys(
    [
        "BAA_SHARED_TOKEN",
        "BAA_HOME",
        "BAA_CODEXD_CODEX_HOME",
        "OPENAI_API_KEY",
        "CODEX_API_KEY",
        "ANTHROPIC_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "GITHUB_TOKEN",
        "SSH_AUTH_SOCK",
        "DBUS_SESSION_BUS_ADDRESS",
        "XDG_RUNTIME_DIR",
        "HTTP_PROXY",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "NODE_OPTIONS",
        "BASH_ENV",
        "ENV",
        "RUST_LOG",
        "CODEX_HOME",
        "path",
        "Path",
        "LCX",
        "MY_LC_ALL",
        "HOMEBREW_GITHUB_API_TOKEN",
    ],
    "secret",
)


def test_the_child_sees_only_what_is_on_the_list() -> None:
    given = {
        "PATH": "/bin",
        "HOME": "/home/user",
        "LANG": "de_DE.UTF-8",
        "LC_ALL": "C",
        "TZ": "UTC",
        "SHELL": "/bin/sh",
    }

    assert environment(given | SECRETS, codex_home=Path("/codex"), keeper_id=KEEPER_ID) == given | {
        "CODEX_HOME": "/codex",
        "RUST_LOG": "warn",
        "BAA_KEEPER_ID": KEEPER_ID,
    }


def test_no_secret_of_ours_is_anywhere_in_it() -> None:
    made = environment(SECRETS, codex_home=Path("/codex"), keeper_id=KEEPER_ID)

    assert "secret" not in made.values()


def test_where_nothing_is_set_there_is_a_path_and_a_locale() -> None:
    made = environment({}, codex_home=Path("/codex"), keeper_id=KEEPER_ID)

    assert made["LANG"] == "C.UTF-8"
    assert "/bin" in made["PATH"]


def test_what_the_user_set_themselves_is_kept() -> None:
    made = environment({"LANG": "C", "PATH": ""}, codex_home=Path("/codex"), keeper_id=KEEPER_ID)

    assert (made["LANG"], made["PATH"]) == ("C", "")
