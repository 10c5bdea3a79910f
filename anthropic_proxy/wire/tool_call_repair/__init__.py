"""Recovery of tool calls and reasoning that a server sends as reply text, and repair of tool names and arguments.

Open models write calls and reasoning as text with markers. Some servers do not parse these markers. The decoders of the
wires use this package; `README.md` has one example of each text format.
"""

from anthropic_proxy.wire.tool_call_repair.arguments import is_object, repair_arguments
from anthropic_proxy.wire.tool_call_repair.call_repair import CallRepair
from anthropic_proxy.wire.tool_call_repair.formats import TOOL_CALL_FORMATS, ToolCallFormat
from anthropic_proxy.wire.tool_call_repair.offered_tools import UNNAMED, OfferedTools
from anthropic_proxy.wire.tool_call_repair.text_calls import TextCallDetector
from anthropic_proxy.wire.tool_call_repair.text_splitter import TextSplitter
from anthropic_proxy.wire.tool_call_repair.thinking_tags import TAGS, ThinkingTagParser, ThinkingTags

__all__ = [
    "TAGS",
    "TOOL_CALL_FORMATS",
    "UNNAMED",
    "CallRepair",
    "OfferedTools",
    "TextCallDetector",
    "TextSplitter",
    "ThinkingTagParser",
    "ThinkingTags",
    "ToolCallFormat",
    "is_object",
    "repair_arguments",
]
