"""How many input tokens a request has, roughly, without asking anybody."""

from anthropic_proxy.messages.types import MessagesRequest


def estimate(request: MessagesRequest) -> int:
    """Return the input of a request in tokens; an estimate."""
    return max(1, request.size // 4)
