"""HTTP/1.1 server side of client connections: acceptance, parsing, limits, timeouts, and the ASGI interface."""
