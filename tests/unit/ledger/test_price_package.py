"""The data of `genai-prices`, which is read without the package: the package finds the same models and prices."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from genai_prices import data_snapshot

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.prices.package_data import find_data_file, find_model, list_prices, read_providers

TIMES = [datetime(2026, month, 3, hour, 30, tzinfo=UTC) for month in (2, 5, 8, 9, 11) for hour in (0, 3, 8, 12, 17, 23)]
TIERS = ("batch", "flex", "priority", "fast", "none")
CONTEXTS = [{}, *(dict.fromkeys(("service_tier", "speed", "processing"), tier) for tier in TIERS)]
NAMES = (
    "gpt-5.2-20251211",
    "gpt-5.2-20259911",
    "no-such-model",
    "CLAUDE-opus-4-5",
    "us.anthropic.claude-opus-4-5-v1:0",
)


def ask_package(base_url: str | None, model: str, when: datetime, context: Mapping[str, str]) -> dict[str, Any] | None:
    vendor = "litellm" if base_url is None else None
    try:
        provider, found = data_snapshot.get_snapshot().find_provider_model(model, None, vendor, base_url)
    except LookupError:
        return None
    if context and not (
        any(each is found for each in provider.models)
        and any(
            each.when.items() <= context.items() and (each.constraint is None or each.constraint.active(when))
            for each in found.price_variants or ()
        )
    ):
        return None
    prices = vars(found.get_prices(when, context))
    return {name: describe(price) for name, price in prices.items() if price is not None}


def describe(price: Any) -> object:
    return (price.base, [(tier.start, tier.price) for tier in price.tiers]) if hasattr(price, "tiers") else price


def list_models(base_url: str | None) -> list[str]:
    """Return all models with their vendor, or some of all vendors for a server."""
    providers = data_snapshot.get_snapshot().providers
    names = [(provider.id, model.id) for provider in providers for model in provider.models]
    if base_url is None:
        return [f"{vendor}/{name}" for vendor, name in names]
    return [*NAMES, *(name for _, name in names[::7])]


@pytest.mark.parametrize(
    "base_url", [None, *sorted({each.base_url for each in PROVIDERS if each.base_url.startswith("https")})]
)
def test_each_model_has_the_prices_that_the_package_finds(base_url: str | None) -> None:
    file = find_data_file()
    assert file is not None
    providers = read_providers(file)
    for number, model in enumerate(list_models(base_url)):
        found = find_model(providers, base_url, model)
        for context in CONTEXTS:
            when = TIMES[number % len(TIMES)]
            prices = None
            if found is not None and (found[1] or not context):
                prices = list_prices(found[0], when, context)
            got = None if prices is None else {name: describe(price) for name, price in prices.items()}
            assert got == ask_package(base_url, model, when, context), (model, when, context)


def test_a_file_of_another_form_is_read_by_the_package(tmp_path: Path) -> None:
    file = tmp_path / "data.py"
    file.write_text("from .parts import providers\n")
    assert read_providers(file) is data_snapshot.get_snapshot().providers
