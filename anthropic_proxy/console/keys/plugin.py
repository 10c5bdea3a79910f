"""Virtual keys, which are keys that the proxy issues to clients. `KeyPolicy` authenticates client requests by them, and
enforces their limits. The plugin of `gateway_protocol` opens them.

`identify` runs before the body is read, `admit` before a provider is called. `admit` reserves the highest amounts
(tokens, money) that the request can use. After the request, the actual amounts replace them.
"""

import asyncio
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from importlib import import_module
from typing import TYPE_CHECKING

from anthropic_proxy.console.keys.alerts import BudgetAlerts
from anthropic_proxy.console.keys.api import AdminApi
from anthropic_proxy.console.keys.descriptions import format_time, has_valid_checksum, hash_key, is_jwt
from anthropic_proxy.console.keys.key_table import Ending, KeyEntry, KeysUnavailable, KeyTable
from anthropic_proxy.console.keys.limits import (
    Amounts,
    KeyLimit,
    Scope,
    build_limits,
    build_token_count_limits,
    list_budget_limits,
)
from anthropic_proxy.console.keys.queries import sum_budget_use
from anthropic_proxy.console.keys.reservations import Reservations
from anthropic_proxy.console.ledger.costs import ModelCosts, find_request_usage, find_running_usage
from anthropic_proxy.console.ledger.database import open_for_reading
from anthropic_proxy.engine.messages.purpose import SETTINGS_HEADER
from anthropic_proxy.engine.own_thread import run_in_own_thread
from anthropic_proxy.errors import AuthenticationFailed, ConfigurationError, PermissionDenied
from anthropic_proxy.gateway.prices.price_list import PRICE_SOURCE
from anthropic_proxy.gateway.server.auth import find_credentials, find_matching_key
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.files import format_toml_value
from anthropic_proxy.gateway.settings.key_rules import Budget
from anthropic_proxy.plugins import (
    AdmissionRequest,
    AdmissionTarget,
    BudgetLabels,
    Client,
    FurtherCall,
    Gateway,
    Headers,
    Receipt,
    Settle,
    Store,
)

if TYPE_CHECKING:
    from anthropic_proxy.console.keys.access_tokens import SignedInClients
    from anthropic_proxy.console.keys.service_tokens import ServiceTokens

_SERVICE_TOKENS = "anthropic_proxy.console.keys.service_tokens"
_COUNTING, _COUNTING_SECONDS = "keys/counting", 3600.0
"""Value by which one of several workers counts the use of budgets before the start, and its lifetime."""
_COUNTED_SCOPES = 100
MAX_BYTES_ON_LOOP = 1024 * 1024
"""Maximum size in bytes of a request body for which tokens are counted on the event loop. For a larger one, a thread
counts."""


def open_access(settings: Settings) -> "Access":
    """Raises `ConfigurationError` if `settings` disable the database with the keys."""
    if not settings.has_ledger():
        raise ConfigurationError(
            "VIRTUAL_KEYS is true, but DATABASE_URL is off: virtual keys are stored in that database. "
            "Unset DATABASE_URL, or set it to a database, or set VIRTUAL_KEYS=false.",
            code="virtual-keys-without-database",
        )
    return Access(settings)


class Access:
    """The virtual keys of this process, with their policy, their limits and the API of their administration."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._gateway: Gateway | None = None
        self._reservations: Reservations | None = None
        self._alerts: BudgetAlerts | None = None
        self._counting: asyncio.Task[None] | None = None
        self.table = KeyTable(settings, self._warn, self._current_settings)
        self._signed_in: SignedInClients | None = None
        if settings.sign_in is not None:
            self._find_signed_in()  # the first token does not wait for its libraries
        self._services: ServiceTokens | None = None
        if settings.token_issuers:
            import_module(_SERVICE_TOKENS)  # the first token does not wait for its libraries
        self.policy = KeyPolicy(
            self.table,
            self._current_settings,
            find_signed_in=self._find_signed_in,
            find_services=self._find_services,
        )
        self.api = AdminApi(
            self._current_settings,
            lambda: None if self._gateway is None else self._gateway.store,
            self.table.refresh,
            time.time,
        )

    async def start(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._alerts = BudgetAlerts(gateway)
        self._reservations = Reservations(
            gateway.store,
            self._warn,
            read_used=self._read_used,
            find_contact=lambda: self._current_settings().limit_contact,
            note_use=self._alerts.note,
        )
        self._reservations.start()
        self.policy.set_reservations(self._reservations)
        await self.table.start()
        self._alerts.start()
        if gateway.store.state.kind == "memory":
            self._counting = asyncio.create_task(self._count_earlier_use(gateway.store, self._reservations))

    async def stop(self) -> None:
        await self.table.stop()
        await self.api.stop()
        if self._counting is not None:
            self._counting.cancel()
        if self._reservations is not None:
            await self._reservations.stop()
        if self._alerts is not None:
            await self._alerts.stop()

    def _find_signed_in(self) -> "SignedInClients | None":
        """None: `SIGN_IN_SECRET` is not set. A reload may set it."""
        if self._signed_in is None and self._current_settings().sign_in is not None:
            from anthropic_proxy.console.keys.access_tokens import SignedInClients  # noqa: PLC0415  # optional library

            self._signed_in = SignedInClients(self.table, self._current_settings)
        return self._signed_in

    def _find_services(self) -> "ServiceTokens | None":
        """None: no table `[token_issuers.NAME]` is set."""
        if self._services is None and self._gateway is not None and self._gateway.settings.token_issuers:
            self._services = import_module(_SERVICE_TOKENS).ServiceTokens(self.table, self._gateway)
        return self._services

    def budget_uses(self) -> Mapping[BudgetLabels, float]:
        return {} if self._reservations is None else self._reservations.find_budget_uses(time.time())

    async def _count_earlier_use(self, store: Store, reservations: Reservations) -> None:
        """Count the use of all budgets before this start, so that pages and reports have it before the next request of
        a key. The first request of a key does not wait for the others.
        """
        if await store.increment(_COUNTING, 1, _COUNTING_SECONDS) > 1:
            return  # another worker does it
        scopes, now = self.table.list_scopes_with_budgets(), time.time()
        for start in range(0, len(scopes), _COUNTED_SCOPES):
            limits = list_budget_limits(scopes[start : start + _COUNTED_SCOPES], now)
            await reservations.add_forgotten_use(limits, now)

    async def _read_used(self, limits: Sequence[KeyLimit], now: float) -> Sequence[int]:
        def read() -> Sequence[int]:
            with closing(open_for_reading(self._settings)) as connection:
                return [
                    sum_budget_use(connection, self._settings, each.scope, each.budget, now) if each.budget else 0
                    for each in limits
                ]

        return await run_in_own_thread("budgets", read)

    def _current_settings(self) -> Settings:
        return self._settings if self._gateway is None else self._gateway.settings

    def _warn(self, text: str) -> None:
        if self._gateway is not None:
            self._gateway.log_warning_each_time(text)


class KeyPolicy:
    """Policy that authenticates client requests by virtual keys, and applies the limits of the key and its team.
    `clock` returns seconds since the epoch.
    """

    def __init__(
        self,
        table: KeyTable,
        current_settings: Callable[[], Settings],
        clock: Callable[[], float] = time.time,
        find_signed_in: "Callable[[], SignedInClients | None]" = lambda: None,
        find_services: "Callable[[], ServiceTokens | None]" = lambda: None,
    ) -> None:
        self._table = table
        self._current_settings = current_settings
        self._clock = clock
        self._find_signed_in = find_signed_in
        self._find_services = find_services
        self._reservations: Reservations | None = None
        self._costs: RequestCosts | None = None
        """Prices of models. None: not loaded, because no limit has needed prices yet."""

        self.note_settings: Callable[[Client, Headers], None] | None = None
        """Receives the requests of virtual keys that state the managed settings of their machine."""

    def set_reservations(self, reservations: Reservations) -> None:
        self._reservations = reservations

    async def identify(self, headers: Headers) -> Client | None:
        client = await self._identify(headers)
        if SETTINGS_HEADER in headers and client is not None and client.key_id and self.note_settings is not None:
            self.note_settings(client, headers)
        return client

    async def _identify(self, headers: Headers) -> Client | None:
        """Return the client that the virtual key, access token or admin key in the request headers identifies. None:
        the headers contain no key, or a `PROXY_API_KEY`, which the server checks itself. Raises `AuthenticationFailed`
        for any other key, and `KeysUnavailable` if virtual keys cannot be checked.
        """
        presented = find_credentials(headers)
        if not presented:
            return None
        if any(map(is_jwt, presented)):
            signed_in = self._find_signed_in()
            if signed_in is not None and (client := await signed_in.identify(presented)) is not None:
                return client
            services = self._find_services()
            if services is not None and (client := await services.identify(presented)) is not None:
                return client
        entries = [self._table.find_entry(hash_key(credential)) for credential in presented]
        now = self._clock()
        accepted = next((entry for entry in entries if entry.ends_at > now), None)
        if accepted is not None:
            return accepted.client
        # the same steps for each reason of a rejection, so that the duration does not reveal it
        settings = self._current_settings()
        admin = find_matching_key(presented, settings.admin_api_keys)
        proxy = find_matching_key(presented, settings.proxy_api_keys)
        if admin is not None:
            return Client(name=f"admin key {admin}", role="admin")
        if proxy is not None:
            return None
        if not self._table.is_loaded:
            raise KeysUnavailable
        described = max(range(len(entries)), key=lambda index: (entries[index].ends_at, entries[index].key.id))
        raise rejected_key_error(entries[described], has_valid_checksum(presented[described]))

    async def admit(self, request: AdmissionRequest) -> Settle | None:
        """Return the function that replaces these amounts by the actual ones after the request. None: nothing was
        reserved. Raises `PermissionDenied`, `LimitReached`, or `KeysUnavailable` if the key is not in the key table.
        """
        if not request.client.key_id:
            return None
        scopes = self._table.find_scopes(request.client.key_id)
        if request.has_reply and not request.parent:  # the settings choose the model of a check, not the client
            require_allowed_route(scopes, request)
            require_allowed_models(scopes, request)
        now = self._clock()
        if request.is_limit_query:
            budgets = [each for each in build_limits(scopes, Amounts(0, 0), now) if each.budget is not None]
            if budgets and self._reservations is not None:
                await self._reservations.read_states(budgets, request.response_headers, now)
            return None
        targets = await self._estimate(scopes, request)
        if request.has_reply:
            estimate = Amounts(max(one.tokens for one in targets), max(one.cost for one in targets))
            limits = build_limits(scopes, estimate, now, targets)
        else:
            limits = build_token_count_limits(scopes)
        if request.parent:  # its request is counted already, and runs meanwhile
            limits = [each for each in limits if each.rule not in ("requests_per_minute", "concurrency")]
        reservations = self._reservations
        if not limits or reservations is None:
            return None
        held = await reservations.reserve(limits, request.response_headers, now)
        if any(each.budget is not None for each in limits) and (costs := self._costs) is not None:

            async def admit_further_call(further: FurtherCall) -> None:
                tokens = await _estimate_tokens(further.body_bytes, further.estimate_input_tokens)
                spent = costs.find_usage_so_far(further.receipt)
                next_call = costs.estimate(further.target, tokens)
                needed = Amounts(spent.tokens + next_call.tokens, spent.cost + next_call.cost, next_call.model)
                await reservations.raise_to(held, needed, self._clock())

            request.further_calls.append(admit_further_call)
        return lambda receipt: reservations.settle(
            held, Amounts(0, 0) if self._costs is None else self._costs.find_actual_usage(receipt)
        )

    async def _estimate(self, scopes: Sequence[Scope], request: AdmissionRequest) -> Sequence[Amounts]:
        """Return the amounts to reserve for each model that may reply."""
        needs_tokens = any(scope.rules.tokens_per_minute is not None or scope.rules.budgets for scope in scopes)
        if not (request.has_reply and needs_tokens):
            return [Amounts(0, 0)]
        if self._costs is None:
            await asyncio.to_thread(PRICE_SOURCE.load)
            self._costs = RequestCosts(self._current_settings)
        for scope in scopes:
            in_dollars = [budget for budget in scope.rules.budgets if budget.unit == "usd" and not budget.soft]
            target = self._costs.find_target_without_price(request, in_dollars) if in_dollars else None
            if target is not None:
                raise unknown_price_error(scope, target)
        tokens = await _estimate_tokens(request.body_bytes, request.estimate_input_tokens)
        return [self._costs.estimate(target, tokens) for target in request.targets] or [Amounts(1, 0)]


async def _estimate_tokens(body_bytes: int, estimate: Callable[[], int]) -> int:
    return await asyncio.to_thread(estimate) if body_bytes > MAX_BYTES_ON_LOOP else estimate()


_REJECTED: Mapping[Ending, str] = {
    "unknown": "The key is not a key of this proxy{typed}. Its administrator creates one:  "
    "anthropic-proxy keys create LABEL",
    "revoked": "The key {label!r} is revoked{typed}. The administrator of the proxy creates another one:  "
    "anthropic-proxy keys create LABEL",
    "unreadable": "The key {label!r} is rejected, because its limits or those of its team cannot be read from the "
    "database. The log of the proxy has the reason. Its administrator repairs it, or creates another key:  "
    "anthropic-proxy keys create LABEL",
    "expired": "The key {label!r} expired at {end}{typed}. The administrator of the proxy extends it:  "
    "anthropic-proxy keys change {argument} --expires 30d",
    "replaced": "The key {label!r} was replaced at {end}{typed}. Use its new text, or create another one:  "
    "anthropic-proxy keys rotate {argument}",
    "no access": "The key {label!r} is rejected, because the access of its owner has ended at {end}. The owner "
    "signs in again from Claude Code.",
    "no group": "The key {label!r} is rejected, because no table [sign_in.groups.NAME] has its owner any more. An "
    "administrator should add the owner to a group, or add a table.",
}


def rejected_key_error(entry: KeyEntry, has_valid_checksum: bool) -> AuthenticationFailed:
    typed = ("" if has_valid_checksum else ", or it was not copied completely") * (entry.ending == "unknown")
    end = format_time(max(entry.ends_at, 0.0))
    label = entry.key.label
    message = _REJECTED[entry.ending].format(label=label, argument=shlex.quote(label), end=end, typed=typed)
    return AuthenticationFailed(message, code="virtual-key-rejected", should_retry=False)


def require_allowed_models(scopes: Sequence[Scope], request: AdmissionRequest) -> None:
    """Raise `PermissionDenied` if a virtual key or its team may not use a model or provider of `request`."""
    for scope in scopes:
        rules = scope.rules
        used = [f"{target.prefix}/{target.model}" for target in request.targets]
        normalized = request.normalized_model or request.model  # an alias may name another provider
        if not rules.allows_model([normalized, request.mapped_model or normalized]):
            denied = next((name for name in used if not rules.allows_model([name])), None)
            if denied is not None or not used:
                raise PermissionDenied(
                    f"{scope.describe()} does not allow the model {request.model!r} ({denied}). Allowed: "
                    f"{', '.join(rules.models)}. Another list:  {scope.format_change_command('--models LIST')}",
                    code="key-models",
                )
        for target in request.targets:
            if not rules.allows_provider(target.prefix):
                raise PermissionDenied(
                    f"{scope.describe()} does not allow the provider {target.prefix!r}, to which {request.model!r} is "
                    f"sent. Allowed: {', '.join(rules.providers)}. Another list:  "
                    f"{scope.format_change_command('--providers LIST')}",
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
                f"{allowed}. Another list:  {scope.format_change_command('--routes LIST')}",
                code="key-routes",
            )
        raise PermissionDenied(
            f"{scope.describe()} allows only requests of certain routes, and no route matches this one. Allowed: "
            f"{allowed}. Another list:  {scope.format_change_command('--routes LIST')}",
            code="key-routes",
        )


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
