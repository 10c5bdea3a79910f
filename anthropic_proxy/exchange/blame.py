"""Who failed, in words that a client can be told and that say what to set."""

from anthropic_proxy.errors import (
    UpstreamError,
    UpstreamProtocolError,
    UpstreamResting,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from anthropic_proxy.routing.router import Target
from anthropic_proxy.wire.contract import LENT, Credential, UpstreamResponse

_UNREAD_CODINGS = ("br", "zstd", "compress")
"""What a body may be packed with that nobody here unpacks; other words stand at bodies that are not packed at all."""


def silence_of(provider: str, seconds: float) -> UpstreamTimeout:
    """Return the error of a provider that said nothing for longer than it may."""
    limits = "UPSTREAM_FIRST_BYTE_TIMEOUT and UPSTREAM_IDLE_TIMEOUT set that"
    return UpstreamTimeout(f"{provider} was silent for {seconds:g} s; {limits}.", provider=provider)


def describe_outcome(target: Target, error: UpstreamError) -> str:
    """Return what became of an attempt, in words for the log: `groq 429`."""
    return f"{target.provider.name} {'resting' if isinstance(error, UpstreamResting) else error.status}"


def next_target_may_help(error: UpstreamError) -> bool:
    """Say whether another provider may serve what this one could not."""
    return error.status in (401, 402, 403, 404, 408, 429) or error.status >= 500


def expect_api(response: UpstreamResponse, target: Target) -> None:
    """Refuse an answer that no API gives: a redirection, a status that is none, a web page in place of a reply."""
    status, variable = response.status, target.provider.base_url_variable
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if 300 <= status < 400:
        place = response.headers.get("location", "").partition("?")[0]
        what = f"HTTP {status} points elsewhere{f' ({place})' if place else ''}; redirections are not followed"
    elif 200 <= status < 300 and kind == "text/html":
        what = f"a web page came back (HTTP {status}, text/html) where an API was expected"
    elif 200 <= status < 300 and (coding := response.headers.get("content-encoding", "").lower()) in _UNREAD_CODINGS:
        what = f"the reply is packed (content-encoding: {coding}), which nobody asked for and which is not read here"
    elif not 200 <= status < 600:
        what = f"HTTP {status} is no answer to a request"
    else:
        return
    where = f". The address is set by {variable}" if variable else ""
    error = UpstreamProtocolError(f"{what}{where}", should_retry=False)
    error.retryable = False
    raise error


def say_provider(error: UpstreamError, name: str) -> None:
    """Begin the message with the provider's name, unless a wire has said it already or left it out on purpose.

    The street and the framing do not know whom they serve.
    """
    if not error.provider:
        error.provider = name
        error.message = f"{name}: {error.message}"


def name_provider(error: UpstreamError, target: Target, credential: Credential | None) -> None:
    """Say in the message which provider failed and, where it is the key or the address, which setting holds it."""
    say_provider(error, target.provider.name)
    if error.status == 401 and credential is not None and credential.origin not in error.message:
        looked = "" if credential.origin == LENT else "; the client's own key was not looked at"
        error.message += f" The key comes from {credential.origin}{looked}."
    variable = target.provider.base_url_variable
    if isinstance(error, UpstreamUnreachable) and variable and variable not in error.message:
        error.message += f". The address is set by {variable}"
