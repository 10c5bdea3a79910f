"""Redaction of API keys in messages and logs.

Theory of operation. Two kinds of keys are masked. Keys that the proxy knows (secrets) are searched in every form that a
text may contain: plain, escaped in JSON or a URL, in base64, and in fragments, because texts are cut at any place.
Unknown keys are recognized by their beginning, such as `sk-`. The last four characters of a long key remain, to
identify it. Very short secrets are not masked, because they would match ordinary words.
"""

import heapq
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NoReturn
from urllib.parse import quote

import msgspec

from anthropic_proxy.errors import ConfigurationError, ProxyError, UpstreamError

_FRAGMENT_CHARACTERS = 12
"""Length of a fragment of a key that is redacted. Texts are truncated, and keys partly masked, at any place."""
_MIN_CHARACTERS = 4
_MIN_LETTERS = 8
"""Minimum length of a secret that consists of letters only. Shorter texts are placeholders such as `ollama`."""
_MIN_CHARACTERS_WITH_END = 16
"""Minimum length of a key of which the last four characters are shown, to identify the key among several."""
_FOR_ADDRESSES = str.maketrans("+/", "-_")
_USUAL = r"[A-Za-z0-9_.*-]{5,}[A-Za-z0-9_*]"
_KEY_FORMS = {
    **dict.fromkeys(("sk-", "gsk_", "xai-", "AIza", "ya29.", "eyJ"), _USUAL),
    # these also begin ordinary names, such as `hf_transfer`: only the length and the characters of a complete key match
    "hf_": r"[A-Za-z0-9]{30,}",
    "AKIA": r"[A-Z0-9]{16}(?![A-Za-z0-9])",
    "csk-": r"[a-z0-9]{40,}",
    "nvapi-": r"[A-Za-z0-9_-]{40,}",
    "ghp_": r"[A-Za-z0-9]{36}",
}
"""The beginnings of API keys, and the pattern of what follows each."""
KEY_BEGINNINGS = (*_KEY_FORMS, "sk_", "rk_", "rk-", "pk_", "pk-")
"""Beginnings of a setting or field by which its whole value is taken for a key. Within a text, the last five are also
the beginnings of ordinary names."""
_KEYS = "|".join(
    (r"(\bBearer\s+)[^\s\"',;]+", *(rf"(\b{re.escape(beginning)}){rest}" for beginning, rest in _KEY_FORMS.items()))
)
_BEGINNINGS = ("Bearer", *_KEY_FORMS)
"""Beginnings of all texts that the pattern `_KEYS` of API keys matches."""


def redact_key_patterns(text: str) -> str:
    """Return a text in which everything that looks like an API key is shortened to its last four characters."""
    texts: list[str] = []
    at = 0
    for start, secret_start, end in find_key_patterns(text):
        secret = text[secret_start:end]
        texts += [text[at:start], f"{text[start:secret_start]}…{secret[-4:] if len(secret) >= 16 else ''}"]
        at = end
    return "".join((*texts, text[at:])) if texts else text


def find_key_patterns(text: str) -> Iterator[tuple[int, int, int]]:
    """Yield the places of all that looks like an API key: its known beginning, what follows it, and its end.

    The beginning of the key in a header is `Bearer ` and no part of it.
    """
    # each beginning is searched separately, because one pattern would block other threads during a whole long text
    beginnings = [beginning for beginning in _BEGINNINGS if beginning in text]
    if not beginnings:
        return
    keys = re.compile(_KEYS)  # not at import: most processes never need it, and `re` keeps it
    end = 0
    for start in heapq.merge(*(_find_all(text, beginning) for beginning in beginnings)):
        if start >= end and (match := keys.match(text, start)):
            end = match.end()
            yield start, start + len(next(filter(None, match.groups()))), end


def _find_all(text: str, piece: str) -> Iterator[int]:
    """Yield each position of `piece`; occurrences may overlap."""
    at = text.find(piece)
    while at >= 0:
        yield at
        at = text.find(piece, at + 1)


def _is_redactable(value: str) -> bool:
    return len(value) >= _MIN_LETTERS or (len(value) >= _MIN_CHARACTERS and not value.isalpha())


def redact_secrets(text: str, secrets: Iterable[str]) -> str:
    """Mask the secrets in a text, and everything that looks like an API key."""
    known = [(_spell(secret), _mark_of(secret)) for secret in secrets if _is_redactable(secret)]
    for spelled, mark in known:
        text = _without_complete(text, spelled, mark)
    # before fragments: another key with a shared fragment would lose the form of a key
    text = redact_key_patterns(text)
    for spelled, mark in known:
        text = _without_pieces(text, spelled, mark)
    return text


def new_redactor(secrets: Sequence[str]) -> Callable[[str], str]:
    """Return `redact_secrets` for the same secrets. It remembers its results: tables repeat many texts."""
    return cache(lambda text: redact_secrets(text, secrets))


def redact_json_value(value: Any, redact: Callable[[str], str]) -> Any:
    """`redact`: from `new_redactor`. Numbers and field names are unchanged."""

    def walk(inner: Any) -> Any:
        if isinstance(inner, str):
            return redact(inner)
        if isinstance(inner, list | tuple):
            return [walk(item) for item in inner]
        if isinstance(inner, dict):
            return {name: walk(item) for name, item in inner.items()}
        return inner

    return walk(value)


def list_secret_encodings(secrets: Iterable[str]) -> Sequence[str]:
    """Callers search a text for these forms first, because `redact_secrets` is slower."""
    return [spelled for secret in secrets if _is_redactable(secret) for spelled in _spell(secret)]


def _redact_secret(text: str, secret: str) -> str:
    spelled, mark = _spell(secret), _mark_of(secret)
    return _without_pieces(_without_complete(text, spelled, mark), spelled, mark)


def redact_secret_bytes(data: bytes, secret: str) -> bytes:
    """A secret that is too short is not searched."""
    if not _is_redactable(secret):
        return data
    return _redact_secret(data.decode(errors="surrogateescape"), secret).encode(errors="surrogateescape")


def redact_error(error: ProxyError, secrets: Iterable[str]) -> None:
    """Some providers quote the API key in their errors."""
    for secret in filter(_is_redactable, secrets):
        error.message = _redact_secret(error.message, secret)
        error.quotes = {_redact_secret(quote, secret): stored for quote, stored in error.quotes.items()}
        if error.remedy:
            error.remedy = _redact_secret(error.remedy, secret)
        error.args = (error.message,)
        if not isinstance(error, UpstreamError):
            continue
        error.provider_text = _redact_secret(error.provider_text, secret)
        error.advice = _redact_secret(error.advice, secret)
        if error.parameter is not None:
            error.parameter = _redact_secret(error.parameter, secret)
        if error.body is not None:
            error.body = redact_secret_bytes(error.body, secret)
        if notes := getattr(error, "__notes__", None):
            notes[:] = [_redact_secret(note, secret) for note in notes]


def _mark_of(secret: str) -> str:
    end = secret[-4:]
    return f"…{end}" if len(secret) >= _MIN_CHARACTERS_WITH_END and re.fullmatch(r"[\w-]+", end) else "…"


def _spell(secret: str) -> Sequence[str]:
    """The forms that contain the key as text, the key itself first."""
    in_json = msgspec.json.encode(secret).decode()[1:-1]
    forms = [in_json] if in_json.isascii() else [in_json, *(_escape_letters(in_json, change) for change in _CASES)]
    forms += [form.replace("/", r"\/") for form in forms]
    return tuple(dict.fromkeys((secret, *forms, quote(secret, safe=""))))


_CASES = (str.lower, str.upper)


def _escape_letters(text: str, change: Callable[[str], str]) -> str:
    """Return `text` as JSON encoders write it that send ASCII only. `change`: case of the hexadecimal digits."""

    def escape(letter: re.Match[str]) -> str:
        units = letter[0].encode("utf-16-be", "surrogatepass").hex(" ", 2).split()
        return "".join(rf"\u{change(unit)}" for unit in units)

    return re.sub(r"[^\x00-\x7f]", escape, text)


def _without_complete(text: str, spellings: Sequence[str], mark: str) -> str:
    """Spellings, and the base64 encodings of the secret at each of the three positions that it can have in a text, such
    as a header for Basic authentication. Only characters that do not depend on adjacent text are included. A short
    secret is skipped, because its encoding would match other text.
    """
    forms, encoded = [*spellings], spellings[0].encode(errors="surrogatepass")
    for before in range(3) if len(encoded) >= _FRAGMENT_CHARACTERS else ():
        whole = b64encode(b"\0" * before + encoded).rstrip(b"=").decode()
        inner = whole[(before * 8 + 5) // 6 : len(whole) - ((before + len(encoded)) % 3 > 0)]
        forms += {inner, inner.translate(_FOR_ADDRESSES)}
    for spelled in forms:
        text = text.replace(spelled, mark)
    return text


def _without_pieces(text: str, spellings: Sequence[str], mark: str) -> str:
    for spelled in spellings:
        size = min(len(spelled), _FRAGMENT_CHARACTERS)
        texts: list[str] = []
        end = last = 0
        for start in _find_pieces(text, spelled, size):
            if texts and start == last + 1:
                last, end = start, start + size
            elif start >= end:
                texts += [text[end:start], mark]
                last, end = start, start + size
        text = "".join((*texts, text[end:])) if texts else text
    return text


def _find_pieces(text: str, spelled: str, size: int) -> Iterator[int]:
    """Yield each position in `text` of a part of `spelled` with `size` characters.

    Each part contains a half of its size at a multiple of this half. So only these places are looked at first, which
    takes a time in proportion to both lengths.
    """
    half = size // 2
    if size == len(spelled):
        yield from _find_all(text, spelled)
        return
    if len(text) < size:
        return
    halves = {spelled[at : at + half] for at in range(len(spelled) - half + 1)}
    pieces = {spelled[at : at + size] for at in range(len(spelled) - size + 1)}
    for place in range(0, len(text) - half + 1, half):
        if text[place : place + half] in halves:
            for start in range(max(place - half + 1, 0), place + 1):
                if text[start : start + size] in pieces:
                    yield start


_MIN_LENGTH_SHOWN = 16
"""Minimum number of characters of a secret of which the last four are shown. A shorter secret is shown as `…`."""


class Secret:
    """A key or other text kept out of logs. `str`, `repr` and formatting show at most its last four characters."""

    __slots__ = ("_value", "origin")

    def __init__(self, value: str, origin: str = "") -> None:
        self._value = value
        self.origin = origin
        """Source of the secret, for messages: `OPENAI_API_KEY in .env, line 1`."""

    def reveal(self) -> str:
        """Log only the `Secret` object."""
        return self._value

    def __repr__(self) -> str:
        return f"…{self._value[-4:]}" if len(self._value) >= _MIN_LENGTH_SHOWN else "…"

    def __str__(self) -> str:
        return repr(self)

    def __format__(self, specification: str) -> str:
        return format(repr(self), specification)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a secret is not written anywhere")


class UnknownSecret(Secret):
    """A secret that only the proxy on `port` knows. `reveal` raises `ConfigurationError`."""

    __slots__ = ("_name", "_port")

    def __init__(self, name: str, port: int) -> None:
        super().__init__("")
        self._name, self._port = name, port

    def reveal(self) -> NoReturn:
        raise ConfigurationError(
            f"{self._name} is set in the environment of the running proxy (port {self._port}) only. Commands do not "
            "know its value, because it contains a credential. Set it in the environment of this command too.",
            code="only-in-the-server",
        )
