"""What providers receive in place of content blocks that they do not accept, such as results of server tools.

Providers accept text, images, documents, thinking, tool calls and tool results. `to_upstream_blocks` returns accepted
blocks for any block of the client, and `notes_on_blocks` the fidelity notes about them.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import (
    Block,
    DocumentBlock,
    ImageBlock,
    RedactedThinkingBlock,
    SearchResultBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolSearchResultBlock,
    ToolUseBlock,
    UnknownBlock,
    WebFetchResultBlock,
    WebSearchResultBlock,
    decode_nested_content,
    is_string_or_absent,
    json_string,
    name_url,
)
from anthropic_proxy.engine.messages.models.blocks import EMPTY_STRING_LENGTH
from anthropic_proxy.engine.messages.server_blocks import decode_passage

_UNSUPPORTED = "[unsupported block: %s]"
_EMPTY_VALUES = (b"", b'""', b"null")
_NOTHING_FOUND = "[nothing found]"
_ERROR = "_tool_result_error"
_FAILED = "[tool error] "
_TOOLS = {WebSearchResultBlock: "web_search", WebFetchResultBlock: "web_fetch", ToolSearchResultBlock: "tool_search"}
_MAX_SHOWN_CHARACTERS = 200


def new_text_block(text: str) -> TextBlock:
    return TextBlock(json_string(text))


def to_upstream_blocks(block: Block) -> Iterable[Block]:
    """Return the blocks to send in place of one block. A block that providers reject becomes text, or is dropped."""
    if isinstance(block, TextBlock):
        return (block,) if len(block.text) > EMPTY_STRING_LENGTH else ()
    if isinstance(block, ToolResultBlock):
        return (_plain_result(block),)
    if isinstance(block, ImageBlock | DocumentBlock):
        source = block.source
        if source.type == "file":
            kind = "image" if isinstance(block, ImageBlock) else "document"
            return (new_text_block(f"[{kind} file {source.file_id} not available]"),)
        if isinstance(block, ImageBlock) or source.type not in ("text", "content"):
            return (block,)
        heading = "\n".join(filter(None, (block.title, block.context)))
        body: list[Block] = (
            [new_text_block(source.data)] if source.type == "text" else decode_nested_content(source.content)
        )
        return [sent for inner in (new_text_block(heading), *body) for sent in to_upstream_blocks(inner)]
    if isinstance(block, ThinkingBlock | ToolUseBlock):
        return (block,)
    if isinstance(block, SearchResultBlock):
        passages = (text for inner in decode_nested_content(block.content) for text in to_upstream_blocks(inner))
        return (new_text_block(f"{block.title}\n{block.source}"), *passages)
    text = ""
    if isinstance(block, ToolReferenceBlock):
        text = f"Tool available: {block.tool_name}"
    elif isinstance(block, ServerToolUseBlock):
        text = _call_as_text(block.name, block.input)
    elif isinstance(block, WebSearchResultBlock | WebFetchResultBlock | ToolSearchResultBlock):
        text = result_as_text(block)
    elif isinstance(block, UnknownBlock):
        text = unknown_block_text(block)
    return (new_text_block(text),) if text else ()


def result_as_text(block: WebSearchResultBlock | WebFetchResultBlock | ToolSearchResultBlock) -> str:
    content = _value(block.content)
    if isinstance(content, dict) and "error_code" in content:
        message = content.get("error_message")
        code = content["error_code"] or "unknown error"
        return f"[{_TOOLS[type(block)]} failed: {code}{f', {message}' if isinstance(message, str) else ''}]"
    if isinstance(block, WebSearchResultBlock):
        if isinstance(content, dict):
            return "[web_search failed: unknown error]"
        results = [result for result in content if isinstance(result, dict)] if isinstance(content, list) else []
        texts = []
        for result in results:
            title, url = result.get("title") or "", result.get("url") or ""
            text = url if title in ("", url) else f"{title} – {url}"
            # the proxy encodes the text of the page
            encoded, age = result.get("encrypted_content"), result.get("page_age")
            if isinstance(encoded, str) and (passage := decode_passage(encoded)):
                text = f"{text}{f' ({age})' if isinstance(age, str) else ''}\n{passage}"
            texts.append(text)
        return ("\n\n" if any("\n" in text for text in texts) else "\n").join(texts) or _NOTHING_FOUND
    return _content_as_text(content) or (_NOTHING_FOUND if isinstance(block, ToolSearchResultBlock) else "")


def _plain_result(block: ToolResultBlock) -> ToolResultBlock:
    if is_string_or_absent(block.content):
        return block
    before = decode_nested_content(block.content)
    after = [
        sent
        for inner in before
        if not isinstance(inner, ToolResultBlock | ToolUseBlock)
        for sent in to_upstream_blocks(inner)
    ]
    if len(after) == len(before) and all(old is new for old, new in zip(before, after, strict=True)):
        return block
    content = Raw(msgspec.json.encode(after)) if after else Raw(b'""')
    return ToolResultBlock(block.tool_use_id, content, block.is_error)


def _call_as_text(name: str, arguments: Raw) -> str:
    values = _object(arguments)
    if isinstance(program := values.get("code"), str) and program:
        return f"[{name}]\n{program}"  # complete, because the model continues its program
    argument = next((value for value in values.values() if isinstance(value, str)), "")
    return f"[{name}: {argument[:_MAX_SHOWN_CHARACTERS]}]" if argument else f"[{name}]"


def unknown_block_text(block: UnknownBlock) -> str:
    """Return the text that is sent in place of a block of unknown type: its own text, or a notice with the type."""
    value = _object(block.raw)
    given = value.get("input")
    if block.kind == "mcp_tool_use" and isinstance(given, dict) and len(given) > 1:
        return f"[{value.get('name')}: {msgspec.json.encode(given).decode()}]"
    if block.kind.endswith("_tool_use") and isinstance(value.get("name"), str):
        return _call_as_text(value["name"], Raw(msgspec.json.encode(value.get("input"))))
    for name in ("text", "content"):
        if isinstance(value.get(name), str):
            return str(value[name])
    mark = _FAILED if value.get("is_error") is True else ""
    return mark + (_content_as_text(value.get("content")) or _UNSUPPORTED % block.kind)


def _content_as_text(content: Any) -> str:
    """Return a server tool result's `content` as text: text, program output, names of found tools, or an error code."""
    if isinstance(content, list):
        return "\n".join(filter(None, map(_content_as_text, content)))
    if not isinstance(content, dict):
        return ""
    if isinstance(found := content.get("tool_references"), list):
        return "\n".join(f"Tool available: {tool.get('tool_name', '')}" for tool in found if isinstance(tool, dict))
    names: tuple[str, ...] = ("title", "url", "text", "data", "stdout", "stderr", "error_code")
    kind = content.get("type")
    if isinstance(kind, str) and kind.endswith(_ERROR) and content.get("error_code"):
        return f"[{kind.removesuffix(_ERROR)} failed: {content['error_code']}]"
    if kind == "base64":
        return f"[file omitted: {content.get('media_type')}]"
    given = {name: content[name] for name in names if isinstance(content.get(name), str) and content[name]}
    texts = [name_url(value) if name == "url" else value for name, value in given.items()]
    if content.get("return_code"):
        texts.append(f"[exit code {content['return_code']}]")
    nested = (_content_as_text(content.get(name)) for name in ("content", "source"))
    return "\n".join(filter(None, (*texts, *nested)))


def _object(raw: Raw) -> dict[str, Any]:
    value = _value(raw)
    return value if isinstance(value, dict) else {}


def _value(raw: Raw) -> Any:
    if bytes(raw) in _EMPTY_VALUES:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


_OF_BLOCKS: dict[type, FidelityNote] = {
    SearchResultBlock: FidelityNote("emulated", "messages.search_result", "sent as text, with its title and address"),
    ToolReferenceBlock: FidelityNote("emulated", "messages.tool_reference", "sent as text"),
    RedactedThinkingBlock: FidelityNote(
        "approximated", "messages.thinking", "only Anthropic can read what it encrypted"
    ),
}
_MEDIA: dict[type, str] = {ImageBlock: "image", DocumentBlock: "document"}
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
_MAX_KIND_LENGTH = 64


def notes_on_blocks(blocks: Iterable[Block], role: str) -> Iterator[FidelityNote]:
    """Yield a note for each block that cannot be sent unchanged. `role`: of the message, or `result`."""
    for block in blocks:
        kind = type(block)
        if isinstance(block, ToolResultBlock):
            if role != "user":
                yield _RESULT_AS_TEXT
            yield from notes_on_blocks(decode_nested_content(block.content), "result")
        elif isinstance(block, ImageBlock | DocumentBlock):
            name, source = _MEDIA[kind], block.source.type
            if source == "file":
                yield _FILES[name]
            elif isinstance(block, DocumentBlock) and source in ("text", "content"):
                yield _DOCUMENT_AS_TEXT
            elif role not in ("user", "result"):
                yield _MISPLACED[name]
            if isinstance(block, DocumentBlock) and block.requests_citations:
                yield _UNCITED
        elif isinstance(block, UnknownBlock):
            yield _note_on_unknown(block.kind, is_text=unknown_block_text(block) != _UNSUPPORTED % block.kind)
        elif isinstance(block, ToolUseBlock) and role != "assistant":
            yield _CALL_AS_TEXT
        elif isinstance(block, ThinkingBlock) and role != "assistant":
            yield _OF_BLOCKS[RedactedThinkingBlock]
        elif kind in _OF_BLOCKS:
            yield _OF_BLOCKS[kind]
        elif (name := str(kind.__struct_config__.tag)).endswith(("_tool_use", "_tool_result")):
            yield _note_on_unknown(name, is_text=True)


@functools.lru_cache(maxsize=256)
def _note_on_unknown(kind: str, *, is_text: bool) -> FidelityNote:
    field = f"messages.{kind[:_MAX_KIND_LENGTH]}"
    if is_text:
        return FidelityNote("approximated", field, "sent as text")
    return FidelityNote("dropped", field, "no other model accepts its content")
