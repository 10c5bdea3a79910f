"""The error catalog docs/fix/errors.md: one section for each error class, with the entries of docs/fix/errors.toml."""

import inspect
import json
import re
import tomllib
from collections.abc import Iterator
from itertools import groupby

import msgspec
from msgspec import Struct

from anthropic_proxy.errors import ProxyError
from tests.site.pages import DOCS
from tests.site.raised_errors import error_classes
from tests.support.paths import ROOT

PAGE = DOCS / "fix/errors.md"
DATA = ROOT / "anthropic_proxy/gateway/error_catalog.json"
SOURCE = DOCS / "fix/errors.toml"
_INTRODUCTION = """\
# Errors

<!-- Written by `python3 scripts/fix.py` from errors.toml and anthropic_proxy/errors.py: change those instead. -->

Every error of the proxy, with cause and remedy. Search this page for the first words of your message; `…` stands for
a name, a number or an address. Errors of Claude Code without a text of the proxy are in
[Troubleshooting](../guide/troubleshooting.md).

- An error response has the header `x-proxy-help`. Its value is the address of an entry of this page, which the proxy
  serves at `/help/errors`, for example `/help/errors#rate-limit`.
- Messages have the order cause, reason, remedy. Texts after the name of a provider (`groq: …`) are the provider's own.
- Clients retry 408, 409, 429 and 5xx, unless the response has `x-should-retry: false`.
"""
NO_STATUS = ("ConfigurationError", "ServerToolFailed", "WebFetchFailed", "WebSearchFailed")
_VARIABLE_STATUS = ("ProxyError", "ClientError", "UpstreamError", "UpstreamRefused", "CircuitOpen")


class Entry(Struct, frozen=True, forbid_unknown_fields=True, rename={"error_class": "class"}):
    """One message, or several with the same cause, of an error class."""

    error_class: str
    slug: str
    """Anchor of the entry."""
    cause: str
    remedy: str
    title: str = ""
    """Heading. "": the first sentence of the first message."""
    messages: tuple[str, ...] = ()
    """Texts of statements in the source code, with `…` for each variable piece."""

    @property
    def heading(self) -> str:
        """The text of the heading: the first sentence of the message."""
        return self.title or re.split(r"(?<=[.…])(?<!\w\.\w) (?=[A-Z])", self.messages[0])[0]


def entries() -> list[Entry]:
    """Return the entries of errors.toml, in their order."""
    return msgspec.convert(tomllib.loads(SOURCE.read_text("utf-8"))["error"], list[Entry])


def written_page() -> str:
    ordered = groupby(sorted(entries(), key=_order), lambda entry: entry.error_class)
    by_class = {name: list(found) for name, found in ordered}
    sections = (_section(error_class, by_class.get(name, [])) for name, error_class in error_classes().items())
    return "\n".join([_INTRODUCTION, *("\n".join(section) for section in sections)])


def written_catalog() -> str:
    """Return the file with the same sections and entries for the package, which serves them as a page."""
    ordered = groupby(sorted(entries(), key=_order), lambda entry: entry.error_class)
    by_class = {name: list(found) for name, found in ordered}
    sections = []
    for name, error_class in error_classes().items():
        title = _title(name)
        found = [
            {
                "slug": entry.slug,
                "title": entry.heading,
                "cause": _plain(entry.cause),
                "remedy": _plain(entry.remedy),
                "texts": [text for text in entry.messages if text != entry.heading],
            }
            for entry in by_class.get(name, [])
        ]
        meaning = f"{_meaning(error_class)} {_outcome(error_class).strip('*')}"
        slug = title.lower().replace(" ", "-")
        sections.append({"slug": slug, "title": title, "meaning": meaning, "entries": found})
    comment = "Written by `python3 scripts/fix.py` from docs/fix/errors.toml and anthropic_proxy/errors.py."
    return json.dumps({"comment": comment, "sections": sections}, ensure_ascii=False, indent=1) + "\n"


def _plain(text: str) -> str:
    without = re.sub(r"\s*(?:See|see) \[[^]]+\]\([^)]*\)[.;]?", "", text)
    return re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", without)


def _title(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize()


def _meaning(error_class: type[ProxyError]) -> str:
    return " ".join((inspect.getdoc(error_class) or "").partition("\n\n")[0].split())


def _order(entry: Entry) -> int:
    return list(error_classes()).index(entry.error_class)


def _section(error_class: type[ProxyError], found: list[Entry]) -> Iterator[str]:
    name = error_class.__name__
    yield f"## {_title(name)}\n"
    yield f"{_meaning(error_class)} {_outcome(error_class)}\n"
    for entry in found:
        yield f'<a id="{entry.slug}"></a>\n\n### `{entry.heading}`\n'
        yield f"**Cause.** {entry.cause}\n\n**Remedy.** {entry.remedy}\n"
        others = [text for text in entry.messages if text != entry.heading]
        if others:
            texts = "\n".join(f"- `{text}`" for text in others)
            yield f"{'Texts' if entry.title else 'Complete text' if len(others) == 1 else 'Texts'}:\n\n{texts}\n"


def _outcome(error_class: type[ProxyError]) -> str:
    name = error_class.__name__
    if name in NO_STATUS:
        return "*Never the status of a response.*"
    if name in _VARIABLE_STATUS:
        return "*Status and type depend on the cause.*"
    closing = "; the connection is closed" if error_class.closes_connection else ""
    return f"*Status {error_class.status}, type `{error_class.error_type}`{closing}.*"
