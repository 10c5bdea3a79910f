"""Calls that a server sends twice: in the text of a reply, and as calls of its API.

Some servers find the calls in the text of a model and leave them there. Each is one call, in whichever order the forms
arrive. Equal calls of one form are several calls.
"""

from anthropic_proxy.engine.messages.models.tool_arguments import normalize_arguments


class DoubledCalls:
    """Compares the calls of both forms of one reply, by name and arguments. Names are those of the client."""

    def __init__(self) -> None:
        self._surplus: dict[tuple[str, bytes], int] = {}
        """Call → how many more of it the text has than the API. A negative number: the API has more."""
        self._unread: list[tuple[str, str]] = []
        """Calls of the API before the first one in the text. Most replies have no other ones."""
        self._names: set[str] = set()
        """Names of the calls in the text."""
        self._open: dict[str, int] = {}
        """Name → number of the calls of the API that have begun and not ended, so that their arguments may follow."""

    def begin(self, name: str) -> None:
        """Record that the client has the beginning of a call of the API, which `add` follows."""
        self._open[name] = self._open.get(name, 0) + 1

    def is_open(self, name: str) -> bool:
        """Return True if a call of the API has begun, of which one in the text may be another form."""
        return self._open.get(name, 0) > 0

    def has_in_text(self, name: str) -> bool:
        """Return True if the text has a call with this name, of which one of the API may be another form."""
        return name in self._names

    def add(self, name: str, arguments: str, *, has_begun: bool = False) -> bool:
        """Record a call of the API. Return True if it is one of the text."""
        if has_begun:
            self._open[name] -= 1
        if not self._names:
            self._unread.append((name, arguments))
            return False
        return self._add(name, arguments, -1)

    def add_in_text(self, name: str, arguments: str) -> bool:
        """Record a call in the text. Return True if it is one of the API."""
        unread, self._unread = self._unread, []
        for known_name, known_arguments in unread:
            self._add(known_name, known_arguments, -1)
        self._names.add(name)
        return self._add(name, arguments, 1)

    def _add(self, name: str, arguments: str, count: int) -> bool:
        call = name, normalize_arguments(arguments)
        surplus = self._surplus.get(call, 0)
        self._surplus[call] = surplus + count
        return surplus * count < 0
