"""What a provider's own tools did → the blocks in which Anthropic's clients expect it.

Source: the types of the official SDK `anthropic` 2.10 (`ServerToolUseBlock`, `WebSearchToolResultBlock`,
`WebFetchToolResultBlock`, `CodeExecutionToolResultBlock`, `BetaMCPToolUseBlock`, `BetaMCPToolResultBlock`).
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Raw

from anthropic_proxy.messages.deltas import Block, Citation, Delta
from anthropic_proxy.messages.domains import is_allowed
from anthropic_proxy.messages.passages import seal_passage

_LONGEST_QUOTE = 150
"""Characters of `cited_text`, as Anthropic's own search gives them."""
_LONGEST_PASSAGE = 2_000
"""Characters of what was read on a page: a search may name twenty, and all of them weigh on every later request."""
_OBJECT = b"{"

SearchError = Literal["unavailable", "max_uses_exceeded", "too_many_requests", "invalid_tool_input"]
FetchError = Literal["url_not_accessible", "url_not_allowed", "unavailable"]
CodeError = Literal["unavailable", "execution_time_exceeded"]

SERVER_CALL = "srvtoolu_"
"""Prefix of the ids of calls that a provider ran."""
_NAMELESS = "unknown"
"""What a tool is called of which a provider did not say the name: clients refuse an empty one."""
CONNECTOR_CALL = "mcptoolu_"
"""Prefix of the ids of calls that a provider made of a server of the client's."""


class Page(NamedTuple):
    """A page that a search found."""

    url: str
    title: str | None = None
    passage: str = ""
    """What the search read there, where it is told: sealed, it goes back with the next request."""


def encode_search(identifier: str, query: str, pages: Iterable[Page]) -> list[Delta]:
    """Return the call and its result."""
    return [encode_search_call(identifier, query), encode_pages(identifier, pages)]


def encode_search_call(identifier: str, query: str) -> Block:
    """Return the call of a search."""
    return _call(identifier, "web_search", {"query": query})


def encode_pages(identifier: str, pages: Iterable[Page]) -> Block:
    """Return what the search of that call found."""
    found = [
        {
            "type": "web_search_result",
            "url": page.url,
            "title": page.title or page.url,
            "encrypted_content": seal_passage(page.passage[:_LONGEST_PASSAGE]),
            "page_age": None,
        }
        for page in pages
    ]
    return _block(type="web_search_tool_result", tool_use_id=identifier, content=found)


def encode_failed_search(identifier: str, error: SearchError) -> Block:
    """Return that the search of that call failed."""
    content = {"type": "web_search_tool_result_error", "error_code": error}
    return _block(type="web_search_tool_result", tool_use_id=identifier, content=content)


def encode_citation(url: str, title: str | None, passage: str) -> Citation:
    """Return the citation of a page by the passage that rests on it."""
    citation = {
        "type": "web_search_result_location",
        "url": url,
        "title": title or url,
        "encrypted_index": "",
        "cited_text": passage[:_LONGEST_QUOTE],
    }
    return Citation(Raw(msgspec.json.encode(citation)))


def encode_fetch(
    identifier: str, url: str, *, title: str | None = None, error: FetchError | None = None
) -> list[Delta]:
    """Return the fetch of a page and its result.

    Providers say which pages their model read, never what stood in them: the document of the result is empty.
    """
    content: dict[str, Any] = {"type": "web_fetch_tool_result_error", "error_code": error}
    if error is None:
        source = {"type": "text", "media_type": "text/plain", "data": ""}
        document = {"type": "document", "source": source, "title": title, "citations": None}
        content = {"type": "web_fetch_result", "url": url, "content": document, "retrieved_at": None}
    result = _block(type="web_fetch_tool_result", tool_use_id=identifier, content=content)
    return [_call(identifier, "web_fetch", {"url": url}), result]


def encode_program(identifier: str, code: str) -> Block:
    """Return the call that runs a program."""
    return _call(identifier, "code_execution", {"code": code})


def encode_output(identifier: str, *, stdout: str = "", stderr: str = "", return_code: int = 0) -> Block:
    """Return what the program of that call printed. Files that it made stay with the provider, and are not named."""
    content = {
        "type": "code_execution_result",
        "stdout": stdout,
        "stderr": stderr,
        "return_code": return_code,
        "content": [],
    }
    return _block(type="code_execution_tool_result", tool_use_id=identifier, content=content)


def encode_failed_program(identifier: str, error: CodeError) -> Block:
    """Return that the program of that call did not run to its end."""
    content = {"type": "code_execution_tool_result_error", "error_code": error}
    return _block(type="code_execution_tool_result", tool_use_id=identifier, content=content)


def encode_connector_call(identifier: str, server: str, name: str, arguments: str) -> Block:
    """Return the call of a tool on a server of the client's; `arguments` is the JSON that the model wrote."""
    return _block(
        type="mcp_tool_use", id=identifier, name=name or _NAMELESS, server_name=server, input=_object(arguments)
    )


def encode_connector_result(identifier: str, text: str, *, is_error: bool = False) -> Block:
    """Return what that server answered."""
    content = [{"type": "text", "text": text}]
    return _block(type="mcp_tool_result", tool_use_id=identifier, is_error=is_error, content=content)


def is_shown(url: str, allowed: Sequence[str], blocked: Sequence[str]) -> bool:
    """Whether a client that allows and blocks these domains wants to see a page; one that is no domain says nothing."""
    if not allowed and not blocked:
        return True
    try:
        return is_allowed(url, allowed, blocked)
    except ValueError:
        return True


def picture_in_words(media_type: str, characters: int) -> str:
    """Return what stands for a generated file of which there are so many characters of base64."""
    kind = media_type.partition("/")[0] or "file"
    return f"[{kind} generated: {media_type or 'unknown type'}, {max(1, round(characters * 3 / 4000))} kB]"


def _call(identifier: str, name: str, arguments: dict[str, str]) -> Block:
    return _block(type="server_tool_use", id=identifier, name=name, input=arguments)


def _block(**fields: Any) -> Block:
    return Block(Raw(msgspec.json.encode(fields)))


def _object(text: str) -> Any:
    """Return JSON text of an object as it is; anything else, which no client could read, as the argument of one."""
    raw = text.strip().encode(errors="replace")
    try:
        if raw[:1] == _OBJECT and msgspec.json.decode(raw) is not None:
            return Raw(raw)
    except (msgspec.DecodeError, RecursionError):
        pass
    return {"arguments": text} if raw else {}
