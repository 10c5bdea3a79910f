"""Decoder of tool calls in Chat Completions responses, which arrive as fragments of a name and of arguments.

`ToolCallDecoder` decodes the calls of one response. `read_fragment` adds one fragment to the call that it belongs to.
`end_complete_calls` ends the calls with complete arguments (a whole JSON object). `end_all_calls` ends all calls at the
end of the reply. If the reply ended early (output limit, content filter, interruption), incomplete arguments are not
repaired. `flush_pending` appends buffered arguments to a list of deltas after an interruption, and ends no call.
"""

from anthropic_proxy.errors import UpstreamProtocolError
from anthropic_proxy.messages.deltas import Delta, ToolArgs, ToolCall, ToolEnd
from anthropic_proxy.messages.tool_arguments import is_truncated_object
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.openai_chat.frames import FunctionCall, ToolCallDelta
from anthropic_proxy.wire.tool_call_ids import ToolCallIds
from anthropic_proxy.wire.tool_call_repair import ToolCallRepair, is_json_object

_NO_FUNCTION = FunctionCall()


class _OpenCall:
    """A tool call of the reply that has begun."""

    __slots__ = ("arguments", "ended", "id", "key", "name", "own_name")

    def __init__(self, key: int, upstream_id: str) -> None:
        self.key = key
        self.id = upstream_id
        self.name = ""
        self.own_name = ""  # the client's
        self.arguments: list[str] = []
        self.ended = False

    def is_complete(self) -> bool:
        """Return True if the arguments received so far are a complete JSON object."""
        text = "".join(self.arguments).strip()
        return text.endswith("}") and is_json_object(text)


class ToolCallDecoder:
    """Converts the tool call fragments of one response into the deltas `ToolCall`, `ToolArgs` and `ToolEnd`."""

    # Fragments with the same `index` belong to one call. Some servers omit `index` or ids, or use index 0 for every
    # call.
    def __init__(self, call: Call[Dialect]) -> None:
        self._call = call
        self._slots: dict[int, _OpenCall] = {}
        self._by_id: dict[str, _OpenCall] = {}
        self._last: _OpenCall | None = None
        self._open: list[_OpenCall] = []
        self.call_count = 0
        """Number of tool calls begun so far."""
        self.has_incomplete_arguments = False
        """True if a call ended with incomplete arguments."""
        self._ids = ToolCallIds(call)
        self._holds: bool = call.dialect.buffers_tool_arguments
        self.repair = ToolCallRepair(call, names=call.dialect.repairs_tool_names)
        """Repairs tool names and arguments if the server requires it. Its notes record the repairs."""

    def read_fragment(self, fragment: ToolCallDelta, deltas: list[Delta]) -> None:
        """Decode one fragment of a tool call, or a complete call, and append its deltas to `deltas`."""
        function = fragment.function or _NO_FUNCTION
        if fragment.id is None and function.name is None and fragment.index is not None:
            known = self._slots.get(fragment.index)
            if known is not None and known.name and not known.ended:  # the usual fragment
                if function.arguments:
                    known.arguments.append(function.arguments)
                    if not self._holds:
                        deltas.append(ToolArgs(known.key, function.arguments))
                return
        call = self._find(fragment, function)
        if call is None:
            self.end_complete_calls(deltas)
            call = self._begin(fragment)
        if not call.name and function.name:
            self._name(call, function.name, self.repair.repair_name(function.name), deltas)
        if function.arguments:
            call.arguments.append(function.arguments)
            if call.name and not self._holds:
                deltas.append(ToolArgs(call.key, function.arguments))

    def flush_pending(self, deltas: list[Delta]) -> None:
        """Append the buffered arguments of open calls to `deltas` after an interruption. The calls are not ended."""
        for call in self._open:
            if self._holds and call.name and (text := "".join(call.arguments)):
                call.arguments = []
                deltas.append(ToolArgs(call.key, text))

    def buffers_truncated_arguments(self) -> bool:
        """Return True if the buffered arguments of an open call lack their end, which a repair would add."""
        return self._holds and any(is_truncated_object("".join(call.arguments)) for call in self._open)

    def end_complete_calls(self, deltas: list[Delta]) -> None:
        """Append the delta `ToolEnd` for each open tool call with complete arguments (a whole JSON object).

        Call this before text or thinking. Other calls stay open, because more of their fragments may follow.
        """
        for call in [call for call in self._open if call.is_complete()]:
            self._end(call, deltas)

    def end_all_calls(self, deltas: list[Delta], *, reply_ended_early: bool = False) -> None:
        """Append `ToolEnd` for every open call to `deltas`. Call this at the end of the reply.

        A call without a name and without arguments is removed. Raises `UpstreamProtocolError` if the name of another
        call is missing.
        """
        for call in list(self._open):
            if not call.name and not "".join(call.arguments).strip():
                self._open.remove(call)
                call.ended = True
                continue
            text = self._end(call, deltas, reply_ended_early=reply_ended_early)
            if is_truncated_object(text) or (reply_ended_early and not text):
                self.has_incomplete_arguments = True

    def _name(self, call: _OpenCall, wire_name: str, name: str, deltas: list[Delta]) -> None:
        call.name, call.own_name = wire_name, name
        deltas.append(ToolCall(call.key, self._ids.assign_client_id(call.id), name))
        if not self._holds:
            deltas += [ToolArgs(call.key, text) for text in call.arguments]

    def _end(self, call: _OpenCall, deltas: list[Delta], *, reply_ended_early: bool = False) -> str:
        """Append the buffered deltas and the `ToolEnd` of a call to `deltas`. Return the arguments of the call.

        `reply_ended_early`: True if the reply did not end normally, so the arguments may be incomplete.
        """
        if not call.name:
            name = self.repair.find_name_by_arguments("".join(call.arguments))
            if name is None:
                provider = self._call.provider
                raise UpstreamProtocolError(f"{provider} sent a tool call without a name.", provider=provider)
            self._name(call, name, name, deltas)
        text = "".join(call.arguments)
        if self._holds and text:
            text = text if reply_ended_early else self.repair.repair_arguments(text, call.own_name)
            deltas.append(ToolArgs(call.key, text))
        self._open.remove(call)
        call.ended = True
        deltas.append(ToolEnd(call.key))
        return text

    def _find(self, fragment: ToolCallDelta, function: FunctionCall) -> _OpenCall | None:
        """Return the open call that a fragment continues. None: the fragment begins a new call."""
        if fragment.index is not None:
            call = self._slots.get(fragment.index)
        elif fragment.id:
            call = self._by_id.get(fragment.id)
        else:
            call = None if function.name else self._last
        if call is None or call.ended:
            return self._after_the_end(call, fragment, function)
        if fragment.id and call.id and fragment.id != call.id:
            return None
        if fragment.id or not function.name or not call.name:
            return call
        # Without ids only the name distinguishes the next call from a repetition of the same name.
        is_next = function.name != call.name or (function.arguments and call.is_complete())
        return None if is_next else call

    def _after_the_end(
        self, call: _OpenCall | None, fragment: ToolCallDelta, function: FunctionCall
    ) -> _OpenCall | None:
        """Return `call`, a call that has ended, if the fragment adds nothing to it. None: a new call begins.

        Raises `UpstreamProtocolError` if the fragment continues the arguments of the ended call.
        """
        if call is None or function.name or (fragment.id and fragment.id != call.id):
            return None
        if (function.arguments or "").strip():
            provider = self._call.provider
            raise UpstreamProtocolError(f"{provider} continued a tool call that was complete.", provider=provider)
        return call

    def _begin(self, fragment: ToolCallDelta) -> _OpenCall:
        call = _OpenCall(self.call_count, fragment.id or "")
        self.call_count += 1
        self._open.append(call)
        self._last = call
        if fragment.index is not None:
            self._slots[fragment.index] = call
        if fragment.id:
            self._by_id[fragment.id] = call
        return call
