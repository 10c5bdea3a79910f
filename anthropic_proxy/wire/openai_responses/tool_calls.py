"""Decoder of client tool calls in replies of the Responses API, streamed or complete.

`ToolCallItemDecoder` decodes one call and appends its deltas to a list. `ToolCallContext` has the state that all calls
of a reply share. A custom tool call has plain text as input.

Some models put several calls into the arguments of one call of a tool named `parallel`. This call is a parallel
wrapper. The client receives the calls in it one by one, without the wrapper.

In an upstream request, each MCP server has a label, which can differ from the client's name of the server.
`find_mcp_server_name` returns the client's name for a label.
"""

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.errors import UpstreamProtocolError
from anthropic_proxy.messages.deltas import Delta, ToolArgs, ToolCall, ToolEnd
from anthropic_proxy.messages.tool_arguments import is_truncated_object
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.openai_responses.dialect import Dialect
from anthropic_proxy.wire.openai_responses.frames import OutputItem
from anthropic_proxy.wire.openai_responses.tools import mcp_server_names_by_label
from anthropic_proxy.wire.tool_call_ids import ToolCallIds

_WRAPPERS = frozenset(("parallel", "multi_tool_use.parallel"))
"""Names of the tool `parallel`, a call with several calls in its arguments. Models sometimes call it although the
request does not offer it."""
_NAMESPACE = "functions."


class _Use(Struct):
    recipient_name: str
    parameters: Raw = Raw(b"{}")  # immutable


class _Wrapped(Struct):
    tool_uses: list[_Use]


_decode_wrapped = msgspec.json.Decoder(_Wrapped).decode


class ToolCallItemDecoder:
    """Decoder of one client tool call, from the first event of its output item to the last."""

    __slots__ = ("_began", "_ended", "_held", "_key", "_reader", "_streams", "_written", "incomplete")

    def __init__(self, reader: "ToolCallContext") -> None:
        self._reader = reader
        self._key = reader.new_call_key()
        self._began = self._ended = False
        self._streams = True
        self._written = ""  # latest fragment of the arguments
        self._held: list[str] = []  # fragments of the arguments of a call that is emitted at its end
        self.incomplete = False
        """True if the call ended early. Its item has the status `incomplete`, or its arguments are cut."""

    def start_call(self, item: OutputItem, deltas: list[Delta]) -> None:
        """Append the delta that starts a tool call to `deltas` once its name is known.

        Custom tool calls and parallel wrappers start only when they are complete.
        """
        if self._began or self._ended or not item.name:
            return
        self._streams = item.type == "function_call" and not self._reader.is_parallel_wrapper(item.name)
        if self._streams:
            self._began = True
            deltas.append(self._reader.build_tool_call(self._key, item.call_id, item.name))

    def add_arguments_fragment(self, fragment: str, deltas: list[Delta]) -> None:
        """Append a delta with a fragment of the arguments to `deltas`, if the tool call has started.

        Fragments before the start: those of a custom tool call or parallel wrapper are stored, because such a call
        starts only when it is complete. Those of other calls are dropped, because the complete arguments follow.
        """
        if self._ended or not fragment:
            return
        if self._began:
            deltas.append(ToolArgs(self._key, fragment))
        elif not self._streams:
            self._held.append(fragment)
        else:
            return
        self._written = fragment

    def add_complete_arguments(self, arguments: str, deltas: list[Delta]) -> None:
        """Append the complete arguments of a tool call to `deltas`, unless fragments of them came before."""
        if not self._written:
            self.add_arguments_fragment(arguments, deltas)

    def end_call(self, item: OutputItem | None, deltas: list[Delta], *, reply_ended_early: bool = False) -> None:
        """Append the remaining deltas of the tool call and its `ToolEnd` to `deltas`.

        `item` is None if the reply ended before the complete item arrived. Raises `UpstreamProtocolError` if the
        complete item has no name.
        """
        if self._ended:
            return
        if item is not None and not self._began:
            self.start_call(item, deltas)
        if item is not None and not self._streams:
            self._reader.emit_complete_call(self._key, item, item.arguments or "".join(self._held), deltas)
        elif self._began:
            if item is not None:
                self.add_complete_arguments(item.arguments or "", deltas)
            self.incomplete = self._is_cut(item, reply_ended_early=reply_ended_early)
            deltas.append(ToolEnd(self._key))
        elif item is not None:
            raise self._reader.build_missing_name_error()
        self._ended = True

    def _is_cut(self, item: OutputItem | None, *, reply_ended_early: bool) -> bool:
        if item is None:
            return reply_ended_early or (self._written != "" and not self._written.rstrip().endswith("}"))
        return item.status == "incomplete" or is_truncated_object(item.arguments or "")


class ToolCallContext:
    """State that all tool calls of one reply share: keys, ids, tool names, and names of MCP servers."""

    def __init__(self, call: Call[Dialect]) -> None:
        self._call = call
        self._ids = ToolCallIds(call)
        self._count = 0
        self._servers: dict[str, str] | None = None
        self._wrappers: frozenset[str] | None = None

    def new_call_key(self) -> int:
        """Return a new key, which links the deltas of one tool call. No other call of the reply has it."""
        self._count += 1
        return self._count - 1

    def is_parallel_wrapper(self, name: str) -> bool:
        """Return True if `name` is a parallel wrapper, a tool that the client does not offer."""
        if name not in _WRAPPERS:
            return False
        if self._wrappers is None:
            self._wrappers = _WRAPPERS.difference(tool.name for tool in self._call.request.tools)
        return name in self._wrappers

    def find_mcp_server_name(self, label: str) -> str:
        """Return the client's name of an MCP server. `label`: the server's name in the upstream request.

        An unknown label is returned unchanged.
        """
        if self._servers is None:
            self._servers = mcp_server_names_by_label(self._call.request)
        return self._servers.get(label, label)

    def build_tool_call(self, key: int | str, upstream_id: str | None, name: str) -> ToolCall:
        """Return the delta that starts a call, with the client's tool name and an id for the client."""
        return ToolCall(key, self._ids.assign_client_id(upstream_id), self._call.client_tool_names.get(name, name))

    def emit_complete_call(self, key: int, item: OutputItem, arguments: str, deltas: list[Delta]) -> None:
        """Append the deltas of a custom tool call, or of all calls in a parallel wrapper."""
        name = item.name or ""
        if item.type == "custom_tool_call":
            text_input = msgspec.json.encode({"input": item.input or ""}).decode()
            self._emit(key, item.call_id, name, text_input, deltas)
            return
        try:
            uses = _decode_wrapped(arguments).tool_uses
        except (msgspec.DecodeError, RecursionError):
            self._emit(key, item.call_id, name, arguments, deltas)
            return
        for position, use in enumerate(uses):
            own_id = f"{item.call_id}_{position}" if item.call_id else None
            name = use.recipient_name.removeprefix(_NAMESPACE)
            self._emit(f"{key}.{position}", own_id, name, bytes(use.parameters).decode(), deltas)

    def build_missing_name_error(self) -> UpstreamProtocolError:
        """Return the error for a tool call without a name, which the client could not run."""
        provider = self._call.provider
        return UpstreamProtocolError(f"{provider} sent a tool call without a name.", provider=provider)

    def _emit(self, key: int | str, upstream_id: str | None, name: str, arguments: str, deltas: list[Delta]) -> None:
        deltas.append(self.build_tool_call(key, upstream_id, name))
        if arguments:
            deltas.append(ToolArgs(key, arguments))
        deltas.append(ToolEnd(key))
