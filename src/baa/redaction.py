"""What must not be told: known secrets, and what looks like one, replaced in texts and in texts that come in pieces.

Pure: a `Redactor` knows some secrets and the shapes below, and changes nothing. Of a known secret an eighth may be read
at most, and of one that is known by its shape only the beginning that gives the shape away (`sk-`, `Bearer `). It is
best effort for what nobody told us: a secret of no known shape, or one that was encoded, cannot be found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Raw, Struct

REDACTED: Final = "[redacted]"

KNOWN_MIN: Final = 8
"""Characters that a known secret has at least: shorter ones would be found everywhere."""

SHOWN_MAX: Final = 7
"""Characters of a known secret that may be told before more of it has come: an eighth of it, and no more than these."""

HEAD_MAX: Final = 11
CONTEXT: Final = 16
"""Characters of the longest beginning of a secret; and those told last that are looked at with the next piece."""

HELD_MAX: Final = 256
"""Characters that may be held back for what only looks like the beginning of a secret of a known shape."""

SECRET_NAME: Final = re.compile(
    r"(?:^|[_.-])(?i:TOKENS?|KEYS?|SECRETS?|PASSWORD|PASSWD|PASSPHRASE|PASS|PAT|CREDENTIALS?)$"
    r"|[a-z0-9](?:Token|Key|Secret|Password)$"
)
"""The names of variables and fields whose values are secrets."""


class _Shape(NamedTuple):
    """How secrets of one kind look: `whole` is enough of one to be sure, `rest` all that belongs to it from there.

    `could`: what may still become one when more comes.
    """

    name: str
    head: str
    whole: re.Pattern[str]
    rest: re.Pattern[str]
    could: re.Pattern[str]


def _plain(name: str, head: str, letters: str, least: int, *, mixed: bool = False) -> _Shape:
    """A head with so many letters after it; `mixed`: words do not count, there is a digit or a capital among them."""
    seen = rf"(?=[{letters}]{{0,{HELD_MAX}}}?[0-9A-Z])" if mixed else ""
    head_re = re.escape(head)
    return _Shape(
        name,
        head,
        re.compile(rf"{head_re}{seen}[{letters}]{{{least}}}"),
        re.compile(rf"[{letters}]*"),
        re.compile(rf"{head_re}[{letters}]*\Z"),
    )


_URL_SAFE: Final = "A-Za-z0-9_-"

SHAPES: Final = (
    _plain("api key", "sk-", _URL_SAFE, 20, mixed=True),
    *(_plain("github", f"gh{kind}_", "A-Za-z0-9", 20) for kind in "pousr"),
    _plain("github", "github_pat_", "A-Za-z0-9_", 20),
    _plain("gitlab", "glpat-", _URL_SAFE, 20),
    _plain("aws", "AKIA", "A-Z0-9", 16),
    _plain("aws", "ASIA", "A-Z0-9", 16),
    _plain("google", "AIza", _URL_SAFE, 35),
    *(_plain("slack", f"xox{kind}-", "A-Za-z0-9-", 10) for kind in "abeprs"),
    *(_plain("bearer", head, "A-Za-z0-9._~+/=-", 16, mixed=True) for head in ("Bearer ", "bearer ", "BEARER ")),
    _Shape(
        "jwt",
        "eyJ",
        re.compile(rf"eyJ[{_URL_SAFE}]{{5,1024}}\.eyJ[{_URL_SAFE}]{{5}}"),
        re.compile(rf"[.{_URL_SAFE}]*"),
        re.compile(rf"eyJ[{_URL_SAFE}]*(?:\.(?:e(?:y(?:J[{_URL_SAFE}]*)?)?)?)?\Z"),
    ),
    _Shape(
        "private key",
        "-----BEGIN ",
        re.compile(
            r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
            r"(?=(?:\s|\\{1,4}[nr]){1,8}[A-Za-z0-9+/=:,-]{4})"
        ),
        re.compile(r"(?:[A-Za-z0-9+/=\s:,.()\\]|-(?!-|\Z))*"),
        re.compile(r"-----BEGIN [A-Z0-9 ]{0,60}(?:-{0,4}|-----[\s\\nr]{0,32}[A-Za-z0-9+/=:,-]{0,3})\Z"),
    ),
)

_OPEN: Final = frozenset({"", "-"})
"""What may follow a secret that goes on: of a key's last line one dash is like any other."""

_NAMED: Final = {shape.name: shape for shape in SHAPES}

_INSIDE: Final = re.compile(r"[A-Za-z0-9]")
_ESCAPE: Final = re.compile(r"\\[nrtbf]")


class Tail(NamedTuple):
    """Where a text that comes in pieces stands.

    `shown`: what was told last. `hidden`: what is not told yet, because it may be the beginning of a secret.
    `within`: the shape of a secret that goes on: what follows belongs to it as long as it can.
    """

    shown: str = ""
    hidden: str = ""
    within: str = ""


FRESH: Final = Tail()


class _Found(NamedTuple):
    """From where to where a secret goes; `within`: it may go on."""

    begins: int
    ends: int
    within: str = ""


class _Maybe(NamedTuple):
    """What begins here may be a secret when more comes."""

    begins: int


class Redactor:
    """Finds secrets: those of `known` that are long enough, and those of the known shapes."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        """What it knows never changes: one that knows more is another."""
        self.known = frozenset(secret for secret in known if len(secret) >= KNOWN_MIN)
        self._heads: dict[str, list[str]] = {}
        for secret in self.known:
            self._heads.setdefault(secret[: min(len(secret) // 8, SHOWN_MAX) + 1], []).append(secret)
        literals = {shape.head for shape in SHAPES} | self._heads.keys()
        self._head = re.compile(_any_of(literals), re.DOTALL)
        needles = {shape.head for shape in SHAPES} | {_needle(secret) for secret in self.known}
        # A printable character that is escaped for no reason: then only decoding tells what it is.
        self._suspicion = re.compile(rf"{_any_of(needles)}|\\u00[2-7]".encode())

    def __repr__(self) -> str:
        """Says how many, never which."""
        return f"<{len(self.known)} known secrets>"

    def suspects(self, encoded: bytes) -> bool:
        """Whether a secret may stand in this JSON: a look that costs little, and is wrong in one direction only."""
        return self._suspicion.search(encoded) is not None

    def text(self, text: str) -> str:
        """The text without its secrets."""
        if self._head.search(text) is None:
            return text
        told, tail = self._told(text, 0, ending=True)
        assert not tail.hidden
        return told

    def piece(self, tail: Tail, piece: str) -> tuple[str, Tail]:
        """What of a text may be told once this piece of it has come, and where it stands then."""
        if tail.within:
            piece = tail.hidden + piece
            piece = piece[_end(_NAMED[tail.within].rest, piece, 0) :]
            if piece in _OPEN:
                return "", Tail("", piece, tail.within)
            tail = FRESH
        text = tail.shown + tail.hidden + piece
        if self._head.search(text, max(0, len(tail.shown) - HEAD_MAX)) is None:
            return tail.hidden + piece if tail.hidden else piece, Tail(text[-CONTEXT:])
        return self._told(text, len(tail.shown), ending=False)

    def plain(self, tail: Tail, text: str) -> Tail | None:
        """Where a text stands once all of `text` has come, if it may be told as it is, in whatever pieces it came."""
        if tail.hidden or tail.within:
            return None
        whole = tail.shown + text
        clean = self._head.search(whole, max(0, len(tail.shown) - HEAD_MAX)) is None
        return Tail(whole[-CONTEXT:]) if clean else None

    def rest(self, tail: Tail) -> str:
        """What was held back of a text that ends here."""
        if not tail.hidden:
            return ""
        return self._told(tail.shown + tail.hidden, len(tail.shown), ending=True)[0]

    def value(self, value: Any, kept: frozenset[str] = frozenset()) -> Any:
        """The value with every text in it told without its secrets; the value itself if there are none.

        Looks into structs, of which the fields named in `kept` stay as they are, JSON, lists, tuples and mappings.
        """
        if isinstance(value, Enum):
            return value
        if isinstance(value, Raw):
            return self._raw(value)
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Struct):
            fields = ((name, getattr(value, name)) for name in value.__struct_fields__ if name not in kept)
            told = {name: after for name, before in fields if (after := self.value(before, kept)) is not before}
            return msgspec.structs.replace(value, **told) if told else value
        if isinstance(value, dict):
            pairs = {self.value(name): self.value(part) for name, part in value.items()}
            return value if pairs == value else pairs
        if isinstance(value, list | tuple):
            parts = [self.value(part, kept) for part in value]
            return (
                value if all(ours is theirs for ours, theirs in zip(parts, value, strict=True)) else type(value)(parts)
            )
        return value

    def _raw(self, value: Raw) -> Raw:
        encoded = bytes(value)
        if not self.suspects(encoded):
            return value
        told = _STRING.sub(self._literal, encoded)
        return value if told == encoded else Raw(told)

    def _literal(self, found: re.Match[bytes]) -> bytes:
        try:
            text: str = msgspec.json.decode(found.group(), type=str)
        except msgspec.DecodeError:  # it is no valid JSON: all of it goes
            return msgspec.json.encode(REDACTED)
        told = self.text(text)
        return found.group() if told is text else msgspec.json.encode(told)

    # --- the search

    def _told(self, text: str, emitted: int, *, ending: bool) -> tuple[str, Tail]:
        """What of `text` may be told after its first `emitted` characters, which were."""
        out: list[str] = []
        floor, at = 0, max(0, emitted - HEAD_MAX)
        while (head := self._head.search(text, at)) is not None:
            verdict = self._judge(text, head.start(), ending=ending)
            if verdict is None:
                at = head.start() + 1
                continue
            cut = max(emitted, verdict.begins)
            out.append(text[emitted:cut])
            if isinstance(verdict, _Maybe):
                return "".join(out), Tail(text[max(floor, cut - CONTEXT) : cut], text[cut:])
            if verdict.ends > emitted:
                out.append(REDACTED)
            emitted = floor = at = max(emitted, verdict.ends)
            if verdict.within:
                return "".join(out), Tail("", text[emitted:], verdict.within)
        out.append(text[emitted:])
        return "".join(out), Tail(text[max(floor, len(text) - CONTEXT) :])

    def _judge(self, text: str, start: int, *, ending: bool) -> _Found | _Maybe | None:
        """What begins at `start`: a secret, what may become one, or nothing."""
        found: list[_Found] = []
        maybe: list[int] = []
        for head, secrets in self._heads.items():
            if not text.startswith(head, start):
                continue
            for secret in secrets:
                if text.startswith(secret, start):
                    found.append(_Found(start, start + len(secret)))
                elif not ending and len(text) - start < len(secret) and secret.startswith(text[start:]):
                    maybe.append(start)
        for shape in SHAPES:
            if not text.startswith(shape.head, start) or _amid(text, start):
                continue
            whole = shape.whole.match(text, start)
            if whole is not None:
                begins = whole.end() if shape.name == "private key" else start + len(shape.head)
                ends = _end(shape.rest, text, whole.end())
                found.append(_Found(begins, ends, shape.name if text[ends : ends + 2] in _OPEN and not ending else ""))
            elif not ending and len(text) - start <= HELD_MAX and shape.could.match(text, start):
                maybe.append(start + len(shape.head))
        if maybe:
            return _Maybe(min([*maybe, *(each.begins for each in found)]))
        return max(found, key=lambda each: (each.ends, -each.begins)) if found else None


_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Where what matches from `at` on ends."""
    match = pattern.match(text, at)
    return at if match is None else match.end()


def _amid(text: str, start: int) -> bool:
    """Whether what begins here is the middle of a word, as `sk-` in `task-force`; after an escape it is not."""
    if start == 0 or text[start] == "-" or not _INSIDE.match(text, start - 1):
        return False
    return not (start > 1 and _ESCAPE.match(text, start - 2))


def _needle(secret: str) -> str:
    """The longest part of a secret that stands in JSON as it is, whoever wrote the JSON."""
    return max(re.split(r'["\\/\x00-\x1f\x7f\ud800-\udfff]', secret), key=len) or "\\"


def _any_of(words: Iterable[str]) -> str:
    """A pattern that finds where one of the words begins, and looks at each letter once: a tree of their beginnings."""
    branches: dict[str, set[str]] = {}
    for word in words:
        if not word:  # the others begin with it
            return ""
        branches.setdefault(word[0], set()).add(word[1:])
    told = [re.escape(letter) + _any_of(rests) for letter, rests in sorted(branches.items())]
    return told[0] if len(told) == 1 else f"(?:{'|'.join(told)})"


# --- which secrets are known


def in_environment(environ: Mapping[str, str]) -> frozenset[str]:
    """The values of variables that are secrets by their name, and passwords in addresses.

    A path is not a secret: `SSH_KEY=/etc/keys/id` names the file of one.
    """
    named = {value for name, value in environ.items() if SECRET_NAME.search(name) and not value.startswith("/")}
    return frozenset(named | {word for value in environ.values() if (word := _password(value))})


def in_document(document: Any) -> frozenset[str]:
    """The texts in a JSON document that are secrets by the names they stand under, such as those of auth.json."""
    found: set[str] = set()
    waiting: list[Any] = [document]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
            found |= {value for name, value in part.items() if isinstance(value, str) and SECRET_NAME.search(name)}
    return frozenset(found)


def _password(value: str) -> str | None:
    if "://" not in value or "@" not in value:
        return None
    try:
        return unquote(urlsplit(value).password or "") or None
    except ValueError:
        return None
