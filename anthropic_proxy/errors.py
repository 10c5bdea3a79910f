"""The exception hierarchy.

ProxyError
├─ ClientError                       the client can fix it
│  ├─ InvalidRequest, UnsupportedFeature   400 invalid_request_error
│  │  └─ MethodNotAllowed, UnsupportedEncoding, RequestTimeout, MalformedHttp   405, 415, 408, 400: the same type
│  ├─ AuthenticationFailed                 401 authentication_error
│  ├─ PermissionDenied                     403 permission_error
│  ├─ UnknownModel                         404 not_found_error
│  ├─ RequestTooLarge                      413 request_too_large
│  │  └─ UriTooLong, HeadersTooLarge             414, 431: the same type
│  └─ LimitReached                         429 rate_limit_error
├─ UpstreamError                     the provider failed, never a limit of this proxy; has provider, status, retry_after
│  ├─ UpstreamRefused                      status and type mapped from its response
│  ├─ UpstreamUnreachable, UpstreamProtocolError   502 api_error
│  ├─ UpstreamTimeout                      504 timeout_error
│  ├─ UpstreamOverloaded                   529 overloaded_error
│  └─ CircuitOpen                          not called after repeated failures; status and type of the last failure
├─ ProxyBusy                         529 overloaded_error; the queue in front of the upstreams is full
├─ ServerToolFailed                  a tool that the proxy runs; becomes a block in the reply, never a status
│  ├─ WebFetchFailed                       a page or a link could not be fetched
│  └─ WebSearchFailed                      the search service failed
├─ MissingExtra                      500 api_error; an optional package is not installed
├─ ShuttingDown                      503 api_error; the server stops before the reply is complete
├─ ConfigurationError                found at start; never reaches a client
└─ InternalError                     500 api_error; a bug of the proxy, logged with its traceback

Clients receive only the types that Anthropic documents (https://docs.anthropic.com/en/api/errors): retries depend on
them.
"""

from collections.abc import Iterable
from typing import Any, Literal

from msgspec import Struct


class ProxyError(Exception):
    """Base class of all intended errors. The message names the remedy."""

    status: int = 500
    """HTTP status of the response."""
    error_type: str = "api_error"
    """`error.type` of the Anthropic error body."""
    retryable: bool = False
    """True if the unchanged request may succeed a moment later."""
    closes_connection: bool = False
    """True if the next bytes of the client connection may not begin a request."""

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
        self.details = details
        """`error.details` of the error body, for example `{"error_code": …}`."""
        self.retry_after = retry_after
        """Seconds until the client should retry. None: not known."""
        self.should_retry = should_retry
        """Header `x-should-retry`. False: the official clients do not retry. None: they decide by the status."""

    def drop_traceback(self) -> None:
        """Drop the tracebacks of this error and of its context, after it was reported or handled.

        Their frames hold the error and the request body: a reference cycle that only the garbage collector would end.
        """
        error: BaseException | None = self
        while error is not None:
            error.__traceback__ = None
            error = error.__context__


class ClientError(ProxyError):
    """An error that the client can fix."""

    status = 400
    error_type = "invalid_request_error"


class InvalidRequest(ClientError):
    """A field is missing or wrong. The message names the field, its value and the allowed values."""


class MethodNotAllowed(InvalidRequest):
    """The path is served, but not for this method."""

    status = 405

    def __init__(self, message: str, allowed: Iterable[str]) -> None:
        super().__init__(message)
        self.allowed = tuple(allowed)
        """Methods of the path."""


class UnsupportedEncoding(InvalidRequest):
    """The body is compressed or has an unsupported encoding."""

    status = 415


class RequestTimeout(InvalidRequest):
    """The client did not send a complete request in time."""

    status = 408
    closes_connection = True


class MalformedHttp(InvalidRequest):
    """The request is malformed or ambiguous HTTP."""

    closes_connection = True


class UnsupportedFeature(ClientError):
    """The request depends on a feature that the backend lacks."""


class AuthenticationFailed(ClientError):
    """The client's credential is missing or wrong, or a provider's key is missing or refused."""

    status = 401
    error_type = "authentication_error"


class PermissionDenied(ClientError):
    """The client may not do this."""

    status = 403
    error_type = "permission_error"


class UnknownModel(ClientError):
    """The model, path or resource does not exist."""

    status = 404
    error_type = "not_found_error"


class RequestTooLarge(ClientError):
    """The body exceeds the limit."""

    status = 413
    error_type = "request_too_large"


class UriTooLong(RequestTooLarge):
    """Path and query exceed the limit."""

    status = 414
    closes_connection = True


class HeadersTooLarge(RequestTooLarge):
    """The headers exceed the limit."""

    status = 431
    closes_connection = True


class LimitReached(ClientError):
    """A limit of this proxy (rate, budget) is reached."""

    status = 429
    error_type = "rate_limit_error"


class Cause(Struct, frozen=True, kw_only=True):
    """The kind of a provider error, with the numbers that a changed request depends on. All numbers are tokens."""

    error_type: Literal["overflow", "output_limit", "images", "quota"]
    max_tokens: int | None = None
    """Output limit with which this request fits; None: no output limit makes it fit, or it is not known."""
    max_output: int | None = None
    """Output limit of the model, whatever the input; None: not stated."""
    window: int | None = None
    """Input and output together; None: not stated."""
    certain: bool = True
    """False if the text fits other causes too, so that only a success of the changed request proves the cause."""


class UpstreamError(ProxyError):
    """The provider failed. The message starts with the provider name."""

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
        self.status = type(self).status if status is None else status
        self.error_type = type(self).error_type if kind is None else kind
        if retryable is not None:
            self.retryable = retryable
        self.body: bytes | None = None
        """Error body of the provider, for a relay. None: not relayed."""
        self.headers: dict[str, str] = {}
        """Headers of the provider that are relayed with `body`."""
        self.parameter = parameter
        """Request parameter that the provider names as the cause, in its spelling. None: not stated."""
        self.cause: Cause | None = None
        """Cause that a change of the request may remove on every wire. None: no such cause."""


class UpstreamRefused(UpstreamError):
    """The provider responded with an error. Status and type are mapped from its response."""


class UpstreamUnreachable(UpstreamError):
    """No connection: DNS, TLS, refused or reset before an answer."""

    retryable = True


class UpstreamProtocolError(UpstreamError):
    """The response of the provider is malformed or incomplete."""

    retryable = True


class UpstreamTimeout(UpstreamError):
    """The provider sent nothing within the time limit."""

    status = 504
    error_type = "timeout_error"


class UpstreamOverloaded(UpstreamError):
    """The provider reports that it has no capacity."""

    status = 529
    error_type = "overloaded_error"
    retryable = True


class CircuitOpen(UpstreamError):
    """The circuit breaker of the provider is open. Status and type are those of its last failure."""


class ProxyBusy(ProxyError):
    """The queue of upstream calls is full. The request was sent to no provider."""

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
"""`error_code` of a `web_fetch_tool_result_error` (the official SDK's types, read 2026-11)."""
SearchErrorCode = Literal[
    "invalid_tool_input", "unavailable", "max_uses_exceeded", "too_many_requests", "query_too_long", "request_too_large"
]
"""`error_code` of a `web_search_tool_result_error` (same source)."""


class ServerToolFailed(ProxyError):
    """A tool that the proxy runs for a model failed. It becomes a result block, never an HTTP status."""


class WebFetchFailed(ServerToolFailed):
    """A page or a link could not be fetched. The message states the reason and may be sent to the model."""

    def __init__(self, message: str, error_code: FetchErrorCode) -> None:
        super().__init__(message)
        self.error_code: FetchErrorCode = error_code


class WebSearchFailed(ServerToolFailed):
    """A search failed. The message states the reason and may be logged."""

    def __init__(self, message: str, error_code: SearchErrorCode) -> None:
        super().__init__(message)
        self.error_code: SearchErrorCode = error_code


class ShuttingDown(ProxyError):
    """The server stops before the reply is complete."""

    status = 503

    def __init__(self) -> None:
        super().__init__(
            "The proxy is shutting down, so the reply is incomplete. Try again in a moment.", retry_after=1
        )


class MissingExtra(ProxyError):
    """An optional package is not installed. A retry does not help."""

    def __init__(self, subject: str, extra: str) -> None:
        super().__init__(
            f"{subject}, which is not installed. Install it in the checkout and start the proxy again: "
            f"sh scripts/setup {extra}   or, with uv: uv sync --extra {extra}",
            should_retry=False,
        )


class ConfigurationError(ProxyError):
    """A setting is wrong. Raised at start-up; never sent to a client."""


class InternalError(ProxyError):
    """A bug of the proxy, logged with its traceback."""
