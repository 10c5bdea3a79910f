"""`CostCalculator`: calculates the cost of a client request from its receipt, the record of the finished request.

A `Cost` has two amounts: the cost at the used model of the provider, and at the model that the client requested.
Amounts are whole nano-dollars (10⁻⁹ US dollars). `find_usage` returns the tokens and the cost of one request as
`Usage`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec import Struct

from anthropic_proxy.ledger.model_costs import ModelCosts
from anthropic_proxy.ledger.prices import CONSTANT_SECONDS, MAX_CACHED_PRICES, Price, TokenCounts, count_tokens
from anthropic_proxy.plugins import Receipt, UpstreamAttempt
from anthropic_proxy.settings import Settings


class Cost(Struct, frozen=True):
    """Cost of one request in nano-dollars, at the used model and at the requested model."""

    cost: int | None
    """Cost in nano-dollars of the tokens at the price of the used model. None: the price is unknown."""
    requested_cost: int | None
    """Cost in nano-dollars of the same tokens at Claude's list price of the requested model. None: unknown."""
    source: str
    """Origin of the price of the used model, such as `genai-prices 0.2.3`, or `local` for a free model."""


class CostCalculator:
    """Calculator of the costs of requests, at the prices that `settings` select.

    The caller creates another calculator after a reload of the settings or of the price list.
    """

    def __init__(self, settings: Settings) -> None:
        self._costs = ModelCosts(settings)
        self._found: dict[tuple[str, str, str, int], tuple[Price | None, Price | None]] = {}
        """Prefix, used model, requested model and period of constant prices → price of the used and of the requested
        model."""

    def calculate(self, receipt: Receipt) -> Cost:
        """Return the cost in nano-dollars of the finished request in `receipt`, as the sum over its calls to providers.

        Each call is charged at the price of its own model. A request without tokens costs 0. The cost is None if a
        price is unknown, or if the client disconnected before the provider reported tokens.
        """
        if _lacks_usage(receipt):
            return Cost(None, None, "")
        calls = _list_calls(receipt)
        if not calls:
            return Cost(0, 0, "")
        price, requested = self._find_prices(receipt)
        if len(calls) == 1 and not calls[0].provider:
            tokens = calls[0].tokens
            listed = None if requested is None else requested.calculate_cost(tokens)
            return Cost(None, listed, "") if price is None else Cost(price.calculate_cost(tokens), listed, price.source)
        used = _find_used_prices(self._costs, receipt, calls)
        cost, sources = _add_costs(calls, used), dict.fromkeys(price.source for price in used if price is not None)
        return Cost(cost, _add_costs(calls, [requested] * len(calls)), "" if cost is None else ", ".join(sources))

    def _find_prices(self, receipt: Receipt) -> tuple[Price | None, Price | None]:
        """Return the price of the used and of the requested model of `receipt`. None: the price is unknown."""
        period = int(receipt.started_at) // CONSTANT_SECONDS
        key = (receipt.prefix, receipt.model, receipt.requested_model, period)
        if (found := self._found.get(key)) is None:
            if len(self._found) >= MAX_CACHED_PRICES:
                self._found.clear()
            when = datetime.fromtimestamp(receipt.started_at, UTC)
            found = self._found[key] = (
                self._costs.find_price_by_prefix(receipt.prefix, receipt.model, when),
                self._costs.find_requested_price(receipt.requested_model, receipt.prefix, receipt.model, when),
            )
        return found


class Usage(Struct, frozen=True):
    """Tokens and cost of one request, as the sum of its calls to providers."""

    tokens: int
    """Number of input and output tokens, without input tokens that were read from a cache."""
    cost: int | None
    """Cost in nano-dollars. None: the price of a used model is unknown."""


def find_usage(costs: ModelCosts, receipt: Receipt, input_tokens: int) -> Usage:
    """Return the tokens and the cost of the finished request in `receipt`, as sums over its calls to providers.

    `input_tokens` is an estimate for the request. It is used if the provider reported no input tokens for the last call
    but may charge them.
    """
    calls = _list_calls(receipt)
    if _lacks_input(receipt):
        last = _find_last_call(receipt)
        calls = [call for call in calls if call.tokens.context]
        context = max([input_tokens, *(call.tokens.context for call in calls)])
        tokens = TokenCounts(input=context, output=last.output_tokens, thinking=last.thinking_tokens)
        calls.append(_Call(tokens, last.provider, last.model) if len(receipt.attempts) > 1 else _Call(tokens))
    new_tokens = sum(call.tokens.input + call.tokens.cache_write + call.tokens.output for call in calls)
    return Usage(new_tokens, _add_costs(calls, _find_used_prices(costs, receipt, calls)))


class _Call(Struct, frozen=True):
    """Tokens of one call to a provider, with the provider and the model of the call."""

    tokens: TokenCounts
    provider: str = ""
    """Name of the provider. "": provider and model are those of the receipt."""
    model: str = ""


def _list_calls(receipt: Receipt) -> list[_Call]:
    """Return the tokens of each call to a provider in `receipt`, without calls that used no tokens.

    The last item has tokens that belong to no attempt, such as those of an interrupted reply.
    """
    whole = count_tokens(receipt)
    if len(receipt.attempts) < 2:
        return [_Call(whole)] if _has_tokens(whole) else []
    calls = [_Call(count_tokens(one), one.provider, one.model) for one in receipt.attempts]
    calls.append(_Call(_subtract(whole, [call.tokens for call in calls])))
    return [call for call in calls if _has_tokens(call.tokens)]


def _find_used_prices(costs: ModelCosts, receipt: Receipt, calls: Sequence[_Call]) -> list[Price | None]:
    when = datetime.fromtimestamp(receipt.started_at, UTC)
    return [
        costs.find_price(call.provider, call.model, when)
        if call.provider
        else costs.find_price_by_prefix(receipt.prefix, receipt.model, when)
        for call in calls
    ]


def _has_tokens(tokens: TokenCounts) -> bool:
    return bool(tokens.context or tokens.output)


def _subtract(whole: TokenCounts, calls: Sequence[TokenCounts]) -> TokenCounts:
    return TokenCounts(
        input=max(whole.input - sum(one.input for one in calls), 0),
        cache_read=max(whole.cache_read - sum(one.cache_read for one in calls), 0),
        cache_write=max(whole.cache_write - sum(one.cache_write for one in calls), 0),
        cache_write_1h=max(whole.cache_write_1h - sum(one.cache_write_1h for one in calls), 0),
        output=max(whole.output - sum(one.output for one in calls), 0),
        thinking=max(whole.thinking - sum(one.thinking for one in calls), 0),
    )


def _lacks_usage(receipt: Receipt) -> bool:
    """Return True if the client disconnected before the token usage of the last call in `receipt` was reported."""
    if receipt.outcome != "cancelled" or not receipt.provider:
        return False
    last = _find_last_call(receipt)
    return not last.error_type and not _has_tokens(count_tokens(last))


def _lacks_input(receipt: Receipt) -> bool:
    """Return True if the input tokens of the last call in `receipt` are unknown, but the provider may charge them."""
    if not receipt.provider:
        return False
    last, is_cancelled = _find_last_call(receipt), receipt.outcome == "cancelled"
    if count_tokens(receipt).context:  # of earlier calls
        return is_cancelled and not last.error_type and not count_tokens(last).context
    return is_cancelled or receipt.first_token_seconds is not None


def _find_last_call(receipt: Receipt) -> Receipt | UpstreamAttempt:
    return receipt.attempts[-1] if receipt.attempts else receipt


def _add_costs(calls: Sequence[_Call], prices: Sequence[Price | None]) -> int | None:
    """Return the sum in nano-dollars of the costs of `calls`. None: the price of a call is unknown.

    `prices` has the price of each call, in the same order.
    """
    costs = [price.calculate_cost(call.tokens) for call, price in zip(calls, prices, strict=True) if price is not None]
    return sum(costs) if len(costs) == len(calls) else None
