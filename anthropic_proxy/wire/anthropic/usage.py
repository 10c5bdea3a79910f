"""`decode_usage`: token counts of a Messages API response.

A count with an unexpected JSON type is ignored, and the other counts are still decoded. `read_members` and
`read_string_member` read fields of a JSON object.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.messages.deltas import Usage
from anthropic_proxy.wire.json_repair import DECODE_ERRORS, decode_repaired, parse_token_count

_FAST = "fast"
"""Value of `speed` with prices of its own, "Fast mode" in Anthropic's price list (2026-11)."""
_STANDARD = "standard"
"""Value of `service_tier` for the normal prices."""


class _OutputDetails(Struct, gc=False):
    thinking_tokens: int | None = None


class _ServerTools(Struct, gc=False):
    web_search_requests: int | None = None
    web_fetch_requests: int | None = None


class _CacheCreation(Struct, gc=False):
    ephemeral_1h_input_tokens: int | None = None


class _CountedUsage(Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _OutputDetails | None = None
    server_tool_use: _ServerTools | None = None
    service_tier: str | None = None
    speed: str | None = None


_decode_usage = msgspec.json.Decoder(_CountedUsage | None).decode
decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
"""Function that decodes a JSON object to a dictionary: key → JSON text of the value."""


def decode_usage(usage: Raw, earlier_tier: str | None = None) -> Usage | None:
    """Return the token counts of a `usage` object. None: `usage` is missing or null.

    `earlier_tier` is the `billed_tier` of earlier events of the same reply. The tier `fast` remains until an event has
    another `speed`. The billed tier is then the `service_tier` of this event, or `standard` if it has none.
    """
    counts = _count(usage)
    if counts is None:
        return None
    written, details, server_tools = counts.cache_creation, counts.output_tokens_details, counts.server_tool_use
    return Usage(
        input_tokens=counts.input_tokens,
        output_tokens=counts.output_tokens,
        cache_read_tokens=counts.cache_read_input_tokens,
        cache_write_tokens=counts.cache_creation_input_tokens,
        cache_write_1h_tokens=written.ephemeral_1h_input_tokens if written else None,
        thinking_tokens=details.thinking_tokens if details else None,
        web_search_requests=server_tools.web_search_requests if server_tools else None,
        web_fetch_requests=server_tools.web_fetch_requests if server_tools else None,
        service_tier=counts.service_tier,
        billed_searches=server_tools.web_search_requests if server_tools else None,
        billed_tier=_find_billed_tier(counts, earlier_tier),
    )


def _find_billed_tier(counts: _CountedUsage, earlier_tier: str | None) -> str | None:
    """Return the tier by which the call is billed. None: not reported, so the tier of earlier events applies."""
    if (counts.speed or earlier_tier) == _FAST:
        return _FAST
    return counts.service_tier or (_STANDARD if earlier_tier == _FAST else None)


def read_members(text: Raw | None) -> Mapping[str, Raw] | None:
    """Return the members of a JSON object: key → JSON text. None: `text` is missing, or no object."""
    try:
        return None if text is None else decode_members(text)
    except DECODE_ERRORS:
        return None


def read_string_member(members: Mapping[str, Raw], name: str) -> str | None:
    """Return the string value of a member. None: the member is missing, or not a string."""
    text = decode_repaired(members[name]) if name in members else None
    return text if isinstance(text, str) else None


def _count(usage: Raw) -> _CountedUsage | None:
    """Return the token counts of a `usage` object, decoded in one step. None: `usage` is missing or null."""
    try:
        return _decode_usage(usage) if memoryview(usage).nbytes else None
    except DECODE_ERRORS:
        return _count_loosely(usage)


def _count_loosely(usage: Raw) -> _CountedUsage | None:
    """Return the token counts of a `usage` object, each decoded separately. Values of unexpected types are ignored."""
    members = read_members(usage)
    if members is None:
        return None
    written = read_members(members.get("cache_creation")) or {}
    details = read_members(members.get("output_tokens_details")) or {}
    tools = read_members(members.get("server_tool_use")) or {}
    return _CountedUsage(
        input_tokens=_read_number(members, "input_tokens"),
        output_tokens=_read_number(members, "output_tokens"),
        cache_read_input_tokens=_read_number(members, "cache_read_input_tokens"),
        cache_creation_input_tokens=_read_number(members, "cache_creation_input_tokens"),
        cache_creation=_CacheCreation(_read_number(written, "ephemeral_1h_input_tokens")),
        output_tokens_details=_OutputDetails(_read_number(details, "thinking_tokens")),
        server_tool_use=_ServerTools(
            _read_number(tools, "web_search_requests"), _read_number(tools, "web_fetch_requests")
        ),
        service_tier=read_string_member(members, "service_tier"),
        speed=read_string_member(members, "speed"),
    )


def _read_number(members: Mapping[str, Raw], name: str) -> int | None:
    return parse_token_count(decode_repaired(members[name])) if name in members else None
