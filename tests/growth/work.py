"""Counted work: the steps of Python code and the units that built-in functions handle.

`instrument.py` rewrites the package so that it calls the functions of this module. A step is a function call, a loop
iteration or an element of a comprehension. A unit is one character, byte or element that a built-in function, an
operator or a regular expression handles: `text.find(word)` costs as many units as characters are searched. Neither
depends on the machine.
"""

import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, MethodType, MethodWrapperType
from typing import Any

from msgspec import Raw

STEPS, UNITS = 0, 1
METER = [0, 0]
"""Steps and units since the process began."""

_SIZED = (str, bytes, bytearray, memoryview, list, tuple, dict, set, frozenset, Raw, deque)
_CONSTANT_NAMES = """
    append appendleft popleft add discard get setdefault items keys values len isinstance issubclass id type hash iter
    next getattr hasattr setattr callable enumerate zip map filter reversed range send throw close write acquire release
    done cancel cancelled result set_result set_exception time monotonic perf_counter call_soon call_later create_task
    create_future group start end span groups cast bool int float chr ord
"""
_CONSTANT = frozenset(_CONSTANT_NAMES.split())
"""Names of functions with a cost that does not depend on the size of their arguments."""
_COUNTED_TYPES = frozenset((str, bytes, bytearray, list, tuple, dict, set, frozenset))
_PATTERN_METHODS = frozenset(("search", "match", "fullmatch", "finditer", "findall", "sub", "subn", "split"))


def size_of(value: object) -> int:
    """Return the number of characters, bytes or elements; 0: not a sized built-in type."""
    return len(value) if isinstance(value, _SIZED) else 0


def step() -> bool:
    """Count one step; True, so that it can stand as the condition of a comprehension."""
    METER[STEPS] += 1
    return True


def result(value: Any) -> Any:
    """Count a new string or collection that an operator made; a view of bytes copies nothing."""
    if type(value) is not memoryview:
        METER[UNITS] += size_of(value)
    return value


def added(value: Any) -> None:
    """Count the result of `+=`, which copies an immutable value as a whole."""
    if isinstance(value, str | bytes | tuple):
        METER[UNITS] += len(value)


def deleted(value: Any) -> None:
    """Count the deletion or replacement of a slice of a list, which moves the elements after it."""
    if isinstance(value, list):
        METER[UNITS] += len(value)


def contains(element: Any, container: Any) -> bool:
    """Return `element in container` and count the search."""
    if isinstance(container, str | bytes | bytearray) and isinstance(element, str | bytes | bytearray):
        place = container.find(element)  # type: ignore[arg-type]
        METER[UNITS] += place + len(element) if place >= 0 else len(container)
        return place >= 0
    if isinstance(container, list | tuple | deque | type({}.values())):
        METER[UNITS] += len(container)
    found: bool = element in container
    return found


def equals(left: Any, right: Any) -> Any:
    """Return `left == right`; equal values cost their size."""
    equal = left == right
    if equal is True:
        METER[UNITS] += size_of(left)
    return equal


def call(function: Any) -> Any:
    """Return the replacement of a function: a counted one for built-in functions, else the function itself."""
    kind = type(function)
    if kind is FunctionType or kind is MethodType:
        return function
    if kind is type:
        return _counting(function, function.__name__, None) if function in _COUNTED_TYPES else function
    if issubclass(kind, BuiltinFunctionType) or kind is MethodWrapperType:  # methods of patterns have a subclass
        name = function.__name__
        return function if name in _CONSTANT else _counting(function, name, function.__self__)
    if kind is MethodDescriptorType:
        name = function.__name__
        return function if name in _CONSTANT else _counting_unbound(function, name)
    return function


def _counting(function: Callable[..., Any], name: str, owner: object) -> Callable[..., Any]:
    if isinstance(owner, re.Pattern) and name in _PATTERN_METHODS:
        return _counting_pattern(function, name, owner)
    cost = next((_COSTS[kind, name] for kind in type(owner).__mro__ if (kind, name) in _COSTS), None)

    def counted(*args: Any, **named: Any) -> Any:
        before = size_of(owner)
        found = function(*args, **named)
        METER[UNITS] += cost(before, args, found) if cost else _cost_of_any(before, args, named, found)
        return found

    return counted


def _counting_unbound(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def counted(owner: Any, *args: Any, **named: Any) -> Any:
        return _counting(function.__get__(owner), name, owner)(*args, **named)

    return counted


def _cost_of_any(before: int, args: tuple[Any, ...], named: Mapping[str, Any], found: Any) -> int:
    return 1 + before + sum(map(size_of, args)) + sum(map(size_of, named.values())) + size_of(found)


def _cost_of_find(before: int, args: tuple[Any, ...], found: int) -> int:
    start, stop = _bounds(before, args[1:])
    return found + len(args[0]) - start if found >= 0 and not isinstance(args[0], int) else max(stop - start, 0)


def _cost_of_rfind(before: int, args: tuple[Any, ...], found: int) -> int:
    start, stop = _bounds(before, args[1:])
    return stop - max(found, start)


def _cost_of_range(before: int, args: tuple[Any, ...], found: Any) -> int:
    start, stop = _bounds(before, args[1:])
    return max(stop - start, 0)


def _cost_of_prefix(before: int, args: tuple[Any, ...], found: Any) -> int:
    return sum(map(size_of, args[0])) if isinstance(args[0], tuple) else size_of(args[0])


def _bounds(size: int, given: tuple[int | None, ...]) -> tuple[int, int]:
    start, stop, _ = slice(*(given if given else (0, None)), *(() if len(given) > 1 else (None,))).indices(size)
    return start, stop


def _behind(before: int, args: tuple[Any, ...], found: Any) -> int:
    """Return how many elements a list moves to insert or remove one."""
    if not args:
        return 1
    start, _, _ = slice(args[0], None).indices(before)
    return before - start


def _one(before: int, args: tuple[Any, ...], found: Any) -> int:
    return 1


def _given(before: int, args: tuple[Any, ...], found: Any) -> int:
    return 1 + sum(map(size_of, args))


def _place(before: int, args: tuple[Any, ...], found: Any) -> int:
    return int(found) + 1


_COSTS: dict[tuple[type, str], Callable[[int, tuple[Any, ...], Any], int]] = {
    **{(kind, name): _cost_of_find for kind in (str, bytes, bytearray) for name in ("find", "index")},
    **{(kind, name): _cost_of_rfind for kind in (str, bytes, bytearray) for name in ("rfind", "rindex")},
    **{(kind, "count"): _cost_of_range for kind in (str, bytes, bytearray)},
    **{(kind, name): _cost_of_prefix for kind in (str, bytes, bytearray) for name in ("startswith", "endswith")},
    (list, "pop"): _behind,
    (list, "insert"): _behind,
    (list, "index"): _place,
    (list, "extend"): _given,
    (bytearray, "extend"): _given,
    (bytearray, "append"): _one,
    (dict, "pop"): _one,
    (dict, "popitem"): _one,
    (OrderedDict, "move_to_end"): _one,
    (dict, "update"): _given,
    (set, "update"): _given,
    (set, "pop"): _one,
    (set, "remove"): _one,
    (deque, "pop"): _one,
    (deque, "extend"): _given,
}
"""Units by type and method: size of the object before the call, arguments and result. All others cost their sizes."""


def _counting_pattern(function: Callable[..., Any], name: str, pattern: re.Pattern[Any]) -> Callable[..., Any]:
    def counted(*args: Any, **named: Any) -> Any:
        found = function(*args, **named)
        place = 1 if name in ("sub", "subn") else 0
        text = args[place] if len(args) > place else named.get("string", "")
        start, stop = (
            _bounds(len(text), args[place + 1 : place + 3]) if name not in ("sub", "subn", "split") else (0, len(text))
        )
        if name == "finditer":
            return _counting_matches(found, start, stop)
        if isinstance(found, re.Match):
            METER[UNITS] += found.end() - start + 1
        else:
            METER[UNITS] += 1 if name in ("match", "fullmatch") else stop - start + 1
        return found

    return counted


def _counting_matches(matches: Iterator[re.Match[Any]], start: int, stop: int) -> Iterator[re.Match[Any]]:
    for match in matches:
        METER[UNITS] += match.end() - start + 1
        start = match.end()
        yield match
    METER[UNITS] += stop - start
