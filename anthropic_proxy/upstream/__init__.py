"""Outgoing connections of the proxy: transports to providers, web fetch and web search. No other package opens any."""
