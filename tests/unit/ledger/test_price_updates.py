"""Newer prices are downloaded while the proxy runs, and used for the next requests of the process."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from anthropic_proxy.app import App
from anthropic_proxy.console.ledger.costs import CostCalculator, CurrentCosts
from anthropic_proxy.engine.providers.price_fields import PriceTable
from anthropic_proxy.gateway.plugin_packages import open_plugins
from anthropic_proxy.gateway.prices.price_list import (
    PRICE_SOURCE,
    describe_price_list,
    find_price,
    find_price_package_version,
)
from anthropic_proxy.gateway.prices.updates import PriceUpdates
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.facts_file import format_day
from anthropic_proxy.plugins import Plugin
from tests.support.http_server import Server, serving
from tests.support.ledger import NOON, new_receipt, read_rows, running_ledger
from tests.support.price_list import build_price_list, list_providers
from tests.support.waiting import wait_for_async

DAY = 86_400.0
GPT = {"provider": "openai", "prefix": "openai", "model": "gpt-4.1", "input_tokens": 1_000, "output_tokens": 0}
PACKAGED = 2_000_000
"""Cost of the request `GPT` in nano-dollars at the price of the package."""
UPDATED = "genai-prices updated TODAY"


@pytest.fixture(autouse=True)
def _own_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests have the prices of the package."""
    monkeypatch.setattr(PRICE_SOURCE, "current", None)


def find_cost(settings: Settings) -> tuple[int | None, str]:
    cost = CostCalculator(settings).calculate(new_receipt(**GPT))
    return cost.cost, cost.source


def replace_dates(text: str, first: date) -> str:
    """Replace each date from `first`, on which the test began, to today by `TODAY`: midnight can be in a test."""
    for days in range((date.today() - first).days + 1):
        day = first + timedelta(days)
        text = text.replace(day.isoformat(), "TODAY").replace(format_day(day), "TODAY")
    return text


def reply(status: str, body: bytes) -> Callable[[Server, asyncio.StreamWriter], Awaitable[None]]:
    async def write(_: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status.encode(), len(body), body))
        await writer.drain()

    return write


async def update(content: bytes) -> None:
    await asyncio.to_thread(PRICE_SOURCE.update, content)


def test_the_ledger_uses_an_update_for_its_next_requests_and_keeps_earlier_costs(tmp_path: Path) -> None:
    settings, first = Settings(data_directory=tmp_path), date.today()

    async def record(number: int) -> None:
        await ledger.record(new_receipt(number, **GPT))
        ledger.wait_written(number)

    with running_ledger(settings, cost=None) as ledger:
        asyncio.run(record(1))
        assert describe_price_list().startswith(f"{find_price_package_version()}, ")
        for number, price in enumerate((3, 4), 2):
            asyncio.run(update(build_price_list("2026-11-20", input_mtok=price)))
            asyncio.run(record(number))
    assert [(row["cost"], replace_dates(row["price_source"], first)) for row in read_rows(settings)] == [
        (PACKAGED, find_price_package_version()),
        (3_000_000, UPDATED),
        (4_000_000, UPDATED),
    ]
    assert replace_dates(describe_price_list(), first) == UPDATED
    assert list(tmp_path.rglob("prices.json")) == []


async def test_own_prices_stay_in_use_and_current_costs_follow() -> None:
    settings = [Settings()]
    costs = CurrentCosts(lambda: settings[0])
    assert costs.calculate(new_receipt(**GPT)).cost == PACKAGED
    await update(build_price_list("2026-11-20", input_mtok=3))
    assert costs.calculate(new_receipt(**GPT)).cost == 3_000_000
    settings[0] = Settings(prices={"openai/gpt-4.1": PriceTable(input=7, output=9)})
    assert costs.calculate(new_receipt(**GPT)).cost == 7_000_000


async def test_every_form_of_a_price_is_used() -> None:
    providers = list_providers("2026-11-20", {})
    (model,) = providers[0]["models"]
    model["prices"] |= {
        "input_mtok": {"base": 3, "tiers": [{"start": 200_000, "price": 6}]},
        "cache_write_mtok": 4,
        "cache_write_1h_mtok": 7,
        "output_reasoning_mtok": 9,
    }
    model["prices"] = [
        {"prices": model["prices"]},
        {"constraint": {"start_date": "2026-12-01"}, "prices": {**model["prices"], "output_mtok": 16}},
    ]
    await update(json.dumps(providers).encode())
    calculator, december = CostCalculator(Settings()), NOON + 10 * DAY

    def cost(**fields: object) -> int | None:
        return calculator.calculate(new_receipt(**{**GPT, "input_tokens": 0, **fields})).cost

    assert cost(cache_write_tokens=1_000, cache_write_1h_tokens=400) == 600 * 4_000 + 400 * 7_000
    assert cost(output_tokens=1_000, thinking_tokens=300) == 700 * 8_000 + 300 * 9_000
    assert cost(input_tokens=200_001) == 200_001 * 6_000
    assert cost(output_tokens=1_000, started_at=december) == 16_000_000


async def test_a_running_proxy_updates_its_prices_and_keeps_them_after_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anthropic_proxy.gateway.prices.updates.RETRY_SECONDS", 0.0)
    first = date.today()
    lists = [
        reply("200 OK", build_price_list("2026-11-20", input_mtok=3)),
        reply("503 Busy", b""),
        reply("200 OK", b'{"no": "list"}'),
        reply("200 OK", b"[]"),
        reply("200 OK", build_price_list("2026-11-20", input_mtok=4)),
    ]
    async with serving(*lists) as (server, port):
        settings = Settings(price_update_days=0, price_update_url=f"http://127.0.0.1:{port}/prices.json")
        updates = PriceUpdates(settings, start_delay_seconds=0.0)
        app = App(settings, logs_startup=False, plugins=[Plugin(start=updates.start, stop=updates.stop)])
        await app.start()
        await wait_for_async(lambda: len(server.heads) >= len(lists) and find_cost(settings)[0] == 4_000_000)
        await app.close()
    shown = replace_dates(capsys.readouterr().err, first)
    lines = [re.sub(r"^[\d:]+  ", "", line) for line in shown.splitlines() if "rices" in line]
    failed = "The prices are not updated (update_days of [price_list]): "
    assert lines[0] == f"Prices updated: {UPDATED}."
    assert [line.removeprefix(failed).partition(": ")[0] for line in lines[1:4]] == [
        "the server answers with HTTP 503. The prices in use stay",
        "Expected `array`, got `object`. The prices in use stay",
        "the list is empty. The prices in use stay",
    ]
    assert {line.rpartition(": ")[2] for line in lines[:4]} == {f"{UPDATED}."}


def test_nothing_is_downloaded_without_the_setting(tmp_path: Path) -> None:
    """The module of updates is not even imported."""
    counts = [len(list(open_plugins(Settings(price_update_days=days, database_url=None)))) for days in (0, 7)]
    assert counts[1] == counts[0] + 1


async def test_the_price_of_another_vendor_is_that_of_the_list() -> None:
    await update(build_price_list("2026-11-20", input_mtok=3))
    price = find_price("https://vendor-1.example/v1", "model-1")
    assert price is not None
    assert price.base.input == Decimal(1)


async def test_expressions_of_a_downloaded_list_are_not_run() -> None:
    providers = list_providers("2026-11-20", {"input_mtok": 3})
    endless = {"id": "endless", "match": {"regex": "(a+)+$"}, "prices": {"input_mtok": 1}}
    literal = {"id": "literal", "match": {"regex": "gpt-[.]|x"}, "prices": {"input_mtok": 1}}
    providers[0]["models"] = [endless, literal, *providers[0]["models"]]
    assert PRICE_SOURCE.update(json.dumps(providers).encode()) == 2
    assert find_price("https://api.openai.com/v1", "a" * 60 + "b") is None
    assert find_price("https://api.openai.com/v1", "gpt-4.1") is not None


@pytest.mark.parametrize(
    "price",
    [
        -1,
        "1e999999",
        "1e-999999",
        {"base": "1e7", "tiers": []},
        {"base": 1, "tiers": [{"start": start, "price": 1} for start in range(30)]},
    ],
    ids=["negative", "huge", "tiny", "high", "tiers"],
)
def test_a_price_of_an_update_that_cannot_be_true_is_unknown(tmp_path: Path, price: object) -> None:
    PRICE_SOURCE.update(build_price_list("2026-11-20", input_mtok=price))
    assert find_cost(Settings(data_directory=tmp_path)) == (None, "")
