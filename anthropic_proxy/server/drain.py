"""Stop of the server in two steps, so that neither new nor running requests fail unnecessarily.

First, `announce_stop` makes `/readyz` return 503 for load balancers, while requests are still accepted for the time
`DRAIN_DELAY`. Then `end_connections` waits up to `STOP_TIMEOUT` for the end of running replies, and cancels those that
are still incomplete. A second stop signal sets the event `stop_now`, which ends both waits.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from anthropic_proxy.server.http1.lifecycle import ServerState

CLOSE_GRACE_SECONDS = 3.0
"""Maximum seconds in which the stopping server sends an error to clients with a cancelled reply."""
FLUSH_TIMEOUT_SECONDS = 2.0
"""Maximum seconds to send buffered bytes to clients when the server stops. Then their connections are aborted."""
_POLL_SECONDS = 0.02


async def announce_stop(state: ServerState, seconds: float, stop_now: asyncio.Event) -> None:
    """Mark the server as stopping, then return after `seconds`, in which it still accepts requests.

    The event `stop_now` ends the wait early.
    """
    state.draining = True
    if seconds:
        with suppress(TimeoutError):
            await asyncio.wait_for(stop_now.wait(), seconds)


async def end_connections(
    state: ServerState, seconds: float, stop_now: asyncio.Event, log_warning: Callable[[str], None]
) -> None:
    """Wait up to `seconds` for running replies, cancel the remaining ones, and close all client connections.

    The event `stop_now` ends the wait early.
    """
    for connection in list(state.connections):
        connection.close_after_responses()
    await _wait_idle(state, seconds, stop_now)
    if state.request_tasks:
        waited = "at the second signal" if stop_now.is_set() else f"after {seconds:g} s (STOP_TIMEOUT)"
        log_warning(f"{len(state.request_tasks)} replies were not complete {waited}: they end with an error.")
        await _cancel_replies(state)
    await _wait_idle(state, FLUSH_TIMEOUT_SECONDS)
    for connection in list(state.connections):
        connection.transport.abort()


async def _wait_idle(state: ServerState, seconds: float, cut_short: asyncio.Event | None = None) -> None:
    deadline = time.monotonic() + seconds
    while (state.connections or state.request_tasks) and time.monotonic() < deadline:
        if cut_short is not None and cut_short.is_set():
            return
        await asyncio.sleep(_POLL_SECONDS)


async def _cancel_replies(state: ServerState) -> None:
    deadline = time.monotonic() + CLOSE_GRACE_SECONDS
    cancelled: set[asyncio.Task[None]] = set()
    while state.request_tasks and time.monotonic() < deadline:
        await asyncio.sleep(0)  # a task that has not begun could not send an error
        for task in state.request_tasks - cancelled:
            task.cancel()
            cancelled.add(task)
        await asyncio.sleep(_POLL_SECONDS)
