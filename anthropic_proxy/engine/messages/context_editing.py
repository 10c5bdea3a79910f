"""Edits of the conversation by the request field `context_management`, for models of other APIs.

Theory of operation. An edit removes what is old: results of tools, inputs of their calls, thinking. What it removes
depends on the request alone, by token counts that all instances have in common, and later requests of the conversation
remove the same and possibly more. So the model reads an equal beginning until an edit moves on, and the provider's
cache has it.

`clear_at_least` lets an edit move on only when that many tokens are won. Nothing is stored for this: the edit is
replayed for each earlier request of the conversation, which ended before a reply. Example with `keep` 1 and a trigger
that all requests exceed, for results of 40 tokens each (r1, r2, …) and `clear_at_least` 60:

    request             could clear    wins    clears
    u1 a1 r1            nothing        0       nothing
    u1 a1 r1 a2 r2      r1             40      nothing
    u1 … r2 a3 r3       r1 r2          80      r1 r2
    u1 … r3 a4 r4       r1 r2 r3       40      r1 r2, as before

The trigger is compared with the conversation as the client has sent it, so that what was cleared stays cleared. Results
behind the last reply are never cleared, because no model has read them, nor those that load tools or have sources with
citations, whose numbers would change. What is shorter than the text in its place is cleared too: the API counts uses.

Call and result of a server tool stand in the same reply. The model has read such a result if the reply goes on behind
it. The documentation of the API keeps such results by `exclude_tools` (`web_search`), so others are cleared.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import Any, assert_never

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.messages.models import (
    Block,
    CleanMessages,
    CompactionBlock,
    DocumentBlock,
    Message,
    MessagesRequest,
    RedactedThinkingBlock,
    SearchResultBlock,
    ServerToolResultBlock,
    ServerToolUseBlock,
    ThinkingBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    UnknownBlock,
    decode_nested_content,
    is_string_or_absent,
    json_string,
)
from anthropic_proxy.engine.messages.models.context_edits import (
    ClearThinking,
    ClearToolUses,
    Compact,
    ContextEdit,
    Summarize,
    UnsupportedEdit,
)
from anthropic_proxy.engine.messages.server_tools import SERVER_CALL_TYPES, SERVER_TOOLS
from anthropic_proxy.engine.messages.tokens import (
    DEFAULT_FAMILY,
    collect_token_facts,
    count_block_tokens,
    count_message_tokens,
    estimate_text_tokens,
    estimate_tokens,
)
from anthropic_proxy.engine.slices import give_way
from anthropic_proxy.errors import InvalidRequest

CLEARED_RESULT = json_string("[This result was removed to save space. Call the tool again if you need it.]")
_CLEARED_INPUT = Raw(b"{}")
_THINKING = ThinkingBlock, RedactedThinkingBlock
SERVER_RESULT_TYPES = frozenset(result_type for row in SERVER_TOOLS.values() for result_type in row.result_types)

AppliedEdit = dict[str, Any]
"""Member of the field `applied_edits` of a reply."""


class ContextEditor:
    """Makes the edits of one client request. Several attempts send the same request, which is edited once."""

    summarizes = False
    """True if the proxy summarizes the conversation, if it is time for it."""
    summary = ""
    """The summary that the proxy has put in place of the conversation. "": none."""

    def __init__(self, request: MessagesRequest) -> None:
        self.applied: list[AppliedEdit] = []
        """What the edits have removed from the latest request."""
        self._client_request: MessagesRequest | None = request
        self._latest: tuple[MessagesRequest, MessagesRequest, Sequence[AppliedEdit]] | None = None
        """A request, the same edited, and what its edits have removed."""
        self._removed: tuple[Removed, Sequence[AppliedEdit]] | None = None

    def edit(self, request: MessagesRequest) -> MessagesRequest:
        if self._latest is None or self._latest[0] is not request:
            self._latest = request, *edit_context(request)
        _, edited, self.applied[:] = self._latest
        return edited

    def find_removed(self) -> "Removed":
        """Return what the edits remove from the client's request, for a body whose other bytes stay."""
        if self._removed is None:
            assert self._client_request is not None, "the request was not released"
            self._removed = find_removed(self._client_request)
        removed, self.applied[:] = self._removed
        return removed

    def find_edited(self, request: MessagesRequest) -> MessagesRequest:
        """Return the request as it was edited. The request itself: it was not."""
        return self._latest[1] if self._latest is not None and self._latest[0] is request else request

    def release(self) -> None:
        """Drop the content of the requests, to free memory."""
        self._client_request = self._latest = None


def edit_context(request: MessagesRequest) -> tuple[MessagesRequest, list[AppliedEdit]]:
    """Return the request with its edits made, and what they have removed."""
    messages = request.messages
    removed, applied = find_removed(request)
    if applied:
        if isinstance(messages, CleanMessages):
            messages = _edit_clean(messages, removed)
        else:
            messages = [*_edit(messages, removed, 0)]
        request = structs.replace(request, messages=messages)
    return request, applied


def find_removed(request: MessagesRequest) -> tuple["Removed", list[AppliedEdit]]:
    """Return what the edits of a request remove, by its place, and their reports."""
    edits = request.context_edits or ()
    removed = Removed(edits)
    applied: list[AppliedEdit] = []
    try:
        facts = _collect_facts(request.messages)
    except InvalidRequest:  # content that cannot be decoded: `prepare` refuses it with its path
        return removed, applied
    for edit in edits:
        if isinstance(edit, ClearToolUses):
            applied += _clear_tool_uses(facts, edit, _count_without_messages(request), removed)
        elif isinstance(edit, ClearThinking):
            applied += _clear_thinking(facts, edit, removed)
        elif not isinstance(edit, Compact | Summarize | UnsupportedEdit):  # `Compaction` summarizes
            assert_never(edit)
    return removed, applied


def count_context(request: MessagesRequest) -> int:
    """Return the tokens of a request, without what an earlier summary in it replaces."""
    tokens = before = _count_without_messages(request)
    for fact in _collect_facts(request.messages):
        tokens = (before if fact.begins else tokens) + fact.tokens
    return tokens


def _count_without_messages(request: MessagesRequest) -> int:
    facts = collect_token_facts(structs.replace(request, messages=[]), finds_reasoning=False)
    return estimate_tokens(facts, DEFAULT_FAMILY)


# Facts of messages, which later requests of the conversation share


class _Call(Struct, gc=False):
    block: int
    """Place in the content of the message, as in `_Result`."""
    id: str
    name: str
    won: int
    """Tokens that the removal of its input wins."""


class _Result(Struct, gc=False):
    block: int
    id: str
    won: int
    """Tokens that its removal wins. Below 0: it is shorter than the text in its place."""
    stays: bool


class _Facts(Struct):
    """What the edits have to know about a message."""

    role: str
    tokens: int
    calls: Sequence[_Call] = ()
    results: Sequence[_Result] = ()
    read: int = 0
    """Number of the calls, from the first on, of which the same message has results that its model has read."""
    thinking_tokens: int | None = None
    """None: no thinking."""
    only_thinks: bool = False
    """True: the thinking stays, because a reply without content is invalid."""
    begins: int = 0
    """Place in the content behind a summary that replaces all before it. 0: there is none."""


def _collect_facts(messages: Sequence[Message]) -> list[_Facts]:
    known = messages.known if isinstance(messages, CleanMessages) else None
    if known is None:
        return [*map(_describe, messages)]
    facts: list[_Facts] | None = known.results.get(_Facts)
    if facts is None:
        facts = known.results[_Facts] = _collect_facts(known)  # complete: another thread may use it
    return [*facts, *map(_describe, messages[len(known) :])]


def _describe(message: Message) -> _Facts:
    give_way()
    content = message.content
    if isinstance(content, str):
        return _Facts(message.role, count_message_tokens(content))
    others: list[Block] = []
    tokens = thinking_tokens = read = begins = 0
    calls: list[_Call] = []
    results: list[_Result] = []
    has_thinking = follows_result = False
    for place, block in enumerate(content):
        if (result_id := _find_result(block)) is not None:
            follows_result = True
            cost, won = _weigh(block)
            tokens += cost
            results.append(_Result(place, result_id, won, _is_needed_later(block)))
            continue
        if follows_result and len(calls) == len(results):
            read = len(calls)
        follows_result = False
        if (call := _find_call(block)) is not None:
            cost, won = _weigh(block)
            tokens += cost
            calls.append(_Call(place, call.id, call.name, won))
        elif isinstance(block, ThinkingBlock):
            has_thinking = True
            thinking_tokens += _count_text(block.thinking.encode(errors="replace"))
        elif isinstance(block, RedactedThinkingBlock):
            has_thinking = True
        else:
            if isinstance(block, CompactionBlock) and block.content:
                calls, results, read, begins = [], [], 0, place + 1
                has_thinking, thinking_tokens = False, 0
            others.append(block)
    tokens += count_message_tokens(others)
    only_thinks = not (others or calls or results)
    thinking = thinking_tokens if has_thinking else None
    return _Facts(message.role, tokens, calls, results, read, thinking, only_thinks, begins)


class _ForeignCall(Struct):
    id: str
    name: str


class _ForeignResult(Struct):
    tool_use_id: str


_decode_call = msgspec.json.Decoder(_ForeignCall).decode
_decode_result = msgspec.json.Decoder(_ForeignResult).decode


def _find_call(block: Block) -> ToolUseBlock | ServerToolUseBlock | _ForeignCall | None:
    if isinstance(block, ToolUseBlock | ServerToolUseBlock):
        return block
    if isinstance(block, UnknownBlock) and block.kind in SERVER_CALL_TYPES:
        with suppress(msgspec.DecodeError):
            return _decode_call(block.raw)
    return None


def _find_result(block: Block) -> str | None:
    """Return the id of the call to which a result belongs. None: it is no result."""
    if isinstance(block, ToolResultBlock | ServerToolResultBlock):
        return block.tool_use_id
    if isinstance(block, UnknownBlock) and block.kind in SERVER_RESULT_TYPES:
        with suppress(msgspec.DecodeError):
            return _decode_result(block.raw).tool_use_id
    return None


def _weigh(block: Block) -> tuple[int, int]:
    """Return the tokens of a call or result, and those that the removal of its input or content wins."""
    cost = count_block_tokens(block)
    return cost, cost - count_block_tokens(_empty(block))


def _is_needed_later(result: Block) -> bool:
    """Return True for a result that loads tools, or has sources that later citations count."""
    if not isinstance(result, ToolResultBlock):
        return isinstance(result, ServerToolResultBlock) and result.kind == "tool_search"
    if is_string_or_absent(result.content):
        return False
    return any(
        isinstance(block, ToolReferenceBlock)
        or (isinstance(block, DocumentBlock | SearchResultBlock) and block.requests_citations)
        for block in decode_nested_content(result.content)
    )


def _count_text(text: bytes) -> int:
    return round(estimate_text_tokens(text))


# What is removed


class Removed(Struct):
    """The blocks that the edits remove or empty."""

    edits: Sequence[ContextEdit]
    emptied: dict[int, set[int]] = {}
    """Place of a message → places of its calls and results that lose their content."""
    thinking: set[int] = set()
    """Places of the messages that lose their thinking."""

    def count_in(self, count: int) -> tuple[int, int]:
        """Return how much is removed from the first `count` messages. That tells what, because it is the oldest."""
        emptied = sum(len(blocks) for place, blocks in self.emptied.items() if place < count)
        return emptied, sum(place < count for place in self.thinking)


class _Use(Struct, gc=False):
    """A call, and its result."""

    message: int
    call: _Call
    result_message: int = 0
    result: _Result | None = None
    """None: the call has no result so far."""


def _clear_tool_uses(
    facts: Sequence[_Facts], edit: ClearToolUses, tokens_before: int, removed: Removed
) -> list[AppliedEdit]:
    uses = _find_cleared_uses(facts, edit, tokens_before)
    tokens = 0
    for use in uses:
        assert use.result is not None
        tokens += _count_won(use, edit)
        removed.emptied.setdefault(use.result_message, set()).add(use.result.block)
        if use.call.won and edit.clears_input(use.call.name):
            removed.emptied.setdefault(use.message, set()).add(use.call.block)
    if not uses:
        return []
    return [{"type": edit.type, "cleared_tool_uses": len(uses), "cleared_input_tokens": max(tokens, 0)}]


def _find_cleared_uses(facts: Sequence[_Facts], edit: ClearToolUses, tokens_before: int) -> list[_Use]:
    uses: list[_Use] = []
    waiting: dict[str, deque[_Use]] = {}
    cleared = weighed = read = 0  # numbers of uses from the first on: cleared, weighed, and read by a model
    won = 0
    unit, limit = edit.trigger
    tokens = tokens_before
    role = ""
    for place, (fact, following) in enumerate(zip_longest(facts, facts[1:])):
        give_way()
        if fact.begins:
            uses, waiting, tokens = [], {}, tokens_before
            cleared = weighed = read = won = 0
        tokens += fact.tokens
        if fact.role == "assistant" and role != "assistant":
            read = len(uses)
        if fact.read:
            read = len(uses) + fact.read
        for call in fact.calls:
            uses.append(_Use(place, call))
            waiting.setdefault(call.id, deque()).append(uses[-1])
        for result in fact.results:
            if known := waiting.get(result.id):
                use = known.popleft()
                use.result_message, use.result = place, result
        role = fact.role
        if role == "assistant" or (following is not None and following.role != "assistant"):
            continue  # no request ended here
        if (tokens if unit == "input_tokens" else len(uses)) <= limit:
            continue
        end = min(len(uses) - edit.keep, read)
        while weighed < end:
            won += _count_won(uses[weighed], edit)
            weighed += 1
        if weighed > cleared and (won >= edit.clear_at_least or not edit.clear_at_least):
            cleared, won = weighed, 0
    return [use for use in uses[:cleared] if not _stays(use, edit)]


def _stays(use: _Use, edit: ClearToolUses) -> bool:
    return use.result is None or use.result.stays or use.call.name in edit.exclude_tools


def _count_won(use: _Use, edit: ClearToolUses) -> int:
    """Return the tokens by which the edit shortens the conversation."""
    if use.result is None or _stays(use, edit):
        return 0
    return use.result.won + (use.call.won if edit.clears_input(use.call.name) else 0)


def _clear_thinking(facts: Sequence[_Facts], edit: ClearThinking, removed: Removed) -> list[AppliedEdit]:
    turns: list[list[int]] = [[]]  # places of the replies of each turn that think
    for place, fact in enumerate(facts):
        if fact.begins:
            turns = [[]]
        if fact.role == "user" and not fact.results and turns[-1]:
            turns.append([])
        elif fact.thinking_tokens is not None:
            turns[-1].append(place)
    if not turns[-1]:
        turns.pop()
    shortened = ([place for place in turn if not facts[place].only_thinks] for turn in turns[: -edit.keep])
    cleared = [turn for turn in shortened if turn]
    if not cleared:
        return []
    removed.thinking.update(place for turn in cleared for place in turn)
    tokens = sum(facts[place].thinking_tokens or 0 for place in removed.thinking)
    return [{"type": edit.type, "cleared_thinking_turns": len(cleared), "cleared_input_tokens": tokens}]


# The edited messages


def _edit_clean(messages: CleanMessages, removed: Removed) -> CleanMessages:
    known = messages.known  # another thread may set the field to None
    if known is None:
        edited = CleanMessages(_edit(messages, removed, 0))
    else:
        before = _edit_known(known, removed)
        edited = CleanMessages([*before, *_edit(messages[len(known) :], removed, len(known))])
        edited.known = before
    edited.names, edited.has_media, edited.late_system = messages.names, messages.has_media, messages.late_system
    return edited


def _edit_known(known: CleanMessages, removed: Removed) -> CleanMessages:
    """Return known messages edited. Requests with the same edits share them, and what is computed from them."""
    counts = removed.count_in(len(known))
    if counts == removed.count_in(0):
        return known
    key = removed.edits, counts
    kept: tuple[object, CleanMessages] | None = known.results.get(ContextEditor)
    if kept is None or kept[0] != key:
        edited = _edit_clean(known, removed)
        edited.share_results()
        kept = known.results[ContextEditor] = key, edited
    return kept[1]


def _edit(messages: Sequence[Message], removed: Removed, start: int) -> Iterator[Message]:
    """`start`: place of the first of these messages in the conversation."""
    for place, message in enumerate(messages, start):
        emptied, drops_thinking = removed.emptied.get(place, ()), place in removed.thinking
        if not (emptied or drops_thinking):
            yield message
            continue
        yield structs.replace(
            message,
            content=[
                _empty(block) if index in emptied else block
                for index, block in enumerate(message.blocks)
                if not (drops_thinking and isinstance(block, _THINKING))
            ],
        )


def _empty(block: Block) -> Block:
    if isinstance(block, ToolUseBlock | ServerToolUseBlock):
        return structs.replace(block, input=_CLEARED_INPUT)
    if isinstance(block, ToolResultBlock | ServerToolResultBlock):
        return structs.replace(block, content=CLEARED_RESULT)
    assert isinstance(block, UnknownBlock)
    field, value = ("input", _CLEARED_INPUT) if block.kind in SERVER_CALL_TYPES else ("content", CLEARED_RESULT)
    fields = msgspec.json.decode(block.raw, type=dict[str, Raw])
    return UnknownBlock(block.kind, Raw(msgspec.json.encode({**fields, field: value})))
