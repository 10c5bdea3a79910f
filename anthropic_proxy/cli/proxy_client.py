"""HTTP client of commands for a running proxy, with the standard library only, so that they start quickly.

Another program may listen at the address, and another version of the proxy may answer. So each reply has a limit of
size and time, and is decoded as a type; what is of another form is no reply.
"""

import http.client
import ssl
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar, overload
from urllib.parse import urlsplit

from msgspec import Struct

from anthropic_proxy.engine.json_decoding import decode_json
from anthropic_proxy.engine.platforms.program import COMMANDS_USER_AGENT
from anthropic_proxy.errors import UpstreamError, UpstreamUnreachable
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable

PROBE_TIMEOUT_SECONDS = 2.0
"""Time for the reply of a program that may be a proxy."""
MAX_ERROR_CHARACTERS = 2_000
"""Number of characters of an error of a proxy that are shown."""
STREAM_TIMEOUT_SECONDS = 30.0
"""Maximum number of seconds without data on an event stream of the proxy, which sends a comment every 10 seconds."""
BUSY_TIMEOUT_SECONDS = 10.0
"""Time for a reply of a proxy that runs. For its first page, it loads modules for seconds on a busy machine."""
_REQUEST_TIMEOUT_SECONDS = 30.0
_MAX_REPLY_BYTES = 16 * 1024 * 1024
"""Limit of a reply, and of an event of a stream. The last requests of a proxy with many workers have about 4 MiB."""
_MAX_REMOTE_BYTES = 2 * 1024 * 1024
"""Limit of a reply of a proxy elsewhere, such as a list of 1,000 keys."""
T = TypeVar("T")


class _ErrorText(Struct):
    message: str


class _ErrorBody(Struct):
    error: _ErrorText


class _AnyEvent(Struct):
    type: str


@overload
def get_json(
    host: str, port: int, path: str, token: str = "", certificate_file: str = "", *, timeout: float = ...
) -> Any | None: ...
@overload
def get_json(
    host: str, port: int, path: str, token: str = "", certificate_file: str = "", *, timeout: float = ..., kind: type[T]
) -> T | None: ...
def get_json(
    host: str,
    port: int,
    path: str,
    token: str = "",
    certificate_file: str = "",
    *,
    timeout: float = PROBE_TIMEOUT_SECONDS,
    kind: Any = Any,
) -> Any | None:
    """Return the decoded JSON of a `GET`. None: no response in time, a status other than 200, or no JSON of this
    kind.
    """
    try:
        with closing(_connect(host, port, certificate_file, timeout)) as connection:
            connection.request("GET", path, headers=_headers(token))
            response = connection.getresponse()
            if response.status != http.client.OK:
                return None
            return decode_json(_read(response, _MAX_REPLY_BYTES, timeout), kind)
    except (OSError, http.client.HTTPException, ValueError):  # also if the certificate cannot be read
        return None


def is_credential_rejected(host: str, port: int, path: str, token: str, certificate_file: str = "") -> bool:
    with closing(_connect(host, port, certificate_file, BUSY_TIMEOUT_SECONDS)) as connection:
        try:
            connection.request("GET", path, headers=_headers(token))
            return connection.getresponse().status == http.client.UNAUTHORIZED
        except (OSError, http.client.HTTPException):
            return False


def is_served(host: str, port: int, path: str, token: str, certificate_file: str = "") -> bool:
    """Return True if a proxy on this machine has something at a URL path, also a redirect to a sign-in."""
    try:
        with closing(_connect(host, port, certificate_file, BUSY_TIMEOUT_SECONDS)) as connection:
            connection.request("HEAD", path, headers=_headers(token))
            return connection.getresponse().status < http.client.BAD_REQUEST
    except (OSError, http.client.HTTPException, ValueError):
        return False


def stream_message(
    host: str, port: int, body: bytes, token: str, certificate_file: str = ""
) -> Iterator[dict[str, Any]]:
    """Yield the events of a streamed reply of a proxy on this machine.

    Raises `UpstreamError` for an error of the proxy, `UpstreamUnreachable` for a broken connection.
    """
    connection = _connect(host, port, certificate_file)
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01", **_headers(token)}
    with _reading(connection, "POST", "/v1/messages", headers, body) as response:
        for line in _read_lines(response):
            if line.startswith(b"data:"):
                if decode_json(line[5:], _AnyEvent).type == "error":
                    raise _error(line[5:], response)
                yield decode_json(line[5:])


def stream_events(
    host: str, port: int, path: str, token: str, certificate_file: str = ""
) -> Iterator[tuple[str, bytes]]:
    """Name and data of each event. Raises `UpstreamError`, or `UpstreamUnreachable` for a broken or idle connection."""
    connection = _connect(host, port, certificate_file, STREAM_TIMEOUT_SECONDS)
    with _reading(connection, "GET", path, _headers(token)) as response:
        name = ""
        for line in _read_lines(response):
            if line.startswith(b"event: "):
                name = line[7:].strip().decode(errors="replace")
            elif line.startswith(b"data: "):
                yield name, line[6:].rstrip()


def delete(host: str, port: int, path: str, token: str, certificate_file: str = "") -> bytes:
    """Return the reply of a proxy on this machine to a `DELETE`. Raises `UpstreamError` and `UpstreamUnreachable`."""
    connection = _connect(host, port, certificate_file, _REQUEST_TIMEOUT_SECONDS)
    with _reading(connection, "DELETE", path, _headers(token)) as response:
        return _read(response, _MAX_REPLY_BYTES, _REQUEST_TIMEOUT_SECONDS)


def request_json(
    method: str, address: str, path: str, token: str, body: bytes = b"", *, certificate_file: str = ""
) -> Any:
    """Return the JSON of a reply. `address`: base URL of a proxy, also elsewhere. `certificate_file`: "": the machine
    trusts its certificate. Raises `UpstreamError` for an error of the proxy, and `UpstreamUnreachable`.
    """
    url = urlsplit(address)
    host = url.hostname or ""
    if certificate_file or url.scheme != "https":
        port = url.port or (443 if url.scheme == "https" else 80)
        connection = _connect(host, port, certificate_file, _REQUEST_TIMEOUT_SECONDS)
    else:
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, url.port, timeout=_REQUEST_TIMEOUT_SECONDS, context=context)
    headers = {"content-type": "application/json", **_headers(token)}
    with _reading(connection, method, f"{url.path}{path}", headers, body or None) as response:
        return decode_json(_read(response, _MAX_REPLY_BYTES, _REQUEST_TIMEOUT_SECONDS))


def send_request(method: str, url: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
    """Return HTTP status and body of a proxy elsewhere, whose certificate the machine trusts. A redirect is not
    followed. Raises `OSError`, and `ValueError` for a reply that is no HTTP.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection = http.client.HTTPConnection(host, parts.port, timeout=_REQUEST_TIMEOUT_SECONDS)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, parts.port, timeout=_REQUEST_TIMEOUT_SECONDS, context=context)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        with closing(connection):
            connection.request(method, target, body or None, headers)
            response = connection.getresponse()
            return response.status, _read(response, _MAX_REMOTE_BYTES, _REQUEST_TIMEOUT_SECONDS)
    except http.client.HTTPException as error:
        raise ValueError(type(error).__name__) from None


@contextmanager
def _reading(
    connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str], body: bytes | None = None
) -> Iterator[http.client.HTTPResponse]:
    try:
        with closing(connection):
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise _error(_read(response, _MAX_REPLY_BYTES, _REQUEST_TIMEOUT_SECONDS), response)
            yield response
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UpstreamUnreachable(
            f"The connection to the proxy at {connection.host}:{connection.port} broke: {error}",
            code="proxy-connection",
        ) from None


def _connect(host: str, port: int, certificate_file: str, timeout: float | None = None) -> http.client.HTTPConnection:
    """Connection to the proxy. With TLS, only the certificate in `certificate_file` is trusted, for any host name."""
    if not certificate_file:
        return http.client.HTTPConnection(host, port, timeout=timeout)
    context = ssl.create_default_context(cafile=certificate_file)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)


def _headers(token: str) -> dict[str, str]:
    return {"user-agent": COMMANDS_USER_AGENT, **({"x-api-key": token} if token else {})}


def _read(response: http.client.HTTPResponse, max_bytes: int, seconds: float) -> bytes:
    """Return the body. Raises `ValueError` if it is too large, and `TimeoutError` if it is not complete in time."""
    deadline = time.monotonic() + seconds
    body = bytearray()
    while data := response.read1(65_536):
        body += data
        if len(body) > max_bytes:
            raise ValueError(f"the reply has more than {max_bytes >> 20} MiB")
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(body)


def _read_lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the lines of a stream. Raises `ValueError` for one that is too long."""
    while line := response.readline(_MAX_REPLY_BYTES):
        if len(line) == _MAX_REPLY_BYTES:
            raise ValueError(f"an event has more than {_MAX_REPLY_BYTES >> 20} MiB")
        yield line


def _error(body: bytes, response: http.client.HTTPResponse) -> UpstreamError:
    error = UpstreamError(escape_unprintable(decode_json(body, _ErrorBody).error.message[:MAX_ERROR_CHARACTERS]))
    error.headers = {name.lower(): value for name, value in response.getheaders()}
    return error
