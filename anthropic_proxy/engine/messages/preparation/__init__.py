"""Preparation of a client request for one target, before it is encoded for the provider's API.

`prepare` runs all steps. It cleans the messages, chooses the effort level, pairs tool calls with their results,
replaces tool names and limits the output tokens.
"""

from anthropic_proxy.engine.messages.preparation.prepare import (
    REASONING_RESERVES,
    THINKING_BUDGETS,
    may_lack_room,
    number_sources,
    prepare,
)
from anthropic_proxy.engine.messages.preparation.request import (
    DEFAULT_MAX_TOKENS,
    STATED_WINDOW_MARGIN,
    PreparationResult,
    PreparedRequest,
    ProxyTool,
    Question,
    SearchState,
    TargetLimits,
    available_output_tokens,
    find_session_id,
    shorten_id,
)
from anthropic_proxy.engine.messages.preparation.tool_changes import list_tool_changes
from anthropic_proxy.engine.messages.preparation.tools import (
    define_function,
    ends_with_paused_reply,
    find_pending_calls,
    list_loaded_tools,
    resolve_proxy_tools,
    server_tool_kind,
    server_tool_kinds,
)

__all__ = [
    "DEFAULT_MAX_TOKENS",
    "REASONING_RESERVES",
    "STATED_WINDOW_MARGIN",
    "THINKING_BUDGETS",
    "PreparationResult",
    "PreparedRequest",
    "ProxyTool",
    "Question",
    "SearchState",
    "TargetLimits",
    "available_output_tokens",
    "define_function",
    "ends_with_paused_reply",
    "find_pending_calls",
    "find_session_id",
    "list_loaded_tools",
    "list_tool_changes",
    "may_lack_room",
    "number_sources",
    "prepare",
    "resolve_proxy_tools",
    "server_tool_kind",
    "server_tool_kinds",
    "shorten_id",
]
