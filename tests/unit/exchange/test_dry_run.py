"""Dry run: the recorded upstream request is the one that an exchange sends, and nothing is sent."""

import asyncio
import json
from typing import Any

from msgspec import structs

from anthropic_proxy.engine.engine import build_engine
from anthropic_proxy.engine.exchange.dry_run import ACCESS_TOKEN, COUNT_TOKENS_PATH, DryRun, run_dry
from anthropic_proxy.engine.options import CallOptions, EngineOptions
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.secrets import Secret
from tests.support.fake_upstream import KEYS, error
from tests.support.golden_runner import GoldenCase, find_cases
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.tool_loop import Searcher

HELLO = {"model": "claude-sonnet-4-6", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
_CATALOG_PATHS = ("/api/tags", "/api/show")
"""Paths of requests for the limits of an installed model, which a dry run sends too."""
Sent = list[tuple[str, UpstreamRequest]]


def dry(harness: ProxyHarness, body: dict[str, Any], path: str = "/v1/messages") -> DryRun:
    return asyncio.run(run_dry(harness.services, json.dumps(body).encode(), path))


def recording_harness(sent: Sent, **settings: str) -> ProxyHarness:
    def answer(base_url: str, request: UpstreamRequest, _: Credential | None) -> FakeResponse:
        if request.path not in _CATALOG_PATHS:
            sent.append((base_url, request))
        return error(400)

    return ProxyHarness(answer, **settings)


def settings_of(case: GoldenCase) -> dict[str, str]:
    settings = {"BIG_MODEL": f"{case.provider.prefix}/{case.fields['model']}", **case.fields.get("settings", {})}
    if case.provider.key_variable:
        settings[case.provider.key_variable] = "golden-key-0123456789"
    if case.provider.offered_to_users:
        settings["PREFERRED_PROVIDER"] = case.provider.name
    return settings


def cases_with_own_requests() -> dict[tuple[str, bytes], GoldenCase]:
    cases = map(GoldenCase, find_cases())
    return {
        (case.provider.name, case.posted): case
        for case in cases
        if case.provider.transport == "http" and case.provider.key_source == "settings"
    }


def test_the_requests_of_golden_cases_are_those_that_are_sent() -> None:
    compared = 0
    for case in cases_with_own_requests().values():
        folder = case.folder
        sent: Sent = []
        body = {"model": "claude-sonnet-4-5", "max_tokens": 64_000, **json.loads(case.posted)}
        sink = asyncio.run(recording_harness(sent, **settings_of(case)).post(**body))
        unsent: Sent = []
        result = dry(recording_harness(unsent, **settings_of(case)), body)
        assert unsent == []
        if not sent:
            assert sink.error is not None, folder
            assert str(result.error) == str(sink.error)
            continue
        (base_url, request), recorded = sent[0], result.recorded
        assert recorded is not None, folder
        assert recorded.base_url == base_url
        assert (recorded.request.path, recorded.request.body) == (request.path, request.body), folder
        compared += 1
    assert compared > 100


def test_the_second_target_is_recorded_if_the_first_cannot_serve() -> None:
    sent: Sent = []
    result = dry(recording_harness(sent, **KEYS, BIG_MODEL="gemini/gemini-x", FALLBACK_SONNET="groq/llama-x"), HELLO)
    assert (sent, result.error, result.receipt.prefix, result.receipt.model) == ([], None, "groq", "llama-x")


def test_a_provider_with_own_connections_is_called_over_http() -> None:
    options = EngineOptions(
        keys={"openai": [Secret("sk-own-0123456789")]},
        preferred_provider="openai",
        call_options={"openai": CallOptions(requests_per_minute=3)},
    )
    result = asyncio.run(run_dry(build_engine(options), json.dumps(HELLO).encode()))
    assert result.recorded is not None
    assert (result.recorded.transport, result.recorded.base_url) == ("http", "https://api.openai.com/v1")


def test_a_token_is_not_requested() -> None:
    result = dry(recording_harness([], VERTEX_PROJECT="p-1", VERTEX_LOCATION="europe-west1"), HELLO)
    assert result.recorded.credential.value == ACCESS_TOKEN
    assert "/projects/p-1/locations/europe-west1" in result.recorded.base_url


def test_a_token_count_is_estimated_or_sent_to_the_provider() -> None:
    estimated = dry(recording_harness([], **KEYS, PREFERRED_PROVIDER="groq"), HELLO, COUNT_TOKENS_PATH)
    assert (estimated.recorded, estimated.estimated_tokens) == (None, 36)
    counted = dry(recording_harness([], **KEYS), HELLO, COUNT_TOKENS_PATH)
    assert (counted.recorded.request.path, counted.estimated_tokens) == ("/responses/input_tokens", None)
    forwarded = dry(recording_harness([], ANTHROPIC_API_KEY="sk-ant-0123456789"), HELLO, COUNT_TOKENS_PATH)
    assert (forwarded.recorded.request.path, forwarded.estimated_tokens) == (COUNT_TOKENS_PATH, None)


def test_the_credential_of_the_client_is_a_placeholder() -> None:
    result = dry(recording_harness([], PREFERRED_PROVIDER="anthropic"), HELLO)
    assert result.recorded.credential == Credential("x-api-key", "(credential of the client)", "the client")


def test_web_tools_before_the_request_are_not_run() -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    call = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "weather"}}
    body = {**HELLO, "tools": [search], "messages": [*HELLO["messages"], {"role": "assistant", "content": [call]}]}
    harness = recording_harness([], GROQ_API_KEY="gsk_0123456789", BIG_MODEL="groq/llama-x")
    result = dry(with_search(harness), body)
    assert result.recorded is not None
    assert result.skipped == ["search for 'weather'"]


def with_search(harness: ProxyHarness) -> ProxyHarness:
    harness.services = structs.replace(harness.services, web_search=Searcher(error=AssertionError("searched")))
    return harness
