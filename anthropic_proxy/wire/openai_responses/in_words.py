"""Items that Anthropic's replies have no block for, as text."""

from anthropic_proxy.wire.openai_responses.events import Item
from anthropic_proxy.wire.server_tools import picture_in_words


def item_in_words(item: Item) -> str | None:
    """Return such an item as text; None: it says nothing to a client."""
    if item.type == "image_generation_call" and item.result:
        return picture_in_words(f"image/{item.output_format or 'png'}", len(item.result))
    return None
