"""`OutputItemState`: state of decoding one output item (message, reasoning or call) of a Responses stream.

`describe_unsupported_item` returns a text in place of a generated image.
"""

from anthropic_proxy.messages.server_blocks import generated_image_text
from anthropic_proxy.wire.openai_responses.frames import OutputItem
from anthropic_proxy.wire.openai_responses.server_tool_results import ServerToolItemDecoder
from anthropic_proxy.wire.openai_responses.tool_calls import ToolCallItemDecoder


class OutputItemState:
    """State of decoding one output item: the decoder of its call, and the content returned so far."""

    __slots__ = ("citation_count", "complete", "item_id", "latest_part", "server_tool", "text_streamed", "tool_call")

    def __init__(self) -> None:
        self.tool_call: ToolCallItemDecoder | None = None
        self.server_tool: ServerToolItemDecoder | None = None
        self.item_id: str | None = None
        self.latest_part: tuple[str, int] | None = None
        """Kind and index of the content part of the latest fragment: `("summary", 0)`. None: no fragment yet."""
        self.text_streamed = False
        """True if fragments of text were returned. The complete item, which follows, then adds no text."""
        self.citation_count = 0
        """Number of citations returned from stream events. The complete item repeats these citations."""
        self.complete = False


def describe_unsupported_item(item: OutputItem) -> str | None:
    """Return a text that replaces a generated image, for which the Messages API has no block.

    None: another item, which is ignored.
    """
    if item.type == "image_generation_call" and item.result:
        return generated_image_text(f"image/{item.output_format or 'png'}", len(item.result))
    return None
