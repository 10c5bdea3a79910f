"""Scan of the fields that a relay needs, in one pass over the body that keeps no message."""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from anthropic_proxy.errors import ClientError
from anthropic_proxy.messages.models.block_structs import ABSENT
from anthropic_proxy.messages.models.mcp_servers import decode_mcp_servers
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
"""Frequent types of blocks. They never contain passages that the proxy has encoded (`sealed_passages`)."""
_Foreign = Annotated[str, Meta(pattern=rf"^(?!{re.escape(_PROXY_PREFIX)})")]


class _Plain(Struct, gc=False):
    """A block without a signature of the proxy.

    Other blocks cause a decoding error, so that the body is decoded completely.
    """

    type: _Kind
    signature: _Foreign = ""
    data: _Foreign = ""
    citations: None = None


class _PlainMessage(Struct, gc=False):
    content: str | list[_Plain]


class _Block(Struct, gc=False):
    type: str = ""
    signature: str = ""
    data: str = ""
    citations: Raw = ABSENT


class _Message(Struct, gc=False):
    content: str | list[_Block]


class _Head(Struct, kw_only=True):
    model: str
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
    """Return the probable model id at the start of a body, without decoding the body. "": not found."""
    found = _MODEL.search(body[:_SCANNED_BYTES]) or _MODEL.search(body[-_SCANNED_BYTES:])
    return found[1].decode(errors="replace") if found else ""


def scan_request(body: bytes) -> MessagesRequest | None:
    """Return the top-level fields of a client request without its messages. None: the body needs `decode_request`."""
    try:
        read = _read(body)
        tools = decode_tools(read.tools) if _is_given(read.tools) else []
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ClientError):
        return None
    return MessagesRequest(
        model=read.model,
        messages=[],
        message_count=len(read.messages),
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
