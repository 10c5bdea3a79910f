"""Calls that a server does take apart, mended: their names and their arguments."""

from anthropic_proxy.messages.notes import Note
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.recover.arguments import is_object, mend_arguments
from anthropic_proxy.wire.recover.offered import UNNAMED, OfferedTools

_LONGEST_SHOWN = 80
"""Characters of a name that a note shows."""


class CallMender:
    """Mends the calls of one answer, and notes what it did. What could mean two things passes as it is."""

    def __init__(self, call: Call, *, names: bool) -> None:
        """`names`: whether names are mended; else they pass."""
        self.notes: list[Note] = []
        """What became otherwise than the model wrote it; arguments that stay broken too."""
        self._aliases = call.aliases
        self._offered = OfferedTools(call) if names else None

    def mend_name(self, name: str) -> str:
        """Return the client's own name of the tool that is called so."""
        said = self._aliases.get(name, name)
        found = self._offered.match(name) if self._offered else None
        if found is None:
            return said
        if found != said:
            self.notes.append(
                Note("approximated", "content.tool_use.name", f"'{_shown(name)}' was called; {found} is offered")
            )
        return found

    def find_name(self, arguments: str) -> str | None:
        """Return the client's name of the tool that a call without a name means; None: names are not mended here."""
        if not self._offered:
            return None
        whole = arguments if is_object(arguments) else mend_arguments(arguments) or arguments
        found = self._offered.match_arguments(whole) or UNNAMED
        self.notes.append(Note("approximated", "content.tool_use.name", f"a call came without a name: {found}"))
        return found

    def mend_arguments(self, arguments: str, name: str) -> str:
        """Return arguments as one JSON object, or as they are where no object is certain."""
        if not arguments.strip() or is_object(arguments):
            return arguments
        mended = mend_arguments(arguments)
        fate = "are no JSON object and pass as they came" if mended is None else "were no JSON object and are mended"
        self.notes.append(
            Note("approximated", "content.tool_use.input", f"the arguments of a call of {_shown(name)} {fate}")
        )
        return arguments if mended is None else mended


def _shown(name: str) -> str:
    """Return a name as the model wrote it, as far as it may stand in a line that people read."""
    said = name if len(name) <= _LONGEST_SHOWN else name[:_LONGEST_SHOWN] + "…"
    return repr(said)[1:-1]
