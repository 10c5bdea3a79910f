"""Amounts of limits that running client requests have reserved in the store (Redis or memory).

`reserve` adds the estimated amounts of a request to the counters of its limits; `settle` replaces them by the actual
ones. Meanwhile the reservation is renewed, so that the store can drop the reservations of a crashed process.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice

from msgspec import Struct, field, structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.keys.budget_states import (
    BudgetState,
    build_usage_headers,
    choose_state,
    list_budget_states,
)
from anthropic_proxy.console.keys.descriptions import format_time
from anthropic_proxy.console.keys.limits import BudgetLimit, KeyLimit, Scope, build_budget_counter, find_actual_amounts
from anthropic_proxy.console.ledger.costs import Amounts
from anthropic_proxy.engine.bounded import BoundedDict
from anthropic_proxy.errors import BudgetUsedUp, LimitReached, ProxyError
from anthropic_proxy.plugins import Reservation, Store, StoreUnavailable

RENEW_SECONDS = 20.0
"""Pause in seconds between two renewals. A reservation of a killed process ends after `LEASE_SECONDS`, 60 s."""

RESERVED_WAIT_SECONDS = 1.0
"""Value of `Reservation.retry_after_seconds` for a budget that has no room only because running requests have reserved
the remainder."""
SHARE_WAIT_SECONDS = 2.0
"""Pause after which a client tries again: another process may have room, or Redis is available again."""
_READ_AGAIN_SECONDS = 10.0
"""Pause after the ledger could not be read. Requests are served meanwhile."""
AT_REST_SECONDS = 1.5
"""Time after which a settled request is in the ledger, or counts as one that was stored late."""
_SETTLED_WITHIN_SECONDS = 2.0
_MAX_COMPARED = 100
_MAX_CHECKED = 100_000


class HeldLimits(Struct, eq=False):
    limits: Sequence[KeyLimit]
    reservation: Reservation
    additions: list["HeldLimits"] = field(default_factory=list)
    """Reservations for further calls of the same request."""


class _Comparison(Struct):
    """A comparison of a budget with the ledger after which another one is due."""

    key_limit: BudgetLimit
    settled: int
    """Its counter at the latest look."""
    seen_at: float
    """Time by `ticks` at which the counter first had this amount."""


class Reservations:
    """`read_used` returns the use of budgets by the ledger, at a time in seconds since the epoch. `ticks`: a clock that
    nobody sets. `note_use` gets each budget of a request and its used share, with the reserved amounts.
    """

    def __init__(
        self,
        store: Store,
        warn: Callable[[str], None],
        renew_seconds: float = RENEW_SECONDS,
        read_used: Callable[[Sequence[BudgetLimit], float], Awaitable[Sequence[int]]] | None = None,
        ticks: Callable[[], float] = time.monotonic,
        *,
        note_use: Callable[[BudgetLimit, float], None] | None = None,
    ) -> None:
        self._store = store
        self._note_use = note_use
        self._ticks = ticks
        self._read_used = read_used
        self._checked: set[str] = set()
        """Counters of budgets with at least the use by the ledger, since the last interruption of the store."""
        self._compared = BoundedDict[str, _Comparison](_MAX_CHECKED)
        """Counter of a budget → its latest comparison, until one at rest finds no difference."""
        self._checking = asyncio.Lock()
        self._next_check = -math.inf
        """Time by `ticks` before which the ledger is not read, because it could not be read."""
        self._interruptions = 0
        self._warn = warn
        self._renew_seconds = renew_seconds
        self._held: set[HeldLimits] = set()
        self._settling: set[asyncio.Task[None]] = set()
        self._renewing: asyncio.Task[None] | None = None

    def find_time(self, clock: Callable[[], float]) -> float:
        """Return the time that decides the periods of budgets. `clock`: that of this machine."""
        return self._store.state.find_time(clock)

    def start(self) -> None:
        self._renewing = asyncio.create_task(self._renew())

    async def stop(self) -> None:
        """Wait up to two seconds for settlements, which write the actual amounts of finished requests to the store."""
        if self._renewing is not None:
            self._renewing.cancel()
        if self._settling:
            await asyncio.wait({*self._settling}, timeout=2.0)

    async def reserve(self, limits: Sequence[KeyLimit], response_headers: dict[str, str], now: float) -> HeldLimits:
        """Raises `LimitReached`, and reserves nothing, if a limit would be exceeded."""
        await self.add_forgotten_use(limits, now)
        try:
            reservation = await self._reserve(limits, now)
        except StoreUnavailable:
            if not all(isinstance(key_limit, BudgetLimit) and key_limit.budget.soft for key_limit in limits):
                raise
            return HeldLimits(limits, Reservation(""))
        # If a budget has a remainder that is too small for the estimate, only this remainder is reserved.
        for _ in limits:
            refused = reservation.refused
            if refused is None or not isinstance(limits[refused], BudgetLimit) or reservation.remaining[refused] <= 0:
                break
            if reservation.retry_after_seconds <= RESERVED_WAIT_SECONDS:  # running requests have reserved the remainder
                break
            limits = [*limits]
            reduced = structs.replace(limits[refused].limit, amount=reservation.remaining[refused])
            limits[refused] = structs.replace(limits[refused], limit=reduced)
            reservation = await self._reserve(limits, now)
        response_headers.update(build_rate_headers(limits, reservation, now))
        states = self._list_states(limits, reservation)
        self._note_budget_uses(limits, reservation)
        if reservation.refused is not None:
            key_limit = limits[reservation.refused]
            error = self._describe_refusal(key_limit, reservation, now)
            if isinstance(error, BudgetUsedUp) and isinstance(key_limit, BudgetLimit):
                states = [budget_state for budget_state in states if budget_state.budget is key_limit.budget]
            if state := choose_state(states):
                response_headers.update(build_usage_headers(state))
            raise error
        if state := choose_state(states):
            response_headers.update(build_usage_headers(state))
        held = HeldLimits(limits, reservation)
        if reservation.is_held:
            self._held.add(held)
        return held

    def forget_checks(self) -> None:
        """Compare all budgets with the ledger again: it has requests that were stored late."""
        self._checked.clear()

    async def add_forgotten_use(self, limits: Sequence[KeyLimit], now: float) -> bool:
        """Add the use of budgets that the ledger has and the store lacks: it starts empty in memory, or has lost its
        data, or another program has counted requests elsewhere. Budgets are checked at their first use in this process,
        after each interruption of the store, and after requests were stored late. False: they could not be.
        """
        state = self._store.state
        if state.interruptions != self._interruptions:
            self._interruptions = state.interruptions
            self._checked.clear()
        if all(not isinstance(key_limit, BudgetLimit) or key_limit.limit.key in self._checked for key_limit in limits):
            return True
        if not state.available or self._read_used is None or self._ticks() < self._next_check:
            return False
        async with self._checking:
            chosen = [
                key_limit
                for key_limit in limits
                if isinstance(key_limit, BudgetLimit) and key_limit.limit.key not in self._checked
            ]
            if not chosen:  # another request has checked them meanwhile
                return True
            if self._ticks() < self._next_check:
                return False
            try:
                reservation = await self.raise_counters(chosen, await self._read_used(chosen, now))
            except Exception as error:  # noqa: BLE001  # of the database or the store: requests are served
                self._next_check = self._ticks() + _READ_AGAIN_SECONDS
                self._warn(f"The use of budgets was not read from the ledger: {type(error).__name__}: {error}")
                return False
            if len(self._checked) > _MAX_CHECKED:
                self._checked.clear()
            self._checked.update(key_limit.limit.key for key_limit in chosen)
            for key_limit, settled in zip(chosen, reservation.settled, strict=True):
                self._compared[key_limit.limit.key] = _Comparison(key_limit, settled, self._ticks())
        return True

    async def compare_again(self, now: float) -> None:
        """Compare budgets again whose counters have not changed for `AT_REST_SECONDS`.

        While requests run, the counter has some whose rows are not stored yet, and the ledger perhaps late ones that
        the counter lacks: the higher of both lacks the fewer. So the last comparison of a budget is one at rest that
        finds no difference. Raises the errors of the store and of the database.
        """
        state = self._store.state
        if not self._compared or self._read_used is None or not state.available or state.pending_settlements:
            return
        present = list[_Comparison]()
        for key, one in [*islice(self._compared.items(), _MAX_COMPARED)]:
            del self._compared[key]
            limit = build_budget_counter(one.key_limit.scope, one.key_limit.budget, now)
            if limit.key == key:  # its period has not ended
                one.key_limit = structs.replace(one.key_limit, limit=limit)
                self._compared[key] = one
                present.append(one)
        found = await self._store.reserve([one.key_limit.limit for one in present])
        at_rest = list[_Comparison]()
        for one, settled in zip(present, found.settled, strict=True):
            if settled != one.settled:
                one.settled = settled
                one.seen_at = self._ticks()
            elif self._ticks() >= one.seen_at + AT_REST_SECONDS:
                at_rest.append(one)
        if not at_rest:
            return
        limits = [one.key_limit for one in at_rest]
        known = await self._read_used(limits, now)
        if any(used > one.settled for one, used in zip(at_rest, known, strict=True)):
            await self.raise_counters(limits, known)
        for one, used in zip(at_rest, known, strict=True):
            if used <= one.settled and self._compared.get(one.key_limit.limit.key) is one:
                del self._compared[one.key_limit.limit.key]

    async def raise_counters(self, limits: Sequence[BudgetLimit], known: Sequence[int]) -> Reservation:
        """Raise the counters of budgets at least to their use by the ledger, `known`.

        What the ledger has is settled, or about to be: a request that is settled later would count twice.
        """
        if self._settling:
            await asyncio.wait({*self._settling}, timeout=_SETTLED_WITHIN_SECONDS)
        return await self._store.reserve(
            [
                structs.replace(key_limit.limit, amount=0, at_least=used)
                for key_limit, used in zip(limits, known, strict=True)
            ]
        )

    def _note_budget_uses(self, limits: Sequence[KeyLimit], reservation: Reservation) -> None:
        if self._note_use is None or not self._store.state.available:  # what remains is the share of this process
            return
        for key_limit, remaining in zip(limits, reservation.remaining, strict=True):
            if isinstance(key_limit, BudgetLimit):
                self._note_use(key_limit, (key_limit.limit.maximum - remaining) / key_limit.budget.counter_amount)

    def _list_states(self, limits: Sequence[KeyLimit], reservation: Reservation) -> list[BudgetState]:
        """Empty while the store is unavailable, because this process knows only its share."""
        return list_budget_states(limits, reservation.settled) if self._store.state.available else []

    async def read_states(self, limits: Sequence[KeyLimit], response_headers: dict[str, str], now: float) -> None:
        """Add the headers with the use of budgets, and reserve nothing. Raises `BudgetUsedUp`."""
        await self.add_forgotten_use(limits, now)
        free = [structs.replace(key_limit, limit=structs.replace(key_limit.limit, amount=0)) for key_limit in limits]
        reservation = await self._reserve(free, now)
        state = choose_state(self._list_states(limits, reservation))
        if state is None:
            return
        response_headers.update(build_usage_headers(state))
        if state.is_used_up:
            budgets = (one for one in limits if isinstance(one, BudgetLimit))
            refused = next(one for one in budgets if one.budget is state.budget)
            raise budget_used_up_error(refused, now)

    async def raise_to(self, held: HeldLimits, needed: Sequence[Amounts], now: float) -> None:
        """Reserve what is missing in the budgets of a running request, so that it has the amounts `needed` for its
        calls so far and the next one. Raises `LimitReached`, and reserves nothing, if a budget lacks it.
        """
        reserved = dict.fromkeys((key_limit.limit.key for key_limit in held.limits), 0)
        for part in (held, *held.additions):
            for key_limit in part.limits:
                reserved[key_limit.limit.key] += key_limit.limit.amount
        wanted = find_actual_amounts(held.limits, needed)
        missing = [
            structs.replace(
                key_limit, limit=structs.replace(key_limit.limit, amount=amount - reserved[key_limit.limit.key])
            )
            for key_limit, amount in zip(held.limits, wanted, strict=True)
            if isinstance(key_limit, BudgetLimit) and amount > reserved[key_limit.limit.key]
        ]
        if not missing:
            return
        reservation = await self._reserve(missing, now)
        self._note_budget_uses(missing, reservation)
        if reservation.refused is not None:
            raise self._describe_refusal(missing[reservation.refused], reservation, now)
        addition = HeldLimits(missing, reservation)
        held.additions.append(addition)
        if reservation.is_held:
            self._held.add(addition)

    def _describe_refusal(self, key_limit: KeyLimit, reservation: Reservation, now: float) -> LimitReached:
        return limit_reached_error(key_limit, reservation, now, _SERVERS[self._store.state.kind])

    def settle(self, held: HeldLimits, used: Sequence[Amounts]) -> None:
        """A background task writes the amounts of each model to the store, so this method does not wait."""
        for addition in held.additions:
            self.settle(addition, ())
        if held in self._held:
            self._held.discard(held)
            amounts = find_actual_amounts(held.limits, used)
            for key_limit, amount in zip(held.limits, amounts, strict=True):
                if (
                    self._note_use is not None
                    and isinstance(key_limit, BudgetLimit)
                    and amount > key_limit.limit.amount
                ):
                    self._note_use(key_limit, 1.0)
            self._run(self._settle(held.reservation, amounts))

    async def _reserve(self, limits: Sequence[KeyLimit], now: float) -> Reservation:
        """Reserve all `limits` in the store, and return the reservation. If the store has lost its data meanwhile, they
        are reserved again after the comparison with the ledger.
        """
        interruptions = self._store.state.interruptions
        reservation = await self._reserve_once(limits)
        state = self._store.state
        if state.interruptions == interruptions or not state.available:
            return reservation
        if reservation.is_held:
            self._run(self._settle(reservation, [0] * len(reservation.limits)))
        await self.add_forgotten_use(limits, now)
        return await self._reserve_once(limits)

    async def _reserve_once(self, limits: Sequence[KeyLimit]) -> Reservation:
        """If the request is cancelled meanwhile, the reservation is released."""
        task = asyncio.ensure_future(self._store.reserve([key_limit.limit for key_limit in limits]))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:

            async def release() -> None:
                with suppress(ProxyError):  # then nothing is reserved
                    reservation = await task
                    await self._settle(reservation, [0] * len(reservation.limits))

            self._run(release())
            raise

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


_SERVERS = {"database": "The database", **dict.fromkeys(("memory", "redis", "plugin"), "The Redis server")}
"""Kind of a store → the server without which each process has a share of its limits."""


def limit_reached_error(
    refused: KeyLimit, reservation: Reservation, now: float, server: str = "The Redis server"
) -> LimitReached:
    """`now`: seconds since the epoch. `server`: that which is unavailable, if only the share of this process is used
    up.
    """
    wait = reservation.retry_after_seconds
    scope = refused.scope
    unit, option = _UNITS.get(refused.rule, ("request", "--concurrency"))
    counted = formats.plural(refused.limit.maximum, unit)
    if reservation.is_share:
        wait = SHARE_WAIT_SECONDS
        if isinstance(refused, BudgetLimit):
            limit = f"a budget of {refused.budget.describe()}"
        else:
            limit = f"a limit of {counted} {'in progress' if refused.rule == 'concurrency' else 'per minute'}"
        remedy = ""
        message = (
            f"{scope.describe()} has {limit}. {server} of the proxy is unavailable, so each process has a "
            "share of it, and that of this process has no room. Try again in a moment."
        )
    elif isinstance(refused, BudgetLimit):
        if wait > RESERVED_WAIT_SECONDS:
            return budget_used_up_error(refused, now)
        remedy = scope.suggest_budget(refused.budget.format_with("AMOUNT"))
        message = (
            f"{scope.describe()} has a budget of {refused.budget.describe()}, and running requests reserve the "
            "remainder. Try again when one ends."
        )
    elif refused.rule == "concurrency":
        remedy = f"Another limit:  {scope.format_change_command(f'{option} N')}"
        message = f"{scope.describe()} has {counted} in progress, which is its limit. Try again when one ends."
    else:
        remedy = f"Another limit:  {scope.format_change_command(f'{option} N')}"
        message = f"{scope.describe()} has reached its limit of {counted} per minute. Try again in {math.ceil(wait)} s."
    return LimitReached(message, remedy=remedy, wish="more", code="virtual-key-limit", retry_after=wait)


def budget_used_up_error(refused: BudgetLimit, now: float) -> BudgetUsedUp:
    """As `limit_reached_error`, for a budget."""
    scope = refused.scope
    budget = refused.budget
    end = refused.renewed_at
    renewal = "it is not renewed" if end is None else f"resets {_describe_end(scope, end)}"
    return BudgetUsedUp(
        f"{scope.describe()} has used up its budget of {budget.describe()} · {renewal} ·",
        remedy=scope.suggest_budget(budget.format_with("AMOUNT")),
        wish="more",
        retry_after=None if end is None else max(end - now, RESERVED_WAIT_SECONDS),
    )


def _describe_end(scope: Scope, end: float) -> str:
    if scope.is_personal:
        local = datetime.fromtimestamp(end).astimezone()
        return f"{local:%b} {local.day}, {local:%H:%M}"
    moment = datetime.fromtimestamp(end, UTC)
    # Claude Code replaces exactly this date by the time, in the time zone of its user
    return f"{moment:%b} {moment.day}"


_UNITS = {
    "requests_per_minute": ("request", "--rpm"),
    "token_counts_per_minute": ("token count", "--rpm"),
    "tokens_per_minute": ("token", "--tpm"),
}


_KINDS = {"requests_per_minute": "requests", "token_counts_per_minute": "requests", "tokens_per_minute": "tokens"}


def build_rate_headers(limits: Sequence[KeyLimit], reservation: Reservation, now: float) -> Mapping[str, str]:
    """Return response headers with the state of the limits on requests and tokens per minute. If both the key and its
    team have a limit, the headers report the one with the smaller remaining amount.
    """
    headers: dict[str, str] = {}
    lowest: dict[str, int] = {}
    states = zip(limits, reservation.remaining, reservation.reset_seconds, strict=True)
    for key_limit, remaining, reset_seconds in states:
        kind = _KINDS.get(key_limit.rule)
        if kind is None or remaining >= lowest.get(kind, remaining + 1):
            continue
        lowest[kind] = remaining
        start = f"anthropic-ratelimit-{kind}"
        headers[f"{start}-limit"] = str(key_limit.limit.maximum)
        headers[f"{start}-remaining"] = str(max(remaining, 0))
        headers[f"{start}-reset"] = format_time(now + reset_seconds) or ""
    return headers
