"""`ActivityWriter`: stores what the metrics of Claude Code say about work, outside of all requests."""

import asyncio
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
"""Time before metrics are stored: the ledger then has the requests of their session, which say its project."""
_RETRY_SECONDS = 5.0
MAX_POINTS_PER_HOUR = 20_000
"""Maximum number of data points of one client that count in an hour. Claude Code sends about 300 an hour for each
session."""


class ActivityWriter:
    """Stores one request after the other."""

    def __init__(self, gateway: Gateway[Settings]) -> None:
        self._gateway = gateway
        self._store = ActivityStore(gateway.settings)
        self._is_stopping = asyncio.Event()
        self._hour = 0
        self._counted: Counter[str] = Counter()
        """`Client.id` → number of its points in the hour."""

    async def store(self, client: Client, body: bytes, received_at: float, *, is_json: bool) -> bool:
        """Wait until the body is stored, also for a database that is away. Return False if it cannot be stored. Raises
        `ValueError` for a body that is not valid OTLP.

        `received_at`: by the clock of the event loop.
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
            try:
                has_room = await run_in_own_thread("activity", self._store.add, sender, measurements)
            except LEDGER_FAILURES as error:
                reason = str(find_cause(error)).splitlines()[0].rstrip(".")
                self._gateway.log_warning_once(f"Metrics of clients wait, because they cannot be stored: {reason}.")
                if self._is_stopping.is_set():
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
        """The server stops: there are no pauses any more."""
        self._is_stopping.set()

    def close(self) -> None:
        self._store.close()

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_stopping.wait(), seconds)

    def _count(self, client: Client, points: int) -> bool:
        """Return False if the client has sent too many points in this hour."""
        hour = int(time.monotonic() // HOUR_SECONDS)
        if hour != self._hour:
            self._hour = hour
            self._counted.clear()
        is_counted = self._counted[client.id] + points <= MAX_POINTS_PER_HOUR
        self._counted[client.id] += points * is_counted
        return is_counted
