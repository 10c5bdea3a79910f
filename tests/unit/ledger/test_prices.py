"""Prices of models: at the address of a server, of the configuration file, and of local models."""

import importlib.metadata
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import pytest

from anthropic_proxy.engine.messages.deltas import TokenCounts
from anthropic_proxy.engine.providers import PROVIDERS, Host, Provider, find_registry
from anthropic_proxy.engine.providers.catalog import may_chat
from anthropic_proxy.engine.providers.model_facts import FACTS, VendorPrices
from anthropic_proxy.gateway.money import NANO_DOLLARS
from anthropic_proxy.gateway.prices.price_list import (
    FREE,
    PRICE_SOURCE,
    PriceList,
    Rates,
    find_package_price_date,
    find_price,
    find_published_window,
    find_typical_request_prices,
)
from anthropic_proxy.gateway.settings import CONFIG_FILE, PriceTable, Settings, load_settings
from anthropic_proxy.secrets import Secret
from tests.support.vendors import EXAMPLE_MODELS, MODEL_TABLES

ValueT = TypeVar("ValueT")
TODAY = datetime(2026, 11, 21, tzinfo=UTC)
GOOGLE = "https://generativelanguage.googleapis.com/v1beta"
ANTHROPIC = "https://api.anthropic.com"
OWN = """
[prices."openai/gpt-4.1"]
input = 1.5
output = 6
cache_read = 0.15
long_context = { above = 200000, input = 3, output = 12 }
earlier = [{ until = 2026-10-31, input = 2, output = 8 }, { until = 2026-06-30, input = 4, output = 16 }]

[prices."vllm/*"]
input = 0
output = 0

[prices."vllm/big-*"]
input = 0.1
output = 0.2

[providers.vllm]
base_url = "http://localhost:8000/v1"
"""


def known(value: ValueT | None) -> ValueT:
    assert value is not None
    return value


def rates(*amounts: str) -> Rates:
    """Return prices of input, cache read, cache write, output, thinking, and of cache writes for one hour.

    Without the last one, they cost the same as other cache writes.
    """
    return Rates(*map(Decimal, amounts if len(amounts) == 6 else (*amounts, amounts[2])))


def load(folder: Path, text: str, environ: Mapping[str, str] = {}) -> Settings:
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    return load_settings(environ, PROVIDERS, env_file=str(folder / ".env"))


def find(settings: Settings, model: str, when: datetime = TODAY) -> Rates | None:
    prefix, _, name = model.partition("/")
    price = PriceList(settings).find(known(find_registry(settings).find_by_prefix(prefix)), name, when)
    return None if price is None else price.base


def test_a_listed_price_has_the_kinds_of_tokens_and_the_surcharge_of_long_contexts() -> None:
    openai = known(find_price("https://api.openai.com/v1", "gpt-4.1", TODAY))
    assert (openai.base, openai.long_contexts) == (rates("2", "0.5", "2", "8", "8"), ())
    assert openai.source.startswith("genai-prices ")
    google = known(find_price(GOOGLE, "gemini-2.5-pro", TODAY))
    assert google.base == rates("1.25", "0.125", "1.25", "10", "10")
    assert google.long_contexts == ((200_000, rates("2.5", "0.25", "2.5", "15", "15")),)


def test_the_time_of_the_request_and_a_batch_select_the_price() -> None:
    before, after = (
        known(find_price(ANTHROPIC, "claude-sonnet-4-6", datetime(2026, month, 1, tzinfo=UTC))) for month in (3, 4)
    )
    assert before.long_contexts == ((200_000, rates("6", "0.6", "7.5", "22.5", "22.5", "12")),)
    assert (after.base, after.long_contexts) == (rates("3", "0.3", "3.75", "15", "15", "6"), ())
    batch = known(find_price(ANTHROPIC, "claude-sonnet-4-6", TODAY, tier="batch"))
    assert batch.base == rates("1.5", "0.15", "1.875", "7.5", "7.5", "3")


def test_vertex_ai_has_the_prices_of_google() -> None:
    vertex = "https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/us-central1/publishers/google"
    assert find_price(vertex, "gemini-2.5-pro", TODAY) == find_price(GOOGLE, "gemini-2.5-pro", TODAY)


def test_litellm_has_the_prices_of_the_vendor_in_the_model_id() -> None:
    assert find(Settings(), "litellm/mistral/mistral-large-latest") is not None
    assert find(Settings(), "litellm/no-such-vendor/x") is None


@pytest.mark.parametrize(
    ("base_url", "model"),
    [
        ("http://localhost:8000/v1", "gpt-4.1"),
        ("https://api.openai.com/v1", "no-such-model"),
        ("https://api.openai.com.corp.example/v1", "gpt-4.1"),
        ("https://api.openai.community/v1", "gpt-4.1"),
        ("https://corp.example/api.openai.com/v1", "gpt-4.1"),
        ("https://corp.example/x.googleapis.com", "gemini-2.5-pro"),
        ("https://corp.example?x.googleapis.com", "gemini-2.5-pro"),
        ("https://generativelanguage.googleapis.com.corp.example", "gemini-2.5-pro"),
        ("https://api.moonshot.corp.example/v1", "kimi-k2-0905-preview"),
        ("https://api.anthropic.com-corp.example", "claude-sonnet-4-6"),
    ],
)
def test_an_unknown_server_or_model_has_no_price(base_url: str, model: str) -> None:
    assert find_price(base_url, model, TODAY) is None


def test_local_models_and_the_demo_are_free_but_models_of_ollamas_servers_are_not() -> None:
    assert find(Settings(), "ollama/qwen3-coder:30b") == FREE.base
    assert find(Settings(), "demo/demo") == FREE.base
    assert find(Settings(), "ollama/qwen3-coder:480b-cloud") is None
    assert find(Settings(base_urls={"ollama": "https://ollama.com"}), "ollama/qwen3-coder:480b") is None


@pytest.mark.parametrize("address", ["http://localhost:8000", "http://127.0.0.1:1234/v1", "http://192.168.1.7/v1"])
def test_a_server_on_this_machine_or_in_its_network_is_free_without_a_key(address: str) -> None:
    own = Settings(base_urls={"openai": address})
    assert find(own, "openai/qwen3-coder") == find(own, "openai/gpt-4.1") == FREE.base
    with_key = Settings(base_urls={"openai": address}, keys={"openai": (Secret("sk-1"),)})
    assert find(with_key, "openai/gpt-4.1") is None  # it may be a gateway to a vendor
    priced = Settings(base_urls={"openai": address}, prices={"openai/*": PriceTable(input=1, output=2)})
    assert find(priced, "openai/qwen3-coder") == rates("1", "1", "1", "2", "2")
    assert find(Settings(base_urls={"openai": "https://models.example/v1"}), "openai/qwen3-coder") is None


def test_own_prices_replace_listed_ones_by_name_pattern_and_date(tmp_path: Path) -> None:
    settings = load(tmp_path, OWN)
    own = known(PriceList(settings).find(known(find_registry(settings).find_by_prefix("openai")), "gpt-4.1", TODAY))
    assert own.base == rates("1.5", "0.15", "1.5", "6", "6")
    assert own.long_contexts == ((200_000, rates("3", "0.15", "1.5", "12", "12")),)
    assert own.source == f"{tmp_path / CONFIG_FILE} line 2"
    assert find(settings, "openai/gpt-4.1", datetime(2026, 10, 31, 23, tzinfo=UTC)) == rates("2", "2", "2", "8", "8")
    assert find(settings, "openai/gpt-4.1", datetime(2026, 6, 1, tzinfo=UTC)) == rates("4", "4", "4", "16", "16")
    assert find(settings, "openai/gpt-4.1-mini") == rates("0.4", "0.1", "0.4", "1.6", "1.6")
    assert find(settings, "vllm/small") == FREE.base
    assert find(settings, "vllm/big-one") == rates("0.1", "0.1", "0.1", "0.2", "0.2")


TWO_AT_ONE_GATEWAY = """
[providers.day]
base_url = "https://gateway.example/v1"

[providers.night]
base_url = "https://gateway.example/v1"

[prices."day/gpt-4.1"]
input = 1
output = 4
regions = { eu = 1.5 }
tiers = { priority = { input = 2, output = 8 } }
earlier = [{ until = 2026-10-31, input = 5, output = 20 }]

[prices."night/gpt-4.1"]
input = 3
output = 12
"""


def test_one_list_tells_apart_all_on_which_a_price_depends(tmp_path: Path) -> None:
    settings = load(tmp_path, TWO_AT_ONE_GATEWAY)
    day, night = (find_registry(settings).find(name) for name in ("day", "night"))
    prices = PriceList(settings)
    for _ in range(2):  # the second ones were kept
        assert known(prices.find(day, "gpt-4.1", TODAY)).base == rates("1", "1", "1", "4", "4")
        assert known(prices.find(night, "gpt-4.1", TODAY)).base == rates("3", "3", "3", "12", "12")
        assert known(prices.find(day, "gpt-4.1", datetime(2026, 10, 1, tzinfo=UTC))).base.input == 5
        assert known(prices.find(day, "gpt-4.1", TODAY, tier="priority")).base.input == 2
        assert known(prices.find(day, "gpt-4.1", TODAY, region="eu")).base.input == Decimal("1.5")
        assert known(prices.find(day, "gpt-4.1", TODAY, tier="priority", region="eu")).base.input == 3
        assert prices.find(day, "gpt-4.1-mini", TODAY) is None


def test_the_list_price_of_a_vendor_is_not_that_at_another_address() -> None:
    settings = Settings(base_urls={"openai": "http://127.0.0.1:8000/v1"})
    vendor = find_registry(settings).find("openai")
    prices = PriceList(settings)
    for _ in range(2):
        assert prices.find(vendor, "gpt-4.1", TODAY) == FREE
        assert known(prices.find_price_at_default_address(vendor, "gpt-4.1", TODAY)).base.input == 2


def test_the_date_of_the_price_data_is_its_newest_entry() -> None:
    assert date(2026, 1, 1) < known(find_package_price_date(TODAY.date())) <= TODAY.date()


OFFERED = [(row, host) for row in PROVIDERS for host in row.hosts if host.base_url]


@pytest.mark.parametrize(("row", "host"), OFFERED, ids=[host.name for _, host in OFFERED])
def test_each_vendor_has_a_price_or_a_reason_for_none(row: Provider, host: Host, tmp_path: Path) -> None:
    address = host.base_url.replace("{region}", "us-east-1")
    settings = load_settings({str(row.base_url_variable): address}, PROVIDERS, env_file=None)
    row = find_registry(settings).find(row.name)
    if host.has_local_url:
        assert PriceList(settings).find(row, "any-model", TODAY) == FREE
        return
    if host.unpriced:
        assert FACTS.file.find_prices(host.models_table) is None
        assert PriceList(settings).find(row, "any-model", TODAY) is None
        return
    price = known(PriceList(settings).find(row, EXAMPLE_MODELS[host.name], TODAY))
    assert 0 < price.base.input < price.base.output
    assert price.source
    if row.name == "openai":  # a table of the configuration file has the same prices
        settings = load(tmp_path, f'[providers.mine]\nbase_url = "{address}"\n')
        assert find(settings, f"mine/{EXAMPLE_MODELS[host.name]}") == price.base


@pytest.mark.parametrize(
    ("host", "model"),
    [
        ("bedrock-runtime.eu-west-1.amazonaws.com", "anthropic.claude-opus-5-5"),
        ("bedrock-runtime-fips.us-gov-west-1.amazonaws.com/anthropic", "anthropic.claude-opus-5-5"),
        ("bedrock-mantle.us-east-1.api.aws/anthropic", "anthropic.claude-opus-5-5"),
        ("vpce-0abc.bedrock-mantle.us-east-1.vpce.amazonaws.com/anthropic", "anthropic.claude-opus-5-5"),
        ("second.services.ai.azure.com/anthropic", "claude-opus-5-5"),
    ],
)
def test_a_table_at_the_address_of_a_cloud_has_its_prices(host: str, model: str, tmp_path: Path) -> None:
    settings = load(tmp_path, f'[providers.mine]\nbase_url = "https://{host}"\nwire = "messages"\n')
    price = find(settings, f"mine/{model}")
    assert 0 < price.input < price.output


PRICED = [(name, prices) for name in MODEL_TABLES if (prices := FACTS.file.find_prices(name))]


@pytest.mark.parametrize(("name", "prices"), PRICED, ids=[name for name, _ in PRICED])
def test_prices_of_vendors_have_a_source_and_a_date_and_complete_the_library(name: str, prices: VendorPrices) -> None:
    assert prices.source
    assert re.fullmatch(r"2026-\d\d(-\d\d)?", prices.read_date)
    row = next((row for row in PROVIDERS if row.name == name), PROVIDERS.find("openai"))
    vendor = next((host for host in row.hosts if host.models_table == name), row)
    settings = load_settings({str(row.base_url_variable): vendor.base_url}, PROVIDERS, env_file=None)
    for model in prices.models:
        price = known(PriceList(settings).find(row, model.upper(), TODAY))
        assert price.source == f"{vendor.title}, {prices.read_date}"
        assert price.base.cache_read <= price.base.input <= price.base.output


def test_a_new_model_of_google_has_the_price_of_its_page_until_the_library_has_one() -> None:
    for name in ("google", "vertex"):
        price = PriceList(Settings()).find_price_at_default_address(PROVIDERS.find(name), "gemini-4-neon", TODAY)
        assert known(price).base == rates("3", "0.15", "3", "15", "15")
    elsewhere = load_settings({"GEMINI_BASE_URL": "https://gateway.example/v1beta"}, PROVIDERS, env_file=None)
    assert find(elsewhere, "gemini/gemini-4-neon") == rates("3", "0.15", "3", "15", "15")


def test_a_price_of_a_vendor_may_change_on_a_day() -> None:
    row, prices = PROVIDERS.find("google"), PriceList(Settings())
    days = [datetime(2026, 11, 30, 12, tzinfo=UTC), datetime(2026, 12, 1, 12, tzinfo=UTC)]
    found = [known(prices.find_price_at_default_address(row, "gemini-4-carbon", day)).base for day in days]
    assert found == [rates("2", "0.1", "2", "10", "10"), rates("4", "0.2", "4", "20", "20")]


def test_a_price_of_a_vendor_has_surcharges_and_searches() -> None:
    price = known(PriceList(Settings()).find(PROVIDERS.find("openai"), "gpt-6.2-sol", TODAY))
    assert price.base == rates("2", "0.1", "2.5", "10", "10")
    assert price.long_contexts == ((272_000, rates("4", "0.2", "5", "15", "15")),)
    assert price.web_search == 10


def test_a_corrected_price_precedes_that_of_the_library() -> None:
    settings = load_settings({"OPENAI_BASE_URL": "https://api.mistral.ai/v1"}, PROVIDERS, env_file=None)
    assert find(settings, "openai/mistral-large-latest") == rates("0.7", "0.07", "0.7", "2.1", "2.1")


WITHOUT_PRICE = {
    "groq": ("qwen-qwq-32b", "qwen-2.5-coder-32b", "qwen-2.5-32b", "deepseek-r1-distill-qwen-32b"),
    "xai": ("grok-1",),
}
"""Known models that have ended, and of which no source states a price: names of the earlier proxies."""


def test_each_known_model_has_a_price() -> None:
    prices = PriceList(Settings())
    missing = {
        row.name: tuple(
            model
            for model in row.known_models
            if may_chat(model)
            and model not in row.non_chat_models
            and not (model in row.retired_models and row.retired_models[model].applies_on(TODAY.date()))
            and prices.find(row, model, TODAY) is None
        )
        for row in PROVIDERS
        if row.transport == "http" and not row.uses_installed_models
    }
    assert {name: models for name, models in missing.items() if models} == WITHOUT_PRICE


MIRROR = "https://egress.example.org"
NEAR = "http://127.0.0.1:8000"


def find_at_setting(variable: str, address: str, model: str) -> Rates | None:
    key = {"GEMINI_API_KEY": "a", "GROQ_API_KEY": "b", "ANTHROPIC_API_KEY": "c", "OPENAI_API_KEY": "d"}
    return find(load_settings({variable: address, **key}, PROVIDERS, env_file=None), model)


@pytest.mark.parametrize(
    ("variable", "model"),
    [
        ("ANTHROPIC_UPSTREAM_URL", "anthropic/claude-opus-5-5"),
        ("GEMINI_BASE_URL", "gemini/gemini-2.5-pro"),
        ("GROQ_BASE_URL", "groq/openai/gpt-oss-120b"),
        ("MOONSHOT_BASE_URL", "moonshot/kimi-k2.6"),
        ("XAI_BASE_URL", "xai/grok-4.3"),
        ("BEDROCK_BASE_URL", "bedrock/anthropic.claude-opus-5-5"),
        ("VERTEX_BASE_URL", "vertex_ai/gemini-2.5-pro"),
        ("FOUNDRY_BASE_URL", "foundry/claude-opus-5-5"),
    ],
)
def test_a_mirror_of_a_vendor_has_its_prices_unless_it_may_be_any_server(variable: str, model: str) -> None:
    at_vendor = find(load_settings({"AWS_REGION": "us-east-1"}, PROVIDERS, env_file=None), model)
    assert at_vendor is not None or variable == "FOUNDRY_BASE_URL"
    found = find_at_setting(variable, MIRROR, model)
    assert found is not None
    assert found == (at_vendor or found)
    assert find_at_setting(variable, f"{MIRROR}/v1", f"{model.partition('/')[0]}/no-such-model") is None
    is_cloud = variable in ("BEDROCK_BASE_URL", "VERTEX_BASE_URL", "FOUNDRY_BASE_URL")
    assert find_at_setting(variable, NEAR, model) == (found if is_cloud else None)


@pytest.mark.parametrize(
    ("settings", "model", "factor"),
    [
        ({"OPENAI_BASE_URL": "https://eu.api.openai.com/v1"}, "openai/gpt-4.1", "1"),
        ({"OPENAI_BASE_URL": "https://US.api.openai.com:443/v1"}, "openai/gpt-5.3-codex", "1"),
        ({"OPENAI_BASE_URL": "https://eu.api.openai.com/v1"}, "openai/gpt-5.4", "1.1"),
        ({"OPENAI_BASE_URL": "https://jp.api.openai.com/v1"}, "openai/gpt-6-sol", "1.1"),
        ({"XAI_BASE_URL": "https://us.api.x.ai/v1"}, "xai/grok-4.3", "1.1"),
        ({"VERTEX_LOCATION": "global"}, "vertex_ai/claude-sonnet-4-5", "1"),
        ({"VERTEX_LOCATION": "europe-west1"}, "vertex_ai/claude-sonnet-4-5", "1.1"),
        ({"VERTEX_LOCATION": "eu"}, "vertex_ai/claude-haiku-4-5@20251001", "1.1"),
        ({"VERTEX_LOCATION": "us-east5"}, "vertex_ai/claude-opus-4-1@20250805", "1"),
        ({"VERTEX_LOCATION": "us-east5"}, "vertex_ai/gemini-2.5-pro", "1"),
        ({"VERTEX_LOCATION": "us-east5"}, "vertex_ai/gemini-4-neon", "1"),
    ],
)
def test_a_regional_address_of_a_vendor_has_its_prices_with_the_surcharge(
    settings: dict[str, str], model: str, factor: str
) -> None:
    prefix, _, name = model.partition("/")
    provider = known(PROVIDERS.find_by_prefix(prefix))
    usual = known(PriceList(Settings()).find_price_at_default_address(provider, name, TODAY))
    keys = {"OPENAI_API_KEY": "a", "XAI_API_KEY": "b", "VERTEX_PROJECT": "c"}
    price = known(PriceList(load_settings({**keys, **settings}, PROVIDERS, env_file=None)).find(provider, name, TODAY))
    assert price.base == usual.base.multiply(Decimal(factor))
    assert price.source == usual.source + (", with the 10% surcharge of a regional address" if factor != "1" else "")


def test_a_table_may_have_a_regional_address(tmp_path: Path) -> None:
    address = 'base_url = "https://eu.api.openai.com/v1"'
    for fields in (address, f'{address}\nprices = "openai"'):
        settings = load(tmp_path, f"[providers.openai-eu]\n{fields}\n")
        usual = known(find(Settings(), "openai/gpt-5.4"))
        assert find(settings, "openai-eu/gpt-5.4") == usual.multiply(Decimal("1.1"))
        assert find(settings, "openai-eu/gpt-4.1") == find(Settings(), "openai/gpt-4.1")


def test_another_address_of_openai_may_be_any_server() -> None:
    assert find_at_setting("OPENAI_BASE_URL", "https://eu.api.openai.com.example.org/v1", "openai/gpt-4.1") is None
    assert find_at_setting("OPENAI_BASE_URL", f"{MIRROR}/v1", "openai/gpt-4.1") is None
    assert find_at_setting("OPENAI_BASE_URL", f"{NEAR}/v1", "openai/gpt-4.1") is None
    assert find_at_setting("OPENAI_BASE_URL", "https://api.deepseek.com", "openai/gpt-4.1") is None
    assert find_at_setting("GROQ_BASE_URL", "https://api.together.xyz/v1", "groq/zai-org/GLM-5.3") == rates(
        "1.4", "0.26", "1.4", "4.4", "4.4"
    ), "the address names another vendor"


def test_a_table_with_the_name_of_a_vendor_has_its_prices_at_another_address(tmp_path: Path) -> None:
    def find_in_table(name: str, fields: str, model: str) -> Rates | None:
        return find(load(tmp_path, f"[providers.{name}]\n{fields}\n", {"X": "a-key"}), f"{name}/{model}")

    listed = find_in_table("deepseek", "", "deepseek-v4-pro")
    assert listed is not None
    assert find_in_table("deepseek", f'base_url = "{MIRROR}"', "deepseek-v4-pro") == listed
    assert find_in_table("other", f'base_url = "{MIRROR}"', "deepseek-v4-pro") is None
    assert find_in_table("other", f'base_url = "{MIRROR}"\nprices = "deepseek"', "deepseek-v4-pro") == listed
    assert find_in_table("deepseek", f'base_url = "{NEAR}"\napi_key = {{ env = "X" }}', "deepseek-v4-pro") is None
    assert find_in_table("deepseek", f'base_url = "{NEAR}"', "deepseek-v4-pro") == FREE.base
    assert find_in_table("deepseek", f'base_url = "{NEAR}"\nprices = "deepseek"', "deepseek-v4-pro") == listed


@pytest.mark.parametrize("address", [f"{MIRROR}/v1", f"{NEAR}/v1", "https://api.deepseek.com"])
@pytest.mark.parametrize(("table", "vendor"), [("openai", "openai"), ("mirror", "openai"), ("mirror", "anthropic")])
def test_the_table_of_a_provider_names_the_vendor_of_its_prices(
    tmp_path: Path, address: str, table: str, vendor: str
) -> None:
    model, title = {"openai": ("gpt-4.1", "OpenAI"), "anthropic": ("claude-opus-5-5", "Anthropic")}[vendor]
    text = f'[providers.{table}]\nprices = "{vendor}"\n'
    text += "" if table == "openai" else f'base_url = "{address}"\n'
    settings = load(tmp_path, text, {"OPENAI_BASE_URL": address} if table == "openai" else {})
    assert find(settings, f"{table}/{model}") == find(Settings(), f"{vendor}/{model}")
    provider = known(find_registry(settings).find_by_prefix(table))
    price = known(PriceList(settings).find(provider, model, TODAY))
    assert price.source == f"genai-prices {importlib.metadata.version('genai-prices')}, prices of {title}"
    assert find(settings, f"{table}/no-such-model") is None
    priced = load(tmp_path, f'{text}[prices."{table}/{model}"]\ninput = 7\noutput = 8\n')
    assert find(priced, f"{table}/{model}") == rates("7", "7", "7", "8", "8")


def test_another_address_of_a_vendor_has_its_prices_only_if_they_are_the_same() -> None:
    openai = PROVIDERS.find("openai")

    def find_at(address: str, model: str) -> Rates | None:
        settings = load_settings({"OPENAI_BASE_URL": address}, PROVIDERS, env_file=None)
        price = PriceList(settings).find(openai, model, TODAY)
        return None if price is None else price.base

    assert find_at("https://api.together.ai/v1", "zai-org/GLM-5.3") == rates("1.4", "0.26", "1.4", "4.4", "4.4")
    assert find_at("https://api.together.xyz/v1", "zai-org/GLM-5.3") == rates("1.4", "0.26", "1.4", "4.4", "4.4")
    assert find_at("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "qwen3.8-max") is not None
    assert find_at("https://dashscope.aliyuncs.com/compatible-mode/v1", "qwen3.8-max") is None
    assert find_at("https://token-plan-sgp.xiaomimimo.com/v1", "mimo-v2.6-pro") is None


SERVERS = {
    "openai": "https://api.openai.com/v1",
    "anthropic": ANTHROPIC,
    "google": GOOGLE,
    "x-ai": "https://api.x.ai/v1",
    "deepseek": "https://api.deepseek.com",
}
COUNTED = [
    TokenCounts(input_tokens=1_000, cache_read_tokens=5_000, output_tokens=700, thinking_tokens=300),
    TokenCounts(
        input_tokens=10, cache_read_tokens=100, cache_write_tokens=5_000, cache_write_1h_tokens=2_000, output_tokens=9
    ),
    TokenCounts(input_tokens=200_001, output_tokens=1),
    TokenCounts(input_tokens=100, cache_read_tokens=300_000, cache_write_tokens=300, output_tokens=50),
]
"""Requests with cache reads, both kinds of cache writes, thinking and long contexts."""


CONTEXTS: dict[str, Mapping[str, str] | None] = {
    "": None,
    "batch": {"processing": "batch"},
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "fast": {"service_tier": "fast", "speed": "fast"},
}
"""Service tier → conditions by which the package selects its prices."""
WITH_TIER = {
    "batch": {*SERVERS} - {"deepseek"},
    "flex": {"openai", "google"},
    "priority": {"openai", "google"},
    "fast": {"openai", "anthropic"},
}
"""Service tier → vendors with prices in this tier."""


@pytest.mark.parametrize("tier", CONTEXTS)
@pytest.mark.parametrize("vendor", SERVERS)
def test_costs_equal_those_of_the_package_for_each_model_of_a_vendor(vendor: str, tier: str) -> None:
    from genai_prices import Usage  # collecting the tests needs none of it
    from genai_prices.data_snapshot import get_snapshot

    snapshot, compared = get_snapshot(), 0
    context = CONTEXTS[tier]
    for model in next(each for each in snapshot.providers if each.id == vendor).models:
        for when in (TODAY, datetime(2026, 2, 1, 17, tzinfo=UTC)):
            price = find_price(SERVERS[vendor], model.id, when, tier=tier)
            for tokens in COUNTED if price is not None else ():
                usage = Usage(
                    input_tokens=tokens.all_input_tokens,
                    cache_read_tokens=tokens.cache_read_tokens,
                    cache_write_tokens=tokens.cache_write_tokens,
                    cache_write_1h_tokens=tokens.cache_write_1h_tokens,
                    output_tokens=tokens.output_tokens,
                    output_reasoning_tokens=tokens.thinking_tokens,
                    web_searches=0 if price is None or price.web_search is None else 3,
                )
                own = snapshot.calc(usage, model.id, None, SERVERS[vendor], when, context).total_price
                assert price is not None
                searches = price.calculate_search_cost(0 if price.web_search is None else 3)
                assert searches is not None
                assert abs(price.calculate_cost(tokens) + searches - own * NANO_DOLLARS) <= 1, model.id
                compared += 1
    assert compared > 3 if vendor in WITH_TIER.get(tier, SERVERS) else compared == 0


@pytest.mark.parametrize(
    ("base_url", "model", "tier"),
    [
        ("https://api.groq.com/openai/v1", "llama-3.3-70b-versatile", "flex"),
        ("https://api.openai.com/v1", "gpt-4.1", "scale"),
        (ANTHROPIC, "claude-opus-4-8", "priority"),
        ("https://x.openai.azure.com/openai", "gpt-4.1", "priority"),  # prices of OpenAI apply, but not its tiers
    ],
)
def test_a_tier_without_listed_prices_has_no_price(base_url: str, model: str, tier: str) -> None:
    assert find_price(base_url, model, TODAY) is not None
    assert find_price(base_url, model, TODAY, tier=tier) is None


def test_a_tier_has_no_price_before_its_listed_date() -> None:
    url, before = "https://api.openai.com/v1", datetime(2026, 10, 1, tzinfo=UTC)
    flex = find_price(url, "gpt-4.1", TODAY, tier="flex")
    assert find_price(url, "gpt-5", TODAY, tier="flex") is not None
    assert flex is None or flex.base.input < Decimal(2)
    assert find_price(url, "gpt-5", before, tier="flex") is None


OWN_TIERS = """
[prices."groq/*"]
input = 1
output = 2
web_search_per_1000 = 4.5
tiers.flex = { input = 0.5, output = 1, cache_read = 0.25, long_context = { above = 1000, input = 2 } }
tiers.Performance = { input = 3, output = 6 }
earlier = [{ until = 2026-06-30, input = 4, output = 8 }]

[prices."vllm/*"]
input = 0
output = 0

[providers.vllm]
base_url = "http://localhost:8000/v1"
"""


def test_brackets_in_the_pattern_of_a_price_are_text(tmp_path: Path) -> None:
    settings = load(tmp_path, '[prices."openai/own[ab]*"]\ninput = 1\noutput = 2\n')
    assert find(settings, "openai/OWN[ab]-2") == rates("1", "1", "1", "2", "2")
    assert find(settings, "openai/owna-2") is None


def test_own_prices_have_tiers_and_searches(tmp_path: Path) -> None:
    settings = load(tmp_path, OWN_TIERS)
    groq = known(find_registry(settings).find_by_prefix("groq"))
    prices, june = PriceList(settings), datetime(2026, 6, 1, tzinfo=UTC)
    found = {tier: prices.find(groq, "llama", TODAY, tier) for tier in ("", "flex", "performance", "batch")}
    assert found.pop("batch") is None
    priced = {tier: known(price) for tier, price in found.items()}
    assert {tier: price.base for tier, price in priced.items()} == {
        "": rates("1", "1", "1", "2", "2"),
        "flex": rates("0.5", "0.25", "0.5", "1", "1"),
        "performance": rates("3", "3", "3", "6", "6"),
    }
    assert [price.web_search for price in priced.values()] == [Decimal("4.5")] * 3
    assert priced["flex"].long_contexts == ((1_000, rates("2", "0.25", "0.5", "1", "1")),)
    assert priced["flex"].calculate_search_cost(3) == 13_500_000
    earlier = known(prices.find(groq, "llama", june))
    assert (earlier.calculate_search_cost(0), earlier.calculate_search_cost(1)) == (0, None)
    assert prices.find(groq, "llama", june, "flex") is None


DEPLOYMENTS = """
[providers.azure]
base_url = "https://mine.openai.azure.com/openai/v1"

[providers.azure.models]
"team-*" = { model_of = "gpt-4.1-mini" }
team-large = { model_of = "gpt-4.1" }
own = { model_of = "gpt-4.1" }

[prices."azure/own"]
input = 7
output = 8
"""


def test_a_deployment_has_the_price_of_its_model_unless_the_file_has_another(tmp_path: Path) -> None:
    settings = load(tmp_path, DEPLOYMENTS)
    address = "https://mine.openai.azure.com/openai/v1"
    small, large = (known(find_price(address, model, TODAY)).base for model in ("gpt-4.1-mini", "gpt-4.1"))
    assert small.input < large.input
    assert find(settings, "azure/team-small") == small
    assert find(settings, "azure/Team-Large") == large
    assert find(settings, "azure/own") == rates("7", "7", "7", "8", "8")
    assert find(settings, "azure/unknown") is None


def test_a_free_model_is_free_in_each_tier_but_its_searches_are_not(tmp_path: Path) -> None:
    settings = load(tmp_path, OWN_TIERS)
    found = []
    for prefix, model in (("vllm", "qwen"), ("ollama", "qwen3:8b")):
        provider = known(find_registry(settings).find_by_prefix(prefix))
        price = known(PriceList(settings).find(provider, model, TODAY, "priority"))
        found.append((price.calculate_cost(TokenCounts(input_tokens=1_000)), price.calculate_search_cost(2)))
    assert found == [(0, None), (0, 0)]


def test_the_list_has_windows_of_models_at_vendors_only() -> None:
    openai = PROVIDERS.find("openai")
    at_openrouter = Settings(base_urls={"openai": "https://openrouter.ai/api/v1"})
    at_home = Settings(base_urls={"openai": "http://localhost:8000/v1"})
    windows = [
        find_published_window(openai, model, settings)
        for model, settings in (
            ("google/gemini-2.5-pro", at_openrouter),
            ("acme/unknown", at_openrouter),
            ("google/gemini-2.5-pro", at_home),
        )
    ]
    assert windows == [1_048_576, None, None]


def test_the_list_of_a_server_precedes_the_package_and_follows_own_prices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PRICE_SOURCE, "listed", {})
    table = '[providers.router]\nbase_url = "https://openrouter.ai/api/v1"\n'
    own = '[prices."router/acme/own"]\ninput = 1\noutput = 2\n'
    settings = load(tmp_path, table + own)
    prices, router = PriceList(settings), find_registry(settings).find("router")
    names = ("acme/mystery", "acme/own", "google/gemini-2.5-pro")

    def read() -> list[Rates | None]:
        return [None if price is None else price.base for price in (prices.find(router, name, TODAY) for name in names)]

    before = read()
    assert before[0] is None
    server = "router openrouter.ai"
    listed = {(server, name): {"input": 0.5, "output": 4, "cache_read": 0.1} for name in names}
    PRICE_SOURCE.replace_listed({server}, listed)
    stated = rates("0.5", "0.1", "0.5", "4", "4")
    assert read() == [stated, before[1], stated]
    both, package = (
        known(one.find(router, names[2], TODAY)) for one in (prices, PriceList(settings, uses_server_lists=False))
    )
    assert (both.long_contexts, both.web_search) == (package.long_contexts, package.web_search), "the list has none"
    found = known(prices.find(router, "acme/mystery", TODAY))
    assert (found.source, prices.find(router, "acme/mystery", TODAY, "flex")) == ("model list of openrouter.ai", None)
    route = '[[routes]]\nname = "cheap"\nbalance = "cost"\ntargets = ["router/acme/mystery", "router/acme/own"]\n'
    routed = load(tmp_path, table + own + route)
    assert [*find_typical_request_prices(routed)] == ["router/acme/own"], "a later start would not know the list"
    PRICE_SOURCE.replace_listed({"other host"}, {("other host", "m"): {"input": 1, "output": 1}})
    assert read()[0] is not None
    PRICE_SOURCE.replace_listed({server}, {(server, "acme/newer"): {"input": 1, "output": 1}})
    assert read() == before, "the newest list of a server replaces the one before"
    PRICE_SOURCE.replace_listed({server}, listed)
    PRICE_SOURCE.replace_listed({server}, {})
    assert read() == before, "also one without prices"
    elsewhere = load(tmp_path, table.replace("openrouter.ai", "router.example"))
    assert PriceList(elsewhere).find(find_registry(elsewhere).find("router"), "acme/mystery", TODAY) is None
