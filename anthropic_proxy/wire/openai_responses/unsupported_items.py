"""Items that Anthropic's replies have no block for, as text."""

from anthropic_proxy.messages.server_blocks import generated_image_text
from anthropic_proxy.wire.openai_responses.frames import OutputItem


def item_as_text(item: OutputItem) -> str | None:
    """Return an unsupported item as text. None: it has no meaning for a client."""
    if item.type == "image_generation_call" and item.result:
        return generated_image_text(f"image/{item.output_format or 'png'}", len(item.result))
    return None
