"""Decoding of a price list of the project `genai-prices`, and its check before its use.

A list is rejected as a whole if a price is invalid, a field is unknown, or it is much smaller than the list in the
installed package. The other modules load
`genai-prices` later or never: it is optional, and needs half a second.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from decimal import Decimal
from typing import Any

import msgspec
from genai_prices import types
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import _providers_from_raw

from anthropic_proxy.gateway.prices.updates import MAX_PRICE_BYTES, InvalidPrices

MAX_DOLLARS = Decimal(1_000_000)
MIN_SHARE = 0.5
"""Minimum number of providers, and of models, as a share (0 to 1) of those in the package."""
_MODELS_PER_CALL = 40
"""Number of models that are decoded at once. Between two calls, other threads can run."""
_PRICED = types.ModelPrice()


def decode_providers(content: bytes) -> list[types.Provider]:
    """`content`: JSON array, as `genai-prices` publishes it. Raises `InvalidPrices`."""
    if len(content) > MAX_PRICE_BYTES:
        raise InvalidPrices(f"it has more than {MAX_PRICE_BYTES >> 20} MB")
    try:
        raw = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidPrices("it is no JSON, or is incomplete") from None
    if not isinstance(raw, list) or not all(isinstance(each, dict) for each in raw):
        raise InvalidPrices("it is no list of providers")
    providers = [_decode_provider(each) for each in raw]
    packaged = get_snapshot().providers
    found, expected = ((len(each), sum(len(provider.models) for provider in each)) for each in (providers, packaged))
    if any(count < MIN_SHARE * known for count, known in zip(found, expected, strict=True)):
        raise InvalidPrices(
            f"it has {found[1]:,} models of {found[0]} providers, the installed package has {expected[1]:,} of "
            f"{expected[0]}"
        )
    for provider in providers:
        for model in provider.models:
            name = f"{provider.id}/{model.id}"
            listed = (
                [model.prices] if isinstance(model.prices, types.ModelPrice) else [one.prices for one in model.prices]
            )
            if not listed:
                raise InvalidPrices(f"{name} has an empty list of prices")
            for prices in (*listed, *(variant.prices for variant in model.price_variants or ())):
                for key, value in vars(prices).items():
                    for amount in _list_amounts(value):
                        if not (isinstance(amount, Decimal) and amount.is_finite() and 0 <= amount <= MAX_DOLLARS):
                            raise InvalidPrices(f"{name} has the price {amount} for {key}")
    return providers


def _decode_provider(raw: Mapping[str, Any]) -> types.Provider:
    name = str(raw.get("id"))
    models = raw.get("models", [])
    if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
        raise InvalidPrices(f"{name} has no list of models")
    try:
        if (unknown := next(_find_unknown_fields(raw), None)) is not None:
            raise InvalidPrices(
                f"its format is newer than the installed package, which does not know the field {unknown}; "
                "upgrade the package with  python -m pip install --upgrade genai-prices"
            )
        shell = {key: value for key, value in raw.items() if key != "extractors"}  # these read usage, not prices
        (provider,) = _providers_from_raw([{**shell, "models": []}])
        for start in range(0, len(models), _MODELS_PER_CALL):
            (fragment,) = _providers_from_raw([{**shell, "models": models[start : start + _MODELS_PER_CALL]}])
            provider.models.extend(fragment.models)
        re.compile(provider.api_pattern)
    except (ValueError, TypeError, re.error) as error:
        # the first finding, such as `models.0.prices: Field required`
        lines = [line.strip() for line in str(error).splitlines()]
        text = ": ".join(lines[1:3]) if len(lines) > 2 else lines[0] if lines else type(error).__name__
        raise InvalidPrices(f"the entry of {name} is not valid ({text.partition(' [type=')[0]})") from None
    return provider


def _list_amounts(value: object) -> list[object]:
    if isinstance(value, types.TieredPrices):
        return [value.base, *(tier.price for tier in value.tiers)]
    return [] if value is None else [value]


def _find_unknown_fields(provider: Mapping[str, Any]) -> Iterator[str]:
    # the package ignores unknown fields, although they may change the meaning of a price
    yield from _name_unknown("", provider, types.Provider)
    for model in provider.get("models", ()):
        yield from _name_unknown("models.", model, types.ModelInfo)
        prices = model.get("prices")
        conditional = prices if isinstance(prices, list) else []
        variants = model.get("price_variants") or []
        for one in (*conditional, *variants):
            if isinstance(one, dict):
                yield from _name_unknown("models.prices.", one, types.ConditionalPrice, types.PriceVariant)
                constraint = one.get("constraint")
                if isinstance(constraint, dict):
                    kinds = (types.StartDateConstraint, types.TimeOfDateConstraint)
                    yield from _name_unknown("models.prices.constraint.", constraint, *kinds)
        for table in (prices, *(one.get("prices") for one in (*conditional, *variants) if isinstance(one, dict))):
            if isinstance(table, dict):
                yield from _find_unknown_prices(table)


def _find_unknown_prices(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        if not hasattr(_PRICED, key):
            yield f"models.prices.{key}"
        if isinstance(value, dict):
            yield from _name_unknown(f"models.prices.{key}.", value, types.TieredPrices)
            for tier in value.get("tiers", ()):
                if isinstance(tier, dict):
                    yield from _name_unknown(f"models.prices.{key}.tiers.", tier, types.Tier)


def _name_unknown(place: str, raw: Mapping[str, Any], *known: Any) -> Iterator[str]:
    names = {field.name for kind in known for field in fields(kind)}
    yield from (f"{place}{key}" for key in raw if key not in names)
