"""Reports about budgets: each used share of `[alerts]` is reported once per budget and period, in the log and to a
webhook.

A request only notes whose budgets it may nearly use up. A task of each process compares the settled use of these
budgets, as they are now, and stores a reached share as a row of `budget_alerts`. The key of the row makes the report
unique over all processes, instances and restarts. Another task sends the rows, so that no report waits for the webhook
before it is in the log. The process that claims a row sends it, and again after pauses until the webhook has accepted
it.
"""

import asyncio
import hashlib
import html
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.console.keys.descriptions import format_time
from anthropic_proxy.console.keys.limits import BudgetLimit, Scope, list_budget_limits
from anthropic_proxy.console.keys.queries import Spending
from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.database import open_for_reading, write_at_once
from anthropic_proxy.console.ledger.webhook import LEASE_SECONDS, POLL_SECONDS, build_headers, deliver, find_pause
from anthropic_proxy.console.units import MICROSECONDS, to_microseconds
from anthropic_proxy.engine.bounded import BoundedDict
from anthropic_proxy.engine.own_thread import run_in_own_thread
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.fields import AlertSettings
from anthropic_proxy.plugins import BudgetLabels, Gateway

_Result = TypeVar("_Result")
DEFAULT_THRESHOLDS = (80, 100)
"""Used shares in percent that the log reports without `[alerts]`."""
CHECK_SECONDS = 3.0
"""Pause between two comparisons of budgets."""
SHOWN_SHARE = 0.8
"""Used share from which a budget is in `/metrics`."""
_COMPARED_SECONDS = 86_400.0
"""Time for which the budgets of a key, a team or the proxy are compared without further requests."""
_MAX_SCOPES = 2_000
_MAX_SHOWN = 500
MAX_ATTEMPTS = 12
_LONGEST_PAUSE_SECONDS = 3_600.0
_STOP_SECONDS = 2.0
_MAX_READ = 200
_MAX_KNOWN = 10_000
_KEPT_SECONDS = 30 * 86_400.0
"""Time for which a row is kept after the end of its period, also if the clocks of instances differ."""


class BudgetAlert(Struct, frozen=True, kw_only=True):
    """A row of `budget_alerts`. Times are in microseconds since the epoch."""

    id: str
    created_at: int
    ends_at: int | None
    """End of the period of the budget. None: it is never renewed."""
    body: str
    """JSON body of the request to the webhook."""
    attempts: int = 0
    next_at: int | None = None
    """Time from which the row is sent, again or by another process. None: it was accepted, or given up."""


_COLUMNS = BudgetAlert.__struct_fields__
_PRESENT = "(ends_at IS NULL OR ends_at > ?)"
"""Condition of a row whose budget has not been renewed. What has passed is no alarm."""


class BudgetAlerts:
    """`list_scopes` returns those with budgets. `clock` returns seconds since the epoch, if the store has no clock that
    all processes share.
    """

    def __init__(
        self,
        gateway: Gateway[Settings],
        list_scopes: Callable[[], Sequence[Scope]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._gateway = gateway
        self._list_scopes = list_scopes
        self._clock = clock
        self.uses: Mapping[BudgetLabels, float] = {}
        """Nearly used budget → used share, for `/metrics`."""
        self._compared = BoundedDict[str, float](_MAX_SCOPES)
        """Counter of a scope → time until which its budgets are compared."""
        self._next = BoundedDict[str, float](_MAX_KNOWN)
        """Budget → its next share. Absent: the lowest one. Infinite: each one is reported."""
        self._thresholds: Sequence[int] = DEFAULT_THRESHOLDS
        self._noted = asyncio.Event()
        """Set when there are budgets to compare."""
        self._stored = asyncio.Event()
        """Set when there are rows to send."""
        self._send_at = 0.0
        """Time before which the webhook gets no further row, because it has not accepted one."""
        self._tasks: Sequence[asyncio.Task[None]] = ()
        self._is_stopping = False

    def _now(self) -> float:
        return self._gateway.store.state.find_time(self._clock)

    def note(self, key_limit: BudgetLimit, share: float) -> None:
        """Called with the share that settled and running requests use."""
        if share >= min(self._thresholds[0] / 100, SHOWN_SHARE):
            if not self._compared:  # else the task looks in a moment
                self._noted.set()
            self._compared.pop(key_limit.scope.counter, None)
            self._compared[key_limit.scope.counter] = self._now() + _COMPARED_SECONDS

    def start(self) -> None:
        works = {self.compare: self._noted, self.send_due: self._stored}
        self._tasks = [asyncio.create_task(self._repeat(work, wake)) for work, wake in works.items()]

    async def stop(self) -> None:
        """Wait up to two seconds for a request to the webhook. Another process sends the row of a longer one."""
        self._is_stopping = True
        for wake in (self._noted, self._stored):
            wake.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_SECONDS)
        for task in self._tasks:
            task.cancel()

    async def _repeat(self, work: Callable[[], Awaitable[float]], wake: asyncio.Event) -> None:
        """`work` returns the time in seconds until it is done again, unless `wake` is set before."""
        is_failing = False
        while not self._is_stopping:
            wake.clear()
            pause = CHECK_SECONDS
            try:
                pause = await work()
                is_failing = False
            except Exception as error:  # noqa: BLE001  # of the database or the store: requests are served
                if not is_failing:
                    self._gateway.log_warning_each_time(f"Reports about budgets wait: {type(error).__name__}: {error}")
                is_failing = True
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await wake.wait()

    async def compare(self) -> float:
        """Store and log the shares that budgets have reached. Return the time in seconds until the next comparison."""
        alerts = self._gateway.settings.alerts
        thresholds = DEFAULT_THRESHOLDS if alerts is None else alerts.thresholds
        if thresholds != self._thresholds:
            self._thresholds = thresholds
            self._next.clear()
        if self._gateway.store.state.available:
            await self._compare()
        return CHECK_SECONDS if self._compared else POLL_SECONDS

    async def _compare(self) -> None:
        now = self._now()
        for counter in [counter for counter, end in self._compared.items() if end <= now]:
            del self._compared[counter]
        scopes = [scope for scope in self._list_scopes() if scope.counter in self._compared] if self._compared else ()
        limits = list_budget_limits(scopes, now)
        uses: list[int] = []
        for start in range(0, len(limits), _MAX_READ):
            counters = [key_limit.limit for key_limit in limits[start : start + _MAX_READ]]
            state = await self._gateway.store.reserve(counters)
            uses += state.settled or [
                counter.maximum - left for counter, left in zip(counters, state.remaining, strict=True)
            ]
        found = [(key_limit, used, _find_share(key_limit, used)) for key_limit, used in zip(limits, uses, strict=True)]
        shown = sorted(found, key=lambda one: -one[2])[:_MAX_SHOWN]
        self.uses = {_build_labels(key_limit): share for key_limit, _, share in shown if share >= SHOWN_SHARE}
        lowest = self._thresholds[0] / 100
        reached = [
            self._build(key_limit, used, threshold)
            for key_limit, used, share in found
            for threshold in self._thresholds
            if self._next.get(_name(key_limit), lowest) <= threshold / 100 <= share
        ]
        if reached:
            new = await self._write(lambda connection: add_alerts(connection, reached, self._now()))
            self._stored.set()
            for row in new:
                self._gateway.log_warning_each_time(html.unescape(msgspec.json.decode(row.body)["text"]))
        for key_limit, _, share in found:
            later = [threshold / 100 for threshold in self._thresholds if threshold / 100 > share]
            self._next[_name(key_limit)] = min(later, default=math.inf)

    def _build(self, key_limit: BudgetLimit, used: int, threshold: int) -> BudgetAlert:
        budget = key_limit.budget
        scope = key_limit.scope
        now = self._now()
        end = key_limit.renewed_at
        spending = Spending(budget, used)
        name = f"{_name(key_limit)}/{threshold}"
        renewed_at = None if end is None else format_time(end)
        text = f"{scope.describe()} has used {threshold} % of its budget: {spending.describe()}."
        text += " It is not renewed." if end is None else f" It is renewed at {renewed_at}."
        if threshold >= 100 and not budget.soft:
            text += " Requests are refused." if end is None else " Requests are refused until then."
        body: dict[str, object] = {
            "text": html.escape(text, quote=False),  # names are no markup of Slack
            "id": f"msg_{hashlib.sha256(name.encode()).hexdigest()[:32]}",
            "type": "budget.threshold",
            "timestamp": format_time(now),
            "scope": scope.kind,
            "name": scope.name,
            "threshold": threshold,
            "renewed_at": renewed_at,
            **spending.encode(),
        }
        del body["forecast"]
        return BudgetAlert(
            id=name,
            created_at=to_microseconds(now),
            ends_at=None if end is None else to_microseconds(end),
            body=msgspec.json.encode(body).decode(),
            next_at=None if self._gateway.settings.alerts is None else to_microseconds(now),
        )

    async def send_due(self) -> float:
        """Send the rows that are due, until one is not accepted. Return the time in seconds until the next one may be
        due.
        """
        alerts = self._gateway.settings.alerts
        if alerts is None:
            return POLL_SECONDS

        def find_next_time() -> float | None:
            with closing(open_for_reading(self._gateway.settings)) as connection:
                present = f"SELECT min(next_at) FROM budget_alerts WHERE {_PRESENT}"
                ((next_at,),) = connection.query(present, (to_microseconds(self._now()),))
            return None if next_at is None else next_at / MICROSECONDS

        while self._send_at <= self._now() and not self._is_stopping:
            due = await run_in_own_thread("alerts", find_next_time)
            if due is None or due > self._now():
                return POLL_SECONDS if due is None else min(due - self._now(), POLL_SECONDS)
            row = await self._write(lambda connection: claim_alert(connection, self._now()))
            if row is not None:
                again_at = await self._send(alerts, row)
                await self._write(partial(finish_alert, row=row, next_at=again_at))
        return self._send_at - self._now()

    async def _send(self, alerts: AlertSettings, row: BudgetAlert) -> int | None:
        """Return when the row is sent again, in microseconds since the epoch. None: it is not."""
        body = row.body.encode()
        headers = build_headers(msgspec.json.decode(body)["id"], int(self._now()), body, alerts.secrets)
        answer = await deliver(self._gateway, alerts.url, headers, body, purpose="alert")
        if not answer.problem:
            return None
        pause = find_pause(row.attempts, _LONGEST_PAUSE_SECONDS, answer.retry_after)
        self._send_at = self._now() + max(min(pause, POLL_SECONDS), answer.retry_after)
        is_last = row.attempts >= MAX_ATTEMPTS
        if row.attempts == 1 or is_last:
            host = urlsplit(alerts.url.reveal()).netloc
            then = "It is not sent again." if is_last else f"It is sent again, first in {pause:.0f} s."
            self._gateway.log_warning_each_time(
                f"The webhook of [alerts], {host}, has not accepted a report about a budget: {answer.problem}. {then}"
            )
        return None if is_last else to_microseconds(self._now() + pause)

    async def _write(self, function: Callable[[Connection], _Result]) -> _Result:
        return await run_in_own_thread("alerts", partial(write_at_once, self._gateway.settings, function))


def add_alerts(connection: Connection, rows: Sequence[BudgetAlert], now: float) -> Sequence[BudgetAlert]:
    """Return the rows that were not yet stored. Those of periods that ended long ago are deleted."""
    connection.execute("DELETE FROM budget_alerts WHERE ends_at < ?", (to_microseconds(now - _KEPT_SECONDS),))
    marks = ", ".join("?" * len(_COLUMNS))
    sql = f"INSERT INTO budget_alerts ({', '.join(_COLUMNS)}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING"
    return [row for row in rows if connection.execute(sql, structs.astuple(row)) == 1]


def claim_alert(connection: Connection, now: float) -> BudgetAlert | None:
    """Return a row that is due, a new one first, which no other process gets before the end of a lease."""
    due = f"next_at <= ? AND {_PRESENT} ORDER BY attempts, next_at LIMIT 20"
    sql = f"SELECT {', '.join(_COLUMNS)} FROM budget_alerts WHERE {due}"
    for values in connection.query(sql, (to_microseconds(now), to_microseconds(now))):
        row = BudgetAlert(**dict(zip(_COLUMNS, values, strict=True)))
        change = "UPDATE budget_alerts SET next_at = ?, attempts = attempts + 1 WHERE id = ? AND next_at = ?"
        if connection.execute(change, (to_microseconds(now + LEASE_SECONDS), row.id, row.next_at)) == 1:
            return structs.replace(row, attempts=row.attempts + 1)
    return None


def finish_alert(connection: Connection, row: BudgetAlert, next_at: int | None) -> None:
    connection.execute("UPDATE budget_alerts SET next_at = ? WHERE id = ?", (next_at, row.id))


def _find_share(key_limit: BudgetLimit, used: int) -> float:
    return used / key_limit.budget.counter_amount


def _build_labels(key_limit: BudgetLimit) -> BudgetLabels:
    scope, budget = key_limit.scope, key_limit.budget
    return scope.kind, scope.name, budget.unit, budget.period, budget.models, "soft" if budget.soft else "hard"


def _name(key_limit: BudgetLimit) -> str:
    """Name of a budget in its period, with its amount: another amount has other shares."""
    return f"{key_limit.limit.key}/{key_limit.budget.counter_amount}"
