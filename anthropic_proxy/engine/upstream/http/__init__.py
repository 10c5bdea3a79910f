"""HTTP/1.1 client for requests to providers, with connection reuse. The main class is `HttpTransport` in `client`.

Reasons and limits: docs/contributing/decisions/0026-own-http-client.md.
"""
