"""The grammar of an event stream of the Messages API, as data: what a block begins with, and which deltas it has.

The relay repairs the streams of other servers by it. Source: the API reference, "Streaming
messages", recorded streams, and the types of the official SDK `anthropic` 2.10, read 2026-11.
"""

from collections.abc import Mapping
from typing import Any

DELTAS: Mapping[str, tuple[str, str]] = {
    "text_delta": ("text", "text"),
    "citations_delta": ("text", "citation"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("thinking", "signature"),
    "input_json_delta": ("tool_use", "partial_json"),
}
"""Type of a delta → type of the content block to which it belongs, and name of its field with the content."""
EMPTY_STARTS: Mapping[str, Mapping[str, Any]] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}
"""Block type → required fields of its `content_block_start`."""
CUTTING_REASONS = frozenset(("max_tokens", "model_context_window_exceeded", "stop_sequence", "refusal", "pause_turn"))
"""Stop reasons after which a tool call may be incomplete, because the reply was cut."""
COUNTS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
"""Token counts of `usage`."""
BLOCK_FIELDS: Mapping[str, tuple[str, ...]] = {
    "redacted_thinking": ("data",),
    "container_upload": ("file_id",),
    "mcp_tool_listing": ("mcp_server_name", "tools"),
    "fallback": ("from", "to"),
    "mcp_tool_use": ("server_name",),
    "mcp_tool_result": ("tool_use_id", "is_error", "content"),
    **dict.fromkeys(
        (
            *("web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result"),
            *("bash_code_execution_tool_result", "text_editor_code_execution_tool_result"),
            *("tool_search_tool_result", "advisor_tool_result"),
        ),
        ("tool_use_id", "content"),
    ),
}
"""Type of a block → further fields without which no client can read it."""
