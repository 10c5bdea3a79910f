"""Outgoing connections: transports to providers, web fetch, web search. No other package of the proxy opens them."""
