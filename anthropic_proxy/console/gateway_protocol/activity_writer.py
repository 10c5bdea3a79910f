"""`ActivityWriter`: stores what the metrics of Claude Code say about work, outside of all requests."""

import asyncio
import math
import time
from collections import Counter
from contextlib import suppress

from anthropic_proxy.console.gateway_protocol.activity_metrics import read_measurements
from anthropic_proxy.console.ledger.activity import Sender
from anthropic_proxy.console.ledger.activity_store import MAX_ROWS, ActivityStore
from anthropic_proxy.console.ledger.database import LEDGER_FAILURES, find_cause
from anthropic_proxy.console.units import HOUR_SECONDS
from anthropic_proxy.engine.own_thread import run_in_own_thread
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client, Gateway

PAUSE_SECONDS = 2.0
"""Time before metrics are stored: the ledger then has the requests of their session from other processes too, which say
its project."""
LEDGER_SECONDS = 15.0
"""Maximum time for which metrics wait for the ledger of this process. It tries again at least every ten seconds."""
LEDGER_STOP_SECONDS = 5.0
"""The same after the begin of the stop, as long as the ledger itself has then."""
_LOOK_SECONDS = 0.05
_RETRY_SECONDS = 5.0
MAX_POINTS_PER_HOUR = 20_000
"""Maximum number of data points of one client that count in an hour. Claude Code sends about 300 an hour for each
session."""


class ActivityWriter:
    """Stores one request after the other."""

    def __init__(self, gateway: Gateway[Settings]) -> None:
        self._gateway = gateway
        self._store = ActivityStore(gateway.settings)
        self._has_no_pauses = asyncio.Event()
        self._stop_at = math.inf
        """Time of the event loop at which nothing waits for the ledger any more. Infinity: the server does not stop."""
        self._hour = 0
        self._counted: Counter[str] = Counter()
        """`Client.id` → number of its points in the hour."""

    async def store(self, client: Client, body: bytes, received_at: float, count: int, *, is_json: bool) -> bool:
        """Wait until the body is stored, also for a database that is away. Return False if it cannot be stored. Raises
        `ValueError` for a body that is not valid OTLP.

        `received_at`: by the clock of the event loop. `count`: result of `count_requests` at that time.
        """
        measurements = await asyncio.to_thread(read_measurements, body, is_json=is_json)
        if not measurements:
            return True
        if not self._count(client, len(measurements)):
            return False
        await self._pause(received_at + PAUSE_SECONDS - asyncio.get_running_loop().time())
        sender = Sender(
            id=client.id,
            key_label=client.name,
            owner=client.owner,
            team=client.team,
            cost_center=client.cost_center,
        )
        while True:
            await self._wait_for_requests(count)
            try:
                has_room = await run_in_own_thread("activity", self._store.add, sender, measurements)
            except LEDGER_FAILURES as error:
                reason = str(find_cause(error)).splitlines()[0].rstrip(".")
                self._gateway.log_warning_once(f"Metrics of clients wait, because they cannot be stored: {reason}.")
                if self._stop_at < math.inf:
                    return False
                await self._pause(_RETRY_SECONDS)
            else:
                if not has_room:
                    self._gateway.log_warning_once(
                        f"The key {client.name} has stated work of more than {MAX_ROWS} sessions and models in an "
                        "hour. The rest of such an hour counts without session, project and model."
                    )
                return True

    def hurry(self) -> None:
        """The server stops: there are no pauses any more, except those for the requests of other workers."""
        self._stop_at = asyncio.get_running_loop().time() + LEDGER_STOP_SECONDS
        if self._gateway.describe_server().worker_count == 1:
            self._has_no_pauses.set()

    def close(self) -> None:
        self._store.close()

    def count_requests(self) -> int:
        """Return the number of requests that the ledger of this process has stored or dropped, or that wait for it."""
        state = self._gateway.ledger_state
        return 0 if state is None else state.queued_rows + state.written_rows + state.dropped_rows

    async def _wait_for_requests(self, count: int) -> None:
        """Wait until the ledger has stored or dropped `count` requests, or none waits for it, as at the stop."""
        time_of_loop = asyncio.get_running_loop().time
        end = time_of_loop() + LEDGER_SECONDS
        state = self._gateway.ledger_state
        while (
            state is not None
            and state.queued_rows
            and (state.written_rows + state.dropped_rows < count or self._stop_at < math.inf)
            and time_of_loop() < min(end, self._stop_at)
        ):
            await asyncio.sleep(_LOOK_SECONDS)
            state = self._gateway.ledger_state

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._has_no_pauses.wait(), seconds)

    def _count(self, client: Client, points: int) -> bool:
        """Return False if the client has sent too many points in this hour."""
        hour = int(time.monotonic() // HOUR_SECONDS)
        if hour != self._hour:
            self._hour = hour
            self._counted.clear()
        is_counted = self._counted[client.id] + points <= MAX_POINTS_PER_HOUR
        self._counted[client.id] += points * is_counted
        return is_counted
