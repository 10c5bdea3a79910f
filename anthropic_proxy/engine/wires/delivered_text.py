"""Final objects, which repeat what a stream has sent in fragments: what they have beyond the fragments.

`KnownParts` says which part of a final object is which part of the stream, and `DeliveredText` what the
fragments of a text lack. A part that the stream has not had is new. A text that contradicts its fragments adds nothing.
Tool calls are compared by their decoders: a contradiction about a call is an error of the reply.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence

Keys = tuple[Hashable, ...]
"""What identifies a part of a reply: names of it alone, the most reliable one first, and at last what it has in common
with others, such as its type. None: not stated."""


class KnownParts:
    """The parts of a stream by their keys. A final object costs time for its own parts, however many the stream has."""

    def __init__(self, known: Iterable[Keys] = ()) -> None:
        self._size = 0
        self._places: dict[tuple[int, Hashable], list[int]] = {}
        """Level of a key and the key → indexes of the parts with it."""
        for keys in known:
            self.add(keys)

    def add(self, keys: Keys) -> None:
        for level, key in enumerate(keys):
            if key is not None:
                self.add_key(self._size, level, key)
        self._size += 1

    def add_key(self, index: int, level: int, key: Hashable) -> None:
        """Add a key that a known part has got since."""
        self._places.setdefault((level, key), []).append(index)

    def find_counterparts(self, final: Sequence[Keys]) -> list[int | None]:
        """Return for each part of a final object the index of the same known part. None: a new part.

        Servers change ids, leave them out, and count the parts of a final object otherwise than those of the stream. So
        parts with a common name belong together, and then the n-th of the others with the same last key. A part that a
        final object repeats is not new.
        """
        found: list[int | None] = [None] * len(final)
        taken: set[int] = set()
        for level in range(max(map(len, final), default=0)):
            free: dict[Hashable, Iterator[int]] = {}
            for position, keys in enumerate(final):
                if found[position] is not None or keys[level] is None:
                    continue
                if (places := free.get(keys[level])) is None:
                    places = free[keys[level]] = iter(self._places.get((level, keys[level]), ()))
                index = found[position] = next((index for index in places if index not in taken), None)
                if index is not None:
                    taken.add(index)
        for position, keys in enumerate(final):
            if found[position] is None:
                named = (self._places.get((level, name)) for level, name in enumerate(keys[:-1]) if name is not None)
                found[position] = next((places[-1] for places in named if places), None)
        return found


def find_counterparts(known: Sequence[Keys], final: Sequence[Keys]) -> list[int | None]:
    """`KnownParts.find_counterparts` for one final object of a stream. Usually, no part is known, or all are equal."""
    if not known:
        return [None] * len(final)
    return [*range(len(final))] if known == final else KnownParts(known).find_counterparts(final)


class DeliveredText:
    """A text as far as the client has it.

    Some servers lose a fragment, send a final object before the last fragments, or send the text only in the final
    object. What the fragments lack at their end is then delivered from the final object, and fragments that follow it
    are known already.
    """

    __slots__ = ("_ahead", "_ahead_place", "_pieces", "size")

    def __init__(self, pieces: list[str] | None = None) -> None:
        """`pieces`: the fragments so far. Later ones are added to this list."""
        self._pieces = [] if pieces is None else pieces
        self.size = sum(map(len, self._pieces))
        """Characters of the text."""
        self._ahead = ""
        """Text that was delivered from a final object before its fragments arrived."""
        self._ahead_place = 0
        """Index in `_ahead` behind the fragments that have arrived since."""

    @classmethod
    def ahead_of_fragments(cls, text: str) -> "DeliveredText":
        """Return a text that a final object has stated before its first fragment."""
        delivered = cls()
        delivered.complete(text)
        return delivered

    @property
    def text(self) -> str:
        if len(self._pieces) > 1:
            self._pieces[:] = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def add(self, fragment: str) -> str:
        """Return what is new in a fragment."""
        if self._ahead:
            if self._ahead.startswith(fragment, self._ahead_place):
                self._ahead_place += len(fragment)
                return ""
            self._ahead = ""
        self._pieces.append(fragment)
        self.size += len(fragment)
        return fragment

    def is_equal(self, whole: str) -> bool:
        return self.size == len(whole) and self.text == whole

    def complete(self, whole: str) -> str | None:
        """Return what the fragments so far lack of the whole text. None: the whole text does not begin with them."""
        if self.size > len(whole) or not whole.startswith(text := self.text):
            return None
        if missing := whole[len(text) :]:
            self._pieces.append(missing)
            self.size = len(whole)
            self._ahead, self._ahead_place = missing, 0
        return missing
