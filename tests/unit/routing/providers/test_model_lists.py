"""The limits and prices that the model lists of servers state."""

import asyncio
import json
import sys
from typing import Any

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.provider_models import ListedModel, query_chat_models
from anthropic_proxy.engine.wires.bound_requests import BoundRequest
from anthropic_proxy.errors import UpstreamProtocolError
from anthropic_proxy.gateway.settings import Settings
from tests.support.harness import FakeResponse


async def query(*entries: dict[str, Any]) -> list[ListedModel]:
    async def send(bound: BoundRequest) -> FakeResponse:
        return FakeResponse(200, json.dumps({"data": entries}).encode())

    return await query_chat_models(PROVIDERS.find("openai"), Settings(), send, None, 5.0)


async def read_list(*entries: dict[str, Any]) -> list[tuple[str, int | None, int | None]]:
    return [(model.id, model.context_window, model.max_output) for model in await query(*entries)]


async def test_names_with_control_characters_and_models_without_chat_are_left_out() -> None:
    names = ["some", "b\x1b[31mad", "Text-Embedding-3", "gpt-5\n", "tts-1", "own-guard", "", "x/some:free"]
    assert [name for name, _, _ in await read_list(*({"id": name} for name in names))] == ["some", "x/some:free"]


HOSTILE = (
    *(
        "${ANTHROPIC_API_KEY}",
        "$HOME",
        "m;>PWNED;#",
        "m&calc",
        "m|sh",
        "`id`",
        "$(id)",
        "%PATH%",
        "m'x",
        'm"x',
        "m\u2019x",
    ),
    *(
        "*",
        "claude-*",
        "gpt-?",
        "[a-z]",
        "../../etc/passwd",
        "a/../b",
        "..",
        "a\\..\\b",
        "#m",
        "m#",
        "m##x",
        "m=1",
        "a,b",
        "m!x",
    ),
    *("-x", "m ", " m", "a b", "m(x)", "a b", "m(x)", "x" * 257, "m\u202egnp", "m{a,b}", "<b>m", "m\u0000"),
)
REAL = (
    *("gpt-5.2", "hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M", "@cf/meta/llama-3.1-8b-instruct", "qwen3:30b"),
    *("us.anthropic.claude-sonnet-4-20250514-v1:0", "arn:aws:bedrock:us-east-1::foundation-model/x", "x@001"),
    *(
        "openrouter/auto:free",
        "~anthropic/claude-latest",
        "C:\\models\\x.gguf",
        "/models/qwen",
        "a+b",
        "accounts/x/models/y#accounts/x/deployments/z",
    ),
    *("ft:gpt-4.1:org::id", "_own", "x" * 256),
)


async def test_a_name_that_is_a_variable_a_command_a_pattern_or_a_way_out_is_left_out() -> None:
    listed = await read_list(*({"id": name} for name in (*HOSTILE, *REAL)))
    assert [name for name, _, _ in listed] == list(REAL)


async def test_a_long_list_does_not_hold_up_others() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    others = asyncio.create_task(count_turns())
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # else the thread may hold the interpreter until its end
    listed = await read_list(*({"id": f"model-{number}", "description": "x" * 100} for number in range(1_000)))
    sys.setswitchinterval(interval)
    others.cancel()
    assert len(listed) == 1_000
    assert turns > 1


@pytest.mark.parametrize("body", ["[1", '{"data": 1}', '{"data": null}', "{}", '[{"id": "x"}, ]', "1", ""])
async def test_a_body_that_is_no_list_is_an_error(body: str) -> None:
    async def send(bound: BoundRequest) -> FakeResponse:
        return FakeResponse(200, body.encode())

    with pytest.raises(UpstreamProtocolError) as caught:
        await query_chat_models(PROVIDERS.find("openai"), Settings(), send, None, 5.0)
    assert caught.value.message == (
        "openai answered the query for its models with something else, at https://api.openai.com/v1"
    )


async def test_only_the_first_models_of_a_long_list_are_read() -> None:
    listed = await read_list(*({"id": f"model-{number}"} for number in range(5_001)))
    assert (len(listed), listed[-1]) == (5_000, ("model-4999", None, None))


@pytest.mark.parametrize(
    ("fields", "window", "most"),
    [
        ({"metadata": {"context_length": 163_840, "max_tokens": 16_384}}, 163_840, 16_384),
        ({"context_size": 131_072, "max_output_tokens": 32_768}, 131_072, 32_768),
        (
            {
                "context_length": 1_000_000,
                "top_provider": {"context_length": 262_144, "max_completion_tokens": 65_536},
            },
            262_144,
            65_536,
        ),
        ({"context_length": 131_072, "top_provider": {"context_length": None}, "metadata": None}, 131_072, None),
        ({"context_length": "131072", "max_tokens": 8192.0}, 131_072, 8192),
        ({"context_length": "many", "max_model_len": 32_768, "max_tokens": [1]}, 32_768, None),
        ({"context_length": 1e300, "max_tokens": True}, None, None),
    ],
    ids=["DeepInfra", "Novita", "OpenRouter", "without", "text and fraction", "no numbers", "no limits"],
)
async def test_limits_are_read_from_the_fields_of_each_server(
    fields: dict[str, Any], window: int | None, most: int | None
) -> None:
    assert await read_list({"id": "some", **fields}) == [("some", window, most)]


@pytest.mark.parametrize(
    ("pricing", "prices"),
    [
        (
            {"prompt": "0.00000125", "completion": "0.00001", "request": "0", "input_cache_read": "0.000000125"},
            {"input": 1.25, "output": 10, "cache_read": 0.125},
        ),
        (
            {
                "prompt": "0.000003",
                "completion": "0.000015",
                "input_cache_read": "0",
                "input_cache_write": "0.00000375",
            },
            {"input": 3, "output": 15, "cache_write": 3.75},
        ),
        ({"prompt": "0", "completion": "0", "image": "0.001"}, {"input": 0, "output": 0}),
        ({"prompt": "-1", "completion": "-1"}, None),
        ({"prompt": "0.000001", "completion": "0.000001", "request": "0.005"}, None),
        ({"prompt": "0.000001"}, None),
        ({"prompt": 0.000001, "completion": 0.000002}, None),
        ({"prompt": "1.25", "completion": "10"}, None),
        *(
            ({"prompt": text, "completion": "0.00001"}, None)
            for text in ("NaN", "Infinity", "1e9", "free", "0" * 5_000)
        ),
        ("0.00001", None),
    ],
)
async def test_prices_of_a_list_are_amounts_per_token(pricing: Any, prices: dict[str, float] | None) -> None:
    (listed,) = await query({"id": "some", "pricing": pricing})
    assert listed.prices == prices
