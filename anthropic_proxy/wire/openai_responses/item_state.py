"""`OutputItemState`: decoding state of one output item (message, reasoning or call) in a Responses stream.

`describe_generated_image` returns a text in place of a generated image.
"""

from anthropic_proxy.messages.server_blocks import describe_generated_file
from anthropic_proxy.wire.openai_responses.frames import OutputItem
from anthropic_proxy.wire.openai_responses.tool_calls import ToolCallItemDecoder
from anthropic_proxy.wire.openai_responses.web_search import ServerToolItemDecoder


class OutputItemState:
    """Decoding state of one output item of a stream: the decoder of its tool call, and the content decoded so far."""

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


def describe_generated_image(item: OutputItem) -> str | None:
    """Return a text in place of a generated image, because the Messages API has no block for one.

    None: the item is not a generated image.
    """
    if item.type == "image_generation_call" and item.result:
        return describe_generated_file(f"image/{item.output_format or 'png'}", len(item.result))
    return None
