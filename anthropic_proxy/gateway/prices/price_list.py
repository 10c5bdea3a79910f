"""Prices of models at providers, from the user's settings, the PyPI package `genai-prices`, the facts about
models (`models.toml`), or the model list of a server.

Prices in `anthropic-proxy.toml` take precedence. Models of Ollama, and of a server without a key on this machine or in
its network, are free. The model list of a server, which is newer, precedes the package; `models.toml` has prices of
vendors that the package does not know. Anyone may run a server, so its list must be similar to the published price, if
there is one, and without one no budget counts it (`Price.is_unconfirmed`). The package is optional, and its data needs
3 MiB, so it is loaded at the first search for a price.
"""

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache, cached_property
from math import gcd, lcm
from types import ModuleType
from typing import Any, cast
from urllib.parse import urlsplit

from msgspec import Struct, convert, structs
from msgspec.structs import astuple

from anthropic_proxy.engine.bounded import BoundedDict
from anthropic_proxy.engine.json_decoding import decode_json
from anthropic_proxy.engine.messages.deltas import TokenCounts
from anthropic_proxy.engine.options import ConfiguredRoute, format_origin_in_sentence, matches_model
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.providers import PROVIDERS, Host, Provider
from anthropic_proxy.engine.providers.catalog import Catalog, ListedPrices
from anthropic_proxy.engine.providers.hosts import (
    LOCAL_HOST,
    UNKNOWN_HOSTS,
    build_server_name,
    find_base_url,
    find_netloc,
    has_own_models,
    is_own_server,
    resolve_host,
)
from anthropic_proxy.engine.providers.lookup import find_price_vendor
from anthropic_proxy.engine.providers.model_facts import FactsFile
from anthropic_proxy.engine.providers.price_fields import MAX_DOLLARS
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.engine.service_tiers import normalize_region, normalize_service_tier
from anthropic_proxy.errors import ClientError, ConfigurationError, build_extra_install_command
from anthropic_proxy.gateway.money import NANO_DOLLARS
from anthropic_proxy.gateway.platforms.heap import permanent_objects
from anthropic_proxy.gateway.prices.package_data import (
    find_data_file,
    find_model,
    list_foreign_patterns,
    list_prices,
    read_providers,
)
from anthropic_proxy.gateway.prices.regions import REGION_FACTORS, find_regional_addresses
from anthropic_proxy.gateway.settings import PriceFields, PriceTable, Settings, TokenPriceFields
from anthropic_proxy.gateway.settings.facts_file import describe_facts, format_day
from anthropic_proxy.gateway.settings.provider_tables import format_price_setting

PACKAGE = "genai-prices"
_DATE = compile_later(r"\b(20\d\d)(?:-|, ?)(\d\d?)(?:-|, ?)(\d\d?)\b")
"""Matches a date in the source of the package: `2026-11-09`, or the arguments of `date(2026, 11, 9)`."""

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
MAX_PRICE_RATIO = 10
"""A price or cost that a server states is not used if it is more than this many times the published one, or less than
this part of it: it may be a mistake or a deception."""
_MAX_DECIMALS = 30
_MAX_PRICE_TIERS = 20
_USUAL_SEARCH_COST = NANO_DOLLARS // 100
"""Cost of a web search with an unknown price, for the upper limit of a stated cost."""


class Rates(Struct, frozen=True, dict=True):
    """Prices of each kind of token in US dollars per million tokens."""

    input: Decimal
    cache_read: Decimal
    cache_write: Decimal
    output: Decimal
    thinking: Decimal
    cache_write_1h: Decimal

    def multiply(self, factor: Decimal) -> "Rates":
        return Rates(*(rate * factor for rate in astuple(self)))

    @cached_property
    def integer_ratios(self) -> tuple[tuple[int, ...], int]:
        """Nano-dollars per token: the numerators in the order of the fields, and their denominator."""
        ratios = [rate.as_integer_ratio() for rate in astuple(self)]
        scale = lcm(*(denominator for _, denominator in ratios))
        rates = [
            _NANO_DOLLARS_PER_MICRO_DOLLAR * numerator * (scale // denominator) for numerator, denominator in ratios
        ]
        common = gcd(scale, *rates)
        return tuple(rate // common for rate in rates), scale // common


class Price(Struct, frozen=True, kw_only=True):
    base: Rates
    long_contexts: tuple[tuple[int, Rates], ...] = ()
    """Pairs (number of input tokens, prices of requests with more input tokens), in ascending order."""
    web_search: Decimal | None = None
    """Price of 1,000 web searches by the provider, in US dollars. None: unknown."""
    call_cost: int = 0
    """Nano-dollars of each call, in addition to its tokens."""
    region_factors: Mapping[str, Decimal] = REGION_FACTORS
    """Region, as `normalize_region` returns it → factor of all prices of tokens."""
    source: str = ""
    """Origin of the price: a price list such as `genai-prices 0.2.3`, `anthropic-proxy.toml line 12`, or `local`."""
    is_final: bool = False
    """True for the user's own price and for models that run on a machine of the user. No reply replaces such a price
    by the cost that it states."""
    published: "Price | None" = None
    """Price in the package or in `models.toml`, if the model list of the server replaces it."""
    is_unconfirmed: bool = False
    """True if only the model list of the server states it."""

    @property
    def is_of_server(self) -> bool:
        return self.is_unconfirmed or self.published is not None

    def calculate_search_cost(self, searches: int) -> int | None:
        """Return the cost of web searches by the provider, in nano-dollars. None: their price is unknown."""
        if not searches:
            return 0
        return None if self.web_search is None else round(searches * self.web_search * (NANO_DOLLARS // 1_000))

    def multiply_tokens(self, factor: Decimal) -> "Price":
        longer = tuple((above, rates.multiply(factor)) for above, rates in self.long_contexts)
        return structs.replace(self, base=self.base.multiply(factor), long_contexts=longer)

    def find_in_region(self, region: str) -> "Price | None":
        """None: the factor of the region is unknown."""
        if self.is_free:
            return self
        factor = self.region_factors.get(region)
        return None if factor is None else self.multiply_tokens(factor)

    @property
    def is_free(self) -> bool:
        every = [self.base, *(rates for _, rates in self.long_contexts)]
        return not self.call_cost and not any(
            getattr(rates, name) for rates in every for name in Rates.__struct_fields__
        )

    def confirms(self, stated: int, tokens: TokenCounts, searches: int = 0) -> bool:
        """Return True if a cost that the server states (nano-dollars) is similar to the published price of the same
        request. Web searches whose price is unknown only raise the upper limit.
        """
        published = self.published or self
        searched = published.calculate_search_cost(searches)
        call = published.calculate_cost(tokens)
        cost = call + (searches * _USUAL_SEARCH_COST if searched is None else searched)
        if not cost:
            return True
        lowest = call if searched is None else cost
        return lowest <= stated * MAX_PRICE_RATIO and stated <= cost * MAX_PRICE_RATIO

    def calculate_cost(self, tokens: TokenCounts) -> int:
        """Nano-dollars of one call."""
        rates = self.base
        if self.long_contexts:
            context = tokens.context_tokens
            for above, surcharged in self.long_contexts:
                if context > above:
                    rates = surcharged
        (plain, read, written, output, thinking, kept), scale = rates.integer_ratios
        scaled = tokens.input_tokens * plain + tokens.output_tokens * output
        if tokens.cache_read_tokens or tokens.cache_write_tokens:
            long = min(tokens.cache_write_1h_tokens, tokens.cache_write_tokens)
            scaled += tokens.cache_read_tokens * read + (tokens.cache_write_tokens - long) * written + long * kept
        if tokens.thinking_tokens:
            scaled += min(tokens.thinking_tokens, tokens.output_tokens) * (thinking - output)
        return (2 * scaled + scale) // (2 * scale) + self.call_cost  # rounded half up

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


FREE = Price(base=Rates(*[Decimal(0)] * 6), web_search=Decimal(0), source="local", is_final=True)
"""Price of models that run on a machine of the user, and of the demo provider: 0 for every kind of token."""


class LoadedPrices(Struct, frozen=True):
    providers: Sequence[Any]
    source: str
    """Origin of the prices: `genai-prices 0.2.3`, or `genai-prices updated 2026-11-22`."""
    updated_on: date | None = None
    """None: the prices of the installed package."""


class PriceSource:
    """The prices of the package and of servers' lists in this process. Any thread may call the methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.current: LoadedPrices | None = None
        """An update replaces the object. None: nothing is loaded yet."""
        self.listed: ListedPrices = {}
        """Prices in the newest model lists of servers."""
        self.edition = 0
        """Increased by each change."""

    def load(self) -> LoadedPrices | None:
        """None: `genai-prices` is not installed. The first call needs a moment."""
        if self.current is None and (file := find_data_file()) is not None:
            with self._lock:
                if self.current is None:
                    with permanent_objects():  # many: a collection of them would delay the requests
                        self.current = LoadedPrices(read_providers(file), find_price_package_version())
                    self.edition += 1
        return self.current

    def update(self, content: bytes) -> int:
        """Use the prices of a downloaded list. Return the number of its regular expressions that are not used.

        Raises the errors of the library, and `ValueError`.
        """
        listed = decode_json(content, list[Any])
        if not listed:
            raise ValueError("the list is empty")
        # the public function downloads by an HTTP client without limits
        providers = _import_updater()[0]._providers_from_raw(listed)
        self.load()  # the package's own expressions are used
        today = datetime.now(UTC).date()
        with self._lock:
            self.current = LoadedPrices(providers, f"{PACKAGE} updated {today}", today)
            self.edition += 1
        return len(list_foreign_patterns(providers))

    def replace_listed(self, servers: Collection[str], prices: ListedPrices) -> None:
        """Replace the prices in the lists of these servers."""
        with self._lock:
            others = {name: price for name, price in self.listed.items() if name[0] not in servers}
            if (listed := {**others, **prices}) != self.listed:
                self.listed = listed
                self.edition += 1


PRICE_SOURCE = PriceSource()
"""It is one for all, as the price list in the library is. An update is not part of a settings object."""


def find_published_url() -> str:
    """Return the address at which the package publishes its newest prices."""
    return str(_import_updater()[1].DEFAULT_UPDATE_URL)


def _import_updater() -> tuple[ModuleType, ModuleType]:
    """Return the modules of the package with the types of a list, and with its address."""
    from genai_prices import types, update_prices  # noqa: PLC0415  # they import pydantic

    return types, update_prices


def format_own_price(name: str) -> tuple[str, ...]:
    """Return the lines of `anthropic-proxy.toml` that set the price of a model, for a user who knows it."""
    return format_price_setting(name), "input = <dollars>", "output = <dollars>"


def has_price_package() -> bool:
    return find_data_file() is not None


@cache
def find_price_package_version() -> str:
    """`genai-prices 0.2.3`. "": it is not installed."""
    if (file := find_data_file()) is None:
        return ""
    # `importlib.metadata` needs 2 MiB to read this name
    start = f"{file.parent.name}-"
    end = ".dist-info"
    names = [folder.name for folder in file.parent.parent.glob(f"{start}*{end}")]
    return " ".join([PACKAGE, *(name.removeprefix(start).removesuffix(end) for name in names)])


def describe_price_list() -> str:
    """Return origin and date of the prices in use, such as `genai-prices 0.2.3, 9 Nov 2026`. "": no package."""
    if (current := PRICE_SOURCE.current) is not None and current.updated_on is not None:
        return f"{PACKAGE} updated {format_day(current.updated_on)}"
    package = find_price_package_version()
    newest = find_package_price_date(datetime.now(UTC).date()) if package else None
    return package if newest is None else f"{package}, {format_day(newest)}"


def describe_price_sources(facts: FactsFile) -> str:
    """Return origin and date of all prices in use except own ones: of the price list, and of the facts about models."""
    return ", ".join(filter(None, (describe_price_list(), describe_facts(facts))))


@cache
def find_package_price_date(today: date) -> date | None:
    """The newest date in the price list of the package that is not after `today`. None: there is none."""
    file = find_data_file()
    if file is None:
        return None
    numbers = [tuple(map(int, parts)) for parts in _DATE.findall(file.read_text(encoding="utf-8"))]
    dates = [date(year, month, day) for year, month, day in numbers if 1 <= month <= 12 and 1 <= day <= 28]
    return max((day for day in dates if day <= today), default=None)


def find_price(base_url: str, model: str, when: datetime | None = None, *, tier: str = "") -> Price | None:
    """None: unknown, or `genai-prices` is not installed. `when` None: now."""
    data = PRICE_SOURCE.load()
    if data is None:
        return None
    match = find_model(data.providers, None if base_url == _LITELLM else base_url, model)
    if match is None:
        return None
    listed, is_own = match
    if tier and not is_own:
        return None  # another provider of the same model may have other tiers
    prices = list_prices(listed, when or datetime.now(UTC), dict.fromkeys(_TIER_KEYS, tier) if tier else {})
    if prices is None or "input_mtok" not in prices or "output_mtok" not in prices:
        return None
    if not all(map(_is_usable, prices.values())):
        return None
    incoming = prices["input_mtok"]
    outgoing = prices["output_mtok"]
    written = prices.get("cache_write_5m_mtok", prices.get("cache_write_mtok", incoming))
    kinds = (
        incoming,
        prices.get("cache_read_mtok", incoming),
        written,
        outgoing,
        prices.get("output_reasoning_mtok", outgoing),
        prices.get("cache_write_1h_mtok", written),
    )
    starts = sorted({rate_tier.start for kind in kinds if not isinstance(kind, Decimal) for rate_tier in kind.tiers})
    longer = tuple((start, Rates(*(_find_rate(kind, start) for kind in kinds))) for start in starts)
    base = Rates(*(_find_rate(kind, -1) for kind in kinds))
    searches = prices.get("web_searches_kcount")
    search = None if searches is None else _find_rate(searches, -1)
    call_cost = _to_call_cost(_find_rate(prices.get("requests_kcount", Decimal(0)), -1))
    return Price(base=base, long_contexts=longer, web_search=search, call_cost=call_cost, source=data.source)


def _to_call_cost(dollars_per_1000: Decimal) -> int:
    return round(dollars_per_1000 * (NANO_DOLLARS // 1_000))


def _find_own_pattern(patterns: Iterable[str], model: str) -> str | None:
    """An exact name takes precedence over patterns, and a later pattern over an earlier one."""
    name = model.lower()
    matched = None
    for pattern in patterns:
        if pattern.lower() == name:
            return pattern
        if matches_model(name, pattern):
            matched = pattern
    return matched


class PriceList:
    """Results are cached until another price list is loaded."""

    def __init__(self, settings: Settings, *, uses_server_lists: bool = True) -> None:
        """`uses_server_lists` False: for a decision that each process must make in the same way, because only those
        that have read the list of a server know it.
        """
        self._settings = settings
        self._uses_server_lists = uses_server_lists
        self._edition = 0
        self._known_prices = BoundedDict[tuple[str, str, int, str, str], Price | None](MAX_CACHED_PRICES)

    def find(
        self, provider: Provider, model: str, when: datetime | None = None, tier: str = "", region: str = ""
    ) -> Price | None:
        """Return the price of a model. None: unknown. `when` None: now. `tier` and `region`: the names that a reply
        states, as `normalize_service_tier` and `normalize_region` return them.
        """
        base_url = find_base_url(provider, next(iter(provider.wires.values())), self._settings)
        return self._find_cached(provider, model, base_url, when or datetime.now(UTC), tier=tier, region=region)

    def find_price_at_default_address(self, vendor: Provider, model: str, when: datetime) -> Price | None:
        """The list price of the vendor, even if the settings have another base URL. None: unknown."""
        return self._find_cached(vendor, model, vendor.base_url, when)

    def _find_cached(
        self, provider: Provider, model: str, base_url: str, when: datetime, *, tier: str = "", region: str = ""
    ) -> Price | None:
        if PRICE_SOURCE.edition != self._edition:
            self._edition = PRICE_SOURCE.edition
            self._known_prices.clear()
        key = (base_url, f"{provider.prefix}/{model}", int(when.timestamp()) // CONSTANT_SECONDS, tier, region)
        if key not in self._known_prices:
            price = self._find(provider, model, base_url, when, tier)
            self._known_prices[key] = price.find_in_region(region) if price is not None and region else price
        return self._known_prices[key]

    def _find(self, provider: Provider, model: str, base_url: str, when: datetime, tier: str) -> Price | None:
        own = self._settings.prices
        if (pattern := _find_own_pattern(own, f"{provider.prefix}/{model}")) is not None:
            price = _build_price(
                own[pattern], when, tier, self._settings.origins.get(format_price_setting(pattern), "")
            )
            return None if price is None else structs.replace(price, is_final=True)
        is_cloud = model.rpartition(":")[2].endswith("cloud") or _CLOUD_ADDRESS in base_url
        vendor = find_named_vendor(provider, base_url, self._settings)
        host = resolve_host(_find_provider_with_hosts(provider), base_url)
        is_near = vendor is None and host.name == LOCAL_HOST and is_own_server(provider)
        is_keyless = is_near and not self._settings.keys.get(provider.name)  # with a key, it may be a gateway
        if provider.transport == "demo" or ((is_keyless or provider.uses_installed_models) and not is_cloud):
            return FREE
        name = provider.find_known_name(model)
        regional = find_regional_addresses(base_url)
        address = base_url if regional is None else regional.vendor_url
        if vendor is not None:
            published = _find_price_of_vendor(self._settings.facts, vendor, name, when, tier)
        else:
            listed_at = host.price_url or provider.price_url or address
            published = _find_price_at(
                self._settings.facts, (provider, host), name, when, tier, address=address, listed_at=listed_at
            )
        if published is not None and regional is not None and (factor := regional.find_factor(name)) != 1:
            source = f"{published.source}, with the {factor - 1:.0%} surcharge of a regional address"
            published = structs.replace(published.multiply_tokens(factor), source=source)
        fields = PRICE_SOURCE.listed.get((build_server_name(provider, base_url), model))
        if fields is None or tier or not self._uses_server_lists:
            return published
        stated = _convert_tokens(convert(fields, TokenPriceFields), f"model list of {find_netloc(base_url)}")
        if published is None:
            return structs.replace(stated, is_unconfirmed=True)
        if not published.confirms(stated.calculate_cost(_TYPICAL), _TYPICAL):
            return published
        # the list states no surcharges for long contexts, and no prices of searches and calls
        return structs.replace(
            stated,
            published=published,
            long_contexts=published.long_contexts,
            web_search=published.web_search,
            call_cost=published.call_cost,
            region_factors=published.region_factors,
        )


def find_published_window(provider: Provider, model: str, settings: Settings) -> int | None:
    """Return the context window of a model in the price list, in tokens. None: unknown, or there is no price list."""
    base_url = find_base_url(provider, next(iter(provider.wires.values())), settings)
    data = None if is_own_server(provider) or provider.transport != "http" else PRICE_SOURCE.load()
    if data is None:
        return None
    vendor = find_named_vendor(provider, base_url, settings)
    host = resolve_host(_find_provider_with_hosts(provider), base_url)
    regional = find_regional_addresses(base_url)
    address = host.price_url or provider.price_url or (base_url if regional is None else regional.vendor_url)
    if vendor is not None:
        address = vendor.price_url or vendor.base_url
    match = find_model(data.providers, address, provider.find_known_name(model))
    window = vars(match[0]).get("context_window") if match is not None else None
    return window if isinstance(window, int) and window > 0 else None


def find_named_vendor(provider: Provider, base_url: str, settings: Settings) -> Host | None:
    """Return the vendor whose prices apply at an address that is not its own, such as a mirror. None: none is named.

    The field `prices` of `[providers.NAME]` names one. Otherwise the setting of the address does, such as
    `GROQ_BASE_URL`, or the name of a table, such as `[providers.deepseek]`. `OPENAI_BASE_URL` may be any server, and so
    may an address on this machine or in its network, unless the provider is a cloud with credentials of its own.
    """
    if name := settings.price_vendors.get(provider.name):
        return find_price_vendor(name, PROVIDERS)
    openai = PROVIDERS.find("openai")
    is_near = provider.key_source == "settings" and resolve_host(openai, base_url).name == LOCAL_HOST
    if provider.name == openai.name or is_near:
        return None
    host = resolve_host(_find_provider_with_hosts(provider), base_url)
    is_of_vendor = host.name not in (provider.name, *UNKNOWN_HOSTS) or (
        not is_own_server(provider) if provider.is_configured else has_own_models(provider, settings)
    )
    return None if is_of_vendor else find_price_vendor(provider.name, PROVIDERS)


def _find_price_of_vendor(facts: FactsFile, vendor: Host, model: str, when: datetime, tier: str) -> Price | None:
    """Return the price of a model at the address of its vendor, with the vendor in its source."""
    address, label = vendor.base_url, f", prices of {vendor.title}"
    listed_at = vendor.price_url or address
    return _find_price_at(facts, (vendor,), model, when, tier, address=address, listed_at=listed_at, label=label)


def _find_price_at(
    facts: FactsFile,
    vendors: Sequence[Host],
    model: str,
    when: datetime,
    tier: str,
    *,
    address: str,
    listed_at: str,
    label: str = "",
) -> Price | None:
    """Return the price of a model in our tables of vendors or in the price list.

    `listed_at`: address of the vendor in the list. `label`: end of the source of a price of the list.
    """
    corrected = _find_vendor_price(facts, vendors, address, model, when, tier=tier, is_correction=True)
    if corrected is not None:
        return corrected
    if (listed := find_price(listed_at, model, when, tier=tier)) is not None:
        return structs.replace(listed, source=f"{listed.source}{label}") if label else listed
    return _find_vendor_price(facts, vendors, address, model, when, tier=tier)


def _find_provider_with_hosts(provider: Provider) -> Provider:
    """Return the provider whose hosts include the one of `provider`."""
    return provider if provider.hosts else PROVIDERS.find("openai")


def _find_vendor_price(
    facts: FactsFile,
    vendors: Sequence[Host],
    base_url: str,
    model: str,
    when: datetime,
    *,
    tier: str,
    is_correction: bool = False,
) -> Price | None:
    """Return the price in the facts. It holds at the address of the entry: in China, prices differ."""
    for vendor in vendors:
        prices = facts.find_prices(vendor.name if isinstance(vendor, Provider) else vendor.models_table)
        if prices is None or urlsplit(base_url).hostname != urlsplit(vendor.base_url).hostname:
            continue
        rows = prices.corrections if is_correction else prices.models
        listed = next((table for name, table in rows.items() if name.lower() == model.lower()), None)
        if listed is not None:
            label = f", {describe_facts(facts)}" if facts.origin else ""
            return _build_price(listed, when, tier, f"{vendor.title}, {prices.read_date}{label}")
    return None


def _build_price(table: PriceTable, when: datetime, tier: str, origin: str) -> Price | None:
    """Return the price of a table of the settings or of the facts. None: it has none in this service tier."""
    fields = _find_table_at(table, when)
    price = _convert_tokens(fields, origin)
    if tier and not price.is_free:
        tiers = fields.tiers.items()
        rates = next((rates for name, rates in tiers if normalize_service_tier(name) == tier), None)
        if rates is None:
            return None
        price = _convert_tokens(rates, origin)
    regions = {normalize_region(name): Decimal(str(factor)) for name, factor in fields.regions.items()}
    return structs.replace(
        price,
        web_search=None if fields.web_search_per_1000 is None else Decimal(str(fields.web_search_per_1000)),
        call_cost=_to_call_cost(Decimal(str(fields.request_per_1000))),
        region_factors={**REGION_FACTORS, **regions},
    )


def _find_table_at(table: PriceTable, when: datetime) -> PriceFields:
    """Return the prices that are valid at a time."""
    earlier = [past for past in table.earlier if when.astimezone(UTC).date() <= past.until]
    return min(earlier, key=lambda past: past.until) if earlier else table


def _convert_tokens(table: TokenPriceFields, origin: str) -> Price:
    amounts = [table.input, table.cache_read, table.cache_write, table.output]
    cached = [table.input if amount is None else amount for amount in amounts]
    long = cached[2] if table.cache_write_1h is None else table.cache_write_1h
    base = Rates(*(Decimal(str(amount)) for amount in (*cached, table.output, long)))
    longer = table.long_context
    if longer is None:
        return Price(base=base, source=origin)
    surcharges = (
        longer.input,
        longer.cache_read,
        longer.cache_write,
        longer.output,
        longer.output,
        longer.cache_write_1h,
    )
    names = Rates.__struct_fields__
    surcharged = Rates(
        *(
            getattr(base, name) if amount is None else Decimal(str(amount))
            for name, amount in zip(names, surcharges, strict=True)
        )
    )
    return Price(base=base, long_contexts=((longer.above, surcharged),), source=origin)


def _is_usable(price: Any) -> bool:
    """Return False for a price with which an update could make costs negative, or their calculation endless."""
    amounts = [price] if isinstance(price, Decimal) else [price.base, *(tier.price for tier in price.tiers)]
    return len(amounts) <= _MAX_PRICE_TIERS + 1 and all(
        0 <= amount <= MAX_DOLLARS and cast("int", amount.as_tuple().exponent) >= -_MAX_DECIMALS for amount in amounts
    )


def _find_rate(price: Any, start: int) -> Decimal:
    """`price` is a `Decimal`, or has tiers by number of input tokens. A `start` of -1 selects the lowest tier."""
    if isinstance(price, Decimal):
        return price
    reached = [tier.price for tier in sorted(price.tiers, key=lambda tier: tier.start) if tier.start <= start]
    rate: Decimal = reached[-1] if reached else price.base
    return rate


_TYPICAL = TokenCounts(input_tokens=2_000, cache_read_tokens=18_000, output_tokens=1_000)
"""Token counts of the request for which routes with `balance = "cost"` compare prices: a long conversation, mostly in
the provider's cache."""


def find_typical_request_prices(settings: Settings) -> Mapping[str, float]:
    """Models without a known price are absent."""
    prices = PriceList(settings, uses_server_lists=False)
    prices_by_model: dict[str, float] = {}
    for _, target in _list_targets(settings):
        price = prices.find(target.provider, target.model)
        if price is not None:
            prices_by_model[target.prefixed_id] = price.calculate_cost(_TYPICAL)
    return prices_by_model


def require_known_prices(settings: Settings) -> None:
    """Raise `ConfigurationError` for the models of routes with `balance = "cost"` whose price is unknown."""
    prices = find_typical_request_prices(settings)
    messages = []
    for route, target in _list_targets(settings):
        name = target.prefixed_id
        if name not in prices:
            place = format_origin_in_sentence(route.origin)
            table = format_price_setting(name)
            command = build_extra_install_command("prices")
            install = "" if has_price_package() else f", or install the price list:  {command}"
            messages.append(
                f'The route "{route.name}" ({place}) has balance = "cost", but {name} has no known price. '
                f"Add {table} with input and output to anthropic-proxy.toml{install or '.'}"
            )
    if messages:
        raise ConfigurationError(*messages, code="route-invalid")


def _list_targets(settings: Settings) -> Iterator[tuple[ConfiguredRoute, Target]]:
    """Targets that cannot serve requests are left out."""
    for route in settings.routes:
        if route.balance == "cost":
            try:
                targets = build_plan(RoutingQuery("claude", route=route), settings, Catalog()).targets
            except ClientError:
                continue  # the start-up summary contains the error
            for target in targets:
                yield route, target
