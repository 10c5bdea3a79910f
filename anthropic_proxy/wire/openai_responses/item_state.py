"""`OutputItemState`: decoding state of one output item (message, reasoning or call) of a Responses stream.

`describe_unsupported_item` returns a text in place of a generated image.
"""

from anthropic_proxy.messages.server_blocks import generated_image_text
from anthropic_proxy.wire.openai_responses.frames import OutputItem
from anthropic_proxy.wire.openai_responses.server_tool_results import ServerToolItemDecoder
from anthropic_proxy.wire.openai_responses.tool_calls import ToolCallItemDecoder


class OutputItemState:
    """State of one output item during decoding: the decoder of its call, and the kind of content emitted so far."""

    __slots__ = ("citation_count", "complete", "item_id", "latest_part", "server_tool", "text_streamed", "tool_call")

    def __init__(self) -> None:
        self.tool_call: ToolCallItemDecoder | None = None
        self.server_tool: ServerToolItemDecoder | None = None
        self.item_id: str | None = None
        self.latest_part: tuple[str, int] | None = None
        """Kind and index of the content part of the latest fragment: `("summary", 0)`. None: no fragment yet."""
        self.text_streamed = False
        """True if fragments of text were emitted. The complete item then adds no text."""
        self.citation_count = 0
        """Number of citations emitted from stream events. The complete item repeats these citations."""
        self.complete = False


def describe_unsupported_item(item: OutputItem) -> str | None:
    """Return the text that replaces an output item without a block in the Messages API: a generated image.

    None: the item is ignored.
    """
    if item.type == "image_generation_call" and item.result:
        return generated_image_text(f"image/{item.output_format or 'png'}", len(item.result))
    return None
