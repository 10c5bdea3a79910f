"""What an upstream said of its cost, put together from all that it said."""

from anthropic_proxy.messages.deltas import Usage


def with_later(before: Usage, said: Usage) -> Usage:
    """Return the totals known after `said`: per field the last one that was said.

    Some upstreams say them with every frame, so the fields stand here one by one.
    """
    searches, tier = said.web_search_requests, said.service_tier
    return Usage(
        input_tokens=before.input_tokens if said.input_tokens is None else said.input_tokens,
        output_tokens=before.output_tokens if said.output_tokens is None else said.output_tokens,
        cache_read_tokens=before.cache_read_tokens if said.cache_read_tokens is None else said.cache_read_tokens,
        cache_write_tokens=before.cache_write_tokens if said.cache_write_tokens is None else said.cache_write_tokens,
        thinking_tokens=before.thinking_tokens if said.thinking_tokens is None else said.thinking_tokens,
        web_search_requests=before.web_search_requests if searches is None else searches,
        service_tier=before.service_tier if tier is None else tier,
    )
