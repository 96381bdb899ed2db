"""A Codex of a few lines, for simulations: what the app-server says to each line, and what it remembers on disk.

It keeps to what was seen of the real one (research/app-server.md), and objects to what the real one would suffer from:
a second turn merged into a running one, and a turn that is started twice.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

Message = dict[str, Any]

NOT_ON_DISK = {"code": -32600, "message": "thread not loaded"}
STREAMS = ("item/agentMessage/delta", "item/commandExecution/outputDelta", "item/reasoning/summaryTextDelta")


@dataclass
class DiskTurn:
    """A turn as Codex's own history has it."""

    id: str
    client_id: str
    status: str = "inProgress"
    items: list[Message] = field(default_factory=list)

    def told(self, *, lives: bool) -> Message:
        status = "interrupted" if self.status == "inProgress" and not lives else self.status
        return {"id": self.id, "status": status, "items": self.items, "error": None}


@dataclass
class Disk:
    """What outlives every child. A thread is on it once a turn has run in it."""

    threads: dict[str, list[DiskTurn]] = field(default_factory=dict)
    starts: Counter[str] = field(default_factory=Counter)
    ids: int = 0

    def new_id(self, what: str) -> str:
        self.ids += 1
        return f"{what}_{self.ids}"

    def turn_of(self, client_id: str) -> DiskTurn | None:
        turns = (turn for turns in self.threads.values() for turn in turns)
        return next((turn for turn in turns if turn.client_id == client_id), None)


@dataclass
class Running:
    thread_id: str
    turn: DiskTurn
    open: dict[str, str] = field(default_factory=dict)


class LittleCodex:
    """One child. `hear` takes a line, `go_on` lets a running turn do something; both yield what it writes."""

    def __init__(self, disk: Disk, rng: random.Random) -> None:
        self._disk = disk
        self._rng = rng
        self._loaded = set[str]()
        self.running = dict[str, Running]()
        self._asked = 0

    def hear(self, line: bytes) -> Iterator[Message]:
        message: Message = msgspec.json.decode(line)
        if "method" not in message:  # an answer to what we asked
            return
        method, params = message["method"], message.get("params", {})
        match method:
            case "initialize":
                result: Message = {"userAgent": "baa/1.2.3 (test)"}
            case "initialized":
                return
            case "account/read":
                result = {"account": None, "requiresOpenaiAuth": False}
            case "thread/start" | "thread/resume":
                opened = self._open(method, params)
                if opened is None:
                    yield {"id": message["id"], "error": NOT_ON_DISK}
                    return
                result = {"thread": {"id": opened}, "model": "little"}
            case "turn/start":
                yield from self._start(message, params)
                return
            case "turn/interrupt":
                running = self.running.get(params["threadId"])
                if running is None or running.turn.id != params["turnId"]:
                    yield {"id": message["id"], "error": {"code": -32600, "message": "no active turn to interrupt"}}
                    return
                yield {"id": message["id"], "result": {}}
                yield from self._end(running, "interrupted")
                return
            case "thread/turns/list":
                turns = self._disk.threads.get(params["threadId"])
                if turns is None:
                    yield {"id": message["id"], "error": NOT_ON_DISK}
                    return
                lives = params["threadId"] in self.running
                result = {"data": [turn.told(lives=lives) for turn in reversed(turns)]}
            case "account/rateLimits/read":
                yield {"id": message["id"], "error": {"code": -32600, "message": "authentication required"}}
                return
            case "thread/backgroundTerminals/clean":
                result = {}
            case "thread/unsubscribe":
                result = {"status": "unsubscribed"}
            case _:
                raise AssertionError(f"codexd sent {method}")
        yield {"id": message["id"], "result": result}

    def _open(self, method: str, params: Message) -> str | None:
        if self._rng.random() < 0.05:
            return None
        thread_id: str = params.get("threadId", "") or self._disk.new_id("thread")
        if method == "thread/resume" and thread_id not in self._disk.threads:
            return None
        self._loaded.add(thread_id)
        return thread_id

    def _start(self, message: Message, params: Message) -> Iterator[Message]:
        thread_id, client_id = params["threadId"], params["clientUserMessageId"]
        assert thread_id in self._loaded, "a turn for a thread that is not loaded"
        assert thread_id not in self.running, "Codex would merge this turn into the running one"
        self._disk.starts[client_id] += 1
        if self._rng.random() < 0.05:
            yield {"id": message["id"], "error": {"code": -32000, "message": "overloaded"}}
            return
        turn = DiskTurn(self._disk.new_id("turn"), client_id)
        self._disk.threads.setdefault(thread_id, []).append(turn)
        running = self.running[thread_id] = Running(thread_id, turn)
        answer = {"id": message["id"], "result": {"turn": {"id": turn.id}}}
        started = self._tell("turn/started", running, turn={"id": turn.id})
        yield from self._rng.sample([answer, started], 2)
        user = {"id": self._disk.new_id("item"), "type": "userMessage", "clientId": client_id}
        turn.items.append(user)
        yield self._tell("item/started", running, item=user)
        yield self._tell("item/completed", running, item=user)

    def go_on(self) -> Iterator[Message]:
        running = self._rng.choice(list(self.running.values()))
        acts = ["begin", "delta", "delta", "delta", "delta", "complete", "update", "note", "ask", "again", "end"]
        match self._rng.choice(acts):
            case "begin":
                item_id, kind = self._disk.new_id("item"), self._rng.choice(["agentMessage", "commandExecution"])
                running.open[item_id] = kind
                yield self._tell("item/started", running, item={"id": item_id, "type": kind})
            case "delta" if running.open:
                item_id = self._rng.choice(list(running.open))
                text = f"{self._disk.new_id('delta')} "
                yield self._tell(self._rng.choice(STREAMS), running, itemId=item_id, delta=text)
            case "complete" | "again" if running.open:
                yield self._complete(running, self._rng.choice(list(running.open)))
            case "again" if running.turn.items:  # the real one never did, and says nowhere that it never will
                yield self._tell("item/completed", running, item=self._rng.choice(running.turn.items))
            case "update":
                yield self._update(running)
            case "note":
                yield self._tell(self._rng.choice(["warning", "new/thing", "thread/status/changed"]), running)
            case "ask":
                self._asked += 1
                yield {**self._tell("item/fileChange/requestApproval", running), "id": self._asked}
            case "end":
                for item_id in list(running.open):
                    if self._rng.random() < 0.7:
                        yield self._complete(running, item_id)
                yield from self._end(running, self._rng.choice(["completed", "completed", "failed", "paused"]))

    def _complete(self, running: Running, item_id: str) -> Message:
        item = {"id": item_id, "type": running.open.pop(item_id), "text": f"text of {item_id}"}
        running.turn.items.append(item)
        return self._tell("item/completed", running, item=item)

    def _update(self, running: Running) -> Message:
        count = {"totalTokens": self._rng.randrange(1000), "new": None}
        usage: Message = {"tokenUsage": {"total": count, "last": count, "modelContextWindow": None}}
        method, update = self._rng.choice(
            [
                ("thread/tokenUsage/updated", usage),
                ("turn/plan/updated", {"plan": []}),
                ("turn/diff/updated", {"diff": "-"}),
            ]
        )
        return self._tell(method, running, **update)

    def _end(self, running: Running, status: str) -> Iterator[Message]:
        running.turn.status = status
        del self.running[running.thread_id]
        error = {"message": "no"} if status == "failed" else None
        yield self._tell("turn/completed", running, turn={"id": running.turn.id, "status": status, "error": error})

    def _tell(self, method: str, running: Running, **params: object) -> Message:
        who = {"threadId": running.thread_id, "turnId": running.turn.id}
        return {"method": method, "params": {**who, **params}, "emittedAtMs": 1_795_478_400_000}
