"""What the model says in one go: passes on what the client needs at once, and keeps the calls of owned tools."""

from collections.abc import Callable, Mapping

from msgspec import Raw, Struct
from msgspec.structs import replace

from anthropic_proxy.exchange.one_call import OneCall
from anthropic_proxy.exchange.turns.blocks import SERVER_CALL, encode_call
from anthropic_proxy.exchange.turns.errands import OwnedCall
from anthropic_proxy.messages.deltas import Block, Delta, Stop, ToolArgs, ToolCall, ToolEnd, Usage
from anthropic_proxy.messages.fold import Fold
from anthropic_proxy.messages.fold.arguments import whole_input
from anthropic_proxy.messages.prepare import OwnedTool
from anthropic_proxy.messages.types.blocks import is_deep
from anthropic_proxy.messages.usage import with_later
from anthropic_proxy.messages.writer import MessageWriter


class _Begun(Struct):
    """A call of an owned tool whose arguments are on their way."""

    owned: OwnedTool
    arguments: list[str]


class Step:
    """One reply of the model, which may come in several upstream answers where the provider cuts it in pieces."""

    def __init__(
        self, owned: Mapping[str, OwnedTool], signature: str, new_id: Callable[[str], str], *, one_call: bool
    ) -> None:
        self._owned = owned
        self._new_id = new_id
        self._only_one = OneCall() if one_call else None
        self._fold = Fold(MessageWriter(message_id="", model="", signature=signature))
        """Puts together what the client sees of this step, as the client itself does."""
        self._begun: dict[int | str, _Begun] = {}
        self._piece = 0
        self.calls: list[OwnedCall] = []
        """Complete calls of owned tools, in order."""
        self.calls_client = False
        """Whether the client's own tools were called."""
        self.stop: Stop | None = None
        """Why the model stopped; None: the provider has not said."""
        self.usage = Usage()
        """Totals of the upstream call under way."""

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        """Take the deltas of one network read; return what the client gets of them. Usage and end stay here."""
        if self._only_one is not None:
            deltas = self._only_one.feed(deltas)
        free: list[Delta] = []
        for delta in deltas:
            self._sort(delta, free)
        self._fold.feed(free)
        return free

    def finish(self) -> list[Delta]:
        """Write the calls that the model could not finish: they are never run."""
        free: list[Delta] = [self._write(begun)[1] for begun in self._begun.values()]
        self._begun = {}
        self._fold.feed(free)
        return free

    def next_piece(self) -> None:
        """Go on with another upstream answer, whose calls are counted anew."""
        self._piece += 1
        self.usage, self.stop = Usage(), None

    def content(self) -> tuple[list[Raw], int]:
        """Return the blocks that the client has of this step, and roughly the tokens of their text."""
        self._fold.feed([Stop("end_turn")])
        whole = self._fold.finish()
        return whole.content, whole.usage.output_tokens

    def _sort(self, delta: Delta, free: list[Delta]) -> None:
        if isinstance(delta, Usage):
            self.usage = with_later(self.usage, delta)
        elif isinstance(delta, Stop):
            self.stop = self.stop or delta
        elif isinstance(delta, ToolCall | ToolArgs | ToolEnd):
            self._sort_call(delta, free)
        else:
            free.append(delta)

    def _sort_call(self, delta: ToolCall | ToolArgs | ToolEnd, free: list[Delta]) -> None:
        if isinstance(delta, ToolCall) and (owned := self._owned.get(delta.name)) is not None:
            self._begun[delta.key] = _Begun(owned, [])
        elif (begun := self._begun.get(delta.key)) is None:
            self.calls_client = True
            free.append(replace(delta, key=f"{self._piece} {delta.key}") if self._piece else delta)
        elif isinstance(delta, ToolArgs):
            begun.arguments.append(delta.json)
        elif isinstance(delta, ToolEnd):
            del self._begun[delta.key]
            call, block = self._write(begun)
            self.calls.append(call)
            free.append(block)

    def _write(self, begun: _Begun) -> tuple[OwnedCall, Block]:
        identifier, arguments = self._new_id(SERVER_CALL), whole_input("".join(begun.arguments))
        if is_deep(bytes(arguments)):  # no tool of ours takes that, and as history it would be refused
            arguments = Raw(b"{}")
        block = encode_call(identifier, begun.owned.name, arguments)
        return OwnedCall(identifier, begun.owned, arguments), block
