"""Fields of the prices of a model, for the tables `[prices]` of the configuration file and the facts about models."""

from collections.abc import Iterator
from datetime import date
from typing import Annotated

from msgspec import Meta, Struct

from anthropic_proxy.engine.options import TokenCount
from anthropic_proxy.engine.service_tiers import normalize_region, normalize_service_tier

MAX_DOLLARS = 1_000_000
Dollars = Annotated[float, Meta(ge=0, le=MAX_DOLLARS)]
"""Type of a price field: US dollars per million tokens, or per thousand calls or searches."""
RegionFactor = Annotated[float, Meta(ge=0, le=10)]


class LongContextPrice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices of requests with many input tokens. Fields that are not set keep the normal price of the model."""

    above: TokenCount
    """Number of input tokens, cached ones included. For requests with more, these prices apply to all tokens."""
    input: Dollars | None = None
    """US dollars per million input tokens."""
    output: Dollars | None = None
    """US dollars per million output tokens."""
    cache_read: Dollars | None = None
    """US dollars per million input tokens read from the cache of the provider."""
    cache_write: Dollars | None = None
    """US dollars per million input tokens written to the cache of the provider."""
    cache_write_1h: Dollars | None = None
    """US dollars per million input tokens written to the cache for one hour."""


class TokenPriceFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices of each kind of token in US dollars per million tokens."""

    input: Dollars
    """US dollars per million input tokens. 0 for a free model."""
    output: Dollars
    """US dollars per million output tokens, thinking included."""
    cache_read: Dollars | None = None
    """US dollars per million input tokens read from the cache of the provider. By default the price of input."""
    cache_write: Dollars | None = None
    """US dollars per million input tokens written to the cache of the provider. By default the price of input."""
    cache_write_1h: Dollars | None = None
    """US dollars per million input tokens written to the cache for one hour. By default the price of cache_write."""
    long_context: LongContextPrice | None = None
    """Prices of requests with many input tokens. By default the normal prices."""


class PriceFields(TokenPriceFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices of a model: tokens, web searches by the provider, and tokens in other service tiers."""

    web_search_per_1000: Dollars | None = None
    """US dollars per 1,000 web searches that the provider runs. By default unknown. Searches of the proxy are free."""
    request_per_1000: Dollars = 0
    """US dollars per 1,000 calls, in addition to their tokens."""
    regions: dict[str, RegionFactor] = {}
    """Factor of the prices of tokens by region as the reply names it: `us`. By default 1.1 for `us`, else unknown."""
    tiers: dict[str, TokenPriceFields] = {}
    """Prices of tokens by service tier as the provider reports it: `flex`, `priority`. By default unknown."""

    def find_names_of_no_reply(self) -> Iterator[tuple[str, str]]:
        """Yield field and name of each tier and region that stands for the normal prices."""
        yield from (("tiers", name) for name in self.tiers if not normalize_service_tier(name))
        yield from (("regions", name) for name in self.regions if not normalize_region(name))


class EarlierPrice(PriceFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices that a model had in the past."""

    until: date
    """Last day with these prices, in UTC: `2026-10-31`."""


class PriceTable(PriceFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Own prices of a model, instead of those of the package `genai-prices`."""

    earlier: list[EarlierPrice] = []
    """Prices that were valid in the past, for the costs of requests of that time."""
