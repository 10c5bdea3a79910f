"""Redaction of keys in messages and logs: known keys in all encodings, and texts with the form of a key."""

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

import msgspec

from anthropic_proxy.errors import ProxyError, UpstreamError

_FRAGMENT_CHARACTERS = 12
"""Length of a fragment of a key that is redacted. Texts are truncated, and keys partly masked, at any place."""
_MIN_CHARACTERS = 4
_MIN_LETTERS = 8
"""Length from which a key of letters alone is a secret. Shorter ones are placeholders such as `ollama`."""
_MIN_CHARACTERS_WITH_END = 16
"""Length from which the last four characters of a key are shown, to identify it among several."""
_PLAIN = re.compile(r"[\w-]+")
_FOR_ADDRESSES = str.maketrans("+/", "-_")
_KEYS = re.compile(
    r"(?P<bearer>\bBearer\s+)[^\s\"',;]+"
    r"|(?P<prefix>\b(?:sk-|gsk_|xai-|AIza|ya29\.|eyJ))[A-Za-z0-9_.*-]{5,}[A-Za-z0-9_*]"
)


def redact_key_patterns(text: str) -> str:
    """Return a text in which everything that looks like an API key is shortened to its last four characters."""

    def shorten(match: re.Match[str]) -> str:
        kept = match["bearer"] or match["prefix"]
        secret = match[0][len(kept) :]
        return f"{kept}…{secret[-4:] if len(secret) >= 16 else ''}"

    return _KEYS.sub(shorten, text)


def is_redactable(value: str) -> bool:
    """Return True if a secret is long enough to be searched in texts. Shorter ones would match ordinary words."""
    return len(value) >= _MIN_LETTERS or (len(value) >= _MIN_CHARACTERS and not value.isalpha())


def redact_secrets(text: str, secrets: Iterable[str]) -> str:
    """Return a text without these secrets and without everything that looks like an API key."""
    known = [(_spell(secret), _mark_of(secret)) for secret in secrets if is_redactable(secret)]
    for spelled, mark in known:
        text = _without_complete(text, spelled, mark)
    # before fragments: another key with a shared fragment would lose the form of a key
    text = redact_key_patterns(text)
    for spelled, mark in known:
        text = _without_pieces(text, spelled, mark)
    return text


def list_spellings(secrets: Iterable[str]) -> Sequence[str]:
    """Return all encodings in which the secrets may occur in a text.

    A text without any of them needs no `redact_secrets`.
    """
    return [spelled for secret in secrets if is_redactable(secret) for spelled in _spell(secret)]


def redact_secret(text: str, secret: str) -> str:
    """Return a text without a secret, in plain form, inside JSON, in a URL, in base64, and split by escapes."""
    spelled, mark = _spell(secret), _mark_of(secret)
    return _without_pieces(_without_complete(text, spelled, mark), spelled, mark)


def redact_bytes(data: bytes, secret: str) -> bytes:
    """Return bytes without a secret, as `redact_secret` does for text. A secret that is too short stays."""
    if not is_redactable(secret):
        return data
    return redact_secret(data.decode(errors="surrogateescape"), secret).encode(errors="surrogateescape")


def redact_error(error: ProxyError, secrets: Iterable[str]) -> None:
    """Remove these secrets from all texts of an error that are sent to the client or logged.

    Some providers quote the key in an error. Secrets that are too short stay.
    """
    for secret in filter(is_redactable, secrets):
        error.message = redact_secret(error.message, secret)
        error.args = (error.message,)
        if not isinstance(error, UpstreamError):
            continue
        if error.parameter is not None:
            error.parameter = redact_secret(error.parameter, secret)
        if error.body is not None:
            error.body = redact_bytes(error.body, secret)
        if notes := getattr(error, "__notes__", None):
            notes[:] = [redact_secret(note, secret) for note in notes]


def _mark_of(secret: str) -> str:
    end = secret[-4:]
    return f"…{end}" if len(secret) >= _MIN_CHARACTERS_WITH_END and _PLAIN.fullmatch(end) else "…"


def _spell(secret: str) -> Sequence[str]:
    """Return the key in all plain encodings, itself first."""
    in_json = msgspec.json.encode(secret).decode()[1:-1]
    return tuple(dict.fromkeys((secret, in_json, in_json.replace("/", r"\/"), quote(secret, safe=""))))


def _without_complete(text: str, spellings: Sequence[str], mark: str) -> str:
    for spelled in (*spellings, *_encoded(spellings[0])):
        text = text.replace(spelled, mark)
    return text


def _encoded(secret: str) -> Iterator[str]:
    """Yield the base64 encodings of the secret, one for each of three offsets, without characters of adjacent text.

    Headers for Basic authentication contain them. The encoding of a short secret would match other text.
    """
    encoded = secret.encode(errors="surrogatepass")
    for before in range(3) if len(encoded) >= _FRAGMENT_CHARACTERS else ():
        whole = b64encode(b"\0" * before + encoded).rstrip(b"=").decode()
        inner = whole[(before * 8 + 5) // 6 : len(whole) - ((before + len(encoded)) % 3 > 0)]
        yield from {inner, inner.translate(_FOR_ADDRESSES)}


def _without_pieces(text: str, spellings: Sequence[str], mark: str) -> str:
    """Return the text with each fragment of the key replaced by a mark."""
    for spelled in spellings:
        size = min(len(spelled), _FRAGMENT_CHARACTERS)
        pieces = dict.fromkeys(spelled[at : at + size] for at in range(len(spelled) - size + 1))
        if present := [re.escape(piece) for piece in pieces if piece in text]:
            found = rf"(?:(?={'|'.join(present)}).)+.{{{size - 1}}}"
            text = re.sub(found, lambda _: mark, text, flags=re.DOTALL)
    return text
