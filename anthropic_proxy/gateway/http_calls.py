"""`HttpCalls`: requests of plugins and inspectors to other servers than the providers."""

import asyncio
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from msgspec import Struct

from anthropic_proxy.engine.wires.bound_requests import BoundRequest, Transport
from anthropic_proxy.engine.wires.failures.error_body import find_retry_delay
from anthropic_proxy.engine.wires.operator_origin import OperatorOrigin
from anthropic_proxy.engine.wires.purposes import OperatorPurpose
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest, read_body
from anthropic_proxy.errors import UpstreamTimeout
from anthropic_proxy.plugins import HttpReply

MAX_REPLY_BYTES = 1024 * 1024
"""Maximum bytes of a reply body by default. A larger reply raises `UpstreamError`."""
_FAILED = 400
"""First status of an error."""
TIMEOUT_SECONDS = 10.0
"""Maximum seconds for one request, with the complete reply."""


class HttpCalls(Struct):
    find_transport: Callable[[], Transport]

    async def send_http(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        max_bytes: int = MAX_REPLY_BYTES,
        purpose: OperatorPurpose = "plugin",
    ) -> HttpReply:
        """The contract is that of `plugins.Gateway.send_http`."""
        parsed = urlsplit(url)
        path = f"{parsed.path or '/'}{'?' if parsed.query else ''}{parsed.query}"
        request = UpstreamRequest(
            path=path, body=body, headers=headers or {}, method=method, may_repeat=method in ("GET", "HEAD")
        )
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                bound = BoundRequest(OperatorOrigin(purpose), f"{parsed.scheme}://{parsed.netloc}", request)
                response = await self.find_transport()(bound)
                try:
                    body = await read_body(response, max_bytes) if max_bytes else b""
                    retry_after = find_retry_delay(response.headers, None, "") if response.status >= _FAILED else None
                    return HttpReply(status=response.status, body=body, retry_after=retry_after)
                finally:
                    await response.close()
        except TimeoutError:
            raise UpstreamTimeout(f"{parsed.netloc} did not answer within {TIMEOUT_SECONDS:g} s") from None
