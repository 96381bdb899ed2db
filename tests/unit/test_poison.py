"""No line of the child's can end codexd. It would end every next codexd too: the spool still holds the line."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.bench import Message, bench, of_turn
from tests.support.judge import judge_log
from tests.support.record_transcript import TRANSCRIPT

DEEP = b"[" * 100_000


POISON = [
    *(b"", b"null", b"[]", b"\xff\xfe", b"{}", b'{"id":null}', b'{"method":7}', DEEP, b'"\\ud800"', b"9" * 5000),
    *(
        b'{"method":"%b","params":%b}' % (method, params)
        for method in (
            b"turn/started", b"turn/completed", b"item/started", b"item/completed", b"item/agentMessage/delta",
            b"thread/tokenUsage/updated", b"turn/plan/updated", b"turn/diff/updated", b"account/rateLimits/updated",
            b"thread/started", b"error", b"new/thing",
        )
        for params in (
            b"null", b"[]", b'"x"', b"{}", b"9" * 5000, DEEP + b"]" * len(DEEP), b'{"threadId":"thread"}',
            b'{"threadId":"thread","turnId":"codex"}', b'{"threadId":"thread","turnId":"codex","x":"\xff"}',
        )
    ),
    *(
        b'{"method":"item/%b","params":{"threadId":"thread","turnId":"codex","item":%b}}' % (what, item)
        for what in (b"started", b"completed")
        for item in (
            b'{"id":"i","type":"agentMessage","text":"\xff"}', b'{"id":"i","type":"agentMessage","text":{"a":[1]}}',
            b'{"id":"i","type":"agentMessage","text":1e999}', b'{"id":"","type":"","text":' + b"9" * 5000 + b"}",
            b'{"id":"a\\u0000b","type":"agentMessage","text":"a\\u0000b"}', b'{"id":"i","type":"x","a":' + b"[" * 250
            + b"]" * 250 + b"}", b'{"id":"i","type":"agentMessage"}', b'{"id":"i","type":7}', b"{}", b"null",
        )
    ),
    *(
        b'{"method":"thread/tokenUsage/updated","params":{"threadId":"thread","turnId":"codex","tokenUsage":%b}}' % used
        for used in (
            b"null", b"[]", b'{"last":[1],"total":7}', b'{"last":{"n":null}}', b'{"last":{"n":"7"}}',
            b'{"last":{"n":18446744073709551615}}', b'{"last":{"n":' + b"9" * 40 + b"}}", b'{"last":{"n":1e999}}',
        )
    ),
    *(
        b'{"method":"turn/%b/updated","params":{"threadId":"thread","turnId":"codex","%b":%b}}' % (what, what, value)
        for what in (b"plan", b"diff")
        for value in (b"1e999", b"9" * 5000, b'{"a":1}', b'"\xff"', b'"a\\u0000b"', b"[" * 250 + b"]" * 250)
    ),
    *(
        b'{"id":"%b","%b":%b}' % (id_, what, value)
        for id_ in (b"child:initialize:1", b"child:account:2", b"ses_a:open:3", b"ses_a:resume:3", b"ses_a:history:9",
                    b"trn_a:start:4", b"trn_a:interrupt:5", b"ses_x:open:1", b"trn_x:start:1", b"::", b"")
        for what in (b"result", b"error")
        for value in (b"null", b"{}", b"[]", b'{"n":' + b"9" * 5000 + b"}", b'{"message":7}', b'{"thread":{"id":"t"}}',
                      b'{"turn":{"id":"u"}}', b'{"data":[{"id":"codex","status":"?"}]}')
    ),
    *(b'{"id":%b,"method":"item/fileChange/requestApproval","params":%b}' % (id_, params)
      for id_ in (b"0", b'"\\u0000"', b"-1", b"9223372036854775807") for params in (b"null", b"[]", b'{"threadId":7}')),
    b'{"method":"x","emittedAtMs":9000000000000000000}',
    b'{"method":"x","emittedAtMs":-1}',
]  # fmt: skip


async def test_no_line_of_the_child_can_end_codexd_or_its_log(tmp_path: Path) -> None:
    async with bench(tmp_path) as codexd:
        await codexd.start()
        await codexd.run_turn()
        for line in POISON:
            await codexd.says(line)
        await codexd.says(of_turn("item/completed", item={"id": "item", "type": "agentMessage", "text": "well"}))

        assert codexd.types()[-1] == "item.completed"
        judge_log(codexd.log.path)


RECORDED = [line for line in TRANSCRIPT.read_bytes().splitlines() if line.startswith(b'{"told":')]


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A line of the real Codex, about the thread and the turn that run here, with something in it changed."""
    line = draw(st.sampled_from(RECORDED))[8:-1]
    message: Message = msgspec.json.decode(line)
    params = message.get("params")
    if isinstance(params, dict) and "threadId" in params:
        params |= {"threadId": "thread"} | ({"turnId": "codex"} if "turnId" in params else {})
        if "turn" in params:
            params["turn"]["id"] = "codex"
    changed = bytearray(msgspec.json.encode(message))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(changed)))
        changed[at : at + draw(st.integers(0, 20))] = draw(
            st.sampled_from([b"", b"null", b"[]", b"{}", b"7", b'"', b"}", b"\xff", b"1e999"]) | st.binary(max_size=4)
        )
    return bytes(changed).replace(b"\n", b" ")


@given(st.lists(mangled(), max_size=30))
@settings(max_examples=25)
def test_nor_can_any_mangled_line_of_the_real_codex(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    async def scenario() -> None:
        async with bench(tmp_path_factory.mktemp("codexd")) as codexd:
            await codexd.start()
            await codexd.run_turn()
            await codexd.says(*lines)
            judge_log(codexd.log.path)

    asyncio.run(scenario())
