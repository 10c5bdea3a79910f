"""Keys taken out of what is told and logged: known ones, however they are spelled, and what looks like one."""

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

import msgspec

_FRAGMENT = 12
"""Characters in a row that are as good as the key: texts are cut, and keys half masked, at any place."""
_SHORTEST = 4
_WORD = 8
"""A shorter key of letters alone is a word that stands where some key must, such as `ollama`: no secret."""
_LONG = 16
"""Of a key of this length the end is shown, so that its owner can tell which of several it was."""
_PLAIN = re.compile(r"[\w-]+")
_FOR_ADDRESSES = str.maketrans("+/", "-_")
_KEYS = re.compile(
    r"(?P<bearer>\bBearer\s+)[^\s\"',;]+"
    r"|(?P<prefix>\b(?:sk-|gsk_|xai-|AIza|ya29\.|eyJ))[A-Za-z0-9_.*-]{5,}[A-Za-z0-9_*]"
)


def mask_keys(text: str) -> str:
    """Return the text with everything that looks like a key shortened to its last four characters."""

    def shorten(match: re.Match[str]) -> str:
        kept = match["bearer"] or match["prefix"]
        secret = match[0][len(kept) :]
        return f"{kept}…{secret[-4:] if len(secret) >= 16 else ''}"

    return _KEYS.sub(shorten, text)


def is_secret(value: str) -> bool:
    """Whether a key is long enough to be looked for."""
    return len(value) >= _WORD or (len(value) >= _SHORTEST and not value.isalpha())


def hide_secrets(text: str, secrets: Iterable[str]) -> str:
    """Return the text without any of these, and without what looks like a key."""
    known = [(_spell(secret), _mark_of(secret)) for secret in secrets if is_secret(secret)]
    for spelled, mark in known:
        text = _without_whole(text, spelled, mark)
    text = mask_keys(text)  # before pieces: a stranger's key that shares one would no longer look like a key
    for spelled, mark in known:
        text = _without_pieces(text, spelled, mark)
    return text


def hide(text: str, secret: str) -> str:
    """Return the text without a key: plain, as JSON, as part of an address or in base64 has it, and in pieces."""
    spelled, mark = _spell(secret), _mark_of(secret)
    return _without_pieces(_without_whole(text, spelled, mark), spelled, mark)


def _mark_of(secret: str) -> str:
    end = secret[-4:]
    return f"…{end}" if len(secret) >= _LONG and _PLAIN.fullmatch(end) else "…"


def _spell(secret: str) -> Sequence[str]:
    """Return the key as texts spell it; the first is the key itself."""
    in_json = msgspec.json.encode(secret).decode()[1:-1]
    return tuple(dict.fromkeys((secret, in_json, in_json.replace("/", r"\/"), quote(secret, safe=""))))


def _without_whole(text: str, spellings: Sequence[str], mark: str) -> str:
    for spelled in (*spellings, *_encoded(spellings[0])):
        text = text.replace(spelled, mark)
    return text


def _encoded(secret: str) -> Iterator[str]:
    """Yield what of the secret stands in base64, wherever in the encoded text it begins: the ends are its neighbours'.

    Headers for Basic authentication hold it so. A short one would be looked for in four characters.
    """
    raw = secret.encode(errors="surrogatepass")
    for before in range(3) if len(raw) >= _FRAGMENT else ():
        whole = b64encode(b"\0" * before + raw).rstrip(b"=").decode()
        inner = whole[(before * 8 + 5) // 6 : len(whole) - ((before + len(raw)) % 3 > 0)]
        yield from {inner, inner.translate(_FOR_ADDRESSES)}


def _without_pieces(text: str, spellings: Sequence[str], mark: str) -> str:
    """Return the text with a mark where a part of the key stands."""
    for spelled in spellings:
        size = min(len(spelled), _FRAGMENT)
        pieces = dict.fromkeys(spelled[at : at + size] for at in range(len(spelled) - size + 1))
        if there := [re.escape(piece) for piece in pieces if piece in text]:
            found = rf"(?:(?={'|'.join(there)}).)+.{{{size - 1}}}"
            text = re.sub(found, lambda _: mark, text, flags=re.DOTALL)
    return text
