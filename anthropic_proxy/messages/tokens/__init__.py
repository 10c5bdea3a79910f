"""How many input tokens a request has, roughly, at once and without a tokenizer."""

from anthropic_proxy.messages.tokens.counting import estimate

__all__ = ["estimate"]
