"""Domain filter of web search and web fetch, with the client's lists `allowed_domains` and `blocked_domains`.

An entry of a list is a domain without scheme, with an optional path: `example.com/docs`. It also applies to subdomains
and to longer paths. `is_url_allowed` checks a URL against both lists. `domain_names` returns the domains of a list, and
`ascii_host` a host name in IDNA encoding. Source: Anthropic's page on the web search tool, "Domain filtering", read
2026-11.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from posixpath import normpath
from urllib.parse import unquote, urlsplit

_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|[0-9a-f:.]*:[0-9a-f:.]*")
_ENTRY = re.compile(r"(?P<host>[^\s/*:?#@\\]+)(?P<path>/[^\s*?#]*(?:\*[^\s*?#]*)?)?")


def is_url_allowed(url: str, allowed: Sequence[str], blocked: Sequence[str]) -> bool:
    """Return True if the client's lists of allowed and blocked domains permit a URL.

    An empty list restricts nothing. Raises `ValueError` for an invalid entry.
    """
    allowing = [_pattern(entry) for entry in allowed]
    blocking = [_pattern(entry) for entry in blocked]
    try:
        places = _places(url)
    except ValueError:
        return False
    if any(pattern.match(place) for pattern in blocking for place in places):
        return False
    return not allowed or all(any(pattern.match(place) for pattern in allowing) for place in places)


def _places(url: str) -> tuple[str, str]:
    """Return two forms of a URL without its scheme (`host/path`): with normalized path, and with percent-decoded path.

    A blocked domain must match neither form, because a server may decode the path in either way.
    """
    split = urlsplit(url)
    if "@" in split.netloc:
        raise ValueError("it contains @, so the host is ambiguous")
    host = ascii_host(split.hostname or "")
    return host + _plain(split.path), host + _plain(unquote(split.path))


def _plain(path: str) -> str:
    return "/" + normpath("/" + path).lstrip("/")


def domain_names(entries: Sequence[str]) -> list[str]:
    """Return the distinct domains of the entries of a domain list, without their paths.

    Raises `ValueError` for an invalid entry.
    """
    for entry in entries:
        _pattern(entry)
    return list(dict.fromkeys(entry.partition("/")[0] for entry in entries))


def ascii_host(host: str) -> str:
    """Return a host name in lower case and IDNA encoding. Raises `ValueError` for an invalid name."""
    host = host.rstrip(".").lower()
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    if not _HOST.fullmatch(host):
        raise ValueError(f"{host!r} is not a host name")
    return host


@lru_cache(maxsize=512)
def _pattern(entry: str) -> re.Pattern[str]:
    found = _ENTRY.fullmatch(entry)
    if found is None:
        raise ValueError(
            f"{entry!r} is not a domain; use one such as example.com or example.com/blog, without https://, with at "
            "most one *, in its path"
        )
    before, star, after = (found["path"] or "").rstrip("/").partition("*")
    path = re.escape(before) + (".*" if star else "") + re.escape(after)
    end = "" if star and not after else "(?:/|$)"
    return re.compile(rf"(?:[^/]+\.)?{re.escape(ascii_host(found['host']))}{path}{end}")
