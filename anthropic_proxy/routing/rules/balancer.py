"""`RouteBalancer`: orders the targets (provider and model) of a route by weight, latency or price.

The field `balance` of the route selects the criterion. The first target in the result of `order_targets` serves the
request, and the others are its fallbacks. `record_latency` and `record_failure` store the measurements that an order by
latency needs.

A sticky route sends all requests of a session to one target. If its order is by latency, `store_session_target` stores
this target. If the store is unavailable, requests are served as if nothing was stored.
"""

import asyncio
import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b

from anthropic_proxy.json_decoding import InvalidJson, decode_json
from anthropic_proxy.plugins import Store, StoreUnavailable
from anthropic_proxy.routing.router import Target
from anthropic_proxy.routing.rules.request_facts import RequestFacts
from anthropic_proxy.settings import ConfiguredRoute

LATENCY_SECONDS = 600.0
"""Seconds until a measured latency expires. Afterwards the next request measures the target again."""
SESSION_SECONDS = 3600.0
"""Seconds for which an idle session keeps its target. Prompt caches of providers expire earlier."""
FAILURE_LATENCY_SECONDS = 60.0
"""Seconds of latency assumed for a failed call, so that the target comes last until the next measurement."""
FAILURE_SECONDS = 60.0
"""Seconds until the assumed latency of a failed call expires."""
_NEW_MEASUREMENT = 0.3
"""Weight (0 to 1) of the latest measurement in the moving average of a target's latency."""


class RouteBalancer:
    """Object that orders the targets (provider and model) of a route for each request, by weight, latency or price."""

    def __init__(
        self, store: Store, prices: Mapping[str, float], *, random: Callable[[], float] = random.random
    ) -> None:
        self._store = store
        self._prices = prices
        self._random = random

    async def order_targets(
        self, targets: Sequence[Target], rule: ConfiguredRoute, facts: RequestFacts
    ) -> Sequence[Target]:
        """Return `targets` in the order in which they are called for a request.

        The field `balance` of the route `rule` selects the criterion: position in the file, weight, latency or price.
        """
        if rule.balance == "order" or len(targets) < 2:
            return targets
        if rule.balance == "cost":
            return sorted(targets, key=lambda target: self._prices.get(prefixed_model_id(target), math.inf))
        if rule.balance == "weighted":
            return self._order_by_weight(targets, rule, facts)
        return await self._order_by_latency(targets, rule, facts)

    async def record_latency(self, target: Target, seconds: float) -> None:
        """Add the time until the first content of a reply, in seconds, to the average latency of a target."""
        key = _latency_key(target)
        stored = _decode_latency(await self._find(key))
        average = seconds * _NEW_MEASUREMENT + stored * (1 - _NEW_MEASUREMENT) if stored else seconds
        await self._put(key, f"{average:.6f}", LATENCY_SECONDS)

    async def record_failure(self, target: Target) -> None:
        """Record a failed call to a target, so that an order by latency puts it last for `FAILURE_SECONDS`."""
        await self._put(_latency_key(target), f"{FAILURE_LATENCY_SECONDS}", FAILURE_SECONDS)

    async def store_session_target(self, rule: ConfiguredRoute, session: str, target: Target) -> None:
        """Store the target that served a session, if the route is sticky.

        A sticky route sends later requests of the session to the same target.
        """
        if rule.sticky and session:
            await self._put(_session_key(rule, session), prefixed_model_id(target), SESSION_SECONDS)

    def _order_by_weight(
        self, targets: Sequence[Target], rule: ConfiguredRoute, facts: RequestFacts
    ) -> Sequence[Target]:
        """Return the targets in a random order in which each target is first as often as its weight requires.

        For a sticky route, the session id determines the random numbers, so all processes choose the same target.
        """

        def draw(target: Target) -> float:
            if rule.sticky and facts.session:
                number = facts.draw_percent(f"{rule.name} {prefixed_model_id(target)}") / 100
            else:
                number = self._random()
            return -math.log(max(number, 1e-12)) / target.weight

        return sorted(targets, key=draw)

    async def _order_by_latency(
        self, targets: Sequence[Target], rule: ConfiguredRoute, facts: RequestFacts
    ) -> Sequence[Target]:
        """Return the targets by ascending latency.

        Targets without a measurement precede the others, and so does the target that already serves the session.
        """
        keys = [_latency_key(target) for target in targets]
        if rule.sticky and facts.session:
            keys.append(_session_key(rule, facts.session))
        stored = await asyncio.gather(*map(self._find, keys))  # at the same time: a store may be on another host
        kept = stored[-1] if len(stored) > len(targets) else None
        ranks = {
            target: (prefixed_model_id(target) != kept, _decode_latency(latency))
            for target, latency in zip(targets, stored, strict=False)
        }
        return sorted(targets, key=ranks.__getitem__)

    async def _find(self, key: str) -> str | None:
        """Return the value of a key in the store. None: no such key, or the store is unavailable."""
        try:
            return await self._store.get(key)
        except StoreUnavailable:
            return None

    async def _put(self, key: str, value: str, seconds: float) -> None:
        """Write a value to the store with an expiry in seconds. Do nothing if the store is unavailable."""
        with suppress(StoreUnavailable):
            await self._store.put(key, value, seconds)


def prefixed_model_id(target: Target) -> str:
    """Return the model id of a target with the prefix of its provider: `openai/gpt-4.1`."""
    return f"{target.provider.prefix}/{target.model}"


def _decode_latency(text: str | None) -> float:
    """Return a stored time to the first token. 0: it is missing, or damaged."""
    try:
        return decode_json(text or "0", float)
    except InvalidJson:
        return 0.0


def _latency_key(target: Target) -> str:
    return f"route/latency/{target.upstream}/{target.model}"


def _session_key(rule: ConfiguredRoute, session: str) -> str:
    """Return a short store key for a sticky route and a session id. Session ids of clients may be long."""
    digest = blake2b(session.encode(errors="replace"), digest_size=16).hexdigest()
    return f"route/session/{rule.name}/{digest}"
