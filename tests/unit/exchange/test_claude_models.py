"""Requests for one Claude model that a setting sends to another one: what this one does not accept is fitted."""

import asyncio
import json
from collections.abc import Callable
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
from tests.support.fakes.anthropic.models import MODELS
from tests.support.fakes.anthropic.rules import check_body
from tests.support.harness import FakeResponse
from tests.support.tables import in_one_test

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
WINDOW = {"context_window": 100_000}
OF_VENDOR = {
    "text-only": ModelTable(**WINDOW, accepts_images=False, accepts_pdf=False),
    "sees": ModelTable(**WINDOW, accepts_images=True, accepts_pdf=False),
    "reads-all": ModelTable(**WINDOW, accepts_images=True, accepts_pdf=True),
    "only-window": ModelTable(**WINDOW),
}
WITH_KEY = ("msft", "vercel", "deep")
TABLES = tuple(
    ConfiguredProvider(name=name, base_url=url, wire="messages", has_key=name in WITH_KEY, models=models)
    for name, url, models in (
        ("gateway", "https://llm.example.com", OWN_NAMES),
        ("msft", "https://r.services.ai.azure.com/anthropic", OWN_NAMES),
        ("vercel", "https://ai-gateway.vercel.sh/v1", OWN_NAMES),
        ("vendor", "https://messages.example.com", OF_VENDOR),
        ("deep", "https://api.deepseek.com/anthropic", {}),
    )
)
"""A gateway of your own, deployments in Microsoft Foundry, a gateway whose models are known, and a vendor."""
QUESTION = {"role": "user", "content": "q"}
PREFILL = {"role": "assistant", "content": "{"}
CONTINUE = {"role": "user", "content": "Continue exactly from the end of your last message."}
CALL = {"role": "assistant", "content": [{"type": "server_tool_use", "id": "srvtoolu_1", "name": "x", "input": {}}]}
OPUS_4_5, SONNET_4_6, HAIKU_4_5 = "claude-opus-4-5-20251101", "claude-sonnet-4-6", "claude-haiku-4-5"
NEWER, OLDER = "claude-opus-5-5", "claude-opus-4-1"


async def sent_for(
    variables: dict[str, str], asked: str, fields: dict[str, Any], answer: bytes = REPLY, *, failing: str = "no host"
) -> tuple[dict[str, Any], str, bytes]:
    """Return the body that the last provider gets, the counts of the losses, and the client's own body.

    `failing`: part of the address of a provider that has no such model.
    """
    sent: list[bytes] = []

    async def upstream(bound: BoundRequest) -> FakeResponse:
        sent.append(bound.request.body)
        return FakeResponse(404, b"{}") if failing in bound.base_url.split("/")[2] else FakeResponse(200, answer)

    providers = PROVIDERS.resolve(TABLES)
    settings = load_settings({**KEYS, **variables}, providers, env_file=None)
    keys = dict.fromkeys(WITH_KEY, (Secret("the-key-of-the-resource"),)) | dict(settings.keys)
    engine = build_engine(structs.replace(settings, configured_providers=TABLES, keys=keys))
    engine = structs.replace(engine, transports=dict.fromkeys(engine.transports, upstream))
    body = json.dumps({"model": asked, "max_tokens": 100, "messages": [QUESTION], **fields}).encode()
    reply = await send_request(engine, body, {"anthropic-version": "2023-06-01"})
    content = b"".join([piece async for piece in reply.body])
    await engine.close()
    assert reply.status == 200, content
    return json.loads(sent[-1]), reply.headers["x-proxy-fidelity"].partition("; ")[2], body


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


TOOLS = [{"name": "look", "input_schema": {"type": "object"}}, {"name": "write", "input_schema": {"type": "object"}}]
OFF, BETWEEN = {"thinking": {"type": "disabled"}}, {"thinking": {"type": "between_tools"}}
FORCED = {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "write", "disable_parallel_tool_use": True}}
FREE = {"type": "auto", "disable_parallel_tool_use": True}
REQUIRED = {"tools": TOOLS, "tool_choice": {"type": "any"}}
OPUS, SONNET, HAIKU, FABLE = "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-fable-5-2"
CALL_WRITE = {"role": "user", "content": "Call the tool write now."}
CALL_ANY = {"role": "user", "content": "Call one of the tools now."}
COMPUTER = {"type": "computer_20251124", "name": "computer", "display_width_px": 800, "display_height_px": 600}
MARK = {"cache_control": {"type": "ephemeral"}}


@in_one_test
@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        (OPUS, OFF, {"thinking": None, "output_config": {"effort": "low"}, "max_tokens": 4_196}),
        (OPUS, BETWEEN, {"thinking": None, "output_config": {"effort": "low"}, "max_tokens": 4_196}),
        (OPUS, {**OFF, "max_tokens": 5_000}, {"thinking": None, "max_tokens": 5_000}),
        (OPUS, {**OFF, "max_tokens": 1}, {"thinking": None, "max_tokens": 1}),
        (OPUS, {}, {"thinking": None, "output_config": {"effort": "low"}, "max_tokens": 4_196}),
        (OPUS, {"output_config": {"effort": "max"}}, {"output_config": {"effort": "max"}, "max_tokens": 100}),
        (SONNET, {}, {**BETWEEN, "output_config": None, "max_tokens": 100}),
        (HAIKU, {}, {"thinking": None, "output_config": None, "max_tokens": 100}),
        (OPUS, ADAPTIVE, {**ADAPTIVE, "max_tokens": 100}),
        (
            OPUS,
            {**OFF, "output_config": {"effort": "max", "format": {"type": "json_schema", "schema": {}}}},
            {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}}},
        ),
        (FABLE, OFF, {"thinking": None, "output_config": {"effort": "low"}, "max_tokens": 4_196}),
        (SONNET, OFF, {**BETWEEN, "output_config": None, "max_tokens": 100}),
        (SONNET, BETWEEN, {**BETWEEN, "output_config": None, "max_tokens": 100}),
        (SONNET, {**OFF, "output_config": {"effort": "xhigh"}}, {**BETWEEN, "output_config": {"effort": "high"}}),
        (HAIKU, OFF, {**OFF, "output_config": None, "max_tokens": 100}),
        (HAIKU, BETWEEN, {**OFF, "output_config": None, "max_tokens": 100}),
        (HAIKU, {**OFF, "output_config": {"effort": "max"}}, {**OFF, "output_config": {"effort": "high"}}),
        ("claude-opus-5", {**OFF, "output_config": {"effort": "max"}}, {**OFF, "output_config": {"effort": "high"}}),
        (SONNET_4_6, {**OFF, "output_config": {"effort": "max"}}, {**OFF, "output_config": {"effort": "max"}}),
        (SONNET_4_6, {"output_config": {"effort": "xhigh"}}, {"output_config": {"effort": "high"}}),
        (HAIKU_4_5, BETWEEN, OFF),
        (OPUS, FORCED, {"tool_choice": FREE, "messages": [QUESTION, CALL_WRITE]}),
        (OPUS, REQUIRED, {"tool_choice": {"type": "auto"}, "messages": [QUESTION, CALL_ANY]}),
        (SONNET, REQUIRED, {"tool_choice": {"type": "auto"}, "messages": [QUESTION, CALL_ANY]}),
        (FABLE, {**FORCED, **OFF}, {"thinking": None, "tool_choice": FREE, "messages": [QUESTION, CALL_WRITE]}),
        (
            OPUS,
            {**FORCED, "messages": [QUESTION, PREFILL]},
            {"tool_choice": FREE, "messages": [QUESTION, PREFILL, CONTINUE, CALL_WRITE]},
        ),
        (HAIKU, FORCED, {"tool_choice": FORCED["tool_choice"], "messages": [QUESTION]}),
        ("claude-opus-5", FORCED, {"tool_choice": FORCED["tool_choice"], "messages": [QUESTION]}),
        (OPUS, {"tools": TOOLS, "tool_choice": {"type": "none"}}, {"tool_choice": {"type": "none"}}),
        (OPUS, {"tools": TOOLS, "tool_choice": {"type": "new"}}, {"tool_choice": {"type": "new"}}),
        (OPUS, {**OFF, "thinking": {"type": "new"}}, {"thinking": {"type": "new"}}),
    ],
)
def test_a_request_is_fitted_to_what_the_model_is_capable_of(
    model: str, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    variables = {"PREFERRED_PROVIDER": "anthropic", "MODEL_OPUS": f"anthropic/{model}"}
    sent, _, _ = asyncio.run(sent_for(variables, OLDER, given))
    assert {field: sent.get(field) for field in expected} == expected
    if model in MODELS and "new" not in json.dumps(given):
        assert [*check_body(sent, MODELS[model])] == []


async def test_without_thinking_the_request_for_a_model_that_always_thinks_has_room_for_it_already() -> None:
    variables = {"PREFERRED_PROVIDER": "anthropic", "MODEL_OPUS": f"anthropic/{OPUS}"}
    sent, _, _ = await sent_for(variables, "claude-opus-6[1m]", {})
    assert (sent["max_tokens"], sent.get("output_config"), sent.get("thinking")) == (100, None, None)


async def test_a_tool_that_is_not_offered_is_not_asked_for() -> None:
    given = {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "read"}, **ADAPTIVE}
    sent, counts, _ = await sent_for(
        {"PREFERRED_PROVIDER": "anthropic", "MODEL_OPUS": f"anthropic/{OPUS}"}, OLDER, given
    )
    assert (sent["tool_choice"], sent["messages"]) == (given["tool_choice"], [QUESTION])
    assert counts == "approximated=0; emulated=0; dropped=0"


@in_one_test
@pytest.mark.parametrize(
    ("provider", "model", "becomes_function"),
    [
        ("anthropic", OPUS, True),
        ("anthropic", HAIKU, True),
        ("anthropic", FABLE, False),
        ("anthropic", "claude-opus-4-8", False),
        ("bedrock", f"eu.anthropic.{OPUS}-v1:0", False),
        ("msft", OPUS, False),
        ("gateway", OPUS, True),
    ],
)
def test_a_computer_tool_that_the_model_does_not_have_becomes_a_function(
    provider: str, model: str, becomes_function: bool
) -> None:
    variables = {"PREFERRED_PROVIDER": "anthropic", "MODEL_OPUS": f"{provider}/{model}"}
    sent, counts, _ = asyncio.run(sent_for(variables, OLDER, {"tools": [*TOOLS, COMPUTER | MARK], **ADAPTIVE}))
    *others, computer = sent["tools"]
    assert others == TOOLS
    if not becomes_function:
        assert computer == COMPUTER | MARK
        return
    assert (computer["name"], computer.get("type"), computer["cache_control"]) == (
        "computer",
        None,
        {"type": "ephemeral"},
    )
    assert "800 × 600" in computer["description"]
    assert {"action", "coordinate"} <= computer["input_schema"]["properties"].keys()
    assert "emulated=1" in counts


CHAT_REPLY = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}]}'
RESPONSES_REPLY = (
    b'{"id":"r","object":"response","status":"completed","model":"m","output":[{"type":"message","id":"m",'
    b'"role":"assistant","status":"completed","content":[{"type":"output_text","text":"hello","annotations":[]}]}],'
    b'"usage":{"input_tokens":1,"output_tokens":1,"total_tokens":2}}'
)
GEMINI_REPLY = b'{"candidates":[{"content":{"role":"model","parts":[{"text":"hello"}]},"finishReason":"STOP"}]}'
OPENROUTER = {"OPENAI_BASE_URL": "https://openrouter.ai/api/v1", "OPENAI_API_KEY": "sk-test-0123456789"}
UNKNOWN_HOST = {"GEMINI_BASE_URL": "https://llm.example.com/v1beta", "GEMINI_API_KEY": "key-of-a-gateway"}


@pytest.mark.parametrize(
    ("variables", "model", "reply", "find_choice"),
    [
        (OPENROUTER, "openai/anthropic/claude-opus-5.5", CHAT_REPLY, lambda sent: sent["tool_choice"]),
        (OPENROUTER, "openai/anthropic/claude-fable-5.1", CHAT_REPLY, lambda sent: sent["tool_choice"]),
        (
            {**OPENROUTER, "OPENAI_WIRE": "responses"},
            "openai/anthropic/claude-opus-5.5",
            RESPONSES_REPLY,
            lambda sent: sent["tool_choice"],
        ),
        (UNKNOWN_HOST, "gemini/claude-opus-5-5", GEMINI_REPLY, lambda sent: sent.get("toolConfig", "auto")),
    ],
)
async def test_over_other_apis_the_model_has_the_same_capabilities(
    variables: dict[str, str], model: str, reply: bytes, find_choice: Callable[[dict[str, Any]], Any]
) -> None:
    """It is asked for the call in the conversation, and thinking that cannot be turned off gets the lowest effort."""
    setting = {"PREFERRED_PROVIDER": "anthropic", "MODEL_OPUS": model, **variables}
    sent, counts, _ = await sent_for(setting, OLDER, {**FORCED, **OFF}, reply)
    assert find_choice(sent) == "auto"
    assert json.dumps(sent).count("Call the tool write now.") == 1
    assert '"none"' not in json.dumps(sent)
    assert "emulated=" in counts


async def test_a_fallback_is_fitted_to_its_own_model() -> None:
    """The first target accepts what the client sends; the next one always thinks and refuses forced calls."""
    targets = {"MODEL_OPUS": f"bedrock/eu.anthropic.{OPUS_4_5}", "FALLBACK_OPUS": f"anthropic/{OPUS}"}
    variables = {"PREFERRED_PROVIDER": "anthropic", **targets}
    sent, _, _ = await sent_for(variables, OLDER, {**FORCED, **OFF}, failing="bedrock")
    assert (sent["model"], sent["tool_choice"], sent["messages"][-1]) == (OPUS, FREE, CALL_WRITE)
    assert (sent.get("thinking"), sent["output_config"]) == (None, {"effort": "low"})
    assert [*check_body(sent, MODELS[OPUS])] == []


def media(kind: str, media_type: str, **source: str) -> dict[str, Any]:
    return {"type": kind, "source": {"type": "base64", "media_type": media_type, "data": "aGk=", **source}}


IMAGE, PDF = media("image", "image/png"), media("document", "application/pdf")
NOTE = media("document", "text/plain", type="text", data="a note")
NO_IMAGE, NO_PDF = (
    {"type": "text", "text": f"[{kind} omitted: this model does not accept it. Say so if it is needed.]"}
    for kind in ("image", "document")
)


@pytest.mark.parametrize(
    ("model", "given", "sent"),
    [
        ("deep/deepseek-v4-pro", [IMAGE, PDF, NOTE], [NO_IMAGE, NO_PDF, NOTE]),
        ("deep/deepseek-v4-flash", [IMAGE, PDF], [IMAGE, NO_PDF]),
        ("vendor/text-only", [IMAGE, PDF, NOTE], [NO_IMAGE, NO_PDF, NOTE]),
        ("vendor/sees", [IMAGE, PDF], [IMAGE, NO_PDF]),
        ("vendor/reads-all", [IMAGE, PDF, NOTE], [IMAGE, PDF, NOTE]),
        ("vendor/only-window", [IMAGE, PDF, NOTE], [IMAGE, PDF, NOTE]),
        ("vendor/unknown", [IMAGE, PDF, NOTE], [IMAGE, PDF, NOTE]),
    ],
)
async def test_a_relay_sends_only_the_media_that_the_model_reads(
    model: str, given: list[dict[str, Any]], sent: list[dict[str, Any]]
) -> None:
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": given}
    call = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}}
    messages = [
        {"role": "user", "content": [*given, {"type": "text", "text": "q"}]},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    body, losses, _ = await sent_for({"BIG_MODEL": model}, "claude-opus-4-1", {"messages": messages})
    assert [body["messages"][0]["content"], body["messages"][2]["content"]] == [
        [*sent, {"type": "text", "text": "q"}],
        [{**result, "content": sent}],
    ]
    omitted = sum(one in (NO_IMAGE, NO_PDF) for one in sent)
    assert ("dropped=0" in losses) == (omitted == 0)


@pytest.mark.parametrize(
    ("model", "choice"),
    [("moonshotai/kimi-k3", {"type": "any"}), ("openai/gpt-oss-120b", {"type": "tool", "name": "a"})],
)
async def test_other_models_that_always_think_do_so_over_the_messages_api(model: str, choice: dict[str, str]) -> None:
    tools = [{"name": name, "input_schema": {"type": "object", "properties": {}}} for name in ("a", "b")]
    fields = {"thinking": {"type": "disabled"}, "tools": tools, "tool_choice": {"type": "tool", "name": "a"}}
    body, losses, _ = await sent_for({"BIG_MODEL": f"vercel/{model}"}, "claude-opus-4-1", fields)
    assert ("thinking" in body, body["tool_choice"]) == (False, choice)
    assert "approximated=0" not in losses
