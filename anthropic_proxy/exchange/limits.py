"""What a target can take, put together from the catalogue, the dialect and the settings."""

import functools

from anthropic_proxy.messages.prepare import Kind, Limits
from anthropic_proxy.routing.router import Target

_OWNED: tuple[Kind, ...] = ("web_search", "tool_search")
_OWNED_WITH_FETCH: tuple[Kind, ...] = (*_OWNED, "web_fetch")
"""Tools that the proxy runs where the provider does not; a search without a service says so in the API's words."""


@functools.lru_cache(maxsize=256)
def limits_of(target: Target, *, must_fit: bool = False, searches: bool = True, fetches: bool = False) -> Limits:
    """Return what `prepare` must know of a target.

    `must_fit`: whether what is too long for it is not even sent. `searches`: whether the proxy has a search service.
    `fetches`: whether it may fetch pages.
    """
    facts, dialect = target.facts, target.dialect
    return Limits(
        window=facts.window if facts.known else None,
        max_input=facts.max_input if facts.known else None,
        max_output=facts.max_output if facts.known else None,
        must_fit=must_fit,
        efforts=facts.efforts,
        takes_budgets=getattr(dialect, "thinking", "") == "budget",
        default_effort=facts.default_effort,
        vision=facts.vision or not facts.known,
        pdf=facts.pdf,
        tools=facts.tools,
        server_tools=getattr(dialect, "server_tools", ()),
        server_tools_alone=getattr(dialect, "server_tools_alone", False),
        owned_tools=_OWNED_WITH_FETCH if fetches else _OWNED,
        searches=searches,
        provider=target.provider.name,
        name_pattern=dialect.tool_name_pattern,
        name_length=dialect.tool_name_length,
    )
