"""`decode_request`: decodes the body of a client request into a `MessagesRequest`.

For an invalid body, it raises an error with the path of the invalid field. Some optional fields of a wrong type are
dropped instead. A relay forwards the client's body unchanged to a provider with the same API, so it may forward invalid
bodies too. For a relay, `decode_request_or_envelope` therefore stores the error in `decode_error`. `decode_envelope`
decodes only `model` and `stream` of an invalid body.
"""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from anthropic_proxy.errors import ClientError, InvalidRequest, UnsupportedFeature
from anthropic_proxy.messages.models.blocks import (
    TOO_DEEP_MESSAGE,
    find_schema_error,
    list_new_blocks,
)
from anthropic_proxy.messages.models.clean_messages import as_clean_messages
from anthropic_proxy.messages.models.field_decoding import (
    RequestBody,
    are_messages_valid,
    decode_body_at_once,
    decode_field_by_field,
    find_utf8_error,
    is_content_valid,
)
from anthropic_proxy.messages.models.raw_json import (
    MIN_COUNTED_BYTES,
    has_too_many_members,
    missing_field_error,
    require_bounded_members,
    wrong_type_error,
)
from anthropic_proxy.messages.models.structs import (
    ABSENT,
    CacheMarks,
    MessagesRequest,
    ToolResultBlock,
    decode_mcp_servers,
)
from anthropic_proxy.messages.models.tools import decode_tools

_MAX_COUNTS = (("messages", b'"role"', 100_000), ("content blocks and tools", b'"type"', 50_000))
"""Rows: name of the counted objects, bytes in each such object, maximum number in a body. A body with more objects is
rejected. JSON strings cannot contain these bytes, because their quotes are escaped."""
_MAX_SEQUENCES, _MAX_SEQUENCE_CHARACTERS = 4_096, 65_536
"""Maximum number of stop sequences in a request, and maximum number of their characters together."""
_GLOBAL_REGION = b'"global"'
"""Value of the request field `inference_geo`, as JSON, that permits every region."""
_CHANGING_EDITS = (b'"clear_tool_uses_', b'"compact_')
"""Edits of the request field `context_management` that change the model's input. Each text begins the `type` of an
edit."""


class _Envelope(Struct):
    model: str
    stream: bool | None = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def decode_request(body: bytes, *, for_token_count: bool = False) -> MessagesRequest:
    """Decode a body of `POST /v1/messages`. Raises `InvalidRequest` with the path of the invalid field.

    If `for_token_count` is True, `max_tokens` may be missing, because a request to count tokens has no output limit.
    Raises `UnsupportedFeature` for the fields `thread` and `compaction`, because the proxy stores no conversations.
    """
    repairs: list[str] = []
    if len(body) >= MIN_COUNTED_BYTES:
        require_bounded_members(body)
        _require_bounded_counts(body)
    try:
        read = _read(body, repairs)
        _require_supported(read, for_token_count)
        request = _request(read, len(body), repairs)
    except RecursionError:
        raise InvalidRequest(f"The request body {TOO_DEEP_MESSAGE}.") from None
    request.cache_marks = CacheMarks(body)
    return request


def decode_request_or_envelope(body: bytes, *, for_token_count: bool = False) -> MessagesRequest:
    """Decode a client request body, also an invalid one, because a relay may forward it unchanged.

    Of an invalid body, only `model` and `stream` are decoded, and the error is stored in `decode_error`. If these two
    fields are invalid too, the error is raised.
    """
    try:
        return decode_request(body, for_token_count=for_token_count)
    except ClientError as error:
        return decode_envelope(body, error)


def decode_envelope(body: bytes, error: ClientError) -> MessagesRequest:
    """Return only `model` and `stream` of an invalid client request body, with `error` as its `decode_error`.

    Raises `error` if these fields are invalid too.
    """
    try:
        read = _decode_envelope(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise error from None
    return MessagesRequest(
        model=read.model, messages=[], stream=bool(read.stream), body_bytes=len(body), decode_error=error
    )


def _read(body: bytes, repairs: list[str]) -> RequestBody:
    try:
        read = decode_body_at_once(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return decode_field_by_field(body, repairs)
    if find_utf8_error(body) is None and is_content_valid(read.system):
        if (clean := as_clean_messages(read.messages)) is not None:
            read.messages = clean
            return read
        if are_messages_valid(read.messages):
            return read
    return decode_field_by_field(body, repairs)


def _request(read: RequestBody, size: int, repairs: list[str]) -> MessagesRequest:
    tool_results = tool_errors = 0
    for block in list_new_blocks(read.messages):
        if type(block) is ToolResultBlock:
            tool_results += 1
            tool_errors += block.is_error is True
    return MessagesRequest(
        model=read.model,
        messages=read.messages,
        message_count=len(read.messages),
        tool_results=tool_results,
        tool_errors=tool_errors,
        max_tokens=read.max_tokens,
        system=read.system or "",
        stream=bool(read.stream),
        tools=decode_tools(read.tools) if _is_given(read.tools) else [],
        tool_choice=read.tool_choice,
        thinking=read.thinking,
        output_config=read.output_config,
        output_format=read.output_format,
        stop_sequences=read.stop_sequences or [],
        temperature=read.temperature,
        top_p=read.top_p,
        top_k=read.top_k,
        metadata=read.metadata,
        service_tier=read.service_tier,
        mcp_servers=decode_mcp_servers(read.mcp_servers) if _is_given(read.mcp_servers) else [],
        container=_is_given(read.container),
        pins_region=_is_given(read.inference_geo) and bytes(read.inference_geo) != _GLOBAL_REGION,
        clears_context=_is_given(read.context_management)
        and any(edit in bytes(read.context_management) for edit in _CHANGING_EDITS),
        body_bytes=size,
        repairs=repairs,
    )


def _require_supported(read: RequestBody, for_token_count: bool) -> None:
    if _is_given(read.thread):
        raise UnsupportedFeature(
            "thread: this proxy stores no conversations; send the complete history in messages",
            details={"error_code": "thread_unsupported_request"},
        )
    if not read.messages:
        raise InvalidRequest("messages: at least one message is required")
    if read.max_tokens is None and not for_token_count:
        raise missing_field_error("max_tokens")
    if read.max_tokens is not None and read.max_tokens < 0:
        raise wrong_type_error("max_tokens", "greater than or equal to 0", read.max_tokens)
    if _is_given(read.compaction):
        raise UnsupportedFeature("compaction: not available; send the complete history in messages")
    sequences = read.stop_sequences or ()
    if len(sequences) > _MAX_SEQUENCES or sum(map(len, sequences)) > _MAX_SEQUENCE_CHARACTERS:
        raise InvalidRequest(
            f"stop_sequences: {len(sequences)} sequences of {sum(map(len, sequences))} characters; at most "
            f"{_MAX_SEQUENCES} of {_MAX_SEQUENCE_CHARACTERS} characters together are allowed"
        )
    for form in (read.output_format, read.output_config and read.output_config.format):
        if form and (flaw := find_schema_error(bytes(form.schema))):
            raise InvalidRequest(f"output_config.format.schema: {flaw}")


def _require_bounded_counts(body: bytes) -> None:
    if body.count(b"{") <= min(maximum for _, _, maximum in _MAX_COUNTS):
        return  # each of them is an object, and a search for one character takes an eighth of the time
    for what, marker, maximum in _MAX_COUNTS:
        if (found := body.count(marker)) > maximum:
            raise InvalidRequest(f"The request body contains {found} {what}; at most {maximum} are allowed.")


def _is_given(raw: Raw) -> bool:
    return raw is not ABSENT and (len(raw) > len(b"null") or bytes(raw) not in (b"null", b"[]"))


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
        read = _fast_scan_read(body)
        tools = decode_tools(read.tools) if _fast_scan_is_given(read.tools) else []
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
        mcp_servers=decode_mcp_servers(read.mcp_servers) if _fast_scan_is_given(read.mcp_servers) else [],
        body_bytes=len(body),
        scanned_only=True,
        has_proxy_signatures=isinstance(read, _Body)
        and any(_has_proxy_signature(message.content) for message in read.messages),
    )


def _fast_scan_read(body: bytes) -> _PlainBody | _Body:
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


def _fast_scan_is_given(raw: Raw) -> bool:
    return raw not in _NOTHING
