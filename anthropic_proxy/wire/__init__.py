"""Wires: one package for each provider API, which encodes upstream requests and decodes upstream responses.

The modules directly in this folder are shared by several wires. Wires contain no routing, transport or server code.
"""
