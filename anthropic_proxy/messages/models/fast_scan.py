"""`scan_request`: fast decoding of a client request for a relay, without its messages.

A relay forwards the client's bytes to a provider with the same API, so it needs only fields such as `model`, `stream`
and `tools`. The messages are scanned only for two purposes: to count them and their tool results, and to detect
signatures that the proxy made. A relay must remove content with such a signature. `guess_model` finds the model id
before any decoding.
"""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from anthropic_proxy.errors import ClientError
from anthropic_proxy.messages.models.block_structs import ABSENT
from anthropic_proxy.messages.models.blocks import list_new_blocks
from anthropic_proxy.messages.models.mcp_servers import decode_mcp_servers
from anthropic_proxy.messages.models.raw_kinds import MIN_COUNTED_BYTES, has_too_many_members
from anthropic_proxy.messages.models.structs import MessagesRequest
from anthropic_proxy.messages.models.tools import decode_tools

_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,512})"')
_SCANNED_BYTES = 1024
"""Number of bytes at each end of a body in which the model id is searched."""
_PROXY_PREFIX = "px1."
_SEARCH_PREFIX = "web_search_"
_NOTHING = (ABSENT, Raw(b"null"), Raw(b"[]"))

_Kind = Literal[
    "text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking", "server_tool_use"
]
"""Frequent types of content blocks. Blocks of these types never contain search passages that the proxy encoded."""
_Foreign = Annotated[str, Meta(pattern=rf"^(?!{re.escape(_PROXY_PREFIX)})")]


class _Plain(Struct, gc=False):
    """A content block without a signature of the proxy.

    A block with such a signature causes a decoding error. The request is then decoded as `_Body`.
    """

    type: _Kind
    signature: _Foreign = ""
    data: _Foreign = ""
    citations: None = None
    is_error: bool | None = None


class _PlainMessage(Struct, gc=False):
    role: Literal["user", "assistant", "system"]
    content: str | list[_Plain]


class _Block(Struct, gc=False):
    type: str = ""
    signature: str = ""
    data: str = ""
    citations: Raw = ABSENT
    is_error: Any = None


class _Message(Struct, gc=False):
    content: str | list[_Block]
    role: Any = None


class _Head(Struct, kw_only=True):
    model: str
    max_tokens: int | None = None
    stream: bool | None = None
    tools: Raw = ABSENT
    mcp_servers: Raw = ABSENT


class _PlainBody(_Head):
    messages: list[_PlainMessage]


class _Body(_Head):
    messages: list[_Message]


_decode_plain = msgspec.json.Decoder(_PlainBody).decode
_decode_body = msgspec.json.Decoder(_Body).decode


def guess_model(body: bytes) -> str:
    """Return the probable model id from the first and last bytes of a body, without decoding it. "": not found.

    The caller determines by this id if only relays may serve the request. If so, it tries the fast `scan_request`
    instead of decoding the complete body.
    """
    found = _MODEL.search(body[:_SCANNED_BYTES]) or _MODEL.search(body[-_SCANNED_BYTES:])
    return found[1].decode(errors="replace") if found else ""


def scan_request(body: bytes) -> MessagesRequest | None:
    """Return a client request with the fields that a relay needs, without its messages.

    None: the body may be invalid, so `decode_request` must decode it.
    """
    if len(body) >= MIN_COUNTED_BYTES and has_too_many_members(body):
        return None
    try:
        read = _read(body)
        tools = decode_tools(read.tools) if _is_given(read.tools) else []
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ClientError):
        return None
    tool_results = tool_errors = 0
    blocks: list[_Plain | _Block] = list_new_blocks(read.messages)
    for block in blocks:
        if block.type == "tool_result":
            tool_results += 1
            tool_errors += block.is_error is True
    return MessagesRequest(
        model=read.model,
        messages=[],
        max_tokens=read.max_tokens,
        message_count=len(read.messages),
        tool_results=tool_results,
        tool_errors=tool_errors,
        stream=bool(read.stream),
        tools=tools,
        mcp_servers=decode_mcp_servers(read.mcp_servers) if _is_given(read.mcp_servers) else [],
        body_bytes=len(body),
        scanned_only=True,
        has_proxy_signatures=isinstance(read, _Body)
        and any(_has_proxy_signature(message.content) for message in read.messages),
    )


def _read(body: bytes) -> _PlainBody | _Body:
    try:
        return _decode_plain(body)
    except msgspec.ValidationError:
        return _decode_body(body)


def _has_proxy_signature(content: str | list[_Block]) -> bool:
    if isinstance(content, str):
        return False
    for block in content:
        if block.signature.startswith(_PROXY_PREFIX) or block.data.startswith(_PROXY_PREFIX):
            return True
        if block.type.startswith(_SEARCH_PREFIX) or memoryview(block.citations).nbytes:
            return True
    return False


def _is_given(raw: Raw) -> bool:
    return raw not in _NOTHING
