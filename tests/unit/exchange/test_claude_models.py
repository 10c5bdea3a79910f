"""Requests for one Claude model that a setting sends to another one: what this one does not accept is fitted."""

import json
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.engine import build_engine
from anthropic_proxy.engine.exchange.in_process import send_request
from anthropic_proxy.engine.options import ConfiguredProvider, ModelTable
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.wires.bound_requests import BoundRequest
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.secrets import Secret
from tests.support.harness import FakeResponse

REPLY = json.dumps(
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [{"type": "text", "text": "hello"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
).encode()
KEYS = {
    "AWS_BEARER_TOKEN_BEDROCK": "the-key-of-the-cloud",
    "AWS_REGION": "eu-west-1",
    "ANTHROPIC_API_KEY": "sk-ant-0123456789",
}
OWN_NAMES = {"team-small": ModelTable(model_of="anthropic/claude-haiku-4-5")}
TABLES = tuple(
    ConfiguredProvider(name=name, base_url=url, wire="messages", has_key=name != "gateway", models=OWN_NAMES)
    for name, url in (
        ("gateway", "https://llm.example.com"),
        ("msft", "https://r.services.ai.azure.com/anthropic"),
        ("vercel", "https://ai-gateway.vercel.sh/v1"),
    )
)
"""A gateway of your own, deployments in Microsoft Foundry, and a gateway whose models are known."""
QUESTION = {"role": "user", "content": "q"}
PREFILL = {"role": "assistant", "content": "{"}
CONTINUE = {"role": "user", "content": "Continue exactly from the end of your last message."}
CALL = {"role": "assistant", "content": [{"type": "server_tool_use", "id": "srvtoolu_1", "name": "x", "input": {}}]}
OPUS_4_5, SONNET_4_6, HAIKU_4_5 = "claude-opus-4-5-20251101", "claude-sonnet-4-6", "claude-haiku-4-5"
NEWER, OLDER = "claude-opus-5-5", "claude-opus-4-1"


async def sent_for(variables: dict[str, str], asked: str, fields: dict[str, Any]) -> tuple[dict[str, Any], str, bytes]:
    """Return the body that the provider gets, the counts of the losses, and the client's own body."""
    sent: list[bytes] = []

    async def upstream(bound: BoundRequest) -> FakeResponse:
        sent.append(bound.request.body)
        return FakeResponse(200, REPLY)

    providers = PROVIDERS.resolve(TABLES)
    settings = load_settings({**KEYS, **variables}, providers, env_file=None)
    keys = dict.fromkeys(("msft", "vercel"), (Secret("the-key-of-the-resource"),)) | dict(settings.keys)
    engine = build_engine(structs.replace(settings, configured_providers=TABLES, keys=keys))
    engine = structs.replace(engine, transports=dict.fromkeys(engine.transports, upstream))
    body = json.dumps({"model": asked, "max_tokens": 100, "messages": [QUESTION], **fields}).encode()
    reply = await send_request(engine, body, {"anthropic-version": "2023-06-01"})
    content = b"".join([piece async for piece in reply.body])
    await engine.close()
    assert reply.status == 200, content
    return json.loads(sent[0]), reply.headers["x-proxy-fidelity"].partition("; ")[2], body


ADAPTIVE = {"thinking": {"type": "adaptive", "display": "omitted"}}
CLEAR_THINKING = {"type": "clear_thinking_20251015", "keep": "all"}
MANUAL = {"thinking": {"type": "enabled", "budget_tokens": 2000}}
SHOWN = {"type": "adaptive", "display": "summarized"}
"""What a model with budgets does without `display`."""


@pytest.mark.parametrize(
    ("model", "given", "expected", "counts"),
    [
        pytest.param(
            HAIKU_4_5,
            {"max_tokens": 128_000, **ADAPTIVE, "output_config": {"effort": "medium"}},
            {
                "max_tokens": 64_000,
                "thinking": {"type": "enabled", "budget_tokens": 16_384, "display": "omitted"},
                "output_config": None,
            },
            "approximated=3; emulated=0; dropped=0",
            id="what Claude Code sends, to an older model",
        ),
        pytest.param(
            OPUS_4_5,
            {"max_tokens": 40_000, **ADAPTIVE, "output_config": {"effort": "max", "task_budget": 1}},
            {
                "max_tokens": 40_000,
                "thinking": {"type": "enabled", "budget_tokens": 20_000, "display": "omitted"},
                "output_config": {"task_budget": 1, "effort": "high"},
            },
            "approximated=2; emulated=0; dropped=0",
            id="a budget leaves room for the reply, and the nearest effort is sent",
        ),
        pytest.param(
            HAIKU_4_5,
            {"max_tokens": 2_000, **ADAPTIVE},
            {"max_tokens": 2_000, "thinking": None},
            "approximated=1; emulated=0; dropped=0",
            id="no room for a budget",
        ),
        pytest.param(
            HAIKU_4_5,
            {"max_tokens": 2_000, **ADAPTIVE, "context_management": {"edits": [CLEAR_THINKING]}},
            {"max_tokens": 2_000, "thinking": None, "context_management": None},
            "approximated=1; emulated=0; dropped=0",
            id="without thinking, none is cleared",
        ),
        pytest.param(
            HAIKU_4_5,
            {"max_tokens": 1e6},
            {"max_tokens": 64_000},
            "approximated=1; emulated=0; dropped=0",
            id="a limit with an exponent",
        ),
        pytest.param(
            HAIKU_4_5,
            {"max_tokens": 128_000, "thinking": {"type": "enabled", "budget_tokens": 127_999}},
            {"max_tokens": 64_000, "thinking": {"type": "enabled", "budget_tokens": 63_999}},
            "approximated=2; emulated=0; dropped=0",
            id="a budget above the limit of the output",
        ),
        pytest.param(
            HAIKU_4_5,
            {"max_tokens": 128_000, "thinking": {"type": "adaptive", "budget_tokens": 127_999}},
            {"max_tokens": 64_000, "thinking": {"type": "enabled", "budget_tokens": 16_384}},
            "approximated=2; emulated=0; dropped=0",
            id="a budget beside a form that has none",
        ),
        pytest.param(
            "claude-3-5-haiku-20241022",
            {"max_tokens": 9_000, **MANUAL},
            {"max_tokens": 8_192, "thinking": None},
            "approximated=2; emulated=0; dropped=0",
            id="a model that does not think",
        ),
        pytest.param(
            NEWER,
            {**MANUAL, "temperature": 0.5, "top_k": 3, "max_tokens": 4_000, "messages": [QUESTION, PREFILL]},
            {
                "thinking": {"type": "adaptive", "display": "summarized"},
                "temperature": None,
                "top_k": None,
                "max_tokens": 4_000,
                "messages": [QUESTION, PREFILL, CONTINUE],
            },
            "approximated=1; emulated=1; dropped=2",
            id="what older models accept, to a newer one",
        ),
        pytest.param(
            NEWER,
            {"thinking": {"type": "enabled", "budget_tokens": 2000, "display": "omitted"}, "max_tokens": 4_000},
            {"thinking": {"type": "adaptive", "display": "omitted"}},
            "approximated=1; emulated=0; dropped=0",
            id="thinking that the client does not show",
        ),
        pytest.param(
            SONNET_4_6,
            {**MANUAL, "temperature": 1, "max_tokens": 4_000, "messages": [QUESTION, PREFILL]},
            {**MANUAL, "temperature": 1, "max_tokens": 4_000, "messages": [QUESTION, PREFILL, CONTINUE]},
            "approximated=0; emulated=1; dropped=0",
            id="a model with both forms of thinking",
        ),
        pytest.param(
            NEWER,
            {"messages": [QUESTION, CALL], **ADAPTIVE},
            {"messages": [QUESTION, CALL], **ADAPTIVE},
            "approximated=0; emulated=0; dropped=0",
            id="a paused reply is no prefill",
        ),
    ],
)
@pytest.mark.parametrize("provider", ["anthropic", "bedrock"])
async def test_a_request_is_fitted_to_the_model_that_a_setting_chose(
    provider: str, model: str, given: dict[str, Any], expected: dict[str, Any], counts: str
) -> None:
    name = model if provider == "anthropic" else f"eu.anthropic.{model}"
    variables = {"PREFERRED_PROVIDER": "bedrock", "MODEL_OPUS": f"{provider}/{name}"}
    sent, found, _ = await sent_for(variables, OLDER if model is NEWER else NEWER, given)
    assert {field: sent.get(field) for field in expected} == expected
    assert found == counts


@pytest.mark.parametrize(
    ("variables", "asked", "model"),
    [
        ({"PREFERRED_PROVIDER": "anthropic"}, HAIKU_4_5, HAIKU_4_5),
        ({"PREFERRED_PROVIDER": "anthropic"}, f"bedrock/eu.anthropic.{HAIKU_4_5}", None),
        ({"PREFERRED_PROVIDER": "bedrock", "MODEL_HAIKU": f"bedrock/eu.anthropic.{HAIKU_4_5}"}, HAIKU_4_5, None),
    ],
)
async def test_a_request_for_a_model_that_the_client_named_is_not_fitted(
    variables: dict[str, str], asked: str, model: str | None
) -> None:
    given = {"max_tokens": 128_000, **ADAPTIVE, "output_config": {"effort": "medium"}}
    sent, counts, body = await sent_for(variables, asked, given)
    assert {field: sent.get(field) for field in given} == given
    assert counts == "approximated=0; emulated=0; dropped=0"
    if model is not None:
        assert json.loads(body) == sent


async def test_a_request_that_the_chosen_model_accepts_stays_as_it_is() -> None:
    given = {"max_tokens": 64_000, **MANUAL, "temperature": 1, "messages": [QUESTION, PREFILL]}
    variables = {"PREFERRED_PROVIDER": "bedrock", "MODEL_OPUS": f"anthropic/{HAIKU_4_5}"}
    sent, counts, body = await sent_for(variables, NEWER, given)
    assert sent == json.loads(body) | {"model": HAIKU_4_5}
    assert counts == "approximated=0; emulated=0; dropped=0"


async def test_without_thinking_only_its_clearing_is_left_out() -> None:
    others = {"type": "clear_tool_uses_20250919"}
    given = {"max_tokens": 2_000, **ADAPTIVE, "context_management": {"edits": [CLEAR_THINKING, others]}}
    variables = {"PREFERRED_PROVIDER": "anthropic", "MODEL_OPUS": f"anthropic/{HAIKU_4_5}"}
    sent, _, _ = await sent_for(variables, NEWER, given)
    assert "thinking" not in sent
    assert sent["context_management"] == {"edits": [others]}


@pytest.mark.parametrize(
    ("asked", "model", "expected"),
    [
        ("claude-opus-4", "claude-opus-4-8", SHOWN),
        ("claude-opus-4-5", "claude-opus-4-8", SHOWN),
        ("claude-opus-4-8[1m]", "claude-opus-4-8", MANUAL["thinking"]),
        ("claude-opus-4-8", "claude-opus-4-8-20260301", MANUAL["thinking"]),
    ],
)
async def test_the_beginning_of_a_name_is_another_model(asked: str, model: str, expected: dict[str, Any]) -> None:
    variables = {"PREFERRED_PROVIDER": "anthropic", "MODEL_OPUS": f"anthropic/{model}"}
    sent, _, _ = await sent_for(variables, asked, {"max_tokens": 4_000, **MANUAL})
    assert sent["thinking"] == expected


@pytest.mark.parametrize("provider", ["gateway", "msft"])
async def test_a_name_of_your_own_has_the_rules_of_the_model_behind_it(provider: str) -> None:
    variables = {"PREFERRED_PROVIDER": "anthropic", "MODEL_OPUS": f"{provider}/team-small"}
    given = {"max_tokens": 128_000, **ADAPTIVE, "output_config": {"effort": "medium"}}
    sent, counts, _ = await sent_for(variables, NEWER, given)
    assert {field: sent.get(field) for field in ("model", *given)} == {
        "model": "team-small",
        "max_tokens": 64_000,
        "thinking": {"type": "enabled", "budget_tokens": 16_384, "display": "omitted"},
        "output_config": None,
    }
    assert counts == "approximated=3; emulated=0; dropped=0"


async def test_the_model_behind_a_name_of_your_own_is_the_one_that_the_client_named() -> None:
    variables = {"PREFERRED_PROVIDER": "anthropic", "MODEL_HAIKU": "gateway/team-small"}
    given = {"max_tokens": 128_000, **ADAPTIVE}
    sent, _, _ = await sent_for(variables, HAIKU_4_5, given)
    assert {field: sent.get(field) for field in given} == given


@pytest.mark.parametrize(
    ("asked", "given", "expected"),
    [
        (NEWER, ADAPTIVE, {"type": "enabled", "budget_tokens": 2_000, "display": "omitted"}),
        (NEWER, MANUAL, MANUAL["thinking"]),
        (HAIKU_4_5, ADAPTIVE, ADAPTIVE["thinking"]),
    ],
)
async def test_a_gateway_s_name_for_a_model_has_a_point(
    asked: str, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    variables = dict.fromkeys(("MODEL_OPUS", "MODEL_HAIKU"), "vercel/anthropic/claude-haiku-4.5")
    sent, _, _ = await sent_for({"PREFERRED_PROVIDER": "anthropic", **variables}, asked, {"max_tokens": 4_000, **given})
    assert sent["thinking"] == expected
