"""What no backend beside Anthropic's takes as it is, and what becomes of it: the notes of the common steps.

A field that is not noted is either said, or a hint: to leave it out changes nothing in the answer (`cache_control`,
`metadata`, `speed`, `context_management` that keeps all, what is between the client and Anthropic).
"""

import functools
from collections.abc import Iterable, Iterator

from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.prepare.blocks import UNSUPPORTED, unknown_in_words
from anthropic_proxy.messages.prepare.request import Limits
from anthropic_proxy.messages.types import (
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
    blocks_of,
)

SUMMED_UP = Note("emulated", "messages.compaction", "said as the user's, in place of all before it")
UNPAIRED = Note("approximated", "messages.tool_result", "one is missing or of no call, and words say so")

_MCP_SERVERS = Note("dropped", "mcp_servers", "the provider does not connect to them")
_CONTAINER = Note("dropped", "container", "only Anthropic has it")
_PLACE = Note("dropped", "inference_geo", "nobody here can promise where a model runs")
_CONTEXT = Note(
    "approximated", "context_management", "nothing is cleared or summed up: the model sees the whole history"
)
_TASK_BUDGET = Note("approximated", "output_config.task_budget", "the model is not told of it")
_STOPS = Note("emulated", "stop_sequences", "found here, in the reply")

_OF_BLOCKS: dict[type, Note] = {
    SearchResultBlock: Note("emulated", "messages.search_result", "said as text, with its title and address"),
    ToolReferenceBlock: Note("emulated", "messages.tool_reference", "said as text"),
    RedactedThinkingBlock: Note("approximated", "messages.thinking", "only Anthropic can read what it encrypted"),
}
_SOURCED = {ImageBlock: "image", DocumentBlock: "document"}
_FILES = {
    kind: Note("dropped", f"messages.{kind}", "files of the Files API are not here") for kind in _SOURCED.values()
}
_MISPLACED = {
    kind: Note("dropped", f"messages.{kind}", "it stands where only the user's messages can have one")
    for kind in _SOURCED.values()
}
_DOCUMENT_AS_TEXT = Note("emulated", "messages.document", "said as text, with its title")
_UNCITED = Note("dropped", "messages.document.citations", "only Anthropic cites documents")
_CALL_IN_WORDS = Note("approximated", "messages.tool_use", "a call that is no assistant's is said in words")
_RESULT_IN_WORDS = Note("approximated", "messages.tool_result", "a result that is no user's is said in words")
_LONGEST_KIND = 64


def notes_on_fields(request: MessagesRequest, limits: Limits) -> list[Note]:
    """Return the notes on the fields beside messages and tools."""
    notes = [Note("approximated", "body", what) for what in request.mended]
    if request.mcp_servers and "mcp_toolset" not in limits.server_tools:
        notes.append(_MCP_SERVERS)
    if request.container:
        notes.append(_CONTAINER)
    if request.binds_place:
        notes.append(_PLACE)
    if request.edits_context:
        notes.append(_CONTEXT)
    if request.output_config is not None and len(request.output_config.task_budget):
        notes.append(_TASK_BUDGET)
    if any(text.strip() for text in request.stop_sequences):
        notes.append(_STOPS)
    return notes


def notes_on_blocks(blocks: Iterable[Block], role: str) -> Iterator[Note]:
    """Yield what becomes of blocks that wires do not know, or not in a message of this role (`result`: in a result).

    What a tool of the API's own was asked and gave back is said in words.
    """
    for block in blocks:
        kind = type(block)
        if isinstance(block, ToolResultBlock):
            if role != "user":
                yield _RESULT_IN_WORDS
            yield from notes_on_blocks(blocks_of(block.content), "result")
        elif isinstance(block, ImageBlock | DocumentBlock):
            yield from _notes_on_source(block, role)
        elif isinstance(block, UnknownBlock):
            yield _note_on_unknown(block.kind, is_said=unknown_in_words(block) != UNSUPPORTED % block.kind)
        elif isinstance(block, ToolUseBlock) and role != "assistant":
            yield _CALL_IN_WORDS
        elif isinstance(block, ThinkingBlock) and role != "assistant":
            yield _OF_BLOCKS[RedactedThinkingBlock]
        elif kind in _OF_BLOCKS:
            yield _OF_BLOCKS[kind]
        elif (name := str(kind.__struct_config__.tag)).endswith(("_tool_use", "_tool_result")):
            yield _note_on_unknown(name, is_said=True)


def _notes_on_source(block: ImageBlock | DocumentBlock, role: str) -> Iterator[Note]:
    kind, source = _SOURCED[type(block)], block.source.type
    if source == "file":
        yield _FILES[kind]
    elif isinstance(block, DocumentBlock) and source in ("text", "content"):
        yield _DOCUMENT_AS_TEXT
    elif role not in ("user", "result"):
        yield _MISPLACED[kind]
    if isinstance(block, DocumentBlock) and block.is_cited:
        yield _UNCITED


@functools.lru_cache(maxsize=256)
def _note_on_unknown(kind: str, *, is_said: bool) -> Note:
    field = f"messages.{kind[:_LONGEST_KIND]}"
    if is_said:
        return Note("approximated", field, "said in words")
    return Note("dropped", field, "nothing in it can be said to another model")
