"""All outgoing connections of the proxy: to providers, for web fetch and for web search.

No other package opens such connections.
"""
