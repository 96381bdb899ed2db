"""Values that nothing of ours sends, in requests to a real codexd: each is refused, and nothing comes of it."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import bad_http, bad_lines, bad_values
from tests.support.corpora import try_requests
from tests.support.faults import saw
from tests.support.fuzz import Fuzzed
from tests.support.node import Node, until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="names of files that are no UTF-8, and /proc"),
    pytest.mark.timeout(240),
]

SEED = 7
TEXTS = (
    *(
        "",
        " ",
        "plain",
        "\u00e9",
        "e\u0301",
        "\u212b",
        "\ufb01",
        "\u0130i",
        "\u05e9\u05dc\u05d5\u05dd",
        "\u202eevil\u202c",
    ),
    *(
        "\u2066x\u2069",
        "a\u200bb",
        "a\u200db",
        "\ufeffx",
        "\U0001f468\u200d\U0001f469\u200d\U0001f466",
        "\U0010ffff",
        "\uffff",
        "\ufffe",
    ),
    *(
        "\x01\x02",
        "\x1b]0;x\x07",
        "\x7f\x80\x9f",
        "\u2028\u2029",
        "\r\n",
        "\t",
        "</script>",
        "' OR 1=1--",
        "\\u0000",
        "%00",
    ),
    *("e" + "\u0301" * 65_536, "\U0001f600" * 20_000, "x" * 100_000),
)
UNTAKEN = ("\0", "a\0b", "\ud800", "\udfff", "x\udc00y", "\ud83d", "\ude00\ud83d")


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """codexd without Codex, whose ceiling is a sandbox's."""
    folder: Path = tmp_path_factory.mktemp("values")
    async with Node(folder, "http://127.0.0.1:9", ceiling="workspace-write", server_command="/nowhere/codex") as made:
        await made.start()
        bad_values.furnish(made.work)
        yield made


async def tried(node: Node, name: str, cases: tuple[bad_http.Case, ...]) -> int:
    """How many; each was answered as it should be, and the log stands where it stood."""
    found, head = Fuzzed(), await node.head()
    await try_requests(found, node, name, cases)
    assert (found.flaws, found.leaks, found.failed) == ([], [], 0)
    assert await node.head() == head
    return found.tried


async def test_what_is_no_good_json_is_refused(node: Node) -> None:
    count = await tried(node, "JSON", bad_values.JSON)
    saw("F81", count >= 300, f"{count} bodies were sent that are no good JSON")
    saw("F82", count >= 300, "numbers and depths beyond what is taken were among them")


async def test_what_is_no_id_finds_nothing(node: Node) -> None:
    count = await tried(node, "ids", bad_values.IDS)
    saw("F84", count >= 300, f"{count} requests named what is no id")


async def test_what_is_no_page_token_or_cursor_is_refused(node: Node) -> None:
    await tried(node, "page tokens", bad_values.PAGE_TOKENS)
    await tried(node, "cursors", bad_values.CURSORS)


async def test_no_session_is_made_where_no_work_may_be_done(node: Node) -> None:
    count = await tried(node, "folders", bad_values.folders(node.work))
    saw("F88", count >= 80, f"{count} sessions were asked for in folders that are none, or are not for work")


async def test_an_id_never_becomes_the_name_of_a_file(tmp_path: Path) -> None:
    """Every call of codexd's that names a file is traced, and none names what the ids hold."""
    assert shutil.which("strace"), "it needs strace"
    trace = tmp_path / "trace"
    async with Node(tmp_path / "node", "http://127.0.0.1:9", server_command="/nowhere/codex") as node:
        strace = ("strace", "-D", "-f", "-b", "execve", "-s", "20000", "-e", "trace=%file", "-o", str(trace))
        node.command = (*strace, "--", sys.executable, "-m", "baa.codexd")
        await node.start()
        pid = node.pid
        await tried(node, "ids", bad_values.IDS)
        answer = await node.post("/v1/codexd/sessions", {"cwd": f"{node.work}/looked-for"})
        assert answer.status_code == 422
        assert await node.stop() == 0, node.stderr
        await until(lambda: re.search(rf"^{pid} +\+\+\+ exited", trace.read_text(errors="replace"), re.MULTILINE))
    calls = trace.read_text(errors="replace")
    saw("F84", "looked-for" in calls, "codexd was traced while it was asked for them")
    assert bad_values.MARK not in calls


def texts() -> list[str]:
    """Those above, in other forms too, and some by chance."""
    draw = random.Random(SEED)
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC") for text in TEXTS if len(text) < 100]
    chance = [
        "".join(chr(draw.choice((127, 0x2FF, 0xFFFF, 0x10FFFF)) - draw.randrange(127)) for _ in range(9))
        for _ in range(60)
    ]
    return [*TEXTS, *forms, *chance]


async def put(node: Node, text: str, *, escaped: bool) -> tuple[int, dict[str, Any]]:
    """Register a session with this text in it; the status, and the answer."""
    body = json.dumps({"cwd": str(node.work), "metadata": {"text": text}}, ensure_ascii=escaped)
    case = bad_values.post("text", bad_values.SESSIONS, body.encode(), ())
    came = await bad_http.exchange(node.address, bad_http.filled(case.raw, node.address, node.token()))
    answer: dict[str, Any] = json.loads(came.partition(b"\r\n\r\n")[2])
    return bad_http.statuses(came)[0], answer


async def test_text_is_kept_as_it_was_or_refused(node: Node) -> None:
    kept = 0
    for text in texts():
        fine = not any(char == "\0" or "\ud800" <= char <= "\udfff" for char in text)
        for escaped in (True, False) if fine else (True,):
            status, answer = await put(node, text, escaped=escaped)
            assert status == (201 if fine else 422), ascii(text)[:80]
            if fine:
                session = await node.session_of(answer["data"]["session"]["sessionId"])
                assert session["metadata"] == {"text": text}
                kept += 1
    for text in UNTAKEN:
        status, answer = await put(node, text, escaped=True)
        assert (status, answer["error"]["code"]) == (422, "invalid_request")
    saw("F83", kept >= 100, f"{kept} texts were kept as they were, and {len(UNTAKEN)} refused")


def test_no_line_of_the_childs_is_more_than_refused() -> None:
    crashes = [crash for line in bad_lines.lines(SEED, 20_000) if (crash := bad_lines.crash(line)) is not None]
    assert crashes == []
