"""`python -m baa.codexd [--config FILE]`: codexd alone, in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import structlog

from baa import config, logs
from baa.api.errors import CannotStart
from baa.codexd import daemon
from baa.codexd.eventlog import LogFailed

EX_CANTCREAT = 73


def main(config_file: Path | None = None, *, on_started: Callable[[str], None] | None = None) -> int:
    """Run codexd until it is stopped; the exit code (sysexits).

    `on_started` is told the address; without it, the address is the one line on stdout.
    """
    try:
        resolved = config.load(config_file)
        _log_to(resolved.logs_dir)
        asyncio.run(daemon.run(resolved, on_started=on_started or _say_where))
    except CannotStart as refused:
        sys.stderr.write(f"codexd: {refused.message}\n")
        return refused.exit_code
    except LogFailed as failed:
        sys.stderr.write(f"codexd: {failed}. Codex goes on; start codexd again once that is mended.\n")
        return daemon.EX_IOERR
    except Exception as error:  # boundary: program. A mistake of ours ends codexd: its log must say so.
        structlog.get_logger("codexd").error("failed", exc_info=error)
        raise
    return 0


def _log_to(folder: Path) -> None:
    try:
        logs.to_folder(folder, "codexd")
    except OSError as error:
        raise CannotStart(f"The log cannot be written to {folder}: {error}", exit_code=EX_CANTCREAT) from error


def _say_where(address: str) -> None:
    sys.stdout.write(f"codexd {address}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m baa.codexd", description=__doc__)
    parser.add_argument("--config", type=Path, help="the configuration file (default: BAA_CONFIG, else baa.toml)")
    sys.exit(main(parser.parse_args().config))
