"""HTTP/1.1 client for requests to providers, with connection reuse. The main class is `HttpTransport` in `client`.

Reasons and limits: docs/contributing/decisions/0026-own-http-client.md.
"""

from anthropic_proxy.upstream.http.client import HttpTransport
from anthropic_proxy.upstream.http.response import HttpResponse
from anthropic_proxy.upstream.http.url import join_url

__all__ = ["HttpResponse", "HttpTransport", "join_url"]
