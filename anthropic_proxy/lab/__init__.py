"""Tools that examine servers and streams of the Messages API, for developers and users.

`doctor` examines the configured providers with small requests. `stream_grammar` checks event streams.
"""
