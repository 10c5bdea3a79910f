"""The one exception tree.

ProxyError
├─ ClientError                       the caller can fix it
│  ├─ InvalidRequest, UnsupportedFeature   400 invalid_request_error
│  │  └─ WrongMethod, UnsupportedEncoding, RequestTimeout, UnreadableRequest   405, 415, 408, 400: the same kind
│  ├─ AuthenticationFailed                 401 authentication_error
│  ├─ PermissionDenied                     403 permission_error
│  ├─ UnknownModel                         404 not_found_error
│  ├─ RequestTooLarge                      413 request_too_large
│  │  └─ AddressTooLong, HeadersTooLarge         414, 431: the same kind
│  └─ LimitReached                         429 rate_limit_error
├─ UpstreamError                     the provider failed; carries provider, status, retry_after
│  ├─ UpstreamRefused                      status and kind mapped from its answer
│  ├─ UpstreamUnreachable, UpstreamProtocolError   502 api_error
│  ├─ UpstreamTimeout                      504 timeout_error
│  ├─ UpstreamOverloaded                   529 overloaded_error
│  └─ UpstreamResting                      not asked, because it failed again and again; as its last failure
├─ ErrandFailed                      an errand of the proxy itself; becomes a block in the reply, never a status
│  ├─ FetchFailed                          a page or a link that could not be had
│  └─ SearchFailed                         a search service that did not answer
├─ Stopping                          503 api_error; the server ends before the reply does
├─ ConfigurationError                found at start; never reaches a client
└─ InternalError                     500 api_error; our bug, logged with its trace

Only kinds that Anthropic documents leave the house (https://docs.anthropic.com/en/api/errors): the client's retry
behaviour depends on them.
"""

from collections.abc import Iterable
from typing import Any, Literal


class ProxyError(Exception):
    """Anything that this project raises on purpose; its text says what the reader can do."""

    status: int = 500
    """The HTTP status that the client receives."""
    kind: str = "api_error"
    """The `error.type` of Anthropic's envelope."""
    retryable: bool = False
    """Whether the same call may succeed when made again, unchanged, a moment later."""
    ends_connection: bool = False
    """Whether nobody can know that what comes next on the client's connection is its next request."""

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
        """`error.details` of the envelope, for example `{"error_code": …}`."""
        self.retry_after = retry_after
        """Seconds until the client should try again; None: not known."""
        self.should_retry = should_retry
        """False tells the official clients not to retry (header `x-should-retry`); None: they decide by the status."""

    def let_go(self) -> None:
        """Drop the frames that it came through, once it was told or is overcome.

        Some of them hold the error itself and, with the request's body, all of an exchange: a circle that would stay
        until the garbage collector comes.
        """
        told: BaseException | None = self
        while told is not None:
            told.__traceback__ = None
            told = told.__context__


class ClientError(ProxyError):
    """The caller can fix it."""

    status = 400
    kind = "invalid_request_error"


class InvalidRequest(ClientError):
    """A field is missing or wrong; the text names the field, the value and what is allowed."""


class WrongMethod(InvalidRequest):
    """Something is served at this path, but not by this method."""

    status = 405

    def __init__(self, message: str, allowed: Iterable[str]) -> None:
        super().__init__(message)
        self.allowed = tuple(allowed)
        """The methods that are served there."""


class UnsupportedEncoding(InvalidRequest):
    """The body is compressed, or otherwise not as it is read here."""

    status = 415


class RequestTimeout(InvalidRequest):
    """The client did not send its whole request in time."""

    status = 408
    ends_connection = True


class UnreadableRequest(InvalidRequest):
    """What came is no HTTP as it must be, or can be read in two ways."""

    ends_connection = True


class UnsupportedFeature(ClientError):
    """The request would be meaningless without something that the backend does not have."""


class AuthenticationFailed(ClientError):
    """The client's credential is missing or wrong, or a provider's key is missing or refused."""

    status = 401
    kind = "authentication_error"


class PermissionDenied(ClientError):
    """The caller is known, or known to be foreign, and may not do this."""

    status = 403
    kind = "permission_error"


class UnknownModel(ClientError):
    """No such model, path or resource."""

    status = 404
    kind = "not_found_error"


class RequestTooLarge(ClientError):
    """The body is larger than the proxy takes."""

    status = 413
    kind = "request_too_large"


class AddressTooLong(RequestTooLarge):
    """Path and query are longer than the proxy takes."""

    status = 414
    ends_connection = True


class HeadersTooLarge(RequestTooLarge):
    """The headers are larger than the proxy takes."""

    status = 431
    ends_connection = True


class LimitReached(ClientError):
    """A limit of this proxy (rate, budget) is reached."""

    status = 429
    kind = "rate_limit_error"


class UpstreamError(ProxyError):
    """The provider failed. Its text starts with the provider's name."""

    status = 502

    def __init__(  # the widest constructor of the tree, because everything that a provider may say ends here
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
        self.kind = type(self).kind if kind is None else kind
        if retryable is not None:
            self.retryable = retryable
        self.body: bytes | None = None
        """The provider's own error body, where it is passed on as it came (a relay)."""
        self.headers: dict[str, str] = {}
        """The provider's headers that are passed on with it."""
        self.parameter = parameter
        """The request parameter that the provider named as the cause, in its own spelling; None: none named."""


class UpstreamRefused(UpstreamError):
    """The provider answered with an error; status and kind are mapped from its answer."""


class UpstreamUnreachable(UpstreamError):
    """No connection: DNS, TLS, refused or reset before an answer."""

    retryable = True


class UpstreamProtocolError(UpstreamError):
    """The provider's answer broke its own rules, or ended before it was complete."""

    retryable = True


class UpstreamTimeout(UpstreamError):
    """The provider stayed silent for longer than the limit."""

    status = 504
    kind = "timeout_error"


class UpstreamOverloaded(UpstreamError):
    """The provider says that it has no capacity now."""

    status = 529
    kind = "overloaded_error"
    retryable = True


class UpstreamResting(UpstreamError):
    """The provider failed so often in a row that it is left alone for a while; with status and kind of its failure."""


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


class ErrandFailed(ProxyError):
    """What the proxy fetches for a model could not be had; it becomes a block, so no client sees a status."""


class FetchFailed(ErrandFailed):
    """A page or a link could not be had; the text says why and is fit for the model."""

    def __init__(self, message: str, error_code: FetchErrorCode) -> None:
        super().__init__(message)
        self.error_code: FetchErrorCode = error_code


class SearchFailed(ErrandFailed):
    """A search gave no answer; the text says why and is fit for a log."""

    def __init__(self, message: str, error_code: SearchErrorCode) -> None:
        super().__init__(message)
        self.error_code: SearchErrorCode = error_code


class Stopping(ProxyError):
    """The server was asked to stop, and does not wait longer for replies that are not complete."""

    status = 503

    def __init__(self) -> None:
        super().__init__("The proxy is stopping; the reply is not complete. Try again in a moment.", retry_after=1)


class ConfigurationError(ProxyError):
    """A setting is wrong; found at start, never reaches a client."""


class InternalError(ProxyError):
    """Our bug; logged with its trace."""
