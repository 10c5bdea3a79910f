"""Exceptions of the proxy, each with the HTTP status and the Anthropic error type that the client receives.

ProxyError                            base class
├─ ClientError                       the client, or the user of the proxy, can remove the cause
│  ├─ InvalidRequest, UnsupportedFeature   400 invalid_request_error
│  │  ├─ WorkLimitExceeded                       400: JSON Schemas cause too much work (`messages/work_budget.py`)
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
│  │  └─ UnreadableReply                         502: the provider could not read its model's output
│  ├─ UpstreamTimeout                      504 timeout_error
│  ├─ UpstreamOverloaded                   529 overloaded_error
│  └─ CircuitOpen                          provider not called after repeated failures; status of the last failure
├─ ProxyBusy                         529 overloaded_error; the queue in front of the upstreams is full, or a subclass
│  ├─ KeysUnavailable                      the database of the virtual keys is not available (`access/errors.py`)
│  └─ StoreUnavailable                     Redis, which counts limits, is not available (`plugins/storage.py`)
├─ ServerToolFailed                  a web search or web fetch of the proxy failed; the request continues
│  └─ WebFetchFailed, WebSearchFailed      a page or link could not be fetched; a search failed
├─ MissingExtra                      500 api_error; an optional package is not installed
├─ ShuttingDown                      503 api_error; the server stops before the reply is complete
├─ ConfigurationError                the user of the proxy must correct a setting, option, file or database
└─ InternalError                     500 api_error; usually a bug of the proxy

Clients decide about a retry by the error type (`error_type`), so it is always one of
https://docs.anthropic.com/en/api/errors. If `retryable` is True, the proxy may send the unchanged request to a provider
again. If `closes_connection` is True, the server closes the client connection after the response.
"""

from collections.abc import Iterable
from typing import Literal

from anthropic_proxy.errors.base import ProxyError as ProxyError
from anthropic_proxy.errors.upstream import CircuitOpen as CircuitOpen
from anthropic_proxy.errors.upstream import UnreadableReply as UnreadableReply
from anthropic_proxy.errors.upstream import UpstreamError as UpstreamError
from anthropic_proxy.errors.upstream import UpstreamErrorCause as UpstreamErrorCause
from anthropic_proxy.errors.upstream import UpstreamOverloaded as UpstreamOverloaded
from anthropic_proxy.errors.upstream import UpstreamProtocolError as UpstreamProtocolError
from anthropic_proxy.errors.upstream import UpstreamRefused as UpstreamRefused
from anthropic_proxy.errors.upstream import UpstreamTimeout as UpstreamTimeout
from anthropic_proxy.errors.upstream import UpstreamUnreachable as UpstreamUnreachable
from anthropic_proxy.installation import PUBLISHED, build_extra_install_command, build_uv_install_command


class ClientError(ProxyError):
    """Base class of errors that the client, or the user of the proxy, can remove: a wrong request, key or setting."""

    status = 400
    error_type = "invalid_request_error"


class InvalidRequest(ClientError):
    """The client request is invalid, for example because a field is missing or wrong. The message names the cause."""


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
    """The client request depends on a feature that the proxy, the chosen provider or the model lacks."""


class AuthenticationFailed(ClientError):
    """Missing or wrong key: the client's key for the proxy, or the proxy's key for a provider."""

    status = 401
    error_type = "authentication_error"


class PermissionDenied(ClientError):
    """The client request is forbidden, for example because it comes from another machine without a key of the proxy."""

    status = 403
    error_type = "permission_error"


class UnknownModel(ClientError):
    """The client requested something that does not exist: a model, URL path, stored request or client key."""

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
    """The client has reached a limit of the proxy, such as a request rate, a budget or a number of database queries."""

    status = 429
    error_type = "rate_limit_error"


class ProxyBusy(ProxyError):
    """The proxy cannot admit the client request at present, so that the request reached no provider.

    This class is raised if the queue of provider calls is full (setting `MAX_UPSTREAM_CALLS`). Subclasses are raised if
    a database or Redis server that the proxy needs for virtual keys is not available.
    """

    status = 529
    error_type = "overloaded_error"


class ShuttingDown(ProxyError):
    """The proxy stops before the reply to a client request is complete. The client may retry after a second."""

    status = 503

    def __init__(self) -> None:
        super().__init__(
            "The proxy is shutting down, so the reply is incomplete. Try again in a moment.", retry_after=1
        )


class MissingExtra(ProxyError):
    """A provider, a database or another feature needs an optional Python package that is not installed.

    `extra` is the group of optional packages that contains it.
    """

    def __init__(self, subject: str, extra: str) -> None:
        # `subject` is a beginning such as "Vertex AI needs google-auth"
        super().__init__(
            f"{subject}, which is not installed. Install it{'' if PUBLISHED else ' in the checkout'} and start the "
            f"proxy again: {build_extra_install_command(extra)}   or, with uv: {build_uv_install_command(extra)}",
            should_retry=False,
        )
        self.subject = subject
        self.install_command = build_extra_install_command(extra)
        """Shell command that installs the package."""


class ConfigurationError(ProxyError):
    """Error that the user of the proxy must correct, such as an invalid setting, option, file or database.

    It may stand for several errors: `messages` has a text for each.
    """

    def __init__(self, *messages: str) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages


class InternalError(ProxyError):
    """An unexpected error inside the proxy, usually a bug. The log has the traceback of an unexpected exception."""


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
    """A web search or web fetch that the proxy itself runs for a client request failed. The request continues."""


class WebFetchFailed(ServerToolFailed):
    """The proxy could not fetch a web page, or a link to an image or a document. The message states the reason."""

    def __init__(self, message: str, error_code: FetchErrorCode) -> None:
        super().__init__(message)
        self.error_code: FetchErrorCode = error_code
        """Value of `error_code` in the error block of the reply."""


class WebSearchFailed(ServerToolFailed):
    """A web search of the proxy failed, because its query is invalid or the service (`SEARCH_URL`, `[search]`) failed.

    The client receives only `error_code`, but not the message.
    """

    def __init__(self, message: str, error_code: SearchErrorCode) -> None:
        super().__init__(message)
        self.error_code: SearchErrorCode = error_code
        """Value of `error_code` in the error block of the reply."""
