"""The way out over HTTP: kept connections behind the three calls `send`, `read` and `close`.

Why it is our own, and what it leaves out: docs/decisions (our own client).
"""

from anthropic_proxy.upstream.http.address import join_address
from anthropic_proxy.upstream.http.client import HttpUpstream
from anthropic_proxy.upstream.http.response import HttpResponse

__all__ = ["HttpResponse", "HttpUpstream", "join_address"]
