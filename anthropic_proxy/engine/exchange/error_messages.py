"""Functions that decode errors of providers, and add the provider and the setting to change to their messages.

`decode_error_response` raises the `UpstreamError` of a response with an error status. `require_api_response` rejects
responses of other servers. `prefix_provider`, `add_key_setting` and `add_address_setting` add to the message of an
error. `next_target_may_help` decides if another provider is tried. `describe_attempt` returns a text for the log.
"""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from anthropic_proxy.engine.exchange.relay import forwarded_headers
from anthropic_proxy.engine.messages.deltas import Delta
from anthropic_proxy.engine.routing.router import Target
from anthropic_proxy.engine.wires.contract import (
    CLIENT_CREDENTIAL_ORIGIN,
    BaseDialect,
    Call,
    Credential,
    UpstreamResponse,
)
from anthropic_proxy.errors import (
    CircuitOpen,
    InternalError,
    ProxyError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnreachable,
)

_UNSUPPORTED_ENCODINGS = ("br", "zstd", "compress")
"""Values of `content-encoding` that the proxy cannot decode. Unknown values are ignored, because some servers send them
with uncompressed bodies."""

_CLIENT_LOGIN = re.compile(r"(?:invalid|missing)? ?x-api-key", re.IGNORECASE)
"""Pattern of a text for which Claude Code asks its user to log in (observed with 2.1.328). The proxy removes the text
from errors of providers, because the client's log-in is not the cause."""


def idle_timeout_error(provider: str, seconds: float) -> UpstreamTimeout:
    """Return the error for a provider that sent no byte for `seconds`."""
    limits = "UPSTREAM_FIRST_BYTE_TIMEOUT and UPSTREAM_IDLE_TIMEOUT set this limit"
    return UpstreamTimeout(f"{provider} sent no data for {seconds:g} s; {limits}.", provider=provider)


def describe_attempt(target: Target, error: UpstreamError) -> str:
    """Return the provider and the status of a failed attempt as text, such as `groq 429`.

    The text appears in the log and in a response header.
    """
    return f"{target.provider.prefix} {'circuit_open' if isinstance(error, CircuitOpen) else error.status}"


def next_target_may_help(error: UpstreamError) -> bool:
    """Return True if another target (provider and model) may succeed after this error.

    False: the cause is the request itself, so each target would reject it.
    """
    return error.status in (401, 402, 403, 404, 408, 429) or error.status >= 500


def require_api_response(response: UpstreamResponse, target: Target) -> None:
    """Raise `UpstreamProtocolError` if a response cannot come from the API of the provider.

    Such a response is a redirect or a web page, or it has an invalid status or an unsupported compression.
    """
    status, variable = response.status, target.provider.base_url_variable
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if 300 <= status < 400:
        location = response.headers.get("location", "").partition("?")[0]
        problem = f"HTTP {status} is a redirect{f' ({location})' if location else ''}; redirects are not followed"
    elif 200 <= status < 300 and kind == "text/html":
        problem = f"the response is a web page (HTTP {status}, text/html) instead of an API response"
    elif (
        200 <= status < 300
        and (coding := response.headers.get("content-encoding", "").lower()) in _UNSUPPORTED_ENCODINGS
    ):
        problem = f"the reply is compressed (content-encoding: {coding}), which was not requested and is not supported"
    elif not 200 <= status < 600:
        problem = f"HTTP {status} is not a valid status for a reply"
    else:
        return
    where = f". The address is set by {variable}" if variable else ""
    error = UpstreamProtocolError(f"{problem}{where}", should_retry=False)
    error.retryable = False
    raise error


def decode_error_response(
    target: Target, call: Call[BaseDialect], status: int, headers: Mapping[str, str], body: bytes
) -> list[Delta]:
    """Decode a provider's response with an error status, and raise it as `UpstreamError`.

    Some providers send a complete reply, such as a refusal, with an error status. Such a reply is returned as deltas
    (decoded fragments).
    """
    outcome = target.wire.decode_error(call, status, headers, body)
    if isinstance(outcome, UpstreamError) and target.is_relayed:
        outcome.headers = forwarded_headers(headers)
    if isinstance(outcome, ProxyError):
        raise outcome
    if isinstance(outcome, list):
        return outcome
    raise InternalError(f"a wire gave {outcome!r} for an error answer")


def prefix_provider(error: UpstreamError, name: str) -> None:
    """Put `name`, the provider, before the message of an error, unless the error already names a provider."""
    if name and not error.provider:
        error.provider = name
        error.message = f"{name}: {error.message}"


def add_key_setting(error: UpstreamError, target: Target, credential: Credential | None) -> None:
    """Put the provider's name before the message of an error, and name the source of a key that the provider rejected.

    The source is, for example, the setting with the key. If the key belongs to the proxy, texts such as
    `invalid x-api-key` are replaced, because Claude Code would ask its user to log in.
    """
    prefix_provider(error, target.provider.prefix)
    ours = credential is not None and credential.origin != CLIENT_CREDENTIAL_ORIGIN
    if error.status == 401 and ours and _CLIENT_LOGIN.search(error.message):
        error.message = _CLIENT_LOGIN.sub("the key is not accepted", error.message)
        error.body = None  # it repeats the text
    if error.status == 401 and credential is not None and credential.origin not in error.message:
        ignored = "" if credential.origin == CLIENT_CREDENTIAL_ORIGIN else "; the client's own key was ignored"
        end = "" if error.message.endswith((".", "!", "?")) else "."
        error.message += f"{end} The key comes from {credential.origin}{ignored}."


def add_address_setting(error: UpstreamError, target: Target) -> None:
    """Add the name of the setting with the base URL to the message of an error, if the connection failed.

    The name is added if the address is not the provider's default, or if that default is local, as for Ollama. A remote
    default address needs no change, so nothing is added for it.
    """
    variable, default = target.provider.base_url_variable, urlsplit(target.provider.base_url)
    if not target.provider.has_local_default_url and urlsplit(target.base_url)[:2] == default[:2]:
        return
    if isinstance(error, UpstreamUnreachable) and variable and variable not in error.message:
        error.message += f". The address is set by {variable}"
