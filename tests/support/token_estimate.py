"""The estimated input tokens of a request."""

from anthropic_proxy.engine.messages.models import MessagesRequest
from anthropic_proxy.engine.messages.tokens import DEFAULT_FAMILY, TokenFamily, collect_token_facts, estimate_tokens


def estimate_request_tokens(request: MessagesRequest, family: TokenFamily = DEFAULT_FAMILY) -> int:
    """Return the estimated input tokens of a request: system prompt, messages, visible tools, images and PDFs.

    Raises `InvalidRequest` for a tool result that cannot be decoded.
    """
    return estimate_tokens(collect_token_facts(request, finds_reasoning=family.drops_reasoning), family)
