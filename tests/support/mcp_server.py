"""A small MCP server on stdio for Codex to start: a tool that asks its user, one that asks late, one that may do harm.

Standard library only, and no import of ours: it is run as a file.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

FORM = {
    "type": "object",
    "properties": {"name": {"type": "string", "title": "Name"}, "age": {"type": "integer"}},
    "required": ["name"],
}
HARMLESS = {"readOnlyHint": True}
HARMFUL = {"readOnlyHint": False, "destructiveHint": True, "openWorldHint": True}
TOOLS = {"ask": HARMLESS, "late": HARMLESS, "danger": HARMFUL}


def main() -> None:
    """Answer until stdin ends."""
    asking: dict[object, object] = {}
    for line in sys.stdin:
        message = json.loads(line)
        method, id_ = message.get("method"), message.get("id")
        match method:
            case "initialize":
                version = message["params"]["protocolVersion"]
                info = {"name": "house", "version": "1"}
                send(id_, {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info})
            case "tools/list":
                send(id_, {"tools": [tool(name, hints) for name, hints in TOOLS.items()]})
            case "tools/call":
                call(id_, message["params"]["name"], message["params"].get("arguments") or {}, asking)
            case "ping":
                send(id_, {})
            case None if id_ in asking:
                told = json.dumps(message.get("result"), sort_keys=True)
                match asking.pop(id_):
                    case Path() as file:
                        file.with_suffix(".part").write_text(told)
                        file.with_suffix(".part").rename(file)
                    case called:
                        send(called, text(f"elicited {told}"))
            case _:
                pass


def call(id_: object, name: str, arguments: dict[str, Any], asking: dict[object, object]) -> None:
    """What a tool does. `late` is done, asks once somebody writes to the pipe that its `q` names, and tells a file."""
    question = f"question-{id_}"
    match name:
        case "danger":
            send(id_, text("did danger"))
        case "late":
            send(id_, text("will ask"))
            pipe = Path(arguments["q"])
            asking[question] = pipe.with_suffix(".answer")
            threading.Thread(target=ask_late, args=(question, pipe), daemon=True).start()
        case _:
            asking[question] = id_
            ask(question)


def ask_late(question: str, pipe: Path) -> None:
    """Ask when the pipe says so."""
    pipe.read_bytes()
    ask(question)


def ask(question: str) -> None:
    """Ask the user through the client."""
    params = {"mode": "form", "message": "Who are you?", "requestedSchema": FORM}
    write({"id": question, "method": "elicitation/create", "params": params})


def tool(name: str, hints: dict[str, bool]) -> dict[str, Any]:
    """A tool as it is listed."""
    schema = {"type": "object", "properties": {"q": {"type": "string"}}}
    return {"name": name, "description": name, "inputSchema": schema, "annotations": hints}


def text(said: str) -> dict[str, Any]:
    """A tool's result."""
    return {"content": [{"type": "text", "text": said}]}


def send(id_: object, result: object) -> None:
    """Answer a request."""
    write({"id": id_, "result": result})


def write(message: dict[str, object]) -> None:
    """One line of JSON-RPC."""
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
