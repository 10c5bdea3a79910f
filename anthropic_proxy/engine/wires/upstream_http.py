"""The HTTP exchange with a provider: the request, its credential, and the response.

A wire builds the `UpstreamRequest`. A `Transport` (`bound_requests.py`) sends it with a `Credential`, the header with
the API key, and returns an `UpstreamResponse`.
"""

from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.errors import UpstreamProtocolError


class ComputeHeaders(Protocol):
    """Function that computes headers from an HTTP request as it is sent: a digest, a signature. It performs no I/O."""

    def __call__(self, *, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        """Return the computed headers, names in lower case. `headers`: the other headers of the request."""
        ...


class UpstreamRequest(Struct, frozen=True, kw_only=True):
    """HTTP request to a provider, without base URL and credential."""

    path: str
    """Path below the base URL of the provider, with a leading slash and perhaps a query. It is percent-encoded."""
    body: bytes
    """Body of the request, encoded for the provider. b"": no body."""
    headers: Mapping[str, str] = {}
    """Headers of the request without the credential, names in lower case."""
    trace_headers: Mapping[str, str] = {}
    """Headers `traceparent` and `tracestate`, which differ for each request."""
    method: str = "POST"
    """HTTP method: `POST`, or `GET` for lists."""
    may_repeat: bool = True
    """False: the request creates or changes something that the provider keeps, so it is sent once at most."""
    notes: Sequence[FidelityNote] = ()
    """Notes on fields of the client request that were approximated, emulated or dropped."""
    enforces_schema: bool = False
    """True if the provider enforces the client's JSON Schema for the reply. False: the proxy validates the reply."""
    proves: str = ""
    """Name of an adaptation to store for the model if the provider accepts this request, or rejects it (status 400) for
    a reason that no adaptation avoids. "": none."""
    compute_headers: ComputeHeaders | None = None
    """Function for headers that depend on the bytes of the body, such as a digest. The transport calls it when it sends
    the request, because settings change the body after `encode_request` (`[providers.NAME.body]`). None: no header
    does."""


JSON_HEADERS: Mapping[str, str] = {"content-type": "application/json"}


def select_fields(request: UpstreamRequest, path: str, fields: Collection[str]) -> UpstreamRequest:
    """Return a request to another path with only these fields of the body."""
    body = msgspec.json.decode(request.body, type=dict[str, Raw])
    selected = {name: value for name, value in body.items() if name in fields}
    return structs.replace(request, path=path, body=msgspec.json.encode(selected))


CLIENT_CREDENTIAL_ORIGIN = "the client"
"""Value of `Credential.origin` for a credential from the client request. It is used for that request only."""


class Credential(Struct, frozen=True):
    """Authentication header of an upstream request, added when the request is sent."""

    header: str
    """Name of the request header with the credential, in lower case: `authorization`, `x-api-key`."""
    value: str
    """Secret header value, with its scheme if the header has one (`Bearer …`)."""
    origin: str = ""
    """Source of the credential for error messages: `OPENAI_API_KEY`."""
    extra_headers: Mapping[str, str] = {}
    """Headers without secrets that belong to the credential, such as the project that is billed."""
    sign: ComputeHeaders | None = None
    """Function that signs each request. `value` is then a secret of the signature, which is not sent itself. None: the
    header `header` authenticates the request."""
    further_secrets: Sequence[str] = ()
    """Other secrets that a request has because of the credential, such as the session token of a signature."""

    @property
    def secrets(self) -> Sequence[str]:
        """All texts that errors and logs must not contain."""
        return self.secret, *self.further_secrets

    @property
    def secret(self) -> str:
        """`value` without a scheme such as `Bearer`."""
        return (self.value.partition(" ")[2] if self.header == "authorization" else "") or self.value

    def __repr__(self) -> str:
        return f"Credential(header={self.header!r}, value='…', origin={self.origin!r})"


class UpstreamResponse(Protocol):
    """HTTP response of a provider with known status and headers, and a body that is still being received."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Names are in lower case."""
        ...

    @property
    def body_received(self) -> bool:
        """True if the complete body was received. False: the body is incomplete, or its end is unknown."""
        ...

    async def read(self) -> bytes:
        """Return the next bytes of the response body. b"": the end of the body.

        Raises `UpstreamUnreachable` or `UpstreamProtocolError` if the connection breaks.
        """
        ...

    async def close(self, *, wait_for_end: bool = False) -> None:
        """End the use of the response. Later requests reuse its connection only if the complete body was received.

        `wait_for_end`: True to wait a short time for the rest of the body, so that the connection can be reused.
        """
        ...


class ConvertedResponse:
    """Response whose body is converted while it is read. b"" of `convert`: more bytes are needed."""

    def __init__(self, response: UpstreamResponse, convert: Callable[[bytes], bytes]) -> None:
        self._response = response
        self._convert = convert

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def body_received(self) -> bool:
        return self._response.body_received

    async def read(self) -> bytes:
        while data := await self._response.read():
            if converted := self._convert(data):
                return converted
        return b""

    async def close(self, *, wait_for_end: bool = False) -> None:
        await self._response.close(wait_for_end=wait_for_end)


def build_size_error(max_bytes: int) -> UpstreamProtocolError:
    return UpstreamProtocolError(
        f"the reply is larger than {max_bytes >> 20} MiB", retryable=False, code="reply-too-large"
    )


MAX_REPLY_PARTS = 250_000
"""Maximum number of objects and lists of a large reply, error or frame, also in its texts. Decoded, each needs about a
kilobyte, whatever its size is: 64 MiB of empty ones would need 20 GiB. A token of a model has at most a few."""


def require_few_parts(data: bytes) -> None:
    """Raises `UpstreamProtocolError` for more than `MAX_REPLY_PARTS`."""
    if data.count(b"{") + data.count(b"[") > MAX_REPLY_PARTS:
        text = f"the reply has more than {MAX_REPLY_PARTS:,} objects and lists"
        raise UpstreamProtocolError(text, retryable=False, code="reply-too-large")


async def read_body(response: UpstreamResponse, max_bytes: int, on_read: Callable[[], None] | None = None) -> bytes:
    """Return the complete body of an upstream response, without a byte order mark.

    `on_read` is called after each network read. Raises `UpstreamProtocolError` if the body exceeds `max_bytes` or ends
    early.
    """
    chunks: list[bytes] = []
    size = 0
    while chunk := await response.read():
        if on_read is not None:
            on_read()
        size += len(chunk)
        if size > max_bytes:
            raise build_size_error(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks).removeprefix(BOM_UTF8)
