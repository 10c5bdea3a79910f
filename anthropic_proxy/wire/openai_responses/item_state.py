"""State of one output item, and the text for an item without a block in the Messages API."""

from anthropic_proxy.messages.server_blocks import generated_image_text
from anthropic_proxy.wire.openai_responses.frames import OutputItem
from anthropic_proxy.wire.openai_responses.server_tool_results import ServerToolItemDecoder
from anthropic_proxy.wire.openai_responses.tool_calls import ToolCallItemDecoder


class OutputItemState:
    """Emitted content of one output item."""

    __slots__ = ("citation_count", "complete", "item_id", "latest_part", "server_tool", "text_streamed", "tool_call")

    def __init__(self) -> None:
        self.tool_call: ToolCallItemDecoder | None = None
        self.server_tool: ServerToolItemDecoder | None = None
        self.item_id: str | None = None
        self.latest_part: tuple[str, int] | None = None
        """Kind and index of the piece of which the last fragment was."""
        self.text_streamed = False
        """True if text arrived as fragments."""
        self.citation_count = 0
        """Number of citations that were emitted from events."""
        self.complete = False


def describe_unsupported_item(item: OutputItem) -> str | None:
    """Return an unsupported item as text. None: it has no meaning for a client."""
    if item.type == "image_generation_call" and item.result:
        return generated_image_text(f"image/{item.output_format or 'png'}", len(item.result))
    return None
