"""`FinalCall`: a tool call of a reply as the client gets it. Verdicts, records and sent bytes come from this object.

Inspectors replace texts of a request by placeholders, and a model may write these into the arguments of a tool. The
client gets the texts in their place. This happens by `finish_call` and nowhere else, as the last change of the
arguments: behind the writer of a translated reply (`FinalCalls`), and behind the inspectors of a relayed one
(`RelayedCalls`). So a call has two forms, which differ by nothing but its restored texts: `arguments`, which the client
runs, and `shown`, which everybody else may see.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.events import BlockStart, BlockStop, Event, InputDelta, ToolCallStart
from anthropic_proxy.engine.messages.models import MessagesResponse
from anthropic_proxy.engine.messages.server_tools import CALL_TYPES
from anthropic_proxy.engine.patterns import compile_later

PLACEHOLDER = compile_later(r"REDACTED_[A-Z_]{1,40}_[0-9a-f]{16}")
"""Pattern of what stands for a redacted text: its kind, and a keyed hash."""
CLIENT_CALL = "tool_use"
"""Type of the content block of a call that the client runs."""
MAX_KEPT_CHARACTERS = 1_000_000
"""Maximum characters of the arguments of a call that are kept only for a check."""


class RestoredArguments(Struct, frozen=True):
    """Arguments in which placeholders have become texts again."""

    arguments: str
    hidden: Mapping[str, str]
    """Placeholder → the text that took its place. Empty: nothing was restored."""


Restore = Callable[[str], RestoredArguments]
"""Function that puts the texts of a request in place of their placeholders in the arguments of a call."""


class FinalCall(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    shown: str
    """The input as JSON text, with placeholders in place of restored texts. "": `{}`."""
    arguments: str
    """The same with the restored texts: what the client gets."""
    hidden: Mapping[str, str] = {}
    """Placeholder → the text that was restored in its place."""
    is_edited: bool = False
    """True if an inspector has changed the arguments, so that the provider has not seen what the client gets."""
    is_ambiguous: bool = False
    """True if clients may read another input, because the provider has sent it in two ways."""
    is_too_long: bool = False
    """True if the arguments were not kept, because they have more than `MAX_KEPT_CHARACTERS`."""


def finish_call(
    call_id: str,
    name: str,
    arguments: str,
    restore: Restore | None,
    *,
    is_edited: bool = False,
    is_ambiguous: bool = False,
    is_too_long: bool = False,
) -> FinalCall:
    """Return the final form of a call. `restore`: None if no text of the request was redacted."""
    restored = RestoredArguments(arguments, {}) if restore is None else restore(arguments)
    return FinalCall(
        id=call_id,
        name=name,
        shown=arguments,
        arguments=restored.arguments,
        hidden=restored.hidden,
        is_edited=is_edited,
        is_ambiguous=is_ambiguous,
        is_too_long=is_too_long,
    )


def decode_arguments(text: str) -> Any:
    """Return the input of a call as the client reads it.

    If it is no JSON, or has a key twice, of which clients read different values, return its text.
    """
    try:
        return json.loads(text or "{}", object_pairs_hook=_read_once)
    except (ValueError, RecursionError):
        return text


def _read_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key occurs twice")
    return members


class OpenCall:
    """A tool call of a stream that is not complete.

    `is_held`: the client gets the arguments at the end of the call, so all of them are kept.
    """

    def __init__(self, kind: str, call_id: str, name: str, *, is_held: bool) -> None:
        self.kind = kind
        """Type of its content block: one of `CALL_TYPES`."""
        self.id = call_id
        self.name = name
        self.fragments: list[str] = []
        self.size = 0
        """Number of characters of the arguments so far."""
        self.is_too_long = False
        self._is_held = is_held

    @property
    def arguments(self) -> str:
        return "".join(self.fragments)

    def add(self, fragment: str) -> None:
        self.size += len(fragment)
        self.is_too_long = not self._is_held and self.size > MAX_KEPT_CHARACTERS
        if self.is_too_long:
            self.fragments.clear()
        else:
            self.fragments.append(fragment)


class _Block(Struct):
    type: str = ""


class _CallBlock(Struct):
    id: str = ""
    name: str = ""
    input: Raw = Raw(b"{}")  # immutable


_decode_block = msgspec.json.Decoder(_Block).decode
_decode_call = msgspec.json.Decoder(_CallBlock).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode


class FinalCalls:
    """The calls of a translated reply.

    `on_call` gets each call that the client runs, as soon as it is complete. None: nobody waits for it.
    """

    def __init__(self, on_call: Callable[[FinalCall], None] | None, restore: Restore | None) -> None:
        self._on_call = on_call
        self._restore = restore
        self._open: dict[int, OpenCall] = {}
        """Index of a block → its call."""

    def feed(self, events: list[Event]) -> list[Event]:
        """Return the events that the client gets. If texts are restored, arguments wait for the end of their call."""
        sent: list[Event] = []
        holds = self._restore is not None
        for event in events:
            if type(event) is InputDelta and event.index in self._open:
                self._open[event.index].add(event.json)
                if holds:
                    continue
            elif type(event) is ToolCallStart:
                self._open[event.index] = OpenCall(CLIENT_CALL, event.id, event.name, is_held=holds)
            elif type(event) is BlockStart and holds and (kind := _decode_block(event.raw).type) in CALL_TYPES:
                self._open[event.index] = OpenCall(kind, "", "", is_held=True)
            elif type(event) is BlockStop and (call := self._open.pop(event.index, None)) is not None:
                final = self._finish(call)
                if holds:
                    fragments = [final.arguments] if final.hidden else call.fragments
                    sent += [InputDelta(event.index, fragment) for fragment in fragments]
            sent.append(event)
        return sent if holds else events

    def finish_message(self, message: MessagesResponse) -> None:
        """Bring all calls of a complete message into their final form."""
        for place, raw in enumerate(message.content):
            kind = _decode_block(raw).type
            if kind not in CALL_TYPES:
                continue
            block = _decode_call(raw)
            call = finish_call(block.id, block.name, bytes(block.input).decode(errors="replace"), self._restore)
            if call.hidden:
                members = {**_decode_members(raw), "input": Raw(call.arguments.encode())}
                message.content[place] = Raw(msgspec.json.encode(members))
            if kind == CLIENT_CALL and self._on_call is not None:
                self._on_call(call)

    def _finish(self, call: OpenCall) -> FinalCall:
        final = finish_call(call.id, call.name, call.arguments, self._restore, is_too_long=call.is_too_long)
        if self._on_call is not None and call.kind == CLIENT_CALL:
            self._on_call(final)
        return final
