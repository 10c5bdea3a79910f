"""Blocks of the Messages API for server tools that a provider ran.

Source: the types of the official SDK `anthropic` 2.10 (`ServerToolUseBlock`, `WebSearchToolResultBlock`,
`WebFetchToolResultBlock`, `CodeExecutionToolResultBlock`, `BetaMCPToolUseBlock`, `BetaMCPToolResultBlock`).
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.deltas import Block, Citation, Delta
from anthropic_proxy.messages.domains import is_allowed
from anthropic_proxy.messages.sealed_passages import encode_passage

_MAX_QUOTE_LENGTH = 150
"""Characters of `cited_text`, as in Anthropic's own search."""
_MAX_PASSAGE_LENGTH = 2_000
"""Characters of a passage. A search can have twenty, which are part of every later request."""
_OBJECT = b"{"

SearchError = Literal["unavailable", "max_uses_exceeded", "too_many_requests", "invalid_tool_input"]
FetchError = Literal["url_not_accessible", "url_not_allowed", "unavailable"]
CodeError = Literal["unavailable", "execution_time_exceeded"]

SERVER_TOOL_ID_PREFIX = "srvtoolu_"
"""Prefix of the ids of server tool calls."""
_UNKNOWN_NAME = "unknown"
"""Name of a tool without a name. Clients reject an empty name."""
MCP_TOOL_ID_PREFIX = "mcptoolu_"
"""Prefix of the ids of MCP calls."""


class SearchResultPage(NamedTuple):
    """A page in the result of a search."""

    url: str
    title: str | None = None
    passage: str = ""
    """Text of the page. "": not reported. The client returns it, encoded, with the next request."""


def encode_search(identifier: str, query: str, pages: Iterable[SearchResultPage]) -> list[Delta]:
    """Return the call and the result of a search."""
    return [encode_search_call(identifier, query), encode_pages(identifier, pages)]


def encode_search_call(identifier: str, query: str) -> Block:
    """Return the call of a search."""
    return _call(identifier, "web_search", {"query": query})


def encode_pages(identifier: str, pages: Iterable[SearchResultPage]) -> Block:
    """Return the result of a search."""
    found = [
        {
            "type": "web_search_result",
            "url": page.url,
            "title": page.title or page.url,
            "encrypted_content": encode_passage(page.passage[:_MAX_PASSAGE_LENGTH]),
            "page_age": None,
        }
        for page in pages
    ]
    return _block(type="web_search_tool_result", tool_use_id=identifier, content=found)


def encode_failed_search(identifier: str, error: SearchError) -> Block:
    """Return the error result of a search."""
    content = {"type": "web_search_tool_result_error", "error_code": error}
    return _block(type="web_search_tool_result", tool_use_id=identifier, content=content)


def encode_citation(url: str, title: str | None, passage: str) -> Citation:
    """Return the citation of a page."""
    citation = {
        "type": "web_search_result_location",
        "url": url,
        "title": title or url,
        "encrypted_index": "",
        "cited_text": passage[:_MAX_QUOTE_LENGTH],
    }
    return Citation(Raw(msgspec.json.encode(citation)))


def encode_fetch(
    identifier: str, url: str, *, title: str | None = None, error: FetchError | None = None
) -> list[Delta]:
    """Return the call and the result of a web fetch.

    Providers report the URL of a fetched page but not its content, so the document of the result is empty.
    """
    content: dict[str, Any] = {"type": "web_fetch_tool_result_error", "error_code": error}
    if error is None:
        source = {"type": "text", "media_type": "text/plain", "data": ""}
        document = {"type": "document", "source": source, "title": title, "citations": None}
        content = {"type": "web_fetch_result", "url": url, "content": document, "retrieved_at": None}
    result = _block(type="web_fetch_tool_result", tool_use_id=identifier, content=content)
    return [_call(identifier, "web_fetch", {"url": url}), result]


def encode_code_execution(identifier: str, code: str) -> Block:
    """Return the call of a code execution."""
    return _call(identifier, "code_execution", {"code": code})


def encode_code_result(identifier: str, *, stdout: str = "", stderr: str = "", return_code: int = 0) -> Block:
    """Return the output of a code execution. Created files stay at the provider and are not listed."""
    content = {
        "type": "code_execution_result",
        "stdout": stdout,
        "stderr": stderr,
        "return_code": return_code,
        "content": [],
    }
    return _block(type="code_execution_tool_result", tool_use_id=identifier, content=content)


def encode_code_error(identifier: str, error: CodeError) -> Block:
    """Return the error result of a code execution."""
    content = {"type": "code_execution_tool_result_error", "error_code": error}
    return _block(type="code_execution_tool_result", tool_use_id=identifier, content=content)


def encode_mcp_call(identifier: str, server: str, name: str, arguments: str) -> Block:
    """Return the call of a tool on an MCP server. `arguments`: JSON text of the model."""
    return _block(
        type="mcp_tool_use", id=identifier, name=name or _UNKNOWN_NAME, server_name=server, input=_object(arguments)
    )


def encode_mcp_result(identifier: str, text: str, *, is_error: bool = False) -> Block:
    """Return the result of an MCP call."""
    content = [{"type": "text", "text": text}]
    return _block(type="mcp_tool_result", tool_use_id=identifier, is_error=is_error, content=content)


def is_domain_allowed(url: str, allowed: Sequence[str], blocked: Sequence[str]) -> bool:
    """Return True if these domains allow a page. Invalid entries allow every page."""
    if not allowed and not blocked:
        return True
    try:
        return is_allowed(url, allowed, blocked)
    except ValueError:
        return True


def generated_image_text(media_type: str, characters: int) -> str:
    """Return the text that replaces a generated file. `characters`: length of its base64 data."""
    kind = media_type.partition("/")[0] or "file"
    return f"[{kind} generated: {media_type or 'unknown type'}, {max(1, round(characters * 3 / 4000))} kB]"


def _call(identifier: str, name: str, arguments: dict[str, str]) -> Block:
    return _block(type="server_tool_use", id=identifier, name=name, input=arguments)


def _block(**fields: Any) -> Block:
    return Block(Raw(msgspec.json.encode(fields)))


def _object(text: str) -> Any:
    """Return the text of a JSON object unchanged. Other text becomes the member `arguments` of an object."""
    raw = text.strip().encode(errors="replace")
    try:
        if raw[:1] == _OBJECT and msgspec.json.decode(raw) is not None:
            return Raw(raw)
    except (msgspec.DecodeError, RecursionError):
        pass
    return {"arguments": text} if raw else {}
