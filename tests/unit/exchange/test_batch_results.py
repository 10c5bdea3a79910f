"""What the results of a batch state about tokens is counted once, by model, region and tier."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.console.ledger.costs import CostCalculator
from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.exchange.forwarding import forward_resource
from anthropic_proxy.engine.hooks import StoreUnavailable
from anthropic_proxy.engine.memory_values import MemoryValues
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import CONFIG_FILE, load_settings
from anthropic_proxy.plugins import Receipt
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request

SETTINGS = {"PREFERRED_PROVIDER": "anthropic", "ANTHROPIC_API_KEY": "sk-ant-test-0123456789"}
PATH = "/v1/messages/batches/msgbatch_01abc/results"
HAIKU, SONNET, OPUS = "claude-haiku-4-5-20251001", "claude-sonnet-4-5-20250929", "claude-opus-4-5-20251101"


PRICES = f"""\
[prices."anthropic/{SONNET}"]
input = 3
output = 15
tiers.batch = {{ input = 1, output = 5, long_context = {{ above = 200000, input = 2, output = 8 }} }}
"""


def asked(path: str = PATH) -> ClientRequest:
    return new_client_request(b"", path=path)


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


async def test_a_range_of_the_results_does_not_stand_for_all_of_them() -> None:
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
