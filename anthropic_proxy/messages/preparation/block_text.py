"""Text in place of content blocks that providers do not accept, such as results of server tools.

Providers accept text, images, documents, thinking, tool calls and tool results. `to_upstream_blocks` returns accepted
blocks for any block of the client. The `…_text` functions return a block's text. `new_text_block` and
`join_text_blocks` convert between text and blocks.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.models import (
    Block,
    DocumentBlock,
    ImageBlock,
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
from anthropic_proxy.messages.models.blocks import EMPTY_STRING_LENGTH
from anthropic_proxy.messages.server_blocks import decode_passage

UNSUPPORTED_BLOCK_TEXT = "[unsupported block: %s]"
"""Text for an unknown block without text. Argument: the block type."""
_EMPTY_VALUES = (b"", b'""', b"null")
_NOTHING_FOUND = "[nothing found]"
_ERROR = "_tool_result_error"
_FAILED = "[tool error] "
_TOOLS = {
    WebSearchResultBlock: "web_search",
    WebFetchResultBlock: "web_fetch",
    ToolSearchResultBlock: "tool_search",
}
_MAX_SHOWN_CHARACTERS = 200
"""Maximum number of characters of a call argument in the text that replaces a server tool call."""


def new_text_block(text: str) -> TextBlock:
    """Return a `TextBlock` with a text, encoded as a JSON string."""
    return TextBlock(json_string(text))


def to_upstream_blocks(block: Block) -> Iterable[Block]:
    """Return the content blocks to send to the provider in place of one block of the client.

    A block that providers reject becomes text, or is dropped.
    """
    if isinstance(block, TextBlock):
        return (block,) if len(block.text) > EMPTY_STRING_LENGTH else ()
    if isinstance(block, ToolResultBlock):
        return (_plain_result(block),)
    if isinstance(block, ImageBlock | DocumentBlock):
        return _plain_source(block)
    if isinstance(block, ThinkingBlock | ToolUseBlock):
        return (block,)
    if isinstance(block, SearchResultBlock):
        body = (text for inner in decode_nested_content(block.content) for text in to_upstream_blocks(inner))
        return (new_text_block(f"{block.title}\n{block.source}"), *body)
    return _texts(_as_text(block))


def join_text_blocks(blocks: Iterable[Block]) -> str:
    """Return the texts of all text blocks, joined by newlines. Blocks of other types are skipped."""
    return "\n".join(msgspec.json.decode(block.text, type=str) for block in blocks if isinstance(block, TextBlock))


def _texts(words: str) -> Iterable[Block]:
    return (new_text_block(words),) if words else ()


def _as_text(block: Block) -> str:
    if isinstance(block, ToolReferenceBlock):
        return f"Tool available: {block.tool_name}"
    if isinstance(block, ServerToolUseBlock):
        return _call_as_text(block.name, block.input)
    if isinstance(block, WebSearchResultBlock | WebFetchResultBlock | ToolSearchResultBlock):
        return result_as_text(block)
    if isinstance(block, UnknownBlock):
        return unknown_block_text(block)
    return ""


def result_as_text(block: WebSearchResultBlock | WebFetchResultBlock | ToolSearchResultBlock) -> str:
    """Return the text that is sent to the model in place of a result of a web search, web fetch or tool search."""
    content = _value(block.content)
    if isinstance(content, dict) and "error_code" in content:
        message = content.get("error_message")
        code = content["error_code"] or "unknown error"
        return f"[{_TOOLS[type(block)]} failed: {code}{f', {message}' if isinstance(message, str) else ''}]"
    if isinstance(block, WebSearchResultBlock):
        return _search_as_text(content)
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


def _plain_source(block: ImageBlock | DocumentBlock) -> Iterable[Block]:
    source = block.source
    kind = "image" if isinstance(block, ImageBlock) else "document"
    if source.type == "file":
        return (new_text_block(f"[{kind} file {source.file_id} not available]"),)
    if isinstance(block, ImageBlock) or source.type not in ("text", "content"):
        return (block,)
    heading = "\n".join(filter(None, (block.title, block.context)))
    body: list[Block] = (
        [new_text_block(source.data)] if source.type == "text" else decode_nested_content(source.content)
    )
    return [sent for inner in (new_text_block(heading), *body) for sent in to_upstream_blocks(inner)]


def _call_as_text(name: str, arguments: Raw) -> str:
    values = _object(arguments)
    if isinstance(program := values.get("code"), str) and program:
        return f"[{name}]\n{program}"  # complete, because the model continues its program
    argument = next((value for value in values.values() if isinstance(value, str)), "")
    return f"[{name}: {argument[:_MAX_SHOWN_CHARACTERS]}]" if argument else f"[{name}]"


def _search_as_text(found: Any) -> str:
    if isinstance(found, dict):
        return "[web_search failed: unknown error]"
    results = [result for result in found if isinstance(result, dict)] if isinstance(found, list) else []
    texts = [_search_result_as_text(result) for result in results]
    return ("\n\n" if any("\n" in text for text in texts) else "\n").join(texts) or _NOTHING_FOUND


def _search_result_as_text(result: dict[str, Any]) -> str:
    """Return one web search result as text, with the page text that the proxy encoded in its `encrypted_content`."""
    title, url = result.get("title") or "", result.get("url") or ""
    heading = url if title in ("", url) else f"{title} – {url}"
    sealed, age = result.get("encrypted_content"), result.get("page_age")
    passage = decode_passage(sealed) if isinstance(sealed, str) else ""
    if not passage:
        return heading
    return f"{heading}{f' ({age})' if isinstance(age, str) else ''}\n{passage}"


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
    return mark + (_content_as_text(value.get("content")) or UNSUPPORTED_BLOCK_TEXT % block.kind)


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
    """Return the value of JSON text. None: `raw` is empty or not valid JSON."""
    if bytes(raw) in _EMPTY_VALUES:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
