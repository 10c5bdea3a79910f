"""Exceptions of the proxy, each with the HTTP status and the Anthropic error type that the client receives.

ProxyError
├─ ClientError                       the client, or the user of the proxy, can remove the cause
│  ├─ InvalidRequest, UnsupportedFeature   400 invalid_request_error
│  │  └─ MethodNotAllowed, UnsupportedEncoding, RequestTimeout, MalformedHttp   405, 415, 408, 400: the same type
│  ├─ AuthenticationFailed                 401 authentication_error
│  ├─ PermissionDenied                     403 permission_error
│  ├─ UnknownModel                         404 not_found_error
│  ├─ RequestTooLarge                      413 request_too_large
│  │  └─ UriTooLong, HeadersTooLarge             414, 431: the same type
│  └─ LimitReached                         429 rate_limit_error
├─ UpstreamError                     a provider failed, never a limit of this proxy; has provider, status, retry_after
│  ├─ UpstreamRefused                      status and type mapped from its response
│  ├─ UpstreamUnreachable, UpstreamProtocolError   502 api_error
│  ├─ UpstreamTimeout                      504 timeout_error
│  ├─ UpstreamOverloaded                   529 overloaded_error
│  └─ CircuitOpen                          provider not called after repeated failures; status of the last failure
├─ ProxyBusy                         529 overloaded_error; the queue in front of the upstreams is full
├─ ServerToolFailed                  a tool that the proxy runs failed; becomes a block in the reply, never a status
│  ├─ WebFetchFailed                       a page or a link could not be fetched
│  └─ WebSearchFailed                      the search service failed
├─ MissingExtra                      500 api_error; an optional package is not installed
├─ ShuttingDown                      503 api_error; the server stops before the reply is complete
├─ ConfigurationError                found at start; never reaches a client
└─ InternalError                     500 api_error; a bug of the proxy, logged with its traceback

Clients receive only the error types that Anthropic documents (https://docs.anthropic.com/en/api/errors), because
clients decide by the type about a retry.
"""

from collections.abc import Iterable
from typing import Any, Literal

from msgspec import Struct


class ProxyError(Exception):
    """Base class of all errors that the proxy raises on purpose. The message states the cause and the remedy."""

    status: int = 500
    """HTTP status of the response to the client."""
    error_type: str = "api_error"
    """`error.type` of the error body for the client, in Anthropic's format."""
    retryable: bool = False
    """True if the proxy may send the unchanged request to a provider again, because the failure is temporary."""
    closes_connection: bool = False
    """True if the server must close the client connection after the response. Otherwise the server would parse
    remaining bytes of the rejected request as the next request."""

    def __init__(
        self,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        """Text for the client and the log, without the exception class."""
        self.details = details
        """Object `error.details` of the error body, for example `{"error_code": …}`. None: the field is omitted."""
        self.retry_after = retry_after
        """Seconds until a retry is useful, sent to the client as `retry-after`. None: unknown, no header."""
        self.should_retry = should_retry
        """Response header `x-should-retry`. True: Anthropic's clients retry. False: they do not retry. None: no header,
        and the clients decide by the status."""

    def drop_traceback(self) -> None:
        """Remove the tracebacks of this error and of the exceptions in its `__context__` chain, to free memory.

        Call this after the error was reported or handled. The frames of a traceback refer to the error and to the
        request body. Only the garbage collector could free this reference cycle.
        """
        error: BaseException | None = self
        while error is not None:
            error.__traceback__ = None
            error = error.__context__


class ClientError(ProxyError):
    """Base class of errors that the client, or the user of the proxy, can remove: a wrong request, key or setting."""

    status = 400
    error_type = "invalid_request_error"


class InvalidRequest(ClientError):
    """A field of the client request is missing or wrong. The message names field, value and allowed values."""


class MethodNotAllowed(InvalidRequest):
    """The proxy serves the path of the client request, but with other HTTP methods."""

    status = 405

    def __init__(self, message: str, allowed: Iterable[str]) -> None:
        super().__init__(message)
        self.allowed = tuple(allowed)
        """HTTP methods that the path accepts, for the response header `allow`."""


class UnsupportedEncoding(InvalidRequest):
    """The body of the client request is compressed (`content-encoding`). The proxy accepts only uncompressed bodies."""

    status = 415


class RequestTimeout(InvalidRequest):
    """The headers or the body of the client request were not complete in time."""

    status = 408
    closes_connection = True


class MalformedHttp(InvalidRequest):
    """The client request is invalid HTTP, or two HTTP programs could read it differently (request smuggling)."""

    closes_connection = True


class UnsupportedFeature(ClientError):
    """The client request depends on a feature that the chosen provider or model lacks."""


class AuthenticationFailed(ClientError):
    """Missing or wrong key: the client's key for the proxy, or the proxy's key for a provider."""

    status = 401
    error_type = "authentication_error"


class PermissionDenied(ClientError):
    """The client request is forbidden, for example because it comes from another machine without a key of the proxy."""

    status = 403
    error_type = "permission_error"


class UnknownModel(ClientError):
    """The model or the URL path of the client request does not exist in the proxy."""

    status = 404
    error_type = "not_found_error"


class RequestTooLarge(ClientError):
    """The body of the client request has more than 32 MiB (`server/request_body.py`)."""

    status = 413
    error_type = "request_too_large"


class UriTooLong(RequestTooLarge):
    """Path and query of the client request exceed their limit in bytes (`server/request_limits.py`)."""

    status = 414
    closes_connection = True


class HeadersTooLarge(RequestTooLarge):
    """The headers of the client request exceed their limit in bytes (`server/request_limits.py`)."""

    status = 431
    closes_connection = True


class LimitReached(ClientError):
    """The client has reached a limit of the proxy, such as a request rate or a budget. Raised by plugin policies."""

    status = 429
    error_type = "rate_limit_error"


class Cause(Struct, frozen=True, kw_only=True):
    """Machine-readable cause of an `UpstreamError`, read from the provider's error message. All numbers are tokens.

    `exchange/adaptation.py` derives a changed request from the cause, for example one with a lower `max_tokens`.
    """

    kind: Literal["overflow", "output_limit", "images", "quota"]
    """`overflow`: the input is too long. `output_limit`: `max_tokens` is too high. `images`: the model accepts no
    images. `quota`: the account at the provider has no credit or quota left."""
    max_tokens: int | None = None
    """Highest `max_tokens` with which this input fits the context window. None: unknown, or none fits."""
    max_output: int | None = None
    """Highest `max_tokens` that the model accepts for any input. None: not stated."""
    window: int | None = None
    """Context window of the model: input and output together. None: not stated."""
    certain: bool = True
    """False if the error text also fits other causes. Only a success of the changed request then proves the cause."""


class UpstreamError(ProxyError):
    """Base class of failed calls to a provider. The message starts with the provider name."""

    status = 502

    def __init__(  # many arguments: one for each field of the error bodies of providers
        self,
        message: str,
        *,
        provider: str = "",
        status: int | None = None,
        kind: str | None = None,
        retryable: bool | None = None,
        details: dict[str, Any] | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
        parameter: str | None = None,
    ) -> None:
        super().__init__(message, details=details, retry_after=retry_after, should_retry=should_retry)
        self.provider = provider
        """Name of the provider in the registry: `openai`. "": not yet known."""
        self.status = type(self).status if status is None else status
        """HTTP status of the response to the client."""
        self.error_type = type(self).error_type if kind is None else kind
        """`error.type` of the error body for the client."""
        if retryable is not None:
            self.retryable = retryable
        self.body: bytes | None = None
        """Error body of the provider, which the client receives unchanged (providers with the Messages API).
        None: the proxy writes the error body."""
        self.headers: dict[str, str] = {}
        """Provider headers that the client receives with the error."""
        self.parameter = parameter
        """Request parameter that the provider names as the cause, in the provider's spelling. None: not stated."""
        self.cause: Cause | None = None
        """Cause that a changed request may remove. None: the failure has no cause of the types in `Cause`."""


class UpstreamRefused(UpstreamError):
    """The provider responded with an error. Status and error type for the client are derived from the response."""


class UpstreamUnreachable(UpstreamError):
    """No answer from the provider: DNS or TLS failed, or the connection was refused or closed before the answer."""

    retryable = True


class UpstreamProtocolError(UpstreamError):
    """The provider's response is malformed, incomplete or too large."""

    retryable = True


class UpstreamTimeout(UpstreamError):
    """The provider sent no data within the time limit, or reported a timeout."""

    status = 504
    error_type = "timeout_error"


class UpstreamOverloaded(UpstreamError):
    """The provider reported that it is overloaded."""

    status = 529
    error_type = "overloaded_error"
    retryable = True


class CircuitOpen(UpstreamError):
    """The proxy did not call the provider, because the last calls failed. Status and type: of the last failure."""


class ProxyBusy(ProxyError):
    """The proxy's queue of provider calls is full (setting `MAX_UPSTREAM_CALLS`). The request reached no provider."""

    status = 529
    error_type = "overloaded_error"


FetchErrorCode = Literal[
    "invalid_tool_input",
    "url_too_long",
    "url_not_allowed",
    "url_not_in_prior_context",
    "url_not_accessible",
    "unsupported_content_type",
    "too_many_requests",
    "max_uses_exceeded",
    "unavailable",
    "content_too_large",
]
"""Values of `error_code` in a `web_fetch_tool_result_error` block (types of Anthropic's SDK, read 2026-11)."""
SearchErrorCode = Literal[
    "invalid_tool_input", "unavailable", "max_uses_exceeded", "too_many_requests", "query_too_long", "request_too_large"
]
"""Values of `error_code` in a `web_search_tool_result_error` block (types of Anthropic's SDK, read 2026-11)."""


class ServerToolFailed(ProxyError):
    """A tool that the proxy itself runs for the model failed. The reply has status 200 and contains an error block."""


class WebFetchFailed(ServerToolFailed):
    """The proxy could not fetch a web page, or a link to an image or a document. The message states the reason."""

    def __init__(self, message: str, error_code: FetchErrorCode) -> None:
        super().__init__(message)
        self.error_code: FetchErrorCode = error_code
        """`error_code` of the error block in the reply."""


class WebSearchFailed(ServerToolFailed):
    """The search service of the proxy (setting `SEARCH_URL`) failed. The message is for the log."""

    def __init__(self, message: str, error_code: SearchErrorCode) -> None:
        super().__init__(message)
        self.error_code: SearchErrorCode = error_code
        """`error_code` of the error block in the reply."""


class ShuttingDown(ProxyError):
    """The proxy stops before the reply to a client request is complete. The client may retry after a second."""

    status = 503

    def __init__(self) -> None:
        super().__init__(
            "The proxy is shutting down, so the reply is incomplete. Try again in a moment.", retry_after=1
        )


class MissingExtra(ProxyError):
    """An optional Python package that a provider needs is not installed.

    `subject`: beginning of the message: `Vertex AI needs google-auth`. `extra`: name of the extra in `pyproject.toml`.
    """

    def __init__(self, subject: str, extra: str) -> None:
        super().__init__(
            f"{subject}, which is not installed. Install it in the checkout and start the proxy again: "
            f"sh scripts/setup {extra}   or, with uv: uv sync --extra {extra}",
            should_retry=False,
        )


class ConfigurationError(ProxyError):
    """A setting or command-line option is wrong. Raised at start-up and reload; never sent to a client."""


class InternalError(ProxyError):
    """An unexpected exception, which is a bug of the proxy. Its traceback is in the log."""
