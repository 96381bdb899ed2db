"""codexd on a log that does not sync its commits: what SQLite's NORMAL would be. Run in place of `-m baa.codexd`.

Every connection of the process refuses, silently, to be told another `synchronous`; nothing of ours is changed.
"""

from __future__ import annotations

import runpy

import apsw


def unsynced(connection: apsw.Connection) -> None:
    def authorize(operation: int, first: str | None, second: str | None, *_: str | None) -> int:
        told = operation == apsw.SQLITE_PRAGMA and first == "synchronous" and second is not None
        return apsw.SQLITE_IGNORE if told else apsw.SQLITE_OK

    connection.execute("PRAGMA synchronous=NORMAL")
    connection.authorizer = authorize


if __name__ == "__main__":
    apsw.connection_hooks.append(unsynced)
    runpy.run_module("baa.codexd", run_name="__main__", alter_sys=True)
