"""The reasoning carry: provider state that travels through the client inside a thinking block's signature.

A signature of ours is `px1.<tag>.<base64url of compact JSON, without padding>`. The tag names the backend; a block is
read back only for the backend that wrote it, so a conversation that changes its backend loses reasoning, never fails.
"""

import base64
import binascii
import functools
from typing import Literal

import msgspec
from msgspec import Struct

PREFIX = "px1."
MAX_CARRY_BYTES = 64 * 1024
"""A signature beyond this would weigh on every later request: its largest part, `encrypted`, is left out."""


class Carry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one thinking block carries; the keys on the wire are one letter long."""

    model: str | None = msgspec.field(default=None, name="m")
    """The upstream's id of the model that thought."""
    item: str | None = msgspec.field(default=None, name="i")
    """Id of a Responses reasoning item."""
    encrypted: str | None = msgspec.field(default=None, name="e")
    """Its encrypted content, or another wire's reasoning as opaque text."""
    call_signature: str | None = msgspec.field(default=None, name="s")
    """Gemini's signature of the next function call."""
    position: int = msgspec.field(default=0, name="n")
    """Which call of the reply that is, when it is not the first."""
    replay: Literal[0, 1] = msgspec.field(default=0, name="r")
    """1: say the thinking text again as reasoning."""


_decoder = msgspec.json.Decoder(Carry)


@functools.lru_cache(maxsize=64)
def bare_signature(tag: str, *, replay: Literal[0, 1] = 0) -> str:
    """Return the signature of thinking that came without anything to carry."""
    return encode_carry(tag, Carry(replay=replay))


def encode_carry(tag: str, carry: Carry) -> str:
    """Return the signature that carries this; beyond 64 KiB without `encrypted`."""
    signature = _encode(tag, carry)
    if len(signature) > MAX_CARRY_BYTES:
        signature = _encode(tag, msgspec.structs.replace(carry, encrypted=None))
    return signature


def decode_carry(tag: str, signature: str) -> Carry | None:
    """Return what a signature of this very tag carries; None where it is another's, or damaged."""
    head = f"{PREFIX}{tag}."
    if not signature.startswith(head):
        return None
    text = signature[len(head) :]
    try:
        return _decoder.decode(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):  # ValueError: not ASCII; msgspec's errors are ValueErrors too
        return None


def _encode(tag: str, carry: Carry) -> str:
    text = base64.urlsafe_b64encode(msgspec.json.encode(carry)).rstrip(b"=").decode()
    return f"{PREFIX}{tag}.{text}"
