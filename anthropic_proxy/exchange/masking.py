"""The key that was just used, taken out of what a provider says: some repeat it, and errors are shown and logged.

Wires mask what looks like a key, without knowing any. Here the key is known, so its shape does not matter.
"""

import re
from urllib.parse import quote

import msgspec

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.wire.contract import Credential

_FRAGMENT = 12
"""Characters in a row that are as good as the key: texts are cut, and keys half masked, at any place."""
_SHORTEST = 4
_WORD = 8
"""A shorter key of letters alone is a word that stands where some key must, such as `ollama`: no secret."""
_LONG = 16
"""Of a key of this length the end is shown, so that its owner can tell which of several it was."""
_PLAIN = re.compile(r"[\w-]+")


def hide_key_in(error: UpstreamError, credential: Credential | None) -> None:
    """Take the key out of everything that is told or logged of an error."""
    if (secret := _secret_of(credential)) is None:
        return
    error.message = _hide(error.message, secret)
    error.args = (error.message,)
    if error.parameter is not None:
        error.parameter = _hide(error.parameter, secret)
    if error.body is not None:
        error.body = _hide_in_bytes(error.body, secret)
    if notes := getattr(error, "__notes__", None):
        notes[:] = [_hide(note, secret) for note in notes]


def hide_key(said: bytes, credential: Credential | None) -> bytes:
    """Return bytes that pass as they came, without the key."""
    secret = _secret_of(credential)
    return said if secret is None else _hide_in_bytes(said, secret)


def _secret_of(credential: Credential | None) -> str | None:
    if credential is None:
        return None
    value = credential.value
    if credential.header == "authorization":
        value = value.partition(" ")[2] or value
    return value if len(value) >= _WORD or (len(value) >= _SHORTEST and not value.isalpha()) else None


def _hide_in_bytes(said: bytes, secret: str) -> bytes:
    return _hide(said.decode(errors="surrogateescape"), secret).encode(errors="surrogateescape")


def _hide(text: str, secret: str) -> str:
    end = secret[-4:]
    mark = f"…{end}" if len(secret) >= _LONG and _PLAIN.fullmatch(end) else "…"
    in_json = msgspec.json.encode(secret).decode()[1:-1]
    spellings = dict.fromkeys((secret, in_json, in_json.replace("/", r"\/"), quote(secret, safe="")))
    for spelled in spellings:
        text = text.replace(spelled, mark)
    for spelled in spellings:
        text = _without_pieces(text, spelled, mark)
    return text


def _without_pieces(text: str, secret: str, mark: str) -> str:
    """Return the text with a mark where a part of the key stands."""
    size = min(len(secret), _FRAGMENT)
    pieces = dict.fromkeys(secret[at : at + size] for at in range(len(secret) - size + 1))
    there = [re.escape(piece) for piece in pieces if piece in text]
    if not there:
        return text
    return re.sub(rf"(?:(?={'|'.join(there)}).)+.{{{size - 1}}}", lambda _: mark, text, flags=re.DOTALL)
