"""The error catalog docs/fix/errors.md: one section for each error class, with the entries of docs/fix/errors.toml and
the messages that the source code raises with the code of an entry."""

import inspect
import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.errors import InternalError, ProxyError
from tests.site.pages import DOCS
from tests.site.raised_errors import error_classes, raised_messages
from tests.support.paths import ROOT

PAGE = DOCS / "fix/errors.md"
DATA = ROOT / "anthropic_proxy/gateway/error_catalog.json"
SOURCE = DOCS / "fix/errors.toml"
_INTRODUCTION = """\
# Errors

<!-- Written by `python3 scripts/fix.py` from errors.toml and the errors of the source code: change those instead. -->

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


class _Texts(Struct, frozen=True, forbid_unknown_fields=True):
    cause: str
    remedy: str
    title: str = ""
    """Heading. "": the first sentence of the first message."""


def read_entries() -> dict[str, dict[str, _Texts]]:
    """Return class name → code → texts."""
    return msgspec.convert(tomllib.loads(SOURCE.read_text("utf-8")), dict[str, dict[str, _Texts]])


def written_page() -> str:
    lines = [_INTRODUCTION]
    for section in _sections():
        lines.append(f"## {section['title']}\n\n{section['meaning']} *{section['outcome']}*\n")
        for entry in section["entries"]:
            lines.append(f'<a id="{entry["slug"]}"></a>\n\n### `{entry["title"]}`\n')
            lines.append(f"**Cause.** {entry['cause']}\n\n**Remedy.** {entry['remedy']}\n")
            if texts := entry["texts"]:
                label = "Complete text" if len(texts) == 1 and texts[0].startswith(entry["title"]) else "Texts"
                lines.append("\n".join([f"{label}:\n", *(f"- `{text}`" for text in texts), ""]))
    return "\n".join(lines)


def written_catalog() -> str:
    """Return the file with the same sections and entries for the package, which serves them as a page."""
    sections = [
        {
            "slug": section["title"].lower().replace(" ", "-"),
            "title": section["title"],
            "meaning": f"{section['meaning']} {section['outcome']}",
            "entries": [
                {**entry, "cause": _plain(entry["cause"]), "remedy": _plain(entry["remedy"])}
                for entry in section["entries"]
            ],
        }
        for section in _sections()
    ]
    comment = "Written by `python3 scripts/fix.py` from docs/fix/errors.toml and the errors of the source code."
    return json.dumps({"comment": comment, "sections": sections}, ensure_ascii=False, indent=1) + "\n"


def _sections() -> Iterator[dict[str, Any]]:
    known = read_entries()
    for name, error_class in error_classes().items():
        entries = []
        for code, texts in known.get(name, {}).items():
            messages = [text for (_, used), found in raised_messages().items() if used == code for text in found]
            # the heading of an entry without a title is the first sentence of its first message
            title = texts.title or re.split(r"(?<=[.…])(?<!\w\.\w) (?=[A-Z])", messages[0])[0]
            # the texts of an internal error tell a user nothing: they are for the report of the bug
            others = [] if error_class is InternalError else [text for text in dict.fromkeys(messages) if text != title]
            title, *others = map(_without_ends, (title, *others))
            entries.append(
                {"slug": code, "title": title, "cause": texts.cause, "remedy": texts.remedy, "texts": others}
            )
        yield {
            "title": _title_of(name),
            "meaning": " ".join((inspect.getdoc(error_class) or "").partition("\n\n")[0].split()),
            "outcome": _outcome(error_class),
            "entries": entries,
        }


def _without_ends(text: str) -> str:
    """Return a message without the period after each `…`, which would look like four dots."""
    return re.sub(r"…(?:\.|\s?…)*(?=\s|$)", "…", text)


def _title_of(name: str) -> str:
    """Return the name of a class as a heading: `UriTooLong` → `URI too long`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize()
    return re.sub(r"\b(?:uri|http)\b", lambda word: word[0].upper(), words, flags=re.IGNORECASE)


def _plain(text: str) -> str:
    without = re.sub(r"; see \[[^]]+\]\([^)]*\)|\s*(?:See|see) \[[^]]+\]\([^)]*\)[.;]?", "", text)
    return re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", without)


def _outcome(error_class: type[ProxyError]) -> str:
    name = error_class.__name__
    if name in NO_STATUS:
        return "Never the status of a response."
    if name in _VARIABLE_STATUS:
        return "Status and type depend on the cause."
    closing = "; the connection is closed" if error_class.closes_connection else ""
    return f"Status {error_class.status}, type `{error_class.error_type}`{closing}."
