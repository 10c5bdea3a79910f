"""`compile_later`: regular expressions that are compiled with their first use.

Python compiles expressions slowly, and most of ours recognize errors, which the first requests do not have. Compiling
all of them took a tenth of the start.
"""

import re
from typing import Any, AnyStr, cast

_METHODS = ("search", "match", "fullmatch", "sub", "subn", "split", "findall", "finditer")


class _LaterPattern:
    def __init__(self, pattern: Any, flags: int) -> None:
        self.pattern = pattern
        self.flags = flags

    def __getattr__(self, name: str) -> Any:
        """Called until the methods are attributes: from then on, a use costs no more than that of a pattern."""
        compiled = re.compile(self.pattern, self.flags)
        for method in _METHODS:
            setattr(self, method, getattr(compiled, method))
        return getattr(compiled, name)


def compile_later(pattern: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """Return an object with the methods of a compiled pattern."""
    return cast("re.Pattern[AnyStr]", _LaterPattern(pattern, flags))
