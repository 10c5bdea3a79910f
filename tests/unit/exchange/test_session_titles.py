"""The request by which Claude Code asks for the title of its session is recorded, and no other one."""

from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.hooks import RecordPoint
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.replies import CHAT, MESSAGES, Reply

SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
TITLE: dict[str, Any] = {
    "model": "claude-haiku-5-5",
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
}
WIRES = {
    "chat": ({"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_WIRE": "chat"}, CHAT),
    "relay": ({"ANTHROPIC_API_KEY": "sk-ant-test-0123456789", "PREFERRED_PROVIDER": "anthropic"}, MESSAGES),
}
HEADERS = {"user-agent": "claude-cli/2.1.332", "x-claude-code-session-id": "s1"}


class Record:
    def __init__(self) -> None:
        self.pieces: list[tuple[RecordPoint, bytes]] = []

    def record(self, request_id: str, point: RecordPoint, data: bytes) -> None:
        self.pieces.append((point, data))


def proxy_with(wire: str) -> tuple[ProxyHarness, Record, Record]:
    def answer(_: str, request: UpstreamRequest, __: Any) -> FakeResponse:
        return FakeResponse(200, WIRES[wire][1].whole(Reply(texts=['{"title": "Fix the test"}'])))

    built = ProxyHarness(answer, **WIRES[wire][0])
    titles, texts = Record(), Record()
    built.services = structs.replace(built.services, title_recorders=[titles], recorders=[texts])
    return built, titles, texts


@pytest.mark.parametrize("wire", WIRES)
async def test_the_request_for_a_title_is_recorded(wire: str) -> None:
    built, titles, texts = proxy_with(wire)
    await built.post("Name this", headers=HEADERS, **TITLE)
    (point, _), *others = texts.pieces
    assert titles.pieces == [texts.pieces[0]]
    assert point == "client request"
    assert [point for point, _ in others] == ["upstream request"]


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({}, TITLE),
        (HEADERS, {"model": "claude-haiku-5-5"}),
        (HEADERS, {**TITLE, "tools": [{"name": "Bash", "input_schema": {"type": "object"}}]}),
        (HEADERS, {"messages": [{"role": "user", "content": '{"properties":{"title":{"type":"string"}}}'}]}),
    ],
)
async def test_another_request_is_not_recorded_as_one_for_a_title(
    headers: dict[str, str], fields: dict[str, Any]
) -> None:
    built, titles, texts = proxy_with("chat")
    await built.post(**({"text": "hi"} if "messages" not in fields else {}), headers=headers, **fields)
    assert titles.pieces == []
    assert texts.pieces
