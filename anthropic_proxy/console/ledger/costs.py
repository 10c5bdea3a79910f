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
from anthropic_proxy.console.ledger.records import UsageSums, add_up
from anthropic_proxy.engine.bounded import BoundedDict
from anthropic_proxy.engine.messages.deltas import BilledUsage, TokenCounts
from anthropic_proxy.engine.options import LONG_CONTEXT_SUFFIX
from anthropic_proxy.engine.providers import Provider, find_registry
from anthropic_proxy.engine.providers.hosts import find_missing_key
from anthropic_proxy.engine.service_tiers import normalize_service_tier
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
from anthropic_proxy.plugins import Cost, Receipt

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
        self._settings, self._needs_published = settings, needs_published
        self._registry = find_registry(settings)
        self._prices = PriceList(settings)

    def find_price(self, provider: str, model: str, when: datetime | None = None, tier: str = "") -> Price | None:
        """Return the price of the model `model` of a provider. None: the price is unknown. `tier` is a service tier as
        `normalize_service_tier` returns it.
        """
        row = next((row for row in self._registry if row.name == provider), None)
        return None if row is None else self._find(row, model, when, tier)

    def find_price_by_prefix(
        self, prefix: str, model: str, when: datetime | None = None, tier: str = ""
    ) -> Price | None:
        provider = self._registry.find_by_prefix(prefix)
        return None if provider is None else self._find(provider, model, when, tier)

    def _find(self, provider: Provider, model: str, when: datetime | None, tier: str) -> Price | None:
        price = self._prices.find(provider, model, when, tier)
        return None if price is not None and price.is_unconfirmed and self._needs_published else price

    def find_requested_price(
        self, requested: str, prefix: str, model: str, when: datetime | None = None
    ) -> Price | None:
        """An id with the prefix of a provider has the price at this provider. A Claude model without a prefix has the
        list price of Anthropic, even if another provider served the request.

        `prefix` and `model` served the request. If the id has no list price and equals `model`, its price there is
        returned.
        """
        name, when = requested.removesuffix(LONG_CONTEXT_SUFFIX), when or datetime.now(UTC)
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
            rates, long = price.base, min(tokens.cache_write_1h_tokens, tokens.cache_write_tokens)
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
    """Cost of the tokens in nano-dollars. Surcharges for long contexts, web searches and service tiers are not
    included.
    """
    return structs.replace(price, long_contexts=()).calculate_cost(sums)


class CostCalculator:
    """Calculator of the costs of requests, at the prices that `settings` select. The caller creates another calculator
    after a reload of the settings or of the price list.
    """

    def __init__(self, settings: Settings) -> None:
        self._costs = ModelCosts(settings)
        self._found = BoundedDict[tuple[str, str, str, int], tuple[Price | None, Price | None]](MAX_CACHED_PRICES)
        """Prefix, used model, requested model and period of constant prices → price of the used and of the requested
        model."""

    def calculate(self, receipt: Receipt) -> Cost:
        """Nano-dollars, summed over the calls to providers. None: a price is unknown."""
        if (
            len(receipt.attempts) < 2
            and not receipt.billed_searches
            and not (receipt.service_tier and normalize_service_tier(receipt.service_tier))
        ):
            # almost all requests: one call to a provider, without searches, in the normal service tier
            if not _has_tokens(receipt):
                return Cost(0, 0, "")
            price, requested = self._find_prices(receipt)
            listed = None if requested is None else requested.calculate_cost(receipt)
            if receipt.stated_cost and (stated := _accept_stated(price, receipt.stated_cost, receipt)):
                return Cost(stated, stated if requested is not None and requested == price else listed, _STATED)
            if price is None:
                return Cost(None, listed, "")
            return Cost(price.calculate_cost(receipt), listed, price.source)
        calls = _list_calls(receipt)
        if not calls:
            return Cost(0, 0, "")
        used, (_, requested) = _find_used_prices(self._costs, receipt, calls), self._find_prices(receipt)
        listed = _add_costs(calls, [requested] * len(calls))
        normal = _find_used_prices(self._costs, receipt, [structs.replace(call, tier="") for call in calls])
        amounts = _list_stated(calls, normal)
        cost = _add_costs(calls, used, amounts)
        if cost is None:
            return Cost(None, listed, "" if None in normal else _describe_source(calls, used, normal))
        # a stated cost includes the tier and the searches
        rest = [at for at, amount in enumerate(amounts) if not amount]
        source = _describe_source([calls[at] for at in rest], [used[at] for at in rest], [normal[at] for at in rest])
        if any(amounts):
            source = ", ".join([_STATED, *filter(None, [source])])
            listed = cost if requested is not None and all(price == requested for price in normal) else listed
        return Cost(cost, listed, source)

    def _find_prices(self, receipt: Receipt) -> tuple[Price | None, Price | None]:
        period = int(receipt.started_at) // CONSTANT_SECONDS
        key = (receipt.prefix, receipt.model, receipt.requested_model, period)
        if (found := self._found.get(key)) is None:
            when = datetime.fromtimestamp(receipt.started_at, UTC)
            found = self._found[key] = (
                self._costs.find_price_by_prefix(receipt.prefix, receipt.model, when),
                self._costs.find_requested_price(receipt.requested_model, receipt.prefix, receipt.model, when),
            )
        return found


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
                self._settings, self._prices = settings, prices
                self._calculator = CostCalculator(settings)
            receipt.cost = self._calculator.calculate(receipt)
            return receipt.cost


class RequestUsage(Struct, frozen=True):
    """Tokens and cost of one request, as sums over its calls to providers.

    Input tokens that were read from a cache are part of the cost, but not of the number of tokens.
    """

    tokens: int
    cost: int | None
    """Cost in nano-dollars. None: the price of a used model is unknown."""


def find_request_usage(costs: ModelCosts, receipt: Receipt) -> RequestUsage:
    """Return what a request has used, as budgets count it: tokens and cost."""
    return _sum_usage(costs, receipt, _list_calls(receipt))


def find_running_usage(costs: ModelCosts, receipt: Receipt) -> RequestUsage:
    """Return what the calls of a running request have used. The receipt itself has no tokens yet."""
    return _sum_usage(costs, receipt, _list_attempts(receipt))


def _sum_usage(costs: ModelCosts, receipt: Receipt, calls: Sequence["_Call"]) -> RequestUsage:
    counts = [call.tokens for call in calls]
    new_tokens = sum(one.input_tokens + one.cache_write_tokens + one.output_tokens for one in counts)
    normal = _find_used_prices(costs, receipt, [structs.replace(call, tier="") for call in calls])
    # a budget counts the known part of a cost
    found = zip(_find_used_prices(costs, receipt, calls), normal, strict=True)
    used = [price or other for price, other in found]
    priced = [
        structs.replace(call, searches=0) if price and price.web_search is None else call
        for call, price in zip(calls, used, strict=True)
    ]
    # what a server states about a model without a published price could be any amount
    stated = [0 if price is None else cost for price, cost in zip(normal, _list_stated(calls, normal), strict=True)]
    return RequestUsage(new_tokens, _add_costs(priced, used, stated))


class _Call(Struct, frozen=True):
    tokens: TokenCounts
    provider: str = ""
    """Name of the provider. "": provider and model are those of the receipt."""
    model: str = ""
    searches: int = 0
    tier: str = ""
    """Service tier as `normalize_service_tier` returns it. "": the normal tier."""
    stated_cost: int = 0


def _to_call(usage: BilledUsage) -> _Call:
    tier = normalize_service_tier(usage.service_tier)
    return _Call(usage, searches=usage.billed_searches, tier=tier, stated_cost=usage.stated_cost)


def _list_attempts(receipt: Receipt) -> list[_Call]:
    return [structs.replace(_to_call(one), provider=one.provider, model=one.model) for one in receipt.attempts]


def _list_calls(receipt: Receipt) -> list[_Call]:
    """The last item has tokens that belong to no attempt, such as those of an interrupted reply."""
    if len(receipt.attempts) < 2:
        calls = [_to_call(receipt)]
    else:
        calls = _list_attempts(receipt)
        left = BilledUsage()
        left.copy_usage(receipt)
        for attempt in receipt.attempts:
            left.subtract_usage(attempt)
        calls.append(_to_call(left))
    return [call for call in calls if call.searches or _has_tokens(call.tokens)]


def _find_used_prices(costs: ModelCosts, receipt: Receipt, calls: Sequence[_Call]) -> list[Price | None]:
    when = datetime.fromtimestamp(receipt.started_at, UTC)
    return [
        costs.find_price(call.provider, call.model, when, call.tier)
        if call.provider
        else costs.find_price_by_prefix(receipt.prefix, receipt.model, when, call.tier)
        for call in calls
    ]


def _has_tokens(tokens: TokenCounts) -> bool:
    return bool(tokens.all_input_tokens or tokens.output_tokens)


def _add_costs(
    calls: Sequence[_Call], prices: Sequence[Price | None], stated: Sequence[int] | None = None
) -> int | None:
    """Sum in nano-dollars. None: the price of a call is unknown. `stated`: costs that apply instead of the prices; 0:
    none.
    """
    whole = 0
    for call, price, cost in zip(calls, prices, stated or [0] * len(calls), strict=True):
        if cost:
            whole += cost
            continue
        searches = None if price is None else price.calculate_search_cost(call.searches)
        if price is None or searches is None:
            return None
        whole += price.calculate_cost(call.tokens) + searches
    return whole


def _describe_source(calls: Sequence[_Call], used: Sequence[Price | None], normal: Sequence[Price | None]) -> str:
    tiers = dict.fromkeys(call.tier for call in calls if call.tier)
    searches = sum(call.searches for call in calls)
    missing = [call.tier for call, price in zip(calls, used, strict=True) if price is None]
    unpriced = any(
        price is not None and price.calculate_search_cost(call.searches) is None
        for call, price in zip(calls, normal, strict=True)
    )
    return ", ".join(
        [
            *dict.fromkeys(price.source for price in normal if price is not None),
            *(f"no price of tier {tier}" if tier in missing else f"tier {tier}" for tier in tiers),
            *(["no price of web searches"] if unpriced else []),
            *([f"{searches} web search{'es' if searches > 1 else ''}"] if searches and not unpriced else []),
        ]
    )


def _list_stated(calls: Sequence[_Call], normal: Sequence[Price | None]) -> list[int]:
    """Return the cost of each call that its reply states, in nano-dollars. 0: none that is used. `normal`: prices in
    the normal service tier. A stated cost includes the tier and the searches.
    """
    return [
        _accept_stated(price, call.stated_cost, call.tokens, call.searches)
        for call, price in zip(calls, normal, strict=True)
    ]


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
    total = add_up(one.sums for one in replied)
    if not total.unknown_cost_requests:
        return None
    text = f"The cost of {count_unknown(total)} is unknown"
    unpriced = [
        one
        for one in sorted(replied, key=lambda one: -one.sums.unknown_cost_requests)
        if one.sums.unknown_cost_requests and costs.find_price(one.provider, one.model) is None
    ]
    if not unpriced:
        return MissingPrices(
            text + ": the price was set later, or the number of tokens or the price of a service tier is unknown.",
            "A cost is calculated when a request ends; a later price does not change it.",
        )
    models = [f"{costs.find_prefix(one.provider)}/{one.model}" for one in unpriced]
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
