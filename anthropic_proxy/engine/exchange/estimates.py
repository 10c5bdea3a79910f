"""The estimated input tokens of a client request."""

from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.messages.deltas import CHARACTERS_PER_TOKEN
from anthropic_proxy.engine.messages.models import MessagesRequest, decode_request_or_envelope
from anthropic_proxy.engine.messages.tokens import EstimateCache, TokenScale
from anthropic_proxy.errors import ClientError


def estimate_client_request_tokens(
    incoming: ClientRequest, estimates: EstimateCache, token_scale: TokenScale, request: MessagesRequest
) -> int:
    """Return the estimated input tokens of a client request, also of one that only its provider can decode."""
    if request.scanned_only:
        request = decode_request_or_envelope(incoming.body)
    try:
        if request.decode_error is None:
            return estimates.get_or_estimate(request, token_scale)
    except ClientError:  # content that only the provider understands
        pass
    return round(len(incoming.body) / CHARACTERS_PER_TOKEN * token_scale.factor)
