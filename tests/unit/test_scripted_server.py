"""The scripted model server over real loopback HTTP, in process and as a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from baa.scripted import Drop, Hold, Limits, Refuse, Request, Say, ScriptedModel, encode_script, when


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with asyncio.timeout(20), httpx2.AsyncClient(trust_env=False, timeout=10) as client:
        yield client


def asking(prompt: str) -> dict[str, object]:
    return {"model": "scripted", "stream": True, "input": [{"role": "user", "content": prompt}]}


def deltas(answer: str) -> list[str]:
    lines = (line.removeprefix("data: ") for line in answer.splitlines() if line.startswith("data: "))
    return [event["delta"] for event in map(json.loads, lines) if "delta" in event]


async def test_an_answer_streams_every_delta_once(http: httpx2.AsyncClient) -> None:
    async with ScriptedModel([when("count", Say.numbered(20_000))]) as model:
        answer = await http.post(f"{model.base_url}/responses", json=asking("count"))
    assert answer.headers["content-type"] == "text/event-stream"
    assert deltas(answer.text) == [f"w{number} " for number in range(20_000)]
    assert model.requests == [Request("count", 0)]


async def test_a_paced_answer_streams_every_delta_once(http: httpx2.AsyncClient) -> None:
    async with ScriptedModel([when("count", Say.numbered(50, pace_ms=1))]) as model:
        answer = await http.post(f"{model.base_url}/responses", json=asking("count"))
    assert deltas(answer.text) == [f"w{number} " for number in range(50)]


async def test_limits_are_told_by_headers_of_any_answer(http: httpx2.AsyncClient) -> None:
    limits = (Limits(40, 1_800_000_000), Limits(7, 1_900_000_000, 10_080, "secondary"))
    scenarios = [
        when("go", (*limits, Say("Gone."))),
        when("stop", (limits[0], Refuse.usage_limit())),
        when("", Say("Fine.")),
    ]
    async with ScriptedModel(scenarios) as model:
        gone = await http.post(f"{model.base_url}/responses", json=asking("go"))
        stopped = await http.post(f"{model.base_url}/responses", json=asking("stop"))
        plain = await http.post(f"{model.base_url}/responses", json=asking("neither"))
    told = {name: value for name, value in gone.headers.items() if name.startswith("x-codex-")}
    assert told == {
        "x-codex-primary-used-percent": "40",
        "x-codex-primary-window-minutes": "300",
        "x-codex-primary-reset-at": "1800000000",
        "x-codex-secondary-used-percent": "7",
        "x-codex-secondary-window-minutes": "10080",
        "x-codex-secondary-reset-at": "1900000000",
    }
    assert deltas(gone.text) == ["Gone."]
    assert (stopped.status_code, stopped.json()["error"]["type"]) == (429, "usage_limit_reached")
    assert stopped.headers["x-codex-primary-used-percent"] == "40"
    assert not any(name.startswith("x-codex-") for name in plain.headers)


async def test_there_are_no_models_to_list_and_no_other_routes(http: httpx2.AsyncClient) -> None:
    async with ScriptedModel() as model:
        models = await http.get(f"{model.base_url}/models?client_version=1")
        assert (models.status_code, models.json()) == (200, {"models": []})
        for method, path in (("GET", "/responses"), ("POST", "/models"), ("HEAD", "/models"), ("GET", "")):
            assert (await http.request(method, model.base_url + path)).status_code == 404


async def test_what_is_no_request_to_a_model_is_refused(http: httpx2.AsyncClient) -> None:
    async with ScriptedModel() as model:
        for body in (b"", b"{}", b"[1]", b'{"input":[{"role":"user","content":7}]}'):
            assert (await http.post(f"{model.base_url}/responses", content=body)).status_code == 400
        assert model.requests == []


async def test_a_refusal_is_the_scripted_status_and_body(http: httpx2.AsyncClient) -> None:
    async with ScriptedModel([when("no", Refuse(429, '{"error":"slow down"}'))]) as model:
        answer = await http.post(f"{model.base_url}/responses", json=asking("no"))
    assert (answer.status_code, answer.text) == (429, '{"error":"slow down"}')


async def test_a_dropped_answer_arrives_up_to_the_cut(http: httpx2.AsyncClient) -> None:
    got: list[str] = []

    async def read_to_the_end(base_url: str) -> None:
        async with http.stream("POST", f"{base_url}/responses", json=asking("cut")) as answer:
            async for text in answer.aiter_text():
                got.append(text)

    async with ScriptedModel([when("cut", (Say.numbered(5), Drop()))]) as model:
        with pytest.raises(httpx2.RemoteProtocolError):
            await read_to_the_end(model.base_url)
    assert deltas("".join(got)) == [f"w{number} " for number in range(5)]


async def test_answers_are_held_side_by_side_until_their_own_gate_is_released(http: httpx2.AsyncClient) -> None:
    scenarios = [when(name, (Say(f"{name} "), Hold(name), Say("goes on"))) for name in ("first", "second")]
    answers: dict[str, str] = {}

    async def ask(prompt: str) -> None:
        answers[prompt] = "".join(deltas((await http.post(f"{model.base_url}/responses", json=asking(prompt))).text))

    async with ScriptedModel(scenarios) as model, asyncio.TaskGroup() as group:
        first = group.create_task(ask("first"))
        second = group.create_task(ask("second"))
        await model.held("first")
        await model.held("second")
        model.release("second")
        await second
        assert answers == {"second": "second goes on"}
        model.release("first")
        await first
    assert answers == {"first": "first goes on", "second": "second goes on"}


async def test_a_released_gate_holds_nobody_and_counts_who_comes(http: httpx2.AsyncClient) -> None:
    async with ScriptedModel([when("", (Hold("g"), Refuse(503)))]) as model:
        model.release("g")
        for _ in range(2):
            assert (await http.post(f"{model.base_url}/responses", json=asking("x"))).status_code == 503
        await model.held("g", 2)


async def test_leaving_ends_what_is_held_and_who_is_connected(http: httpx2.AsyncClient) -> None:
    async def ask(base_url: str) -> None:
        with pytest.raises(httpx2.TransportError):
            await http.post(f"{base_url}/responses", json=asking("x"))

    async with asyncio.TaskGroup() as group, ScriptedModel([when("", (Say("a"), Hold("never")))]) as model:
        await http.get(f"{model.base_url}/models")
        group.create_task(ask(model.base_url))
        await model.held("never")


async def test_an_exception_of_the_caller_comes_out_as_it_is() -> None:
    async def fail() -> None:
        async with ScriptedModel():
            raise LookupError

    with pytest.raises(LookupError):
        await fail()


async def test_a_client_that_speaks_no_http_is_cut_off_alone(http: httpx2.AsyncClient) -> None:
    async with ScriptedModel() as model:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx2.URL(model.base_url).port)
        writer.write(b"\x16\x03\x01 what\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
        assert (await http.get(f"{model.base_url}/models")).status_code == 200


async def test_the_server_as_a_process_is_driven_over_its_control_routes(
    http: httpx2.AsyncClient, tmp_path: Path
) -> None:
    script = tmp_path / "script.json"
    script.write_bytes(encode_script([when("wait", (Say("a "), Hold("gate"), Say("b")))]))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "baa.scripted", "--script", str(script), "--port", "0"), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        base_url = json.loads(await process.stdout.readline())["baseUrl"]
        control = base_url.replace("/v1", "/control")
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(http.post(f"{base_url}/responses", json=asking("wait")))
            assert (await http.get(f"{control}/held/gate")).status_code == 200
            assert (await http.post(f"{control}/release/gate")).status_code == 200
        assert deltas(answer.result().text) == ["a ", "b"]
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_an_unusable_script_is_named_and_ends_the_process(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('[{"phrase":"x","replies":[[{"step":"shout"}]]}]')
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "baa.scripted", "--script", str(script)), stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await process.communicate()
    assert process.returncode == 2
    assert b"script.json: " in stderr
    assert b"shout" in stderr
