"""Batches, files and skills: statuses, time limits, and other work during the encoding of a batch."""

import asyncio
import json
from typing import Any

import pytest

from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.exchange.forwarding import count_tokens, forward_resource
from anthropic_proxy.engine.messages.fidelity import FidelityReport
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import UnsupportedFeature, UpstreamError
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.messages import exactly
from tests.support.virtual_time import in_virtual_time

SETTINGS = {"PREFERRED_PROVIDER": "anthropic", "ANTHROPIC_API_KEY": "sk-ant-test-0123456789"}
BATCH = b'{"requests":[{"custom_id":"a","params":{"model":"claude-opus-5-5"}}]}'
COUNTED = b'{"model":"claude-opus-5-5","messages":[{"role":"user","content":"hello"}]}'


def asked(path: str, body: bytes = b"") -> ClientRequest:
    return new_client_request(body, path=path)


async def test_other_work_continues_while_the_models_of_a_small_batch_are_mapped() -> None:
    """The work depends on the number of requests, and a small body may have many."""

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        assert rounds > 0, "the event loop did nothing else before the call"
        return FakeResponse(200, b"{}")

    async def work() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    rounds = 0
    other = asyncio.create_task(work())
    try:
        services = ProxyHarness(upstream, **SETTINGS).services
        await forward_resource(services, asked("/v1/messages/batches", BATCH), "POST", RecordingSink())
    finally:
        other.cancel()


async def test_what_requests_of_a_batch_lose_is_noted_once_per_field() -> None:
    params = {"model": "claude-opus-5-5", "thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}
    requests = [{"custom_id": f"{size}", "params": {**params, "max_tokens": size}} for size in (128_000, 100_000)]
    harness = ProxyHarness(lambda *_: FakeResponse(200, b"{}"), MODEL_OPUS="anthropic/claude-haiku-4-5", **SETTINGS)
    request = asked("/v1/messages/batches", json.dumps({"requests": requests}).encode())
    await forward_resource(harness.services, request, "POST", RecordingSink())
    report = request.receipt.fidelity
    assert [(note.handling, note.field, note.before, note.after) for note in report.notes] == [
        ("approximated", "max_tokens", "128000", "64000"),
        ("approximated", "output_config.effort", "", ""),
        ("approximated", "thinking", "adaptive", "4096 tokens"),
    ]
    assert report.format_counts() == "best-effort; approximated=3; emulated=0; dropped=0"


LOSING = {"model": "claude-sonnet-4-5", "max_tokens": 9, "temperature": 0.5, "top_k": 3}
"""Parameters that lose two fields with the settings of `new_strict_proxy`."""
LOST = (
    "anthropic/claude-opus-4-8 would lose temperature: the model does not accept it; top_k: the model does not accept "
    "it. FIDELITY=strict rejects this. Remove it from the request, choose another backend, or allow it with "
    "FIDELITY=best-effort (FIDELITY_<TIER> for one tier)."
)


def new_strict_proxy(**settings: str) -> ProxyHarness:
    mapping = {"MODEL_SONNET": "anthropic/claude-opus-4-8"}
    return ProxyHarness(lambda *_: FakeResponse(200, b"{}"), **SETTINGS, **mapping, **settings)


async def create_batch(harness: ProxyHarness, *requests: Any) -> FidelityReport:
    request = asked("/v1/messages/batches", json.dumps({"requests": requests}).encode())
    await forward_resource(harness.services, request, "POST", RecordingSink())
    return request.receipt.fidelity


@pytest.mark.parametrize(
    ("custom_id", "named"),
    [
        ({"custom_id": "b"}, 'requests.1.params (custom_id "b")'),
        ({"custom_id": "b" * 200}, f'requests.1.params (custom_id "{"b" * 99})'),
        ({}, "requests.1.params"),
    ],
)
async def test_a_batch_of_which_something_would_be_lost_is_rejected_like_a_single_request(
    custom_id: dict[str, str], named: str
) -> None:
    harness = new_strict_proxy(FIDELITY="strict")
    first = {"custom_id": "a", "params": {"model": "claude-sonnet-4-5", "max_tokens": 9}}
    with pytest.raises(UnsupportedFeature, match=exactly(f"{named}: {LOST}")) as caught:
        await create_batch(harness, first, {**custom_id, "params": LOSING})
    assert (caught.value.status, caught.value.code) == (400, "fidelity-strict")
    assert (await create_batch(harness, first)).format_counts() == "strict; approximated=0; emulated=0; dropped=0"


async def test_the_fidelity_mode_of_a_batch_is_that_of_the_tier_of_each_request() -> None:
    harness = new_strict_proxy(FIDELITY_OPUS="strict")
    report = await create_batch(harness, {"custom_id": "a", "params": LOSING})
    assert report.format_counts() == "best-effort; approximated=0; emulated=0; dropped=2"
    harness = new_strict_proxy(FIDELITY_SONNET="strict")
    with pytest.raises(UnsupportedFeature, match=exactly(f'requests.0.params (custom_id "a"): {LOST}')):
        await create_batch(harness, {"custom_id": "a", "params": LOSING})


@pytest.mark.parametrize(
    ("method", "path", "response", "stream"),
    [
        ("POST", "/v1/skills", FakeResponse(201, b'{"id":"skill_1"}'), b'{"id":"skill_1"}'),
        ("POST", "/v1/messages/batches/a/cancel", FakeResponse(202, b"{}"), b"{}"),
        ("DELETE", "/v1/files/file_1", FakeResponse(204), b""),
        ("GET", "/v1/files/file_1/content", FakeResponse(206, b"part"), b"part"),
    ],
)
async def test_the_client_gets_the_status_of_the_provider(
    method: str, path: str, response: FakeResponse, stream: bytes
) -> None:
    sink, expected = RecordingSink(), response.status
    await forward_resource(ProxyHarness(lambda *_: response, **SETTINGS).services, asked(path), method, sink)
    assert (sink.status, sink.stream) == (expected, stream)


@pytest.mark.parametrize("status", [401, 429, 503])
@pytest.mark.parametrize("path", ["/v1/skills", "/v1/messages/count_tokens"])
async def test_a_failed_request_is_not_repeated_with_another_key_which_stays_in_use(path: str, status: int) -> None:
    """A key has limits of its own for token counts, and cannot see the files of another workspace."""
    sent: list[Credential | None] = []

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        sent.append(credential)
        return FakeResponse(status, b"{}")

    services = ProxyHarness(
        upstream, **{**SETTINGS, "ANTHROPIC_API_KEY": "sk-ant-one-0123456789,sk-ant-two-0123456789"}
    ).services
    incoming = asked(path, COUNTED)
    if path == "/v1/skills":
        with pytest.raises(UpstreamError):
            await forward_resource(services, incoming, "GET", RecordingSink())
    else:
        await count_tokens(services, incoming, RecordingSink().wait_disconnected)
    assert [credential.secret for credential in sent if credential] == ["sk-ant-one-0123456789"]
    assert (services.credentials.cooldown_count(), incoming.receipt.failed_attempts) == (0, [])


@pytest.mark.parametrize("path", ["/v1/skills", "/v1/files/file_1/content", "/v1/messages/batches/a/results"])
@in_virtual_time
async def test_a_client_that_reads_slowly_is_no_silent_provider(path: str) -> None:
    class Slow(RecordingSink):
        async def send_relayed_bytes(self, data: bytes, headers: Any, **other: Any) -> None:
            await asyncio.sleep(60)
            await super().send_relayed_bytes(data, headers, **other)

    sink = Slow()
    harness = ProxyHarness(lambda *_: FakeResponse(200, b"{}"), UPSTREAM_IDLE_TIMEOUT="2", **SETTINGS)
    await forward_resource(harness.services, asked(path), "GET", sink)
    assert sink.stream == b"{}"
