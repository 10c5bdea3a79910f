"""Own HTTP/1.1 client with connection reuse. Reasons: docs/contributing/decisions/0026-own-http-client.md."""
