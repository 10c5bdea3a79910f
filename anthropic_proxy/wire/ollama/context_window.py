"""`resolve_context_window`: finds the size of the context window of a model on Ollama.

A request can set this size with the option `num_ctx`. The decoder compares it with the token counts of a reply, to
detect that the reply has filled the window.
"""

from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.ollama.dialect import Dialect

UNKNOWN_WINDOW = 65_536
"""Context window for models with an unknown window. Ollama lowers it to the model's maximum. Without `num_ctx`, Ollama
may use 4,096 tokens and drop the beginning of the conversation."""


def resolve_context_window(call: Call[Dialect]) -> int | None:
    """Return the size of the context window in tokens, for input and output together.

    None: the size is unknown, and the server decides.
    """
    if call.context_window is None and call.dialect.sends_num_ctx:
        return UNKNOWN_WINDOW
    return call.context_window
