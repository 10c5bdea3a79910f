"""`split_input_tokens`: converts a provider's input token counts to those of the Messages API.

Other providers report one total that includes cached input. Anthropic's `input_tokens` excludes cached input.
"""


def split_input_tokens(
    total: int | None, read: int | None, written: int | None
) -> tuple[int | None, int | None, int | None]:
    """Return the input tokens outside the cache, the tokens read from the cache and the tokens written to the cache.

    `total`, `read` and `written` are the provider's counts. None: not reported; a None is returned in its place.
    With a `total`, negative counts become 0. Consistent counts add up to `total`. Two servers report inconsistent
    counts (recorded 2026). OpenRouter counts some Gemini tokens twice, as read and as written: writes are reduced until
    the sum is `total`. Azure counts a hidden prefix of Grok as read, but not in the total: reads above `total` are left
    out of the sum.
    """
    if total is None:
        return None, read, written
    reads, writes = read or 0, written or 0
    if reads >= 0 <= writes and reads + writes <= total:
        return total - reads - writes, read, written
    reads, writes = max(reads, 0), max(writes, 0)
    within = reads if reads <= total else 0
    writes = min(writes, max(total - within, 0))
    uncached = max(total - within - writes, 0)
    return uncached, None if read is None else reads, None if written is None else writes
