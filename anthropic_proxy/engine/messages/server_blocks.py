"""Content blocks for calls and results of server tools, which a provider or the proxy runs, and their domain lists.

`encode_…` functions return complete blocks. `…_content` functions return only the field `content` of a result block.
The text of a found page is stored in `encrypted_content`, so that the client sends it back with the next request.
Source: the types of the official SDK `anthropic` 2.10 (`ServerToolUseBlock`, `WebSearchToolResultBlock`,
`WebFetchToolResultBlock`, `ToolSearchToolResultBlock`, `CodeExecutionToolResultBlock`, `BetaMCPToolUseBlock`,
`BetaMCPToolResultBlock`).
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from posixpath import normpath
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Raw

from anthropic_proxy.engine.base64url import decode_base64url, encode_base64url
from anthropic_proxy.engine.messages.deltas import Block, Citation, Delta
from anthropic_proxy.engine.patterns import compile_anchored, compile_later

_MAX_QUOTE_LENGTH = 150
"""Maximum characters of the quoted text of a citation (`cited_text`), as in Anthropic's own search."""
_MAX_PASSAGE_LENGTH = 2_000
"""Maximum characters of a page's text in a search result. A search can have 20 pages, and each later request contains
them."""

FetchError = Literal["url_not_accessible", "url_not_allowed", "unavailable"]
CodeError = Literal["unavailable", "execution_time_exceeded"]

SERVER_TOOL_ID_PREFIX = "srvtoolu_"
_UNKNOWN_NAME = "unknown"
MCP_TOOL_ID_PREFIX = "mcptoolu_"


class SearchResultPage(NamedTuple):
    url: str
    title: str | None = None
    passage: str = ""
    """Text of the page. "": not reported."""
    age: str | None = None
    """Age of the page, as the search service states it. None: not reported."""


Content = list[dict[str, Any]] | dict[str, Any]
"""Type of the field `content` of a result block: a list of results, or one object."""


def encode_server_tool_call(identifier: str, name: str, arguments: Raw | Mapping[str, str]) -> Block:
    return _block(type="server_tool_use", id=identifier, name=name, input=arguments)


def encode_server_tool_result(tool_kind: str, identifier: str, content: Content) -> Block:
    return _block(type=f"{tool_kind}_tool_result", tool_use_id=identifier, content=content)


def error_content(tool_kind: str, code: str) -> dict[str, Any]:
    return {"type": f"{tool_kind}_tool_result_error", "error_code": code}


def is_error_content(content: Content) -> bool:
    return isinstance(content, Mapping) and "error_code" in content


def web_search_content(pages: Iterable[SearchResultPage]) -> Content:
    return [
        {
            "type": "web_search_result",
            "url": page.url,
            "title": page.title or page.url,
            "encrypted_content": encode_passage(page.passage),
            "page_age": page.age,
        }
        for page in pages
    ]


def web_fetch_content(
    url: str, source: Mapping[str, str], title: str | None, citations: Any = None, retrieved_at: str | None = None
) -> Content:
    """`source` has the text or the PDF, in the format of a document block."""
    document = {"type": "document", "source": source, "title": title, "citations": citations}
    return {"type": "web_fetch_result", "url": url, "content": document, "retrieved_at": retrieved_at}


def tool_search_content(names: Iterable[str]) -> Content:
    references = [{"type": "tool_reference", "tool_name": name} for name in names]
    return {"type": "tool_search_tool_search_result", "tool_references": references}


def encode_search_call_and_result(identifier: str, query: str, pages: Iterable[SearchResultPage]) -> list[Delta]:
    return [encode_search_call(identifier, query), encode_search_result(identifier, pages)]


def encode_search_call(identifier: str, query: str) -> Block:
    return encode_server_tool_call(identifier, "web_search", {"query": query})


def encode_search_result(identifier: str, pages: Iterable[SearchResultPage]) -> Block:
    """Return the result block of a web search. Passages are cut after 2000 characters."""
    shortened = (page._replace(passage=page.passage[:_MAX_PASSAGE_LENGTH]) for page in pages)
    return encode_server_tool_result("web_search", identifier, web_search_content(shortened))


def encode_failed_search(identifier: str) -> Block:
    return encode_server_tool_result("web_search", identifier, error_content("web_search", "unavailable"))


def encode_citation(url: str, title: str | None, passage: str) -> Citation:
    """Return a citation of a found page. The passage is cut after 150 characters."""
    citation = {
        "type": "web_search_result_location",
        "url": url,
        "title": title or url,
        "encrypted_index": "",
        "cited_text": passage[:_MAX_QUOTE_LENGTH],
    }
    return Citation(Raw(msgspec.json.encode(citation)))


def encode_fetch_call_and_result(identifier: str, url: str, *, error: FetchError | None = None) -> list[Delta]:
    # providers report the URL of a fetched page but not its content
    source = {"type": "text", "media_type": "text/plain", "data": ""}
    content = web_fetch_content(url, source, None) if error is None else error_content("web_fetch", error)
    return [
        encode_server_tool_call(identifier, "web_fetch", {"url": url}),
        encode_server_tool_result("web_fetch", identifier, content),
    ]


def encode_code_execution_call(identifier: str, code: str) -> Block:
    return encode_server_tool_call(identifier, "code_execution", {"code": code})


def encode_code_result(identifier: str, *, stdout: str = "", stderr: str = "", return_code: int = 0) -> Block:
    # files that the code created are not listed
    output = {"type": "code_execution_result", "stdout": stdout, "stderr": stderr}
    content = {**output, "return_code": return_code, "content": []}
    return _block(type="code_execution_tool_result", tool_use_id=identifier, content=content)


def encode_code_execution_error(identifier: str, error: CodeError) -> Block:
    return encode_server_tool_result("code_execution", identifier, error_content("code_execution", error))


def encode_mcp_call(identifier: str, server: str, name: str, arguments: str) -> Block:
    """Return the call block of a tool on an MCP server. `arguments`: text of the model, which may be invalid JSON."""
    raw = arguments.strip().encode(errors="replace")
    given: Any = {"arguments": arguments} if raw else {}
    try:
        if raw[:1] == b"{" and msgspec.json.decode(raw, type=dict) is not None:
            given = Raw(raw)
    except (msgspec.DecodeError, RecursionError):
        pass
    return _block(type="mcp_tool_use", id=identifier, name=name or _UNKNOWN_NAME, server_name=server, input=given)


def encode_mcp_result(identifier: str, text: str, *, is_error: bool = False) -> Block:
    content = [{"type": "text", "text": text}]
    return _block(type="mcp_tool_result", tool_use_id=identifier, is_error=is_error, content=content)


def describe_generated_file(media_type: str, base64_length: int) -> str:
    """Return the text that replaces a file of the model, such as a generated image.

    `base64_length`: length of the file's base64 data.
    """
    kind = media_type.partition("/")[0] or "file"
    return f"[{kind} generated: {media_type or 'unknown type'}, {max(1, round(base64_length * 3 / 4000))} kB]"


def describe_generated_image(url: str) -> str:
    """Return the text that replaces an image of the model. A `data:` URL has the image itself."""
    described, mark, data = url.partition(",")
    if not mark or not described.startswith("data:"):
        return f"[image generated: {url}]"
    return describe_generated_file(described.removeprefix("data:").partition(";")[0], len(data))


def _block(**fields: Any) -> Block:
    return Block(Raw(msgspec.json.encode(fields)))


# Passages

_ENCODED_PREFIX = "px1.web."
_MAX_ENCODED_LENGTH = 16 * 1024
"""Maximum characters of an encoded passage. A longer passage is cut, because each later request contains it."""


def encode_passage(text: str) -> str:
    """Return the value of `encrypted_content` for a passage. "": no text.

    >>> encode_passage("Cold.")
    'px1.web.Q29sZC4'
    """
    if not text:
        return ""
    return _ENCODED_PREFIX + encode_base64url(text[:_MAX_ENCODED_LENGTH].encode(errors="replace"))


def decode_passage(sealed: str) -> str:
    """Return the web page text in a value of `encrypted_content`. "": damaged, or not encoded by the proxy."""
    if not sealed.startswith(_ENCODED_PREFIX):
        return ""
    try:
        return decode_base64url(sealed[len(_ENCODED_PREFIX) :]).decode()
    except ValueError:  # not base64, or not UTF-8 inside
        return ""


# Domain lists

_HOST = compile_anchored(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|(?=[0-9a-f.]*:)[0-9a-f:.]*")
_MAX_ENTRY = 2_000
"""Maximum number of characters of an entry of a list of domains."""
_MAX_HOST = 253
"""Maximum number of characters of a host name in the DNS."""
_PATH_END = compile_later(r"/|\Z")
_ENTRY = compile_anchored(r"(?P<host>[^\s/*:?#@\\]+)(?P<path>/[^\s*?#]*(?:\*[^\s*?#]*)?)?")


def is_domain_allowed(url: str, allowed: Sequence[str], blocked: Sequence[str]) -> bool:
    """Return True if the client's lists of allowed and blocked domains permit a URL.

    If a list has an invalid entry, the function returns True for every URL. Unlike `is_url_allowed`, it raises no
    error, because `assign_server_tools` has already rejected such lists.
    """
    if not allowed and not blocked:
        return True
    try:
        return is_url_allowed(url, allowed, blocked)
    except ValueError:
        return True


def is_url_allowed(url: str, allowed: Sequence[str], blocked: Sequence[str]) -> bool:
    """Return True if the client's lists of allowed and blocked domains permit a URL.

    An empty list restricts nothing. Raises `ValueError` for an invalid entry.
    """
    allowing, blocking = (_read_list(tuple(entries)) if entries else {} for entries in (allowed, blocked))
    try:
        split = urlsplit(url)
        host = split.hostname or ""
        if len(host) > _MAX_HOST or "@" in split.netloc:  # with @, the host is ambiguous
            return False
        host = ascii_host(host)
    except ValueError:
        return False
    # a blocked domain must match neither form, because a server may decode the path in either way
    paths = _plain(split.path), _plain(unquote(split.path))
    if any(_is_listed(blocking, host, path) for path in paths):
        return False
    return not allowed or all(_is_listed(allowing, host, path) for path in paths)


def _plain(path: str) -> str:
    return "/" + normpath("/" + path).lstrip("/")


def domain_names(entries: Sequence[str]) -> list[str]:
    """Return the distinct domains of the entries of a domain list, without their paths.

    Raises `ValueError` for an invalid entry.
    """
    _read_list(tuple(entries))
    return list(dict.fromkeys(entry.partition("/")[0] for entry in entries))


def ascii_host(host: str) -> str:
    """Return a host name in lower case and IDNA encoding. Raises `ValueError` for an invalid name."""
    host = host.rstrip(".").lower()
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    if not _HOST.fullmatch(host):
        raise ValueError(f"{host!r} is not a host name")
    return host


class _Paths(NamedTuple):
    """The paths of all entries with one host."""

    plain: set[str]
    """Each one includes the paths below it. "": all paths."""
    starred: list[tuple[str, str]]
    """What is before and after the `*`."""


@lru_cache(maxsize=2)  # one request has one list
def _read_list(entries: tuple[str, ...]) -> Mapping[str, _Paths]:
    """Return host → paths, so that a long list makes no URL expensive. Raises `ValueError` for an invalid entry."""
    found: dict[str, _Paths] = {}
    for entry in entries:
        if len(entry) > _MAX_ENTRY:
            raise ValueError(f"a domain of {len(entry):,} characters is too long; the maximum is {_MAX_ENTRY:,}")
        parts = _ENTRY.fullmatch(entry)
        if parts is None:
            raise ValueError(
                f"{entry!r} is not a domain; use one such as example.com or example.com/blog, without https://, with "
                "at most one *, in its path"
            )
        paths = found.setdefault(ascii_host(parts["host"]), _Paths(set(), []))
        path = (parts["path"] or "").rstrip("/")
        before, star, after = path.partition("*")
        if star:
            paths.starred.append((before, after and f"{after}/"))
        else:
            paths.plain.add(path)
    return found


def _is_listed(listed: Mapping[str, _Paths], host: str, path: str) -> bool:
    """The host of an entry includes its subdomains."""
    beginnings = [path[: found.start()] for found in _PATH_END.finditer(path, 0, _MAX_ENTRY)]
    closed = f"{path}/"
    while host:
        if paths := listed.get(host):
            if not paths.plain.isdisjoint(beginnings):
                return True
            if any(path.startswith(start) and closed.find(end, len(start)) >= 0 for start, end in paths.starred):
                return True
        host = host.partition(".")[2]
    return False
