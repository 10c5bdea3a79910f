"""Provider state in the signatures of thinking blocks, which clients store and send back.

A signature is `px1.<tag>.<base64url of compact JSON, without padding>`. The tag names the backend. Only the backend
that wrote a block gets it back, so a change of backend loses reasoning but causes no error.
"""

import base64
import binascii
import functools
import hashlib
from typing import Literal

import msgspec
from msgspec import Struct

PREFIX = "px1."
MAX_STATE_BYTES = 64 * 1024
"""Maximum size of a signature, which every later request repeats. Above it `encrypted` is omitted."""


class ReasoningState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """State of one thinking block. Its JSON keys are one letter long."""

    model: str | None = msgspec.field(default=None, name="m")
    """Upstream id of the model that produced the reasoning."""
    item: str | None = msgspec.field(default=None, name="i")
    """Id of a Responses reasoning item."""
    encrypted: str | None = msgspec.field(default=None, name="e")
    """Encrypted reasoning, or reasoning of another wire as opaque text."""
    call_signature: str | None = msgspec.field(default=None, name="s")
    """Gemini's signature of the next function call."""
    address: str | None = msgspec.field(default=None, name="a")
    """Digest of the base URL of the call signature, if several servers share the tag."""
    position: int = msgspec.field(default=0, name="n")
    """Index of the call in the reply."""
    replay: Literal[0, 1] = msgspec.field(default=0, name="r")
    """1: send the thinking text back as reasoning."""


_decoder = msgspec.json.Decoder(ReasoningState)


@functools.lru_cache(maxsize=64)
def empty_signature(tag: str, *, replay: Literal[0, 1] = 0) -> str:
    """Return the signature of thinking without provider state."""
    return encode_signature(tag, ReasoningState(replay=replay))


@functools.lru_cache(maxsize=64)
def digest_address(address: str) -> str | None:
    """Return a digest of an address. Clients store signatures, and a host name may be private."""
    return hashlib.sha256(address.encode()).hexdigest()[:12] if address else None


def encode_signature(tag: str, carry: ReasoningState) -> str:
    """Return the signature of a state; above 64 KiB without `encrypted`."""
    signature = _encode(tag, carry)
    if len(signature) > MAX_STATE_BYTES:
        signature = _encode(tag, msgspec.structs.replace(carry, encrypted=None))
    return signature


def decode_signature(tag: str, signature: str) -> ReasoningState | None:
    """Return the state in a signature. None: another tag, or damaged."""
    head = f"{PREFIX}{tag}."
    if not signature.startswith(head):
        return None
    text = signature[len(head) :]
    try:
        return _decoder.decode(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):  # ValueError: not ASCII; msgspec's errors are ValueErrors too
        return None


def _encode(tag: str, carry: ReasoningState) -> str:
    text = base64.urlsafe_b64encode(msgspec.json.encode(carry)).rstrip(b"=").decode()
    return f"{PREFIX}{tag}.{text}"
