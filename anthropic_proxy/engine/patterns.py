"""`compile_later`: the regular expressions of the package.

They are compiled with their first use. Python compiles expressions slowly, and most of ours recognize errors, which the
first requests do not have. Compiling all of them took a tenth of the start.

Most of them read texts of strangers. So each one takes time in proportion to its text, or reads only its first `most`
characters. `list_patterns` is the list that the growth tests measure.
"""

import re
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, AnyStr, cast
from weakref import WeakSet

_METHODS = ("search", "match", "fullmatch", "sub", "subn", "split", "findall", "finditer")
_patterns: WeakSet["LaterPattern"] = WeakSet()


class LaterPattern:
    def __init__(self, pattern: Any, flags: int, most: int) -> None:
        self.pattern = pattern
        self.flags = flags
        self.most = most
        _patterns.add(self)

    def __getattr__(self, name: str) -> Any:
        """Called until the methods are attributes: from then on, a use costs no more than that of a pattern."""
        compiled = re.compile(self.pattern, self.flags)
        for method in _METHODS:
            setattr(self, method, _bounded(compiled, method, self.most) if self.most else getattr(compiled, method))
        return getattr(self if name in _METHODS else compiled, name)


def _bounded(compiled: re.Pattern[Any], method: str, most: int) -> Callable[..., Any]:
    find = getattr(compiled, method)
    if method in ("search", "match", "findall", "finditer"):
        return partial(_find_bounded, find, most)
    if method == "fullmatch":
        return lambda text: find(text) if len(text) <= most else None
    return partial(_replace_bounded, find, most)


def _find_bounded(find: Callable[..., Any], most: int, text: Any, start: int = 0, end: int = sys.maxsize) -> Any:
    return find(text, start, min(end, start + most))


def _replace_bounded(replace: Callable[..., Any], most: int, new: Any, text: Any) -> Any:
    return replace(new, text[:most]) + text[most:]


_get_pattern = lru_cache(maxsize=2_048)(LaterPattern)  # a function may make its pattern with each call
_MAX_CACHED_CHARACTERS = 2_000
"""Maximum length of a pattern in the cache. Longer ones may contain texts of strangers, which would fill the memory."""


def compile_later(pattern: AnyStr, flags: int = 0, *, most: int = 0) -> re.Pattern[AnyStr]:
    """Return an object with the methods of a compiled pattern.

    `most`: the number of characters from the start of a search that are read; 0: all. `fullmatch` does not match a
    longer text.
    """
    make = _get_pattern if len(pattern) <= _MAX_CACHED_CHARACTERS else LaterPattern
    return cast("re.Pattern[AnyStr]", make(pattern, flags, most))


def list_patterns() -> Sequence[LaterPattern]:
    """Return the patterns that exist in this process."""
    return list(_patterns)
