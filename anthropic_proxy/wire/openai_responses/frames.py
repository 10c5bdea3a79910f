"""Structs of the Responses API: stream events and bodies, with the fields that the proxy decodes, and their decoders.

The first events of a stream repeat the complete request. Fields that may be large are therefore `Raw` (JSON text) and
are decoded on demand.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.wire.json_repair import repair_json

ABSENT = Raw(b"")
"""Value of a `Raw` field that the server did not send."""


class OutputContent(Struct, gc=False):
    """Content part of an output item: `output_text`, `refusal`, `summary_text` or `reasoning_text`."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    annotations: list[Raw] | None = None


class OutputItem(Struct, gc=False):
    """Output item: a message, reasoning, or a tool call. The fields depend on `type`; items in progress lack some."""

    type: str = ""
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    """Of a call: the complete arguments, a JSON text."""
    input: str | None = None
    """Of a `custom_tool_call`: the input, plain text."""
    content: list[OutputContent] | None = None
    """Of a message: its text. Of reasoning: its plain text, if the server sends one."""
    summary: list[OutputContent] | None = None
    """Of reasoning: summaries, shown to the client as thinking."""
    encrypted_content: str | None = None
    """Of reasoning: opaque state, sent back in the next request."""
    action: Raw = ABSENT
    """Of a `web_search_call`: JSON object with queries and sources."""
    output_format: str | None = None
    result: str | None = None
    """Of an `image_generation_call`: the image in base64."""
    code: str | None = None
    """Of a `code_interpreter_call`: the program."""
    outputs: list[Raw] | None = None
    """Of a `code_interpreter_call`: printed text and images."""
    server_label: str | None = None
    """Of an `mcp_call`: the label under which the request defined the MCP server."""
    output: str | None = None
    """Of an `mcp_call`: the result of the tool."""
    error: Raw = ABSENT
    status: str | None = None


class InputTokenDetails(Struct, gc=False):
    """Details of `input_tokens`: tokens read from the cache and written to the cache, both included in the total."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class OutputTokenDetails(Struct, gc=False):
    """Details of `output_tokens`: tokens of reasoning, included in the total."""

    reasoning_tokens: int | None = None


class ResponsesUsage(Struct, gc=False):
    """Token counts of a response (`usage`)."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: InputTokenDetails | None = None
    output_tokens_details: OutputTokenDetails | None = None


class IncompleteDetails(Struct, gc=False):
    """Reason of an incomplete response (`incomplete_details`): `max_output_tokens`, `content_filter`."""

    reason: str | None = None


class Response(Struct, gc=False):
    """Response object: the body of an unstreamed reply, or the field `response` of a stream event."""

    status: str | None = None
    output: list[Raw] | None = None
    """Output items as JSON text. Decode each with `decode_item`."""
    usage: ResponsesUsage | None = None
    error: Raw = ABSENT
    incomplete_details: IncompleteDetails | None = None


class StreamEvent(Struct, gc=False):
    """Event of a stream, the data of one SSE frame. The fields depend on `type`."""

    type: str = ""
    output_index: int | None = None
    """Position of the output item of the event."""
    summary_index: int = 0
    """Index of the reasoning summary within the item."""
    content_index: int = 0
    """Index of the content part within the item."""
    delta: str | None = None
    """Fragment of text, reasoning or arguments."""
    arguments: str | None = None
    """Of `…arguments.done`: the complete arguments, a JSON text. Fragments are in `delta`."""
    code: str | None = None
    """Of `…code_interpreter_call_code.done`: the complete program."""
    item: Raw = ABSENT
    """Output item that begins or is complete, JSON text for `decode_item`."""
    response: Raw = ABSENT
    """Response object at the end, JSON text for `decode_response`."""
    annotation: Raw = ABSENT
    """Citation of the text before the event, JSON text."""
    error: Raw = ABSENT


_Kind = TypeVar("_Kind", bound=Struct)

decode_strict_event = msgspec.json.Decoder(StreamEvent).decode
"""Decode an event. Raises `msgspec.DecodeError`; `decode_event` then accepts some invalid events."""
_decode_item = msgspec.json.Decoder(OutputItem).decode
_decode_response = msgspec.json.Decoder(Response).decode


def decode_event(data: bytes) -> StreamEvent:
    """Decode an event that may contain fields of wrong types, which are omitted. Raises `msgspec.DecodeError`.

    A missing last brace is added (recorded: parallel_tool_wrapper_stream).
    """
    try:
        return decode_strict_event(data)
    except msgspec.ValidationError:
        return _mended(data, StreamEvent())
    except msgspec.DecodeError:
        return decode_strict_event(data + b"}")


def decode_item(raw: Raw) -> OutputItem:
    """Decode an output item. Fields of wrong types are omitted. Raises `msgspec.DecodeError`."""
    try:
        return _decode_item(raw)
    except msgspec.ValidationError:
        return _mended(raw, OutputItem())


def decode_response(raw: Raw | bytes) -> Response:
    """Decode a response object. Fields of wrong types are omitted. Raises `msgspec.DecodeError`."""
    try:
        return _decode_response(raw)
    except msgspec.ValidationError:
        return _mended(raw, Response())


def decode_or_repair(decode: Callable[[Any], Any], data: Any, mend: Callable[[bytes], bytes]) -> Any:
    """Decode JSON text with `decode`. If that fails, repair the bytes with `mend` (invalid UTF-8) and decode again.

    Raises `msgspec.DecodeError` if both attempts fail.
    """
    try:
        return decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return decode(mend(data))


def is_present(raw: Raw) -> bool:
    """Return True if the server sent a `Raw` field and the value is not null."""
    return raw is not ABSENT and bytes(raw) != b"null"


def decode_lenient(raw: Raw, kind: type[Any]) -> Any:
    """Decode JSON text as `kind`. Returns `kind()`, an empty value, if the field is absent or has another shape."""
    if raw is ABSENT:
        return kind()
    try:
        return msgspec.json.decode(raw, type=kind)
    except UnicodeDecodeError:
        return decode_lenient(Raw(repair_json(raw)), kind)
    except (msgspec.DecodeError, RecursionError):
        return kind()


def _mended(data: Raw | bytes, empty: _Kind) -> _Kind:
    """Decode an object and omit the fields that have unexpected types."""
    fields = msgspec.json.decode(data, type=dict[str, Raw])
    kind = type(empty)
    kept: dict[str, Raw] = {}
    for name in kind.__struct_fields__:
        if name not in fields:
            continue
        try:
            msgspec.json.decode(b'{"%b":%b}' % (name.encode(), bytes(fields[name])), type=kind)
        except msgspec.ValidationError:
            continue
        kept[name] = fields[name]
    return msgspec.json.decode(msgspec.json.encode(kept), type=kind)
