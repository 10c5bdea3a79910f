"""What a value may be: each function reads one kind, or raises `ConfigurationError` with what is allowed."""

import math
import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.settings.fields import Secret
from anthropic_proxy.settings.sources import Found

_BOOLEANS = {
    **dict.fromkeys(("true", "1", "yes", "on", "y", "t"), True),
    **dict.fromkeys(("false", "0", "no", "off", "n", "f"), False),
}
_LOOKS_SECRET = re.compile(
    r"^(?:sk|gsk|xai|rk|pk|ghp|hf)[-_]|^AIza|^AKIA|^ey[JI]|//[^/]*@|[?&]\w*(?:key|token|secret)=|"
    r"^(?=.*[a-zA-Z])(?=.*\d)[\w-]{32,}$"
)
_HEADER_TEXT = re.compile(r"[\x21-\x7e]+")
_QUERY = re.compile(r"(?:api-version=[\w.-]+)?")
_DURATION = re.compile(r"-?(?:\d{1,9}|(?:\d{1,9}(?:\.\d{1,9})?(?:ns|us|ms|h|m|s)){1,6})")
_MODEL_NAME = re.compile(r"[^\s\x00-\x1f,\ud800-\udfff]+")
"""Without what the system makes of bytes that are no text: they could not be sent."""
_HOST_NAME = re.compile(r"(?:(?P<name>[\w.-]+)|\[(?P<address>[0-9a-fA-F:.]+)\])(?::\d+)?")
_SHOWN_CHARACTERS = 60


def refuse(found: Found, allowed: str, suggestion: str = "") -> ConfigurationError:
    """Return the error for a wrong value: what it is, what is allowed, where it was set, and what was perhaps meant."""
    sentences = [f'{found.variable} is "{_shown(found.text)}".', allowed, f"Set {found.where}."]
    if suggestion and not _LOOKS_SECRET.search(found.text):
        sentences.append(f"Did you mean {found.variable}={suggestion}")
    return ConfigurationError(" ".join(sentences))


def decode_choice(found: Found, choices: Mapping[str, str], listed: Sequence[str]) -> str:
    """Return what the value stands for; any case. `choices` has every accepted word, `listed` those to advertise."""
    chosen = choices.get(found.text.lower())
    if chosen is None:
        raise refuse(found, f"It can be {enumerate_words(listed)}.", find_nearest(found.text.lower(), choices))
    return chosen


def decode_boolean(found: Found) -> bool:
    """Return a truth; any case of true, 1, yes, on and their opposites."""
    value = _BOOLEANS.get(found.text.lower())
    if value is None:
        raise refuse(found, "It can be true or false.", find_nearest(found.text.lower(), ("true", "false")))
    return value


def decode_seconds(found: Found) -> float:
    """Return a time in seconds, above 0."""
    try:
        seconds = float(found.text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise refuse(found, "It can be a number of seconds above 0, such as 300.")
    return seconds


def decode_duration(found: Found) -> str:
    """Return a time as Go writes it (`10m`, `1h30m`), or whole seconds; below 0 means for ever."""
    if not _DURATION.fullmatch(found.text):
        raise refuse(found, "It can be seconds, or a time such as 30s, 10m or 24h; -1 means for ever.")
    return found.text


def decode_integer(found: Found, least: int, most: int, unit: str) -> int:
    """Return a whole number between two limits, both included."""
    text = found.text.replace("_", "")
    if not (text.isascii() and text.isdigit() and least <= int(text[:20]) <= most):
        raise refuse(found, f"It can be a whole number{unit and ' of ' + unit} from {least} to {most}.")
    return int(text)


def decode_url(found: Found) -> str:
    """Return an http or https address without a trailing slash. Of queries it may have Azure's `api-version` alone."""
    allowed = "It can be an address that begins with http:// or https://, without password and query."
    try:
        parts = urlsplit(found.text)
        port = parts.port
    except ValueError:
        raise refuse(found, allowed) from None
    if parts.scheme.lower() not in {"http", "https"} or not parts.hostname or port == 0:
        guess = f"http://{found.text}" if re.fullmatch(r"[\w.-]+(:\d+)?(/\S*)?", found.text) else ""
        raise refuse(found, allowed, guess)
    is_plain = _QUERY.fullmatch(parts.query) and _HEADER_TEXT.fullmatch(found.text)
    if not is_plain or parts.fragment or "@" in parts.netloc:
        raise refuse(found, allowed)
    return f"{found.text.partition('?')[0].rstrip('/')}{parts.query and '?' + parts.query}"


def decode_keys(found: Found) -> tuple[Secret, ...]:
    """Return the keys, in order, each once."""
    for part in found.parts:
        if not _HEADER_TEXT.fullmatch(part):
            raise ConfigurationError(
                f"{found.variable} holds a character that no key has: a space, a line break or a letter outside ASCII. "
                f"It can be one key, or several by comma. Set {found.where}."
            )
    origin = f"{found.variable} {found.where}"
    return tuple(Secret(part, origin) for part in dict.fromkeys(found.parts))


def decode_model(found: Found) -> str:
    """Return the name of one model, with or without a prefix."""
    return _model(found, found.text)


def decode_models(found: Found) -> tuple[str, ...]:
    """Return names of models, in order, each once."""
    return tuple(_model(found, part) for part in dict.fromkeys(found.parts))


def decode_hosts(found: Found) -> tuple[str, ...]:
    """Return host names in lower case, without the ports and brackets that they may have been written with."""
    names = [_HOST_NAME.fullmatch(part) for part in found.parts]
    if not all(names):
        raise refuse(found, "It can be host names by comma, such as proxy.example.org, without http:// and path.")
    return tuple(dict.fromkeys((name["name"] or name["address"]).lower() for name in names if name))


def enumerate_words(words: Sequence[str]) -> str:
    """Return words as a sentence has them: `a, b or c`."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def find_nearest(text: str, choices: Mapping[str, object] | Sequence[str], likeness: float = 0.6) -> str:
    """Return the choice that was probably meant, or the empty string; `likeness` is the least, of 1."""
    from difflib import get_close_matches  # noqa: PLC0415  # only a mistake needs it

    return next(iter(get_close_matches(text, list(choices), n=1, cutoff=likeness)), "")


def _model(found: Found, name: str) -> str:
    if not _MODEL_NAME.fullmatch(name) or name.startswith("/") or name.endswith("/"):
        raise refuse(
            found, "It can be the name of a model, with or without its provider in front, such as openai/gpt-4.1."
        )
    return name


def _shown(text: str) -> str:
    if "://" in text and (query := re.search(r"[?#].", text)):  # a query may hold a key under any name
        text = f"{text[: query.start() + 1]}…"
    if _LOOKS_SECRET.search(text):
        return repr(Secret(text.rpartition("@")[2] if "@" in text else text))
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
