"""Conformance checks for servers with the Anthropic Messages API."""

__version__ = "0.1.0"
