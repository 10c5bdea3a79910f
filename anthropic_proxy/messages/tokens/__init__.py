"""How many input tokens a request has, roughly, at once and without a tokenizer."""

from anthropic_proxy.messages.tokens.counting import Estimates, estimate

__all__ = ["Estimates", "estimate"]
