"""Transports to providers, web fetch and web search. Only this package opens sockets."""
