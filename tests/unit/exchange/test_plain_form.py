"""A server refuses requests in words that the proxy does not know: they are repeated in a plainer form."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import pytest
from anthropic.types.anthropic_beta_param import AnthropicBetaParam
from msgspec import Struct

from anthropic_proxy.engine.exchange import attempt_sender
from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.hooks import PLAIN_FORM, Client
from anthropic_proxy.engine.memory_values import MemoryValues
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.wires.anthropic.betas import list_beta_parts
from anthropic_proxy.engine.wires.anthropic.dialect import Dialect
from anthropic_proxy.engine.wires.failures import build_upstream_error, decode_error_body
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.gateway.plugin_gateway import describe_models
from anthropic_proxy.gateway.telemetry.metrics import PLAIN_FORMS, MetricsTotals
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.tables import in_one_test
from tests.unit.exchange.test_adaptations_of_clients import CLOUD, GOOGLE, OPENAI, REPLIES, SHOWN

WORDS = "The request was not understood."
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
LIMITED = {"type": "object", "properties": {"b": {"type": "string", "minLength": 1}}}
TOOLS: list[dict[str, Any]] = [
    {"name": "f", "input_schema": SCHEMA, "strict": True},
    {"name": "g", "input_schema": LIMITED},
]


class Vendor(Struct, frozen=True):
    """A model at a server, and a request with many parts."""

    settings: Mapping[str, str]
    model: str
    fields: Mapping[str, Any]


VENDORS: Mapping[str, Vendor] = {
    "chat": Vendor(
        OPENAI,
        "openai/gpt-4.1",
        {
            "temperature": 0.5,
            "tools": TOOLS,
            "metadata": {"user_id": "u"},
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
            "stream": True,
        },
    ),
    "responses": Vendor(
        {"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_WIRE": "responses"},
        "openai/gpt-5.2",
        {
            "output_config": {"effort": "high"},
            "tools": TOOLS,
            "metadata": {"user_id": "u"},
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        },
    ),
    "gemini": Vendor(
        GOOGLE,
        "gemini/gemini-2.5-flash",
        {"temperature": 0.5, "output_config": {"effort": "high"}, "tools": TOOLS},
    ),
    "messages": Vendor(
        {**OPENAI, "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1", "OPENAI_WIRE": "messages"},
        "openai/own-model",
        {
            "temperature": 0.5,
            "output_config": {"effort": "high"},
            "tools": [{**tool, "defer_loading": False, "cache_control": {"type": "ephemeral"}} for tool in TOOLS],
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        },
    ),
    "cloud": Vendor(
        CLOUD,
        "foundry/claude-opus-4-6",
        {
            "output_config": {"effort": "high"},
            "thinking": {"type": "adaptive"},
            "tools": [{**tool, "cache_control": {"type": "ephemeral"}} for tool in TOOLS],
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        },
    ),
    "ollama": Vendor({}, "ollama/qwen3", {"temperature": 0.5, "output_config": {"effort": "high"}, "tools": TOOLS}),
}


class Server:
    """A server that refuses each request for which `refuses` is true. It sees `anthropic-beta` as the field `betas`."""

    def __init__(self, refuses: Callable[[Any], bool], status: int = 400, words: str = WORDS) -> None:
        self.requests: list[Any] = []
        self.refuses = refuses
        self._status = status
        self._refusal = json.dumps({"error": {"message": words}}).encode()

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        path = request.path.partition("?")[0]
        if path.endswith("api/show"):
            return FakeResponse(200, json.dumps(SHOWN).encode())
        body = json.loads(request.body)
        if "anthropic-beta" in request.headers:
            body["betas"] = request.headers["anthropic-beta"].split(",")
        self.requests.append(body)
        if self.refuses(body):
            return FakeResponse(self._status, self._refusal)
        reply = next((reply for end, reply in REPLIES.items() if path.endswith(end)), REPLIES["generateContent"])
        return FakeResponse(200, json.dumps(reply).encode())


async def post(
    proxy: ProxyHarness,
    vendor: Vendor,
    text: str,
    key_id: str = "key_a",
    replies: Sequence[str] = (),
    session: str = "",
    headers: Mapping[str, str] = {},
    **fields: Any,
) -> RecordingSink:
    """`session`: id of a session of a client without a key. "": the client has the key `key_id`."""
    messages = [{"role": "user", "content": text}]
    for reply in replies:
        messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": "go on"}]
    body = {"model": vendor.model, "max_tokens": 8_000, "messages": messages, **vendor.fields, **fields}
    client = Client(credential_forwardable=True) if session else Client(name="same", key_id=key_id)
    headers = {**headers, "x-claude-code-session-id": session} if session else headers
    sink = RecordingSink()
    await Exchange(proxy.services, new_client_request(json.dumps(body).encode(), headers, client=client), sink).run()
    return sink


def has(*path: str) -> Callable[[Any], bool]:
    """Return a function that returns True for a body with a value at this path. Lists are passed through."""

    def contains(value: Any, path: Sequence[str]) -> bool:
        if isinstance(value, list):
            return any(contains(inner, path) for inner in value)
        if not path:
            return True
        return isinstance(value, dict) and path[0] in value and contains(value[path[0]], path[1:])

    return lambda body: contains(body, path)


REFUSED = [
    ("chat", ("temperature",)),
    ("chat", ("parallel_tool_calls",)),
    ("chat", ("stream_options",)),
    ("chat", ("prompt_cache_key",)),
    ("chat", ("safety_identifier",)),
    ("chat", ("tools", "function", "strict")),
    ("chat", ("tools", "function", "parameters", "properties", "b", "minLength")),
    ("responses", ("reasoning",)),
    ("responses", ("reasoning", "summary")),
    ("responses", ("parallel_tool_calls",)),
    ("responses", ("prompt_cache_key",)),
    ("responses", ("truncation",)),
    ("responses", ("tools", "strict")),
    ("gemini", ("generationConfig", "thinkingConfig")),
    ("gemini", ("generationConfig", "temperature")),
    ("gemini", ("tools", "functionDeclarations", "parametersJsonSchema")),
    ("messages", ("temperature",)),
    ("messages", ("output_config", "effort")),
    *(("messages", ("tools", name)) for name in ("strict", "defer_loading", "cache_control")),
    ("messages", ("system", "cache_control")),
    ("cloud", ("output_config", "effort")),
    ("cloud", ("thinking",)),
    *(("cloud", ("tools", name)) for name in ("strict", "cache_control")),
    ("cloud", ("tools", "input_schema", "properties", "b", "minLength")),
    ("ollama", ("think",)),
    ("ollama", ("options", "temperature")),
]


DEPENDENT = frozenset((".include",))
"""Fields that mean nothing without a refused one: `include` asks for the state of the reasoning."""


@pytest.mark.parametrize(("name", "path"), REFUSED, ids=[f"{name} {'.'.join(path)}" for name, path in REFUSED])
async def test_a_part_that_a_server_refuses_in_unknown_words_is_found_and_all_others_are_sent(
    name: str, path: Sequence[str]
) -> None:
    vendor = VENDORS[name]
    server = Server(has(*path))
    proxy = ProxyHarness(server, **vendor.settings)
    for number in range(20):
        assert (await post(proxy, vendor, f"hello {number}")).error is None
    calls = len(server.requests)
    assert calls > 20
    (usual,) = await _usual(vendor)
    assert has(*path)(usual), "the request has no such part"
    for number in range(3):
        assert (await post(proxy, vendor, f"later {number}")).error is None
    later = server.requests[calls:]
    assert len(later) == 3  # one call for each
    lost = {field for field in _paths(usual) - _paths(later[-1]) if field not in DEPENDENT}
    kept = {field for field in lost if not set(path) & set(field.split("."))}
    assert (kept, later[-1] != usual) == (set(), True)


async def _usual(vendor: Vendor, text: str = "hello") -> list[Any]:
    server = Server(lambda body: False)
    await post(ProxyHarness(server, **vendor.settings), vendor, text)
    return server.requests


def _paths(value: Any, start: str = "") -> set[str]:
    if isinstance(value, dict):
        return {path for name, inner in value.items() for path in _paths(inner, f"{start}.{name}")} | {start}
    if isinstance(value, list):
        return {path for inner in value for path in _paths(inner, start)} | {start}
    return {start}


async def test_a_session_whose_server_begins_to_refuse_a_part_goes_on_with_one_more_call() -> None:
    vendor = VENDORS["chat"]
    replies = [f"reply {number}" for number in range(40)]
    server = Server(lambda body: "temperature" in body and len(body["messages"]) > 30)
    proxy = ProxyHarness(server, **vendor.settings)
    for turn in range(40):
        assert (await post(proxy, vendor, "hello", replies=replies[:turn])).error is None
    assert len(server.requests) == 41
    assert ["temperature" in body for body in server.requests] == [True] * 16 + [False] * 25
    forms = {json.dumps({**body, "messages": None}) for body in server.requests}
    assert len(forms) == 2  # the cached prompt is lost once at most


async def test_header_log_and_metric_show_what_was_left_out() -> None:
    vendor = VENDORS["chat"]
    long = f"{WORDS} {'x' * 10_000}"
    proxy = ProxyHarness(Server(has("temperature"), words=long), **vendor.settings)
    for _ in range(2):
        sink = RecordingSink()
        messages = [{"role": "user", "content": "hello"}]
        data = json.dumps({"model": vendor.model, "max_tokens": 8_000, "messages": messages, "temperature": 0.5})
        request = new_client_request(data.encode())
        await Exchange(proxy.services, request, sink).run()
        assert request.receipt.plain_form == ["drop temperature", "drop prompt_cache_key"]
    (line,) = [line for line in proxy.log.getvalue().splitlines() if "plainer form" in line]
    assert line.endswith(
        f"sent again in a plainer form (drop temperature, drop prompt_cache_key), because of: openai: {long[:192]}…"
    )
    totals = MetricsTotals(lambda text: False)
    request.receipt.status = 200
    totals.count_exchange(request.receipt)
    assert totals.snapshot.values[PLAIN_FORMS.name] == {
        ("openai", "gpt-4.1", part): 1 for part in ("drop temperature", "drop prompt_cache_key")
    }


PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}}
OMITTED = "[image omitted: the server refuses this conversation with it. Say so if it is needed.]"
MEDIA_VENDORS = [
    ("chat", "image_url"),
    ("responses", "input_image"),
    ("gemini", "inlineData"),
    ("messages", "image"),
]


@pytest.mark.parametrize(("name", "field"), MEDIA_VENDORS)
@pytest.mark.parametrize("status", [400, 413])
async def test_pictures_of_earlier_turns_are_left_out_only_if_the_plain_form_is_refused_too(
    name: str, field: str, status: int
) -> None:
    vendor = VENDORS[name]
    server = Server(lambda body: f'"{field}"' in json.dumps(body), status)
    proxy = ProxyHarness(server, **vendor.settings)
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "seen"}, PICTURE]}
    history: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "hello"}, PICTURE]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": "b"}}]},
        {"role": "user", "content": [result]},
        {"role": "assistant", "content": "reply"},
        {"role": "user", "content": "go on"},
    ]
    errors = [(await post(proxy, vendor, "", messages=history)).error for _ in range(3)]
    assert [error is None for error in errors] == ([True] * 3 if status == 413 else [False, True, True])
    assert json.dumps(server.requests[-1]).count(OMITTED) == 2
    assert len(server.requests) == (4 if status == 413 else 5)
    server.requests.clear()
    newest = [*history[:-1], {"role": "user", "content": [{"type": "text", "text": "look"}, PICTURE]}]
    assert (await post(proxy, vendor, "", messages=newest)).error is not None  # that of the newest turn stays
    assert all(f'"{field}"' in json.dumps(body) for body in server.requests)
    server.refuses = lambda body: False
    other = [{"role": "user", "content": [{"type": "text", "text": "other"}, PICTURE]}, *history[1:]]
    assert (await post(proxy, vendor, "", messages=other)).error is None
    assert json.dumps(server.requests[-1]).count(OMITTED) == 0


async def test_thinking_of_earlier_turns_is_left_out_of_its_conversation_only() -> None:
    vendor = VENDORS["messages"]
    server = Server(has("messages", "content", "thinking"))
    proxy = ProxyHarness(server, **vendor.settings)
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    history = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [thought, {"type": "text", "text": "reply"}]},
        {"role": "user", "content": "go on"},
    ]
    errors = [(await post(proxy, vendor, "", messages=history)).error for _ in range(3)]
    assert [error is None for error in errors] == [False, True, True]
    server.refuses = lambda body: False
    assert (await post(proxy, vendor, "", messages=[{"role": "user", "content": "other"}, *history[1:]])).error is None
    assert has("messages", "content", "thinking")(server.requests[-1])


async def test_a_changed_form_is_no_change_of_the_prompt_in_the_eyes_of_the_prefix_guard() -> None:
    vendor = VENDORS["chat"]
    server = Server(lambda body: len(body["messages"]) > 10 and has("tools", "function", "strict")(body))
    proxy = ProxyHarness(server, **vendor.settings)
    text = "some words of the user " * 1_000
    for turn in range(12):
        assert (await post(proxy, vendor, text, session="session", replies=["reply"] * turn)).error is None
    assert ["strict" in json.dumps(body) for body in server.requests] == [True] * 6 + [False] * 7
    assert [receipt.prefix_change for receipt in proxy.receipts] == [None] * 12


async def test_a_server_that_refuses_everything_is_called_twice_and_its_first_words_reach_the_client() -> None:
    vendor = VENDORS["chat"]
    words = iter(("first words", "second words"))

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        return FakeResponse(400, json.dumps({"error": {"message": next(words)}}).encode())

    proxy = ProxyHarness(answer, **vendor.settings)
    error = (await post(proxy, vendor, "hello")).error
    assert error is not None
    assert (error.status, error.message) == (400, "openai: first words")


REPETITIONS = [
    (401, {"message": "Incorrect API key provided."}),
    (429, {"message": "Rate limit reached."}),
    (500, {"message": "The server had an error."}),
]


@pytest.mark.parametrize(("status", "error"), REPETITIONS, ids=[str(status) for status, _ in REPETITIONS])
async def test_another_error_of_the_repetition_teaches_nothing(status: int, error: Mapping[str, Any]) -> None:
    vendor = VENDORS["chat"]
    refused, failed = FakeResponse(400, b'{"error": {"message": "?"}}'), json.dumps({"error": error}).encode()
    replies = iter((refused, FakeResponse(status, failed), FakeResponse(status, failed)))
    bodies = list[Any]()

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        bodies.append(json.loads(request.body))
        return next(replies, FakeResponse(200, json.dumps(REPLIES["chat/completions"]).encode()))

    proxy = ProxyHarness(answer, **vendor.settings)
    failure = (await post(proxy, vendor, "hello")).error
    assert failure is not None
    told = 424 if status == 401 else status
    assert (failure.status, failure.message.startswith(f"openai: {error['message']}")) == (told, True)
    bodies.clear()
    list(replies)
    assert (await post(proxy, vendor, "hello")).error is None
    assert bodies == await _usual(vendor)


REFUSED_TEMPERATURE = "Unsupported parameter: 'temperature' is not supported."
NOT_REPEATED: Mapping[str, tuple[int, Mapping[str, Any]]] = {
    "key": (400, {"message": "?", "code": "invalid_api_key"}),
    "billing": (400, {"message": "?", "code": "insufficient_quota"}),
    "limit": (400, {"message": "?", "code": "rate_limit_exceeded"}),
    "policy": (400, {"message": "?", "code": "content_policy_violation"}),
    "rules": (400, {"message": "?", "code": "1301"}),
    "rules with known words": (400, {"message": REFUSED_TEMPERATURE, "code": "terms_of_service"}),
    "account with known words": (400, {"message": REFUSED_TEMPERATURE, "type": "quota_exceeded"}),
    "401": (401, {"message": "?"}),
    "403": (403, {"message": "?"}),
    "404": (404, {"message": "?"}),
    "409": (409, {"message": "?"}),
}


@pytest.mark.parametrize(("status", "error"), NOT_REPEATED.values(), ids=NOT_REPEATED)
async def test_an_error_about_key_limit_or_rules_is_not_taken_for_a_refused_form(
    status: int, error: Mapping[str, Any]
) -> None:
    vendor = VENDORS["chat"]
    bodies = list[Any]()

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        bodies.append(json.loads(request.body))
        return FakeResponse(status, json.dumps({"error": error}).encode())

    await post(ProxyHarness(answer, **vendor.settings), vendor, "hello")
    assert bodies == await _usual(vendor)


POLICY_AND_ACCOUNT_CODES = (
    *("1301", "1110", "1112", "1113", "1308", "1313", "terms_of_service", "content_filter", "prompt_blocked"),
    *("account_deactivated", "insufficient_user_quota", "quota_exceeded", "credit_exhausted", "AccountOverdueError"),
    *("image_content_policy_violation", "ResponsibleAIPolicyViolation", "DataInspectionFailed", "safety_violation"),
    *("InputTextSensitiveContentDetected", "InputTextRiskDetection", "moderation_flagged", "GuardrailIntervened"),
    *(
        "billing_not_enabled",
        "organization_restricted",
        "budget_exceeded",
        "SubscriptionRequired",
        "PROHIBITED_CONTENT",
    ),
    *("payment_method_required", "user_suspended", "api_key_disabled", "unsafe_content", "negative_balance", "csam"),
    *("content_blocked", "ContentBlocklist", "content_check_failed", "risk_control", "RISK_CONTROL", "highRisk"),
)
FORM_CODES = (
    *("unsupported_parameter", "invalid_value", "schema_violation", "budget_tokens_too_large", "unsupported_value"),
    *("1210", "INVALID_ARGUMENT", "invalid_request_error", "constraint_violation", "string_above_max_length", ""),
    *("content_block_invalid", "content_block_too_long", "content_checksum", "unexpected_asterisk", "case_sensitive"),
    *("invalid_content_block", "ContentBlockInvalid", "UNEXPECTED_ASTERISK", "case_insensitive_name"),
)
SHAPES: Mapping[str, Callable[[str, str], Any]] = {
    "code": lambda code, message: {"error": {"message": message, "code": code, "param": None}},
    "type": lambda code, message: {"type": "error", "error": {"type": code, "message": message}},
    "reason": lambda code, message: {"error": {"message": message, "details": [{"reason": code}]}},
    "inside": lambda code, message: {"error": {"message": json.dumps({"error": {"message": message, "code": code}})}},
}


@in_one_test
@pytest.mark.parametrize("code", [*POLICY_AND_ACCOUNT_CODES, *FORM_CODES])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_code_about_content_or_account_says_that_no_change_of_the_request_helps(code: str, shape: str) -> None:
    body = json.dumps(SHAPES[shape](code, REFUSED_TEMPERATURE)).encode()
    error = build_upstream_error(decode_error_body(400, {}, body), "openai")
    assert error.is_repairable == (code in FORM_CODES)


async def test_what_the_requests_of_one_client_have_taught_changes_none_of_another_one() -> None:
    vendor = VENDORS["chat"]
    server = Server(has("temperature"))
    proxy = ProxyHarness(server, **vendor.settings)
    for number in range(20):
        await post(proxy, vendor, f"hello {number}")
    server.requests.clear()
    server.refuses = lambda body: False
    await post(proxy, vendor, "hello", "key_b")
    assert server.requests == await _usual(vendor)


async def test_what_two_clients_have_shown_holds_for_all_until_a_request_with_it_is_accepted() -> None:
    vendor = VENDORS["chat"]
    server = Server(has("temperature"))
    proxy = ProxyHarness(server, **vendor.settings)

    async def sends_temperature(key_id: str, text: str = "hello") -> list[bool]:
        server.requests.clear()
        assert (await post(proxy, vendor, text, key_id)).error is None
        return ["temperature" in body for body in server.requests]

    for number in range(20):
        await post(proxy, vendor, f"hello {number}", "key_a")
    assert await sends_temperature("key_c", "before") == [True, False]
    for number in range(20):
        await post(proxy, vendor, f"hello {number}", "key_b")
    assert await sends_temperature("key_d") == [False]
    server.refuses = lambda body: False
    strict = ProxyHarness(server, FIDELITY="strict", **vendor.settings)
    strict.services.observations.store = proxy.services.observations.store
    assert (await post(strict, vendor, "strict", "key_e")).error is None
    assert await sends_temperature("key_f") == [True]
    assert await sends_temperature("key_a", "another conversation") == [False]  # which its own requests have shown


async def test_the_page_of_a_model_shows_what_the_requests_of_the_same_client_have_shown() -> None:
    vendor = VENDORS["chat"]
    proxy = ProxyHarness(Server(has("temperature")), **vendor.settings)
    for number in range(20):
        await post(proxy, vendor, f"hello {number}")
    shown = [await describe_models(proxy.services, [vendor.model], client) for client in ("key_a", "key_b")]
    assert [model.adaptations for (model,) in shown] == [("plain form: drop temperature",), ()]


async def test_what_refusals_of_a_model_have_shown_can_be_forgotten() -> None:
    vendor = VENDORS["chat"]
    server = Server(has("temperature"))
    proxy = ProxyHarness(server, **vendor.settings)
    observations = proxy.services.observations
    for number in range(20):
        for key_id in ("key_a", "key_b"):
            await post(proxy, vendor, f"hello {number}", key_id)
    server.refuses = has("stream_options")
    await post(proxy, vendor, "hello", model="openai/gpt-4.1-mini")
    target = build_plan(RoutingQuery(vendor.model), proxy.services.settings, proxy.services.catalog).targets[0]
    texts = [
        observations.forget_refusals(target.upstream, target.model).describe(vendor.model),
        observations.forget_refusals(target.upstream, target.model).describe(vendor.model),
        observations.forget_refusals(target.upstream, "gpt-4.1-mini").describe("openai/gpt-4.1-mini"),
    ]
    assert texts == [
        "Forgotten about openai/gpt-4.1: drop temperature and the plainer forms of conversations.",
        "Nothing was known about refusals of openai/gpt-4.1.",
        "Forgotten about openai/gpt-4.1-mini: a search for a refused part and the plainer forms of conversations.",
    ]
    server.refuses = lambda body: False
    for key_id in ("key_a", "key_b", "key_c"):  # also in a running conversation
        server.requests.clear()
        await post(proxy, vendor, "hello 19", key_id, replies=["reply"])
        await post(proxy, vendor, "another", key_id)
        assert ["temperature" in body for body in server.requests] == [True, True]


async def test_opposite_refusals_for_two_clients_do_not_touch_each_other() -> None:
    vendor = VENDORS["chat"]
    refused = {"key_a": has("temperature"), "key_b": has("stream_options")}
    server = Server(lambda body: False)
    proxy = ProxyHarness(server, **vendor.settings)
    for number in range(20):
        for key_id, refuses in refused.items():
            server.refuses = refuses
            assert (await post(proxy, vendor, f"hello {number}", key_id)).error is None
    server.requests.clear()
    for key_id, refuses in refused.items():
        server.refuses = refuses
        await post(proxy, vendor, "later", key_id)
    assert [("temperature" in body, "stream_options" in body) for body in server.requests] == [
        (False, True),
        (True, False),
    ]


async def test_a_flood_of_refused_requests_causes_few_repetitions() -> None:
    vendor = VENDORS["chat"]
    server = Server(lambda body: True)
    proxy = ProxyHarness(server, **vendor.settings)
    for number in range(200):
        await post(proxy, vendor, f"hello {number}")
    assert len(server.requests) < 250


async def test_a_server_of_the_messages_api_keeps_its_form_in_a_session() -> None:
    vendor = VENDORS["messages"]
    server = Server(lambda body: len(body["messages"]) > 10 and has("system", "cache_control")(body))
    proxy = ProxyHarness(server, **vendor.settings)
    for turn in range(20):
        assert (await post(proxy, vendor, "hello", replies=["reply"] * turn)).error is None
    assert len(server.requests) == 21
    assert (await post(proxy, vendor, "another conversation")).error is None
    assert has("system", "cache_control")(server.requests[-1])  # a later conversation searches for the refused part


async def test_the_client_of_the_vendor_s_own_server_gets_its_errors() -> None:
    vendor = Vendor({"ANTHROPIC_API_KEY": "test-0123456789"}, "anthropic/claude-sonnet-4-5", {"temperature": 0.5})
    server = Server(lambda body: True)
    error = (await post(ProxyHarness(server, **vendor.settings), vendor, "hello")).error
    assert error is not None
    assert len(server.requests) == 1


async def test_sessions_without_a_key_share_what_repetitions_the_client_has() -> None:
    vendor = VENDORS["chat"]
    server = Server(lambda body: True)
    proxy = ProxyHarness(server, **vendor.settings)
    for session in range(8):
        for number in range(20):
            await post(proxy, vendor, f"hello {number}", session=f"session-{session}")
    assert len(server.requests) < 160 + 60
    server.requests.clear()
    await post(proxy, vendor, "hello", "key_b")
    assert len(server.requests) == 2  # another client has repetitions of its own


async def test_without_keys_a_session_learns_for_itself_only() -> None:
    vendor = VENDORS["chat"]
    server = Server(has("temperature"))
    proxy = ProxyHarness(server, **vendor.settings)
    for number in range(20):
        await post(proxy, vendor, f"hello {number}", session="first")
    server.refuses = lambda body: False
    server.requests.clear()
    await post(proxy, vendor, "hello", session="second")
    assert ["temperature" in body for body in server.requests] == [True]


async def test_a_wrong_value_takes_the_parameter_from_no_request_with_another_value() -> None:
    vendor = VENDORS["chat"]
    server = Server(lambda body: body.get("temperature", 0) > 2)
    proxy = ProxyHarness(server, **vendor.settings)
    for number in range(20):
        assert (await post(proxy, vendor, f"hello {number}", temperature=5)).error is None
    server.requests.clear()
    assert (await post(proxy, vendor, "later", temperature=5)).error is None
    assert (await post(proxy, vendor, "other", temperature=0.2)).error is None
    assert [body.get("temperature") for body in server.requests] == [None, 0.2]


@pytest.mark.parametrize("times", [1, 20], ids=["suspected", "known"])
async def test_strict_requests_lose_nothing_because_of_what_others_have_shown(times: int) -> None:
    vendor = VENDORS["chat"]
    server = Server(has("stream_options"))
    proxy = ProxyHarness(server, **vendor.settings)
    for number in range(times):
        assert (await post(proxy, vendor, f"hello {number}")).error is None
    strict = ProxyHarness(server, FIDELITY="strict", **vendor.settings)
    strict.services.observations.store = proxy.services.observations.store
    for number in range(3):
        server.requests.clear()
        assert (await post(strict, vendor, f"later {number}")).error is None
        assert all("temperature" in body for body in server.requests)


async def test_after_a_week_one_request_tests_a_part() -> None:
    vendor = VENDORS["chat"]
    now = [0.0]
    server = Server(has("temperature"))
    proxy = ProxyHarness(server, **vendor.settings)
    proxy.services.observations.store = MemoryValues(clock=lambda: now[0])
    for number in range(20):
        assert (await post(proxy, vendor, f"hello {number}")).error is None
    server.refuses = lambda body: False
    sent = []
    for day in range(1, 15):
        now[0] += DAY
        server.requests.clear()
        assert (await post(proxy, vendor, f"day {day}")).error is None
        sent += ["temperature" in body for body in server.requests]
    assert sent == [False] * 6 + [True] * 8


async def test_a_change_by_words_is_tested_again_after_a_week_whatever_was_learned_since() -> None:
    now = [0.0]

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        body = json.loads(request.body)
        bodies.append(body)
        refused = next((field for field in refuses if field in body), None)
        if refused is not None:
            error = {"message": f"Unsupported parameter: '{refused}' is not supported.", "param": refused}
            return FakeResponse(400, json.dumps({"error": error}).encode())
        return FakeResponse(200, json.dumps(REPLIES["chat/completions"]).encode())

    vendor = VENDORS["chat"]
    proxy = ProxyHarness(answer, **vendor.settings)
    proxy.services.observations.store = MemoryValues(clock=lambda: now[0])
    bodies = list[Any]()
    refuses = {"temperature"}
    await post(proxy, vendor, "hello")
    now[0] = 6 * DAY
    refuses = {"parallel_tool_calls"}
    assert "temperature" not in (await _sent(proxy, vendor, bodies))[-1]
    refuses = set()
    now[0] = 7 * DAY + 1
    assert await _sent(proxy, vendor, bodies) == await _usual(vendor)


DAY = 24 * 3600.0


async def _sent(proxy: ProxyHarness, vendor: Vendor, bodies: list[Any]) -> list[Any]:
    bodies.clear()
    assert (await post(proxy, vendor, "hello")).error is None
    return [*bodies]


async def test_a_change_that_the_words_of_a_refusal_suggest_and_that_does_not_help_is_not_kept() -> None:
    vendor = VENDORS["responses"]
    words = "Unsupported value: 'reasoning' does not support this with this model."
    server = Server(has("truncation"), words=words)
    proxy = ProxyHarness(server, **vendor.settings)
    for number in range(20):
        assert (await post(proxy, vendor, f"hello {number}")).error is None
    await post(proxy, vendor, "later")
    (usual,) = await _usual(vendor)
    del usual["truncation"]
    assert _paths(server.requests[-1]) == _paths(usual)


@pytest.mark.parametrize(
    ("name", "refused", "words"),
    [
        ("responses", "reasoning", "Unknown parameter: 'include'."),
        ("gemini", "parametersJsonSchema", "Invalid request: field response_json_schema is not permitted"),
    ],
)
async def test_words_about_one_field_change_no_other_one(name: str, refused: str, words: str) -> None:
    vendor = VENDORS[name]
    server = Server(lambda body: f'"{refused}"' in json.dumps(body), words=words)
    proxy = ProxyHarness(server, **vendor.settings)
    assert (await post(proxy, vendor, "hello")).error is None
    assert [change.startswith(PLAIN_FORM) for change in proxy.receipts[-1].adaptations].count(True) > 0


async def _send_twice(proxy: ProxyHarness, server: Server, *, accepted_before: bool) -> list[Any]:
    """Return the bodies of a request, perhaps after an accepted one."""
    vendor = VENDORS["chat"]
    if accepted_before:
        refuses, server.refuses = server.refuses, lambda body: False
        assert (await post(proxy, vendor, "accepted")).error is None
        server.refuses = refuses
    server.requests.clear()
    await post(proxy, vendor, "hello")
    return server.requests


@pytest.mark.parametrize("status", [404, 500])
@pytest.mark.parametrize("accepted_before", [False, True])
async def test_404_and_500_show_a_refused_form_only_if_the_model_has_accepted_another_request(
    status: int, *, accepted_before: bool
) -> None:
    vendor = VENDORS["chat"]
    server = Server(has("temperature"), status)
    bodies = await _send_twice(ProxyHarness(server, **vendor.settings), server, accepted_before=accepted_before)
    sent = ["temperature" in body for body in bodies]
    assert sent == ([True, False] if accepted_before else [True])


async def test_a_model_in_use_stays_known_as_accepting_however_many_others_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attempt_sender, "MAX_ACCEPTANCES", 2)
    vendor = VENDORS["chat"]
    server = Server(lambda body: False, 404)
    proxy = ProxyHarness(server, **vendor.settings)
    for model in ("openai/gpt-4.1", "openai/gpt-4.1-mini", "openai/gpt-4.1", "openai/gpt-4.1-nano"):
        assert (await post(proxy, vendor, "accepted", model=model)).error is None
    server.requests.clear()
    server.refuses = has("temperature")
    await post(proxy, vendor, "hello")
    assert ["temperature" in body for body in server.requests] == [True, False]


async def test_one_failure_with_status_500_changes_no_form_and_two_in_a_row_do() -> None:
    vendor = VENDORS["chat"]
    server = Server(has("temperature"), 500)
    proxy = ProxyHarness(server, **vendor.settings)
    assert ["temperature" in body for body in await _send_twice(proxy, server, accepted_before=True)] == [True, False]
    server.refuses = lambda body: False
    server.requests.clear()
    await post(proxy, vendor, "hello", replies=["reply"])
    server.refuses = has("temperature")
    for turn in range(2, 6):
        assert (await post(proxy, vendor, "hello", replies=["reply"] * turn)).error is None
    sent = ["temperature" in body for body in server.requests]
    assert sent == [True, True, False, True, False, False, False]


async def test_a_repetition_after_a_failure_still_asks_for_the_usage() -> None:
    """Otherwise each failure of a moment would make the costs of a reply an estimate."""
    server = Server(has("temperature"), 500)
    bodies = await _send_twice(ProxyHarness(server, **VENDORS["chat"].settings), server, accepted_before=True)
    assert [("temperature" in body, "stream_options" in body) for body in bodies] == [(True, True), (False, True)]


async def test_the_usage_is_not_asked_for_after_a_conversation_has_failed_in_the_plain_form_too() -> None:
    vendor = VENDORS["chat"]
    server = Server(has("stream_options"), 500)
    proxy = ProxyHarness(server, **vendor.settings)
    await _send_twice(proxy, server, accepted_before=True)
    assert (await post(proxy, vendor, "hello")).error is None
    assert ["stream_options" in body for body in server.requests] == [True, True, True, False]


@pytest.mark.parametrize("has_usage", [False, True])
async def test_an_error_in_a_200_is_a_refusal_unless_the_model_has_read_the_request(*, has_usage: bool) -> None:
    vendor = VENDORS["chat"]
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 0}}\n\n'
    refusal = b'data: {"error": {"message": "?", "code": 400}}\n\n'
    bodies = list[Any]()

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        bodies.append(json.loads(request.body))
        if "temperature" in bodies[-1]:
            return FakeResponse(200, (usage if has_usage else b"") + refusal)
        return FakeResponse(200, json.dumps(REPLIES["chat/completions"]).encode())

    await post(ProxyHarness(answer, **vendor.settings), vendor, "hello")
    assert ["temperature" in body for body in bodies] == ([True] if has_usage else [True, False])


async def test_a_search_of_one_api_does_not_disturb_requests_that_are_sent_to_the_other_one() -> None:
    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        body = json.loads(request.body)
        if request.path.endswith("responses"):
            refused, message = "truncation" in body, "nope"
        else:
            refused = is_moved or "temperature" in body
            message = (
                "This model is only supported in v1/responses and not in v1/chat/completions." if is_moved else "?"
            )
        if refused:
            status = 404 if is_moved and "responses" in message else 400
            return FakeResponse(status, json.dumps({"error": {"message": message}}).encode())
        return FakeResponse(
            200, json.dumps(next(REPLIES[end] for end in REPLIES if request.path.endswith(end))).encode()
        )

    vendor = VENDORS["chat"]
    proxy = ProxyHarness(answer, OPENAI_API_KEY="sk-test-0123456789")
    is_moved = False
    assert (await post(proxy, vendor, "hello")).error is None
    is_moved = True
    assert [(await post(proxy, vendor, f"hello {number}")).error for number in range(4)] == [None] * 4


async def test_a_refused_part_is_found_although_each_conversation_has_other_tools() -> None:
    vendor = VENDORS["chat"]
    server = Server(has("tools", "function", "strict"))
    proxy = ProxyHarness(server, **vendor.settings)
    for number in range(20):
        tools = [*TOOLS, {"name": f"tool_{number}", "input_schema": SCHEMA}]
        assert (await post(proxy, vendor, f"hello {number}", tools=tools)).error is None
    calls = len(server.requests)
    for number in range(3):
        assert (await post(proxy, vendor, f"later {number}")).error is None
    assert len(server.requests) == calls + 3


async def test_a_value_that_was_not_sent_before_fails_no_request_of_a_search() -> None:
    vendor = VENDORS["chat"]
    server = Server(lambda body: "strict" in json.dumps(body) or body.get("temperature", 0) > 2)
    proxy = ProxyHarness(server, **vendor.settings)
    for number in range(40):
        temperature = 5 if number < 20 and number % 3 == 2 else 0.2
        assert (await post(proxy, vendor, f"hello {number}", temperature=temperature)).error is None
    server.requests.clear()
    assert (await post(proxy, vendor, "later", temperature=0.2)).error is None
    assert server.requests[-1]["temperature"] == 0.2


async def test_what_a_search_of_one_api_suspects_does_not_hide_what_the_other_api_refuses() -> None:
    vendor = VENDORS["chat"]
    server = Server(has("stream_options"))
    proxy = ProxyHarness(server, **vendor.settings)
    assert (await post(proxy, vendor, "hello")).error is None
    server.refuses = has("truncation")
    moved = ProxyHarness(server, **{**vendor.settings, "OPENAI_WIRE": "responses"})
    moved.services.observations.store = proxy.services.observations.store
    moved.services.observations.settings_digests = proxy.services.observations.settings_digests
    for number in range(20):
        assert (await post(moved, vendor, f"hello {number}")).error is None
    server.requests.clear()
    assert (await post(moved, vendor, "later")).error is None
    assert len(server.requests) == 1


async def test_pictures_of_another_conversation_with_the_same_text_stay() -> None:
    vendor = VENDORS["chat"]
    server = Server(lambda body: len(json.dumps(body)) > 3_000, status=413)
    proxy = ProxyHarness(server, **vendor.settings)

    async def ask(picture: str, replies: Sequence[str]) -> RecordingSink:
        source = {"type": "base64", "media_type": "image/png", "data": picture}
        content = [{"type": "text", "text": "Look."}, {"type": "image", "source": source}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        for reply in replies:
            messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": "go on"}]
        body = {"model": vendor.model, "max_tokens": 800, "messages": messages}
        sink = RecordingSink()
        client = Client(name="same", key_id="key_a")
        await Exchange(proxy.services, new_client_request(json.dumps(body).encode(), {}, client=client), sink).run()
        return sink

    assert (await ask("iVBORw0KGgo=" * 300, ["One."])).error is None
    server.requests.clear()
    assert (await ask("iVBORw0KGgo=", ["One."])).error is None
    assert "image_url" in json.dumps(server.requests[0])


async def test_a_client_whose_conversations_begin_alike_gets_the_usual_form_back() -> None:
    vendor = VENDORS["chat"]
    now = [0.0]
    server = Server(has("temperature"))
    proxy = ProxyHarness(server, **vendor.settings)
    proxy.services.observations.store = MemoryValues(clock=lambda: now[0])

    async def sends_temperature(**fields: Any) -> list[bool]:
        server.requests.clear()
        assert (await post(proxy, vendor, "Classify this.", **fields)).error is None
        return ["temperature" in body for body in server.requests]

    for number in range(20):
        await sends_temperature(system=f"document {number}")
    assert await sends_temperature(system="later") == [False]
    server.refuses = lambda body: False
    for hour in range(8 * 24):
        now[0] += 3_600.0
        sent = await sends_temperature(system=f"document {hour % 20}")
    assert sent == [True]


async def test_the_same_request_sent_again_keeps_its_form_for_a_day() -> None:
    vendor = VENDORS["chat"]
    now = [0.0]
    server = Server(has("temperature"))
    proxy = ProxyHarness(server, **vendor.settings)
    proxy.services.observations.store = MemoryValues(clock=lambda: now[0])
    for _ in range(5):
        assert (await post(proxy, vendor, "the same")).error is None
    assert len(server.requests) == 6
    server.refuses = lambda body: False
    for _ in range(200):
        now[0] += 3_600.0
        assert (await post(proxy, vendor, "the same")).error is None
    assert server.requests[-1] == (await _usual(vendor, "the same"))[0]


async def test_conversations_that_begin_alike_keep_their_own_forms() -> None:
    vendor = VENDORS["chat"]
    server = Server(has("tools", "function", "strict"))
    proxy = ProxyHarness(server, **vendor.settings)
    replies = ["first reply", "other reply"]
    forms = []
    for reply in replies:
        for turn in range(3):
            assert (await post(proxy, vendor, "hello", replies=[reply] * turn, system=reply)).error is None
            forms.append(server.requests[-1].keys() - {"messages"})
    server.requests.clear()
    for reply in replies:
        assert (await post(proxy, vendor, "hello", replies=[reply] * 3, system=reply)).error is None
    assert [body.keys() - {"messages"} for body in server.requests] == [forms[2], forms[5]]
    assert forms[2] != forms[5]  # the later one is part of the search


@pytest.mark.parametrize(
    ("name", "first", "second", "without_second"),
    [
        ("chat", ("temperature",), ("prompt_cache_key",), {"metadata": {}, "temperature": 0.5}),
        ("gemini", ("generationConfig", "temperature"), ("tools", "functionDeclarations", "parametersJsonSchema"), {}),
        ("messages", ("temperature",), ("system", "cache_control"), {"system": "Be brief."}),
        ("cloud", ("thinking",), ("output_config", "effort"), {"output_config": None}),
    ],
)
async def test_of_two_parts_that_are_refused_only_together_one_is_left_out_where_both_are(
    name: str, first: Sequence[str], second: Sequence[str], without_second: Mapping[str, Any]
) -> None:
    vendor = VENDORS[name]
    server = Server(lambda body: has(*first)(body) and has(*second)(body))
    proxy = ProxyHarness(server, **vendor.settings)
    for number in range(30):
        assert (await post(proxy, vendor, f"hello {number}")).error is None
    server.requests.clear()
    assert (await post(proxy, vendor, "later")).error is None
    assert (await post(proxy, vendor, "without", **without_second)).error is None
    both, without = server.requests
    assert has(*first)(both) + has(*second)(both) <= 1
    if not has(*second)(without):
        assert has(*first)(without)
    (usual,) = await _usual(vendor)
    lost = {field for field in _paths(usual) - _paths(both) if field not in DEPENDENT}
    assert all({*field.split(".")} & {*first, *second} for field in lost)


async def test_notes_and_learned_changes_are_those_of_the_request_that_was_sent() -> None:
    vendor = VENDORS["messages"]
    server = Server(lambda body: has("temperature")(body) and has("system", "cache_control")(body))
    proxy = ProxyHarness(server, **vendor.settings)
    for number in range(30):
        assert (await post(proxy, vendor, f"hello {number}")).error is None
    assert (await post(proxy, vendor, "later")).error is None
    receipt = proxy.receipts[-1]
    part = "fields cache_control system.cache_control tools.cache_control and 8 more"
    assert receipt.adaptations == [f"plain form: {part}"]
    assert [(note.field, note.handling, note.reason) for note in receipt.fidelity.notes] == [
        ("system.cache_control", "dropped", "openai does not accept it"),
        ("tools.cache_control", "dropped", "openai does not accept it"),
        (part, "kept", "left out because openai has refused earlier requests with it"),
    ]


FORM_BETAS = ("interleaved-thinking-2025-05-14", "effort-2025-11-24", "extended-cache-ttl-2025-04-11")
KEPT_BETAS = (
    "dangerous-tool-use-2026-09-01",
    "mcp-client-2025-11-20",
    "advanced-tool-use-2025-11-20",
    "fast-mode-2026-02-01",
)
UNKNOWN_BETAS = ("new-form-2026-11-01", "zdr-2026-01-01", "priority-tier-2026-02-01", "another-form-2026-11-02")


def _name_betas(*betas: str) -> Mapping[str, str]:
    return {"anthropic-beta": ",".join(betas)}


@pytest.mark.parametrize("refused", [*FORM_BETAS, *UNKNOWN_BETAS])
async def test_of_many_betas_only_the_one_that_a_server_refuses_is_left_out(refused: str) -> None:
    vendor = VENDORS["messages"]
    server = Server(lambda body: refused in body.get("betas", ()))
    proxy = ProxyHarness(server, **vendor.settings)
    betas = (*FORM_BETAS, *KEPT_BETAS, *UNKNOWN_BETAS)
    management = {"edits": []}
    for number in range(20):
        reply = await post(proxy, vendor, f"hello {number}", headers=_name_betas(*betas), context_management=management)
        assert reply.error is None
    accepted = [body["betas"] for body in server.requests if refused not in body["betas"]]
    assert all({*KEPT_BETAS} <= {*sent} for sent in accepted)
    # nobody knows what an unknown beta protects
    assert all({*UNKNOWN_BETAS} - {*sent} <= {refused} for sent in accepted)
    server.requests.clear()
    for number in range(3):
        headers = _name_betas(*betas, f"innocent-{number}-2026-12-01")
        assert (await post(proxy, vendor, f"later {number}", headers=headers)).error is None
    assert [body["betas"] for body in server.requests] == [
        [*(beta for beta in betas if beta != refused), f"innocent-{number}-2026-12-01"] for number in range(3)
    ]
    (usual,) = await _usual(vendor)
    assert _paths(usual) <= _paths(server.requests[-1])


async def test_a_beta_that_no_table_knows_stays_if_another_part_is_refused() -> None:
    vendor = VENDORS["messages"]
    server = Server(has("temperature"))
    proxy = ProxyHarness(server, **vendor.settings)
    for number in range(20):
        assert (await post(proxy, vendor, f"hello {number}", headers=_name_betas(*UNKNOWN_BETAS))).error is None
    assert all(tuple(body["betas"]) == UNKNOWN_BETAS for body in server.requests)


async def test_the_header_says_that_a_beta_that_is_left_out_is_unknown() -> None:
    vendor = VENDORS["messages"]
    server = Server(lambda body: "new-form-2026-11-01" in body.get("betas", ()))
    proxy = ProxyHarness(server, **vendor.settings)
    await post(proxy, vendor, "hello", headers=_name_betas("new-form-2026-11-01"), tools=[], system="Be brief.")
    assert proxy.receipts[-1].plain_form == [
        "betas new-form-2026-11-01 (unknown to the proxy)",
        "fields temperature top_p top_k",
        "fields output_config.effort",
    ]


def test_each_beta_of_the_sdk_is_known_to_be_about_the_form_or_not() -> None:
    names = [beta for declared in get_args(AnthropicBetaParam) for beta in get_args(declared)]
    parts = list_beta_parts(Dialect(), {"anthropic-beta": ",".join(names)}, b"")
    assert [part.name for part in parts if part.is_single] == []
    assert len(names) > 50
