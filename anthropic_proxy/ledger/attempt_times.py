"""Times of the calls to providers of one request, as the column `attempt_times` of the table `requests` stores them.

An attempt is one call to a provider. A request has several after a failure or with server tools. The column contains a
JSON list of `AttemptTime` objects.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.ledger.units import to_microseconds
from anthropic_proxy.plugins import UpstreamAttempt

MAX_ATTEMPT_ERROR_CHARACTERS = 300
"""Maximum length of the error message of one attempt."""


class AttemptTime(Struct, frozen=True, array_like=True):
    """One call to a provider, with its times in microseconds."""

    offset: int
    """Time in microseconds from the start of the client request to the start of this attempt."""
    duration: int
    """Time in microseconds from the start of the attempt to its failure or to its last byte of the reply."""
    provider: str
    model: str
    status: int
    """HTTP status of the provider's response. 0: no response."""
    error_type: str
    """Type of the failure in Anthropic's format, such as `rate_limit_error`. "": the attempt did not fail."""
    error: str
    """Error message of the failure. "": the attempt did not fail."""
    context: int = 0
    """Number of input tokens of the attempt, cached ones included. 0: failed, or stored by an earlier version."""


_decode = msgspec.json.Decoder(list[AttemptTime]).decode


def build_attempt_times(attempts: Sequence[UpstreamAttempt]) -> list[AttemptTime]:
    """Return the times of `attempts`, the calls to providers of one finished request."""
    return [
        AttemptTime(
            to_microseconds(one.offset_seconds),
            to_microseconds(one.duration_seconds),
            one.provider,
            one.model,
            one.status,
            one.error_type,
            one.error,
            one.input_tokens + one.cache_read_tokens + one.cache_write_tokens,
        )
        for one in attempts
    ]


def shorten_attempt_errors(text: str) -> str:
    """Return `text`, a value of the column `attempt_times`, with shortened error messages.

    API keys in `text` must already be redacted, because the rest of a shortened key would not be recognized later.
    """
    if len(text) <= MAX_ATTEMPT_ERROR_CHARACTERS:
        return text
    cut = [structs.replace(one, error=one.error[:MAX_ATTEMPT_ERROR_CHARACTERS]) for one in _decode(text)]
    return msgspec.json.encode(cut).decode()


def decode_attempt_times(text: str) -> list[AttemptTime]:
    """Return the calls to providers in `text`, a value of the column `attempt_times`.

    An empty `text` returns an empty list.
    """
    return _decode(text) if text else []
