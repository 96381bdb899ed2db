"""How the command line ends: its exit code, and what is said where it could not do what it was asked."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from typing import Final

from cyclopts import CycloptsError

from baa.api.errors import CannotStart

EX_USAGE: Final = 64
SIGINT_EXIT: Final = 130
SIGPIPE_EXIT: Final = 141


def ended(command: Callable[[], int]) -> int:
    """The exit code of a command."""
    try:
        code = _run(command)
        sys.stdout.flush()  # left to the interpreter's end, it would complain
    except BrokenPipeError:  # whoever read this has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGPIPE_EXIT
    except SystemExit as left:
        if isinstance(left.__context__, BrokenPipeError):  # rich has met it, and leaves with 1
            return SIGPIPE_EXIT
        raise
    return code


def _run(command: Callable[[], int]) -> int:
    try:
        return command()
    except CycloptsError as misused:
        misused.verbose = False
        name = " ".join(("baa", *(misused.command_chain or ())))
        return _complain(CannotStart(f"{misused}\nSee: {name} --help", exit_code=EX_USAGE))
    except CannotStart as refused:
        return _complain(refused)
    except KeyboardInterrupt:
        return SIGINT_EXIT


def _complain(refused: CannotStart) -> int:
    from baa.cli.plain import json_line, plain  # not needed for --help

    if "--json" in itertools.takewhile(lambda each: each != "--", sys.argv[1:]):
        from baa.cli.remote import failure

        print(json_line({"ok": False, "error": failure(refused)}))
    else:
        sys.stderr.write(plain(f"baa: {refused.message}\n"))
    return refused.exit_code
