"""Bytes that are no good request, or one that is made to be read in two ways; and what must come of each.

`{host}` stands for the right Host line, `{drive}` for a good token's, `{json}` for the content type. The requests that
are right in themselves ask for `/healthz`, which every program answers; what is smuggled would make a session.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final, NamedTuple

from baa.http.guard import SECURITY_HEADERS
from tests.support.node import PATIENCE_SECONDS

SMUGGLED: Final = (
    b"POST /v1/codexd/sessions HTTP/1.1\r\n{host}{drive}{json}Content-Length: 14\r\nConnection: close\r\n\r\n"
    b'{"cwd":"/tmp"}'
)
GET: Final = b"GET /healthz HTTP/1.1\r\n{host}"
POST: Final = b"POST /v1/codexd/sessions HTTP/1.1\r\n{host}{drive}{json}"
END: Final = b"Connection: close\r\n\r\n"
BAD: Final = ((400,),)
GONE: Final = ((),)


class Case(NamedTuple):
    """`come` are the statuses that may come back, in each order that is right; () = the connection is closed.

    `half`: more would have to follow, and the client says that nothing does.
    """

    name: str
    raw: bytes
    come: tuple[tuple[int, ...], ...] = BAD
    half: bool = False


CASES: Final = (
    # one body, two lengths
    Case("content-length and chunked", POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED),
    Case("chunked and content-length", POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + SMUGGLED),
    Case("two content-lengths", POST + b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n" + SMUGGLED),
    Case("the same content-length twice", POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}"),
    Case("a list of content-lengths", POST + b"Content-Length: 0, 44\r\n\r\n" + SMUGGLED),
    Case("a content-length with a sign", POST + b"Content-Length: +2\r\n\r\n{}"),
    Case("a negative content-length", POST + b"Content-Length: -1\r\n\r\n" + SMUGGLED),
    Case("a content-length in hex", POST + b"Content-Length: 0x2\r\n\r\n{}"),
    Case("a content-length with a decimal point", POST + b"Content-Length: 2.0\r\n\r\n{}"),
    Case("an empty content-length", POST + b"Content-Length: \r\n\r\n" + SMUGGLED),
    Case("a content-length beyond 64 bits", POST + b"Content-Length: 18446744073709551616\r\n\r\n{}"),
    Case("a content-length that wraps", POST + b"Content-Length: 18446744073709551618\r\n\r\n{}"),
    Case("chunked twice", POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    Case("chunked and identity", POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
    Case("a list that ends in chunked", POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    Case("chunked, then identity", POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    Case("a vertical tab before chunked", POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED),
    Case("quoted chunked", POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n' + SMUGGLED),
    Case("chunkedness", POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED),
    Case("a space before the colon", POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED),
    Case("chunked in HTTP/1.0", POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    # chunks
    Case("a chunk size that is no number", POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n"),
    Case("a negative chunk size", POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n"),
    Case("a chunk size in 0x", POST + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n"),
    Case("a chunk size that wraps", POST + b"Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\n{}\r\n0\r\n\r\n"),
    Case("a chunk size of 17 f", POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}"),
    Case("the largest chunk size", POST + b"Transfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n{}", GONE, half=True),
    Case("a chunk longer than its size", POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n"),
    Case("a chunk size that ends in LF", POST + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n"),
    Case("a chunk that ends in LF", POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\n0\r\n\r\n"),
    Case("a chunk extension with LF", POST + b"Transfer-Encoding: chunked\r\n\r\n2;a\nb\r\n{}\r\n0\r\n\r\n"),
    Case("a chunk extension", POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n", ((422,),)),
    Case("a trailer", POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nHost: evil.example\r\n\r\n"),
    Case("half a chunk", POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{", GONE, half=True),
    # lines
    Case("lines that end in LF", b"GET /healthz HTTP/1.1\nHost: {name}\n\n"),
    Case("a field that ends in LF", GET + b"X: y\nConnection: close\r\n\r\n"),
    Case("a field that ends in CR", GET + b"X: y\rConnection: close\r\n\r\n"),
    Case("a folded field", GET + b"X: y\r\n folded\r\n" + END),
    Case("a folded field with a tab", GET + b"X: y\r\n\tfolded\r\n" + END),
    Case("a field without a colon", GET + b"X\r\n" + END),
    Case("a field without a name", GET + b": y\r\n" + END),
    Case("a name with a space", GET + b"X Y: z\r\n" + END),
    Case("NUL in a name", GET + b"X\x00Y: z\r\n" + END),
    Case("NUL in a value", GET + b"X: y\x00z\r\n" + END),
    Case("NUL in the target", b"GET /healthz\x00 HTTP/1.1\r\n{host}" + END),
    Case("a name in UTF-8", GET + "Ünïcode: y\r\n".encode() + END),
    Case("a value in UTF-8", GET + "X: ünïcode\r\n".encode() + END, ((200,),)),
    Case("a token in UTF-8", b"GET /v1/codexd/sessions HTTP/1.1\r\n{host}" + "Authorization: Bearer ü\r\n".encode() + END, ((401,),)),
    Case("escapes in a value", GET + b"X: \x1b]0;x\x07\r\n" + END),
    Case("a line before the request", b"\r\n" + GET + END, ((200,),)),
    Case("a space before the request", b" " + GET + END),
    Case("two spaces in the request line", b"GET  /healthz HTTP/1.1\r\n{host}" + END, ((400,), (200,))),
    Case("a tab in the request line", b"GET\t/healthz HTTP/1.1\r\n{host}" + END),
    Case("a space in the target", b"GET /health z HTTP/1.1\r\n{host}" + END),
    Case("a method in small letters", b"get /healthz HTTP/1.1\r\n{host}" + END),
    Case("a method of 10,000 characters", b"G" * 10_000 + b" /healthz HTTP/1.1\r\n{host}" + END),
    Case("a target of 100,000 characters", b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\n{host}" + END, (*BAD, *GONE)),
    Case("a field of 100,000 characters", GET + b"X: " + b"y" * 100_000 + b"\r\n" + END, (*BAD, *GONE)),
    Case("10,000 fields", GET + b"X: y\r\n" * 10_000 + END, (*BAD, *GONE)),
    Case("65 fields", GET + b"X: y\r\n" * 65 + END),
    Case("no field at all", b"GET /healthz HTTP/1.1\r\n\r\n", ((421,),)),
    # versions and protocols
    Case("HTTP/0.9", b"GET /healthz\r\n\r\n"),
    Case("HTTP/0.9 in words", b"GET /healthz HTTP/0.9\r\n{host}" + END),
    Case("HTTP/1.0", b"GET /healthz HTTP/1.0\r\n{host}\r\n", ((200,),)),
    Case("HTTP/1.2", b"GET /healthz HTTP/1.2\r\n{host}" + END),
    Case("HTTP/2.0 in words", b"GET /healthz HTTP/2.0\r\n{host}" + END),
    Case("HTTP/9.9", b"GET /healthz HTTP/9.9\r\n{host}" + END),
    Case("no version", b"GET /healthz HTTP/\r\n{host}" + END),
    Case("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
    Case("an upgrade to HTTP/2", GET + b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: close, Upgrade, HTTP2-Settings\r\n\r\n", ((200,),)),
    Case("TLS", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(32) + b"\r\n\r\n"),
    Case("mail", b"EHLO evil.example\r\nMAIL FROM:<a@evil.example>\r\n"),
    Case("redis", b"*1\r\n$4\r\nPING\r\n"),
    Case("an answer", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    Case("NULs", bytes(64)),
    Case("ones", b"\xff" * 64),
    # whose host
    Case("an absolute target of another host", b"GET http://evil.example/healthz HTTP/1.1\r\n{host}" + END, ((421,),)),
    Case("an absolute target with a user", b"GET http://a@{name}/healthz HTTP/1.1\r\n{host}" + END, ((421,), (400,))),
    Case("an absolute target of no host", b"GET http:///healthz HTTP/1.1\r\n{host}" + END, ((421,), (400,))),
    Case("a target of another scheme", b"GET ftp:///etc/passwd HTTP/1.1\r\n{host}" + END, ((421,), (400,), (404,))),
    Case("two hosts in one line", b"GET /healthz HTTP/1.1\r\nHost: {name}, evil.example\r\n" + END, ((421,),)),
    Case("a forwarded host", b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: {name}\r\nForwarded: host={name}\r\n" + END, ((421,),)),
    Case("CONNECT", b"CONNECT {name} HTTP/1.1\r\n{host}" + END, ((400,), (404,))),
    Case("a target of two slashes", b"GET //evil.example/healthz HTTP/1.1\r\n{host}" + END, ((404,),)),
    Case("a fragment in the target", b"GET /healthz#x HTTP/1.1\r\n{host}" + END, ((200,), (400,), (404,))),
    Case("dots in the target", b"GET /x/../healthz HTTP/1.1\r\n{host}" + END, ((404,),)),
    Case("a target in percent", b"GET /%68ealthz%00 HTTP/1.1\r\n{host}" + END, ((404,),)),
    Case("percents of no byte", b"GET /healthz?%zz=%f HTTP/1.1\r\n{host}" + END, ((200,), (422,), (400,))),
    # more than one, less than one
    Case("three in one piece", (GET + b"\r\n") * 2 + GET + END, ((200, 200, 200),)),
    Case("a good one, then garbage", GET + b"\r\n\x00garbage\r\n\r\n", ((200, 400), (400,))),
    Case("a refused one, then another", b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n" + SMUGGLED, ((421,),)),
    Case("one without a token, then another", POST.replace(b"{drive}", b"") + b"Content-Length: 4\r\n\r\nxxxx" + SMUGGLED, ((401,), (401, 403))),
    Case("a body behind a GET", GET + b"Content-Length: 4\r\n" + END + b"xxxx", ((200,),)),
    Case("a request as the body of a GET", GET + b"Content-Length: 8\r\nConnection: close\r\n\r\nGET / HT" + SMUGGLED, ((200,),)),
    Case("nothing", b"", GONE, half=True),
    Case("half a method", b"GE", GONE, half=True),
    Case("half a head", GET + b"X: y", GONE, half=True),
    Case("a head without its end", GET, GONE, half=True),
    Case("half a body", POST + b"Content-Length: 100\r\n\r\n{", GONE, half=True),
    Case("no body", POST + b"Content-Length: 100\r\n\r\n", GONE, half=True),
    Case("leave to go on", POST + b"Expect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}", ((100, 422), (422,))),
    Case("an expectation that nobody meets", GET + b"Expect: 200-maybe\r\n" + END, ((200,), (417,), (400,))),
    Case("leave to go on, refused", b"POST /v1/codexd/sessions HTTP/1.1\r\n{host}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", ((401,), (415,), (100, 408))),
)  # fmt: skip
"""On a program that has no sessions, those that would make one are 404."""

_STATUS: Final = re.compile(rb"(?:^|\n?)HTTP/1\.1 (\d{3}) ")


def filled(raw: bytes, address: str, token: str) -> bytes:
    """`raw` with what stands for the program's address and a good token put in."""
    name = address.removeprefix("http://").encode()
    fields = {
        b"{host}": b"Host: " + name + b"\r\n",
        b"{name}": name,
        b"{drive}": b"Authorization: Bearer " + token.encode() + b"\r\n",
        b"{json}": b"Content-Type: application/json\r\n",
    }
    for word, value in fields.items():
        raw = raw.replace(word, value)
    return raw


async def exchange(address: str, raw: bytes, *, half: bool = False) -> bytes:
    """All that comes back until the server closes. Raises TimeoutError if it does not."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    came = b""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            writer.write(raw)
            if half:
                writer.write_eof()
            while piece := await reader.read(65536):
                came += piece
    except ConnectionError:
        pass  # closed hard: it may have been in the middle of what we sent
    finally:
        writer.close()
    return came


def flaw(case: Case, came: bytes, *, sessions: bool) -> str | None:
    """What is wrong with all that came back. `sessions`: whether the program has any."""
    found = statuses(came)
    if found not in case.come and (sessions or found != (404,)):
        return f"{case.name}: {found} came"
    for answer in _STATUS.split(came)[2::2]:
        head, _, body = answer.partition(b"\r\n\r\n")
        if answer.startswith(b"Continue\r\n"):  # no answer yet
            continue
        if any(name + b": " + value not in head.lower() for name, value in SECURITY_HEADERS):
            return f"{case.name}: {head!r}"
        if not (b'{"ok":true,"data":' in body or re.search(rb'^{"ok":false,"error":{"code":"[a-z_]+"', body)):
            return f"{case.name}: {body!r}"
    return None


def statuses(came: bytes) -> tuple[int, ...]:
    """The statuses of the answers that came."""
    return tuple(int(status) for status in _STATUS.findall(came))
