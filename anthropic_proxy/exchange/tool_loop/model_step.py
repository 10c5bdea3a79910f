"""`ModelStep`: one reply of the model between two runs of the proxy's tools.

The proxy runs some tools itself and then calls the model again. `feed` returns the deltas (decoded fragments) of a
reply for the client, and collects its calls of such tools in `calls`. `begin_continuation` prepares for the next
response of a reply that the provider split. `finish` ends the step. `sent_blocks_and_tokens` returns the blocks that
the client has received.
"""

from collections.abc import Callable, Mapping

from msgspec import Raw, Struct
from msgspec.structs import replace

from anthropic_proxy.exchange.single_call import SingleToolCallFilter
from anthropic_proxy.exchange.tool_loop.runner import ProxyToolCall
from anthropic_proxy.messages.deltas import Block, Delta, Stop, ToolArgs, ToolCall, ToolEnd, Usage, merge_stops
from anthropic_proxy.messages.fold import Fold
from anthropic_proxy.messages.models.blocks import is_json_text_too_deep
from anthropic_proxy.messages.preparation import ProxyTool
from anthropic_proxy.messages.server_blocks import SERVER_TOOL_ID_PREFIX, encode_server_tool_call
from anthropic_proxy.messages.tool_arguments import build_arguments_object
from anthropic_proxy.messages.usage import merge_latest
from anthropic_proxy.messages.writer import MessageWriter


class _IncompleteCall(Struct):
    """A call of a proxy tool (run by the proxy) of which some arguments have not arrived."""

    proxy_tool: ProxyTool
    arguments: list[str]


class ModelStep:
    """One reply of the model, after which the proxy may run tools and call the model again.

    It has several upstream responses if the provider splits the reply.
    """

    def __init__(
        self, proxy_tools: Mapping[str, ProxyTool], signature: str, new_id: Callable[[str], str], *, one_call: bool
    ) -> None:
        self._proxy_tools = proxy_tools
        self._new_id = new_id
        self._call_filter = SingleToolCallFilter() if one_call else None
        self._fold = Fold(MessageWriter(message_id="", model="", signature=signature))
        """Assembler of the deltas of this step into one message, as a client would assemble them."""
        self._incomplete_calls: dict[int | str, _IncompleteCall] = {}
        self._continuations = 0
        self.calls: list[ProxyToolCall] = []
        """Complete calls of proxy tools in this step, in the order of the reply."""
        self.calls_client = False
        """True if the model also called a tool that the client runs."""
        self.stop: Stop | None = None
        """Stop reason of the reply in this step. None: not received yet."""
        self.usage = Usage()
        """Token usage of the current upstream call."""

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        """Process the deltas (decoded fragments) of one network read, and return those for the client.

        Complete calls of proxy tools are added to `calls`.
        """
        if self._call_filter is not None:
            deltas = self._call_filter.feed(deltas)
        forwarded: list[Delta] = []
        for delta in deltas:
            self._apply(delta, forwarded)
        self._fold.feed(forwarded)
        return forwarded

    def finish(self) -> list[Delta]:
        """End the step, and return a block for each call of a proxy tool that has incomplete arguments.

        The client receives these calls, but the proxy does not run them.
        """
        forwarded: list[Delta] = [self._encode_call(incomplete)[1] for incomplete in self._incomplete_calls.values()]
        self._incomplete_calls = {}
        self._fold.feed(forwarded)
        return forwarded

    def begin_continuation(self) -> None:
        """Prepare for another upstream response of the same reply, which the provider has split."""
        self._continuations += 1
        self.usage, self.stop = Usage(), None

    def sent_blocks_and_tokens(self) -> tuple[list[Raw], int]:
        """Return the blocks that the client received in this step, as JSON, and the estimated tokens of their text."""
        self._fold.feed([Stop("end_turn")])
        message = self._fold.finish()
        return message.content, message.usage.output_tokens

    def _apply(self, delta: Delta, forwarded: list[Delta]) -> None:
        if isinstance(delta, Usage):
            self.usage = merge_latest(self.usage, delta)
        elif isinstance(delta, Stop):
            self.stop = merge_stops(self.stop, delta)
        elif isinstance(delta, ToolCall | ToolArgs | ToolEnd):
            self._apply_call(delta, forwarded)
        else:
            forwarded.append(delta)

    def _apply_call(self, delta: ToolCall | ToolArgs | ToolEnd, forwarded: list[Delta]) -> None:
        if isinstance(delta, ToolCall) and (proxy_tool := self._proxy_tools.get(delta.name)) is not None:
            self._incomplete_calls[delta.key] = _IncompleteCall(proxy_tool, [])
        elif (incomplete := self._incomplete_calls.get(delta.key)) is None:
            self.calls_client = True
            forwarded.append(replace(delta, key=f"{self._continuations} {delta.key}") if self._continuations else delta)
        elif isinstance(delta, ToolArgs):
            incomplete.arguments.append(delta.json)
        elif isinstance(delta, ToolEnd):
            del self._incomplete_calls[delta.key]
            call, block = self._encode_call(incomplete)
            self.calls.append(call)
            forwarded.append(block)

    def _encode_call(self, incomplete: _IncompleteCall) -> tuple[ProxyToolCall, Block]:
        identifier, arguments = (
            self._new_id(SERVER_TOOL_ID_PREFIX),
            build_arguments_object("".join(incomplete.arguments)),
        )
        if is_json_text_too_deep(
            bytes(arguments)
        ):  # no proxy tool accepts this, and history validation would reject it
            arguments = Raw(b"{}")
        block = encode_server_tool_call(identifier, incomplete.proxy_tool.name, arguments)
        return ProxyToolCall(identifier, incomplete.proxy_tool, arguments), block
