"""Frames and bodies as structs that declare only what we read.

A stream's first frames repeat the whole request, tools and all: what is not needed stays `Raw` and is never built.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.wire.json_repair import repair_json

ABSENT = Raw(b"")


class OutputContent(Struct, gc=False):
    """A piece of an item: `output_text`, `refusal`, `summary_text` or `reasoning_text`."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    annotations: list[Raw] | None = None


class OutputItem(Struct, gc=False):
    """One item of the output, begun or complete."""

    type: str = ""
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    """Of a `custom_tool_call`: plain text."""
    content: list[OutputContent] | None = None
    summary: list[OutputContent] | None = None
    encrypted_content: str | None = None
    action: Raw = ABSENT
    """Of a `web_search_call`."""
    output_format: str | None = None
    result: str | None = None
    """Of an `image_generation_call`: base64."""
    code: str | None = None
    """Of a `code_interpreter_call`."""
    outputs: list[Raw] | None = None
    server_label: str | None = None
    """Of an `mcp_call`."""
    output: str | None = None
    error: Raw = ABSENT
    status: str | None = None


class InputTokenDetails(Struct, gc=False):
    """Parts of the prompt's count."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class OutputTokenDetails(Struct, gc=False):
    """Parts of the output's count."""

    reasoning_tokens: int | None = None


class ResponsesUsage(Struct, gc=False):
    """`usage`."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: InputTokenDetails | None = None
    output_tokens_details: OutputTokenDetails | None = None


class IncompleteDetails(Struct, gc=False):
    """`incomplete_details`."""

    reason: str | None = None


class Response(Struct, gc=False):
    """A whole answer, or the `response` of an event."""

    status: str | None = None
    output: list[Raw] | None = None
    """Its items; `decode_item` reads one."""
    usage: ResponsesUsage | None = None
    error: Raw = ABSENT
    incomplete_details: IncompleteDetails | None = None


class StreamEvent(Struct, gc=False):
    """One frame of a stream."""

    type: str = ""
    output_index: int | None = None
    summary_index: int = 0
    content_index: int = 0
    delta: str | None = None
    text: str | None = None
    arguments: str | None = None
    code: str | None = None
    item: Raw = ABSENT
    response: Raw = ABSENT
    annotation: Raw = ABSENT
    error: Raw = ABSENT


_Kind = TypeVar("_Kind", bound=Struct)

decode_strict_event = msgspec.json.Decoder(StreamEvent).decode
"""Reads a frame as it should be; `decode_event` reads what this refuses, where it can."""
_decode_item = msgspec.json.Decoder(OutputItem).decode
_decode_response = msgspec.json.Decoder(Response).decode


def decode_event(data: bytes) -> StreamEvent:
    """Read a frame. Raises `msgspec.DecodeError` (or its `ValidationError`) where it is none.

    Frames that lack their last brace are read too: so they were recorded (parallel_tool_wrapper_stream).
    """
    try:
        return decode_strict_event(data)
    except msgspec.ValidationError:
        return _mended(data, StreamEvent())
    except msgspec.DecodeError:
        return decode_strict_event(data + b"}")


def decode_item(raw: Raw) -> OutputItem:
    """Read an item; one without a usable shape is an item of no type. Raises `msgspec.DecodeError`."""
    try:
        return _decode_item(raw)
    except msgspec.ValidationError:
        return _mended(raw, OutputItem())


def decode_response(raw: Raw | bytes) -> Response:
    """Read a whole answer. Raises `msgspec.DecodeError` (or its `ValidationError`) where it is none."""
    try:
        return _decode_response(raw)
    except msgspec.ValidationError:
        return _mended(raw, Response())


def decode_or_repair(decode: Callable[[Any], Any], data: Any, mend: Callable[[bytes], bytes]) -> Any:
    """Read JSON text, once more after `mend` where it holds halves of characters. Raises `msgspec.DecodeError`."""
    try:
        return decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return decode(mend(data))


def is_present(raw: Raw) -> bool:
    """Return True if a field is present and not null."""
    return raw is not ABSENT and bytes(raw) != b"null"


def decode_lenient(raw: Raw, kind: type[Any]) -> Any:
    """Read a part of an item; one of another shape counts as empty."""
    if raw is ABSENT:
        return kind()
    try:
        return msgspec.json.decode(raw, type=kind)
    except UnicodeDecodeError:
        return decode_lenient(Raw(repair_json(raw)), kind)
    except (msgspec.DecodeError, RecursionError):
        return kind()


def _mended(data: Raw | bytes, empty: _Kind) -> _Kind:
    """Read an object of which single fields have a type that we do not expect: those count as not given."""
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
