"""Processes that share one listening socket: supervisor, workers and the hub between them."""
