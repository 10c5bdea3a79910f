"""`DeliveredText`: compares a text that arrived in fragments with the final object of a stream, which repeats it."""


class DeliveredText:
    """A text as far as the client has it.

    Some servers lose a fragment, send a final object before the last fragments, or send the text only in the final
    object. What the fragments lack at their end is then delivered from the final object, and fragments that follow it
    are known already.
    """

    __slots__ = ("_ahead", "_ahead_place", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._ahead = ""
        """Text that was delivered from a final object before its fragments arrived."""
        self._ahead_place = 0
        """Index in `_ahead` behind the fragments that have arrived since."""

    @property
    def text(self) -> str:
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def add(self, fragment: str) -> str:
        """Return what is new in a fragment."""
        if self._ahead:
            if self._ahead.startswith(fragment, self._ahead_place):
                self._ahead_place += len(fragment)
                return ""
            self._ahead = ""
        self._pieces.append(fragment)
        return fragment

    def complete(self, whole: str) -> str | None:
        """Return what the fragments so far lack of the whole text. None: the whole text does not begin with them."""
        if sum(map(len, self._pieces)) > len(whole) or not whole.startswith(text := self.text):
            return None
        if missing := whole[len(text) :]:
            self._pieces.append(missing)
            self._ahead, self._ahead_place = missing, 0
        return missing
