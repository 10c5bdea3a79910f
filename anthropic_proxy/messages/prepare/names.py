"""Aliases of tool names that a wire does not allow."""

import functools
import hashlib
import re

_KEPT = 50
"""Characters of a name that its alias begins with."""
_CANNOT_STAND = re.compile(r"[^a-zA-Z0-9_]")


class Names:
    """The names of one request, and what is said upstream for them."""

    def __init__(self, pattern: str, length: int) -> None:
        self._pattern = pattern
        self._length = length
        self._said: dict[str, str] = {}
        self.aliases: dict[str, str] = {}
        """Name said upstream → the client's own name, where they differ."""

    def say(self, name: str) -> str:
        """Return the name as it is said upstream."""
        said = self._said.get(name)
        if said is None:
            said = self._said[name] = alias_of(name, self._pattern, self._length)
            if said != name:
                self.aliases[said] = name
        return said


@functools.lru_cache(maxsize=4096)
def alias_of(name: str, pattern: str, length: int) -> str:
    """Return the name itself if it matches the pattern and is no longer than `length`, else its alias.

    The same name always gives the same alias, so no state is kept between requests.
    """
    if len(name) <= length and re.fullmatch(pattern, name):
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    start = _CANNOT_STAND.sub("_", name)[: min(_KEPT, length - len(mark) - 1)]
    alias = f"{start}_{mark}"
    return alias if re.fullmatch(pattern, alias) else f"t{alias[1:]}"
