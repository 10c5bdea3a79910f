"""Checks of tool calls as the official SDK gets them: a real process, and a provider with each API of the proxy."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fakes.server import Running, serving
from tests.support.scripted_answers import new_scripted_server
from tests.support.sdk import open_sdk
from tests.support.server_process import Proxy, running_proxy

SAFEGUARDS = [{"type": "dangerous_tool_use", "classifier_context": {"v": 1, "live_cwd": "/home/ada/shop"}}]
BASH: Any = {"name": "Bash", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}}
WHY = "Deletes data that cannot be restored."
VERDICT = json.dumps({"rule": "Deleting", "verdict": "flagged", "explanation": WHY})
CALL = json.dumps({"calls": [["call_1", "Bash", ['{"command": "rm -rf /srv/data"}']]]})
SCRIPT = [
    {"if": '"safety check of a coding agent"', "then": f"200 reply {json.dumps({'texts': [VERDICT]})}"},
    {"if": "always", "then": f"200 reply {CALL}"},
]
MODELS = ("openai/gpt-4.1", "groq/llama-3.3-70b-versatile", "ollama/qwen3-coder:30b", "gemini/gemini-2.5-flash")


@pytest.fixture(scope="module")
def provider() -> Iterator[Running]:
    with serving(new_scripted_server(SCRIPT)) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(provider: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    settings = {
        "OPENAI_API_KEY": "k1",
        "OPENAI_BASE_URL": f"{provider.url}/v1",
        "OPENAI_WIRE": "responses",
        "GROQ_API_KEY": "k2",
        "GROQ_BASE_URL": f"{provider.url}/v1",
        "OLLAMA_API_BASE": provider.url,
        "GEMINI_API_KEY": "k3",
        "GEMINI_BASE_URL": f"{provider.url}/v1beta",
        "PREFERRED_PROVIDER": "openai",
    }
    with running_proxy(tmp_path_factory.mktemp("auto_mode"), settings) as running:
        yield running
        assert "Traceback" not in running.log


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("model", MODELS)
def test_the_sdk_gets_the_verdict_with_the_end_of_the_reply(proxy: Proxy, model: str, stream: bool) -> None:
    fields: Any = {"model": model, "max_tokens": 500, "tools": [BASH], "extra_body": {"safeguards": SAFEGUARDS}}
    fields["messages"] = [{"role": "user", "content": "Free some space."}]
    with open_sdk(base_url=proxy.url, api_key="the-clients-own", max_retries=0) as client:
        if stream:
            with client.messages.stream(**fields) as events:
                found = [event for event in events if event.type == "message_delta"]
                message = events.get_final_message()
            results = [event.delta.model_dump()["safeguard_results"] for event in found]
        else:
            message = client.messages.create(**fields)
            results = [message.model_dump()["safeguard_results"]]
    (call,) = [block for block in message.content if block.type == "tool_use"]
    outcome = {"type": "evaluated", "outcome": "flagged", "explanation": WHY}
    status = {"type": "available", "tool_uses": {call.id: outcome}}
    assert results == [[{"type": "dangerous_tool_use", "status": status}]]
