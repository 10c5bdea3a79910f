"""Error catalog: cause and remedy of each error, and the entry that belongs to an error response or a failed request.

The response header `x-proxy-help`, the dashboard and the page `/help/errors` use it. The texts come from
`docs/fix/errors.toml`.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.routing.choices import find_tier
from anthropic_proxy.errors import REMEDY_LEAD, ProxyError

PAGE = "/help/errors"
"""URL path at which the proxy serves the catalog."""


class CatalogEntry(Struct, frozen=True):
    """Cause and remedy of one error. Texts between backticks are code."""

    slug: str
    title: str
    cause: str
    remedy: str
    texts: Sequence[str] = ()
    """Further messages of the same error."""


class Section(Struct, frozen=True):
    """One class of errors with its entries."""

    slug: str
    title: str
    meaning: str
    entries: Sequence[CatalogEntry]


class _Catalog(Struct, frozen=True):
    sections: Sequence[Section]


@cache
def load_sections() -> Sequence[Section]:
    text = Path(__file__).with_name("error_catalog.json").read_bytes()
    return msgspec.json.decode(text, type=_Catalog).sections


@cache
def load_entries() -> Mapping[str, CatalogEntry]:
    """Slug → entry."""
    return {entry.slug: entry for section in load_sections() for entry in section.entries}


class ErrorRemedy(Struct, frozen=True):
    entry: str
    text: str

    @property
    def link(self) -> str:
        return f"{PAGE}#{self.entry}"


_ADD_KEYS = compile_later(r", or add keys \([^)]*\)")
_SET_FALLBACK = ", or set FALLBACK_<TIER>"


_VARIABLE = compile_anchored(r"[A-Z0-9_]+")


def find_remedy(
    code: str,
    key_setting: str | None = "",
    requested_model: str = "",
    prefix: str = "",
    own_remedy: str = "",
    *,
    fallbacks: Collection[str] = (),
) -> ErrorRemedy | None:
    """`key_setting`: setting with the keys of the provider, which replaces the example `OPENAI_API_KEY` in the text.
    None: the provider is called without a key. A `requested_model` with a Claude tier names the fallbacks to set,
    unless the tier is one of `fallbacks`, the tiers with configured fallbacks.
    `prefix`: that of the provider. `own_remedy`: that at the end of the message itself; "": it has none.
    """
    entry = load_entries().get(code)
    if entry is None:  # a code of a plugin
        return None
    text = entry.remedy.replace("`", "")
    tier = find_tier(requested_model)
    if tier in fallbacks:
        text = text.replace(_SET_FALLBACK, "")
    elif tier:
        text = text.replace("FALLBACK_<TIER>", f"FALLBACK_{tier.upper()}=PREFIX/MODEL")
    if key_setting is None:
        text = _ADD_KEYS.sub("", text)
    elif _VARIABLE.fullmatch(key_setting):
        text = text.replace("OPENAI_API_KEY", key_setting)
    elif key_setting:  # api_key of a table of anthropic-proxy.toml, which names a variable, a file or a command
        text = text.replace("OPENAI_API_KEY=key1,key2", f"key1,key2 in the place that {key_setting} names")
    if prefix:
        text = text.replace("models PROVIDER", f"models {prefix}")
    if own_remedy and code == "configured-model-not-found":
        list_command = f". Models of {prefix}:  anthropic-proxy models {prefix}" if prefix else ""
        text = f"{own_remedy[0].upper()}{own_remedy[1:]}{list_command}"
    return ErrorRemedy(code, text)


def find_cause(message: str, own_remedy: str) -> str:
    """Return an error message without the remedy of its own, which is shown beside it."""
    return message.removesuffix(f"{REMEDY_LEAD}{own_remedy}") if own_remedy else message


_WORD_BORDER = compile_later(r"(?<=[a-z])(?=[A-Z])")


def error_help_headers(error: ProxyError) -> dict[str, str]:
    """`x-proxy-help: /help/errors#rate-limit`"""
    if error.code:
        return {"x-proxy-help": f"{PAGE}#{error.code}"}
    # a class of a plugin has no section, but its base class has one
    known = next(base for base in type(error).__mro__ if base.__module__.startswith("anthropic_proxy."))
    section = _WORD_BORDER.sub("-", known.__name__).lower()
    return {"x-proxy-help": f"{PAGE}#{section}"}
