"""The guard with one check less, each as text of `baa.http.guard` and what stands there instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Mutant:
    """`name` says what is missing; `instead` are the substitutions that take it away."""

    name: str
    instead: tuple[tuple[str, str], ...]


def _one(name: str, old: str, new: str) -> Mutant:
    return Mutant(name, ((old, new),))


_HOST = "len(hosts) != 1 or hosts[0].lower() not in self._hosts"
_KEPT = 'access != "passed" or scope[TRUSTED]'
_DIGESTS = "hmac.compare_digest(_digest(given), _digest(token))"

MUTANTS: Final = (
    _one("no check of the Host", "        self._check_host(headers)\n", ""),
    _one("a missing Host passes", _HOST, "hosts and (len(hosts) != 1 or hosts[0].lower() not in self._hosts)"),
    _one("the first of two Hosts counts", _HOST, "not hosts or hosts[0].lower() not in self._hosts"),
    _one(
        "the port of a Host does not matter",
        _HOST,
        'len(hosts) != 1 or hosts[0].lower().rpartition(":")[0] not in {h.rpartition(":")[0] for h in self._hosts}',
    ),
    _one(
        "a Host that begins well passes",
        _HOST,
        "len(hosts) != 1 or not hosts[0].lower().startswith(tuple(self._hosts))",
    ),
    _one("a Host that ends well passes", _HOST, "len(hosts) != 1 or not hosts[0].lower().endswith(tuple(self._hosts))"),
    _one("a Host in capitals is refused", "hosts[0].lower() not in self._hosts", "hosts[0] not in self._hosts"),
    _one("no check of the page", "        self._check_origin(headers)\n", ""),
    _one("no check of Origin", '"origin" in headers or ', ""),
    _one("an empty Origin passes", '"origin" in headers or ', 'any(headers.get("origin", [])) or '),
    _one("the Origin null passes", '"origin" in headers or ', 'headers.get("origin", ["null"]) != ["null"] or '),
    _one("no check of Referer", 'or "referer" in headers or', "or"),
    _one("no check of Sec-Fetch-Site", " or strange:", ":"),
    _one(
        "the first Sec-Fetch-Site counts",
        'headers.get("sec-fetch-site", []))',
        'headers.get("sec-fetch-site", [])[:1])',
    ),
    _one("a page of ours may ask any server", "if has_pages else", "if True else"),
    _one(
        "no WebSocket is checked",
        "held, keeps_body = self._admit(scope)",
        'held, keeps_body = (None, True) if scope["type"] == "websocket" else self._admit(scope)',
    ),
    _one(
        "no HTTP is checked",
        "held, keeps_body = self._admit(scope)",
        'held, keeps_body = (None, True) if scope["type"] == "http" else self._admit(scope)',
    ),
    _one("what is not known is open", "if access is None:", 'if access is None and (access := "open") is None:'),
    _one("a WebSocket is taken for a GET", '"websocket" if scope["type"] == "websocket" else "http"', '"http"'),
    _one("HEAD is taken for GET", 'scope.get("method", "GET")', 'scope.get("method", "GET").replace("HEAD", "GET")'),
    _one(
        "an end of / does not matter",
        'self._routes(kind, method, scope["path"])',
        'self._routes(kind, method, scope["path"].rstrip("/") or "/")',
    ),
    _one(
        "no check of the token", 'None if access in ("open", "passed") else self._check_token(headers, access)', "None"
    ),
    _one("reads need no token", 'None if access in ("open", "passed") else', 'None if access != "drive" else'),
    Mutant(
        "any token will do",
        (
            ("if not held:", 'if "authorization" not in headers:'),
            ("return next(iter(held.values()))", 'return next(iter(held.values()), "")'),
            ('and "drive" not in held', "and False"),
        ),
    ),
    _one("the read token drives", 'if access == "drive" and "drive" not in held:', "if False:"),
    _one(
        "the drive token is any scope's",
        "for scope, token in self._tokens.now().items() if bears(given, token)",
        'for token in self._tokens.now().values() for scope in ("read", "drive") if bears(given, token)',
    ),
    _one("the first of two tokens counts", "if len(authorization) == 1 else", "if authorization else"),
    _one("the scheme does not matter", ' and scheme.lower() == "bearer"', ""),
    _one("a part of a token will do", _DIGESTS, "given in token"),
    _one("a token with more behind it will do", _DIGESTS, "given.startswith(token)"),
    _one("a token with more before it will do", _DIGESTS, "given.endswith(token)"),
    _one("only the length of a token counts", _DIGESTS, "len(given) == len(token)"),
    _one(
        "no check of the content",
        '            _check_content(headers, scope["method"], of_any_type=access == "passed")\n',
        "            pass\n",
    ),
    _one("any type of content", "method in BODY_METHODS and not _is_json", "False and not _is_json"),
    _one(
        "a Content-Encoding passes",
        'if any(value.lower() != "identity"',
        'if False and any(value.lower() != "identity"',
    ),
    _one("what is announced does not matter", "        limits.check_announced(value)\n", "        pass\n"),
    _one("two types of content pass", "if len(content_types) != 1:", "if not content_types:"),
    _one(
        "a type that begins well passes",
        'media_type == "application/json"',
        'media_type.startswith("application/json")',
    ),
    _one("any parameter of a type passes", "parameter in (", "True or parameter in ("),
    _one(
        "a body has no limit",
        "whole = await limits.read_body(receive, keep=keeps_body)",
        'whole = (await receive())["body"]',
    ),
    _one("a stranger's body is passed on", _KEPT, "True"),
    _one("no body is passed on", _KEPT, 'access != "passed"'),
    _one("what is passed on has any encoding", "if any(value.lower()", "if not of_any_type and any(value.lower()"),
    _one(
        "refusals are not counted",
        "except Rejected as refusal:\n            self.refused[refusal.code] += 1\n",
        "except Rejected as refusal:\n",
    ),
    _one("a refusal repeats what was asked", 'quote(raw.partition(b"?")[0], safe="/%:@~!$()*+,;=")', "raw.decode()"),
    _one("no security fields", "        send = _with_security_headers(send)\n", ""),
)
