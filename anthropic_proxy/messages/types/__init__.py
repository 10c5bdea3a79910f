"""The Messages API as structs, and how a request is read.

Unknown fields are ignored. Text that only moves stays `Raw`: one JSON string, quotes included, ready to be spliced into
another body without being decoded and encoded again.
"""

from msgspec import Raw

from anthropic_proxy.messages.types.blocks import blocks_of
from anthropic_proxy.messages.types.connectors import McpServer
from anthropic_proxy.messages.types.plain import PlainMessages
from anthropic_proxy.messages.types.reading import decode_request, read_envelope, read_request
from anthropic_proxy.messages.types.skimming import guess_model, skim_request
from anthropic_proxy.messages.types.structs import (
    ABSENT,
    Block,
    ChangedTool,
    CompactionBlock,
    DocumentBlock,
    FallbackBlock,
    ImageBlock,
    Message,
    MessagesRequest,
    MessagesResponse,
    Metadata,
    OutputConfig,
    OutputFormat,
    RedactedThinkingBlock,
    SearchResultBlock,
    ServerToolUseBlock,
    Source,
    TextBlock,
    ThinkingBlock,
    ThinkingConfig,
    Tool,
    ToolAdditionBlock,
    ToolChoice,
    ToolReferenceBlock,
    ToolRemovalBlock,
    ToolResultBlock,
    ToolSearchResultBlock,
    ToolUseBlock,
    UnknownBlock,
    UsageBody,
    WebFetchResultBlock,
    WebSearchResultBlock,
    text_raw,
)
from anthropic_proxy.messages.types.tools import read_tool
from anthropic_proxy.messages.types.values import is_object, is_text

__all__ = [
    "ABSENT",
    "Block",
    "ChangedTool",
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
    "PlainMessages",
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
    "blocks_of",
    "decode_request",
    "guess_model",
    "is_object",
    "is_text",
    "read_envelope",
    "read_request",
    "read_tool",
    "skim_request",
    "text_raw",
]
