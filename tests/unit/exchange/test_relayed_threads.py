"""`thread`, a conversation that a server keeps: only Anthropic's own servers keep it, also behind a gateway to them.

Another server ignores the field, or rejects it and gets the request without it. The official SDKs send only the newest
messages after that, so the model would not know the others.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink
from tests.support.routes import CONFIG_FILE

Json = dict[str, Any]
BETA = "message-threads-2026-08-12"
MESSAGES: list[Json] = [{"role": "user", "content": "hello"}]
REFUSED = "thread: this proxy stores no conversations; send the complete history in messages"
GATEWAY = '[providers.gate]\nbase_url = "http://gate.test"\nwire = "messages"\n'
NATIVE = GATEWAY + "[providers.gate.dialect]\nverifies_signatures = true\n"
MOONSHOT = {"MOONSHOT_API_KEY": "sk-0123456789", "MOONSHOT_WIRE": "messages"}
BEDROCK = {"AWS_REGION": "us-east-1", "AWS_BEARER_TOKEN_BEDROCK": "sk-0123456789"}
ANTHROPIC = {"ANTHROPIC_API_KEY": "sk-0123456789"}


class Server:
    """A server with the Messages API that keeps no conversation and says nothing about it."""

    def __init__(self) -> None:
        self.bodies: list[Json] = []

    def __call__(self, base_url: str, request: Any, credential: Any) -> FakeResponse:
        self.bodies.append(json.loads(request.body))
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_sequence": None}
        usage = {"input_tokens": 5, "output_tokens": 2}
        whole = {**message, "content": [{"type": "text", "text": "Hi."}], "stop_reason": "end_turn", "usage": usage}
        return FakeResponse(200, json.dumps(whole).encode())


async def ask(proxy: ProxyHarness, model: str, **fields: Any) -> RecordingSink:
    return await proxy.post(
        headers={"anthropic-beta": BETA}, model=model, max_tokens=10, messages=MESSAGES, stream=False, **fields
    )


@pytest.mark.parametrize("thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}])
@pytest.mark.parametrize("fields", [{}, {"compaction": {"type": "summarize"}}])
@pytest.mark.parametrize(
    ("file", "variables", "model"),
    [
        (GATEWAY, {}, "gate/m"),
        ("", MOONSHOT, "moonshot/kimi-k2"),
        ("", BEDROCK, "bedrock/anthropic.claude-sonnet-5-5"),
    ],
)
async def test_a_server_that_may_keep_no_conversation_gets_no_thread(
    tmp_path: Path, file: str, variables: dict[str, str], model: str, fields: Json, thread: Json
) -> None:
    (tmp_path / CONFIG_FILE).write_text(file)
    server = Server()
    sink = await ask(ProxyHarness(server, env_file=str(tmp_path / ".env"), **variables), model, thread=thread, **fields)
    assert sink.error is not None
    assert (sink.error.status, str(sink.error)) == (400, REFUSED)
    assert sink.error.details == {"error_code": "thread_unsupported_request"}
    assert server.bodies == []


@pytest.mark.parametrize(
    ("file", "variables", "model"), [(NATIVE, {}, "gate/m"), ("", ANTHROPIC, "anthropic/claude-sonnet-5-5")]
)
async def test_anthropic_gets_the_thread(tmp_path: Path, file: str, variables: dict[str, str], model: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(file)
    server = Server()
    sink = await ask(
        ProxyHarness(server, env_file=str(tmp_path / ".env"), **variables), model, thread={"type": "create"}
    )
    assert sink.error is None
    assert [body["thread"] for body in server.bodies] == [{"type": "create"}]


async def test_no_thread_is_a_plain_request(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text(GATEWAY)
    server = Server()
    sink = await ask(ProxyHarness(server, env_file=str(tmp_path / ".env")), "gate/m", thread=None)
    assert sink.error is None
    assert [body["thread"] for body in server.bodies] == [None]
