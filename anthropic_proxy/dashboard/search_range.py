"""Limit for slow searches: a search that must read each stored request covers only the latest ones.

`limit_range` shortens the time range of such a search, and adds a line about it to the page.
"""

import re

from msgspec import structs

from anthropic_proxy.dashboard import formats
from anthropic_proxy.dashboard.ledger_lines import StateLine
from anthropic_proxy.dashboard.page_context import PageContext
from anthropic_proxy.ledger.read_limits import MAX_SEARCHED_REQUESTS, limit_search_range

_POSITION = re.compile(r"([0-9]{1,18})\..*")
"""Matches a position in a list in order of time: microseconds since the epoch, a dot, and a request id."""


def limit_range(context: PageContext, lines: list[StateLine], maximum: int = MAX_SEARCHED_REQUESTS) -> PageContext:
    """Return `context` with a shorter time range if the search would read more than `maximum` stored requests.

    If so, a line about the limit is added to `lines`.
    """
    whole = context.selection
    before, after = (_read_time(text) for text in (context.query.before, context.query.after))
    if context.query.order:  # all parts of a sorted list are of the same requests
        before = after = None
    chosen = limit_search_range(context.connection, whole, before, after, maximum)
    if chosen is whole:
        return context
    first = formats.day_and_time(chosen.start)
    text = (
        f"The search covers {maximum:,} requests, from {first} on. For older ones, choose “Older →” below the list, "
        "or an earlier range."
    )
    lines.append(StateLine("!", "warn", text))
    return structs.replace(context, searched=(chosen.start, chosen.end))


def _read_time(position: str) -> int | None:
    found = _POSITION.fullmatch(position)
    return int(found[1]) if found else None
