"""Input tokens that requests did not read from the provider's cache, for the dashboard and the status line."""

from collections.abc import Iterable, Iterator

from anthropic_proxy.console.ledger.records import StoredRequest

_MIN_LOST_TOKENS = 1_024
"""Shortest beginning that most providers cache. A short prompt beside a conversation, such as one for a title, has less
to lose."""


def count_lost_tokens(rows: Iterable[StoredRequest]) -> Iterator[tuple[StoredRequest, int]]:
    """Yield each request that did not fail, and the number of tokens that it read again. 0: its cache was used.

    `rows`: requests of one conversation in order of time. A change of the prompt is stored with its request; without
    one, a request breaks the cache if it read less than half of what was left there.
    """
    before: StoredRequest | None = None
    for row in rows:
        if row.outcome_class == "error":
            continue
        tokens = row.prefix_change_tokens
        if not row.prefix_change and before is not None and before.model == row.model:
            left = min(before.cache_read_tokens + before.cache_write_tokens, row.all_input_tokens)
            lost = left - row.cache_read_tokens
            tokens = lost if lost > max(row.cache_read_tokens, _MIN_LOST_TOKENS) else 0
        yield row, tokens
        before = row
