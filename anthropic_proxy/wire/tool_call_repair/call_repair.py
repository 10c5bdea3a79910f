"""Repair of the names and arguments of tool calls."""

from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.wire.contract import BaseDialect, Call
from anthropic_proxy.wire.tool_call_repair.arguments import is_object, repair_arguments
from anthropic_proxy.wire.tool_call_repair.offered_tools import UNNAMED, OfferedTools

_MAX_SHOWN_CHARACTERS = 80
"""Maximum length of a name in a note."""


class CallRepair:
    """Repairs the tool calls of one reply and notes each change. Ambiguous calls are unchanged."""

    def __init__(self, call: Call[BaseDialect], *, names: bool) -> None:
        """`names`: True to repair names."""
        self.notes: list[FidelityNote] = []
        """Notes on repaired calls and on arguments that stay broken."""
        self._aliases = call.aliases
        self._offered = OfferedTools(call) if names else None

    def repair_name(self, name: str) -> str:
        """Return the client's name of the called tool."""
        client_name = self._aliases.get(name, name)
        found = self._offered.match(name) if self._offered else None
        if found is None:
            return client_name
        if found != client_name:
            self.notes.append(
                FidelityNote(
                    "approximated",
                    "content.tool_use.name",
                    f"'{_shortened(name)}' was called; the offered tool is {found}",
                )
            )
        return found

    def find_name(self, arguments: str) -> str | None:
        """Return the client's tool name for a call without a name. None: names are not repaired."""
        if not self._offered:
            return None
        whole = arguments if is_object(arguments) else repair_arguments(arguments) or arguments
        found = self._offered.match_by_arguments(whole) or UNNAMED
        self.notes.append(FidelityNote("approximated", "content.tool_use.name", f"a call had no name: {found}"))
        return found

    def repair_arguments(self, arguments: str, name: str) -> str:
        """Return arguments as one JSON object, or unchanged if no object is certain."""
        if not arguments.strip() or is_object(arguments):
            return arguments
        mended = repair_arguments(arguments)
        fate = (
            "are not a JSON object and were delivered unchanged"
            if mended is None
            else "were not a JSON object and were repaired"
        )
        self.notes.append(
            FidelityNote(
                "approximated", "content.tool_use.input", f"the arguments of a call of {_shortened(name)} {fate}"
            )
        )
        return arguments if mended is None else mended


def _shortened(name: str) -> str:
    """Return a name, shortened and escaped for a log line."""
    visible = name if len(name) <= _MAX_SHOWN_CHARACTERS else name[:_MAX_SHOWN_CHARACTERS] + "…"
    return repr(visible)[1:-1]
