"""`ProcessLimits`: the reservations of limits and the reports about budgets of one process."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress

from anthropic_proxy.console.keys.alerts import BudgetAlerts
from anthropic_proxy.console.keys.limits import BudgetLimit, Scope, list_budget_limits
from anthropic_proxy.console.keys.queries import sum_budget_uses
from anthropic_proxy.console.keys.reservations import Reservations
from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.database import LEDGER_FAILURES, open_for_reading, open_for_writing
from anthropic_proxy.engine.own_thread import run_in_own_thread
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import BudgetLabels, Gateway, Store, StoreUnavailable

_COUNTING = "keys/counting"
"""Value by which one of several workers counts the use of budgets before the start."""
_COUNTING_SECONDS = 3600.0
_COUNTED_SCOPES = 100
_FOLLOW_SECONDS = 0.5
"""Pause before the next reading of what other servers have used, or comparison of budgets with the ledger."""
_PAUSE_SHARE = 20.0
"""The pause lasts at least so many times as long as the reading, or the comparison of all budgets."""
_SETTLING_SECONDS = 0.5
"""Time after which the counters have what the ledger has of this server. A busy worker may add its amounts to them
after they are in the ledger, and they would count twice."""


class ProcessLimits:
    """`settings`: those of the start, with the database."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._list_scopes: Callable[[], Sequence[Scope]] = tuple
        self._gateway: Gateway[Settings] | None = None
        self.reservations: Reservations | None = None
        """None: before the start."""
        self._alerts: BudgetAlerts | None = None
        self._counting: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._counting_late: asyncio.Task[None] | None = None

    @property
    def gateway(self) -> Gateway[Settings]:
        assert self._gateway is not None  # no request is served before the start of the plugins
        return self._gateway

    def open(self, gateway: Gateway[Settings], list_scopes: Callable[[], Sequence[Scope]]) -> None:
        """`list_scopes` returns those with budgets."""
        self._gateway = gateway
        self._list_scopes = list_scopes
        self._alerts = BudgetAlerts(gateway, list_scopes)
        self.reservations = Reservations(
            gateway.store,
            self.warn,
            read_used=self._read_used,
            note_use=self._alerts.note,
        )
        self.reservations.start()

    async def start(self) -> None:
        """Begin to report, and to count earlier use."""
        assert self._alerts is not None
        assert self.reservations is not None
        store = self.gateway.store
        with suppress(StoreUnavailable):  # the first request of a budget needs the clock of the store
            await store.get(_COUNTING)
        self._alerts.start()
        scopes = self._list_scopes()
        if store.state.kind in ("memory", "database"):
            self._counting = asyncio.create_task(self._count_earlier_use(store, self.reservations, scopes))
        self._counting_late = asyncio.create_task(self._count_late_use(store, self.reservations))
        of_proxy = [scope for scope in scopes if scope.kind == "proxy"]
        if of_proxy and store.state.kind == "memory" and self.gateway.describe_server().worker_index == 0:
            self._following = asyncio.create_task(self._follow_ledger(self.reservations, of_proxy))

    async def stop(self) -> None:
        for task in (self._counting, self._following, self._counting_late):
            if task is not None:
                task.cancel()
        if self.reservations is not None:
            await self.reservations.stop()
        if self._alerts is not None:
            await self._alerts.stop()

    def budget_uses(self) -> Mapping[BudgetLabels, float]:
        return {} if self._alerts is None else self._alerts.uses

    def warn(self, text: str) -> None:
        if self._gateway is not None:
            self._gateway.log_warning_each_time(text)

    async def _count_earlier_use(self, store: Store, reservations: Reservations, scopes: Sequence[Scope]) -> None:
        """Count the use of all budgets before this start, so that pages and reports have it before the next request of
        a key. The first request of a key does not wait for the others.
        """
        if await store.increment(f"{_COUNTING}/{self.gateway.describe_server().id}", 1, _COUNTING_SECONDS) > 1:
            return  # another worker does it
        await self._compare(reservations, scopes)

    async def _count_late_use(self, store: Store, reservations: Reservations) -> None:
        """Compare all budgets with the ledger after this process has stored requests late: they may be those of a
        server that was killed, or of an earlier version, which counted elsewhere. Each comparison is repeated at rest.
        """
        counted = 0
        next_comparison = 0.0
        while (ledger := self.gateway.ledger_state) is not None:
            await asyncio.sleep(_FOLLOW_SECONDS)
            started = time.monotonic()
            state = store.state
            stored = ledger.late_rows
            is_due = stored != counted and started >= next_comparison
            if is_due and state.available and not state.pending_settlements:
                reservations.forget_checks()
                if await self._compare(reservations, self._list_scopes()):
                    counted = stored
                now = time.monotonic()
                next_comparison = now + _PAUSE_SHARE * (now - started)  # further rows may be stored late
            with suppress(*LEDGER_FAILURES, StoreUnavailable):  # the ledger and the store report them
                await reservations.compare_again(reservations.find_time(time.time))

    async def _compare(self, reservations: Reservations, scopes: Sequence[Scope]) -> bool:
        """Compare the budgets of `scopes` with the ledger. False: not all could be."""
        now = reservations.find_time(time.time)
        for start in range(0, len(scopes), _COUNTED_SCOPES):
            limits = list_budget_limits(scopes[start : start + _COUNTED_SCOPES], now)
            if not await reservations.add_forgotten_use(limits, now):
                return False
        return True

    async def _follow_ledger(self, reservations: Reservations, scopes: Sequence[Scope]) -> None:
        """Count what other servers with this ledger use, in the counters of this one. Servers that share a store count
        together without it.
        """
        pause = _FOLLOW_SECONDS
        while True:
            await asyncio.sleep(pause)
            started = time.monotonic()
            now = reservations.find_time(time.time)
            limits = list_budget_limits(scopes, now)
            with suppress(*LEDGER_FAILURES, StoreUnavailable):  # the ledger reports failures of the database
                known = await self._read_used(limits, now, open_for_reading)
                pause = max(_FOLLOW_SECONDS, _PAUSE_SHARE * (time.monotonic() - started))
                await asyncio.sleep(_SETTLING_SECONDS)
                await reservations.raise_counters(limits, known)

    async def _read_used(
        self,
        limits: Sequence[BudgetLimit],
        now: float,
        connect: Callable[[Settings], Connection] = open_for_writing,  # the first start finds no tables
    ) -> Sequence[int]:
        def read() -> Sequence[int]:
            with closing(connect(self._settings)) as connection:
                budgets = [(key_limit.scope, key_limit.budget) for key_limit in limits]
                return sum_budget_uses(connection, self._settings, budgets, now)

        return await run_in_own_thread("budgets", read)
