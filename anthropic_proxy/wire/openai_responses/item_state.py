"""State of one output item, and the text for an item without a block in the Messages API."""

from anthropic_proxy.messages.server_blocks import generated_image_text
from anthropic_proxy.wire.openai_responses.frames import OutputItem
from anthropic_proxy.wire.openai_responses.server_tool_results import ServerToolReader
from anthropic_proxy.wire.openai_responses.tool_calls import OpenToolCall


class ItemState:
    """Emitted content of one output item."""

    __slots__ = ("call", "cited", "done", "hosted", "item_id", "part", "text")

    def __init__(self) -> None:
        self.call: OpenToolCall | None = None
        self.hosted: ServerToolReader | None = None
        self.item_id: str | None = None
        self.part: tuple[str, int] | None = None
        """Kind and index of the piece of which the last fragment was."""
        self.text = False
        """True if text arrived as fragments."""
        self.cited = 0
        """Number of citations that were emitted from events."""
        self.done = False


def item_as_text(item: OutputItem) -> str | None:
    """Return an unsupported item as text. None: it has no meaning for a client."""
    if item.type == "image_generation_call" and item.result:
        return generated_image_text(f"image/{item.output_format or 'png'}", len(item.result))
    return None
