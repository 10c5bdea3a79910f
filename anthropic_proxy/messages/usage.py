"""Token counts of a reply, merged from the usage reports of the provider.

A provider reports counts several times during a reply. `merge_latest` keeps the last value of each count. `sum_usages`
adds the upstream calls of one reply, and `mark_input_repeated` marks the input of a call that the proxy sends again.
`build_usage_body` returns the `usage` for the client, and estimates missing counts.
"""

import msgspec
from msgspec import structs

from anthropic_proxy.messages.deltas import Usage
from anthropic_proxy.messages.models import UsageBody

CHARACTERS_PER_TOKEN = 4
"""Number of characters that count as one output token if the upstream reports no usage. The estimate is too low for
Chinese, too high for code."""

MAX_COUNT = 2**53 - 1
"""Maximum token count: the largest integer that every JSON decoder reads exactly."""


def merge_latest(before: Usage, new: Usage) -> Usage:
    """Return the combination of two usage reports of one upstream call.

    A count of `new` replaces the count of `before`, unless it is None (not reported). If `new` is the first report of a
    call that repeats the input, it replaces all counts.
    """
    if new.repeated_input != before.repeated_input:
        return new
    searches, fetches, tier = new.web_search_requests, new.web_fetch_requests, new.service_tier
    long, billed = new.cache_write_1h_tokens, new.billed_searches
    return Usage(
        input_tokens=before.input_tokens if new.input_tokens is None else new.input_tokens,
        output_tokens=before.output_tokens if new.output_tokens is None else new.output_tokens,
        cache_read_tokens=before.cache_read_tokens if new.cache_read_tokens is None else new.cache_read_tokens,
        cache_write_tokens=before.cache_write_tokens if new.cache_write_tokens is None else new.cache_write_tokens,
        cache_write_1h_tokens=before.cache_write_1h_tokens if long is None else long,
        thinking_tokens=before.thinking_tokens if new.thinking_tokens is None else new.thinking_tokens,
        web_search_requests=before.web_search_requests if searches is None else searches,
        web_fetch_requests=before.web_fetch_requests if fetches is None else fetches,
        service_tier=before.service_tier if tier is None else tier,
        billed_searches=before.billed_searches if billed is None else billed,
        billed_tier=before.billed_tier if new.billed_tier is None else new.billed_tier,
        repeated_input=new.repeated_input,
    )


def build_usage_body(usage: Usage, *, estimate: int, output_characters: int, usage_is_partial: bool) -> UsageBody:
    """Return the `usage` of a reply for the client. Input and output tokens that were not reported are estimated.

    `estimate` is the estimated number of input tokens. Output tokens are estimated from `output_characters`, the length
    of the reply. `usage_is_partial` is True if the provider sent its last report before the end of the reply. The
    output tokens are then at least the estimate.
    """
    cached, written = clamp_count(usage.cache_read_tokens), clamp_count(usage.cache_write_tokens)
    reported, output, tier = usage.input_tokens, usage.output_tokens, usage.service_tier
    # a partial usage precedes the end of the reply, so the output is at least its estimate
    if output is None or usage_is_partial:
        output = max(output or 0, -(-output_characters // CHARACTERS_PER_TOKEN))
    output = clamp_count(output)
    return UsageBody(
        input_tokens=clamp_count(estimate - cached - written if reported is None else reported),
        cache_creation_input_tokens=written,
        cache_creation=_divide_cache_writes(written, usage.cache_write_1h_tokens),
        cache_read_input_tokens=cached,
        output_tokens=output,
        output_tokens_details={"thinking_tokens": min(clamp_count(usage.thinking_tokens), output)},
        server_tool_use=_count_server_tools(usage),
        service_tier=msgspec.UNSET if tier is None else tier,
    )


def _divide_cache_writes(written: int, long: int | None) -> dict[str, int] | msgspec.UnsetType:
    """Return the field `cache_creation` of the usage. Unset: the upstream did not report the cache lifetimes.

    `written`: all tokens written to the prompt cache. `long`: number of these tokens that are kept for one hour, or
    None.
    """
    if long is None:
        return msgspec.UNSET
    long = min(clamp_count(long), written)
    return {"ephemeral_5m_input_tokens": written - long, "ephemeral_1h_input_tokens": long}


def _count_server_tools(usage: Usage) -> dict[str, int] | msgspec.UnsetType:
    """Return the field `server_tool_use` of a reply's usage. Unset: the provider reported no calls of server tools."""
    searches, fetches = usage.web_search_requests, usage.web_fetch_requests
    if searches is None and fetches is None:
        return msgspec.UNSET
    return {"web_search_requests": clamp_count(searches), "web_fetch_requests": clamp_count(fetches)}


def sum_usages(earlier: Usage, current: Usage) -> Usage:
    """Return the sum of the token counts of a reply that needed several upstream calls.

    A count is None if both usages lack it.
    """
    return Usage(
        input_tokens=_sum(earlier.input_tokens, current.input_tokens),
        output_tokens=_sum(earlier.output_tokens, current.output_tokens),
        cache_read_tokens=_sum(earlier.cache_read_tokens, current.cache_read_tokens),
        cache_write_tokens=_sum(earlier.cache_write_tokens, current.cache_write_tokens),
        cache_write_1h_tokens=_sum(earlier.cache_write_1h_tokens, current.cache_write_1h_tokens),
        thinking_tokens=_sum(earlier.thinking_tokens, current.thinking_tokens),
        web_search_requests=_sum(earlier.web_search_requests, current.web_search_requests),
        web_fetch_requests=_sum(earlier.web_fetch_requests, current.web_fetch_requests),
        service_tier=current.service_tier or earlier.service_tier,
        billed_searches=_sum(earlier.billed_searches, current.billed_searches),
        billed_tier=current.billed_tier or "",
        repeated_input=_sum_repeated(earlier.repeated_input, current.repeated_input),
    )


def _sum_repeated(earlier: Usage | None, current: Usage | None) -> Usage | None:
    return current if earlier is None else earlier if current is None else sum_usages(earlier, current)


def mark_input_repeated(usage: Usage) -> Usage:
    """Return the usage of a call with its input counts moved to `repeated_input`, because it is sent again."""
    counts = Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
    )
    return structs.replace(
        usage,
        input_tokens=None,
        cache_read_tokens=None,
        cache_write_tokens=None,
        cache_write_1h_tokens=None,
        repeated_input=_sum_repeated(usage.repeated_input, counts),
    )


def clamp_count(count: int | None) -> int:
    """Return a count of a provider limited to the range from 0 to `MAX_COUNT`. None counts as 0."""
    return min(max(count, 0), MAX_COUNT) if count else 0


def _sum(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else max(one, 0) + max(other, 0)
