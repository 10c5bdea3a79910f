"""What a client is told about an error behind the proxy: a status that is about the client's own request and key.

A status of HTTP answers whoever made the call. That of a provider answers the proxy: its 401 means the key of the
settings, which the client neither has nor can change. Clients take such a status for their own: after 401 and 403,
Claude Code asks its user to log in, after 404 to choose another model, and after 400 it sends the request again with
fewer features. `ROWS` has the errors that are told in another way; all others reach the client with the status of the
error. What Claude Code and the SDKs do with each status is measured in docs/guide/reliability.md.

`find_told_error` is applied where the response leaves for the client (`ResponseSink`) and where the record says what it
got (`record_failure`). Everything before works with the error itself: other keys and targets, circuits, requests of the
proxy, attempts.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from anthropic_proxy.engine.hooks import Client
from anthropic_proxy.errors import ProxyError, UpstreamError, end_sentence

KeyOwner = Literal["settings", "virtual key", "sign-in", "client"]
"""Whose key the provider got, and who is told about it: a key of the settings, for a client without restrictions, for
one with a virtual key, or for a person who signed in from Claude Code; or the key that the client itself sent."""


class Told(Struct, frozen=True):
    """What the client is told. `end`: last sentence of the message. "": none."""

    status: int
    error_type: str
    end: str = ""


class Row(Struct, frozen=True):
    """Errors, by one of the `codes` or by the status at the provider, and what each client is told.

    An owner of the key that is missing in `told` gets the error as it is.
    """

    told: Mapping[KeyOwner, Told]
    codes: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()


_FAILED = Told(424, "invalid_request_error")
"""After another type, Claude Code asks its user to send the message again."""
_ASK = "It is a key of the proxy: tell its administrator."
_ON_THE_WAY = Told(
    424,
    "invalid_request_error",
    "A proxy or gateway before the provider refuses the request, or the network asks for a log-in.",
)


def _tell_all(told: Told) -> Mapping[KeyOwner, Told]:
    return {"settings": told, "virtual key": told, "sign-in": told, "client": told}


ROWS = (
    # Claude Code replaces the text of a 404. It sends the request up to seven times more after a 400, except after this
    # type.
    Row(_tell_all(Told(400, "policy_blocked")), ("configured-model-not-found",)),
    Row(_tell_all(_FAILED), ("wrong-address", "not-an-api", "region"), (451,)),
    Row(_tell_all(_ON_THE_WAY), (), (407, 421, 425, 511)),
    Row(
        {
            "settings": _FAILED,
            "virtual key": Told(424, "invalid_request_error", _ASK),
            # It knows that an administrator manages the gateway, and names it.
            "sign-in": Told(403, "permission_error", _ASK),
        },
        ("rejected-key", "no-access"),
        (401, 403),
    ),
    Row(
        {"settings": _FAILED, "virtual key": _FAILED, "sign-in": Told(403, "permission_error")},
        ("provider-place-missing", "vertex-token", "vertex-project", "cloud-credentials"),
    ),
    Row({"sign-in": Told(403, "permission_error")}, ("provider-key-missing",)),
    Row(dict.fromkeys(("settings", "virtual key", "sign-in"), Told(402, "billing_error")), (), (402,)),
)
"""The first matching row counts."""
CODES_OF_SEVERAL_STATUSES = frozenset(
    code for row in ROWS for code in row.codes if len({told.status for told in row.told.values()}) > 1
)
"""Codes of errors that clients of a different kind get with different statuses."""


def find_told_error(error: ProxyError, client: Client) -> ProxyError:
    """Return the error as the client is told about it: the same one, if no row is about it."""
    told = _find_told(error, client)
    if told is None:
        return error
    message = error.message
    if told.end:
        message = f"{end_sentence(message)} {told.end}"
    return UpstreamError(
        message,
        code=error.code,
        status=told.status,
        kind=told.error_type,
        # Claude Code sends a request with checks of auto mode once more after a 403 without such a code
        details={"error_code": error.code.replace("-", "_")},
        should_retry=False,
    )


def _find_told(error: ProxyError, client: Client) -> Told | None:
    status = error.status if isinstance(error, UpstreamError) else 0
    for row in ROWS:
        if error.code in row.codes or status in row.statuses:
            return row.told.get(_find_key_owner(error, client))
    return None


def _find_key_owner(error: ProxyError, client: Client) -> KeyOwner:
    if isinstance(error, UpstreamError) and error.has_client_key:
        return "client"
    if client.sign_in:
        return "sign-in"
    return "settings" if client.administers else "virtual key"
