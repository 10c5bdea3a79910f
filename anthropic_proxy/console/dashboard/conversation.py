"""A conversation in turns: what each request added, what the model replied, and what it cost.

A request repeats the whole conversation. Its turn shows only the messages after the last reply. The texts are those
that the ledger stores with `LEDGER_CONTENT=true`; without them, a turn is an outline of the blocks of its reply.
"""

import base64
import binascii
import json
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import msgspec
from markupsafe import Markup, escape
from msgspec import Raw, Struct, field, structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.ledger.contents import StoredContent
from anthropic_proxy.console.ledger.costs import ModelCosts
from anthropic_proxy.console.ledger.records import (
    MAX_LABEL_CHARACTERS,
    StoredRequest,
    count_lost_tokens,
    decode_block_times,
    decode_checks,
    decode_tool_times,
)
from anthropic_proxy.console.ledger.request_queries import list_request_ids
from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.messages.models.client_json import decode_values, read_json
from anthropic_proxy.engine.messages.models.structs import IMAGE_TYPES
from anthropic_proxy.engine.messages.server_tools import CALL_TYPES
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.money import NANO_DOLLARS, format_cost
from anthropic_proxy.gateway.telemetry.log.lines import escape_terminal_controls
from anthropic_proxy.gateway.telemetry.outcomes import INCIDENTS, VERDICTS, describe_outcome, name_verdict
from anthropic_proxy.plugins import CallCheck

_MAX_SUMMARY_CHARACTERS = 100
_MAX_BLOCK_CHARACTERS = 4_000
_MAX_CHARACTERS = 120_000
"""Maximum number of characters of one page. Blocks beyond it show only their beginning."""
_MAX_PARTS = 1_500
"""Maximum number of blocks of a page. Each needs more of a page than its text."""
_MIN_PARTS = 10
"""Number of blocks of each turn that a page shows in any case."""
_MIN_CHARACTERS = 200
_MAX_NAMED_TOOLS = 5
_MAX_TOOL_CHARACTERS = 40
_OF_CLIENT = {
    "<system-reminder>": "System reminder",
    "<local-command-": "Command of the client",
    "<command-name>": "Command of the client",
    "<command-message>": "Command of the client",
    "<bash-": "Shell command of the user",
}
"""Beginning of a text that the client wrote → title of its folded block."""
_FENCE = compile_anchored(r"(`{3,}|~{3,})\s*([^`]*)")
"""Line that begins a code block. What follows a line with ``` has no ` in it: else it is a word in the text."""
_ERRORS = (InvalidJson, InvalidRequest, LookupError, TypeError, AttributeError, RecursionError)


class Part(NamedTuple):
    text: str
    is_code: bool = False


class CallVerdict(NamedTuple):
    """What the check of a tool call found (auto mode)."""

    sign: str
    role: str
    text: str
    detail: str
    """Explanation of a flagged call, reason of a missing verdict, or rule that decided."""
    requests: Sequence[str]
    """Ids of the requests to the checking models."""
    is_incident: bool
    """True for a flagged call, and for one without a verdict."""


class Block(Struct, frozen=True, kw_only=True):
    """A part of a message: a text, a tool call, an image."""

    kind: str
    """`text`, `thinking`, `tool`, `result`, `image` or `other`: a CSS class."""
    title: str = ""
    """"": the block is always open and has no title."""
    summary: str = ""
    """Text of one line beside the title: the first argument of a tool call."""
    parts: Sequence[Part] = ()
    note: str = ""
    is_error: bool = False
    image: str = ""
    """URL of the image. "": none, or of a type that browsers do not show."""
    id: str = ""
    """Id of a tool call, also in its result."""
    result: "Block | None" = None
    """Result of a tool call, which the following request contained."""
    verdict: CallVerdict | None = None
    """Verdict about a tool call. None: it was not checked."""


class Turn(Struct, frozen=True):
    row: StoredRequest
    sent: Sequence[Block]
    reply: Sequence[Block]
    sign: str
    role: str
    outcome: str
    cached: str
    cache_break: "CacheBreak | None" = None
    tools: "ToolWait | None" = None
    """The tools that the reply called. None: it called none, or no request has brought their results."""
    failed: Sequence["Turn"] = ()
    """Earlier requests with the same message, which failed and were repeated by the client."""


class CacheBreak(Struct, frozen=True):
    """A request that did not read from the provider's cache what the request before had left there."""

    part: str
    """First part of the prompt that has changed: `tool 3 (WebFetch)`. "": none has, or it is unknown."""
    tokens: int
    """Number of tokens that were read again."""
    cost: int | None
    """Nano-dollars above the price of reading them from the cache. None: no price of the model is known."""

    @property
    def cause(self) -> str:
        return f"{self.part} changed" if self.part else "cache not read"

    @property
    def loss(self) -> str:
        more = f", {format_cost(self.cost)} more" if self.cost else ""
        return f"{formats.short_count(self.tokens)} tokens read again{more}"


class ToolWait(Struct, frozen=True):
    """The time in which the client ran the tools of a reply."""

    duration: int
    """Microseconds from the end of the reply to the request with the results. The client may have waited for a
    permission of the user.
    """
    names: str
    """Tools, with their times if the client has sent them: `Glob 22 ms, Bash 1.10 s`."""


class _Body(Struct):
    messages: Sequence[Raw] = ()
    system: Raw = field(default_factory=lambda: Raw(b"null"))
    tools: Sequence[Raw] = ()


_decode_body = msgspec.json.Decoder(_Body).decode


def find_cache_breaks(rows: Sequence[StoredRequest], costs: ModelCosts) -> dict[str, CacheBreak]:
    """Return request id → break. `rows`: requests of one conversation in order of time."""
    breaks: dict[str, CacheBreak] = {}
    for row, tokens in count_lost_tokens(rows):
        if tokens:
            cost = None
            price = costs.find_price(row.provider, row.model)
            if price is not None:
                rates = price.base
                written = min(tokens, row.cache_write_tokens)
                more = written * rates.cache_write + (tokens - written) * rates.input - tokens * rates.cache_read
                cost = max(round(more * (NANO_DOLLARS // 1_000_000)), 0)
            breaks[row.id] = CacheBreak(row.prefix_change, tokens, cost)
    return breaks


def find_tool_waits(rows: Iterable[StoredRequest]) -> dict[str, ToolWait]:
    """Return id of a reply with tool calls → wait for their results. `rows`: one conversation in order of time."""
    waits: dict[str, ToolWait] = {}
    reply: StoredRequest | None = None
    sent_at = 0
    for row in rows:
        sent_at = sent_at or row.started_at  # a client sends a failed request, and its results, again
        if row.outcome_class in ("error", "cancelled"):
            continue
        if reply is not None and row.tool_results:
            wait = sent_at - reply.started_at - reply.duration
            if wait >= 0:
                waits[reply.id] = ToolWait(wait, _name_tools(reply, row))
        reply = row
        sent_at = 0
    return waits


def _name_tools(reply: StoredRequest, row: StoredRequest) -> str:
    times = decode_tool_times(row.tool_times)
    names = [f"{formats.shorten(tool.name, _MAX_TOOL_CHARACTERS)} {formats.seconds(tool.duration)}" for tool in times]
    if not names:
        blocks = decode_block_times(reply.reply_blocks)
        tools = dict.fromkeys(block.name for block in blocks if block.kind == "tool call")
        names = [formats.shorten(name, _MAX_TOOL_CHARACTERS) for name in tools]
    more = len(names) - _MAX_NAMED_TOOLS
    return ", ".join(names[:_MAX_NAMED_TOOLS]) + (f" and {more} more" if more > 0 else "")


def build_turns(
    rows: Sequence[StoredRequest],
    contents: Mapping[str, Mapping[str, StoredContent]],
    breaks: Mapping[str, CacheBreak] = {},
    tools: Mapping[str, ToolWait] = {},
) -> list[Turn]:
    """Return the turns of a conversation as the page shows them.

    `rows`: requests of one conversation in order of time. `contents`: request id → kind → stored text.
    """
    limit = _Limit()
    turns: list[Turn] = []
    before: list[Block] = []
    left_before = limit.left  # before the last turn
    for row in rows:
        failed: list[Turn] = []
        stored = contents.get(row.id, {})
        last = turns[-1].row if turns else None
        left = limit.left
        is_repetition = (
            last is not None
            and last.outcome_class == "error"
            and row.message_count > 0
            and (row.message_count, row.requested_model) == (last.message_count, last.requested_model)
        )  # the client sends the message of a failed request again
        if is_repetition:
            limit.left = left_before  # the texts of the failed request are not shown
        sent = list(_list_sent(row, stored.get("request"), limit))
        message = [structs.replace(block, image="") for block in sent]  # the URL of an image has the id of the request
        if is_repetition and message and before and message != before:  # the user has changed the message that failed
            is_repetition = False
            limit.left = left
            sent = list(_list_sent(row, stored.get("request"), limit))
            message = [structs.replace(block, image="") for block in sent]
        if is_repetition:
            repeated = turns.pop()
            failed = [*repeated.failed, repeated]
        else:
            left_before = left
        before = message
        results = {block.id: block for block in sent if block.kind == "result" and block.id}
        if turns and results:  # a result is shown below its call
            calls = turns[-1].reply
            known = {block.id for block in calls if block.kind == "tool"} & results.keys()
            reply = [
                structs.replace(block, result=results.get(block.id)) if block.kind == "tool" else block
                for block in calls
            ]
            turns[-1] = structs.replace(turns[-1], reply=reply)
            sent = [block for block in sent if block.kind != "result" or block.id not in known]
        reply = _add_verdicts(row, list(_list_reply(row, stored.get("reply"), limit)), limit)
        tag = describe_outcome(row.outcome_class, row.outcome, row.status)
        cached = formats.percent(row.cache_read_tokens, row.all_input_tokens)
        turns.append(Turn(row, sent, reply, *tag, cached, breaks.get(row.id), tools.get(row.id), failed))
    return turns


_Content = TypeVar("_Content")


class _Limit:
    """Counts the characters and blocks of a page."""

    def __init__(self) -> None:
        self.left = _MAX_CHARACTERS
        self._parts_left = _MAX_PARTS

    def take(self, blocks: Sequence[_Content], least: int = _MIN_PARTS) -> tuple[Sequence[_Content], Iterator[Block]]:
        """Return the shown beginning of `blocks`, and a note if there are more."""
        shown = blocks[: max(self._parts_left, least)]
        self._parts_left -= len(shown)
        left_out = len(blocks) - len(shown)
        return shown, iter([Block(kind="other", title=f"{formats.plural(left_out, 'part')} more")] if left_out else [])

    def shorten(self, text: str) -> tuple[str, str]:
        """Return the shown beginning of `text`, and a note about its length. "": all of it is shown."""
        most = min(_MAX_BLOCK_CHARACTERS, max(self.left, _MIN_CHARACTERS))
        self.left -= min(len(text), most)
        if len(text) <= most:
            return text, ""
        return text[:most], f"{formats.count(len(text))} characters, the first {formats.count(most)} are shown"


def _list_sent(row: StoredRequest, stored: StoredContent | None, limit: _Limit) -> Iterator[Block]:
    if stored is None:
        if row.tool_results:
            failed = f", {formats.plural(row.tool_errors, 'error')}" if row.tool_errors else ""
            yield Block(kind="other", title=f"{formats.plural(row.tool_results, 'tool result')}{failed}")
        return
    try:
        messages = [
            (message["role"] == "system", block)
            for message in list_new_messages(stored.data)
            for block in _list_blocks(message)
        ]
    except _ERRORS:
        note = f"{formats.count(stored.size)} bytes, of which only the beginning is stored" if stored.is_cut else ""
        yield Block(kind="other", title="Request", note=note or "The stored text is no request of the Messages API.")
        return
    images = 0
    shown, more = limit.take(messages)
    for is_system, block in shown:
        for built in _build_blocks(block, limit):
            if built.image:
                yield structs.replace(built, image=f"/dashboard/requests/{row.id}/images/{images}")
                images += 1
            else:
                yield structs.replace(built, kind="other", title="System") if is_system else built
    yield from more


def _list_reply(row: StoredRequest, stored: StoredContent | None, limit: _Limit) -> Iterator[Block]:
    if stored is not None:
        blocks, more = limit.take(list_reply_blocks(stored.data))
        for block in blocks:
            yield from _build_blocks(block, limit)
    else:
        times, more = limit.take(decode_block_times(row.reply_blocks))
        for timed in times:
            kind = {"text": "text", "thinking": "thinking"}.get(timed.kind, "tool")
            note = formats.plural(timed.characters, "character") if timed.characters else ""
            yield Block(kind=kind, title=timed.name or timed.kind.capitalize(), note=note)
    yield from more
    if row.outcome_class == "error":
        yield Block(kind="other", title="Error", parts=[Part(row.error)], is_error=True)


def build_verdict(check: CallCheck) -> CallVerdict:
    tag = VERDICTS[check.verdict]
    ids = list_request_ids(check)
    detail = check.reason or check.rule
    is_incident = check.verdict in INCIDENTS
    return CallVerdict(tag.sign, tag.role, name_verdict(check), detail, ids, is_incident)


def _add_verdicts(row: StoredRequest, blocks: Sequence[Block], limit: _Limit) -> list[Block]:
    """Return the blocks of a reply with the verdicts about its tool calls.

    Without texts, calls have no ids, so they are found by their names in order. If no block of a call is stored, as in
    a relayed reply, its verdict has a block of its own.
    """
    if not row.checks or row.parent:
        return [*blocks]
    checks = {check.call: check for check in decode_checks(row.checks)}
    by_name = defaultdict[str, deque[str]](deque)
    for check in checks.values():
        by_name[check.tool].append(check.call)
    judged = list[Block]()
    for block in blocks:
        call = block.id[:MAX_LABEL_CHARACTERS]
        if block.kind == "tool" and not call and (same := by_name[block.title]):
            call = same.popleft()
        checked = checks.pop(call, None) if block.kind == "tool" else None
        judged.append(block if checked is None else structs.replace(block, verdict=build_verdict(checked)))
    left, more = limit.take([*checks.values()], least=0)
    judged += [Block(kind="tool", title=check.tool, verdict=build_verdict(check)) for check in left]
    return [*judged, *more]


def list_new_messages(data: bytes) -> Sequence[Mapping[str, Any]]:
    """Return the messages of a request after the last reply. Raises one of `_ERRORS` if `data` is no request."""
    new_messages: list[Mapping[str, Any]] = []
    for raw in reversed(read_json(data, _decode_body).messages):
        message = decode_values(raw)
        if message["role"] == "assistant" and new_messages:
            break
        if message["role"] != "assistant":  # a last one is the beginning of the reply
            new_messages.append(message)
    return new_messages[::-1]


def find_image(data: bytes, number: int) -> tuple[str, bytes] | None:
    """Return media type and bytes of an image in the new messages of a request. None: there is none."""
    try:
        sources = [
            source
            for message in list_new_messages(data)
            for block in _list_blocks(message)
            for image in _list_images(block)
            if (source := image["source"]).get("media_type") in IMAGE_TYPES and "data" in source
        ]
        source = sources[number]
        return source["media_type"], base64.b64decode(source["data"], validate=True)
    except (*_ERRORS, binascii.Error):
        return None


def _list_images(block: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if block["type"] == "image":
        yield block
    elif block["type"] == "tool_result":
        for part in _list_blocks(block):
            yield from _list_images(part)


def _list_blocks(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the content of a message, or of a tool result, as blocks."""
    content = message.get("content") or ()
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def list_reply_blocks(data: bytes) -> Sequence[Mapping[str, Any]]:
    """Return the content blocks of a stored reply, streamed or not. Empty: it is no message."""
    text = data.decode("utf-8", "replace")
    try:
        return list(decode_json(data)["content"] if text.startswith("{") else _join_events(text))
    except _ERRORS:
        return []


def _join_events(text: str) -> Iterator[Mapping[str, Any]]:
    opened: dict[int, tuple[dict[str, Any], list[str]]] = {}
    for line in text.split("\n"):  # `splitlines` also ends a line at U+2028 and others, which JSON may contain
        if not line.startswith("data: "):
            continue
        try:
            event = decode_json(line.removeprefix("data: "))
        except InvalidJson:  # only the beginning of the reply is stored
            break
        if event["type"] == "content_block_start":
            opened[event["index"]] = event["content_block"], []
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            pieces = opened[event["index"]][1]
            pieces += [delta[name] for name in ("text", "thinking", "partial_json") if name in delta]
        elif event["type"] == "error":
            yield {"type": "error", "text": event["error"]["message"]}
    for block, pieces in opened.values():
        name = {"text": "text", "thinking": "thinking"}.get(block["type"])
        if name is not None:
            yield {**block, name: "".join(pieces)}
        elif pieces:
            arguments = "".join(pieces)
            with suppress(InvalidJson):
                arguments = decode_json(arguments)
            yield {**block, "input": arguments}
        else:
            yield block


def _build_blocks(block: Mapping[str, Any], limit: _Limit) -> Sequence[Block]:
    """Clients and models write any values, so a block may have another form than that of its type."""
    try:
        return list(_convert(block, limit))
    except _ERRORS:
        return [Block(kind="other", title="A block that is not of the Messages API")]


def _convert(block: Mapping[str, Any], limit: _Limit) -> Iterator[Block]:
    kind = block["type"]
    if kind in ("text", "error"):
        text, note = limit.shorten(str(block.get("text", "")).strip())
        title = next((title for start, title in _OF_CLIENT.items() if text.startswith(start)), "")
        if title:
            yield Block(kind="other", title=title, parts=[Part(text)], note=note)
        elif text:
            yield Block(kind="text", parts=_split_code(text), note=note, is_error=kind == "error")
    elif kind in ("thinking", "redacted_thinking"):
        text, note = limit.shorten(str(block.get("thinking", "")).strip())
        title = "Thinking" if text else "Thinking, which the provider hides"
        parts = [Part(text)] if text else ()
        yield Block(kind="thinking", title=title, summary=_summarize(text), parts=parts, note=note)
    elif kind in CALL_TYPES:
        arguments = block.get("input")
        text, note = limit.shorten(_format_arguments(arguments))
        first = next(iter(arguments.values()), "") if isinstance(arguments, dict) else arguments
        yield Block(
            kind="tool",
            title=formats.shorten(str(block.get("name", "")), _MAX_SUMMARY_CHARACTERS),
            summary=_summarize(_write_value(first)),
            parts=[Part(text, is_code=True)],
            note=note,
            id=str(block.get("id", "")),
        )
    elif kind == "tool_result":
        yield from _build_result(block, limit)
    elif kind == "image":
        source = block.get("source") or {}
        if source.get("media_type") in IMAGE_TYPES and "data" in source:
            yield Block(kind="image", image="shown")  # the caller knows the URL
        else:
            summary = _summarize(str(source.get("url") or source.get("media_type") or ""))
            yield Block(kind="image", title="Image", summary=summary)
    else:
        text, note = limit.shorten(_write_value(block, indent=2))
        yield Block(kind="other", title=str(kind).replace("_", " ").capitalize(), parts=[Part(text, True)], note=note)


def _build_result(block: Mapping[str, Any], limit: _Limit) -> Iterator[Block]:
    parts: list[Part] = []
    others: list[Block] = []
    notes: list[str] = []
    shown, more = limit.take(_list_blocks(block), least=1)  # results may contain results
    for part in shown:
        if part["type"] == "text":
            text, note = limit.shorten(str(part.get("text", "")))
            parts.append(Part(text, is_code=True))
            notes += [note] if note else []
        else:
            others += _build_blocks(part, limit)
    is_error = block.get("is_error") is True
    yield Block(
        kind="result",
        title="Result with an error" if is_error else "Result",
        summary=_summarize(parts[0].text) if parts else "",
        parts=parts,
        note="; ".join(notes),
        is_error=is_error,
        id=str(block.get("tool_use_id", "")),
    )
    yield from others
    yield from more


def _summarize(text: str) -> str:
    """Return the first line of `text`."""
    return formats.shorten(next(iter(text.strip().splitlines()), ""), _MAX_SUMMARY_CHARACTERS)


def _format_arguments(value: Any) -> str:
    """Return the arguments of a tool call, one for each line, with line breaks as they are."""
    if not isinstance(value, dict):
        return _write_value(value)
    lines = []
    for name, argument in value.items():
        text = _write_value(argument, indent=2)
        lines.append(f"{name}:\n{text}" if "\n" in text else f"{name}: {text}")
    return "\n".join(lines)


def _write_number(number: Raw) -> str:
    """Of a number beyond 64 bits (`decode_values`)."""
    return bytes(number).decode()


def _write_value(value: Any, indent: int | None = None) -> str:
    return (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=indent, default=_write_number)
    )


def _split_code(text: str) -> list[Part]:
    """Divide a text at its code blocks, which Markdown puts between lines with ``` or ~~~. No text is left out, except
    the language of a block.
    """
    parts: list[Part] = []
    lines: list[str] = []
    fence = ""
    for line in [*text.split("\n"), None]:
        stripped = (line or "").strip()
        opening = None if fence else _FENCE.fullmatch(stripped)
        is_closing = fence and len(stripped) >= len(fence) and not stripped.strip(fence[0])
        if line is not None and not opening and not is_closing:
            lines.append(line)
            continue
        if piece := "\n".join(lines).strip("\n"):
            parts.append(Part(piece, bool(fence)))
        fence, title = opening.groups() if opening else ("", "")
        lines = [title] if " " in title else []
    return parts


def escape_controls(value: Any) -> Any:
    """Escape the control characters of a text for a page, also those that reverse the direction of what follows."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return escape_terminal_controls(value.replace("\r\n", "\n"))


_CODE = compile_later(r"`([^`\n]+)`")
_STRONG = compile_later(r"\*\*(?!\s)([^*\n]+)(?<!\s)\*\*")
_HEADING = compile_later(r"^#{1,6} +(.+)$", re.MULTILINE)


def mark_up(text: str) -> Markup:
    """Return a text for a page, in which `code`, **strong** words and # headings of Markdown have their form."""
    marked_up = str(escape(escape_controls(text)))
    marked_up = _CODE.sub(r"<code>\1</code>", marked_up)
    marked_up = _STRONG.sub(r"<b>\1</b>", marked_up)
    return Markup(_HEADING.sub(r"<b>\1</b>", marked_up))  # escaped above


def format_json(data: bytes) -> str:
    """Text that is no complete JSON is returned unchanged."""
    try:
        return msgspec.json.format(data, indent=2).decode("utf-8", "replace")
    except (msgspec.MsgspecError, RecursionError):
        return data.decode("utf-8", "replace")
