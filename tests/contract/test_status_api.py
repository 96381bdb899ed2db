"""status-api beside real programs: what it says while they run, die and come back, and to whom."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest

from baa.http.tokens import ensure_tokens
from tests.support import systemd
from tests.support.node import Json, Node
from tests.support.programs import Program

pytestmark = pytest.mark.timeout(150)


class House(NamedTuple):
    """A node with all its programs."""

    node: Node
    conductor: Program
    api: Program


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with Node(tmp_path, "http://127.0.0.1:9") as node:
        await node.start()
        await node.child()
        alone = {"BAA_WORKER_EMBEDDED": "false"}  # so there is no node
        async with Program("conductor", node.home, **alone) as conductor, Program("status-api", node.home) as api:
            yield House(node, conductor, api)


def fresh(data: Json) -> bool:
    return not data["stale"]


async def test_it_says_how_the_node_is_and_keeps_what_it_knew(house: House) -> None:
    node, conductor, api = house
    told = await api.becomes("/v1/status", lambda data: fresh(data) and data["conductor"]["state"] == "ready")
    assert told["codexd"]["state"] == "running"
    assert told["codexd"]["child"]["state"] == "ready"
    assert told["codexd"]["child"]["codexVersion"] == (await node.child_is("ready"))["codexVersion"]
    assert told["codexd"]["child"]["support"] == "known"
    assert (told["conductor"]["role"], told["conductor"]["term"]) == ("leader", 1)
    assert told["counts"]["sessions"] == 0
    assert "detail" not in told

    await node.kill()
    stale = await api.becomes("/v1/status", lambda data: data["stale"])
    assert stale["codexd"]["stale"]
    assert not stale["conductor"]["stale"]
    assert stale["codexd"]["child"] == told["codexd"]["child"]
    assert stale["counts"] == told["counts"]
    assert stale["codexd"]["asOf"] < stale["asOf"]
    await node.start()
    await node.child()
    back = await api.becomes("/v1/status", fresh)
    assert back["codexd"]["asOf"] > stale["codexd"]["asOf"]

    assert await conductor.stop() == (0, "")
    assert (await api.becomes("/v1/status", lambda data: data["stale"]))["conductor"]["role"] == "leader"


async def test_a_conductor_whose_engine_hangs_is_still_heard(house: House) -> None:
    node, _, api = house
    await api.becomes("/v1/status", lambda data: fresh(data) and data["conductor"]["state"] == "ready")
    outside = apsw.Connection(str(node.home / "state" / "engine.sqlite3"))
    outside.execute("BEGIN EXCLUSIVE")
    told = await api.becomes("/v1/status", lambda data: data["conductor"]["state"] == "not_ready")
    assert not told["conductor"]["stale"]
    assert told["nodes"] in (None, {"active": 0, "draining": 0, "gone": 0}), "what hangs is writing: they may be read"
    detail = await api.becomes("/v1/status", lambda data: data["detail"]["readiness"], token=node.token("read"))
    assert not detail["detail"]["readiness"]["engine"]["ok"]
    outside.execute("ROLLBACK")
    outside.close()
    await api.becomes("/v1/status", lambda data: fresh(data) and data["conductor"]["state"] == "ready")


async def test_alone_it_says_that_nothing_is_known(tmp_path: Path) -> None:
    async with Program("status-api", tmp_path / "baa") as api:
        assert await api.get("/healthz") == {"status": "ok"}
        told = await api.get("/v1/status")
        assert (told["stale"], told["codexd"]["state"], told["conductor"]["state"]) == (True, "unknown", "unknown")
        assert told["counts"] is None
        left = {path.name for path in (tmp_path / "baa" / "state").iterdir()}
        assert left == {"endpoint.json", "endpoint.lock"}, "it makes nothing of the other programs'"
        refused = await api.ask("GET", "/v1/status", token="t" * 43)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unauthorized")

        tokens = ensure_tokens(tmp_path / "baa" / "state" / "tokens")
        detail = (await api.get("/v1/status", token=tokens.read))["detail"]
        assert set(detail["problems"]) == {"codexd", "conductor"}
        for other in (tokens.drive, tokens.read[:-1], "x"):
            assert (await api.ask("GET", "/v1/status", token=other)).status_code == 401, "it knows the read token only"


async def test_detail_names_what_the_open_part_counts(house: House) -> None:
    node, _, api = house
    async with Program("worker-runner", node.home):
        token = node.token("read")
        told = await api.becomes("/v1/status", lambda data: data["nodes"]["active"] == 1, token=token)
        assert [each["nodeId"] for each in told["detail"]["nodes"]] == ["here"]
        assert told["detail"]["codexd"]["daemon"]["address"] == node.address
        assert told["detail"]["problems"] == {}


@pytest.mark.parametrize("path", ["/healthz", "/v1/status", "/"])
async def test_head_is_get_without_a_body_and_there_is_no_other_method(house: House, path: str) -> None:
    api = house.api
    token = house.node.token("read") if path == "/" else None
    got, head = await api.ask("GET", path, token=token), await api.ask("HEAD", path, token=token)
    assert (got.status_code, head.status_code, head.content) == (200, 200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert int(head.headers["content-length"]) > 0
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        assert (await api.ask(method, path, content_type="application/json")).status_code == 404
    assert (await api.ask("GET", path + "x")).status_code == 404
    assert (await api.ask("GET", path, host="evil.example")).status_code == 421
    assert (await api.ask("GET", path, origin=api.address)).status_code == 403
    assert (await api.ask("GET", path, sec_fetch_site="cross-site")).status_code == 403
    assert (await api.ask("GET", path, token=token, sec_fetch_site="same-origin")).status_code == 200


async def test_the_page_is_for_people_and_runs_nothing(house: House) -> None:
    answer = await house.api.ask("GET", "/", token=house.node.token("read"))
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "<script" not in answer.text
    assert "codexd" in answer.text


async def test_a_browser_shows_the_page_to_whoever_knows_the_read_token(house: House) -> None:
    node, _, api = house
    asked = await api.ask("GET", "/")
    assert (asked.status_code, asked.headers["www-authenticate"].partition(" ")[0]) == (401, "Basic")
    assert "baa token show read" in asked.text
    assert "version" not in asked.text

    def password(text: str, user: str = "me") -> str:
        return "Basic " + base64.b64encode(f"{user}:{text}".encode()).decode()

    read, drive = node.token("read"), node.token("drive")
    for good in (password(read), password(read, ""), password(read).replace("Basic", "basic")):
        assert (await api.ask("GET", "/", authorization=good)).status_code == 200
    for bad in (
        *(password(drive), password(read[:-1]), password(read + ":"), password("", read), password("")),
        *("Basic", "Basic ====", "Basic /w==", f"Basic {read}", f"Bearer {drive}"),
    ):
        for method in ("GET", "HEAD"):
            assert (await api.ask(method, "/", authorization=bad)).status_code == 401, bad
    assert (await api.ask("GET", "/v1/status", authorization=password(read))).status_code == 401, "for the page alone"
    assert read not in api.log


async def test_a_stop_takes_its_own_line_out_and_no_other(house: House) -> None:
    node, _, api = house
    path = node.home / "state" / "endpoint.json"
    assert json.loads(path.read_text())["statusApi"]["address"] == api.address
    assert await api.stop() == (0, "")
    told = json.loads(path.read_text())
    assert told["statusApi"] is None
    assert told["codexd"]["address"] == node.address


# --- a private address

PRIVATE = "100.64.0.1"


async def test_a_private_address_takes_a_read_token_and_an_interface(tmp_path: Path) -> None:
    api = Program("status-api", tmp_path / "baa", BAA_STATUS_API_BASE=f"http://{PRIVATE}:0")
    await api.spawn()
    code, stderr = await api.ended()
    assert code == 78
    assert "only with a read token" in stderr

    ensure_tokens(tmp_path / "baa" / "state" / "tokens")
    await api.spawn()
    code, stderr = await api.ended()
    assert code == 69, "the network may come up later, so a service manager tries again"
    assert f"{PRIVATE} is no address of this machine now" in stderr


@pytest.mark.skipif(
    systemd.missing() is not None or shutil.which("ip") is None,
    reason="a network of the test's own takes root, unshare and ip: apt-get install iproute2 util-linux",
)
def test_on_a_private_address_the_open_part_needs_no_token(tmp_path: Path) -> None:
    ensure_tokens(tmp_path / "baa" / "state" / "tokens")
    program = Program("status-api", tmp_path / "baa", BAA_STATUS_API_BASE=f"http://{PRIVATE}:4318")
    inside = f"""
        set -e
        ip link set lo up; ip addr add {PRIVATE}/32 dev lo
        {sys.executable} -m baa.status_api > out & served=$!
        until [ -s out ] || ! kill -0 $served; do :; done
        {sys.executable} -c 'import httpx2
for path, host in (("/v1/status", None), ("/", None), ("/v1/status", "localhost:4318")):
    headers = {{"host": host}} if host else {{}}
    print(httpx2.get("http://{PRIVATE}:4318" + path, headers=headers, trust_env=False).status_code)'
        kill $served; wait $served
    """
    command = [*systemd.NAMESPACES, "--net", "sh", "-c", inside]
    done = subprocess.run(
        command, env=program.environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["200", "401", "421"]
    assert (tmp_path / "out").read_text() == f"status-api http://{PRIVATE}:4318\n"
