"""Lines on a page about problems of the ledger, the database of client requests.

`describe_ledger` returns a `StateLine` for each problem: a failure, requests that wait to be stored, and lost requests.
"""

from msgspec import Struct

from anthropic_proxy.dashboard import formats
from anthropic_proxy.ledger.dashboard_queries import LedgerExtent
from anthropic_proxy.ledger.units import MICROSECONDS
from anthropic_proxy.plugins import LedgerState

STALE_SECONDS = 10.0
"""Time in seconds that requests may wait for the ledger before a page mentions the wait. Usually they wait half a
second."""


class StateLine(Struct, frozen=True):
    """One line about the ledger: a sign, the CSS class of its color (`warn`, `error`), and a text."""

    sign: str
    role: str
    text: str


def describe_ledger(ledger: LedgerState | None, facts: LedgerExtent | None, now: float) -> list[StateLine]:
    """Return a line for each problem of the ledger: a failure, waiting requests, or lost requests.

    `ledger` is None if the ledger is disabled. `facts` has the time of the latest stored request; None: the ledger
    cannot be read.
    """
    if ledger is None:
        return []
    lines = []
    since = ledger.waiting_since
    is_late = since is not None and now - since > STALE_SECONDS
    if ledger.problem:
        lines.append(StateLine("✕", "error", f"{ledger.problem} Requests are still served.{_age(ledger, facts, now)}"))
    elif is_late and since is not None:
        lines.append(
            StateLine(
                "!",
                "warn",
                f"Stale: no request has been stored since {formats.clock_time(since * MICROSECONDS)}, because the "
                f"database does not answer. Requests are still served.{_age(ledger, facts, now)}",
            )
        )
    if ledger.dropped_rows:
        lost = formats.plural(ledger.dropped_rows, "request")
        verb = "is" if ledger.dropped_rows == 1 else "are"
        lines.append(StateLine("!", "warn", f"{lost} {verb} missing here, because the ledger could not store them."))
    return lines


def _age(ledger: LedgerState, facts: LedgerExtent | None, now: float) -> str:
    """Return sentences with the number of waiting requests, and the age of the latest stored request.

    `facts`: None: the ledger cannot be read. `now`: seconds since the epoch.
    """
    text = ""
    if ledger.queued_rows:
        waiting = formats.plural(ledger.queued_rows, "request")
        text += f" {waiting} {'waits' if ledger.queued_rows == 1 else 'wait'} to be stored."
    if facts is not None and facts.last_at is not None:
        text += f" Last row {formats.ago(now - facts.last_at / MICROSECONDS)}."
    return text
