"""Prices of models at providers, from the user's settings or from the PyPI package `genai-prices`.

Prices in `anthropic-proxy.toml` take precedence, and local models are free.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cached_property
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct
from msgspec.structs import astuple

from anthropic_proxy.engine.providers import Provider
from anthropic_proxy.engine.providers.servers import find_base_url
from anthropic_proxy.gateway.money import NANO_DOLLARS
from anthropic_proxy.gateway.prices.updates import LoadedPrices, find_price_source
from anthropic_proxy.gateway.settings import ConfiguredPrice, Settings, TokenPriceFields, normalize_service_tier

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, TieredPrices

_NANO_DOLLARS_PER_MICRO_DOLLAR = 1_000
_CLOUD_ADDRESS = "//ollama.com"
"""Address of Ollama's paid servers, to which a local Ollama can forward requests."""
_LITELLM = "litellm:"
_TIER_KEYS = ("service_tier", "speed", "processing")
"""Conditions of prices in `genai-prices` that are service tiers: OpenAI's `service_tier`, Anthropic's `speed: fast`,
and `processing: batch`."""
CONSTANT_SECONDS = 900
"""Period in seconds in which a price is constant, because some prices depend on the time of day."""
MAX_CACHED_PRICES = 1_000


class TokenCountFields(Protocol):
    """Numbers of tokens by kind, as the Messages API counts them: also a receipt, and one call to a provider."""

    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    thinking_tokens: int


def count_input_tokens(source: TokenCountFields) -> int:
    """Cached tokens are included."""
    return source.input_tokens + source.cache_read_tokens + source.cache_write_tokens


class TokenCounts(Struct):
    input_tokens: int = 0
    """Number of input tokens that are neither read from nor written to a cache."""
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    """Number of tokens among the cache writes that the provider keeps for one hour, at a higher price."""
    output_tokens: int = 0
    """Number of output tokens, including tokens of thinking."""
    thinking_tokens: int = 0

    @property
    def all_input_tokens(self) -> int:
        return count_input_tokens(self)

    @property
    def all_tokens(self) -> int:
        return self.all_input_tokens + self.output_tokens

    def divide_by_kind(self) -> dict[str, int]:
        """Kinds of tokens that have their own price, in the order of a stacked chart from bottom to top."""
        thinking = min(self.thinking_tokens, self.output_tokens)
        return {
            "cache_read": self.cache_read_tokens,
            "cache_write": self.cache_write_tokens,
            "input": self.input_tokens,
            "output": self.output_tokens - thinking,
            "thinking": thinking,
        }


class Rates(Struct, frozen=True, dict=True):
    """Prices of each kind of token in US dollars per million tokens."""

    input: Decimal
    cache_read: Decimal
    cache_write: Decimal
    output: Decimal
    thinking: Decimal
    cache_write_1h: Decimal

    @cached_property
    def integer_ratios(self) -> tuple[tuple[int, ...], int]:
        """The first item has the numerators in the order of the fields, the second item is the denominator."""
        ratios = [each.as_integer_ratio() for each in astuple(self)]
        scale = lcm(*(denominator for _, denominator in ratios))
        return tuple(numerator * (scale // denominator) for numerator, denominator in ratios), scale


class Price(Struct, frozen=True, kw_only=True):
    base: Rates
    long_contexts: tuple[tuple[int, Rates], ...] = ()
    """Pairs (number of input tokens, prices of requests with more input tokens), in ascending order."""
    web_search: Decimal | None = None
    """Price of 1,000 web searches by the provider, in US dollars. None: unknown."""
    source: str = ""
    """Origin of the price: a price list such as `genai-prices 0.2.3`, `anthropic-proxy.toml line 12`, or `local`."""

    def calculate_search_cost(self, searches: int) -> int | None:
        """Return the cost of web searches by the provider, in nano-dollars. None: their price is unknown."""
        if not searches:
            return 0
        return None if self.web_search is None else round(searches * self.web_search * (NANO_DOLLARS // 1_000))

    @property
    def is_free(self) -> bool:
        every = [self.base, *(rates for _, rates in self.long_contexts)]
        return not any(getattr(rates, name) for rates in every for name in Rates.__struct_fields__)

    def calculate_cost(self, tokens: TokenCountFields) -> int:
        """Nano-dollars."""
        rates = self.base
        if self.long_contexts:
            context = count_input_tokens(tokens)
            for above, surcharged in self.long_contexts:
                if context > above:
                    rates = surcharged
        (plain, read, written, output, thinking, kept), scale = rates.integer_ratios
        thoughts = min(tokens.thinking_tokens, tokens.output_tokens)
        long = min(tokens.cache_write_1h_tokens, tokens.cache_write_tokens)
        scaled = _NANO_DOLLARS_PER_MICRO_DOLLAR * (
            tokens.input_tokens * plain
            + tokens.cache_read_tokens * read
            + (tokens.cache_write_tokens - long) * written
            + long * kept
            + (tokens.output_tokens - thoughts) * output
            + thoughts * thinking
        )
        return (2 * scaled + scale) // (2 * scale)  # rounded half up

    def calculate_max_cost(self, max_input_tokens: int, max_output_tokens: int) -> int:
        """Nano-dollars, if each token is of the most expensive kind. Web searches are not included."""
        if self.is_free:
            return 0
        most = max_input_tokens
        inputs = ((most, 0, 0, 0), (0, most, 0, 0), (0, 0, most, 0), (0, 0, most, most))
        return max(
            1,
            *(
                self.calculate_cost(TokenCounts(*kinds, max_output_tokens, thinking))
                for kinds in inputs
                for thinking in (0, max_output_tokens)
            ),
        )


FREE = Price(base=Rates(*[Decimal(0)] * 6), web_search=Decimal(0), source="local")
"""Price of models that run on a machine of the user, and of the demo provider: 0 for every kind of token."""


def find_price(
    base_url: str,
    model: str,
    when: datetime | None = None,
    *,
    tier: str = "",
    directory: Path | None = None,
) -> Price | None:
    """None: unknown, or `genai-prices` is not installed. `when` None: now. `directory` may contain a newer list."""
    # without `directory`, a newer list of the user is not found
    data = find_price_source(directory).load()
    if data is None:
        return None
    try:
        provider, found = data.snapshot.find_provider_model(
            model, None, *(("litellm", None) if base_url == _LITELLM else (None, base_url))
        )
    except LookupError:
        return None
    when = when or datetime.now(UTC)
    if not tier:
        return _convert(found.get_prices(when), data.source)
    context = dict.fromkeys(_TIER_KEYS, tier)
    if not any(found is each for each in provider.models) or not any(
        variant.when.items() <= context.items() and (variant.constraint is None or variant.constraint.active(when))
        for variant in found.price_variants or ()
    ):
        return None  # another provider of the same model may have other tiers
    return _convert(found.get_prices(when, context), data.source)


def _find_own_table(prices: Sequence[ConfiguredPrice], model: str) -> ConfiguredPrice | None:
    """An exact name takes precedence over patterns, and a later pattern over an earlier one."""
    name, found = model.lower(), None
    for each in prices:
        if each.pattern.lower() == name:
            return each
        if fnmatchcase(name, each.pattern.lower()):
            found = each
    return found


class PriceList:
    """Results are cached until another price list is loaded."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._source = find_price_source(settings.data_directory)
        self._data: LoadedPrices | None = None
        self._found: dict[tuple[str, str, int, str], Price | None] = {}

    def find(self, provider: Provider, model: str, when: datetime | None = None, tier: str = "") -> Price | None:
        """None: unknown. `when` None: now."""
        base_url = find_base_url(provider, next(iter(provider.wires.values())), self._settings)
        return self._find_cached(provider, model, base_url, when or datetime.now(UTC), tier)

    def find_price_at_default_address(self, vendor: Provider, model: str, when: datetime) -> Price | None:
        """The list price of the vendor, even if the settings have another base URL. None: unknown."""
        return self._find_cached(vendor, model, vendor.base_url, when)

    def _find_cached(
        self, provider: Provider, model: str, base_url: str, when: datetime, tier: str = ""
    ) -> Price | None:
        if self._source.current is not self._data:
            self._data = self._source.current
            self._found.clear()
        key = (base_url, f"{provider.prefix}/{model}", int(when.timestamp()) // CONSTANT_SECONDS, tier)
        if key not in self._found:
            if len(self._found) >= MAX_CACHED_PRICES:
                self._found.clear()
            self._found[key] = self._find(provider, model, base_url, when, tier)
        return self._found[key]

    def _find(self, provider: Provider, model: str, base_url: str, when: datetime, tier: str) -> Price | None:
        own = _find_own_table(self._settings.prices, f"{provider.prefix}/{model}")
        if own is not None:
            earlier = [past for past in own.table.earlier if when.astimezone(UTC).date() <= past.until]
            table = min(earlier, key=lambda past: past.until) if earlier else own.table
            price = _convert_table(table, table.web_search_per_1000, own.origin)
            if not tier or price.is_free:
                return price
            rates = next((rates for name, rates in table.tiers.items() if normalize_service_tier(name) == tier), None)
            return None if rates is None else _convert_table(rates, table.web_search_per_1000, own.origin)
        is_cloud = model.rpartition(":")[2].endswith("cloud") or _CLOUD_ADDRESS in base_url
        if provider.transport == "demo" or (provider.uses_installed_models and not is_cloud):
            return FREE
        name = provider.find_known_name(model)
        return find_price(base_url, name, when, tier=tier, directory=self._settings.data_directory)


def _convert_table(table: TokenPriceFields, web_search: float | None, origin: str) -> Price:
    amounts = [table.input, table.cache_read, table.cache_write, table.output]
    cached = [table.input if amount is None else amount for amount in amounts]
    long = cached[2] if table.cache_write_1h is None else table.cache_write_1h
    base = Rates(*(Decimal(str(amount)) for amount in (*cached, table.output, long)))
    longer, search = table.long_context, None if web_search is None else Decimal(str(web_search))
    if longer is None:
        return Price(base=base, web_search=search, source=origin)
    own = (longer.input, longer.cache_read, longer.cache_write, longer.output, longer.output, longer.cache_write_1h)
    names = Rates.__struct_fields__
    surcharged = Rates(
        *(
            getattr(base, name) if amount is None else Decimal(str(amount))
            for name, amount in zip(names, own, strict=True)
        )
    )
    return Price(base=base, long_contexts=((longer.above, surcharged),), web_search=search, source=origin)


def _convert(found: "ModelPrice", source: str) -> Price | None:
    """None: the package lacks the price of input or of output tokens."""
    from genai_prices import types  # noqa: PLC0415

    incoming, outgoing = found.input_mtok, found.output_mtok
    if incoming is None or outgoing is None:
        return None
    written = next((rate for rate in (found.cache_write_5m_mtok, found.cache_write_mtok) if rate is not None), incoming)
    kinds = (
        incoming,
        incoming if found.cache_read_mtok is None else found.cache_read_mtok,
        written,
        outgoing,
        outgoing if found.output_reasoning_mtok is None else found.output_reasoning_mtok,
        written if found.cache_write_1h_mtok is None else found.cache_write_1h_mtok,
    )
    starts = sorted({tier.start for kind in kinds if isinstance(kind, types.TieredPrices) for tier in kind.tiers})
    longer = tuple((start, Rates(*(_find_rate(kind, start) for kind in kinds))) for start in starts)
    base, searches = Rates(*(_find_rate(kind, -1) for kind in kinds)), found.web_searches_kcount
    search = None if searches is None else _find_rate(searches, -1)
    return Price(base=base, long_contexts=longer, web_search=search, source=source)


def _find_rate(price: "Decimal | TieredPrices", start: int) -> Decimal:
    """`price` may have tiers by number of input tokens. A `start` of -1 selects the lowest tier."""
    if isinstance(price, Decimal):
        return price
    reached = [tier.price for tier in sorted(price.tiers, key=lambda tier: tier.start) if tier.start <= start]
    return reached[-1] if reached else price.base
