"""`allowed_domains` and `blocked_domains` of the API's web tools.

An entry is a domain without scheme, perhaps with a path, in which one `*` stands for anything. It means its subdomains
too, and everything below the path. Source: Anthropic's page on the web search tool, "Domain filtering", read 2026-11.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from posixpath import normpath
from urllib.parse import unquote, urlsplit

_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|[0-9a-f:.]*:[0-9a-f:.]*")
_ENTRY = re.compile(r"(?P<host>[^\s/*:?#@\\]+)(?P<path>/[^\s*?#]*(?:\*[^\s*?#]*)?)?")


def is_allowed(url: str, allowed: Sequence[str], blocked: Sequence[str]) -> bool:
    """Whether the domains let an address pass; without any, every address.

    Raises `ValueError`, which names the entry, where one is no domain.
    """
    lets_in = [_pattern(entry) for entry in allowed]
    keeps_out = [_pattern(entry) for entry in blocked]
    try:
        places = _places(url)
    except ValueError:
        return False
    if any(pattern.match(place) for pattern in keeps_out for place in places):
        return False
    return not allowed or all(any(pattern.match(place) for pattern in lets_in) for place in places)


def _places(url: str) -> tuple[str, str]:
    """Return host and path, the path as it is written and as it may be understood: `%62` is `b`, `x/..` is nothing."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("two readers may take two hosts out of it")
    host = ascii_host(parts.hostname or "")
    return host + _plain(parts.path), host + _plain(unquote(parts.path))


def _plain(path: str) -> str:
    return "/" + normpath("/" + path).lstrip("/")


def hosts_of(entries: Sequence[str]) -> list[str]:
    """Return the domains of entries without their paths, each once. Raises `ValueError` as `is_allowed` does."""
    for entry in entries:
        _pattern(entry)
    return list(dict.fromkeys(entry.partition("/")[0] for entry in entries))


def ascii_host(host: str) -> str:
    """Return a host's name as it is looked up: in lower case, foreign letters encoded. Raises `ValueError`."""
    host = host.rstrip(".").lower()
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    if not _HOST.fullmatch(host):
        raise ValueError(f"{host!r} is no host's name")
    return host


@lru_cache(maxsize=512)
def _pattern(entry: str) -> re.Pattern[str]:
    found = _ENTRY.fullmatch(entry)
    if found is None:
        raise ValueError(
            f"{entry!r} is no domain; it can be one such as example.com or example.com/blog, without https://, with at "
            "most one *, in its path"
        )
    before, star, after = (found["path"] or "").rstrip("/").partition("*")
    path = re.escape(before) + (".*" if star else "") + re.escape(after)
    end = "" if star and not after else "(?:/|$)"
    return re.compile(rf"(?:[^/]+\.)?{re.escape(ascii_host(found['host']))}{path}{end}")
