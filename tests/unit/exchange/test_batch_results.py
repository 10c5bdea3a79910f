"""What the results of a batch state about tokens is counted once, by model, region and tier."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.console.ledger.costs import CostCalculator
from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.exchange.forwarding import RESOURCE_PATHS, forward_resource
from anthropic_proxy.engine.exchange.watchdog import ClientDisconnected
from anthropic_proxy.engine.hooks import StoreUnavailable
from anthropic_proxy.engine.memory_values import MemoryValues
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.gateway.settings import CONFIG_FILE, load_settings
from anthropic_proxy.plugins import Client, Receipt
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.tables import in_one_test
from tests.support.virtual_time import in_virtual_time

SETTINGS = {"PREFERRED_PROVIDER": "anthropic", "ANTHROPIC_API_KEY": "sk-ant-test-0123456789"}
PATH = "/v1/messages/batches/msgbatch_01abc/results"
HAIKU, SONNET, OPUS = "claude-haiku-4-5-20251001", "claude-sonnet-4-5-20250929", "claude-opus-4-5-20251101"


PRICES = f"""\
[prices."anthropic/{SONNET}"]
input = 3
output = 15
tiers.batch = {{ input = 1, output = 5, long_context = {{ above = 200000, input = 2, output = 8 }} }}
"""


def asked(path: str = PATH, query: str = "", **headers: str) -> ClientRequest:
    return new_client_request(
        b"", {name.replace("_", "-"): value for name, value in headers.items()}, path=path, query=query
    )


def line(model: str, incoming: int, output: int, **fields: Any) -> dict[str, Any]:
    usage = {"input_tokens": incoming, "output_tokens": output, "service_tier": "batch", **fields}
    message = {"id": "msg_1", "type": "message", "model": model, "content": [], "usage": usage}
    return {"custom_id": f"{model}-{incoming}", "result": {"type": "succeeded", "message": message}}


def failed(kind: str) -> dict[str, Any]:
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
    return {"custom_id": kind, "result": {"type": kind, **({"error": error} if kind == "errored" else {})}}


def join(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


async def receive(harness: ProxyHarness, incoming: ClientRequest | None = None) -> bytes:
    sink = RecordingSink()
    await forward_resource(harness.services, incoming or asked(), "GET", sink)
    return sink.stream


def list_parts(receipt: Receipt) -> list[tuple[str, str, int, int, int]]:
    return [(one.kind, one.model, one.calls, one.input_tokens, one.output_tokens) for one in receipt.iterations]


RESULTS = join(
    line(HAIKU, 10, 20, cache_creation_input_tokens=5, cache_creation={"ephemeral_1h_input_tokens": 4}),
    failed("errored"),
    failed("expired"),
    line(OPUS, 7, 8),
    line(
        HAIKU,
        1,
        2,
        server_tool_use={"web_search_requests": 3},
        iterations=[
            {"type": "message", "input_tokens": 1, "output_tokens": 2},
            {"type": "advisor_message", "model": OPUS, "input_tokens": 100, "output_tokens": 200},
        ],
    ),
)


@pytest.mark.parametrize("size", [1, 7, 1_000_000])
async def test_the_tokens_of_all_results_count_by_model(size: int) -> None:
    pieces = [RESULTS[at : at + size] for at in range(0, len(RESULTS), size)]
    harness = ProxyHarness(lambda *_: FakeResponse(200, *pieces), **SETTINGS)
    incoming = asked()
    assert await receive(harness, incoming) == RESULTS
    (receipt,) = harness.receipts
    assert (receipt.request_id, receipt.path, receipt.provider) == ("msgbatch_01abc", PATH, "anthropic")
    assert (receipt.model, receipt.requested_model, receipt.message_count) == (HAIKU, HAIKU, 3)
    assert (receipt.service_tier, receipt.region, receipt.billed_searches) == ("batch", "", 3)
    assert (receipt.input_tokens, receipt.output_tokens) == (118, 230)
    assert (receipt.cache_write_tokens, receipt.cache_write_1h_tokens) == (5, 4)
    assert list_parts(receipt) == [
        ("message", HAIKU, 2, 11, 22),
        ("message", OPUS, 1, 7, 8),
        ("advisor_message", OPUS, 1, 100, 200),
    ]
    assert incoming.receipt.input_tokens == 0


async def test_the_costs_are_those_of_the_tier_and_of_each_context(tmp_path: Path) -> None:
    """A price for long contexts applies to a request, not to the sum of a batch."""
    results = join(line(SONNET, 150_000, 10), line(SONNET, 150_000, 10), line(SONNET, 250_000, 10))
    harness = ProxyHarness(lambda *_: FakeResponse(200, results), **SETTINGS)
    await receive(harness)
    (receipt,) = harness.receipts
    assert list_parts(receipt) == [
        ("message", SONNET, 2, 300_000, 20),
        ("message", SONNET, 1, 250_000, 10),
    ]
    (tmp_path / CONFIG_FILE).write_text(PRICES, "utf-8")
    calculator = CostCalculator(load_settings({}, PROVIDERS, env_file=str(tmp_path / ".env")))
    assert calculator.calculate(receipt).cost == (300_000 * 1 + 20 * 5 + 250_000 * 2 + 10 * 8) * 1_000


async def test_requests_in_several_regions_and_tiers_are_counted_apart() -> None:
    results = join(line(HAIKU, 1, 2), line(HAIKU, 3, 4, inference_geo="us"), line(HAIKU, 5, 6, service_tier="standard"))
    harness = ProxyHarness(lambda *_: FakeResponse(200, results), **SETTINGS)
    await receive(harness)
    assert [(one.request_id, one.region, one.service_tier, one.input_tokens) for one in harness.receipts] == [
        ("msgbatch_01abc", "", "batch", 1),
        ("msgbatch_01abc.us", "us", "batch", 3),
        ("msgbatch_01abc.standard", "", "standard", 5),
    ]


async def test_results_that_are_read_again_count_once() -> None:
    harness = ProxyHarness(lambda *_: FakeResponse(200, RESULTS), **SETTINGS)
    for _ in range(3):
        assert await receive(harness) == RESULTS
    assert len(harness.receipts) == 1
    await receive(harness, asked("/v1/messages/batches/msgbatch_02/results"))
    assert [one.request_id for one in harness.receipts] == ["msgbatch_01abc", "msgbatch_02"]


PARTIAL = {
    "range": "bytes=0-99",
    "if_range": '"a"',
    "if_match": '"a"',
    "if_none_match": '"a"',
    "if_modified_since": "Wed, 21 Oct 2026 07:28:00 GMT",
    "if_unmodified_since": "Wed, 21 Oct 2026 07:28:00 GMT",
}


async def test_a_client_cannot_read_only_a_part_of_the_results() -> None:
    """Otherwise, one that reads each part alone would never read all, and nothing would count."""
    sent: list[UpstreamRequest] = []

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        sent.append(request)
        return FakeResponse(200, RESULTS)

    harness = ProxyHarness(upstream, **SETTINGS)
    assert await receive(harness, asked(query="limit=1&beta=true&after_id=a", **PARTIAL)) == RESULTS
    assert sent[0].path == f"{PATH}?beta=true"
    assert {name.replace("_", "-") for name in PARTIAL}.isdisjoint(sent[0].headers)
    assert [one.input_tokens for one in harness.receipts] == [118]
    await receive(harness, asked("/v1/files/file_1/content", **PARTIAL))
    assert sent[1].headers["range"] == "bytes=0-99"


class _LeavingSink(RecordingSink):
    """A client that disconnects when it has the first piece."""

    def __init__(self) -> None:
        super().__init__()
        self.has_left = asyncio.Event()

    def _add(self, data: bytes, *, is_last: bool) -> None:
        super()._add(data, is_last=is_last)
        self.has_left.set()

    async def wait_disconnected(self) -> None:
        await self.has_left.wait()


class _SlowResponse(FakeResponse):
    """A response with pieces between which the watchdog looks for the client."""

    async def read(self) -> bytes:
        await asyncio.sleep(10)
        return await super().read()


@in_virtual_time
async def test_results_of_a_client_that_disconnects_before_their_end_count_once() -> None:
    pieces = [RESULTS[at : at + 100] for at in range(0, len(RESULTS), 100)]
    responses: list[FakeResponse] = []

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        responses.append(_SlowResponse(200, *pieces))
        return responses[-1]

    harness = ProxyHarness(upstream, **SETTINGS)
    both = (forward_resource(harness.services, asked(), "GET", _LeavingSink()) for _ in range(2))
    assert [type(result) for result in await asyncio.gather(*both, return_exceptions=True)] == [
        NoneType,
        ClientDisconnected,
    ]
    assert [one.input_tokens for one in harness.receipts] == [118]
    with pytest.raises(ClientDisconnected):  # it has counted, so nothing is read for a client that is gone
        await forward_resource(harness.services, asked(), "GET", _LeavingSink())
    assert [bool(each.chunks) for each in responses] == [False, True, True]
    assert len(harness.receipts) == 1


class _GoneSink(RecordingSink):
    """A client that has disconnected before the response."""

    async def wait_disconnected(self) -> None:
        return


CUT = ConnectionError("cut")
READINGS = {
    "results do not exist yet": [((404, b"{}"), _GoneSink, ClientDisconnected)],
    "the provider fails after the client has left": [
        ((200, RESULTS[:100], RESULTS[100:200], CUT), _LeavingSink, ConnectionError)
    ],
    "both": [
        ((404, b"{}"), _GoneSink, ClientDisconnected),
        ((200, RESULTS[:100], RESULTS[100:200], CUT), _LeavingSink, ConnectionError),
        ((500, b"{}"), _GoneSink, ClientDisconnected),
    ],
}


@in_one_test
@pytest.mark.parametrize("readings", READINGS.values(), ids=READINGS)
@in_virtual_time
async def test_results_of_a_client_that_leaves_count_after_readings_that_gave_none(
    readings: list[tuple[tuple[Any, ...], type[RecordingSink], type[Exception]]],
) -> None:
    answers = [answer for answer, _, _ in readings]
    harness = ProxyHarness(lambda *_: _SlowResponse(*answers.pop(0)), **SETTINGS)
    for _, sink, failure in readings:
        with pytest.raises(failure):
            await forward_resource(harness.services, asked(), "GET", sink())
    assert harness.receipts == []
    answers.append((200, RESULTS[:100], RESULTS[100:]))
    await forward_resource(harness.services, asked(), "GET", _LeavingSink())
    assert [each.input_tokens for each in harness.receipts] == [118]


@in_virtual_time
async def test_results_of_a_client_that_leaves_count_while_the_store_is_unavailable() -> None:
    class Unavailable(MemoryValues):
        async def get(self, key: str) -> str | None:
            raise StoreUnavailable

    harness = ProxyHarness(lambda *_: _SlowResponse(200, RESULTS[:100], RESULTS[100:]), **SETTINGS)
    harness.services = structs.replace(harness.services, store=Unavailable())
    await forward_resource(harness.services, asked(), "GET", _LeavingSink())
    assert [each.input_tokens for each in harness.receipts] == [118]


@in_virtual_time
async def test_each_account_at_a_server_has_results_of_its_own() -> None:
    """A client can name any batch, and servers may count the batches of each account from 1."""
    harness = ProxyHarness(lambda *_: _SlowResponse(200, RESULTS[:100], RESULTS[100:]), PREFERRED_PROVIDER="anthropic")
    client = Client(credential_forwardable=True)
    for key in ("sk-ant-first", "sk-ant-second", "sk-ant-first"):
        incoming = new_client_request(b"", {"x-api-key": key}, path=PATH, client=client)
        with suppress(ClientDisconnected):
            await forward_resource(harness.services, incoming, "GET", _LeavingSink())
    assert [each.input_tokens for each in harness.receipts] == [118, 118]


async def test_a_part_that_nobody_has_asked_for_does_not_stand_for_all_results() -> None:
    first = RESULTS[: RESULTS.index(b"\n") + 1]
    answers = [FakeResponse(206, first, headers={"content-range": f"bytes 0-{len(first)}/{len(RESULTS)}"})]
    harness = ProxyHarness(lambda *_: answers.pop() if answers else FakeResponse(200, RESULTS), **SETTINGS)
    assert await receive(harness) == first
    assert harness.receipts == []
    await receive(harness)
    assert [one.input_tokens for one in harness.receipts] == [118]


async def test_results_whose_records_a_killed_process_has_lost_count_when_they_are_read_again() -> None:
    """The process is killed before the ledger has stored them, or some seconds later."""
    day = 24 * 3_600.0
    for is_killed, later, counted in ((True, 90.0, 1), (True, 5.0, 0), (False, 90.0, 0), (False, 29 * day, 0)):
        now = [0.0]
        store = MemoryValues(clock=lambda now=now: now[0])
        stored = asyncio.Event()
        killed, next_process = (ProxyHarness(lambda *_: FakeResponse(200, RESULTS), **SETTINGS) for _ in range(2))

        async def wait(_: float, stored: asyncio.Event = stored) -> None:
            await stored.wait()

        killed.services = structs.replace(killed.services, store=store, sleep=wait)
        next_process.services = structs.replace(next_process.services, store=store)
        await receive(killed)
        assert len(killed.receipts) == 1
        if not is_killed:
            stored.set()
            await asyncio.sleep(0)
        now[0] = later
        await receive(next_process)
        assert len(next_process.receipts) == counted


async def test_results_count_while_the_store_is_unavailable() -> None:
    class Unavailable(MemoryValues):
        async def increment(self, key: str, amount: float, lifetime_seconds: float) -> float:
            raise StoreUnavailable

    harness = ProxyHarness(lambda *_: FakeResponse(200, RESULTS), **SETTINGS)
    harness.services = structs.replace(harness.services, store=Unavailable())
    assert await receive(harness) == RESULTS
    assert len(harness.receipts) == 1


@pytest.mark.parametrize(
    "results",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\n\n{}\n", id="no results"),
        pytest.param(b'{"result":[]}\n{"result":{"message":7}}\nnull\n"x"\n{', id="other types"),
        pytest.param(b"\xff\xfe\n", id="no UTF-8"),
        pytest.param(join(failed("canceled")), id="canceled"),
    ],
)
async def test_results_without_usage_pass_and_count_nothing(results: bytes) -> None:
    harness = ProxyHarness(lambda *_: FakeResponse(200, results), **SETTINGS)
    assert await receive(harness) == results
    assert harness.receipts == []


async def test_a_download_that_fails_counts_nothing() -> None:
    harness = ProxyHarness(lambda *_: FakeResponse(200, RESULTS, ConnectionError("cut")), **SETTINGS)
    with pytest.raises(ConnectionError):
        await receive(harness)
    assert harness.receipts == []


def batch(url: Any, batch_id: str = "msgbatch_1") -> dict[str, Any]:
    return {"id": batch_id, "type": "message_batch", "processing_status": "ended", "results_url": url}


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://api.anthropic.com/v1/messages/batches/msgbatch_1/results", "/v1/messages/batches/msgbatch_1/results"),
        (
            "https://gateway.example/a/v1/messages/batches/msgbatch_1/results?sig=1#x",
            "/v1/messages/batches/msgbatch_1/results",
        ),
        ("https://store.example/9f3c.jsonl?X-Amz-Signature=1", "/v1/messages/batches/msgbatch_1/results"),
        ("//store.example/9f3c", "/v1/messages/batches/msgbatch_1/results"),
        (None, None),
    ],
)
async def test_the_address_of_results_leads_to_the_proxy(url: str | None, sent: str | None) -> None:
    answers = [{"data": [batch(url)], "has_more": False}, batch(url)]
    for path in ("/v1/messages/batches/msgbatch_1", "/v1/messages/batches"):
        answer = answers.pop()
        body = json.dumps(answer).replace("/", "\\/").encode()  # some servers escape it
        shown = json.loads(
            await receive(ProxyHarness(lambda *_, body=body: FakeResponse(200, body), **SETTINGS), asked(path))
        )
        assert shown in (batch(sent), {"data": [batch(sent)], "has_more": False})


@in_one_test
@pytest.mark.parametrize(
    ("batch_id", "served_id"),
    [
        ("batch.1", "batch.1"),
        ("a:b@c-d", "a:b@c-d"),
        ("projects.x:9", "projects.x:9"),
        ("msgbatch\\u005f1", "msgbatch_1"),
        ("b_é", None),
        ("b\\ud800", None),
        ("b.", None),
    ],
)
@in_virtual_time
async def test_the_address_of_results_of_each_batch_that_the_proxy_serves_leads_to_it(
    batch_id: str, served_id: str | None
) -> None:
    body = b'{"id":"%b","results_url":"https://store.example/1"}' % batch_id.encode()
    shown = json.loads(await receive(ProxyHarness(lambda *_: FakeResponse(200, body), **SETTINGS), asked(PATH[:-8])))
    path = f"/v1/messages/batches/{served_id}/results"
    assert shown["results_url"] == ("https://store.example/1" if served_id is None else path)
    assert served_id is None or RESOURCE_PATHS.fullmatch(path)


async def test_an_address_of_results_without_a_batch_stays() -> None:
    for answer in ({"results_url": "https://a.example/"}, batch("https://a.example/", "../x"), batch(7)):
        body = json.dumps(answer).encode()
        harness = ProxyHarness(lambda *_, body=body: FakeResponse(200, body), **SETTINGS)
        assert await receive(harness, asked("/v1/messages/batches/msgbatch_1")) == body
