"""A server with the Anthropic Messages API in front of other model providers."""

__version__ = "0.1.0"
