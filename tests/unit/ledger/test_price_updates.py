"""A newer price list is checked as a whole, stored for all processes, and used without a restart."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec import structs

from anthropic_proxy.app import App
from anthropic_proxy.console.ledger.costs import CostCalculator, CurrentCosts
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.prices.updates import (
    FILE_NAME,
    InvalidPrices,
    OlderPrices,
    PriceSource,
    PriceUpdater,
    describe_price_list,
    find_price_package_version,
    find_price_source,
    format_date,
    open_plugin,
    store_new_prices,
)
from anthropic_proxy.gateway.settings import ConfiguredPrice, Settings
from anthropic_proxy.gateway.settings.file_format import PriceTable
from anthropic_proxy.plugins import Gateway, Plugin
from tests.support.http_server import Server, serving
from tests.support.interleaving import interleave
from tests.support.ledger import NOON, new_receipt, read_rows, running_ledger
from tests.support.price_list import build_price_list, list_providers

TODAY = date(2026, 11, 22)
DAY = 86_400.0
GPT = {"provider": "openai", "prefix": "openai", "model": "gpt-4.1", "input_tokens": 1_000, "output_tokens": 0}
PACKAGED = 2_000_000
"""Cost of the request `GPT` in nano-dollars at the price of the package."""


def find_cost(settings: Settings) -> tuple[int | None, str]:
    cost = CostCalculator(settings).calculate(new_receipt(**GPT))
    return cost.cost, cost.source


def test_the_ledger_uses_a_stored_list_for_its_next_requests_and_keeps_earlier_costs(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path)

    async def record(number: int) -> None:
        await ledger.record(new_receipt(number, **GPT))
        ledger.wait_written(number)

    with running_ledger(settings, cost=None) as ledger:
        asyncio.run(record(1))
        update = store_new_prices(tmp_path, build_price_list("2026-11-20", input_mtok=3), "list.json", TODAY)
        asyncio.run(record(2))
        store_new_prices(tmp_path, build_price_list("2026-11-21", input_mtok=4), "list.json", TODAY)
        asyncio.run(record(3))
    assert update.provider_count > 10
    assert [(row["cost"], row["price_source"]) for row in read_rows(settings)] == [
        (PACKAGED, find_price_package_version()),
        (3_000_000, "genai-prices updated 2026-11-22"),
        (4_000_000, "genai-prices updated 2026-11-22"),
    ]
    assert describe_price_list(tmp_path) == "genai-prices updated 22 Nov 2026"


def test_current_costs_follow_the_settings_and_the_price_list(tmp_path: Path) -> None:
    packaged = Settings(data_directory=tmp_path)
    table = PriceTable(input=5, output=5)
    price = ConfiguredPrice(pattern="openai/gpt-4.1", table=table, origin="anthropic-proxy.toml line 1")
    own = structs.replace(packaged, prices=(price,))
    used = [packaged]
    costs = CurrentCosts(lambda: used[-1])

    def find() -> int | None:
        return costs.calculate(new_receipt(**GPT)).cost

    assert find() == PACKAGED
    store_new_prices(tmp_path, build_price_list("2026-11-20", input_mtok=3), "list.json", TODAY)
    assert find() == 3_000_000
    used.append(own)
    assert find() == 5_000_000
    used.append(packaged)
    assert find() == 3_000_000


def test_a_price_without_a_restart_has_cache_tiers_long_contexts_and_dates(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path)
    find_price_source(tmp_path).load()
    tiers = {"base": 3, "tiers": [{"start": 200_000, "price": 6}]}
    rates = {"input_mtok": tiers, "cache_write_5m_mtok": 4, "cache_write_1h_mtok": 7, "output_reasoning_mtok": 9}
    providers = list_providers("2026-11-20", rates)
    model = providers[0]["models"][0]
    model["prices"] = [
        {"prices": model["prices"]},
        {"constraint": {"start_date": "2026-12-01"}, "prices": {**model["prices"], "output_mtok": 16}},
    ]
    store_new_prices(tmp_path, json.dumps(providers).encode(), "list.json", TODAY)
    find_price_source(tmp_path).reload_if_changed()
    calculator, december = CostCalculator(settings), NOON + 10 * DAY

    def cost(**fields: object) -> int | None:
        return calculator.calculate(new_receipt(**{**GPT, "input_tokens": 0, **fields})).cost

    assert cost(cache_write_tokens=1_000, cache_write_1h_tokens=400) == 600 * 4_000 + 400 * 7_000
    assert cost(output_tokens=1_000, thinking_tokens=300) == 700 * 8_000 + 300 * 9_000
    assert cost(input_tokens=200_001) == 200_001 * 6_000
    assert cost(output_tokens=1_000, started_at=december) == 16_000_000


@contextmanager
def unchanged(settings: Settings) -> Iterator[None]:
    before = find_cost(settings)
    yield
    find_price_source(settings.data_directory).reload_if_changed()
    assert find_cost(settings) == before == (PACKAGED, find_price_package_version())


def _change(change: Callable[[dict[str, object]], object]) -> bytes:
    providers = list_providers("2026-11-20", {"input_mtok": 3})
    change(providers[0]["models"][0])
    return json.dumps(providers).encode()


NEWER = (
    "its format is newer than the installed package, which does not know the field {}; upgrade the package with  "
    "python -m pip install --upgrade genai-prices"
)
INVALID = {
    "truncated": (lambda: build_price_list("2026-11-20", input_mtok=3)[:-20], "it is no JSON, or is incomplete"),
    "no list": (lambda: b'{"version": 3}', "it is no list of providers"),
    "negative": (
        lambda: build_price_list("2026-11-20", input_mtok=-3),
        "openai/gpt-4.1 has the price -3 for input_mtok",
    ),
    "negative above a threshold": (
        lambda: build_price_list("2026-11-20", input_mtok={"base": 3, "tiers": [{"start": 9, "price": -1}]}),
        "openai/gpt-4.1 has the price -1 for input_mtok",
    ),
    "too high": (
        lambda: build_price_list("2026-11-20", input_mtok=1e9),
        "openai/gpt-4.1 has the price 1000000000.0 for input_mtok",
    ),
    "unknown price": (
        lambda: build_price_list("2026-11-20", input_mtok=3, flex_mtok=1),
        NEWER.format("models.prices.flex_mtok"),
    ),
    "unknown field": (lambda: _change(lambda model: model.update(currency="EUR")), NEWER.format("models.currency")),
    "unknown constraint": (
        lambda: _change(lambda model: model.update(prices=[{"constraint": {"weekday": 1}, "prices": {}}])),
        NEWER.format("models.prices.constraint.weekday"),
    ),
    "no prices": (lambda: _change(lambda model: model.update(prices=[])), "openai/gpt-4.1 has an empty list of prices"),
    "no match": (
        lambda: _change(lambda model: model.pop("match")),
        "the entry of openai is not valid (0.models.0.match: Field required)",
    ),
    "no date": (lambda: re.sub(rb"2026-11-20", b"yesterday", build_price_list("2026-11-20")), "it has no date"),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_list_is_rejected_as_a_whole_with_its_reason(tmp_path: Path, name: str) -> None:
    build, reason = INVALID[name]
    with unchanged(Settings(data_directory=tmp_path)), pytest.raises(InvalidPrices) as rejected:
        store_new_prices(tmp_path, build(), "list.json", TODAY)
    assert str(rejected.value) == reason
    assert not (tmp_path / FILE_NAME).exists()


def test_a_list_with_few_models_is_rejected(tmp_path: Path) -> None:
    providers = list_providers("2026-11-20", {"input_mtok": 3})[:5]
    count = sum(len(provider["models"]) for provider in providers)
    with unchanged(Settings(data_directory=tmp_path)), pytest.raises(InvalidPrices) as rejected:
        store_new_prices(tmp_path, json.dumps(providers).encode(), "list.json", TODAY)
    assert str(rejected.value).startswith(f"it has {count} models of 5 providers, the installed package has ")


def test_the_newer_of_file_and_package_is_used(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path)
    with unchanged(settings), pytest.raises(OlderPrices) as rejected:
        store_new_prices(tmp_path, build_price_list("2026-01-20", input_mtok=3), "list.json", TODAY)
    assert str(rejected.value) == "it is of 20 Jan 2026, older than the prices in use"
    store_new_prices(tmp_path, build_price_list("2026-11-20", input_mtok=3), "list.json", TODAY)
    with pytest.raises(OlderPrices):
        store_new_prices(tmp_path, build_price_list("2026-11-19", input_mtok=4), "list.json", TODAY)
    file = tmp_path / FILE_NAME
    stored = file.read_text(encoding="utf-8")
    file.write_text(stored.replace(find_price_package_version(), "genai-prices 0.0.1"), encoding="utf-8")
    find_price_source(tmp_path).reload_if_changed()
    assert find_cost(settings) == (3_000_000, "genai-prices updated 2026-11-22")
    package_is_newer = stored.replace(find_price_package_version(), "genai-prices 0.0.1").replace(
        "2026-11-20", "2026-01-20"
    )
    file.write_text(package_is_newer, encoding="utf-8")
    find_price_source(tmp_path).reload_if_changed()
    assert find_cost(settings) == (PACKAGED, find_price_package_version())


def test_a_damaged_file_leaves_the_prices_in_use_and_is_reported(tmp_path: Path) -> None:
    settings, file = Settings(data_directory=tmp_path), tmp_path / FILE_NAME
    store_new_prices(tmp_path, build_price_list("2026-11-20", input_mtok=3), "list.json", TODAY)
    before = find_cost(settings)
    file.write_bytes(file.read_bytes()[:-9])
    source = find_price_source(tmp_path)
    source.reload_if_changed()
    assert find_cost(settings) == before == (3_000_000, "genai-prices updated 2026-11-22")
    assert source.problem == (
        f"The price file {file} is not used: it is incomplete or was changed. Replace it:  "
        "anthropic-proxy prices update"
    )
    file.unlink()
    source.reload_if_changed()
    assert (find_cost(settings), source.problem) == ((PACKAGED, find_price_package_version()), "")


@asynccontextmanager
async def running_gateway(settings: Settings) -> AsyncIterator[Gateway]:
    started: list[Gateway] = []

    async def start(gateway: Gateway) -> None:
        started.append(gateway)

    app = App(settings, logs_startup=False, plugins=[Plugin(start=start)])
    await app.start()
    yield started[0]
    await app.close()


def reply(status: str, body: bytes) -> Callable[[Server, asyncio.StreamWriter], Awaitable[None]]:
    async def write(_: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status.encode(), len(body), body))
        await writer.drain()

    return write


async def test_one_of_several_workers_downloads_the_list_every_n_days(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [NOON]
    first, second = (build_price_list(day, input_mtok=price) for day, price in (("2026-11-20", 3), ("2026-11-21", 4)))
    async with serving(reply("200 OK", first), reply("503 Busy", b""), reply("200 OK", second)) as (server, port):
        url = f"http://127.0.0.1:{port}/prices.json"
        settings = Settings(data_directory=tmp_path, price_update_days=7, price_update_url=url)
        async with running_gateway(settings) as gateway:

            async def update_all() -> int:
                workers = [PriceUpdater(settings, lambda: now[0]) for _ in range(3)]
                await asyncio.gather(*(worker.update_if_due(gateway) for worker in workers))
                return len(server.heads)

            assert find_cost(settings)[0] == PACKAGED
            assert await update_all() == 1
            assert find_cost(settings) == (3_000_000, f"genai-prices updated {date.fromtimestamp(NOON)}")
            now[0] += 6 * DAY
            assert await update_all() == 1
            now[0] += DAY
            assert await update_all() == 2  # fails
            assert find_cost(settings)[0] == 3_000_000
            now[0] += DAY / 8
            assert await update_all() == 2
            now[0] += DAY / 8
            assert await update_all() == 3
            assert find_cost(settings)[0] == 4_000_000
    lines = [line for line in capsys.readouterr().err.splitlines() if "rice" in line]
    used, newest = (f"genai-prices updated {format_date(date.fromtimestamp(day))}" for day in (NOON, NOON + 7.25 * DAY))
    assert [re.sub(r"^[\d:]+  ", "", line) for line in lines] == [
        f"Prices updated: {used}, from {url}.",
        f"The price list {url} is not used: the server answered with status 503. The prices in use stay: {used}. "
        "To try again:  anthropic-proxy prices update",
        f"Prices updated: {newest}, from {url}.",
    ]


def test_updates_need_a_directory_for_data() -> None:
    with pytest.raises(ConfigurationError) as rejected:
        open_plugin(Settings(price_update_days=7))
    assert rejected.value.message == (
        "Prices cannot be stored, because the environment names no directory for data. Set XDG_DATA_HOME or HOME."
    )


def test_the_price_of_another_vendor_is_that_of_the_list(tmp_path: Path) -> None:
    store_new_prices(tmp_path, build_price_list("2026-11-20", input_mtok=3), "list.json", TODAY)
    data = find_price_source(tmp_path).load()
    assert data is not None
    _, model = data.snapshot.find_provider_model("model-1", None, None, "https://vendor-1.example/v1")
    assert vars(model.prices)["input_mtok"] == Decimal(1)


def test_two_threads_find_the_same_price_list_at_the_first_call(tmp_path: Path) -> None:
    def build() -> tuple[Callable[[], PriceSource], Callable[[], None]]:
        directory = tmp_path / str(len(others))
        return lambda: find_price_source(directory), lambda: others.append(find_price_source(directory))

    others: list[PriceSource] = []
    found = interleave(build)
    assert len(found) > 10
    assert [id(source) for source in found] == [id(source) for source in others]
