"""Blocks that no wire has a place for, said as text; and the others, as they are."""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.passages import open_passage
from anthropic_proxy.messages.types import (
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
    blocks_of,
    is_text,
    text_raw,
)
from anthropic_proxy.messages.types.blocks import EMPTY_TEXT

UNSUPPORTED = "[unsupported block: %s]"
"""What stands for a block of which nothing can be said; its type joins it."""
_SAYS_NOTHING = (b"", b'""', b"null")
_NOTHING_FOUND = "[nothing found]"
_ERROR = "_tool_result_error"
_FAILED = "[tool error] "
_TOOLS = {
    WebSearchResultBlock: "web_search",
    WebFetchResultBlock: "web_fetch",
    ToolSearchResultBlock: "tool_search",
}
_SHOWN = 200
"""Characters of an argument that are shown of a call that the provider ran."""


def text_block(text: str) -> TextBlock:
    """Return a text as a block."""
    return TextBlock(text_raw(text))


def as_said(block: Block) -> Iterable[Block]:
    """Return what stands for a block upstream: itself, texts, or nothing."""
    if isinstance(block, TextBlock):
        return (block,) if len(block.text) > EMPTY_TEXT else ()
    if isinstance(block, ToolResultBlock):
        return (_plain_result(block),)
    if isinstance(block, ImageBlock | DocumentBlock):
        return _plain_source(block)
    if isinstance(block, ThinkingBlock | ToolUseBlock):
        return (block,)
    if isinstance(block, SearchResultBlock):
        body = (text for part in blocks_of(block.content) for text in as_said(part))
        return (text_block(f"{block.title}\n{block.source}"), *body)
    return _texts(_in_words(block))


def text_of(blocks: Iterable[Block]) -> str:
    """Return the text of text blocks, by lines."""
    return "\n".join(msgspec.json.decode(block.text, type=str) for block in blocks if isinstance(block, TextBlock))


def _texts(words: str) -> Iterable[Block]:
    return (text_block(words),) if words else ()


def _in_words(block: Block) -> str:
    if isinstance(block, ToolReferenceBlock):
        return f"Tool available: {block.tool_name}"
    if isinstance(block, ServerToolUseBlock):
        return _call_in_words(block.name, block.input)
    if isinstance(block, WebSearchResultBlock | WebFetchResultBlock | ToolSearchResultBlock):
        return result_in_words(block)
    if isinstance(block, UnknownBlock):
        return unknown_in_words(block)
    return ""


def result_in_words(block: WebSearchResultBlock | WebFetchResultBlock | ToolSearchResultBlock) -> str:
    """Say what a search or a fetch brought, as a model reads it."""
    content = _value(block.content)
    if isinstance(content, dict) and "error_code" in content:
        why = content.get("error_message")
        code = content["error_code"] or "unknown error"
        return f"[{_TOOLS[type(block)]} failed: {code}{f', {why}' if isinstance(why, str) else ''}]"
    if isinstance(block, WebSearchResultBlock):
        return _search_in_words(content)
    said = _result_in_words(content)
    return said or (_NOTHING_FOUND if isinstance(block, ToolSearchResultBlock) else "")


def _plain_result(block: ToolResultBlock) -> ToolResultBlock:
    if is_text(block.content):
        return block
    before = blocks_of(block.content)
    after = [said for part in before if not isinstance(part, ToolResultBlock | ToolUseBlock) for said in as_said(part)]
    if len(after) == len(before) and all(old is new for old, new in zip(before, after, strict=True)):
        return block
    content = Raw(msgspec.json.encode(after)) if after else Raw(b'""')
    return ToolResultBlock(block.tool_use_id, content, block.is_error)


def _plain_source(block: ImageBlock | DocumentBlock) -> Iterable[Block]:
    source = block.source
    kind = "image" if isinstance(block, ImageBlock) else "document"
    if source.type == "file":
        return (text_block(f"[{kind} file {source.file_id} not available]"),)
    if isinstance(block, ImageBlock) or source.type not in ("text", "content"):
        return (block,)
    heading = "\n".join(filter(None, (block.title, block.context)))
    body: list[Block] = [text_block(source.data)] if source.type == "text" else blocks_of(source.content)
    return [said for part in (text_block(heading), *body) for said in as_said(part)]


def _call_in_words(name: str, arguments: Raw) -> str:
    values = _object(arguments)
    if isinstance(program := values.get("code"), str) and program:
        return f"[{name}]\n{program}"  # whole: the model goes on from what it wrote
    said = next((value for value in values.values() if isinstance(value, str)), "")
    return f"[{name}: {said[:_SHOWN]}]" if said else f"[{name}]"


def _search_in_words(found: Any) -> str:
    if isinstance(found, dict):
        return "[web_search failed: unknown error]"
    results = [result for result in found if isinstance(result, dict)] if isinstance(found, list) else []
    pages = [_page_in_words(result) for result in results]
    return ("\n\n" if any("\n" in page for page in pages) else "\n").join(pages) or _NOTHING_FOUND


def _page_in_words(result: dict[str, Any]) -> str:
    """Say what a search found at one address, with the passage that we sealed into the result ourselves."""
    title, url = result.get("title") or "", result.get("url") or ""
    heading = url if title in ("", url) else f"{title} – {url}"
    sealed, age = result.get("encrypted_content"), result.get("page_age")
    passage = open_passage(sealed) if isinstance(sealed, str) else ""
    if not passage:
        return heading
    return f"{heading}{f' ({age})' if isinstance(age, str) else ''}\n{passage}"


def unknown_in_words(block: UnknownBlock) -> str:
    """Return what can be said of a block that nobody here knows."""
    value = _object(block.raw)
    given = value.get("input")
    if block.kind == "mcp_tool_use" and isinstance(given, dict) and len(given) > 1:
        return f"[{value.get('name')}: {msgspec.json.encode(given).decode()}]"
    if block.kind.endswith("_tool_use") and isinstance(value.get("name"), str):
        return _call_in_words(value["name"], Raw(msgspec.json.encode(value.get("input"))))
    for name in ("text", "content"):
        if isinstance(value.get(name), str):
            return str(value[name])
    mark = _FAILED if value.get("is_error") is True else ""
    return mark + (_result_in_words(value.get("content")) or UNSUPPORTED % block.kind)


def _result_in_words(content: Any) -> str:
    """Say what a tool that the provider ran gave back: text, output of a program, tools found, or an error's code."""
    if isinstance(content, list):
        return "\n".join(filter(None, map(_result_in_words, content)))
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
    said = [content[name] for name in names if isinstance(content.get(name), str) and content[name]]
    if content.get("return_code"):
        said.append(f"[exit code {content['return_code']}]")
    nested = (_result_in_words(content.get(name)) for name in ("content", "source"))
    return "\n".join(filter(None, (*said, *nested)))


def _object(raw: Raw) -> dict[str, Any]:
    value = _value(raw)
    return value if isinstance(value, dict) else {}


def _value(raw: Raw) -> Any:
    """Return what we only quote from; what cannot be read says nothing."""
    if bytes(raw) in _SAYS_NOTHING:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
