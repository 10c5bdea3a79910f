"""What a relay must know of a request: read in one pass that keeps nothing of the messages."""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from anthropic_proxy.errors import ClientError
from anthropic_proxy.messages.types.connectors import read_servers
from anthropic_proxy.messages.types.structs import ABSENT, MessagesRequest
from anthropic_proxy.messages.types.tools import read_tools

_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,512})"')
_LOOKED_AT = 1024
"""Bytes of the beginning and of the end of a body in which clients say the model."""
_OURS = "px1."
_SEARCHED = "web_search_"
_NOTHING = (ABSENT, Raw(b"null"), Raw(b"[]"))

_Kind = Literal[
    "text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking", "server_tool_use"
]
"""Blocks that most histories are made of, none of them found by a search."""
_Foreign = Annotated[str, Meta(pattern=rf"^(?!{re.escape(_OURS)})")]


class _Plain(Struct, gc=False):
    """A block that bears no mark: where every block is one, the decoder has found that out by itself."""

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
    """Return the model that a body seems to ask for; empty: nothing says. Only who reads the body knows."""
    found = _MODEL.search(body[:_LOOKED_AT]) or _MODEL.search(body[-_LOOKED_AT:])
    return found[1].decode(errors="replace") if found else ""


def skim_request(body: bytes) -> MessagesRequest | None:
    """Return a request without its messages; None: it is unusual, and must be read in full."""
    try:
        read = _read(body)
        tools = read_tools(read.tools) if _is_given(read.tools) else []
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ClientError):
        return None
    return MessagesRequest(
        model=read.model,
        messages=[],
        length=len(read.messages),
        stream=bool(read.stream),
        tools=tools,
        mcp_servers=read_servers(read.mcp_servers) if _is_given(read.mcp_servers) else [],
        size=len(body),
        skimmed=True,
        bears_marks=isinstance(read, _Body) and any(_bears_mark(message.content) for message in read.messages),
    )


def _read(body: bytes) -> _PlainBody | _Body:
    try:
        return _decode_plain(body)
    except msgspec.ValidationError:
        return _decode_body(body)


def _bears_mark(content: str | list[_Block]) -> bool:
    if isinstance(content, str):
        return False
    for block in content:
        if block.signature.startswith(_OURS) or block.data.startswith(_OURS):
            return True
        if block.type.startswith(_SEARCHED) or memoryview(block.citations).nbytes:
            return True
    return False


def _is_given(raw: Raw) -> bool:
    return raw not in _NOTHING
