"""Usage of a reply, merged from the reports of the upstream."""

import msgspec

from anthropic_proxy.messages.deltas import Usage
from anthropic_proxy.messages.models import UsageBody

CHARACTERS_PER_TOKEN = 4
"""Characters per output token, for upstreams that report no usage. Too low for Chinese, too high for code."""

MAX_COUNT = 2**53 - 1
"""Largest integer that every JSON decoder reads exactly."""


def merge_latest(before: Usage, new: Usage) -> Usage:
    """Merge two usage reports of one upstream call: the last reported value of each field is valid.

    Some upstreams report usage in every frame, so the fields are merged without a loop.
    """
    searches, fetches, tier = new.web_search_requests, new.web_fetch_requests, new.service_tier
    return Usage(
        input_tokens=before.input_tokens if new.input_tokens is None else new.input_tokens,
        output_tokens=before.output_tokens if new.output_tokens is None else new.output_tokens,
        cache_read_tokens=before.cache_read_tokens if new.cache_read_tokens is None else new.cache_read_tokens,
        cache_write_tokens=before.cache_write_tokens if new.cache_write_tokens is None else new.cache_write_tokens,
        thinking_tokens=before.thinking_tokens if new.thinking_tokens is None else new.thinking_tokens,
        web_search_requests=before.web_search_requests if searches is None else searches,
        web_fetch_requests=before.web_fetch_requests if fetches is None else fetches,
        service_tier=before.service_tier if tier is None else tier,
    )


def final_totals(usage: Usage, *, estimate: int, characters: int, cut: bool) -> UsageBody:
    """Return the `usage` for the client. Counts that the upstream did not report are estimated.

    `estimate`: estimated input tokens, cached ones included. `characters`: length of the output.

    `cut`: True if the proxy ended the reply at a stop sequence, before the last report of the upstream. The output is
    then at least the estimate.
    """
    cached, written = _counted(usage.cache_read_tokens), _counted(usage.cache_write_tokens)
    reported, output, tier = usage.input_tokens, usage.output_tokens, usage.service_tier
    if output is None or cut:
        output = max(output or 0, -(-characters // CHARACTERS_PER_TOKEN))
    output = _counted(output)
    return UsageBody(
        input_tokens=_counted(estimate - cached - written if reported is None else reported),
        cache_creation_input_tokens=written,
        cache_read_input_tokens=cached,
        output_tokens=output,
        output_tokens_details={"thinking_tokens": min(_counted(usage.thinking_tokens), output)},
        server_tool_use=_count_server_tools(usage),
        service_tier=msgspec.UNSET if tier is None else tier,
    )


def _count_server_tools(usage: Usage) -> dict[str, int] | msgspec.UnsetType:
    """Return `server_tool_use` of a reply. Unset: not reported."""
    searches, fetches = usage.web_search_requests, usage.web_fetch_requests
    if searches is None and fetches is None:
        return msgspec.UNSET
    return {"web_search_requests": _counted(searches), "web_fetch_requests": _counted(fetches)}


def add_finished(spent: Usage, running: Usage) -> Usage:
    """Return the sum of two usages, for a reply with several upstream calls (tool loop). None: neither reported it.

    `spent`: sum of the finished calls. `running`: totals of the current call.
    """
    return Usage(
        input_tokens=_sum(spent.input_tokens, running.input_tokens),
        output_tokens=_sum(spent.output_tokens, running.output_tokens),
        cache_read_tokens=_sum(spent.cache_read_tokens, running.cache_read_tokens),
        cache_write_tokens=_sum(spent.cache_write_tokens, running.cache_write_tokens),
        thinking_tokens=_sum(spent.thinking_tokens, running.thinking_tokens),
        web_search_requests=_sum(spent.web_search_requests, running.web_search_requests),
        web_fetch_requests=_sum(spent.web_fetch_requests, running.web_fetch_requests),
        service_tier=running.service_tier or spent.service_tier,
    )


def _counted(count: int | None) -> int:
    """Return a count, limited to the range from 0 to `MAX_COUNT`. None counts as 0."""
    return min(max(count, 0), MAX_COUNT) if count else 0


def _sum(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else max(one, 0) + max(other, 0)
