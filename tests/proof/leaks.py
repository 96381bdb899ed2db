"""Plants secrets of every kind in all that a node is given, and looks for them in all that it wrote and told.

    python -m tests.proof.leaks --seed 7 --json

They are in prompts, steers, settings and metadata, in what the model says (cut at every place), runs and edits, in the
output of commands, in the environment of codexd and in Codex's login. codexd is killed while one half of a secret is
told. Codex itself must get every prompt as it was written. Exit code 1 if any was found.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from websockets.asyncio.client import connect

from baa.scripted import Hold, Patch, Reason, Run, Say, Scenario, ScriptedModel, when
from tests.proof.figures import Figure, told
from tests.support.command_line import baa, terminal
from tests.support.node import PATIENCE_SECONDS, Json, Node
from tests.support.planted import Planted, core

LOGIN: Final = "the key of Codex's login"
VARIABLE: Final = "a variable of codexd's"


class Leaky(Node):
    """A node whose codexd has a secret in its environment, and whose Codex has a login."""

    planted: Planted
    login: str

    async def __aenter__(self) -> Leaky:
        await super().__aenter__()
        login = {"OPENAI_API_KEY": self.login, "tokens": None}
        (self.codex_home / "auth.json").write_text(json.dumps(login))
        (self.codex_home / "auth.json").chmod(0o600)
        return self

    def environment(self, **settings: str) -> dict[str, str]:
        return super().environment(**settings) | {"DEPLOY_SECRET": self.planted.named}


def everything(node: Leaky) -> dict[str, str]:
    """All secrets, by their kind."""
    return {
        **node.planted.shaped,
        VARIABLE: node.planted.named,
        LOGIN: node.login,
        "the drive token": node.token("drive"),
        "the read token": node.token("read"),
    }


def cut(secret: str) -> tuple[str, ...]:
    """Deltas that tell a secret once for each place at which it can be cut, cut there."""
    return tuple(piece for at in range(len(secret) + 1) for piece in (f"\n{secret[:at]}", f"{secret[at:]} "))


def scenarios(secrets: dict[str, str]) -> Iterator[Scenario]:
    """What the model does in the turn of each secret: it says it, thinks it, runs it and puts it into a file."""
    for number, secret in enumerate(secrets.values()):
        edit = "\n".join(f"+{line}" for line in f"key: {secret}".split("\n"))
        yield when(
            f"case-{number}.",
            (Reason(f"The key is {secret} then."), Run(f"cat <<'EOF'\n{secret}\nEOF\ncat secret-{number}.txt")),
            Patch(f"*** Begin Patch\n*** Add File: made-{number}.txt\n{edit}\n*** End Patch"),
            Say(cut(secret)),
        )
        half = len(secret) // 2
        yield when(f"held-{number}.", (Say(("It is ", secret[:half])), Hold("kill"), Say((secret[half:], "."))))


async def play(node: Leaky, model: ScriptedModel, secrets: dict[str, str]) -> dict[str, str]:
    """Everything that is done with the secrets. What was told meanwhile, by where."""
    said: dict[str, str] = {}
    sessions: list[str] = []
    for number, secret in enumerate(secrets.values()):
        (node.work / f"secret-{number}.txt").write_text(f"A_KEY={secret}\n")
        session_id = await node.session(
            purpose=f"with {secret}", metadata={"key": secret, secret: "key"}, developerInstructions=f"Use {secret}."
        )
        sessions.append(session_id)
        prompt = f"case-{number}. The key is {secret}"
        turn = await node.play(session_id, prompt)
        assert turn["status"] == "completed", turn
        assert any(secret in request.prompt for request in model.requests), "Codex gets what was written"
        said[f"ledger {number}"] = json.dumps(turn)
        headers = {"accept": "text/markdown", "authorization": f"Bearer {node.token()}"}
        said[f"transcript {number}"] = (await node.ask("GET", f"/v1/codexd/turn/{turn['turnId']}", **headers)).text
    await killed(node, model, secrets, sessions, said)
    return said


async def killed(
    node: Leaky, model: ScriptedModel, secrets: dict[str, str], sessions: list[str], said: dict[str, str]
) -> None:
    """codexd is killed while half of each secret is told, with a turn waiting behind that has one in its prompt."""
    turns, waiting = [], []
    for number, (secret, session_id) in enumerate(zip(secrets.values(), sessions, strict=True)):
        turns.append(await node.turn(session_id, f"held-{number}."))
        body = {"sessionId": session_id, "prompt": f"waits {number} with {secret}", "onBusy": "enqueue"}
        answer = await node.post("/v1/codexd/turn", body)
        waiting.append(answer.json()["data"]["turn"]["turnId"])
    async with asyncio.timeout(PATIENCE_SECONDS):
        await model.held("kill", len(secrets))
    for turn_id in turns:
        await node.running_turn(turn_id)
    await node.kill()
    said["files of a killed codexd"] = files(node)
    await node.start()
    model.release("kill")
    for turn_id in (*turns, *waiting):
        said[f"ledger {turn_id}"] = json.dumps(await node.end_of_turn(turn_id))
    for number, secret in enumerate(secrets.values()):
        assert any(f"waits {number} with {secret}" in request.prompt for request in model.requests), "as it was written"


async def streams(node: Leaky) -> dict[str, str]:
    """The whole log as every kind of reader gets it."""
    head, headers = await node.head(), {"Authorization": f"Bearer {node.token()}"}
    frames: list[str] = []
    url = f"ws{node.address.removeprefix('http')}/v1/codexd/events?after=0"
    async with asyncio.timeout(PATIENCE_SECONDS), connect(url, additional_headers=headers, max_size=None) as socket:
        next_ = ""
        while next_ != head:
            frames.append(str(await socket.recv()))
            next_ = json.loads(frames[-1]).get("next", "")
    sessions = [each["sessionId"] for each in (await node.get("/v1/codexd/sessions")).json()["data"]["sessions"]]
    turns = [(await node.get(f"/v1/codexd/sessions/{session_id}/turns")).text for session_id in sessions]
    return {
        "WebSocket frames": "\n".join(frames),
        "event pages": json.dumps(await node.events()),
        "sessions": (await node.get("/v1/codexd/sessions")).text,
        "turns": "\n".join(turns),
        "joined deltas": joined(await node.events(types="item.delta")),
    }


def joined(events: list[Json]) -> str:
    """What somebody reads who joins the deltas of each text."""
    texts: dict[tuple[str, str, str], str] = {}
    for event in events:
        payload = event["payload"]
        key = (event["turnId"], payload["itemId"], payload["stream"])
        texts[key] = texts.get(key, "") + payload["delta"]
    return "\n".join(texts.values())


async def screens(node: Leaky, secrets: dict[str, str]) -> dict[str, str]:
    """What the command line shows."""
    said = {}
    for number, secret in list(enumerate(secrets.values()))[:1]:
        done = await baa(node, "run", f"case-{number}. Once more {secret}", "--sandbox", "danger-full-access")
        said[f"baa run {number}"] = f"{done.stdout}{done.stderr}"
        async with terminal(node, "run", f"case-{number}. Again", "--sandbox", "danger-full-access") as shown:
            assert await shown.ended() == 0, shown.screen
        said[f"baa run {number} in a terminal"] = shown.screen.decode("utf-8", "replace")
    for arguments in (
        ("events", "--after", "0", "--limit", "100000", "--json"),
        ("session", "list"),
        ("session", "list", "--json"),
    ):
        done = await baa(node, *arguments)
        said[f"baa {' '.join(arguments)}"] = f"{done.stdout}{done.stderr}"
    return said


def files(node: Leaky) -> str:
    """All files of the node but those that are given it, and the child's own: its spool and its CODEX_HOME."""
    own = (node.codex_home, node.home / "state" / "tokens", node.state / "keepers")
    found = [
        path for path in node.home.rglob("*") if path.is_file() and not any(path.is_relative_to(each) for each in own)
    ]
    assert node.database in found
    return "\n".join(path.read_bytes().decode("utf-8", "replace") for path in (*found, node.folder / "stderr"))


async def leaks(folder: Path, seed: int, kinds: int = sys.maxsize) -> tuple[list[str], int]:
    """Which secrets were found where, and in how many places they were looked for."""
    planted = Planted(seed)
    some = dict(random.Random(seed).sample(sorted(planted.shaped.items()), min(kinds, len(planted.shaped))))
    planted.shaped = some
    node = Leaky(folder, "http://127.0.0.1:9/v1", drain_ms="0")
    node.planted, node.login = planted, Planted(seed + 1).named
    (folder / "baa" / "state" / "tokens").mkdir(parents=True, mode=0o700)
    for name in ("read", "drive"):
        token = folder / "baa" / "state" / "tokens" / name
        token.write_text("".join(random.Random(f"{seed}{name}").choices("abcdefghijklmnopqrstuvwxyz0123456789", k=43)))
        token.chmod(0o600)
    secrets = everything(node)
    async with ScriptedModel(scenarios(secrets)) as model:
        node.codex_config = node.codex_config.replace("http://127.0.0.1:9/v1", model.base_url)
        async with node:
            await node.start()
            said = await play(node, model, secrets)
            said |= await streams(node)
            said |= await screens(node, secrets)
            said["files of a running codexd"] = files(node)
        said["files of a stopped codexd"] = files(node)
    said = {where: "".join(text.split()) for where, text in said.items()}  # a terminal breaks lines where it likes
    found = [
        f"{kind} in {where}" for where, text in said.items() for kind, secret in secrets.items() if core(secret) in text
    ]
    assert found or all(
        "[redacted]" in said[where] for where in ("event pages", "WebSocket frames", "joined deltas", "turns")
    )
    return found, len(said) * len(secrets)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of the secrets")
    parser.add_argument("--json", action="store_true", help="the figure as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found, looked = asyncio.run(leaks(Path(folder), given.seed))
    print(*found, sep="\n", file=sys.stderr)
    figure = Figure("leaks", len(found), "secrets", looked, given.seed, must=0)
    print(told([figure], as_json=given.json))
    return 0 if figure.holds else 1


if __name__ == "__main__":
    sys.exit(main())
