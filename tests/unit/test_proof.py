"""The proof that a server knows the tokens: what is answered, to whom, and that it says nothing else."""

from __future__ import annotations

import json

import pytest

from baa.http.proof import proof, proves
from tests.support.house import TOKENS, House, code, run, status

NONCE = "n" * 43


def asked(house: House, query: str, *, method: str = "GET", path: str = "/healthz") -> bytes:
    return f"{method} {path}{query} HTTP/1.1\r\n".encode() + house.host + b"Connection: close\r\n\r\n"


def test_both_tokens_are_proved_and_nothing_else_is_said() -> None:
    async def scenario(house: House) -> None:
        answer = await house.exchange(asked(house, f"?nonce={NONCE}"))
        head, _, body = answer.partition(b"\r\n\r\n")
        host = f"127.0.0.1:{house.port}"
        told = {"read": proof(TOKENS.read, host, NONCE), "drive": proof(TOKENS.drive, host, NONCE)}
        assert (status(answer), json.loads(body)) == (200, {"ok": True, "data": {"proof": told}})
        assert b"cache-control: no-store" in head.lower()
        for secret in (NONCE, TOKENS.read, TOKENS.drive):
            assert secret.encode() not in answer
        assert house.reached == [], "the application has no part in it"

    run(scenario)


def test_without_a_nonce_it_is_the_applications_answer() -> None:
    async def scenario(house: House) -> None:
        for query in ("", "?", "?x=1"):
            answer = await house.exchange(asked(house, query))
            assert (status(answer), b"proof" in answer) == (200, False)
        assert house.reached == ["/healthz"] * 3

    run(scenario)


@pytest.mark.parametrize(
    "query",
    ["nonce=", "nonce=" + "n" * 21, "nonce=" + "n" * 65, f"nonce={NONCE}&nonce={NONCE}", f"nonce={NONCE}&x=1"]
    + [f"nonce={NONCE}{character}" for character in ("%0a", "%00", "/", "<", "%C3%A4", "+")],
)
def test_a_nonce_that_is_none_is_refused_and_not_repeated(query: str) -> None:
    async def scenario(house: House) -> None:
        answer = await house.exchange(asked(house, f"?{query}"))
        assert (status(answer), code(answer)) == (422, "invalid_request")
        assert b"nnnn" not in answer

    run(scenario)


def test_only_a_get_of_healthz_with_the_right_host_is_given_a_proof() -> None:
    async def scenario(house: House) -> None:
        assert b"proof" not in await house.exchange(asked(house, f"?nonce={NONCE}", path="/open"))
        assert b"proof" not in await house.exchange(asked(house, f"?nonce={NONCE}", method="HEAD"))
        relayed = f"GET /healthz?nonce={NONCE} HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n".encode()
        assert status(await house.exchange(relayed)) == 421

    run(scenario)


def test_a_proof_is_for_one_token_one_host_and_one_nonce() -> None:
    given = proof("t" * 43, "127.0.0.1:4319", NONCE)
    assert proves(given, "t" * 43, "127.0.0.1:4319", NONCE)
    assert not proves(given, "u" * 43, "127.0.0.1:4319", NONCE)
    assert not proves(given, "t" * 43, "127.0.0.1:4318", NONCE)
    assert not proves(given, "t" * 43, "127.0.0.1:4319", "m" * 43)
    for other in (None, "", 1, "é", [given]):
        assert not proves(other, "t" * 43, "127.0.0.1:4319", NONCE)
