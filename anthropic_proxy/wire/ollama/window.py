"""How much of a conversation the server is asked to keep in sight, which its answers are read by as well."""

from anthropic_proxy.wire.contract import Call

UNKNOWN_WINDOW = 65_536
"""`num_ctx` where nobody knows the model's own. Ollama lowers it to what the model has; without any it may take 4,096
and lose the beginning of the conversation."""


def window_of(call: Call) -> int | None:
    """Return the tokens that input and output may have together; None where the server decides and nobody knows."""
    if call.window is None and call.dialect.says_window:
        return UNKNOWN_WINDOW
    return call.window
