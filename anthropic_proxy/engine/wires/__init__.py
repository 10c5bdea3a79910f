"""Wires: one package for each provider API, which encodes upstream requests and decodes upstream responses.

A wire converts a prepared client request to the bytes for the provider, and the provider's bytes to deltas. The modules
directly in this folder are shared by several wires. Wires contain no routing, transport or server code.
"""
