"""Secrets of every kind, made up for tests: from a seed, so that no file of this repository holds one."""

from __future__ import annotations

import base64
import json
import random
import string

_LETTERS = string.ascii_letters + string.digits


class Planted:
    """`shaped` are those that are known by their shape, by kind; `named` one that only its name gives away."""

    def __init__(self, seed: int = 0) -> None:
        self._chance = random.Random(seed)
        jwt = ".".join(
            (_part({"alg": "RS256", "typ": "JWT"}), _part({"sub": self._word(24), "iat": 17}), self._word(43))
        )
        self.shaped = {
            "an OpenAI key": f"sk-{self._word(48)}",
            "a project key": f"sk-proj-{self._word(30)}_{self._word(20)}-{self._word(30)}",
            "an Anthropic key": f"sk-ant-api03-{self._word(80)}",
            "a GitHub token": f"ghp_{self._word(36)}",
            "a GitHub OAuth token": f"gho_{self._word(36)}",
            "a fine-grained GitHub token": f"github_pat_{self._word(22)}_{self._word(59)}",
            "an AWS key id": "AKIA" + "".join(self._chance.choices(string.ascii_uppercase + string.digits, k=16)),
            "a Slack token": f"xoxb-{self._digits(12)}-{self._digits(13)}-{self._word(24)}",
            "a Slack user token": f"xoxp-{self._digits(12)}-{self._word(24)}",
            "a JWT": jwt,
            "a bearer token": f"Bearer {self._word(12)}.{self._word(30)}",
            "a private key": self._key("RSA PRIVATE KEY"),
            "a key of OpenSSH's": self._key("OPENSSH PRIVATE KEY"),
            "a key of PKCS #8": self._key("PRIVATE KEY"),
        }
        self.named = f"{self._word(9)}{self._chance.choice('!%&')}{self._word(12)}"

    def _word(self, length: int) -> str:
        """Letters and digits, one digit and one capital among them."""
        return "7Q" + "".join(self._chance.choices(_LETTERS, k=length - 2))

    def _digits(self, length: int) -> str:
        return "".join(self._chance.choices(string.digits, k=length))

    def _key(self, kind: str) -> str:
        lines = [base64.b64encode(self._chance.randbytes(48)).decode() for _ in range(4)]
        return "\n".join((f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----"))


def _part(claims: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims, separators=(",", ":")).encode()).decode().rstrip("=")


def core(secret: str) -> str:
    """The part of a secret that nobody could guess: what must be found nowhere."""
    if secret.startswith("-----BEGIN"):
        return secret.splitlines()[2]
    if secret.startswith("eyJ"):
        return secret.rpartition(".")[2]
    return secret[-16:]
