"""Costs of requests: those that a reply states, or that follow from the prices of models.

A `Cost` has two amounts in nano-dollars: at the price of the used model, in the service tier that the provider
reported, and at the price of the model that the client requested. Both include the web searches that the provider
bills.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.ledger.records import UsageSums, add_up, count_budget_tokens
from anthropic_proxy.engine.bounded import BoundedDict
from anthropic_proxy.engine.messages.deltas import TokenCounts
from anthropic_proxy.engine.model_calls import ModelCall, list_calls, list_calls_of_attempts
from anthropic_proxy.engine.options import LONG_CONTEXT_SUFFIX
from anthropic_proxy.engine.providers import Provider, find_registry
from anthropic_proxy.engine.providers.hosts import find_missing_key
from anthropic_proxy.engine.service_tiers import normalize_region, normalize_service_tier
from anthropic_proxy.errors import build_extra_install_command, join_with_and
from anthropic_proxy.gateway.money import NANO_DOLLARS
from anthropic_proxy.gateway.prices.price_list import (
    CONSTANT_SECONDS,
    MAX_CACHED_PRICES,
    PACKAGE,
    PRICE_SOURCE,
    Price,
    PriceList,
    format_own_price,
    has_price_package,
)
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable
from anthropic_proxy.plugins import Cost, ModelUsage, Receipt

if TYPE_CHECKING:
    from anthropic_proxy.console.ledger.queries import ModelSums

_MAX_NAMED = 3
"""Maximum number of models without a price that a text names."""
_VENDOR = "anthropic"
"""Name of the provider with the list prices of requested Claude models."""
_STATED = "stated by the provider"
"""Origin of a cost that the reply contains."""
_MAX_STATED_COST_PER_TOKEN = NANO_DOLLARS // 100
"""Limit of a stated cost without a published price, as of the prices in lists of models."""


class ModelCosts:
    """Finder of model prices, with the providers and prices in `settings`. After a reload of the settings, the caller
    creates another object.
    """

    def __init__(self, settings: Settings, *, needs_published: bool = False) -> None:
        """Set `needs_published` for a budget: a price that only the server states is then unknown. The server could
        state any amount.
        """
        self._settings = settings
        self._needs_published = needs_published
        self._registry = find_registry(settings)
        self._prices = PriceList(settings)

    def find_price(
        self, provider: str, model: str, when: datetime | None = None, tier: str = "", region: str = ""
    ) -> Price | None:
        """Return the price of the model `model` of a provider. None: the price is unknown. `tier` and `region` are
        names as `normalize_service_tier` and `normalize_region` return them.
        """
        row = next((row for row in self._registry if row.name == provider), None)
        return None if row is None else self._find(row, model, when, tier, region)

    def find_price_by_prefix(
        self, prefix: str, model: str, when: datetime | None = None, tier: str = "", region: str = ""
    ) -> Price | None:
        provider = self._registry.find_by_prefix(prefix)
        return None if provider is None else self._find(provider, model, when, tier, region)

    def _find(self, provider: Provider, model: str, when: datetime | None, tier: str, region: str) -> Price | None:
        price = self._prices.find(provider, model, when, tier, region)
        return None if price is not None and price.is_unconfirmed and self._needs_published else price

    def find_requested_price(
        self, requested: str, prefix: str, model: str, when: datetime | None = None
    ) -> Price | None:
        """An id with the prefix of a provider has the price at this provider. A Claude model without a prefix has the
        list price of Anthropic, even if another provider served the request.

        `prefix` and `model` served the request. If the id has no list price and equals `model`, its price there is
        returned.
        """
        name = requested.removesuffix(LONG_CONTEXT_SUFFIX)
        when = when or datetime.now(UTC)
        named, separator, own_name = name.partition("/")
        if separator and (price := self.find_price_by_prefix(named, own_name, when)) is not None:
            return price
        listed = self._prices.find_price_at_default_address(self._registry.find(_VENDOR), name, when)
        # an id that is not in the list has a price only if it is the used model
        return self.find_price_by_prefix(prefix, name, when) if listed is None and name == model else listed

    def find_prefix(self, provider: str) -> str:
        """An unknown name is returned unchanged."""
        return next((row.prefix for row in self._registry if row.name == provider), provider)

    def find_key_setting(self, provider: str) -> str | None:
        """Return the setting with the keys of a provider. "": it is unknown. None: it is called without a key."""
        row = next((row for row in self._registry if row.name == provider), None)
        if row is None:
            return ""
        needs_none = not self._settings.keys.get(provider) and not find_missing_key(row, self._settings)
        tables = self._settings.configured_providers  # a table names its key by a variable, a file or a command
        variable = next((table.key_variable for table in tables if table.name == provider), "") or row.key_variable
        return None if needs_none else variable or ""

    def find_provider_name(self, prefix: str) -> str:
        provider = self._registry.find_by_prefix(prefix)
        return "" if provider is None else provider.name

    def divide_cost(self, provider: str, model: str, tokens: TokenCounts, cost: int) -> dict[str, int]:
        """Divide the stored `cost` of a model by kind of token, and return the nano-dollars of each kind. Only the
        total cost is stored, so it is divided in proportion to the current prices. If no current price is known, the
        result has the total cost under the key "".
        """
        if not cost:
            return {}
        price = self.find_price(provider, model)
        amounts: dict[str, Decimal] = {}
        if price is not None:
            rates = price.base
            long = min(tokens.cache_write_1h_tokens, tokens.cache_write_tokens)
            amounts = {kind: number * getattr(rates, kind) for kind, number in tokens.divide_by_kind().items()}
            amounts["cache_write"] += long * (rates.cache_write_1h - rates.cache_write)
        whole = sum(amounts.values())
        if not whole:
            return {"": cost}
        divided = {kind: int(cost * amount / whole) for kind, amount in amounts.items() if amount}
        first = max(divided, key=lambda kind: divided[kind])
        divided[first] += cost - sum(divided.values())
        return divided


def calculate_base_cost(price: Price, sums: UsageSums) -> int:
    """Cost of the tokens in nano-dollars. Surcharges for long contexts, service tiers and regions, and what searches
    and calls cost, are not included.
    """
    return structs.replace(price, long_contexts=(), call_cost=0).calculate_cost(sums)


class CostCalculator:
    """Calculator of the costs of requests, at the prices that `settings` select. The caller creates another calculator
    after a reload of the settings or of the price list.
    """

    def __init__(self, settings: Settings) -> None:
        self._costs = ModelCosts(settings)
        self._known_prices = BoundedDict[tuple[str, str, str, int], tuple[Price | None, Price | None]](
            MAX_CACHED_PRICES
        )
        """Prefix, used model, requested model and period of constant prices → price of the used and of the requested
        model."""

    def calculate(self, receipt: Receipt) -> Cost:
        """Nano-dollars, summed over the calls to providers. None: a price is unknown."""
        if (
            len(receipt.attempts) < 2
            and not (receipt.billed_searches or receipt.iterations)
            and not (receipt.service_tier and normalize_service_tier(receipt.service_tier))
            and not (receipt.region and normalize_region(receipt.region))
        ):
            # almost all requests: one call to a provider, without searches, in the normal service tier
            if not receipt.all_tokens:
                return Cost(0, 0, "")
            price, requested = self._find_prices(receipt)
            listed = None if requested is None else requested.calculate_cost(receipt)
            if receipt.stated_cost and (stated := _accept_stated(price, receipt.stated_cost, receipt)):
                return Cost(stated, stated if requested is not None and requested == price else listed, _STATED)
            if price is None:
                return Cost(None, listed, "")
            return Cost(price.calculate_cost(receipt), listed, price.source)
        calls = list_calls(receipt)
        if not calls:
            return Cost(0, 0, "")
        _, requested = self._find_prices(receipt)
        priced = [_price_call(self._costs, receipt, call) for call in calls]
        amounts = [priced_call.calculate_cost() for priced_call in priced]
        requested_amounts = [priced_call.calculate_requested_cost(requested) for priced_call in priced]
        if requested is not None and any(priced_call.stated for priced_call in priced) and None not in amounts:
            is_same = all(priced_call.normal == requested for priced_call in priced)
            requested_amounts = amounts if is_same else requested_amounts
        parts = _divide_by_model(receipt, calls, amounts, requested_amounts)
        return Cost(_add_up(amounts), _add_up(requested_amounts), _describe_source(priced), parts)

    def _find_prices(self, receipt: Receipt) -> tuple[Price | None, Price | None]:
        period = int(receipt.started_at) // CONSTANT_SECONDS
        key = (receipt.prefix, receipt.model, receipt.requested_model, period)
        if (prices := self._known_prices.get(key)) is None:
            when = datetime.fromtimestamp(receipt.started_at, UTC)
            prices = self._known_prices[key] = (
                self._costs.find_price_by_prefix(receipt.prefix, receipt.model, when),
                self._costs.find_requested_price(receipt.requested_model, receipt.prefix, receipt.model, when),
            )
        return prices


class CurrentCosts:
    """Calculator of the costs of requests at the current prices, also after a reload of the settings or price list.

    A receipt keeps its costs, so that a later price changes them nowhere.
    """

    def __init__(self, current_settings: Callable[[], Settings]) -> None:
        self._current_settings = current_settings
        self._lock = threading.Lock()
        self._calculator: CostCalculator | None = None
        self._settings: Settings | None = None
        self._prices = 0
        """Edition of the prices."""

    def calculate(self, receipt: Receipt) -> Cost:
        """Any thread may call it. The first call, and one after a change of the price list, takes longer."""
        with self._lock:
            if receipt.cost is not None:
                return receipt.cost
            settings = self._current_settings()
            prices = PRICE_SOURCE.edition
            if self._calculator is None or settings is not self._settings or prices != self._prices:
                self._settings = settings
                self._prices = prices
                self._calculator = CostCalculator(settings)
            receipt.cost = self._calculator.calculate(receipt)
            return receipt.cost


class Amounts(Struct, frozen=True):
    """What a request uses of one model, or may use, as limits and budgets count it."""

    tokens: int
    """Number of input and output tokens, without input tokens that were read from a cache."""
    cost: int
    """Cost in nano-dollars (10⁻⁹ US dollars). What has no known price is not included, except tokens of models that the
    provider has called: they have the price of the model that the proxy has called."""
    model: str = ""
    """Model id with the prefix of its provider. "": several models."""


def list_used_amounts(costs: ModelCosts, receipt: Receipt) -> Sequence[Amounts]:
    """Return what the calls of a finished request have used. One model can occur several times."""
    return _list_amounts(costs, receipt, list_calls(receipt))


def list_amounts_so_far(costs: ModelCosts, receipt: Receipt) -> Sequence[Amounts]:
    """Return what the calls of a running request have used. The receipt itself has no tokens yet."""
    return _list_amounts(costs, receipt, list_calls_of_attempts(receipt))


def _list_amounts(costs: ModelCosts, receipt: Receipt, calls: Sequence[ModelCall]) -> Sequence[Amounts]:
    amounts = []
    for priced_call in (_price_call(costs, receipt, call) for call in calls):
        call = priced_call.call
        prefix = costs.find_prefix(call.provider) if call.provider else receipt.prefix
        model = f"{prefix}/{call.model or receipt.model}"
        amounts.append(Amounts(count_budget_tokens(call.tokens), priced_call.calculate_known_cost(), model))
    return amounts


class _PricedCall(Struct, frozen=True):
    call: ModelCall
    used: Price | None
    """Price in the tier and region of the call. None: unknown."""
    normal: Price | None
    """Price in the normal tier and no certain region. None: unknown."""
    stated: int
    """Cost that the reply states, and that applies instead of the price. 0: none. It includes tier and searches."""
    called: Price | None = None
    """Price of the called model, if the provider has called another one without a price."""
    missing: Sequence[str] = ()
    """What has no known price although the model has one: `tier priority`, `region eu`."""

    def calculate_cost(self) -> int | None:
        """Nano-dollars. None: unknown."""
        return self.stated or self._apply(self.used)

    def calculate_known_cost(self) -> int:
        """Return the part of the cost whose price is known, or that of the called model. What a server states about a
        model without a published price could be any amount, so it is not counted.
        """
        if self.stated and self.normal is not None:
            return self.stated
        price = self.used or self.normal or self.called
        if price is None:
            return 0
        return price.calculate_cost(self.call.tokens) + (price.calculate_search_cost(self.call.searches) or 0)

    def calculate_requested_cost(self, requested: Price | None) -> int | None:
        """Nano-dollars at the price of the model that the client requested. It has requested another model within the
        provider too, unless the provider has chosen that one.
        """
        return self._apply(self.normal if self.call.is_other_model else requested)

    def _apply(self, price: Price | None) -> int | None:
        if price is None or (searches := price.calculate_search_cost(self.call.searches)) is None:
            return None
        return price.calculate_cost(self.call.tokens) + searches


def _price_call(costs: ModelCosts, receipt: Receipt, call: ModelCall) -> _PricedCall:
    when = datetime.fromtimestamp(receipt.started_at, UTC)

    def find(tier: str, region: str, model: str = call.model) -> Price | None:
        if call.provider:
            return costs.find_price(call.provider, model, when, tier, region)
        return costs.find_price_by_prefix(receipt.prefix, model or receipt.model, when, tier, region)

    tier = call.tier
    region = call.region
    normal = find("", "")
    if tier and call.is_other_model and find(tier, "") is None:
        tier = ""  # the tier is that of the requested model
    missing = []
    if normal is not None:
        missing += [f"tier {tier}"] if tier and find(tier, "") is None else []
        missing += [f"region {region}"] if region and find("", region) is None else []
    used = find(tier, region) if tier or region else normal
    stated = _accept_stated(normal, call.stated_cost, call.tokens, call.searches)
    called = None
    if normal is None and call.is_other_model:
        called = find(tier, region, call.called_model) or find("", "", call.called_model)
    return _PricedCall(structs.replace(call, tier=tier), used, normal, stated, called, missing)


def _add_up(amounts: Sequence[int | None]) -> int | None:
    return None if None in amounts else sum(amount or 0 for amount in amounts)


MAX_PARTS = 50
"""Maximum number of models and kinds of calls of a request that are stored one by one."""


def _divide_by_model(
    receipt: Receipt, calls: Sequence[ModelCall], amounts: Sequence[int | None], listed: Sequence[int | None]
) -> tuple[ModelUsage, ...]:
    """Empty: one model was called, for one purpose."""
    parts_by_key: dict[tuple[str, str, str], ModelUsage] = {}
    for call, cost, requested_cost in zip(calls, amounts, listed, strict=True):
        key = call.provider or receipt.provider, call.model or receipt.model, call.kind
        key = key if key in parts_by_key or len(parts_by_key) < MAX_PARTS else (receipt.provider, receipt.model, "")
        if (part := parts_by_key.get(key)) is None:
            provider, model, kind = key
            part = parts_by_key[key] = ModelUsage(provider=provider, model=model, kind=kind, cost=0, requested_cost=0)
        part.add_tokens(call.tokens)
        part.searches += call.searches
        part.cost = _add_up([part.cost, cost])
        part.requested_cost = _add_up([part.requested_cost, requested_cost])
    parts = (*parts_by_key.values(),)
    is_whole = len(parts) == 1 and (parts[0].provider, parts[0].model) == (receipt.provider, receipt.model)
    return () if is_whole and not parts[0].kind else parts


def _describe_source(calls: Sequence[_PricedCall]) -> str:
    """ "": the model of the receipt has no price."""
    is_unknown = any(priced_call.calculate_cost() is None for priced_call in calls)
    if is_unknown and any(priced_call.normal is None and not priced_call.call.is_other_model for priced_call in calls):
        return ""
    # a stated cost includes the tier and the searches
    rest = calls if is_unknown else [priced_call for priced_call in calls if not priced_call.stated]
    searches = sum(priced_call.call.searches for priced_call in rest)
    unpriced = any(
        priced_call.normal and priced_call.normal.calculate_search_cost(priced_call.call.searches) is None
        for priced_call in rest
    )
    named = [text for priced_call in rest for text in _name_conditions(priced_call.call)]
    missing = {text for priced_call in rest for text in priced_call.missing}
    return ", ".join(
        [
            *([_STATED] if len(rest) < len(calls) else []),
            *dict.fromkeys(priced_call.normal.source for priced_call in rest if priced_call.normal is not None),
            *dict.fromkeys(
                f"no price of {priced_call.call.model}" for priced_call in rest if priced_call.normal is None
            ),
            *dict.fromkeys(f"no price of {text}" if text in missing else text for text in named),
            *(["no price of web searches"] if unpriced else []),
            *([f"{searches} web search{'es' if searches > 1 else ''}"] if searches and not unpriced else []),
        ]
    )


def _name_conditions(call: ModelCall) -> Sequence[str]:
    return [*([f"tier {call.tier}"] if call.tier else []), *([f"region {call.region}"] if call.region else [])]


def _accept_stated(price: Price | None, stated: int, tokens: TokenCounts, searches: int = 0) -> int:
    """Return the cost that a reply states, in nano-dollars. 0: it is not used."""
    if not stated or price is None or price.is_unconfirmed:
        return stated if stated <= tokens.all_tokens * _MAX_STATED_COST_PER_TOKEN else 0
    return stated if not price.is_final and price.confirms(stated, tokens, searches) else 0


class MissingPrices(Struct, frozen=True):
    text: str
    remedy: str
    lines: str = ""
    """Lines for `anthropic-proxy.toml`, for each model that `text` names. "": all models have a price today."""
    command: str = ""
    """Command that installs the price list. "": it is installed."""


def find_missing_prices(costs: ModelCosts, replied: "Sequence[ModelSums]") -> MissingPrices | None:
    """`replied`: all models of a range that replied. None: all costs are known."""
    total = add_up(model_sums.sums for model_sums in replied)
    if not total.unknown_cost_requests:
        return None
    text = f"The cost of {count_unknown(total)} is unknown"
    unpriced = [
        model_sums
        for model_sums in sorted(replied, key=lambda model_sums: -model_sums.sums.unknown_cost_requests)
        if model_sums.sums.unknown_cost_requests and costs.find_price(model_sums.provider, model_sums.model) is None
    ]
    if not unpriced:
        return MissingPrices(
            text + ": the price was set later, or the number of tokens or the price of a service tier is unknown.",
            "A cost is calculated when a request ends; a later price does not change it.",
        )
    models = [f"{costs.find_prefix(model_sums.provider)}/{model_sums.model}" for model_sums in unpriced]
    named = models if len(models) <= _MAX_NAMED else models[: _MAX_NAMED - 1]
    others = [f"{len(models) - len(named)} other models"] if len(named) < len(models) else []
    verb, its = ("has", "its") if len(models) == 1 else ("have", "their")
    where = f" in {PACKAGE} for {its} address" if has_price_package() else ""
    return MissingPrices(
        f"{text}: {join_with_and([*map(escape_unprintable, named), *others])}, which replied, {verb} no price{where}.",
        f"add the prices of each model in dollars per million tokens to {CONFIG_FILE}, 0 for a server of your own. "
        f"The name can be a pattern: {models[0].partition('/')[0]}/*. Prices apply to later requests.",
        "\n".join(line for model in named for line in format_own_price(model)),
        "" if where else build_extra_install_command("prices"),
    )


def count_unknown(sums: UsageSums) -> str:
    """`3 of 5 requests`"""
    return f"{sums.unknown_cost_requests:,} of {formats.plural(sums.requests, 'request')}"
