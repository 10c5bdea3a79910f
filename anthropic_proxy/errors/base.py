"""`ProxyError`: base class of the exceptions of the proxy, with the HTTP status and error type for the client."""

from typing import Any


class ProxyError(Exception):
    """Base class of all errors that the proxy raises on purpose. The message states the cause and the remedy."""

    status: int = 500
    """HTTP status of the response to the client."""
    error_type: str = "api_error"
    """`error.type` of the error body for the client, in Anthropic's format."""
    retryable: bool = False
    """True if the proxy may send the unchanged request to a provider again, because the failure is temporary."""
    closes_connection: bool = False
    """True if the connection is closed after the response, so that remaining bytes are not parsed as a request."""

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

    def release_tracebacks(self) -> None:
        """Remove the tracebacks of this error and of the earlier exceptions in `__context__`, to free memory.

        A traceback keeps the request body in memory. Call this after the error was reported.
        """
        error: BaseException | None = self
        while error is not None:  # its frames refer to the error: a cycle that only the garbage collector frees
            error.__traceback__ = None
            error = error.__context__
