"""`Reservations`: amounts of limits that running client requests have reserved in the store (Redis, a file or memory).

A request with a virtual key (a key that the proxy issues) counts against limits, such as tokens per minute. `reserve`
adds its estimated amounts to the counters of these limits, and `settle` replaces them by the actual amounts. A
`HeldLimits` is the reservation of one request. It is renewed while the request runs, so that the store can drop the
reservations of a crashed process.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from msgspec import Struct, structs

from anthropic_proxy.access.descriptions import format_time
from anthropic_proxy.access.key_table import RESERVED_WAIT_SECONDS, limit_reached_error
from anthropic_proxy.access.limits import Amounts, KeyLimit, find_actual_amounts
from anthropic_proxy.access.rules import find_period_end
from anthropic_proxy.errors import ProxyError
from anthropic_proxy.plugins import Reservation, Store

RENEW_SECONDS = 20.0
"""Pause in seconds between two renewals. A reservation of a killed process ends after `LEASE_SECONDS`, 60 s."""

REPORTED_SHARE = 0.8
"""Used share of a budget from which it is reported to the metrics."""
_REPORTED_SECONDS = 86_400.0
"""Time for which a budget without further requests is reported, unless its period ends earlier."""
_MAX_REPORTED = 500
"""Maximum number of reported budgets. Above it, the one with the oldest request is left out."""


class HeldLimits(Struct, eq=False):
    """Limits of one running client request, together with the reservation of their amounts in the store."""

    limits: Sequence[KeyLimit]
    reservation: Reservation


class Reservations:
    """Reservations of limits for the client requests that run in this worker process.

    `warn` logs a warning. `renew_seconds` is the pause between two renewals of the reservations.
    """

    def __init__(self, store: Store, warn: Callable[[str], None], renew_seconds: float = RENEW_SECONDS) -> None:
        self._store = store
        self._warn = warn
        self._renew_seconds = renew_seconds
        self._held: set[HeldLimits] = set()
        self._settling: set[asyncio.Task[None]] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._budget_uses: dict[tuple[str, str, str, str], tuple[float, float]] = {}
        """Nearly used budget → used share, and the time until which it is reported."""

    def find_budget_uses(self, now: float) -> Mapping[tuple[str, str, str, str], float]:
        """Return the used share of each budget of which at least `REPORTED_SHARE` was used at its latest request.

        The keys are `key` or `team`, its name, and the unit and period of the budget.
        """
        return {budget: share for budget, (share, end) in self._budget_uses.items() if end > now}

    def start(self) -> None:
        """Start the background task that renews reservations."""
        self._renewing = asyncio.create_task(self._renew())

    async def stop(self) -> None:
        """End the background task that renews reservations, and wait up to two seconds for pending settlements.

        A settlement writes the actual amounts of a finished request to the store.
        """
        if self._renewing is not None:
            self._renewing.cancel()
        if self._settling:
            await asyncio.wait({*self._settling}, timeout=2.0)

    async def reserve(self, limits: Sequence[KeyLimit], response_headers: dict[str, str], now: float) -> HeldLimits:
        """Reserve the amounts of `limits` for a request, and add their state to `response_headers`.

        Raises `LimitReached`, and reserves nothing, if a limit would be exceeded.
        """
        reservation = await self._reserve(limits)
        # If a budget has a remainder that is too small for the estimate, only this remainder is reserved.
        for _ in limits:
            if (refused := _find_budget_with_remainder(limits, reservation)) is None:
                break
            limits = [*limits]
            reduced = structs.replace(limits[refused].limit, amount=reservation.remaining[refused])
            limits[refused] = structs.replace(limits[refused], limit=reduced)
            reservation = await self._reserve(limits)
        response_headers.update(build_rate_headers(limits, reservation, now))
        self._note_budget_uses(limits, reservation, now)
        if reservation.refused is not None:
            raise limit_reached_error(limits[reservation.refused], reservation, now)
        held = HeldLimits(limits, reservation)
        if reservation.is_held:
            self._held.add(held)
        return held

    def _note_budget_uses(self, limits: Sequence[KeyLimit], reservation: Reservation, now: float) -> None:
        for each, remaining in zip(limits, reservation.remaining, strict=True):
            if each.budget is None or not each.limit.maximum:
                continue
            name = (each.scope.kind, each.scope.name, each.budget.unit, each.budget.period)
            self._budget_uses.pop(name, None)
            share = 1 - remaining / each.limit.maximum
            if share >= REPORTED_SHARE:
                end = find_period_end(each.budget.period, datetime.fromtimestamp(now, UTC))
                last = now + _REPORTED_SECONDS
                self._budget_uses[name] = share, last if end is None else min(last, end.timestamp())
        while len(self._budget_uses) > _MAX_REPORTED:
            del self._budget_uses[next(iter(self._budget_uses))]

    def settle(self, held: HeldLimits, actual: Amounts) -> None:
        """Replace the reserved amounts of a finished request by the actual ones.

        A background task writes the amounts to the store, so this method does not wait.
        """
        if held in self._held:
            self._held.discard(held)
            amounts = find_actual_amounts(held.limits, actual)
            self._run(self._settle(held.reservation, amounts))

    async def _reserve(self, limits: Sequence[KeyLimit]) -> Reservation:
        """Reserve all `limits` in the store, and return the reservation.

        If the request is cancelled meanwhile, the reservation is released.
        """
        task = asyncio.ensure_future(self._store.reserve([each.limit for each in limits]))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._run(self._release(task))
            raise

    async def _release(self, task: asyncio.Future[Reservation]) -> None:
        with suppress(ProxyError):  # then nothing is reserved
            reservation = await task
            await self._settle(reservation, [0] * len(reservation.limits))

    def _run(self, settlement: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(settlement)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        try:
            await self._store.settle(reservation, amounts)
        except Exception as error:  # noqa: BLE001  # a defect of a store
            self._warn(f"The amounts of a request were not counted: {type(error).__name__}: {error}")

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._renew_seconds)
            if self._held:
                try:
                    await self._store.renew([held.reservation for held in self._held])
                except Exception as error:  # noqa: BLE001  # a defect of a store; later renewals must continue
                    self._warn(f"Limits of running requests were not renewed: {type(error).__name__}: {error}")


def _find_budget_with_remainder(limits: Sequence[KeyLimit], reservation: Reservation) -> int | None:
    """Return the index in `limits` of the refused budget, if settled requests leave a remainder of it.

    None: the refused limit is no budget, or running requests have reserved the remainder. `reservation`: refused result
    of the store.
    """
    refused = reservation.refused
    if refused is None or limits[refused].budget is None or reservation.remaining[refused] <= 0:
        return None
    return refused if reservation.retry_after_seconds > RESERVED_WAIT_SECONDS else None


_KINDS = {"requests_per_minute": "requests", "token_counts_per_minute": "requests", "tokens_per_minute": "tokens"}


def build_rate_headers(limits: Sequence[KeyLimit], reservation: Reservation, now: float) -> Mapping[str, str]:
    """Return response headers with the state of the limits on requests and tokens per minute.

    If both the key and its team have a limit, the headers report the one with the smaller remaining amount.
    """
    headers: dict[str, str] = {}
    lowest: dict[str, int] = {}
    states = zip(limits, reservation.remaining, reservation.reset_seconds, strict=True)
    for each, remaining, reset_seconds in states:
        kind = _KINDS.get(each.rule)
        if kind is None or remaining >= lowest.get(kind, remaining + 1):
            continue
        lowest[kind] = remaining
        start = f"anthropic-ratelimit-{kind}"
        headers[f"{start}-limit"] = str(each.limit.maximum)
        headers[f"{start}-remaining"] = str(max(remaining, 0))
        headers[f"{start}-reset"] = format_time(now + reset_seconds) or ""
    return headers
