"""`split_input_tokens`: converts a provider's input token counts to those of the Messages API (`InputTokens`).

Other providers report a total that includes cached input. The Messages API counts cached input separately.
"""

from typing import NamedTuple


class InputTokens(NamedTuple):
    """Input token counts as the Messages API reports them. None: not reported."""

    uncached: int | None
    """Input tokens that were neither read from nor written to the cache."""
    cache_read: int | None
    """Input tokens read from the cache."""
    cache_written: int | None
    """Input tokens written to the cache."""


def split_input_tokens(total: int | None, read: int | None, written: int | None) -> InputTokens:
    """Split a provider's `total` of input tokens into uncached tokens, cache reads and cache writes.

    Reads and writes of None stay None. Counts that contradict `total` are corrected.
    """
    if total is None:
        return InputTokens(None, read, written)
    reads, writes = read or 0, written or 0
    if reads >= 0 <= writes and reads + writes <= total:
        return InputTokens(total - reads - writes, read, written)
    # OpenRouter (for Gemini) and Azure (for Grok) send counts that contradict the total (recorded 2026).
    reads, writes = max(reads, 0), max(writes, 0)
    within = reads if reads <= total else 0
    writes = min(writes, max(total - within, 0))
    uncached = max(total - within - writes, 0)
    return InputTokens(uncached, None if read is None else reads, None if written is None else writes)
