"""`UpstreamError` and its subclasses: failed calls to a provider, and the cause that the provider states."""

from typing import Any, Literal

from msgspec import Struct

from anthropic_proxy.errors.base import ProxyError


class UpstreamErrorCause(Struct, frozen=True, kw_only=True):
    """Cause of a failed upstream call, such as a too long input, read from the provider's error message.

    The limits in the fields are numbers of tokens.
    """

    kind: Literal["overflow", "output_limit", "images", "quota"]
    """`overflow`: the input is too long. `output_limit`: `max_tokens` is too high. `images`: the model accepts no
    images. `quota`: the account at the provider has no credit or quota left."""
    max_tokens: int | None = None
    """Highest `max_tokens` with which the rejected input fits the context window. None: unknown, or none fits."""
    max_output_tokens: int | None = None
    """Maximum `max_tokens` of the model, for every length of the input. None: not stated in the error."""
    context_window: int | None = None
    """Context window of the model: input and output together. None: not stated."""
    is_certain: bool = True
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
        """`error.type` of the error body for the client, in Anthropic's format."""
        if retryable is not None:
            self.retryable = retryable
        self.body: bytes | None = None
        """Error body of the provider, which the client receives unchanged (providers with the Messages API).
        None: the proxy writes the error body."""
        self.headers: dict[str, str] = {}
        """Provider headers that the client receives with the error."""
        self.parameter = parameter
        """Request parameter that the provider names as the cause, in the provider's spelling. None: not stated."""
        self.cause: UpstreamErrorCause | None = None
        """Cause that a changed request may remove. None: another or unknown cause."""


class UpstreamRefused(UpstreamError):
    """The provider responded with an error. Status and error type for the client are derived from the response."""


class UpstreamUnreachable(UpstreamError):
    """The provider did not answer, for example because DNS or TLS failed, or the connection was refused or closed."""

    retryable = True


class UpstreamProtocolError(UpstreamError):
    """The provider's response is malformed, incomplete or too large for the proxy."""

    retryable = True


class UnreadableReply(UpstreamProtocolError):
    """The provider could not read the output of its own model, such as a malformed tool call, and ended the reply.

    Another call may succeed. It is allowed even if the client has already received thinking of the reply.
    """


class UpstreamTimeout(UpstreamError):
    """The provider sent no data within the time limit, or reported a timeout."""

    status = 504
    error_type = "timeout_error"


class UpstreamOverloaded(UpstreamError):
    """The provider reported an overload of its own servers."""

    status = 529
    error_type = "overloaded_error"
    retryable = True


class CircuitOpen(UpstreamError):
    """The proxy did not call the provider, because the last calls failed.

    Status and error type are those of the last failure.
    """
