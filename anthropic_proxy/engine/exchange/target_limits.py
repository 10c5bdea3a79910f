"""The limits to which a client request is adapted for one target: what model, API and proxy can do."""

from functools import lru_cache

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.messages.preparation import STATED_WINDOW_MARGIN, ServerToolKind, TargetLimits
from anthropic_proxy.engine.routing.router import Target

_PROXY_TOOLS: tuple[ServerToolKind, ...] = ("web_search", "tool_search")
_PROXY_TOOLS_WITH_FETCH: tuple[ServerToolKind, ...] = (*_PROXY_TOOLS, "web_fetch")
"""Kinds of server tools that the proxy itself can run for a provider without them, if `FETCH_URLS` is set. Without
`SEARCH_URL`, a web search returns an error block."""


@lru_cache(maxsize=256)
def build_target_limits(
    target: Target,
    rejects_overflow: bool = False,  # also by position: lru_cache is slower with keywords
    has_web_search: bool = True,
    has_web_fetch: bool = False,
) -> TargetLimits:
    """Return the limits to which client requests for `target` are adapted.

    `has_web_search` and `has_web_fetch` are True if the proxy itself can run these tools.
    """
    facts, dialect = target.capabilities, target.dialect
    stated = facts.context_window_from_error
    outputs = [
        limit for limit in (facts.max_output if facts.known else None, facts.max_output_from_error) if limit is not None
    ]
    return TargetLimits(
        context_window=stated or (facts.context_window if facts.known else None),
        max_input=facts.max_input if facts.known and stated is None else None,
        max_output=min(outputs, default=None),
        reject_overflow=rejects_overflow and stated is None,
        margin=STATED_WINDOW_MARGIN if stated is not None else 0.0,
        efforts=facts.efforts,
        accepts_thinking_budget=dialect.accepts_thinking_budget,
        default_effort=facts.default_effort,
        accepts_images=(facts.accepts_images or not facts.known) and not facts.rejects_images,
        accepts_pdf=facts.accepts_pdf and not facts.rejects_documents,
        accepts_tools=facts.tools,
        server_tools=dialect.server_tools,
        server_tools_exclusive=dialect.server_tools_exclusive,
        proxy_tool_kinds=_PROXY_TOOLS_WITH_FETCH if has_web_fetch else _PROXY_TOOLS,
        can_search=has_web_search,
        provider=target.provider.prefix,
        loaded_tools=dialect.loaded_tool_form,
        tool_name_pattern=dialect.tool_name_pattern,
        max_tool_name_length=dialect.max_tool_name_length,
    )


def resolve_target_limits(engine: Engine, target: Target) -> TargetLimits:
    return build_target_limits(
        target, engine.settings.check_context_window, engine.web_search is not None, engine.web_fetch is not None
    )
