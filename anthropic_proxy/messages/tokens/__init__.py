"""Fast estimate of the input tokens of a request, without a tokenizer."""

from anthropic_proxy.messages.tokens.estimate import EstimateCache, estimate_request_tokens

__all__ = ["EstimateCache", "estimate_request_tokens"]
