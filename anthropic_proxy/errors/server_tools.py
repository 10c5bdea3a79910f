"""`ServerToolFailed` and its subclasses: failed web searches and web fetches that the proxy itself runs.

Each subclass has the error code of Anthropic's API that the reply contains in place of a result.
"""

from typing import Literal

from anthropic_proxy.errors.base import ProxyError

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
