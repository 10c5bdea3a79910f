"""Requests of libraries that block, sent by our own HTTP client: so they have limits of size and time.

The clients of requests and botocore read a body of any size, however long it takes. `new_requests_session` is for
google-auth, azure-identity and OpenTelemetry, `bound_aws_requests` for botocore. A thread calls them, in which an event
loop runs for the time of one request.
"""

import asyncio
import os
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from io import BytesIO
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from anthropic_proxy.engine.upstream.http.client import HttpTransport
from anthropic_proxy.engine.wires.bound_requests import Answer, BoundRequest, fetch_answer
from anthropic_proxy.engine.wires.operator_origin import OperatorOrigin
from anthropic_proxy.engine.wires.purposes import OperatorPurpose
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import UpstreamError, UpstreamProtocolError

MAX_REPLY_BYTES = 4 * 1024 * 1024
"""Maximum size of a reply after decompression. Tokens and their errors have some kilobytes."""
MAX_SECONDS = 30.0
"""Maximum time for a request, with its whole reply. The libraries have shorter ones for some servers."""
_OWN_HEADERS = frozenset({"accept-encoding", "connection", "content-length", "host", "transfer-encoding"})
"""Headers that our client writes itself."""


_REASONS = {status.value: status.phrase for status in HTTPStatus}


def _send(
    purpose: OperatorPurpose,
    request: tuple[str, str, Mapping[str, str], bytes | str | None],
    *,
    timeout: Any,
    tls: ssl.SSLContext | None,
    proxy: str | None,
) -> Answer:
    """`request`: method, URL, headers and body. `timeout`: that of requests, one number, or one for connecting and one
    for waiting for data; None: unlimited. Raises `UpstreamError`, or `TimeoutError` without a reply in time.
    """
    method, url, headers, body = request
    connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    connect = min(connect or MAX_SECONDS, MAX_SECONDS)

    async def send() -> Answer:
        found = urlsplit(url)
        transport = HttpTransport(
            connect, proxies={} if proxy is None else {found.scheme: proxy}, tls=tls, keep_alive_seconds=0
        )
        request = UpstreamRequest(
            method=method,
            path=f"{found.path or '/'}{'?' if found.query else ''}{found.query}",
            body=body.encode() if isinstance(body, str) else bytes(body or b""),
            headers={name.lower(): value for name, value in headers.items() if name.lower() not in _OWN_HEADERS},
        )
        try:
            address = f"{found.scheme}://{found.netloc}"
            async with asyncio.timeout(min(connect + (read or MAX_SECONDS), MAX_SECONDS)):
                bound = BoundRequest(OperatorOrigin(purpose), address, request)
                return await fetch_answer(transport.send, bound, MAX_REPLY_BYTES)
        finally:
            await transport.close()

    return asyncio.run(send())


class _Raw(BytesIO):
    """Stands for the response of urllib3, of which azure-core sets an attribute."""

    enforce_content_length = True


def new_requests_session(purpose: OperatorPurpose) -> Any:
    """Return a session of the library requests with the certificate authorities of this machine, unless
    `REQUESTS_CA_BUNDLE` names others. The library's own list has no authorities of companies.
    """
    import requests  # noqa: PLC0415  # a dependency of the libraries

    class Adapter(requests.adapters.BaseAdapter):
        def send(  # noqa: PLR0917  # as in the library
            self,
            request: Any,
            stream: bool = False,
            timeout: Any = None,
            verify: Any = True,
            cert: Any = None,
            proxies: Any = None,
        ) -> Any:
            try:
                reply = _send(
                    purpose,
                    (request.method, request.url, request.headers, request.body),
                    timeout=timeout,
                    tls=_new_tls(request.url, verify, cert),
                    proxy=requests.utils.select_proxy(request.url, proxies),
                )
            except UpstreamProtocolError as error:
                raise requests.exceptions.ChunkedEncodingError(error.message, request=request) from error
            except UpstreamError as error:
                raise requests.exceptions.ConnectionError(error.message, request=request) from error
            except TimeoutError as error:
                text = f"{urlsplit(request.url).hostname} did not answer in time"
                raise requests.exceptions.ReadTimeout(text, request=request) from error
            response: Any = requests.Response()
            response.status_code, response.url, response.request = reply.status, request.url, request
            response.reason = _REASONS.get(reply.status, "")
            response.headers = requests.structures.CaseInsensitiveDict(reply.headers)
            response.encoding = requests.utils.get_encoding_from_headers(response.headers)
            response.raw, response.connection = _Raw(reply.body), self
            response._content, response._content_consumed = reply.body, True
            return response

        def close(self) -> None: ...

    class Session(requests.Session):
        def get_redirect_target(self, resp: Any) -> None:
            """No other address gets the credentials of a request, which are in its body."""

    session, found = Session(), ssl.get_default_verify_paths()
    session.verify = found.cafile or found.capath or True
    for scheme in ("https://", "http://"):
        session.mount(scheme, Adapter())
    return session


def _new_tls(url: str, verify: Any, cert: Any = None) -> ssl.SSLContext | None:
    """`verify`: path of authorities; True: those of this machine; False: none. `cert`: file of a client certificate, or
    this and the file of its key.
    """
    if not url.startswith("https:"):
        return None
    path = verify if isinstance(verify, str) else None
    is_directory = path is not None and os.path.isdir(path)
    context = ssl.create_default_context(cafile=None if is_directory else path, capath=path if is_directory else None)
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if cert:
        context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    return context


def bound_aws_requests(session: Any) -> None:
    """Let a session of botocore send all requests for credentials by our HTTP client: those of its clients (STS, single
    sign-on), and those to the metadata servers of containers and machines.
    """
    bundle = session.get_config_variable("ca_bundle")
    sender = _AwsSender(MAX_SECONDS, bundle or True)
    session.get_component("event_emitter").register_first("before-send", lambda request, **_: sender.send(request))
    resolver = session.get_component("credential_provider")
    for name, attribute in (("container-role", "_fetcher"), ("iam-role", "_role_fetcher")):
        for provider in resolver.providers:
            if name == provider.METHOD:
                fetcher = getattr(provider, attribute)
                fetcher._session = _AwsSender(getattr(fetcher, "_timeout", _CONTAINER_SECONDS), bundle or True)


_CONTAINER_SECONDS = 2.0
"""Time limit of botocore for the server of a container."""


class _AwsSender:
    """Stands for `botocore.httpsession.URLLib3Session`."""

    def __init__(self, seconds: float, verify: Any) -> None:
        self._seconds = seconds
        self._verify = verify

    def send(self, request: Any) -> Any:
        from botocore import awsrequest, exceptions, utils  # type: ignore[import-untyped]  # noqa: PLC0415

        url = request.url
        headers = {
            name: value.decode("latin-1") if isinstance(value, bytes) else str(value)
            for name, value in request.headers.items()
        }
        try:
            reply = _send(
                "access_token",
                (request.method, url, headers, request.body),
                timeout=self._seconds,
                tls=_new_tls(url, self._verify),
                proxy=utils.get_environ_proxies(url).get(urlsplit(url).scheme),
            )
        except UpstreamProtocolError as error:
            raise exceptions.HTTPClientError(error=error.message) from error
        except UpstreamError as error:
            raise exceptions.EndpointConnectionError(endpoint_url=url, error=error.message) from error
        except TimeoutError as error:
            raise exceptions.ReadTimeoutError(endpoint_url=url, error="no answer in time") from error
        return awsrequest.AWSResponse(url, reply.status, dict(reply.headers), _Stream(reply.body))


class _Stream(NamedTuple):
    body: bytes

    def stream(self) -> list[bytes]:
        return [self.body]
