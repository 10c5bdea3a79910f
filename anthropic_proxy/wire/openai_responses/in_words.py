"""Items that Anthropic's replies have no block for, as text."""

from anthropic_proxy.wire.openai_responses.events import Item


def item_in_words(item: Item) -> str | None:
    """Return such an item as text; None: it says nothing to a client."""
    if item.type == "image_generation_call" and item.result:
        size = len(item.result) * 3 // 4
        return f"[image generated: image/{item.output_format or 'png'}, {max(1, round(size / 1000))} kB]"
    if item.type == "code_interpreter_call" and item.code:
        return f"\n```python\n{item.code.rstrip()}\n```\n"
    return None
