"""Aliases of tool names: replacements for names that the provider does not allow.

`ToolNames` converts the names of one request. Its method `upstream_name` returns the client's name or its alias, which
the function `name_or_alias` computes. Its attribute `aliases` has all aliases, to restore the client's names in the
reply.
"""

import functools
import hashlib
import re

_MAX_KEPT_CHARACTERS = 50
"""Maximum number of characters that an alias copies from the beginning of the tool name."""
_INVALID_CHARACTER = re.compile(r"[^a-zA-Z0-9_]")


class ToolNames:
    """Conversion of the tool names of one client request to names that the provider allows.

    An allowed name matches `pattern` and has at most `length` characters. Any other name gets an alias.
    """

    def __init__(self, pattern: str, length: int) -> None:
        self._pattern = pattern
        self._length = length
        self._upstream_names: dict[str, str] = {}
        self.aliases: dict[str, str] = {}
        """Upstream name → name of the client, if they differ."""

    def upstream_name(self, name: str) -> str:
        """Return the name to send upstream: `name` itself if the provider allows it, otherwise its alias."""
        upstream = self._upstream_names.get(name)
        if upstream is None:
            upstream = self._upstream_names[name] = name_or_alias(name, self._pattern, self._length)
            if upstream != name:
                self.aliases[upstream] = name
        return upstream


@functools.lru_cache(maxsize=4096)
def name_or_alias(name: str, pattern: str, length: int) -> str:
    """Return `name` if it is allowed, otherwise a replacement (alias) that is allowed.

    An allowed name matches `pattern` and has at most `length` characters.
    """
    if len(name) <= length and re.fullmatch(pattern, name):
        return name
    # equal arguments always give the same alias, so nothing is stored between requests
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    start = _INVALID_CHARACTER.sub("_", name)[: min(_MAX_KEPT_CHARACTERS, length - len(mark) - 1)]
    alias = f"{start}_{mark}"
    return alias if re.fullmatch(pattern, alias) else f"t{alias[1:]}"
