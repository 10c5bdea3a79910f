"""The file with facts about models: what it may say, and what changes when another one replaces it."""

import re
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from anthropic_proxy.console.dashboard.settings import propose_change
from anthropic_proxy.engine.messages.deltas import TokenCounts
from anthropic_proxy.engine.providers import PROVIDERS, find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.model_facts import (
    FACTS,
    FactsFile,
    find_table_capabilities,
    load_built_in_facts,
)
from anthropic_proxy.errors import ConfigurationError, InvalidRequest
from anthropic_proxy.gateway.prices.price_list import PriceList
from anthropic_proxy.gateway.services import open_services
from anthropic_proxy.gateway.settings import PriceTable, Settings, load_settings
from tests.support.model_facts import restored_facts, write_facts
from tests.support.tables import in_one_test

HEAD = "format = 1\ndate = 2027-01-15\n"
ROW = '[x]\nmodels = [\n    { starts = ["m"], source = "s", read = "2026-11", %s },\n]\n'
PRICES = '[x.prices]\nsource = "s"\nread = "2026-11"\n'
TRAITS = '[x]\ntraits = [\n    { ids = "m*", source = "s", read = "2026-11", %s },\n]\n'
GROK_1 = '{ starts = ["grok-1"], context_window = 8_192, max_output = 8_192'


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    with restored_facts():
        yield


@in_one_test
@pytest.mark.parametrize(
    ("text", "error"),
    [
        (ROW % 'base_url = "https://example.org"', "[x]: Object contains unknown field `base_url` - at `$.models[0]`"),
        ('[x]\nbase_url = "https://example.org"\n', "[x]: Object contains unknown field `base_url`"),
        ('[x]\n[x.provider]\nkey_variable = "A"\n', "[x]: Object contains unknown field `provider`"),
        ('[x]\nheaders = { "x-api-key" = "k" }\n', "[x]: Object contains unknown field `headers`"),
        (TRAITS % "sends_store = true", "[x]: Object contains unknown field `sends_store` - at `$.traits[0]`"),
        (TRAITS % "body = { store = true }", "[x]: Object contains unknown field `body` - at `$.traits[0]`"),
        (TRAITS % 'thinking_forms = ["else"]', "[x]: Invalid enum value 'else' - at `$.traits[0].thinking_forms[0]`"),
        (ROW % 'efforts = ["extreme"]', "[x]: Invalid enum value 'extreme' - at `$.models[0].efforts[0]`"),
        (ROW % "context_window = 0", "[x]: Expected `int` >= 1 - at `$.models[0].context_window`"),
        (ROW % 'tools = "no"', "[x]: Expected `bool`, got `str` - at `$.models[0].tools`"),
        (
            "[x]\n" + PRICES + 'models."m" = { input = -1, output = 1 }\n',
            "[x]: Expected `float` >= 0.0 - at `$.prices.models[...].input`",
        ),
        (
            "[x]\n" + PRICES + 'models."m" = { input = 1 }\n',
            "[x]: Object missing required field `output` - at `$.prices.models[...]`",
        ),
        ('[x]\nlike = "y"\n', "[x]: like is 'y', and must be the name of a table without this field"),
        ('[x]\nlike = "x"\n', "[x]: like is 'x', and must be the name of a table without this field"),
        ("[x]\nmodels = [\n", "[x]: Invalid value"),
        ('[x]\n[y.prices]\nsource = "s"\n', "[x]: a part of another table stands here"),
    ],
)
def test_a_file_says_nothing_but_facts_about_models(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=r"^\[x") as raised:
        FactsFile(HEAD + text).require_valid()
    assert str(raised.value).startswith(error)


@in_one_test
@pytest.mark.parametrize(
    ("head", "error"),
    [
        ("format = 2\ndate = 2027-01-15\n", "its format is 2, and this release reads format 1"),
        ("date = 2027-01-15\n", "Object missing required field `format`"),
        ('format = 1\ndate = "soon"\n', "Invalid RFC 3339 date - at `$.date`".replace("RFC 3339", "RFC3339 encoded")),
        (HEAD + 'address = "https://example.org"\n', "Object contains unknown field `address`"),
        ("format = \n", "Invalid value (at line 1, column 10)"),
    ],
)
def test_a_file_states_its_format_and_its_date(head: str, error: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        FactsFile(head).require_valid()
    assert str(raised.value) == error


def test_the_facts_of_the_release_are_valid() -> None:
    load_built_in_facts().require_valid()
    assert load_built_in_facts().origin == ""


def test_other_facts_change_limits_retirements_capabilities_and_prices_only() -> None:
    def describe_addresses() -> list[object]:
        return [
            (row.name, row.base_url, row.key_variable, row.wire_rules, row.known_models, row.default_big_model)
            for row in find_registry(settings)
        ]

    settings = load_settings({"OPENAI_API_KEY": "k"}, PROVIDERS, env_file=None)
    prices, xai, anthropic = PriceList(settings), PROVIDERS.find("xai"), PROVIDERS.find("anthropic")
    addresses, dialect = describe_addresses(), anthropic.wires["messages"].dialect
    catalog = Catalog()
    assert catalog.cached_capabilities("xai", "grok-1").context_window == 8_192
    assert prices.find(PROVIDERS.find("openai"), "gpt-6.2-astra") is not None
    FACTS.replace(
        FactsFile(
            write_facts(
                (GROK_1, '{ starts = ["grok-1"], context_window = 9_000, max_output = 8_192'),
                ('["2026-02-06", "kimi-k2.7-code", ["qwen3-coder"]]', '["2027-02-06", "kimi-k3", ["qwen3-coder"]]'),
                ('models."gpt-6.2-astra" = { input = 8,', 'models."gpt-6.2-astra" = { input = 6,'),
                (
                    '{ ids = "*claude-2* *claude-3[-.][!7]*", thinking_forms = ["disabled"]',
                    '{ ids = "*claude-2* *claude-3[-.][!7]*", thinking_forms = ["enabled"]',
                ),
            ),
            "~/facts.toml",
        )
    )
    assert find_table_capabilities("xai", "grok-1").context_window == 9_000
    catalog.follow_facts()
    assert catalog.cached_capabilities("xai", "grok-1").context_window == 9_000
    rules = [rule for rule in anthropic.wires["messages"].model_rules if rule.pattern == "*claude-2*"]
    assert [rule.dialect_fields for rule in rules if "thinking_forms" in rule.dialect_fields] == [
        {"thinking_forms": ("enabled",)}
    ]
    opencode = PROVIDERS.find("openai").hosts.find_named("opencode")
    assert opencode is not None
    assert opencode.retired_models["qwen3-coder"].successor == "kimi-k3"
    price = PriceList(structs.replace(settings, facts=FACTS.file)).find(PROVIDERS.find("openai"), "gpt-6.2-astra")
    assert price is not None
    assert (str(price.base.input), price.source) == (
        "6.0",
        "OpenAI, 2026-11-28, facts of 15 Jan 2027 in ~/facts.toml",
    )
    assert (describe_addresses(), anthropic.wires["messages"].dialect) == (addresses, dialect)
    assert find_registry(settings).find("xai").base_url == xai.base_url


@in_one_test
@pytest.mark.parametrize(
    "name", ["..", ".", "../x", "a/..", "a/../b", "/a", "a//b", "a/", "a b", "a?b", "a#b", "a%2fb", "a\\b", "a\n", ""]
)
def test_a_model_cannot_have_a_name_that_leads_elsewhere_in_an_address(name: str) -> None:
    text = msgspec.json.encode(name).decode()
    retired = f'[x]\n[[x.retired]]\nsource = "s"\nread = "2026-11"\nends = [\n["2026-11-01", {text}, ["m"]]\n]\n'
    with pytest.raises(ValueError, match=r"^\[x\]: Expected `str`"):
        FactsFile(HEAD + retired).require_valid()


def test_prices_of_facts_have_the_effect_of_own_prices() -> None:
    fields = (
        "input = 2, output = 10, request_per_1000 = 5, web_search_per_1000 = 3, regions = { EU = 1.5 }, "
        "tiers = { flex = { input = 1, output = 5 } }"
    )
    own = Settings(
        prices={"openai/gpt-6.2-astra": msgspec.convert(tomllib.loads(f"x = {{ {fields} }}")["x"], PriceTable)}
    )
    text = re.sub(r'models\."gpt-6\.2-astra" = .*', f'models."gpt-6.2-astra" = {{ {fields} }}', write_facts())
    known = Settings(facts=FactsFile(text))
    openai, tokens = PROVIDERS.find("openai"), TokenCounts(input_tokens=1_000_000)
    found = []
    for settings in (own, known):
        costs = []
        for tier, region in [
            ("", ""),
            ("flex", ""),
            ("", "eu"),
            ("flex", "eu"),
            ("", "us"),
            ("priority", ""),
            ("", "asia"),
        ]:
            price = PriceList(settings).find(openai, "gpt-6.2-astra", tier=tier, region=region)
            costs.append(None if price is None else (price.calculate_cost(tokens), price.calculate_search_cost(1_000)))
        found.append(costs)
    assert found[0] == found[1]
    search = 3_000_000_000
    assert found[0] == [
        (2_005_000_000, search),
        (1_005_000_000, search),
        (3_005_000_000, search),
        (1_505_000_000, search),
        (2_205_000_000, search),
        None,
        None,
    ]


@in_one_test
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ("input = inf, output = 1", "[x]: Expected `float` <= 1000000.0 - at `$.prices.models[...].input`"),
        ("input = nan, output = 1", "[x]: Expected `float` >= 0.0 - at `$.prices.models[...].input`"),
        ("input = 1e300, output = 1", "[x]: Expected `float` <= 1000000.0 - at `$.prices.models[...].input`"),
        (
            "input = 1, output = 1, request_per_1000 = inf",
            "[x]: Expected `float` <= 1000000.0 - at `$.prices.models[...].request_per_1000`",
        ),
        (
            "input = 1, output = 1, regions = { us = 1e300 }",
            "[x]: Expected `float` <= 10.0 - at `$.prices.models[...].regions[...]`",
        ),
        (
            "input = 1, output = 1, tiers = { flex = { input = 1, output = -0.5 } }",
            "[x]: Expected `float` >= 0.0 - at `$.prices.models[...].tiers[...].output`",
        ),
        (
            "input = 1, output = 1, tiers = { standard = { input = 1, output = 1 } }",
            'x.prices.models."m".tiers has "standard", whose prices are the fields of the table itself',
        ),
        (
            "input = 1, output = 1, regions = { global = 2 }",
            'x.prices.models."m".regions has "global", whose prices are the fields of the table itself',
        ),
    ],
)
def test_a_price_that_is_no_amount_is_refused(fields: str, error: str) -> None:
    with pytest.raises(ValueError, match=r"x") as raised:
        FactsFile(HEAD + "[x]\n" + PRICES + f'models."m" = {{ {fields} }}\n').require_valid()
    assert str(raised.value) == error


async def test_settings_that_are_only_checked_change_no_fact(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("")
    facts = FactsFile(write_facts((GROK_1, '{ starts = ["grok-1"], context_window = 9_000, max_output = 8_192')))
    running = await open_services(Settings(facts=facts, env_file=str(env_file)))
    for draft in ("", "[xai]\n"):
        with suppress(ConfigurationError):
            load_settings({"HOME": str(tmp_path)}, PROVIDERS, env_file=str(env_file), config_draft=draft)
        assert FACTS.file is facts
        assert find_table_capabilities("xai", "grok-1").context_window == 9_000
    with pytest.raises(InvalidRequest):
        propose_change(running.settings, running.catalog, "MAX_UPSTREAM_CALLS", "none")
    propose_change(running.settings, running.catalog, "MAX_UPSTREAM_CALLS", "7")
    assert find_table_capabilities("xai", "grok-1").context_window == 9_000
    await running.close()
