"""Recovery of tool calls and reasoning that a server sends as reply text, and repair of tool names and arguments.

Open models write calls and reasoning as text with markers, which some servers do not parse. `TextSplitter` separates
such text. `ToolCallRepair` repairs names and arguments. `README.md` has one example of each text format.
"""

from anthropic_proxy.wire.tool_call_repair.arguments import is_json_object, repair_arguments
from anthropic_proxy.wire.tool_call_repair.call_repair import ToolCallRepair
from anthropic_proxy.wire.tool_call_repair.formats import TOOL_CALL_FORMATS, ToolCallFormat
from anthropic_proxy.wire.tool_call_repair.offered_tools import UNNAMED_TOOL, OfferedTools
from anthropic_proxy.wire.tool_call_repair.text_calls import TextCallDetector
from anthropic_proxy.wire.tool_call_repair.text_splitter import TextSplitter
from anthropic_proxy.wire.tool_call_repair.thinking_tags import OPENED_THINKING_TAGS, ThinkingTagParser, ThinkingTags

__all__ = [
    "OPENED_THINKING_TAGS",
    "TOOL_CALL_FORMATS",
    "UNNAMED_TOOL",
    "OfferedTools",
    "TextCallDetector",
    "TextSplitter",
    "ThinkingTagParser",
    "ThinkingTags",
    "ToolCallFormat",
    "ToolCallRepair",
    "is_json_object",
    "repair_arguments",
]
