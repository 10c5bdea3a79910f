"""HTTP/1.1 on client connections: accepting, parsing, limits, timeouts, and calls of the ASGI application."""
