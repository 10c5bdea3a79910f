"""Signatures of thinking blocks, which carry state of the provider.

Some providers need their own state of the reasoning back in the next request. The proxy stores no conversation, so the
client carries the state: it stores a thinking block with its signature and sends both back. A signature is
`px1.<tag>.<base64url of compact JSON, without padding>`. The tag identifies the provider that created the state,
because no other provider can read it.
"""

import functools
import hashlib
from typing import Literal

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.base64url import decode_base64url, encode_base64url

SIGNATURE_PREFIX = "px1."
"""Start of each signature that the proxy writes: format version 1."""
UNSIGNED_SIGNATURE = f"{SIGNATURE_PREFIX}un.e30"
"""Signature of thinking that a server with the Messages API has not signed. Servers that verify signatures do not get
such a block; the others get it back."""
MAX_SIGNATURE_BYTES = 64 * 1024
"""Maximum length of a signature in characters. From a longer one, the field `encrypted` is omitted, because the client
repeats the signature in all later requests."""
MAX_SEARCH_SIGNATURE_BYTES = 512 * 1024
"""As `MAX_SIGNATURE_BYTES`, for a search by Gemini: its results are only in the state, 40 to 114 kB of base64 each
(recorded by AnswerDotAI/lisette)."""


CALL_SIGNATURE_MISSING = r"missing a \W?thought_?signature"
"""Regular expression for errors about a tool call without a thought signature, which Gemini 3 and later require in each
step of the current turn. Vertex AI writes the name between backticks (2026-11)."""
SIGNATURE_PLACEHOLDERS = {
    "text": "skip_thought_signature_validator",
    "base64": "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I=",
}
"""Encoding of signatures (`text`, `base64`) → value for a tool call without signature, as Google documents ("Thought
signatures", section FAQ, 2026-11)."""


class ReasoningState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """State of the provider for one thinking block. Later requests send it back."""

    model: str | None = msgspec.field(default=None, name="m")
    """Provider's id of the model that produced the reasoning. None: not stored."""
    item_id: str | None = msgspec.field(default=None, name="i")
    """Id of the reasoning in the Responses API. None: another API, or no id."""
    encrypted: str | None = msgspec.field(default=None, name="e")
    """Opaque state of the provider, sent back unchanged: `encrypted_content` of Responses, or the part `toolCall` or
    `toolResponse` of Gemini as JSON. None: none, or too long."""
    call_signature: str | None = msgspec.field(default=None, name="s")
    """Gemini's `thoughtSignature` of a tool call after the thinking block. None: none."""
    server_digest: str | None = msgspec.field(default=None, name="a")
    """Hash of the base URL of the server that created `call_signature`. None: not stored, because the tag suffices."""
    call_index: int = msgspec.field(default=0, name="n")
    """Index, from 0, of the tool call in the reply that `call_signature` belongs to."""
    replay: Literal[0, 1] = msgspec.field(default=0, name="r")
    """1: later requests send the text of the thinking block to the provider. 0: they omit it."""


_decoder = msgspec.json.Decoder(ReasoningState)


def encode_signature(tag: str, state: ReasoningState, *, max_bytes: int = MAX_SIGNATURE_BYTES) -> str:
    signature = _encode(tag, state)
    if len(signature) > max_bytes:
        signature = _encode(tag, msgspec.structs.replace(state, encrypted=None))
    return signature


def _encode(tag: str, state: ReasoningState) -> str:
    return f"{SIGNATURE_PREFIX}{tag}.{encode_base64url(msgspec.json.encode(state))}"


@functools.lru_cache(maxsize=64)
def empty_signature(tag: str, *, replay: Literal[0, 1] = 0) -> str:
    return encode_signature(tag, ReasoningState(replay=replay))


def decode_signature(tag: str, signature: str) -> ReasoningState | None:
    """Return the state in a signature that the client sent back. Never raises. None: the signature is damaged, has
    another tag, or was not made by the proxy.
    """
    head = f"{SIGNATURE_PREFIX}{tag}."
    if not signature.startswith(head):
        return None
    try:
        return _decoder.decode(decode_base64url(signature[len(head) :]))
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors too
        return None


@functools.lru_cache(maxsize=64)
def digest_base_url(base_url: str) -> str | None:
    """Return a short hash of a server's base URL: 12 hex digits of its SHA-256. None: the URL is empty."""
    # Signatures contain this hash instead of the URL, because a host name may be private.
    return hashlib.sha256(base_url.encode()).hexdigest()[:12] if base_url else None
