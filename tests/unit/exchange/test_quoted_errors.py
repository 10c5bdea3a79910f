"""What outlasts a request follows from the status and the codes of an error. Its text may quote the client, and nothing
is decided by what it quotes.
"""

import json
import re
from typing import Any

import pytest
from msgspec import Struct, structs

from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.wires.failures import build_upstream_error, decode_error_body
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import CircuitOpen, UpstreamRefused
from anthropic_proxy.plugins import Client
from tests.support import replies
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.tables import in_one_test

WELL = replies.Reply(texts=["well"], count=5)
KEYS = "sk-test-0123456789aaaa,sk-test-0123456789bbbb"


def build_proxy(status: int, error: dict[str, Any], *, headers: dict[str, str] | None = None) -> ProxyHarness:
    """Return a proxy whose provider rejects the first of two keys."""

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        assert credential is not None
        if credential.value.endswith("aaaa"):
            return FakeResponse(status, json.dumps({"error": error}).encode(), headers=headers or {})
        return FakeResponse(200, replies.CHAT.whole(WELL))

    return ProxyHarness(answer, OPENAI_API_KEY=KEYS, OPENAI_WIRE="chat", MODEL_SONNET="openai/gpt-4.1")


@pytest.mark.parametrize(
    "message",
    [
        "In context=('properties', 'insufficient funds'), 'x' is not of type 'object'.",
        "Invalid value: 'invalid api key'",
        "Invalid value: 'daily usage limit reached, try again in 20 hours'",
    ],
)
async def test_a_request_is_sent_with_another_key_after_a_text_but_no_key_has_a_cooldown(message: str) -> None:
    proxy = build_proxy(400, {"message": message, "type": "invalid_request_error"})
    sink = await proxy.post(stream=False)
    assert sink.body["content"][0]["text"] == "well"
    assert proxy.services.credentials.cooldown_count() == 0


@pytest.mark.parametrize(
    ("status", "error", "headers", "seconds"),
    [
        (400, {"message": "x", "code": "insufficient_quota"}, {}, 600),
        (401, {"message": "x"}, {}, 600),
        (429, {"message": "x, try again in 20 hours"}, {}, 20),
        (429, {"message": "x"}, {"retry-after": "90"}, 90),
        (403, {"message": "You've reached your usage limit for this billing cycle"}, {}, 20),
    ],
)
async def test_a_status_or_code_starts_the_cooldown_of_the_key(
    status: int, error: dict[str, Any], headers: dict[str, str], seconds: float
) -> None:
    proxy = build_proxy(status, error, headers=headers)
    sink = await proxy.post(stream=False)
    assert sink.body["content"][0]["text"] == "well"
    assert proxy.services.credentials.list_cooldown_seconds("openai", "local") == pytest.approx([seconds], abs=5)


USED_UP = [
    ({"code": "insufficient_quota"}, {}),
    ({"code": "insufficient_user_quota", "type": "new_api_error"}, {}),
    ({"code": "account_deactivated"}, {}),
    ({"status": "RESOURCE_EXHAUSTED", "details": [{"violations": [{"quotaId": "TokensPerDayPerProject"}]}]}, {}),
    ({}, {"anthropic-ratelimit-input-tokens-remaining": "0"}),
    ({}, {"x-ratelimit-remaining-requests": "0", "x-ratelimit-remaining-tokens": "149984"}),
    ({}, {"x-ratelimitbysize-remaining-minute": "-12"}),
    ({}, {"ratelimit": '"default";r=0;t=20'}),
    ({}, {"ratelimit": "limit=100, remaining=0, reset=5"}),
    ({"message": "x", "metadata": {"headers": {"X-RateLimit-Remaining": "0"}}}, {}),
]
NOT_SAID = [
    ({"code": "rate_limit_exceeded", "type": "tokens"}, {}),
    ({"status": "RESOURCE_EXHAUSTED"}, {"retry-after": "20"}),
    ({"message": "This request would exceed your organization's rate limit. Your account has 0 tokens left."}, {}),
    ({"message": '{"error": {"code": "insufficient_quota"}}'}, {}),
    ({}, {"anthropic-ratelimit-input-tokens-remaining": "29000", "x-ratelimit-limit-tokens": "0"}),
    ({}, {"ratelimit": '"default";r=05;t=0'}),
    ({}, {"ratelimit-remaining": "0.5"}),
    ({}, {"x-remaining": "0"}),
]


@in_one_test
@pytest.mark.parametrize(
    ("error", "headers", "says_account"), [(*row, True) for row in USED_UP] + [(*row, False) for row in NOT_SAID]
)
def test_a_limit_concerns_all_clients_if_a_header_or_code_says_that_the_account_has_reached_it(
    error: dict[str, Any], headers: dict[str, str], says_account: bool
) -> None:
    for body in (json.dumps({"error": error}).encode(), b"no object" if not error else b""):
        if body:
            failure = build_upstream_error(decode_error_body(429, headers, body), "openai")
            assert failure.states_account == says_account


async def test_the_keys_that_the_prompts_of_one_client_exceed_stay_in_use_for_others() -> None:
    """A large prompt is refused by each key in words that the proxy does not know."""
    words = "This request would exceed the limit of 30,000 input tokens per minute."
    sent = list[str]()

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        assert credential is not None
        sent.append(credential.value[-4:])
        if len(request.body) > 5_000:
            return FakeResponse(429, json.dumps({"error": {"message": words, "type": "tokens"}}).encode())
        return FakeResponse(200, replies.CHAT.whole(WELL))

    proxy = ProxyHarness(answer, OPENAI_API_KEY=KEYS, OPENAI_WIRE="chat", MODEL_SONNET="openai/gpt-4.1")
    credentials = proxy.services.credentials
    for _ in range(3):
        sink = await proxy.post("a" * 10_000, client=Client(name="ann", key_id="key_ann"))
        assert sink.error is not None
        assert sink.error.status == 429
    assert (credentials.list_cooldown_seconds("openai"), credentials.cooldown_count()) == ([], 2)
    sent.clear()
    for _ in range(4):
        assert (await proxy.post(client=Client(name="bob", key_id="key_bob"))).error is None
    assert sorted(sent) == ["aaaa", "aaaa", "bbbb", "bbbb"]
    await proxy.post("a" * 10_000, client=Client(name="bob", key_id="key_bob"))
    assert len(credentials.list_cooldown_seconds("openai")) == 1, "two clients: the key itself is limited"


@pytest.mark.parametrize(
    ("second", "is_for_all"),
    [
        (Client(name="b", key_id="key_b", owner="ann", person="key_ann"), False),
        (Client(name="Ann", key_id="key_ann", sign_in="sign_1", person="key_ann"), False),
        (Client(name="b", key_id="key_b", owner="bob", person="key_bob"), True),
    ],
    ids=["another key", "a sign-in", "another person"],
)
async def test_all_keys_of_a_person_are_one_client(second: Client, is_for_all: bool) -> None:
    words = "This request would exceed the limit of 30,000 input tokens per minute."

    def answer(*_: Any) -> FakeResponse:
        return FakeResponse(429, json.dumps({"error": {"message": words, "type": "tokens"}}).encode())

    proxy = ProxyHarness(answer, OPENAI_API_KEY=KEYS, OPENAI_WIRE="chat", MODEL_SONNET="openai/gpt-4.1")
    first = Client(name="a", key_id="key_a", owner="ann", person="key_ann")
    for client in (first, first, second, second):
        assert (await proxy.post("a", client=client)).error is not None
    assert bool(proxy.services.credentials.list_cooldown_seconds("openai")) == is_for_all


async def test_a_limit_of_minutes_that_only_the_text_states_costs_few_calls() -> None:
    now, calls = 1_000.0, list[float]()
    lasting = {"message": "Rate limit reached. Please try again in 7m12s.", "code": "rate_limit_exceeded"}

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        assert credential is not None
        if credential.value.endswith("aaaa"):
            calls.append(now - 1_000)
            if now < 1_432:
                return FakeResponse(429, json.dumps({"error": lasting}).encode())
        return FakeResponse(200, replies.CHAT.whole(WELL))

    proxy = ProxyHarness(answer, OPENAI_API_KEY=KEYS, OPENAI_WIRE="chat", MODEL_SONNET="openai/gpt-4.1")
    credentials = Credentials(proxy.services.settings, clock=lambda: now)
    proxy.services = structs.replace(proxy.services, credentials=credentials)
    while now < 1_640:
        await proxy.post(stream=False)
        now += 5
    assert calls == [0, 20, 60, 140, 300, 620, 630]  # the last two are successes
    assert not proxy.receipts[-1].failed_attempts


def test_a_text_closes_no_circuit_and_opens_none_and_is_shown_to_no_other_client() -> None:
    breakers = build_proxy(200, {}).services.circuit_breakers

    def fail(stated_status: int, status: int) -> None:
        error = UpstreamRefused("openai: bad: 'secret of a client'", provider="openai", status=status)
        error.stated_status, error.provider_text = stated_status, "bad: 'secret of a client'"
        breakers.record_failure("openai x", error, "local")

    for _ in range(9):
        fail(400, 502)
    breakers.require_closed("openai x", "local")
    for _ in range(3):
        fail(500, 500)
        fail(500, 402)
    for _ in range(2):
        fail(500, 500)
    with pytest.raises(CircuitOpen) as refused:
        breakers.require_closed("openai x", "local")
    assert refused.value.message == (
        "openai failed with status 500. It failed 5 times in a row; the next call is allowed in 5 s."
    )


KEYS_OF_ALL = {
    "OPENAI_API_KEY": "sk-one-0123456789",
    "GROQ_API_KEY": "gsk_two0123456789",
    "GEMINI_API_KEY": "AIza-one-0123456789",
    "OLLAMA_API_BASE": "http://127.0.0.1:9",
}
MODELS: dict[str, tuple[str, replies.ReplyForm]] = {
    "chat": ("groq/qwen/qwen3-32b", replies.CHAT),
    "responses": ("openai/gpt-5.5", replies.RESPONSES),
    "gemini": ("gemini/gemini-3.6-flash", replies.GEMINI),
    "ollama": ("ollama/llama3", replies.OLLAMA),
    "relay": ("claude-sonnet-4-5", replies.MESSAGES),
}
NEUTRAL = "The gardens of the old town are open from April to September."
QUOTED = [
    "Your request was flagged as violating our usage policy.",
    "The response was blocked by the content management policy.",
    "this model does not support image input",
    "Your credit balance is too low to continue.",
    "Incorrect API key provided by the caller.",
    "maximum context length is 10 tokens, however you requested 20 tokens",
    "The model is overloaded. Please try again in 20 seconds.",
    "You have exceeded your rate limit of requests per minute.",
    "The model `somebody-else` does not exist or you have no access to it.",
    "Unsupported parameter: 'temperature' is not supported with this model.",
    "Ollama says: server busy, does not support thinking",
    'Unknown name "thinkingConfig" at generation_config: cannot find the field',
    '{"error": {"code": "insufficient_quota", "message": "the quota is used up"}}',
    "max_tokens: must be at least 512 for the chosen model",
]
"""What a page says that a client sends, each the text of an error of some provider."""
AROUND = [
    "Jinja render failed at row 3: raise_exception: {}",
    "Invalid value for messages[0].content: '{}'",
    "litellm.InternalServerError: the template engine has stopped at: {}",
]
"""Errors that quote a request, which says nothing about their reason."""


class Outcome(Struct, frozen=True):
    told: tuple[Any, ...]
    calls: int


async def fail(wire: str, words: str, prompt: Any, status: int | None, around: str) -> Outcome:
    """Return what the client gets if its provider quotes `words` of the request. `status`: None: within a stream."""
    model, form = MODELS[wire]
    calls = 0
    error = {"message": around.format(words), "type": "server_error" if status in (None, 500) else "bad_request_error"}
    encoded = json.dumps({"type": "error", "error": error}).encode()
    if status is None:
        begun = [frame for frame in form.stream(WELL) if b"start" in frame][:1] if wire == "relay" else []
        mark = b"event: error\n" if wire == "relay" else b""
        body = [*begun, encoded + b"\n" if wire == "ollama" else b"%bdata: %b\n\n" % (mark, encoded)]
        headers = {"content-type": "application/x-ndjson" if wire == "ollama" else "text/event-stream"}
    else:
        body, headers = [encoded], {"content-type": "application/json"}

    def answer(_: str, request: UpstreamRequest, __: Credential | None) -> FakeResponse:
        nonlocal calls
        calls += request.path not in ("/api/show", "/api/tags")
        return FakeResponse(status or 200, *body, headers=headers)

    keys = KEYS_OF_ALL if wire != "relay" else {"ANTHROPIC_API_KEY": "sk-ant-api03-0123456789"}
    proxy = ProxyHarness(answer, **keys)
    sink = await proxy.post(
        model=model, stream=True, temperature=0.5, messages=[{"role": "user", "content": prompt}], max_tokens=300
    )
    failure = sink.error
    if failure is None:
        return Outcome(tuple(re.findall(rb'"stop_reason":"(\w+)"', sink.stream)), calls)
    told = (failure.status, failure.error_type, failure.code, failure.should_retry, getattr(failure, "parameter", None))
    return Outcome(told, calls)


@pytest.mark.parametrize("status", [400, 500, None])
@pytest.mark.parametrize("wire", MODELS)
async def test_nothing_is_decided_by_what_an_error_quotes_of_the_request(wire: str, status: int | None) -> None:
    counted = set[str]()
    for around in AROUND:
        known = await fail(wire, NEUTRAL, f"The page says: {NEUTRAL} It is old.", status, around)
        for words in QUOTED:
            assert await fail(wire, words, f"The page says: {words} It is old.", status, around) == known, words
            if await fail(wire, words, "hello", status, around) != known:
                counted.add(words)
    if wire != "relay":  # whose errors keep their status
        assert len(counted) > 3, "the words decide if they are those of the provider"


@pytest.mark.parametrize("status", [500, None])
@pytest.mark.parametrize("wire", MODELS)
async def test_the_words_of_a_large_request_decide_nothing(wire: str, status: int | None) -> None:
    filler = "lorem ipsum " * 250_000
    known = await fail(wire, NEUTRAL, f"{filler}{NEUTRAL} It is old.{filler}", status, AROUND[0])
    for words in QUOTED[:4]:
        assert await fail(wire, words, f"{filler}{words} It is old.{filler}", status, AROUND[0]) == known, words


@pytest.mark.parametrize("wire", MODELS)
async def test_an_error_that_a_client_asks_about_is_still_one(wire: str) -> None:
    """A text that says nothing beside what the request says is no quote, behind the name of an error too."""
    for around in ("{}", "litellm.BadRequestError: OpenAIException - {}", "messages.0.content: {}"):
        for words in QUOTED:
            known = await fail(wire, words, "hello", 400, around)
            assert await fail(wire, words, f"Why do I get this? {words}", 400, around) == known, (around, words)


LIMITS = [
    "This model's maximum context length is 65536 tokens. However, you requested 70100 tokens (69000 in the messages, "
    "1100 in the completion). Please reduce the length of the messages or completion.",
    "Error code: 400 - {'error': {'message': 'prompt has 210,432 tokens, but the context size is 131,072 tokens'}}",
    "Context size has been exceeded: n_ctx = 8192, prompt tokens = 9120",
    "max_tokens: must be at most 8192 for the chosen model, which you have exceeded by 600",
]
"""Errors about what the client has sent this time."""
REMEMBERED = [
    lambda text: re.sub(r"\d+(?:,\d+)*", "3,000", text),
    lambda text: f"litellm.BadRequestError: OpenAIException - {re.sub('[0-9]', '7', text)}",
    lambda _: r"re.search(r'maximum context length is (\d+) tokens. However, you requested (\d+)', error.message)",
    lambda text: "\n".join(f"print('{part}')" for part in re.split(r"\d+(?:,\d+)*", text) if "'" not in part),
]
"""What a client has in a conversation about such errors: an earlier one, or a program that reads or writes them."""


@pytest.mark.parametrize("wire", MODELS)
async def test_a_conversation_about_limits_still_gets_the_error_that_states_its_own(wire: str) -> None:
    for words in LIMITS:
        for remember in REMEMBERED:
            known = await fail(wire, words, "hello", 400, "{}")
            assert await fail(wire, words, remember(words), 400, "{}") == known, remember(words)
