"""Fast estimate of the input tokens of a request, without a tokenizer."""

from anthropic_proxy.messages.tokens.estimate import EstimateCache, estimate

__all__ = ["EstimateCache", "estimate"]
