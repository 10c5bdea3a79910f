"""HTTP/1.1 connections: parsing, limits, timeouts, ASGI."""
