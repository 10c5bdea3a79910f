"""Checks of the Messages API for developers of clients and servers.

`doctor` examines the configured providers with small requests. `stream_grammar` checks event streams.
"""
