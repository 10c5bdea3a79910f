"""Encoding of provider state in the `signature` of a thinking block. Clients store the block and send it back.

`ReasoningState` is the state, `encode_signature` and `decode_signature` convert it. A signature is
`px1.<tag>.<base64url of compact JSON, without padding>`. The tag identifies the provider that created the state. Blocks
with the tag of another provider are not sent upstream, so a change of provider loses the reasoning but causes no error.
`empty_signature` is for a block without state. `replay`: later requests send the text of the block to the provider.
`digest_base_url` returns a hash of a server's URL, because the name of a server may be private. `call_signature` is
state of the tool call with the index `call_index`.
"""

import base64
import binascii
import functools
import hashlib
from typing import Literal

import msgspec
from msgspec import Struct

SIGNATURE_PREFIX = "px1."
"""Start of each signature that the proxy writes: format version 1."""
MAX_SIGNATURE_BYTES = 64 * 1024
"""Maximum length of a signature in characters (ASCII). A longer signature is written without `encrypted`.

The client repeats each signature in all later requests of the conversation.
"""


class ReasoningState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Provider state of one thinking block. The JSON keys in the signature are one letter long."""

    model: str | None = msgspec.field(default=None, name="m")
    """Provider's id of the model that produced the reasoning. None: not stored."""
    item_id: str | None = msgspec.field(default=None, name="i")
    """Id of the reasoning item in the Responses API. None: another wire, or no id."""
    encrypted: str | None = msgspec.field(default=None, name="e")
    """Opaque reasoning of the provider, sent back unchanged: `encrypted_content` of Responses, or JSON text of another
    wire. None: none, or omitted because of `MAX_SIGNATURE_BYTES`."""
    call_signature: str | None = msgspec.field(default=None, name="s")
    """Gemini's `thoughtSignature` of the function call after the thinking block. None: none."""
    server_digest: str | None = msgspec.field(default=None, name="a")
    """Digest of the base URL of the server that created `call_signature`. None: the tag identifies the server."""
    call_index: int = msgspec.field(default=0, name="n")
    """Zero-based index, among the tool calls of the reply, of the call that `call_signature` belongs to."""
    replay: Literal[0, 1] = msgspec.field(default=0, name="r")
    """1: later requests send the text of the thinking block to the provider as reasoning. 0: they omit the text."""


_decoder = msgspec.json.Decoder(ReasoningState)


@functools.lru_cache(maxsize=64)
def empty_signature(tag: str, *, replay: Literal[0, 1] = 0) -> str:
    """Return the signature of a thinking block for which the provider sent no state.

    It contains only `replay`. 1: later requests send the text of the block to the provider. 0: they omit the text.
    """
    return encode_signature(tag, ReasoningState(replay=replay))


@functools.lru_cache(maxsize=64)
def digest_base_url(base_url: str) -> str | None:
    """Return the first 12 hex digits of the SHA-256 of a base URL. None: the URL is empty.

    Signatures contain the digest because clients store signatures and a host name may be private.
    """
    return hashlib.sha256(base_url.encode()).hexdigest()[:12] if base_url else None


def encode_signature(tag: str, state: ReasoningState) -> str:
    """Return the signature of a thinking block that contains `state`.

    Above `MAX_SIGNATURE_BYTES` the field `encrypted` is omitted.
    """
    signature = _encode(tag, state)
    if len(signature) > MAX_SIGNATURE_BYTES:
        signature = _encode(tag, msgspec.structs.replace(state, encrypted=None))
    return signature


def decode_signature(tag: str, signature: str) -> ReasoningState | None:
    """Return the state in a signature that the client sent back. Never raises.

    None: the signature has another tag or is not of the proxy, or its content is damaged.
    """
    head = f"{SIGNATURE_PREFIX}{tag}."
    if not signature.startswith(head):
        return None
    text = signature[len(head) :]
    try:
        return _decoder.decode(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):  # ValueError: not ASCII; msgspec's errors are ValueErrors too
        return None


def _encode(tag: str, state: ReasoningState) -> str:
    text = base64.urlsafe_b64encode(msgspec.json.encode(state)).rstrip(b"=").decode()
    return f"{SIGNATURE_PREFIX}{tag}.{text}"
