"""The definition of a target, and the invariants of all targets."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple
from zlib import crc32

from anthropic_proxy.errors import InternalError, ProxyError


class BrokenPromise(AssertionError):
    """Something came out that no input may bring about."""


class Target(NamedTuple):
    """One way in."""

    name: str
    check: Callable[[bytes], None]
    """Feeds one input. Every exception that it raises is a finding."""
    seeds: Callable[[], Iterable[bytes]]
    """Many examples of a right input."""
    headlines: Sequence[bytes] = ()
    """Possible first lines of an input, where that line chooses how the rest is read; (): there is no such line."""


def expect(fact: bool, what: str) -> None:
    if not fact:
        raise BrokenPromise(what)


def expect_ours(error: ProxyError) -> None:
    """Pass an error on purpose; ours alone is a finding."""
    if isinstance(error, InternalError):
        raise error


def expect_bounded(made: int, given: int, factor: int = 256) -> None:
    """Expect the output to grow with the input: an event of one character takes a hundred bytes."""
    expect(made <= factor * given + (1 << 18), f"{given} bytes became {made}")


def split_headline(data: bytes) -> tuple[list[str], bytes]:
    line, _, remainder = data.partition(b"\n")
    return line.decode("latin-1").split(" "), remainder


def cuts_of(data: bytes) -> list[bytes]:
    """Return the data as pieces with lengths that depend on nothing but the data."""
    pieces, place, state = [], 0, crc32(data)
    while place < len(data):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        length = (1, 7, 64, 999, 1 << 14)[(state >> 16) % 5]
        pieces.append(data[place : place + length])
        place += length
    return pieces
