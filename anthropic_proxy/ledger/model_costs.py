"""`ModelCosts`: finds the prices of models, and divides stored costs by kind of token (input, output and others).

`find_price` finds a price by the name of the provider, `find_price_by_prefix` by the prefix of the provider in model
ids. `divide_cost` divides the stored cost of a model in proportion to current prices. `calculate_base_cost` returns the
cost of given tokens at a given price.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

from msgspec import structs

from anthropic_proxy.ledger.prices import Price, PriceList, count_tokens
from anthropic_proxy.ledger.sums import UsageSums
from anthropic_proxy.routing.providers import find_registry
from anthropic_proxy.settings import Settings

KINDS = ("cache_read", "cache_write", "input", "output", "thinking")
"""Kinds of tokens that have their own price, in the order of a stacked chart from bottom to top."""
_VENDOR = "anthropic"
"""Name of the provider with the list prices of requested Claude models."""
_LARGE_CONTEXT_SUFFIX = "[1m]"
"""Suffix of a requested model id that requests the large context window. Price lists do not contain the suffix."""


class ModelCosts:
    """Finder of model prices, with the providers and prices in `settings`.

    After a reload of the settings, the caller creates another object.
    """

    def __init__(self, settings: Settings) -> None:
        self._registry = find_registry(settings)
        self._prices = PriceList(settings)

    def find_price(self, provider: str, model: str, when: datetime | None = None, tier: str = "") -> Price | None:
        """Return the price of the model `model` of a provider. None: the price is unknown.

        `tier` is a service tier as `normalize_service_tier` returns it.
        """
        row = next((row for row in self._registry if row.name == provider), None)
        return None if row is None else self._prices.find(row, model, when, tier)

    def find_price_by_prefix(
        self, prefix: str, model: str, when: datetime | None = None, tier: str = ""
    ) -> Price | None:
        """Return the price of `model` at the provider with the prefix `prefix` in model ids.

        None: the price is unknown. `tier` is a result of `normalize_service_tier`.
        """
        provider = self._registry.find_by_prefix(prefix)
        return None if provider is None else self._prices.find(provider, model, when, tier)

    def find_requested_price(
        self, requested: str, prefix: str, model: str, when: datetime | None = None
    ) -> Price | None:
        """Return the price of `requested`, the model id in a client request. None: the price is unknown.

        An id with the prefix of a provider has the price at this provider. A Claude model without a prefix has the list
        price of Anthropic, even if another provider served the request. `prefix` and `model` are the provider and the
        model that served the request. They matter only for an id without a list price. If this id is equal to `model`,
        its price at the provider `prefix` is returned.
        """
        name, when = requested.removesuffix(_LARGE_CONTEXT_SUFFIX), when or datetime.now(UTC)
        named, separator, own_name = name.partition("/")
        if separator and (price := self.find_price_by_prefix(named, own_name, when)) is not None:
            return price
        listed = self._prices.find_price_at_default_address(self._registry.find(_VENDOR), name, when)
        # an id that is not in the list has a price only if it is the used model
        return self.find_price_by_prefix(prefix, name, when) if listed is None and name == model else listed

    def find_prefix(self, provider: str) -> str:
        """Return the prefix that selects the provider `provider` in model ids, such as `gemini` for the name `google`.

        An unknown name is returned unchanged.
        """
        return next((row.prefix for row in self._registry if row.name == provider), provider)

    def find_api_key_variable(self, provider: str) -> str:
        """Return the name of the setting with the API keys of a provider, such as `GROQ_API_KEY`. "": none."""
        return next((row.key_variable or "" for row in self._registry if row.name == provider), "")

    def find_provider_name(self, prefix: str) -> str:
        """Return the name of the provider with the prefix `prefix` in model ids. "": no provider has this prefix."""
        provider = self._registry.find_by_prefix(prefix)
        return "" if provider is None else provider.name

    def divide_cost(self, provider: str, model: str, sums: UsageSums) -> dict[str, int]:
        """Divide the stored cost of a model by kind of token, and return the nano-dollars of each kind.

        Only the total cost is stored, so it is divided in proportion to the current prices. If no current price is
        known, the result has the total cost under the key "".
        """
        if not sums.cost:
            return {}
        price = self.find_price(provider, model)
        amounts = {} if price is None else _weigh(price, sums)
        whole = sum(amounts.values())
        if not whole:
            return {"": sums.cost}
        divided = {kind: int(sums.cost * amount / whole) for kind, amount in amounts.items() if amount}
        first = max(divided, key=lambda kind: divided[kind])
        divided[first] += sums.cost - sum(divided.values())
        return divided


def calculate_base_cost(price: Price, sums: UsageSums) -> int:
    """Return the cost in nano-dollars of the tokens in `sums` at `price`.

    Surcharges for long contexts, web searches and service tiers are not included.
    """
    return structs.replace(price, long_contexts=()).calculate_cost(count_tokens(sums))


def _weigh(price: Price, sums: UsageSums) -> Mapping[str, Decimal]:
    thinking = min(sums.thinking_tokens, sums.output_tokens)
    rates = price.base
    long = min(sums.cache_write_1h_tokens, sums.cache_write_tokens)
    return {
        "cache_read": sums.cache_read_tokens * rates.cache_read,
        "cache_write": (sums.cache_write_tokens - long) * rates.cache_write + long * rates.cache_write_1h,
        "input": sums.input_tokens * rates.input,
        "output": (sums.output_tokens - thinking) * rates.output,
        "thinking": thinking * rates.thinking,
    }
