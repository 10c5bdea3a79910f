"""Fidelity notes (records of changed fields) on client requests to providers other than Anthropic.

A fidelity note records that the proxy approximated, emulated or dropped a field. `notes_on_fields` returns the notes on
the fields of a request, and `notes_on_blocks` those on the content blocks of its messages. Constants are notes with a
fixed text. A field without a note is sent, or has no effect on the content of the answer, such as `cache_control`.
"""

import functools
from collections.abc import Iterable, Iterator

from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.models import (
    Block,
    DocumentBlock,
    ImageBlock,
    MessagesRequest,
    RedactedThinkingBlock,
    SearchResultBlock,
    ThinkingBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    UnknownBlock,
    decode_nested_content,
)
from anthropic_proxy.messages.preparation.block_text import UNSUPPORTED_BLOCK_TEXT, unknown_block_text
from anthropic_proxy.messages.preparation.request import TargetLimits

COMPACTION_AS_TEXT = FidelityNote(
    "emulated", "messages.compaction", "sent as a user message that replaces all earlier ones"
)
"""Note on a summary of the conversation (compaction block), which is sent as text."""
UNPAIRED_RESULT = FidelityNote(
    "approximated", "messages.tool_result", "a result is missing or has no call; a text states it"
)
"""Note on a tool result without a call, or a call without a result. A text replaces the missing block."""

_MCP_SERVERS = FidelityNote("dropped", "mcp_servers", "the provider is not known to connect to them")
_CONTAINER = FidelityNote("dropped", "container", "no other provider is known to have it")
_REGION = FidelityNote("dropped", "inference_geo", "the proxy cannot control where a model runs")
_CONTEXT = FidelityNote(
    "approximated", "context_management", "nothing is cleared or summarized: the model receives the complete history"
)
TASK_BUDGET = FidelityNote("approximated", "output_config.task_budget", "not sent to the model")
"""Note on `output_config.task_budget`, the client's token limit for a whole task. It is not sent."""
_STOPS = FidelityNote("emulated", "stop_sequences", "detected in the reply by the proxy")

_CLEARED_LATER = FidelityNote("approximated", "messages.system.clear_at", "the text stays in the conversation")
_LATE_CONFIG = FidelityNote(
    "dropped", "messages.system.output_config", "only the output_config of the whole request is sent"
)
_CALLED_BY_CODE = FidelityNote(
    "approximated", "tools.allowed_callers", "no other provider calls tools from code: the model calls them directly"
)

_OF_BLOCKS: dict[type, FidelityNote] = {
    SearchResultBlock: FidelityNote("emulated", "messages.search_result", "sent as text, with its title and address"),
    ToolReferenceBlock: FidelityNote("emulated", "messages.tool_reference", "sent as text"),
    RedactedThinkingBlock: FidelityNote(
        "approximated", "messages.thinking", "only Anthropic can read what it encrypted"
    ),
}
_MEDIA = {ImageBlock: "image", DocumentBlock: "document"}
_FILES = {
    kind: FidelityNote("dropped", f"messages.{kind}", "files of the Files API are not available")
    for kind in _MEDIA.values()
}
_MISPLACED = {
    kind: FidelityNote("dropped", f"messages.{kind}", "only user messages can contain it") for kind in _MEDIA.values()
}
_DOCUMENT_AS_TEXT = FidelityNote("emulated", "messages.document", "sent as text, with its title")
_UNCITED = FidelityNote("dropped", "messages.document.citations", "no other provider is known to cite documents")
_CALL_AS_TEXT = FidelityNote("approximated", "messages.tool_use", "a call outside an assistant message is sent as text")
_RESULT_AS_TEXT = FidelityNote(
    "approximated", "messages.tool_result", "a result outside a user message is sent as text"
)
_NO_CONFIG = (b"", b"null", b"{}")
_MAX_KIND_LENGTH = 64


def notes_on_fields(request: MessagesRequest, limits: TargetLimits) -> list[FidelityNote]:
    """Return the notes on the fields of a client request, except its messages and tools."""
    notes = [FidelityNote("approximated", "body", what) for what in request.repairs]
    if request.mcp_servers and "mcp_toolset" not in limits.server_tools:
        notes.append(_MCP_SERVERS)
    if request.container:
        notes.append(_CONTAINER)
    if request.pins_region:
        notes.append(_REGION)
    if request.clears_context:
        notes.append(_CONTEXT)
    if request.output_config is not None and len(request.output_config.task_budget):
        notes.append(TASK_BUDGET)
    if any(text.strip() for text in request.stop_sequences):
        notes.append(_STOPS)
    # loops, because this runs for each request: a generator costs a call for each item
    cleared, late_config = False, b""
    for message in request.messages:
        if message.role == "system":
            cleared = cleared or message.clear_at == "next_user_message"
            if len(message.output_config):
                late_config = bytes(message.output_config)  # earlier ones concern earlier replies
    if cleared:
        notes.append(_CLEARED_LATER)
    # Claude Code repeats the effort of the request
    effort = request.output_config.effort if request.output_config is not None else None
    if late_config.translate(None, b" ") not in (*_NO_CONFIG, b'{"effort":"%b"}' % (effort or "").encode()):
        notes.append(_LATE_CONFIG)
    for tool in request.tools:
        if tool.allowed_callers and "direct" not in tool.allowed_callers:
            notes.append(_CALLED_BY_CODE)
            break
    return notes


def notes_on_blocks(blocks: Iterable[Block], role: str) -> Iterator[FidelityNote]:
    """Yield a note for each content block that cannot be sent unchanged in a message of `role`.

    The role `result` stands for the content of a tool result.
    """
    for block in blocks:
        kind = type(block)
        if isinstance(block, ToolResultBlock):
            if role != "user":
                yield _RESULT_AS_TEXT
            yield from notes_on_blocks(decode_nested_content(block.content), "result")
        elif isinstance(block, ImageBlock | DocumentBlock):
            yield from _notes_on_source(block, role)
        elif isinstance(block, UnknownBlock):
            yield _note_on_unknown(block.kind, is_text=unknown_block_text(block) != UNSUPPORTED_BLOCK_TEXT % block.kind)
        elif isinstance(block, ToolUseBlock) and role != "assistant":
            yield _CALL_AS_TEXT
        elif isinstance(block, ThinkingBlock) and role != "assistant":
            yield _OF_BLOCKS[RedactedThinkingBlock]
        elif kind in _OF_BLOCKS:
            yield _OF_BLOCKS[kind]
        elif (name := str(kind.__struct_config__.tag)).endswith(("_tool_use", "_tool_result")):
            yield _note_on_unknown(name, is_text=True)


def _notes_on_source(block: ImageBlock | DocumentBlock, role: str) -> Iterator[FidelityNote]:
    kind, source = _MEDIA[type(block)], block.source.type
    if source == "file":
        yield _FILES[kind]
    elif isinstance(block, DocumentBlock) and source in ("text", "content"):
        yield _DOCUMENT_AS_TEXT
    elif role not in ("user", "result"):
        yield _MISPLACED[kind]
    if isinstance(block, DocumentBlock) and block.requests_citations:
        yield _UNCITED


@functools.lru_cache(maxsize=256)
def _note_on_unknown(kind: str, *, is_text: bool) -> FidelityNote:
    field = f"messages.{kind[:_MAX_KIND_LENGTH]}"
    if is_text:
        return FidelityNote("approximated", field, "sent as text")
    return FidelityNote("dropped", field, "no other model accepts its content")
