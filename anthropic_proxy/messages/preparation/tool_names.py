"""Aliases of tool names that a wire does not allow."""

import functools
import hashlib
import re

_MAX_KEPT_CHARACTERS = 50
"""Maximum characters of a tool name that its alias begins with."""
_INVALID_CHARACTER = re.compile(r"[^a-zA-Z0-9_]")


class ToolNames:
    """Tool names of one client request with their upstream names: aliases where a wire does not allow the name."""

    def __init__(self, pattern: str, length: int) -> None:
        self._pattern = pattern
        self._length = length
        self._upstream_names: dict[str, str] = {}
        self.aliases: dict[str, str] = {}
        """Upstream name → name of the client, if they differ."""

    def upstream_name(self, name: str) -> str:
        """Return the name itself if the wire allows it, else its alias."""
        upstream = self._upstream_names.get(name)
        if upstream is None:
            upstream = self._upstream_names[name] = name_or_alias(name, self._pattern, self._length)
            if upstream != name:
                self.aliases[upstream] = name
        return upstream


@functools.lru_cache(maxsize=4096)
def name_or_alias(name: str, pattern: str, length: int) -> str:
    """Return the name itself if it matches the pattern and is at most `length` characters long, else its alias.

    The same name always gives the same alias, so no state is kept between requests.
    """
    if len(name) <= length and re.fullmatch(pattern, name):
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    start = _INVALID_CHARACTER.sub("_", name)[: min(_MAX_KEPT_CHARACTERS, length - len(mark) - 1)]
    alias = f"{start}_{mark}"
    return alias if re.fullmatch(pattern, alias) else f"t{alias[1:]}"
