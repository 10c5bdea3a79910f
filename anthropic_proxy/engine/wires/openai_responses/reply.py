"""Structs of Responses replies, and the functions that decode them.

They have only the fields that the decoder reads. Fields of wrong types are omitted, so that one unexpected field does
not end a reply.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.messages.models.raw_json import ABSENT
from anthropic_proxy.engine.wires.json_repair import parse_token_count
from anthropic_proxy.engine.wires.stated_costs import StatedCost


class OutputContent(Struct, gc=False):
    """Content part of an output item: text, refusal, or text of the reasoning."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    """The model's refusal text. None: another type."""
    annotations: list[Raw] | None = None


class OutputItem(Struct, gc=False):
    """Output item: message, reasoning, or tool call. The set fields depend on `type`."""

    type: str = ""
    id: str | None = None
    call_id: str | None = None
    """Of a tool call: the id of the call, which its result repeats."""
    name: str | None = None
    arguments: str | None = None
    """Of a tool call: the complete arguments, as JSON text."""
    input: str | None = None
    """Of a `custom_tool_call`: the plain text input."""
    content: list[OutputContent] | None = None
    """Of a message: the parts of its text. Of reasoning: its plain text, if the server sends one."""
    summary: list[OutputContent] | None = None
    """Of reasoning: summaries, which the client receives as thinking."""
    encrypted_content: str | None = None
    """Of reasoning: opaque state, which the next request sends back."""
    action: Raw = ABSENT
    """Of a `web_search_call`: JSON object with queries and sources."""
    output_format: str | None = None
    """Of an `image_generation_call`: the format of the image, such as `png`."""
    result: str | None = None
    """Of an `image_generation_call`: the image in base64."""
    code: str | None = None
    """Of a `code_interpreter_call`: the program."""
    outputs: list[Raw] | None = None
    """Of a `code_interpreter_call`: printed text and images."""
    server_label: str | None = None
    """Of an `mcp_call`: the label of the MCP server, its name in the upstream request."""
    output: str | None = None
    error: Raw = ABSENT
    status: str | None = None
    """Status of the item: `completed`, `incomplete`, `in_progress`."""


class InputTokenDetails(Struct, gc=False):
    """Details of `input_tokens`: tokens read from the cache and written to the cache, both included in the total."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class OutputTokenDetails(Struct, gc=False):
    reasoning_tokens: int | None = None


class ResponsesUsage(StatedCost, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    input_tokens_details: InputTokenDetails | None = None
    output_tokens_details: OutputTokenDetails | None = None


class IncompleteDetails(Struct, gc=False):
    reason: str | None = None


class Response(Struct, gc=False):
    """Response object: the body of a reply that is not streamed, or the field `response` of a stream event."""

    status: str | None = None
    output: list[Raw] | None = None
    """Output items as JSON text. Decode each with `decode_item`."""
    usage: ResponsesUsage | None = None
    service_tier: Any = None
    """Service tier that served the response: `default`, `flex`, `priority`. None: not reported."""
    error: Raw = ABSENT
    incomplete_details: IncompleteDetails | None = None


class StreamEvent(Struct, gc=False):
    """Event of a streamed response: the data of one SSE event. The set fields depend on `type`."""

    type: str = ""
    sequence_number: int | None = None
    """Number of the event in the stream. None: the server numbers no events."""
    output_index: int | None = None
    """Index, in the response, of the output item that the event belongs to."""
    item_id: str | None = None
    call_id: str | None = None
    """Id of the call, in place of `item_id`."""
    summary_index: int = 0
    content_index: int = 0
    delta: str | None = None
    arguments: str | None = None
    """Of `…arguments.done`: the complete arguments, a JSON text. Fragments are in `delta`."""
    code: str | None = None
    text: str | None = None
    """Of `….text.done`: the complete text of a part."""
    refusal: str | None = None
    part: Raw = ABSENT
    """Complete part of an output item, as JSON text for `decode_content`."""
    item: Raw = ABSENT
    """Output item that begins or is complete, JSON text for `decode_item`."""
    response: Raw = ABSENT
    """Response object of an event that ends the stream, as JSON text for `decode_response`."""
    annotation: Raw = ABSENT
    error: Raw = ABSENT


_Kind = TypeVar("_Kind", bound=Struct)

decode_strict_event = msgspec.json.Decoder(StreamEvent).decode


def decode_event(data: bytes) -> StreamEvent:
    """Decode a stream event. Raises `msgspec.DecodeError` for invalid JSON.

    If only the last brace of the event is missing, it is added (recorded: parallel_tool_wrapper_stream).
    """
    try:
        return decode_strict_event(data)
    except msgspec.ValidationError:
        return _repaired(data, StreamEvent)
    except msgspec.DecodeError:
        return decode_strict_event(data + b"}")


_list_fields = cache(structs.fields)


def _repaired(data: Raw | bytes, kind: type[_Kind]) -> _Kind:
    """Decode a JSON object. Numbers may be of another type (`parse_token_count`); other fields of wrong types are
    omitted.
    """
    return msgspec.json.decode(msgspec.json.encode(_find_usual(data, kind)), type=kind)


def _find_usual(data: Raw | bytes, kind: type[Struct]) -> dict[str, Any]:
    """Raises `msgspec.ValidationError` if `data` is no object."""
    given = msgspec.json.decode(data, type=dict[str, Raw])
    usual: dict[str, Any] = {}
    for field in _list_fields(kind):
        name, types = field.name, (field.type, *get_args(field.type))
        if name not in given:
            continue
        with suppress(msgspec.ValidationError):
            part = next((one for one in types if isinstance(one, type) and issubclass(one, Struct)), None)
            if part is not None:
                usual[name] = _find_usual(given[name], part)
            elif int in types:
                count = parse_token_count(msgspec.json.decode(given[name], type=int | float | str))
                usual |= {} if count is None else {name: count}
            else:
                msgspec.json.decode(given[name], type=field.type)
                usual[name] = given[name]
    return usual


def _tolerant(kind: type[_Kind]) -> Callable[[Raw | bytes], _Kind]:
    decode_strict = msgspec.json.Decoder(kind).decode

    def decode(data: Raw | bytes) -> _Kind:
        try:
            return decode_strict(data)
        except msgspec.ValidationError:
            return _repaired(data, kind)

    return decode


decode_item, decode_content, decode_response = _tolerant(OutputItem), _tolerant(OutputContent), _tolerant(Response)
