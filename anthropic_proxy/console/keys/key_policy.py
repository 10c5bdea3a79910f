"""The policy of virtual keys: it authenticates client requests by them, and enforces their limits.

`identify` runs before the body is read, `admit` before a provider is called. `admit` reserves the highest amounts
(tokens, money) that the request can use. After the request, the actual amounts replace them.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from anthropic_proxy.console.keys.allowed_models import require_allowed_models, require_allowed_route
from anthropic_proxy.console.keys.descriptions import has_valid_checksum, hash_key, is_jwt
from anthropic_proxy.console.keys.key_table import KeysUnavailable, KeyTable
from anthropic_proxy.console.keys.limits import Amounts, Scope, build_limits, build_token_count_limits
from anthropic_proxy.console.keys.request_costs import RequestCosts, unknown_price_error
from anthropic_proxy.console.keys.reservations import Reservations
from anthropic_proxy.engine.messages.purpose import SETTINGS_HEADER
from anthropic_proxy.gateway.prices.price_list import PRICE_SOURCE
from anthropic_proxy.gateway.server.auth import find_credentials, find_matching_key
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import AdmissionRequest, Client, FurtherCall, Headers, Settle

if TYPE_CHECKING:
    from anthropic_proxy.console.keys.access_tokens import SignedInClients
    from anthropic_proxy.console.keys.service_tokens import ServiceTokens

MAX_BYTES_ON_LOOP = 1024 * 1024
"""Maximum size in bytes of a request body for which tokens are counted on the event loop. For a larger one, a thread
counts."""


class KeyPolicy:
    """Policy that authenticates client requests by virtual keys, and applies the limits of the key and its team.
    `clock` returns seconds since the epoch.
    """

    def __init__(
        self,
        table: KeyTable,
        current_settings: Callable[[], Settings],
        clock: Callable[[], float] = time.time,
        *,
        find_signed_in: "Callable[[], SignedInClients | None]" = lambda: None,
        find_services: "Callable[[], ServiceTokens | None]" = lambda: None,
        find_reservations: Callable[[], Reservations | None] = lambda: None,
        note_settings: Callable[[Client, Headers], None] = lambda client, headers: None,
    ) -> None:
        """`find_reservations` returns None before the start. `note_settings` receives the requests of virtual keys that
        state the managed settings of their machine.
        """
        self._table = table
        self._current_settings = current_settings
        self._clock = clock
        self._find_signed_in = find_signed_in
        self._find_services = find_services
        self._find_reservations = find_reservations
        self._note_settings = note_settings
        self._costs: RequestCosts | None = None
        """Prices of models. None: not loaded, because no limit has needed prices yet."""

    async def identify(self, headers: Headers) -> Client | None:
        client = await self._identify(headers)
        if SETTINGS_HEADER in headers and client is not None and client.key_id:
            self._note_settings(client, headers)
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
        accepted = next((entry for entry in entries if entry.end.at > now), None)
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
        described = max(range(len(entries)), key=lambda index: (entries[index].end.at, entries[index].end.key.id))
        is_complete = has_valid_checksum(presented[described])
        raise entries[described].end.build_error("" if is_complete else ", or it was not copied completely")

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
        now, reservations = self._clock(), self._find_reservations()
        if request.is_limit_query:
            budgets = [each for each in build_limits(scopes, Amounts(0, 0), now) if each.budget is not None]
            if budgets and reservations is not None:
                await reservations.read_states(budgets, request.response_headers, now)
            return None
        targets = await self._estimate(scopes, request)
        if request.has_reply:
            estimate = Amounts(max(one.tokens for one in targets), max(one.cost for one in targets))
            limits = build_limits(scopes, estimate, now, targets)
        else:
            limits = build_token_count_limits(scopes)
        if request.parent:  # its request is counted already, and runs meanwhile
            limits = [each for each in limits if each.rule not in ("requests_per_minute", "concurrency")]
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
