"""Calls that a server sends twice: in the text of a reply, and as calls of its API.

Some servers find the calls in the text of a model and leave them there. Each is one call, in whichever order the forms
arrive. Equal calls of one form are several calls. A call of the API without arguments, which the server could not read,
is the one of this name in the text (api.cline.bot: cline issue 13348).
"""

from typing import Any

from anthropic_proxy.engine.messages.models.tool_arguments import normalize_arguments

_NO_ARGUMENTS = normalize_arguments("")


class DoubledCalls:
    """Compares the calls of both forms of one reply, by name and arguments. Names are those of the client."""

    def __init__(self) -> None:
        self._in_text: dict[str, dict[bytes, int]] = {}
        """Name of each call in the text → arguments → how many more of it the text has than the API."""
        self._of_api: dict[tuple[str, bytes], int] = {}
        """Call → how many more of it the API has than the text."""
        self._unread: list[tuple[str, str]] | None = []
        """Calls of the API before the first one in the text. Most replies have no other ones. None: the text has some.
        """
        self._open: dict[str, int] = {}
        """Name → number of the calls of the API that have begun and not ended, so that their arguments may follow."""
        self._waiting: dict[str, dict[bytes, list[str]]] = {}
        """Name → arguments → the same as written in each call of the text that waits for the end of one of the API."""

    def begin(self, name: str) -> None:
        """Record that the client has the beginning of a call of the API, which `add` follows."""
        self._open[name] = self._open.get(name, 0) + 1

    def postpone(self, name: str, arguments: str) -> bool:
        """Return True if a call in the text has to wait for one of the API that has begun, and may be the same."""
        if not self._open.get(name):
            return False
        self._compare_unread()
        key = normalize_arguments(arguments)
        if (name, key) in self._of_api:
            return False
        self._waiting.setdefault(name, {}).setdefault(key, []).append(arguments)
        return True

    def find_arguments(self, name: str, arguments: str) -> str | None:
        """Return the arguments of a waiting call in the text that one of the API lacks, which ends. None: it has some,
        or there is no such call.
        """
        waiting = self._waiting.get(name)
        if not waiting or normalize_arguments(arguments) != _NO_ARGUMENTS:
            return None
        return next(iter(waiting.values()))[0]

    def has_in_text(self, name: str) -> bool:
        """Return True if the text has a call with this name, of which one of the API may be another form."""
        return name in self._in_text

    def add(self, name: str, arguments: str, *, has_begun: bool = False) -> bool:
        """Record a call of the API. Return True if it is one of the text."""
        if has_begun:
            self._open[name] -= 1
        if self._unread is not None:
            self._unread.append((name, arguments))
            return False
        key = normalize_arguments(arguments)
        if (equal := (waiting := self._waiting.get(name, {})).get(key)) is not None:
            equal.pop()
            if not equal:
                del waiting[key]
        in_text = self._in_text.get(name, {})
        if in_text and key == _NO_ARGUMENTS and key not in in_text:
            key = next(iter(in_text))
        if key in in_text:
            _count_down(in_text, key)
            return True
        self._of_api[name, key] = self._of_api.get((name, key), 0) + 1
        return False

    def add_in_text(self, name: str, arguments: str) -> bool:
        """Record a call in the text. Return True if it is one of the API."""
        self._compare_unread()
        in_text = self._in_text.setdefault(name, {})
        key = normalize_arguments(arguments)
        if (name, key) in self._of_api:
            _count_down(self._of_api, (name, key))
            return True
        in_text[key] = in_text.get(key, 0) + 1
        return False

    def _compare_unread(self) -> None:
        unread, self._unread = self._unread, None
        for name, arguments in unread or ():
            self.add(name, arguments)


def _count_down(counts: dict[Any, int], key: object) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
