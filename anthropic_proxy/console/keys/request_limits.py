"""Limits of requests: `RequestLimits` checks what the keys, teams and budgets of a request allow, and reserves the
highest amounts (tokens, money) that it can use. After the request, the actual amounts replace them.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from anthropic_proxy.console.keys.limits import BudgetLimit, Scope, build_limits, build_token_count_limits
from anthropic_proxy.console.keys.reservations import Reservations
from anthropic_proxy.console.ledger.costs import Amounts, ModelCosts, list_amounts_so_far, list_used_amounts
from anthropic_proxy.engine.service_tiers import normalize_region
from anthropic_proxy.engine.turns import SharedWorker, Turns
from anthropic_proxy.engine.wires.bound_requests import OWN_SEARCH
from anthropic_proxy.engine.wires.purposes import OWN_PURPOSES, AdmittedPurpose
from anthropic_proxy.errors import PermissionDenied
from anthropic_proxy.gateway.prices.price_list import PRICE_SOURCE
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.files import format_toml_value
from anthropic_proxy.gateway.settings.key_rules import LIMIT_FIELDS, Budget
from anthropic_proxy.plugins import AdmissionRequest, AdmissionTarget, Client, FurtherCall, Receipt, Settle

MAX_BYTES_ON_LOOP = 1024 * 1024
"""Maximum size in bytes of a request body for which tokens are counted on the event loop. For a larger one, a thread
counts."""
ESTIMATES = SharedWorker(
    name="the thread that counts tokens for limits", places=1, share=1, max_waiting=256, max_wait_seconds=60.0
)


_ALL_RULES = frozenset((*LIMIT_FIELDS, ""))
_OF_THE_PARENT = frozenset(("requests_per_minute", "concurrency"))
"""Rules by which the request counts that caused another one, and that runs meanwhile."""
_COUNTED_RULES: Mapping[AdmittedPurpose, Collection[str]] = {
    **dict.fromkeys(("message", "classifier", "probe"), _ALL_RULES),
    **dict.fromkeys(OWN_PURPOSES, _ALL_RULES - _OF_THE_PARENT),
    **dict.fromkeys(("token_count", "resource"), frozenset(("token_counts_per_minute",))),
    "model_list": frozenset(),
}
"""Purpose of a request → the rules by which it counts (`KeyLimit.rule`). "": budgets."""


class RequestCosts:
    """What a request can cost before it is sent, and what it has cost."""

    def __init__(self, current_settings: Callable[[], Settings]) -> None:
        self._current_settings = current_settings
        self._settings = current_settings()
        self._costs = ModelCosts(self._settings, needs_published=True)

    def estimate(self, target: AdmissionTarget, input_tokens: int) -> Sequence[Amounts]:
        """Return the maximum amounts of a reply by `target`, and of the models that the request names in addition, with
        service tier, region and web searches that it asks for. A model without a known price counts as free, and so do
        searches.
        """
        return [self._estimate_model(called, input_tokens) for called in (target, *target.named_models)]

    def _estimate_model(self, target: AdmissionTarget, input_tokens: int) -> Amounts:
        costs = self._current_costs()
        cost = 0
        prices = [
            costs.find_price_by_prefix(target.prefix, target.model, tier=tier, region=normalize_region(region))
            for tier in {"", target.service_tier}
            for region in {"", target.region}
        ]
        for price in filter(None, prices):
            searches = price.calculate_search_cost(target.max_searches) or 0
            call = price.calculate_max_cost(input_tokens, target.max_output_tokens)
            cost = max(cost, call * target.max_calls + searches)
        tokens = max(input_tokens + target.max_output_tokens, 1) * target.max_calls
        return Amounts(tokens, cost, f"{target.prefix}/{target.model}")

    def find_target_without_price(self, request: AdmissionRequest, budgets: Sequence[Budget]) -> AdmissionTarget | None:
        """Return the first provider and model that may be called for `request`, counts for one of `budgets` and has no
        known price. None: all prices are known, so these budgets in dollars can be checked.
        """
        costs = self._current_costs()
        for called in list_called_models(request):
            is_counted = any(budget.counts(f"{called.prefix}/{called.model}") for budget in budgets)
            if is_counted and costs.find_price_by_prefix(called.prefix, called.model) is None:
                return called
        return None

    def list_used(self, receipt: Receipt) -> Sequence[Amounts]:
        """Return what a finished request has used of each model."""
        return list_used_amounts(self._current_costs(), receipt)

    def list_used_so_far(self, receipt: Receipt) -> Sequence[Amounts]:
        """Return what the calls of a running request have used of each model."""
        return list_amounts_so_far(self._current_costs(), receipt)

    def _current_costs(self) -> ModelCosts:
        settings = self._current_settings()
        if settings is not self._settings:
            self._costs = ModelCosts(settings, needs_published=True)
            self._settings = settings
        return self._costs


class RequestLimits:
    """It implements `plugins.Limiter`. `find_scopes` returns whose rules apply to a client, and may raise a
    `ClientError`. `find_reservations` returns None before the start. `clock` returns seconds since the epoch.
    """

    def __init__(
        self,
        find_scopes: Callable[[Client], Sequence[Scope]],
        current_settings: Callable[[], Settings],
        find_reservations: Callable[[], Reservations | None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._find_scopes = find_scopes
        self._current_settings = current_settings
        self._find_reservations = find_reservations
        self._clock = clock
        self._estimates = Turns(ESTIMATES)
        self._costs: RequestCosts | None = None
        """Prices of models. None: not loaded, because no limit has needed prices yet."""

    async def admit(self, request: AdmissionRequest) -> Settle | None:
        """Return the function that replaces these amounts by the actual ones after the request. None: nothing was
        reserved. Raises `PermissionDenied`, `LimitReached`, or `KeysUnavailable` if the key is not in the key table.
        """
        scopes = self._find_scopes(request.client)
        if not scopes:
            return None
        if request.model:
            require_allowed_route(scopes, request)
        require_allowed_models(scopes, request, request.targets)
        for scope in scopes:
            if scope.rules.providers:
                request.servers.intersection_update((OWN_SEARCH, *scope.rules.providers))
        reservations = self._find_reservations()
        now = self._clock() if reservations is None else reservations.find_time(self._clock)
        if request.is_limit_query:
            budgets = [key_limit for key_limit in build_limits(scopes, (), now) if isinstance(key_limit, BudgetLimit)]
            if budgets and reservations is not None:
                await reservations.read_states(budgets, request.response_headers, now)
            return None
        targets = await self._estimate(scopes, request)
        limits = build_limits(scopes, targets, now) if request.has_reply else build_token_count_limits(scopes)
        limits = [key_limit for key_limit in limits if key_limit.rule in _COUNTED_RULES[request.purpose]]
        if request.has_reply:

            async def require_allowed_call(further: FurtherCall) -> None:
                require_allowed_models(scopes, request, [further.target])

            request.further_calls.append(require_allowed_call)
        if not limits or reservations is None:
            return None
        held = await reservations.reserve(limits, request.response_headers, now)
        if any(isinstance(key_limit, BudgetLimit) for key_limit in limits) and (costs := self._costs) is not None:

            async def admit_further_call(further: FurtherCall) -> None:
                tokens = await self._estimate_tokens(request.client, further.body_bytes, further.estimate_input_tokens)
                needed = [*costs.list_used_so_far(further.receipt), *costs.estimate(further.target, tokens)]
                await reservations.raise_to(held, needed, reservations.find_time(self._clock))

            request.further_calls.append(admit_further_call)
        return lambda receipt: reservations.settle(held, () if self._costs is None else self._costs.list_used(receipt))

    async def _estimate(self, scopes: Sequence[Scope], request: AdmissionRequest) -> Sequence[Sequence[Amounts]]:
        """Return for each target the amounts to reserve for the models that are called then."""
        needs_tokens = any(scope.rules.tokens_per_minute is not None or scope.rules.budgets for scope in scopes)
        if not (request.has_reply and needs_tokens):
            return []
        if self._costs is None:
            await asyncio.to_thread(PRICE_SOURCE.load)
            self._costs = RequestCosts(self._current_settings)
        for scope in scopes:
            if scope.is_personal:
                continue
            in_dollars = [budget for budget in scope.rules.budgets if budget.unit == "usd" and not budget.soft]
            target = self._costs.find_target_without_price(request, in_dollars) if in_dollars else None
            if target is not None:
                name = f"{target.prefix}/{target.model}"
                place = f", which the field {target.field} names," if target.field else ""
                raise PermissionDenied(
                    f"{scope.describe()} has a budget in dollars, and the price of {name}{place} is unknown.",
                    remedy=f"Add a table [prices.{format_toml_value(name)}] to anthropic-proxy.toml, or use a budget "
                    "in tokens.",
                    wish="the price of this model",
                    code="key-price",
                )
        tokens = await self._estimate_tokens(request.client, request.body_bytes, request.estimate_input_tokens)
        return [self._costs.estimate(target, tokens) for target in request.targets] or [[Amounts(1, 0)]]

    async def _estimate_tokens(self, client: Client, body_bytes: int, estimate: Callable[[], int]) -> int:
        if body_bytes <= MAX_BYTES_ON_LOOP:
            return estimate()
        async with self._estimates.hold(client.payer):
            return await asyncio.to_thread(estimate)


def list_called_models(request: AdmissionRequest) -> Sequence[AdmissionTarget]:
    """Return the models that may reply, and those that the request names in addition."""
    return [called for target in request.targets for called in (target, *target.named_models)]


def require_allowed_models(
    scopes: Sequence[Scope], request: AdmissionRequest, targets: Sequence[AdmissionTarget]
) -> None:
    """Raise `PermissionDenied` if a virtual key or its team may not use a model or provider of `targets`."""
    for scope in scopes:
        rules = scope.rules
        used = [f"{target.prefix}/{target.model}" for target in targets]
        normalized = request.normalized_model or request.model  # an alias may name another provider
        if normalized and not rules.allows_model([normalized, request.mapped_model or normalized]):
            denied = next((name for name in used if not rules.allows_model([name])), None)
            if denied is not None or not used:
                raise PermissionDenied(
                    f"{scope.describe()} does not allow the model {request.model!r} ({denied}). Allowed: "
                    f"{', '.join(rules.models)}.",
                    remedy=f"Another list:  {scope.format_change_command('--models LIST')}",
                    wish="other models",
                    code="key-models",
                )
        for named in (model for target in targets for model in target.named_models):
            if not rules.allows_model([named.model, f"{named.prefix}/{named.model}"]):
                raise PermissionDenied(
                    f"{scope.describe()} does not allow the model {named.model!r}, which the field {named.field} "
                    f"names. Allowed: {', '.join(rules.models)}.",
                    remedy=f"Another list:  {scope.format_change_command('--models LIST')}",
                    wish="other models",
                    code="key-models",
                )
        for target in targets:
            if not rules.allows_provider(target.prefix):
                raise PermissionDenied(
                    f"{scope.describe()} does not allow the provider {target.prefix!r}, to which {request.model!r} is "
                    f"sent. Allowed: {', '.join(rules.providers)}.",
                    remedy=f"Another list:  {scope.format_change_command('--providers LIST')}",
                    wish="other providers",
                    code="key-models",
                )


def require_allowed_route(scopes: Sequence[Scope], request: AdmissionRequest) -> None:
    """A list of allowed routes excludes requests without a route."""
    for scope in scopes:
        if scope.rules.allows_route(request.route):
            continue
        allowed = ", ".join(scope.rules.routes)
        if request.route:
            raise PermissionDenied(
                f"{scope.describe()} does not allow the route {request.route!r}, which matches this request. Allowed: "
                f"{allowed}.",
                remedy=f"Another list:  {scope.format_change_command('--routes LIST')}",
                wish="other routes",
                code="key-routes",
            )
        raise PermissionDenied(
            f"{scope.describe()} allows only requests of certain routes, and no route matches this one. Allowed: "
            f"{allowed}.",
            remedy=f"Another list:  {scope.format_change_command('--routes LIST')}",
            wish="other routes",
            code="key-routes",
        )
