"""What a request can cost before it is sent, and what it has cost."""

from collections.abc import Callable, Sequence

from anthropic_proxy.console.keys.limits import Amounts, Scope
from anthropic_proxy.console.ledger.costs import ModelCosts, find_request_usage, find_running_usage
from anthropic_proxy.errors import PermissionDenied
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.files import format_toml_value
from anthropic_proxy.gateway.settings.key_rules import Budget
from anthropic_proxy.plugins import AdmissionRequest, AdmissionTarget, Receipt


def unknown_price_error(scope: Scope, target: AdmissionTarget) -> PermissionDenied:
    """The virtual key or team `scope` has a budget in dollars, which cannot be checked without a price."""
    name = f"{target.prefix}/{target.model}"
    return PermissionDenied(
        f"{scope.describe()} has a budget in dollars, and the price of {name} is unknown. Add a table "
        f"[prices.{format_toml_value(name)}] to anthropic-proxy.toml, or use a budget in tokens.",
        code="key-price",
    )


class RequestCosts:
    def __init__(self, current_settings: Callable[[], Settings]) -> None:
        self._current_settings = current_settings
        self._settings = current_settings()
        self._costs = ModelCosts(self._settings, needs_published=True)

    def estimate(self, target: AdmissionTarget, input_tokens: int) -> Amounts:
        """Return the maximum of tokens and cost (in nano-dollars) of a reply by `target`, with the service tier and the
        web searches that the request asks for. A model without a known price counts as free, and so do searches.
        """
        costs, cost = self._current_costs(), 0
        for tier in {"", target.service_tier}:
            price = costs.find_price_by_prefix(target.prefix, target.model, tier=tier)
            if price is not None:
                searches = price.calculate_search_cost(target.max_searches) or 0
                cost = max(cost, price.calculate_max_cost(input_tokens, target.max_output_tokens) + searches)
        return Amounts(max(input_tokens + target.max_output_tokens, 1), cost, f"{target.prefix}/{target.model}")

    def find_target_without_price(self, request: AdmissionRequest, budgets: Sequence[Budget]) -> AdmissionTarget | None:
        """Return the first provider and model that may answer `request`, counts for one of `budgets` and has no known
        price. None: all prices are known, so these budgets in dollars can be checked.
        """
        costs = self._current_costs()
        for each in request.targets:
            is_counted = any(budget.counts(f"{each.prefix}/{each.model}") for budget in budgets)
            if is_counted and costs.find_price_by_prefix(each.prefix, each.model) is None:
                return each
        return None

    def find_actual_usage(self, receipt: Receipt) -> Amounts:
        """Return the tokens and the cost (in nano-dollars) of a finished request. An unknown cost counts as 0."""
        usage = find_request_usage(self._current_costs(), receipt)
        return Amounts(usage.tokens, usage.cost or 0, f"{receipt.prefix}/{receipt.model}")

    def find_usage_so_far(self, receipt: Receipt) -> Amounts:
        """Return the tokens and the cost (in nano-dollars) of the calls of a running request."""
        usage = find_running_usage(self._current_costs(), receipt)
        return Amounts(usage.tokens, usage.cost or 0)

    def _current_costs(self) -> ModelCosts:
        settings = self._current_settings()
        if settings is not self._settings:
            self._settings, self._costs = settings, ModelCosts(settings, needs_published=True)
        return self._costs
