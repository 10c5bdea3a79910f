"""Input token counts. Other APIs than Anthropic's include cached input in the total."""


def split_input(total: int | None, read: int | None, written: int | None) -> tuple[int | None, int | None, int | None]:
    """Return uncached input, cache reads and cache writes. They add up to the total and are never negative.

    Two servers contradict themselves. OpenRouter counts Gemini tokens as both read and written: the excess over the
    total was not written (recorded 2026). Azure counts a hidden prefix of Grok as read, but not as prompt: a total
    below the reads does not contain them (recorded 2026).
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
