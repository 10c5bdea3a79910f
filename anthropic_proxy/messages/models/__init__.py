"""Structs of the Messages API, and `decode_request`, which decodes the body of a client request into them.

Unknown fields are ignored. A value that the proxy only forwards is stored as `Raw`, which is JSON text that is not
decoded.
"""

from msgspec import Raw

from anthropic_proxy.messages.models.block_structs import (
    ABSENT,
    Block,
    CompactionBlock,
    DocumentBlock,
    FallbackBlock,
    ImageBlock,
    RedactedThinkingBlock,
    SearchResultBlock,
    ServerToolUseBlock,
    Source,
    TextBlock,
    ThinkingBlock,
    ToolAdditionBlock,
    ToolChange,
    ToolReferenceBlock,
    ToolRemovalBlock,
    ToolResultBlock,
    ToolSearchResultBlock,
    ToolUseBlock,
    UnknownBlock,
    WebFetchResultBlock,
    WebSearchResultBlock,
    name_url,
)
from anthropic_proxy.messages.models.blocks import decode_nested_content
from anthropic_proxy.messages.models.clean_messages import CleanMessages
from anthropic_proxy.messages.models.decode import (
    decode_envelope,
    decode_request,
    decode_request_or_envelope,
    guess_model,
    scan_request,
)
from anthropic_proxy.messages.models.raw_kinds import is_json_object, is_string_or_absent, json_string
from anthropic_proxy.messages.models.structs import (
    CacheMarks,
    McpServer,
    Message,
    MessagesRequest,
    MessagesResponse,
    Metadata,
    OutputConfig,
    OutputFormat,
    ThinkingConfig,
    Tool,
    ToolChoice,
    UsageBody,
)
from anthropic_proxy.messages.models.tools import decode_tool
from anthropic_proxy.messages.models.validation_errors import require_bounded_members

__all__ = [
    "ABSENT",
    "Block",
    "CacheMarks",
    "CleanMessages",
    "CompactionBlock",
    "DocumentBlock",
    "FallbackBlock",
    "ImageBlock",
    "McpServer",
    "Message",
    "MessagesRequest",
    "MessagesResponse",
    "Metadata",
    "OutputConfig",
    "OutputFormat",
    "Raw",
    "RedactedThinkingBlock",
    "SearchResultBlock",
    "ServerToolUseBlock",
    "Source",
    "TextBlock",
    "ThinkingBlock",
    "ThinkingConfig",
    "Tool",
    "ToolAdditionBlock",
    "ToolChange",
    "ToolChoice",
    "ToolReferenceBlock",
    "ToolRemovalBlock",
    "ToolResultBlock",
    "ToolSearchResultBlock",
    "ToolUseBlock",
    "UnknownBlock",
    "UsageBody",
    "WebFetchResultBlock",
    "WebSearchResultBlock",
    "decode_envelope",
    "decode_nested_content",
    "decode_request",
    "decode_request_or_envelope",
    "decode_tool",
    "guess_model",
    "is_json_object",
    "is_string_or_absent",
    "json_string",
    "name_url",
    "require_bounded_members",
    "scan_request",
]
