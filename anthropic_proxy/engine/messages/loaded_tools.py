"""Loaded tools: tools that a tool search has found, offered without a change of the prompt's beginning.

Claude Code hides most tools from the model. Its tool `ToolSearch` returns `tool_reference` blocks, and each later
request has the named tools in `tools`. Providers bill a prompt that begins like an earlier one at a fraction, and tools
stand at its beginning: one more tool there, and the whole conversation is billed in full again. So the list stays as it
was, and a loaded tool stands where it was loaded:

- `caller`: its definition is text in the result of the search. The model calls it by one tool that is in the list from
  the first request on, `CallLoadedTool`, with the arguments `name` and `arguments`. `LoadedToolCalls` converts such
  calls of a reply back, and `rewrite_history` converts earlier calls forward.
- `items`: the wire puts the definition behind the result of the search, and the model calls the tool as any other.
- `listed`: the definition is added to the list, for providers whose prompt cache saves less than such calls cost.

The searches of the API that the proxy runs for its clients are treated alike (`resolve_deferred_tools`).

After a compaction, the searches are no longer in the messages, but the client still declares what they have loaded.
Such tools stand in the list from the first request on, so they stay there if a later search names them again.

The request for the summary itself lacks the newest exchange. A tool that this exchange has loaded is declared, but the
messages end before its search, so it is left out instead of being added to the list. The same is true if no request had
the result of the search yet, because the client asks for a summary in place of this request. A loaded tool whose search
is missing for another reason is added: after a compaction, or if the client has cleared the result.

Only tools that the request of the client declares and an earlier result names are loaded. A deferred tool that the
proxy's search has not found yet is called by its name too, because the model may know it from a text. A call of any
other name is delivered as a call of `CallLoadedTool`: the client reports an unknown tool, and the model calls again.
"""

import functools
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from anthropic_proxy.engine.messages.deltas import Delta, ToolArgs, ToolCall, ToolEnd
from anthropic_proxy.engine.messages.models import (
    Block,
    Message,
    Tool,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    decode_nested_content,
)
from anthropic_proxy.engine.messages.models.client_json import decode_values
from anthropic_proxy.engine.messages.models.raw_json import replace_lone_escapes
from anthropic_proxy.engine.messages.models.tool_arguments import ObjectEnd
from anthropic_proxy.engine.messages.models.tools import ToolList, is_client_tool, list_tool_names, share_tools
from anthropic_proxy.engine.patterns import compile_anchored

LoadedToolForm = Literal["caller", "items", "listed"]
"""Place of the definitions of loaded tools in upstream requests."""
CALLER_NAME = "CallLoadedTool"
PLACEHOLDER_NAME = "DeferredToolPlaceholder"
"""Name of a tool without function that Claude Code adds if it loads tools on demand. It is not sent to the model."""

_REFERENCE = b'"tool_reference'
_SOURCE = msgspec.json.encode(
    {
        "name": CALLER_NAME,
        "description": "Calls a tool that a tool search has loaded and that is not in the list of tools. The result "
        "of the search has its name, its description and the JSON Schema of its arguments.",
        "input_schema": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "description": "The name of the loaded tool."},
                "arguments": {
                    "type": "object",
                    "description": "The arguments of the loaded tool, which fit its JSON Schema.",
                    "additionalProperties": True,
                },
            },
            "required": ["name", "arguments"],
        },
    }
)
CALLER = replace(msgspec.json.decode(_SOURCE, type=Tool), source=_SOURCE)
"""Definition of the constant tool."""


class DeferredToolPlaces(Struct, frozen=True):
    """Names of deferred tools of a client by their place, or digests of the names in earlier requests."""

    listed: Collection[str] = ()
    """In the list of tools."""
    placed: Mapping[str, int] = {}
    """Where a search has loaded them. The value is the number of messages up to the result of the search."""
    next_result: int = 0
    """Number of messages up to the result of a search in the reply to the latest request. 0: unknown."""


NOWHERE = DeferredToolPlaces()


def digest_tool_name(name: str) -> str:
    """Return a hash of 8 bytes, in place of a name of any length."""
    return hashlib.blake2b(name.encode(errors="replace"), digest_size=8).hexdigest()


def place_loaded_tools(
    tools: list[Tool],
    messages: Sequence[Message],
    form: LoadedToolForm,
    forced_name: str | None,
    earlier: DeferredToolPlaces = NOWHERE,
) -> tuple[list[Tool], Mapping[str, Sequence[Tool]], DeferredToolPlaces]:
    """Return the tools to list, the loaded tools by the id of the tool result that has loaded them, and the places of
    deferred tools.

    Without Claude Code's placeholder, the list is returned as it is: other clients may declare all tools from the first
    request on. A tool that `tool_choice` forces, or that no search in the messages names, stays in the list, and so do
    those of `earlier.listed`. A tool of `earlier.placed`, and one that no earlier request had, is left out if the
    messages end before its search.
    """
    names = list_tool_names(tools)
    if form == "listed" or PLACEHOLDER_NAME not in names or CALLER_NAME in names:
        return tools, {}, NOWHERE
    deferred = {
        tool.name: tool
        for tool in tools
        if tool.defer_loading and is_client_tool(tool) and tool.name not in (PLACEHOLDER_NAME, forced_name)
    }
    listed = [name for name in deferred if earlier.listed and digest_tool_name(name) in earlier.listed]
    for name in listed:
        del deferred[name]
    loaded, placed = _find_searches(messages, deferred) if deferred else ({}, {})
    others = [name for name in deferred if name not in placed]
    later = {name for name in others if earlier.placed.get(digest_tool_name(name), earlier.next_result) > len(messages)}
    listed += [name for name in others if name not in later]
    places = DeferredToolPlaces(listed, placed)
    unlisted = frozenset(placed.keys() | later)
    if isinstance(tools, ToolList):
        return _list_tools_cached(tools, unlisted, forced_name, form), loaded, places
    return _list_tools(tools, unlisted, forced_name, form), loaded, places


def _find_searches(
    messages: Sequence[Message], deferred: Mapping[str, Tool]
) -> tuple[dict[str, list[Tool]], dict[str, int]]:
    """Return the loaded tools by the id of the tool result that has loaded them, and the number of the message with
    this result by the name of the tool.
    """
    loaded: dict[str, list[Tool]] = {}
    placed: dict[str, int] = {}
    for count, message in enumerate(messages, 1):
        if message.role != "user" or isinstance(message.content, str):
            continue
        for block in message.content:
            if type(block) is ToolResultBlock and block.tool_use_id not in loaded:
                if _REFERENCE not in bytes(block.content):
                    continue
                inner = decode_nested_content(block.content)
                named = dict.fromkeys(one.tool_name for one in inner if isinstance(one, ToolReferenceBlock))
                if found := [name for name in named if name in deferred and name not in placed]:
                    placed.update(dict.fromkeys(found, count))
                    loaded[block.tool_use_id] = [deferred[name] for name in found]
    return loaded, placed


def _list_tools(
    tools: Sequence[Tool], unlisted: Collection[str], forced_name: str | None, form: LoadedToolForm
) -> list[Tool]:
    """Return the tools to list. The tools that every request of a session has come first, and `CALLER` after them."""
    given = [tool for tool in tools if tool.name not in unlisted and tool.name != PLACEHOLDER_NAME]
    first = [tool for tool in given if not tool.defer_loading or tool.name == forced_name]
    last = [tool for tool in given if tool.defer_loading and tool.name != forced_name]
    return share_tools([*first, *([CALLER] if form == "caller" else ()), *last])


# equal results for equal arguments, because caches use the list as a key
_list_tools_cached = functools.lru_cache(maxsize=64)(_list_tools)


def find_unplaced_tools(messages: Sequence[Message], loaded: Mapping[str, Sequence[Tool]]) -> list[Tool]:
    """Return the loaded tools whose result is not in `messages`, because its call id was repaired."""
    results = {
        block.tool_use_id
        for message in messages
        if message.role == "user"
        for block in message.blocks
        if isinstance(block, ToolResultBlock)
    }
    return [tool for call_id, tools in loaded.items() if call_id not in results for tool in tools]


def rewrite_history(messages: Sequence[Message], loaded: Mapping[str, Sequence[Tool]]) -> list[Message]:
    """Return the messages with the definitions of loaded tools in the results that have loaded them (`caller`).

    Later calls of these tools become calls of `CallLoadedTool`.
    """
    waiting = dict(loaded)
    names: set[str] = set()
    rewritten: list[Message] = []
    for message in messages:
        if isinstance(message.content, str) or message.role == "system":
            rewritten.append(message)
            continue
        blocks: list[Block] = []
        for block in message.content:
            if type(block) is ToolUseBlock and block.name in names:
                given = b'{"name":%b,"arguments":%b}' % (msgspec.json.encode(block.name), bytes(block.input))
                blocks.append(replace(block, name=CALLER_NAME, input=Raw(given)))
            elif type(block) is ToolResultBlock and (found := waiting.pop(block.tool_use_id, None)):
                names.update(tool.name for tool in found)
                blocks.append(replace(block, content=_with_definitions(block.content, found)))
            else:
                blocks.append(block)
        rewritten.append(replace(message, content=blocks))
    return rewritten


def _with_definitions(content: Raw, tools: Sequence[Tool]) -> Raw:
    definitions = {}
    for tool in tools:
        lines = [f"Tool loaded: {tool.name}. Call it by {CALLER_NAME}, with this name."]
        if tool.description:
            lines.append(f"Description: {tool.description}")
        lines.append(f"JSON Schema of its arguments: {bytes(tool.input_schema).decode() or '{}'}")
        definitions[tool.name] = "\n".join(lines)
    decoded: Any = decode_values(content)
    blocks = [{"type": "text", "text": decoded}] if isinstance(decoded, str) else decoded
    for place, block in enumerate(blocks):
        if isinstance(block, dict) and block.get("type") == "tool_reference":
            text = definitions.pop(block.get("tool_name", ""), None)
            if text is not None:
                blocks[place] = {"type": "text", "text": text}
    blocks += [{"type": "text", "text": text} for text in definitions.values()]  # of a search that the proxy has run
    return Raw(msgspec.json.encode(blocks))


_BEGINNING = compile_anchored(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)')
_MAX_BEGINNING = 512
"""Maximum length of the text before the arguments that is recognized while it arrives. A longer one is read at the end
of the call."""


class LoadedToolCalls:
    """Filter of one reply: calls of `CallLoadedTool` become calls of the loaded tools that they name.

    The arguments are passed on as they arrive if the model writes `name` first, else at the end of the call. Members
    beside `name` and `arguments` are ignored. If `arguments` is missing, `name` must be the only member: others may be
    the arguments.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._open: dict[int | str, _CallerCall] = {}

    @property
    def held_characters(self) -> int:
        """Number of characters of arguments that are read at the end of their calls."""
        return sum(call.held_characters for call in self._open.values())

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        if not self._open and ToolCall not in map(type, deltas):
            return deltas
        converted: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, ToolCall) and delta.name == CALLER_NAME:
                self._open[delta.key] = _CallerCall(delta, self._names)
            elif isinstance(delta, ToolArgs) and (call := self._open.get(delta.key)):
                converted += call.feed(delta.json)
            elif isinstance(delta, ToolEnd) and (call := self._open.pop(delta.key, None)):
                converted += [*call.end(), delta]
            else:
                converted.append(delta)
        return converted


class _CallerCall:
    """One call of `CallLoadedTool` that is being received."""

    def __init__(self, call: ToolCall, names: Collection[str]) -> None:
        self._call = call
        self._names = names
        self._held: list[str] = []
        self.held_characters = 0
        self._forwards = False
        """True after the name was read: the arguments are passed on."""
        self._end = ObjectEnd()

    def feed(self, text: str) -> list[Delta]:
        if self._forwards:
            return self._forward(text)
        self._held.append(text)
        self.held_characters += len(text)
        if self.held_characters - len(text) > _MAX_BEGINNING:
            return []
        held = "".join(self._held)
        beginning = _BEGINNING.match(held[: _MAX_BEGINNING + 1])
        try:
            name = msgspec.json.decode(beginning[1], type=str) if beginning is not None else ""
        except (msgspec.DecodeError, UnicodeError):
            name = ""
        if beginning is None or name not in self._names:
            return []
        self._forwards, self.held_characters = True, 0
        return [replace(self._call, name=name), *self._forward(held[beginning.end() :])]

    def end(self) -> list[Delta]:
        """Return the deltas of a call whose arguments were not passed on. Without a loaded name it stays as it is."""
        if self._forwards:
            return []
        text = "".join(self._held)
        name, arguments = CALLER_NAME, text
        try:
            given = msgspec.json.decode(replace_lone_escapes(text), type=dict[str, Raw])
            called = msgspec.json.decode(given.pop("name"), type=str)
            value = bytes(given["arguments"]) if given else b"{}"
            if value.startswith(b'"'):  # some models write the object as a string
                value = msgspec.json.decode(value, type=str).encode()
            msgspec.json.decode(value, type=dict)
            if called in self._names:
                name = called
                arguments = value.decode()
        except (KeyError, msgspec.DecodeError, RecursionError, UnicodeError):
            pass
        return [replace(self._call, name=name), ToolArgs(self._call.key, arguments)]

    def _forward(self, text: str) -> list[Delta]:
        kept = text[: self._end.feed(text)]
        return [ToolArgs(self._call.key, kept)] if kept else []
