"""Calls of the client's tools: as they stream, written whole, as plain text, and wrapped together by mistake."""

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.errors import UpstreamProtocolError
from anthropic_proxy.messages.deltas import Delta, ToolArgs, ToolCall, ToolEnd
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.identities import CallIds
from anthropic_proxy.wire.openai_responses.events import Item

_WRAPPERS = frozenset(("parallel", "multi_tool_use.parallel"))
"""A tool that the models were trained with: now and then they call it though nobody offers it."""
_NAMESPACE = "functions."


class _Use(Struct):
    recipient_name: str
    parameters: Raw = Raw(b"{}")  # immutable


class _Wrapped(Struct):
    tool_uses: list[_Use]


_decode_wrapped = msgspec.json.Decoder(_Wrapped).decode


class OpenCall:
    """One item that is a call, from its first event to its last."""

    __slots__ = ("_began", "_ended", "_key", "_reader", "_streams", "_written")

    def __init__(self, reader: "CallReader") -> None:
        self._reader = reader
        self._key = reader.next_key()
        self._began = self._ended = False
        self._streams = True
        self._written = False

    def begin(self, item: Item, deltas: list[Delta]) -> None:
        """Announce the call as soon as its name is known, unless its arguments must be read whole."""
        if self._began or self._ended or not item.name:
            return
        self._streams = item.type == "function_call" and not self._reader.is_wrapper(item.name)
        if self._streams:
            self._began = True
            deltas.append(self._reader.announce(self._key, item.call_id, item.name))

    def feed(self, fragment: str, deltas: list[Delta]) -> None:
        """Take a fragment of the arguments; of a call that is read whole only the end counts."""
        if self._began and not self._ended and fragment:
            self._written = True
            deltas.append(ToolArgs(self._key, fragment))

    def complete(self, arguments: str, deltas: list[Delta]) -> None:
        """Take the whole arguments where no fragment came."""
        if not self._written:
            self.feed(arguments, deltas)

    def end(self, item: Item | None, deltas: list[Delta]) -> None:
        """End the call; `item` is the complete one, None where the answer was cut before it came.

        What comes after its end says nothing. Raises `UpstreamProtocolError` for a complete call without a name.
        """
        if self._ended:
            return
        if item is not None and not self._began:
            self.begin(item, deltas)
        if item is not None and not self._streams:
            self._reader.say_whole(self._key, item, deltas)
        elif self._began:
            if item is not None:
                self.complete(item.arguments or "", deltas)
            deltas.append(ToolEnd(self._key))
        elif item is not None:
            raise self._reader.nameless()
        self._ended = True


class CallReader:
    """What the calls of one answer share: identifiers, aliases, and which tools the request declares."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._ids = CallIds(call)
        self._count = 0

    def next_key(self) -> int:
        """Return a key that no call of this answer has."""
        self._count += 1
        return self._count - 1

    def is_wrapper(self, name: str) -> bool:
        """Whether this is the wrapper that nobody declared."""
        return name in _WRAPPERS and all(tool.name != name for tool in self._call.request.tools)

    def announce(self, key: int | str, upstream_id: str | None, name: str) -> ToolCall:
        """Return the beginning of a call under the client's own name for its tool."""
        return ToolCall(key, self._ids.keep_or_renew(upstream_id), self._call.aliases.get(name, name))

    def say_whole(self, key: int, item: Item, deltas: list[Delta]) -> None:
        """Say a call of which the complete item is needed."""
        name = item.name or ""
        if item.type == "custom_tool_call":
            arguments = msgspec.json.encode({"input": item.input or ""}).decode()
            self._say(key, item.call_id, name, arguments, deltas)
            return
        try:
            uses = _decode_wrapped(item.arguments or "").tool_uses
        except (msgspec.DecodeError, RecursionError):
            self._say(key, item.call_id, name, item.arguments or "", deltas)
            return
        for position, use in enumerate(uses):
            own_id = f"{item.call_id}_{position}" if item.call_id else None
            name = use.recipient_name.removeprefix(_NAMESPACE)
            self._say(f"{key}.{position}", own_id, name, bytes(use.parameters).decode(), deltas)

    def nameless(self) -> UpstreamProtocolError:
        """Return the error for a call without a name."""
        provider = self._call.provider
        return UpstreamProtocolError(f"{provider} sent a tool call without a name.", provider=provider)

    def _say(self, key: int | str, upstream_id: str | None, name: str, arguments: str, deltas: list[Delta]) -> None:
        deltas.append(self.announce(key, upstream_id, name))
        if arguments:
            deltas.append(ToolArgs(key, arguments))
        deltas.append(ToolEnd(key))
