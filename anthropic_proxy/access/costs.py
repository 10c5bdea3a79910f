"""Estimated and actual tokens and costs of client requests, for the token limits and budgets of virtual keys.

A virtual key is a key that the proxy issues to a client. `RequestCosts.estimate` computes the estimate before a
request, and `find_actual_usage` the actual values after it. The prices are the same as for the costs in the ledger, the
database of client requests.
"""

from collections.abc import Callable

from anthropic_proxy.access.limits import Amounts
from anthropic_proxy.ledger.costs import find_request_usage
from anthropic_proxy.ledger.model_costs import ModelCosts
from anthropic_proxy.plugins import AdmissionRequest, AdmissionTarget, Receipt
from anthropic_proxy.settings import Settings


class RequestCosts:
    """Calculator of the estimated and the actual tokens and costs of client requests.

    `current_settings` returns the settings in use. Their prices may change when the settings are reloaded.
    """

    def __init__(self, current_settings: Callable[[], Settings]) -> None:
        self._current_settings = current_settings
        self._settings = current_settings()
        self._costs = ModelCosts(self._settings)

    def estimate(self, request: AdmissionRequest, input_tokens: int) -> Amounts:
        """Return the estimated maximum of tokens and cost (in nano-dollars) over all models that may answer `request`.

        A model without a known price counts as free.
        """
        costs = self._current_costs()
        found = Amounts(1, 0)
        for target in request.targets:
            price = costs.find_price_by_prefix(target.prefix, target.model)
            cost = 0 if price is None else price.calculate_max_cost(input_tokens, target.max_output_tokens)
            found = Amounts(max(found.tokens, input_tokens + target.max_output_tokens), max(found.cost, cost))
        return found

    def find_target_without_price(self, request: AdmissionRequest) -> AdmissionTarget | None:
        """Return the first provider and model that may answer `request` and has no known price.

        None: all prices are known, so a budget in dollars can be checked.
        """
        costs = self._current_costs()
        return next(
            (each for each in request.targets if costs.find_price_by_prefix(each.prefix, each.model) is None), None
        )

    def find_actual_usage(self, receipt: Receipt, input_tokens: int) -> Amounts:
        """Return the number of tokens and the cost (in nano-dollars) of a finished request.

        An unknown cost counts as 0. If the provider did not report the input tokens, the estimate `input_tokens` is
        used.
        """
        usage = find_request_usage(self._current_costs(), receipt, input_tokens)
        return Amounts(usage.tokens, usage.cost or 0)

    def _current_costs(self) -> ModelCosts:
        settings = self._current_settings()
        if settings is not self._settings:
            self._settings, self._costs = settings, ModelCosts(settings)
        return self._costs
