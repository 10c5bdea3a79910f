"""A server that speaks the Anthropic Messages API and sends the work to another model provider."""

__version__ = "0.1.0"
