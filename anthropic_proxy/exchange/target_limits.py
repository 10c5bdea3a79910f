"""Limits of a target, from the catalog, the dialect and the settings; its address for continuations."""

import functools

from msgspec import structs

from anthropic_proxy.messages.preparation import STATED_MARGIN, ServerToolKind, TargetLimits
from anthropic_proxy.routing.router import Target

_OWNED: tuple[ServerToolKind, ...] = ("web_search", "tool_search")
_OWNED_WITH_FETCH: tuple[ServerToolKind, ...] = (*_OWNED, "web_fetch")
"""Tools that the proxy runs if the provider does not. A web search without a service returns an API error."""


@functools.lru_cache(maxsize=256)
def target_limits(
    target: Target, *, must_fit: bool = False, searches: bool = True, fetches: bool = False
) -> TargetLimits:
    """Return the limits of a target for `prepare`.

    `must_fit`: reject requests above its window. `searches`: a search service is set. `fetches`: the proxy may fetch
    web pages.
    """
    facts, dialect = target.facts, target.dialect
    stated = facts.stated_window
    outputs = [limit for limit in (facts.max_output if facts.known else None, facts.stated_output) if limit is not None]
    return TargetLimits(
        window=stated or (facts.context_window if facts.known else None),
        max_input=facts.max_input if facts.known and stated is None else None,
        max_output=min(outputs, default=None),
        reject_overflow=must_fit and stated is None,
        margin=STATED_MARGIN if stated is not None else 0.0,
        efforts=facts.efforts,
        accepts_thinking_budget=getattr(dialect, "thinking", "") == "budget",
        default_effort=facts.default_effort,
        vision=(facts.accepts_images or not facts.known) and not facts.rejects_images,
        pdf=facts.accepts_pdf and not facts.rejects_documents,
        tools=facts.tools,
        server_tools=getattr(dialect, "server_tools", ()),
        server_tools_exclusive=getattr(dialect, "server_tools_exclusive", False),
        proxy_tool_kinds=_OWNED_WITH_FETCH if fetches else _OWNED,
        can_search=searches,
        provider=target.provider.prefix,
        name_pattern=dialect.tool_name_pattern,
        name_length=dialect.max_tool_name_length,
    )


def continuation_target(target: Target) -> Target:
    """Return the target at the version of its API that continues a reply."""
    version = getattr(target.dialect, "continuation_version", "")
    if not version:
        return target
    base_url = target.base_url.replace(f"{target.provider.url_version}/", f"{version}/", 1)
    return structs.replace(target, base_url=base_url)
