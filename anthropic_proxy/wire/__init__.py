"""Wires: one package for each provider API, which encodes upstream requests and decodes upstream responses.

A wire converts a prepared request to bytes for the provider, and the provider's bytes to deltas. Modules outside of the
packages are shared by several wires. Wires use the structs of `messages/`, but no routing, transport or server code.
"""
