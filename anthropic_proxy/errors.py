"""Exceptions of the proxy, each with the HTTP status and the Anthropic error type that the client receives.

ProxyError                            base class
├─ ClientError                       the client, or the user of the proxy, can remove the cause
│  ├─ InvalidRequest, UnsupportedFeature   400 invalid_request_error
│  │  ├─ WorkLimitExceeded                       400: JSON Schemas cost too much (`engine/messages/work_budget.py`)
│  │  ├─ PolicyBlocked                           400 policy_blocked: a rule of the company forbids the text
│  │  └─ MethodNotAllowed, UnsupportedEncoding, RequestTimeout, MalformedHttp   405, 415, 408, 400: the same type
│  ├─ AuthenticationFailed                 401 authentication_error
│  ├─ PermissionDenied                     403 permission_error
│  ├─ UnknownModel                         404 not_found_error
│  ├─ RequestTooLarge                      413 request_too_large
│  │  └─ UriTooLong, HeadersTooLarge             414, 431: the same type
│  └─ LimitReached                         429 rate_limit_error
│     └─ BudgetUsedUp                            429 billing_error
├─ UpstreamError                     a provider failed, never a limit of this proxy; has provider, status, retry_after
│  ├─ UpstreamRefused                      status and type mapped from its response
│  ├─ UpstreamUnreachable, UpstreamProtocolError   502 api_error
│  │  └─ UnreadableReply                         502: the provider could not read its model's output
│  ├─ UpstreamTimeout                      504 timeout_error
│  ├─ UpstreamOverloaded                   529 overloaded_error
│  └─ CircuitOpen                          provider not called after repeated failures; status of the last failure
├─ ProxyBusy                         529 overloaded_error; the queue in front of the upstreams is full, or a subclass
│  ├─ IssuerUnavailable                    the keys of an issuer cannot be read (`console/keys/service_tokens.py`)
│  ├─ KeysUnavailable                      the database of virtual keys is not available (`console/keys/key_table.py`)
│  └─ StoreUnavailable                     Redis, which counts limits, is not available (`engine/hooks.py`)
├─ WorkerBusy                        529 overloaded_error; a thread or process that clients share had no place for it
├─ ServerToolFailed                  a web search or web fetch of the proxy failed; the request continues
│  └─ WebFetchFailed, WebSearchFailed      a page or link could not be fetched; a search failed
├─ MissingExtra                      500 api_error; an optional package is not installed
├─ InspectorUnavailable              503 api_error; an inspector that must read each text has failed
├─ LoopDetected                      508 api_error; the address of a provider leads back to the proxy
├─ ShuttingDown                      503 api_error; the server stops before the reply is complete
├─ ConfigurationError                the user of the proxy must correct a setting, option, file or database
└─ InternalError                     500 api_error; usually a bug of the proxy

Status and type of an error are those at the hop where it arose: of a provider, the proxy or the client. What the client
is told about one behind the proxy is a table (`engine/exchange/client_errors.py`).

The `code` of an error is the slug of its entry in `docs/fix/errors.toml`, with cause and remedy. It is given where the
error is raised, unless the class has one code for all its errors.
What is stored of an error (log, ledger, metrics, traces, pages) is its `stored_message`: only the client may read the
words of its request that a message quotes.
Clients decide about a retry by the error type (`error_type`), so it is always one of
https://docs.anthropic.com/en/api/errors, except for `policy_blocked`, which Claude Code knows. If `retryable` is True,
the proxy may send the unchanged request to a provider again. If `closes_connection` is True, the server closes the
client connection after the response.
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import accumulate
from types import MappingProxyType
from typing import Any, Literal

from msgspec import Struct

PACKAGE = "anthropic-proxy"
"""Name of the program, and of the project in a package index."""


def build_extra_install_command(extra: str) -> str:
    """Return the shell command that installs an extra, a set of optional packages."""
    return f"{PACKAGE} add {extra}"


REMEDY_LEAD = " Remedy: "
"""Text between the cause and the remedy in the message about a model that a setting names."""


def replace_remedy(message: str, remedy: str, wish: str, contact: str) -> str:
    """Return a message for somebody who cannot change the proxy: in place of the `remedy` at its end, it says what to
    ask for. `contact`: where. "": an administrator.
    """
    cause = message.removesuffix(f"{REMEDY_LEAD}{remedy}").removesuffix(remedy)
    if not remedy or cause == message:
        return message
    cause = cause.rstrip(" :,")
    end = "" if cause.endswith((".", "!", "?", "·")) else "."
    wish = wish or "help"
    return (
        f"{cause}{end} {f'Ask for {wish}: {contact}' if contact else f'Ask an administrator of the proxy for {wish}.'}"
    )


def replace_quotes(text: str, quotes: Mapping[str, str]) -> str:
    """Return a text with what is stored in place of each quote."""
    for quote in sorted(quotes, key=len, reverse=True):
        text = text.replace(quote, quotes[quote])
    return text


class ProxyError(Exception):
    """Base class of all errors that the proxy raises on purpose. The message states the cause and the remedy."""

    status: int = 500
    error_type: str = "api_error"
    """`error.type` of the error body for the client, in Anthropic's format."""
    retryable: bool = False
    """True if the proxy may send the unchanged request to a provider again, because the failure is temporary."""
    closes_connection: bool = False
    """True if the connection is closed after the response, so that remaining bytes are not parsed as a request."""
    code: str = ""
    """Entry of the error catalog: `/help/errors#rate-limit`. "": the section of the class, for errors of plugins."""
    remedy: str = ""
    """End of the message that only concerns whoever administers the proxy: the command, line or setting that removes
    the cause. `describe_to_people` replaces it. "": none."""
    wish: str = ""
    """What somebody who cannot change the proxy asks its administrator for, as the end of a sentence: `more`, `a key`.
    "": help."""
    should_retry: bool | None = None
    """Response header `x-should-retry`. True: Anthropic's clients retry. False: they do not retry. None: no header, and
    the clients decide by the status."""

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        wish: str = "",
        code: str = "",
        details: dict[str, Any] | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
        is_negotiated: bool = False,
        quotes: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        if remedy:
            self.remedy = remedy
            message = f"{message}{'' if message.endswith(' ') else ' '}{remedy}"
        if wish:
            self.wish = wish
        super().__init__(message)
        self.message = message
        self.quotes = quotes
        """Part of the message that quotes the request or the reply → what is stored in its place: type and length. Only
        the client gets the quote."""
        self.is_negotiated = is_negotiated
        """True if the client asked whether something is available and goes on without it, so that nothing failed. No
        view and no sum has the request."""
        if code:
            self.code = code
        self.details = details
        """Object `error.details` of the error body, for example `{"error_code": …}`. None: the field is omitted."""
        self.retry_after = retry_after
        """Seconds until a retry is useful, sent to the client as `retry-after`. None: unknown, no header."""
        if should_retry is not None:
            self.should_retry = should_retry

    @property
    def stored_message(self) -> str:
        """The message as log, ledger and all other records may have it: without words of request and reply."""
        return self.without_quotes(self.message)

    def without_quotes(self, text: str) -> str:
        return replace_quotes(text, self.quotes)

    @property
    def message_without_remedy(self) -> str:
        return self.message.removesuffix(self.remedy).rstrip()

    def describe_to_people(self, contact: str) -> str:
        """Return the message for a client that cannot change the proxy. `contact`: that of `[sign_in]`."""
        return replace_remedy(self.message, self.end_for_administrators, self.wish, contact)

    @property
    def end_for_administrators(self) -> str:
        """End of the message that only concerns whoever administers the proxy."""
        return self.remedy

    def release_tracebacks(self) -> None:
        """Remove the tracebacks of this error and of the earlier exceptions in `__context__`, to free memory.

        A traceback keeps the request body in memory. Call this after the error was reported.
        """
        error: BaseException | None = self
        while error is not None:  # its frames refer to the error: a cycle that only the garbage collector frees
            error.__traceback__ = None
            error = error.__context__


class ClientError(ProxyError):
    """Base class of errors that the client, or the user of the proxy, can remove: a wrong request, key or setting."""

    status = 400
    error_type = "invalid_request_error"


class InvalidRequest(ClientError):
    """The client request is invalid, for example because a field is missing or wrong. The message names the cause."""


class PolicyBlocked(InvalidRequest):
    """A rule of the company forbids the text of the client request.

    After another type of error with status 400, Claude Code 2.1.332 sends the request up to five times more, each time
    with fewer features.
    """

    error_type = "policy_blocked"
    should_retry = False
    code = "policy-blocked"


class MethodNotAllowed(InvalidRequest):
    """The proxy serves the path of the client request, but with other HTTP methods."""

    status = 405
    code = "method"

    def __init__(self, message: str, allowed: Iterable[str]) -> None:
        super().__init__(message)
        self.allowed = tuple(allowed)


class UnsupportedEncoding(InvalidRequest):
    """The body of the client request is compressed (`content-encoding`). The proxy accepts only uncompressed bodies."""

    status = 415
    code = "content-encoding"


class RequestTimeout(InvalidRequest):
    """The headers or the body of the client request were not complete in time."""

    status = 408
    closes_connection = True
    code = "slow-request"


class MalformedHttp(InvalidRequest):
    """The client request is invalid HTTP, or two HTTP programs could read it differently (request smuggling)."""

    closes_connection = True
    code = "malformed-http-message"


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
    should_retry = False


class UnknownModel(ClientError):
    """The client requested something that does not exist: a model, URL path, stored request or client key."""

    status = 404
    error_type = "not_found_error"


class RequestTooLarge(ClientError):
    """The body of the client request has more than 32 MB."""

    status = 413
    error_type = "request_too_large"
    code = "body-too-large"


class UriTooLong(RequestTooLarge):
    """Path and query of the client request exceed their limit in bytes."""

    status = 414
    closes_connection = True
    code = "address-too-long"


class HeadersTooLarge(RequestTooLarge):
    """The headers of the client request exceed their limit in bytes or in number."""

    status = 431
    closes_connection = True
    code = "headers-too-long"


class LimitReached(ClientError):
    """The client has reached a limit of the proxy, such as a request rate, a budget or a number of database queries."""

    status = 429
    error_type = "rate_limit_error"
    code = "plugin-limit"


class BudgetUsedUp(LimitReached):
    """The client has used up a budget, so that a retry is useless until the budget is renewed."""

    error_type = "billing_error"
    should_retry = False
    code = "budget-used-up"


class ProxyBusy(ProxyError):
    """The proxy cannot admit the client request at present, so that the request reached no provider.

    This class itself: the queue of provider calls is full (setting `MAX_UPSTREAM_CALLS`), or the memory for large
    bodies (`MAX_BODY_MEMORY_MB`).
    """

    status = 529
    error_type = "overloaded_error"


class WorkerBusy(ProxyError):
    """A thread or process that clients share had no place for a part of the request: too much waits, or it waited too
    long. No other target is called, because it may need the same.
    """

    status = 529
    error_type = "overloaded_error"
    code = "worker-busy"


class InspectorUnavailable(ProxyError):
    """An inspector that must read each text gave no decision.

    Claude Code shows a 503 without a retry in its own words at once. It shows 529 as a lack of capacity, after retries.
    """

    status = 503
    code = "inspector-unavailable"
    should_retry = False


class LoopDetected(ProxyError):
    """The request has passed this proxy before, because the address of a provider leads back to it."""

    status = 508
    code = "proxy-loop"
    should_retry = False


class ShuttingDown(ProxyError):
    """The proxy stops before the reply to a client request is complete. The client may retry after a second."""

    status = 503
    code = "proxy-stops"

    def __init__(self) -> None:
        super().__init__(
            "The proxy is shutting down, so the reply is incomplete. Try again in a moment.", retry_after=1
        )


class MissingExtra(ProxyError):
    """A provider, a database or another feature needs an optional Python package that is not installed.

    `extra` is the group of optional packages that contains it.
    """

    code = "package-missing"

    def __init__(self, subject: str, extra: str) -> None:
        # `subject` is a beginning such as "A token of Google Cloud needs google-auth"
        super().__init__(
            f"{subject}, which is not installed.",
            remedy=f"Install it:  {build_extra_install_command(extra)}",
            should_retry=False,
        )
        self.subject = subject
        self.install_command = build_extra_install_command(extra)


class ConfigurationError(ProxyError):
    """Error that the user of the proxy must correct, such as an invalid setting, option, file or database.

    It may stand for several errors: `messages` has a text for each.
    """

    def __init__(self, *messages: str, code: str = "") -> None:
        super().__init__("\n".join(messages), code=code)
        self.messages = messages


def is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # the package that contains it
        return False


def require_package(subject: str, package: str, extra: str) -> None:
    """Raise `ConfigurationError` if an optional package is missing. `subject`, `extra`: as in `MissingExtra`."""
    if not is_installed(package):
        raise ConfigurationError(MissingExtra(subject, extra).message, code=MissingExtra.code)


class InternalError(ProxyError):
    """An unexpected error inside the proxy, usually a bug. The log has the traceback of an unexpected exception."""

    code = "bug"


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

    code = "page-not-fetched"

    def __init__(self, message: str, error_code: FetchErrorCode) -> None:
        super().__init__(message)
        self.error_code: FetchErrorCode = error_code


class WebSearchFailed(ServerToolFailed):
    """A web search of the proxy failed, because its query is invalid or the service (`SEARCH_URL`, `[search]`) failed.

    The client receives only `error_code`, but not the message.
    """

    code = "search-failed"

    def __init__(self, message: str, error_code: SearchErrorCode) -> None:
        super().__init__(message)
        self.error_code: SearchErrorCode = error_code


ACCOUNT_STATUSES = (401, 402, 403, 429)
"""HTTP statuses that concern the key or account at a provider: rejected, without credit or access, over a limit."""
STATED_IN_TEXT = "stated-in-text"
"""Code of an error that only its text explains by one of `ACCOUNT_STATUSES`. The text may quote the client."""


class UpstreamErrorCause(Struct, frozen=True, kw_only=True):
    """Cause of a failed upstream call, read from the provider's error message. Limits are numbers of tokens."""

    kind: Literal["overflow", "output_limit", "images", "documents", "quota", "too_many"]
    """`overflow`: the input is too long. `output_limit`: `max_tokens` is too high. `images`, `documents`: the model
    accepts none. `quota`: the account at the provider has no credit or quota left. `too_many`: the request alone
    exceeds a rate limit of images or other things than tokens."""
    max_tokens: int | None = None
    """Highest `max_tokens` with which the rejected input fits the context window. None: unknown, or none fits."""
    max_output_tokens: int | None = None
    """Maximum `max_tokens` of the model, for every length of the input. None: not stated in the error."""
    context_window: int | None = None
    """Context window of the model: input and output together. None: not stated."""


_CODES_OF_STATUSES = {
    400: "invalid-upstream-request",
    401: "rejected-key",
    402: "no-credit",
    403: "no-access",
    404: "model-not-found",
    407: "refused-on-the-way",
    413: "body-too-large",
    421: "refused-on-the-way",
    425: "refused-on-the-way",
    429: "rate-limit",
    451: "no-access",
    511: "refused-on-the-way",
}
"""Status → code of an error with which a provider responded: its text is the provider's own, so the status decides."""


class UpstreamError(ProxyError):
    """A call to a provider failed. The message starts with the provider name."""

    status = 502

    def __init__(  # many arguments: one for each field of the error bodies of providers
        self,
        message: str,
        *,
        code: str = "",
        provider: str = "",
        status: int | None = None,
        kind: str | None = None,
        retryable: bool | None = None,
        details: dict[str, Any] | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
        parameter: str | None = None,
        quotes: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(
            message, code=code, details=details, retry_after=retry_after, should_retry=should_retry, quotes=quotes
        )
        self.provider = provider
        """Name of the provider in the registry: `openai`. "": not yet known."""
        self.status = type(self).status if status is None else status
        self.error_type = type(self).error_type if kind is None else kind
        if not self.code:
            self.code = _CODES_OF_STATUSES.get(self.status, "provider-failed" if self.error_type == "api_error" else "")
        if retryable is not None:
            self.retryable = retryable
        self.body: bytes | None = None
        """Error body of the provider, which the client receives unchanged (providers with the Messages API).
        None: the proxy writes the error body."""
        self.headers: dict[str, str] = {}
        """Provider headers that the client receives with the error."""
        self.parameter = parameter
        """Request parameter that the provider names as the cause, in the provider's spelling. None: not stated."""
        self.provider_text = ""
        """The provider's text of the error, without what it quotes of the request, as far as that is known. All that
        decides by words reads this text. "": none."""
        self.provider_status: int | None = None
        """HTTP status of the provider's response. None: the error was in a stream, or there was no response."""
        self.stated_status = self.status
        """Status that follows from the provider's HTTP status and codes alone. Its texts may quote the client, so what
        outlasts the request, such as the cooldown of a key, depends on this status. Without a response: `status`."""
        self.stated_retry_after = retry_after
        """`retry_after` without what only a text says."""
        self.has_client_key = False
        """True if the call had the client's own key, or the client could have sent one: the error is about that key."""
        self.is_repairable = True
        """False if a code says that the content, key or account is refused: no change of the request is tried then."""
        self.states_account = False
        """True if a header or code says that the key or account is used up or refused. Status and text alone may mean
        this request, such as one above a limit of tokens."""
        self.advice = ""
        """End of the message for whoever administers the proxy: what may be wrong there, with `remedy`. "": none."""
        self.concerned_field = ""
        """Field of a `[providers.NAME]` table that may be the reason: `proxy`, `ca_file`, `client_certificate`. "":
        unknown."""
        self.cause: UpstreamErrorCause | None = None
        """Cause that a changed request may remove. None: another or unknown cause."""
        self.is_compared = False
        """True if `quotes` has the words of the request that the text of the provider quotes."""
        self.hides_text = False
        """True if the text of the provider could not be compared, so that only its length is stored."""
        self.lacks_feature = False
        """True if the server lacks a field or a kind of content of the request, which another server may have."""

    def add_advice(self, text: str, remedy: str = "") -> None:
        self.advice, self.remedy = f"{text}{remedy}", remedy
        self.message += self.advice

    def without_quotes(self, text: str) -> str:
        if not self.hides_text or not text:
            return super().without_quotes(text)
        kind = " ".join(filter(None, (self.error_type, self.code)))
        return f"{self.provider}: status {self.status}, {kind} (a text of {len(text)} characters)"

    @property
    def end_for_administrators(self) -> str:
        return self.advice


class UpstreamRefused(UpstreamError):
    """The provider responded with an error. Status and error type for the client are derived from the response."""


class UpstreamUnreachable(UpstreamError):
    """The provider did not answer, for example because DNS or TLS failed, or the connection was refused or closed."""

    retryable = True
    code = "no-server"


class UpstreamProtocolError(UpstreamError):
    """The provider's response is malformed, incomplete or too large for the proxy."""

    retryable = True
    code = "invalid-reply"


class UnreadableReply(UpstreamProtocolError):
    """The provider could not read the output of its own model, such as a malformed tool call, and ended the reply.

    Another call is allowed even if the client has already received thinking of the reply.
    """

    code = "unreadable-output"


class UpstreamTimeout(UpstreamError):
    """The provider sent no data within the time limit, or reported a timeout."""

    status = 504
    error_type = "timeout_error"
    code = "no-data"


class UpstreamOverloaded(UpstreamError):
    """The provider reported an overload of its own servers."""

    status = 529
    error_type = "overloaded_error"
    retryable = True
    code = "overloaded"


class CircuitOpen(UpstreamError):
    """The proxy did not call the provider, because the last calls failed."""

    code = "provider-not-called"


def join_with_or(words: Sequence[str]) -> str:
    """Return the words as one text for a message: `a, b or c`."""
    return _join_words(words, "or")


def end_sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def join_with_and(words: Sequence[str]) -> str:
    """Return the words as one text for a message: `a, b and c`."""
    return _join_words(words, "and")


def _join_words(words: Sequence[str], conjunction: str) -> str:
    *first, last = words
    return f"{', '.join(first)} {conjunction} {last}" if first else last


def find_similar_choice(text: str, choices: Mapping[str, object] | Sequence[str], min_similarity: float = 0.6) -> str:
    """Return the choice most similar to `text`. "": no choice reaches `min_similarity` (0 to 1)."""
    return next(iter(find_similar_choices(text, choices, 1, min_similarity)), "")


def suggest_name(
    kind: str, name: str, known: Mapping[str, object] | Sequence[str], *, lead: str, meant: str = "", more: str = ""
) -> str:
    """Return the remedy for an unknown `name`: the nearest of the `known` names behind `lead`, as the user types both.

    Without one, all of them: `The providers are: …`, and `more` behind them. `meant`: the nearest name, if it is known.
    """
    if nearest := meant or find_similar_choice(name.lower(), known):
        return f"Did you mean:  {lead}{nearest}"
    return f"The {kind}s are: {', '.join(known)}. {more}".rstrip()


_MAX_COMPARED_CHARACTERS = 150_000
"""Characters of all choices that are compared with a name. Servers list them, and requests of others wait meanwhile."""


def find_similar_choices(
    text: str, choices: Mapping[str, object] | Sequence[str], most: int, min_similarity: float = 0.6
) -> list[str]:
    """The same for the `most` most similar ones, the best first. Only the beginning of a very long list is read."""
    ends = accumulate(map(len, choices))
    compared = [choice for choice, end in zip(choices, ends, strict=True) if end <= _MAX_COMPARED_CHARACTERS]
    return get_close_matches(text, compared, n=most, cutoff=min_similarity)
