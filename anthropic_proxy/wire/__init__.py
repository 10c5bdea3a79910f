"""Wires: one package for each provider API, which encodes upstream requests and decodes upstream responses.

A wire converts a prepared request to bytes, and the provider's bytes to deltas, the pieces of a reply. Modules outside
of the packages are shared by several wires. Wires contain no routing, transport or server code.
"""
