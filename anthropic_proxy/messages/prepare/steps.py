"""`prepare`: the steps in their order."""

import functools
from collections.abc import Callable

from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.prepare.cleaning import clean_messages, clean_system
from anthropic_proxy.messages.prepare.effort import resolve_effort
from anthropic_proxy.messages.prepare.losses import notes_on_fields
from anthropic_proxy.messages.prepare.names import Names
from anthropic_proxy.messages.prepare.pairing import pair_calls
from anthropic_proxy.messages.prepare.replay import replay
from anthropic_proxy.messages.prepare.request import Limits, Prepared, PreparedRequest
from anthropic_proxy.messages.prepare.tools import offered_choice, offered_tools
from anthropic_proxy.messages.prepare.transcript import Transcript
from anthropic_proxy.messages.types import (
    ABSENT,
    Block,
    Message,
    MessagesRequest,
    OutputFormat,
    PlainMessages,
    Raw,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    is_text,
)

_WINDOW_MARGIN = 64
"""Tokens that are left free between input and output."""
_MOST_PER_BYTE = 2
"""Tokens that a byte of a body without pictures and documents counts as at most, scaled and raised: a list of digits
comes near."""
_CAUTION = 1.03
"""What the count is raised by before a request is refused unsent: clients then shorten it, and too late is too late."""
_WITHOUT_LIMIT = 8_192
"""Output tokens where neither the client nor the catalogue says a number."""


def prepare(
    request: MessagesRequest, limits: Limits, count: Callable[[MessagesRequest], int] | None = None
) -> Prepared:
    """Return the request as it will be said to a target with these limits.

    The request itself stays as it is, so that it can be prepared again for another target. `count` estimates its input
    in tokens; it is asked only where input and output might not fit the window together; None: nobody checks.
    Raises `InvalidRequest` and `UnsupportedFeature` where nothing sensible can be said.
    """
    notes = notes_on_fields(request, limits)
    names = Names(limits.name_pattern, limits.name_length)
    effort, changes = resolve_effort(request, limits)
    notes += changes
    offer = offered_tools(request, limits, names, notes)
    messages = replay(request.messages, offer.owned) if offer.owned else request.messages
    config, thinking = request.output_config, request.thinking
    said = PreparedRequest(
        system=clean_system(request.system),
        messages=_as_said(messages, names, notes),
        tools=offer.tools,
        tool_choice=offered_choice(request, offer, limits, names, notes),
        max_tokens=_output_limit(request, limits, count, notes),
        effort=effort,
        budget_tokens=thinking.budget_tokens if thinking else None,
        shows_thinking=thinking is None or not (thinking.display == "omitted" or thinking.type == "disabled"),
        output_schema=_schema(config.format if config and config.format else request.output_format),
        stop_sequences=[text for text in request.stop_sequences if text.strip()],
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        service_tier=request.service_tier,
        user_id=request.metadata.user_id if request.metadata else None,
        mcp_servers=request.mcp_servers,
        vision=limits.vision,
        pdf=limits.pdf,
    )
    return Prepared(said, names.aliases, tuple(notes), offer.owned, offer.deferred)


def _as_said(messages: list[Message], names: Names, notes: list[Note]) -> list[Message]:
    """Return the messages as wires read them."""
    if isinstance(messages, PlainMessages) and all(names.say(name) == name for name in messages.called):
        said = Transcript()
        said.extend(messages)
        return said.messages
    return pair_calls(clean_messages(messages, notes), names, notes)


def _output_limit(
    request: MessagesRequest, limits: Limits, count: Callable[[MessagesRequest], int] | None, notes: list[Note]
) -> int:
    asked = request.max_tokens if request.max_tokens is not None else limits.max_output or _WITHOUT_LIMIT
    limit, reason = asked, ""
    if limits.max_output is not None and limit > limits.max_output:
        limit, reason = limits.max_output, "the model's limit"
    if limits.window is not None and count is not None and _may_overflow(request, limit, limits):
        tokens, most = count(request), limits.max_input or limits.window
        if limits.must_fit and (raised := round(tokens * _CAUTION)) > most:
            raise InvalidRequest(f"prompt is too long: {raised} tokens > {most} maximum")
        room = limits.window - tokens - _WINDOW_MARGIN
        if limit > room:
            limit, reason = room, "what the window leaves"
    limit = max(limit, 1)
    if limit < asked:
        notes.append(_lowered(asked, limit, reason))
    return limit


@functools.lru_cache(maxsize=256)
def _lowered(asked: int, limit: int, reason: str) -> Note:
    return Note("approximated", "max_tokens", f"{asked} → {limit}, {reason}")


def _may_overflow(request: MessagesRequest, limit: int, limits: Limits) -> bool:
    """Whether the input must be counted: more than its bytes tell may not fit."""
    room = (limits.window or 0) - limit - _WINDOW_MARGIN
    if limits.must_fit and limits.max_input is not None:
        room = min(room, limits.max_input)
    return not request.size or request.size * _MOST_PER_BYTE > room or not _is_light(request.messages)


def _is_light(messages: list[Message]) -> bool:
    """Whether nothing in the messages weighs more than its bytes, as pictures and documents do."""
    if isinstance(messages, PlainMessages):
        return messages.light
    return not any(
        _may_be_heavy(block)
        for message in messages
        if not isinstance(message.content, str)
        for block in message.content
    )


def _may_be_heavy(block: Block) -> bool:
    if isinstance(block, ToolResultBlock):
        return not is_text(block.content)
    return not isinstance(block, TextBlock | ToolUseBlock | ThinkingBlock)


def _schema(form: OutputFormat | None) -> Raw:
    return form.schema.copy() if form is not None and form.type == "json_schema" else ABSENT  # not of the whole body
