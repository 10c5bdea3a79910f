"""`compile_later` and `compile_anchored`: the regular expressions of the package.

They are compiled with their first use. Python compiles expressions slowly, and most of ours recognize errors, which the
first requests do not have. Compiling all of them took a tenth of the start.

Most of them read texts of strangers. So each one takes time in proportion to its text, or reads only its first `most`
characters. An expression that is matched at one place may be one whose search would take longer: `compile_anchored`
returns it without the methods that search. A possessive group (`(?:…)*+`) must not fail behind something that it has
matched: Python before 3.11.5, as in Debian 12, continues there, not before it. `list_patterns` is the list that the
growth tests measure.
"""

import re
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, AnyStr, Protocol, cast, overload
from weakref import WeakSet

Bytes = bytes | bytearray | memoryview
_ANCHORED_METHODS = ("match", "fullmatch")
_METHODS = (*_ANCHORED_METHODS, "search", "sub", "subn", "split", "findall", "finditer")
_patterns: WeakSet["LaterPattern"] = WeakSet()


class LaterPattern:
    def __init__(self, pattern: Any, flags: int, most: int, is_anchored: bool) -> None:
        self.pattern = pattern
        self.flags = flags
        self.most = most
        self.is_anchored = is_anchored
        _patterns.add(self)

    def __getattr__(self, name: str) -> Any:
        """Called until the methods are attributes: from then on, a use costs no more than that of a pattern."""
        methods = _ANCHORED_METHODS if self.is_anchored else _METHODS
        if name in _METHODS and name not in methods:
            raise AttributeError(f"An anchored pattern has no method {name}; make it by compile_later.")
        compiled = re.compile(self.pattern, self.flags)
        for method in methods:
            setattr(self, method, _bounded(compiled, method, self.most) if self.most else getattr(compiled, method))
        return getattr(self if name in methods else compiled, name)


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


def _make(pattern: Any, flags: int, most: int, is_anchored: bool) -> LaterPattern:
    make = _get_pattern if len(pattern) <= _MAX_CACHED_CHARACTERS else LaterPattern
    return make(pattern, flags, most, is_anchored)


def compile_later(pattern: AnyStr, flags: int = 0, *, most: int = 0) -> re.Pattern[AnyStr]:
    """Return an object with the methods of a compiled pattern.

    `most`: the number of characters from the start of a search that are read; 0: all. `fullmatch` does not match a
    longer text.
    """
    return cast("re.Pattern[AnyStr]", _make(pattern, flags, most, False))


class AnchoredPattern(Protocol[AnyStr]):
    """A pattern that is matched at one place of a text, and never searched."""

    pattern: AnyStr

    @overload
    def match(
        self: "AnchoredPattern[str]", text: str, start: int = 0, end: int = sys.maxsize, /
    ) -> re.Match[str] | None: ...

    @overload
    def match(
        self: "AnchoredPattern[bytes]", text: Bytes, start: int = 0, end: int = sys.maxsize, /
    ) -> re.Match[bytes] | None: ...

    @overload
    def fullmatch(
        self: "AnchoredPattern[str]", text: str, start: int = 0, end: int = sys.maxsize, /
    ) -> re.Match[str] | None: ...

    @overload
    def fullmatch(
        self: "AnchoredPattern[bytes]", text: Bytes, start: int = 0, end: int = sys.maxsize, /
    ) -> re.Match[bytes] | None: ...


def compile_anchored(pattern: AnyStr, flags: int = 0, *, most: int = 0) -> AnchoredPattern[AnyStr]:
    """Return an object with the methods `match` and `fullmatch` of a compiled pattern.

    `most`: as in `compile_later`.
    """
    return cast("AnchoredPattern[AnyStr]", _make(pattern, flags, most, True))


def list_patterns() -> Sequence[LaterPattern]:
    """Return the patterns that exist in this process."""
    return list(_patterns)
