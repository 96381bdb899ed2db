"""Values that are no good JSON, id, page token, cursor or folder, as requests in bytes; and what must come of each.

The cases are those of bad_http: `{host}`, `{drive}` and `{json}` stand for what a right request has.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tests.support.bad_http import END, Case

REFUSED: Final = ((422,),)
NOT_JSON: Final = ((400,),)
SESSIONS: Final = b"/v1/codexd/sessions"


def get(name: str, target: bytes, come: tuple[tuple[int, ...], ...]) -> Case:
    """A GET of a target, as it stands."""
    return Case(name, b"GET " + target + b" HTTP/1.1\r\n{host}{drive}" + END, come)


def post(name: str, target: bytes, body: bytes, come: tuple[tuple[int, ...], ...]) -> Case:
    """A POST with this body."""
    length = b"Content-Length: " + str(len(body)).encode() + b"\r\n"
    return Case(name, b"POST " + target + b" HTTP/1.1\r\n{host}{drive}{json}" + length + END + body, come)


# --- ids

MARK: Final = "xyzzy"
"""Stands in every id below: no file is ever looked for by such a name."""
LONG: Final = "trn_" + "0123456789abcdefghjkmnpqrs"
_IDS: Final = (
    *("..", "../..", "../../etc/passwd", "..%2f..%2f", "%2e%2e%2f%2e%2e%2f", "%252e%252e%252f", "..%5c", "..;/", "./"),
    *(
        "%00",
        "%0a",
        "%0d%0aX: y",
        "%20",
        "%7f",
        "%1b]0;x%07",
        "%ff",
        "%c0%af",
        "%ed%a0%80",
        "%e2%80%ae",
        "%F0%9F%98%80",
    ),
    *(
        "~",
        "*",
        "'%20OR%201=1--",
        "%22",
        "%3b",
        "{}",
        "$(id)",
        "`id`",
        "|",
        "[0]",
        "%25s%25n",
        "C:",
        "file:",
        "\\\\host",
    ),
    *("\u0660\u0661".encode().hex("%"), "x" * 7000, "null", "0", "-1", "1e9", "NaN", "true", ""),
)
_LIKE_ONES: Final = tuple(
    f"trn_{each}"
    for each in (
        "0123456789abcdefghjkmnpqrs",
        "0123456789ABCDEFGHJKMNPQRS",
        "0123456789abcdefghjkmnpqrs0",
        "0123456789abcdefghjkmnpqr",
        "0123456789abcdefghjkmnpqrs%0a",
        "0123456789abcdefghjkmnpqrs%00",
        "0123456789abcdefghjkmnpqr%EF%BC%91",
        "0123456789abcdefghjkmnpqri",
        "../../../../../../../../..",
    )
)
NOWHERE: Final = ((404,), (422,), (400,))


def _id_cases() -> tuple[Case, ...]:
    cases: list[Case] = []
    words = [*(f"{MARK}{each}" for each in _IDS), *(f"{each}{MARK}" for each in _IDS), *_LIKE_ONES]
    for word in words:
        raw = word.encode()
        for where, target in (("session", SESSIONS + b"/" + raw), ("turn", b"/v1/codexd/turn/" + raw)):
            cases.append(get(f"{where} {word[:60]!r}", target, NOWHERE))
        cases.append(post(f"close {word[:60]!r}", SESSIONS + b"/" + raw + b"/close", b"{}", NOWHERE))
        text = json.dumps({"sessionId": word, "prompt": "Go."}).encode()
        cases.append(post(f"a turn of {word[:60]!r}", b"/v1/codexd/turn", text, NOWHERE))
        cases.append(get(f"events of {word[:60]!r}", b"/v1/codexd/events?sessionId=" + quote(word).encode(), NOWHERE))
    return tuple(cases)


IDS: Final = _id_cases()

# --- page tokens and limits, cursors

_NUMBERS: Final = (
    *("", "-1", "+1", " 1", "1 ", "1.0", "1e3", "0x1", "1_0", "\u0661", "\uff11", "\u00b2", "x", "NaN", "null", "[]"),
    *("1\0", "1\n", "1,2", "4611686018427387905", "9223372036854775808", "9" * 20, "9" * 5000, "\ud800", "' OR 1=1--"),
)


def _quoted(text: str) -> bytes:
    return quote(text.encode("utf-8", "surrogatepass"), safe="").encode()


PAGE_TOKENS: Final = tuple(
    get(f"{name}={text[:40]!r} of {target.decode()}", target + f"?{name}=".encode() + _quoted(text), REFUSED)
    for target in (SESSIONS,)
    for name in ("pageToken", "limit")
    for text in (*_NUMBERS, *(("0", "1001") if name == "limit" else ()))
)
CURSORS: Final = (
    *(
        get(f"after={text[:40]!r}", b"/v1/codexd/events?after=" + _quoted(text), come)
        for text, come in (
            *((each, REFUSED) for each in _NUMBERS if each),
            *((each, REFUSED) for each in ("", "00", ":", ":7", "abc:", "abc:-1", "abc:+7", "abc: 7", "abc:\u0667")),
            *((each, REFUSED) for each in ("abc:7.0", "abc:0x7", "abc:1_0", "abc:" + "1" * 19, "abc:" + "9" * 5000)),
            *((each, ((410,),)) for each in ("abc:7", "a:bc:7", "../x:7", "abc\0:7", "\u202e:7", "e" * 5000 + ":7")),
        )
    ),
    get("after twice", b"/v1/codexd/events?after=0&after=0", REFUSED),
)

# --- JSON

_BROKEN: Final = (
    *(b"{", b"[", b"}", b"]", b"[}", b"{]", b":", b",", b'"', b"'x'", b"{'a':1}", b"{a:1}", b"{1:1}", b'{"a"}', b'{"a":}'),
    *(b'{"a" 1}', b'{"a"::1}', b'{"a":1,}', b'{,"a":1}', b'{"a":1,,"b":2}', b'{"a":1 "b":2}', b'{"a":1;"b":2}'),
    *(b"[1,]", b"[,1]", b"[1,,2]", b"[1 2]", b"[1;2]", b"[1:2]", b"1,", b"1 2", b"[1", b"{}}", b"[]]", b"(1)", b"<a/>"),
    *(b"nul", b"nulll", b"True", b"None", b"undefined", b"NaN", b"-NaN", b"Infinity", b"-Infinity", b"nan", b"inf"),
    *(b"01", b"-01", b"+1", b"-", b"--1", b".5", b"5.", b"-.5", b"1e", b"1e+", b"1.e1", b"0x1", b"0b1", b"1_0", b"1f"),
    *(b"1e999", b"-1e999", b"9223372036854775808", b"-9223372036854775809", b"9" * 5000, b"\xd9\xa1", b"\xef\xbc\x91"),
    *(b'"\\x41"', b'"\\u12"', b'"\\u12G4"', b'"\\', b'"\\q"', b'"\\u"', b'"\n"', b'"\t"', b'"\x00"', b'"\x1f"', b'"a" "b"'),
    *(b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xc3"', b"\xef\xbb\xbf1", b"\xa0", b"\x0c1", b"\x0b1"),
    *(b"/**/1", b"1//x", b"#x\n1", b"1\x00", b'{"a":1,"a":2}', b'{"a":{"b":1,"b":1}}', b'{"\\u0061":1,"a":1}'),
    *(b"[" * 100_000, b'{"a":' * 100_000, b"[" * 40 + b"]" * 40, b'{"a":' * 40 + b"1" + b"}" * 40, b"[" + b"0," * 10_001 + b"0]"),
)  # fmt: skip
_AROUND: Final = (b"%b", b'{"cwd":%b}', b'{"metadata":{"k":%b}}', b"[%b]")
_FINE: Final = (
    *(
        b"[" * 9 + b"]" * 9,
        b"9007199254740993",
        b"9223372036854775807",
        b"-9223372036854775808",
        b"1e308",
        b"-0",
        b"1E2",
    ),
    *(
        b'"\\ud800"',
        b'"\\udc00x"',
        b'"\\u0000"',
        b'"\\ud83d\\u0041"',
        b"true",
        b"null",
        b"[]",
        b"{}",
        b'"x"',
        b"[1, 2]",
    ),
)
JSON: Final = (
    *(
        post(f"{around!r} of {len(each)} bytes: {each[:30]!r}", SESSIONS, around % each, NOT_JSON)
        for around in _AROUND
        for each in _BROKEN
    ),
    *(post(f"good JSON of no use {each[:30]!r}", SESSIONS, b'{"cwd":[%b]}' % each, REFUSED) for each in _FINE),
    *(
        post(f"a text in {name}", SESSIONS, '{"cwd":"/tmp"}'.encode(name), NOT_JSON)
        for name in ("utf-16", "utf-16-le", "utf-32", "utf-8-sig")
    ),
)


# --- folders


def furnish(work: Path) -> None:
    """Make what the folders below are to be met at, in and beside a root."""
    (work / "file").touch()
    (work / "inside").mkdir()
    os.mkfifo(work / "fifo")
    work.with_name(work.name + "-evil").mkdir()
    links = {"out": "/", "loop": "loop", "nowhere": "missing", "beside": f"../{work.name}-evil", "etc": "/etc"}
    for name, target in links.items():
        (work / name).symlink_to(target)
    (work / ".hidden").mkdir()
    os.mkdir(os.fsencode(work) + b"/bad\xff")
    (work / "odd").symlink_to(os.fsdecode(b"bad\xff"))


def folders(work: Path) -> tuple[Case, ...]:
    """Sessions in folders that are none, or are not for work; `work` is a root that was furnished."""
    above: tuple[str, ...] = ("/", "/etc", "/proc/self/cwd", "/dev/fd", "{w}/..", "{w}/../..", "{w}-evil")
    above += (
        "{w}/inside/../../..",
        "{w}/out",
        "{w}/out/etc",
        "{w}/etc",
        "{w}/beside",
        "{w}/.hidden",
        "//etc",
        "{w}//../..",
    )
    none: tuple[str, ...] = (
        "",
        ".",
        "..",
        "work",
        "~",
        "~root",
        "$HOME",
        "{w}/missing",
        "{w}/file",
        "{w}/file/",
        "{w}/file/x",
        "{w}/fifo",
    )
    none += ("{w}/loop", "{w}/nowhere", "{w}/odd", "/dev/null", " {w}", "{w}/ ", "{w}\n", "{w}/%69nside", "file://{w}")
    none += (
        "{w}/" + "x" * 300,
        "{w}/" + "x/" * 3000,
        "{w}\\inside",
        "{w}/inside\u200b",
        "{w}/*",
        "-",
        "--",
        "C:\\",
        "\\\\a\\b",
    )
    held = ("{w}\0", "\0", "{w}/\ud800", "{w}/bad\udcff")
    wanted = [*((each, ((403,),)) for each in above), *((each, REFUSED) for each in (*none, *held))]
    return tuple(
        post(f"{field} {each[:60]!r}", SESSIONS, json.dumps(body | {field: asked}).encode(), come)
        for each, come in wanted
        for text in (each.replace("{w}", str(work)),)
        for field, body, asked in (("cwd", {}, text), ("writableRoots", {"cwd": str(work)}, [text]))
    )
