"""How a server shows that it knows a token, before a client sends it: `GET /healthz?nonce=…`.

Whoever listens on codexd's port while codexd is dead can read what is sent there. So a client asks first, on the very
connection that it will use, for what only somebody with the token can compute. The Host is part of it: who only passes
the question on to a server of ours gets a proof for that server's address, which the client does not take.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

from baa.api.errors import Code, Rejected
from baa.http.tokens import Name

PATH: Final = "/healthz"
NONCE: Final = "^[A-Za-z0-9_-]{22,64}$"
"""128 bits at least, so that no answer is one that somebody saw before; and no more than a client needs."""

_NONCE: Final = re.compile(NONCE[1:-1])
_LABEL: Final = b"baa: a server proves that it knows a token, 1"


def proof(token: str, host: str, nonce: str) -> str:
    """What shows the knowledge of `token` to whoever asked with `nonce` and this Host; it says nothing of the token."""
    key = hmac.digest(token.encode(), _LABEL, hashlib.sha256)
    return hmac.digest(key, f"{host.lower()}\n{nonce}".encode("utf-8", "replace"), hashlib.sha256).hex()


def nonce_of(path: str, method: str, query_string: bytes) -> str | None:
    """The nonce that a request asks with, None if it asks for no proof. Raises Rejected (422)."""
    if path != PATH or method != "GET" or not query_string:
        return None
    given = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    if not any(name == "nonce" for name, _ in given):
        return None
    if len(given) != 1 or _NONCE.fullmatch(given[0][1]) is None:
        raise Rejected(
            Code.INVALID_REQUEST,
            "Ask with one `nonce` of 22 to 64 letters, digits, - and _, made anew each time.",
            details={"field": "nonce"},
        )
    return given[0][1]


def proofs(tokens: Mapping[Name, str], host: str, nonce: str) -> dict[str, str]:
    """A proof for each token, by its scope."""
    return {scope: proof(token, host, nonce) for scope, token in tokens.items()}


def proves(given: object, token: str, host: str, nonce: str) -> bool:
    """Whether `given` is the proof; compared in constant time."""
    return isinstance(given, str) and hmac.compare_digest(
        given.encode("utf-8", "replace"), proof(token, host, nonce).encode()
    )
