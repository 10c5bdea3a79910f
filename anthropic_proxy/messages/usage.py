"""What an upstream said of its cost, put together from all that it said."""

import msgspec

from anthropic_proxy.messages.deltas import Usage
from anthropic_proxy.messages.events import Totals

CHARACTERS_PER_TOKEN = 4
"""How the output is counted where the upstream never says: too few for Chinese, too many for code, but never absent."""

LARGEST_COUNT = 2**53 - 1
"""Every reader of JSON takes a number up to here for what it is; no provider counts so far."""


def with_later(before: Usage, said: Usage) -> Usage:
    """Return the totals known after `said`: per field the last one that was said.

    Some upstreams say them with every frame, so the fields stand here one by one.
    """
    searches, fetches, tier = said.web_search_requests, said.web_fetch_requests, said.service_tier
    return Usage(
        input_tokens=before.input_tokens if said.input_tokens is None else said.input_tokens,
        output_tokens=before.output_tokens if said.output_tokens is None else said.output_tokens,
        cache_read_tokens=before.cache_read_tokens if said.cache_read_tokens is None else said.cache_read_tokens,
        cache_write_tokens=before.cache_write_tokens if said.cache_write_tokens is None else said.cache_write_tokens,
        thinking_tokens=before.thinking_tokens if said.thinking_tokens is None else said.thinking_tokens,
        web_search_requests=before.web_search_requests if searches is None else searches,
        web_fetch_requests=before.web_fetch_requests if fetches is None else fetches,
        service_tier=before.service_tier if tier is None else tier,
    )


def count_totals(usage: Usage, *, estimate: int, characters: int, cut: bool) -> Totals:
    """Return what a message has cost, gaps filled: the input from its estimate, the output from what was written.

    `cut`: at a stop sequence. Then it counts at least what was written, because the upstream was stopped before it
    could say its last number.
    """
    cached, written = _counted(usage.cache_read_tokens), _counted(usage.cache_write_tokens)
    said, output, tier = usage.input_tokens, usage.output_tokens, usage.service_tier
    if output is None or cut:
        output = max(output or 0, -(-characters // CHARACTERS_PER_TOKEN))
    output = _counted(output)
    return Totals(
        input_tokens=_counted(estimate - cached - written if said is None else said),
        cache_creation_input_tokens=written,
        cache_read_input_tokens=cached,
        output_tokens=output,
        output_tokens_details={"thinking_tokens": min(_counted(usage.thinking_tokens), output)},
        server_tool_use=_count_server_tools(usage),
        service_tier=msgspec.UNSET if tier is None else tier,
    )


def _count_server_tools(usage: Usage) -> dict[str, int] | msgspec.UnsetType:
    """Return `server_tool_use` as a reply has it; unset where nobody said anything of such tools."""
    searches, fetches = usage.web_search_requests, usage.web_fetch_requests
    if searches is None and fetches is None:
        return msgspec.UNSET
    return {"web_search_requests": _counted(searches), "web_fetch_requests": _counted(fetches)}


def with_spent(spent: Usage, running: Usage) -> Usage:
    """Return the totals of a reply that takes several upstream calls: those that ended, and the one under way."""
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


def _counted(said: int | None) -> int:
    """Return a count that clients can read, whatever an upstream said."""
    return min(max(said, 0), LARGEST_COUNT) if said else 0


def _sum(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else max(one, 0) + max(other, 0)
