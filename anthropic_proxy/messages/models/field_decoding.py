"""Decoding of the body of a client request field by field, to repair it or to find the path of an error.

`RequestBody` contains the fields. `decode_field_by_field` drops optional fields of a wrong type and replaces invalid
characters. `decode_body_at_once` is faster, but accepts only a valid body.
"""

import codecs
import re

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.messages.models.blocks import (
    are_well_formed,
    build_fields_decoder,
    decode_blocks,
    decode_string,
)
from anthropic_proxy.messages.models.raw_json import (
    decode_lenient_fields,
    is_json_object,
    is_string_or_absent,
    missing_field_error,
    require_bounded_members,
    wrong_type_error,
)
from anthropic_proxy.messages.models.structs import (
    ABSENT,
    ROLES,
    Block,
    Message,
    Metadata,
    OutputConfig,
    OutputFormat,
    ThinkingConfig,
    ToolChoice,
)

_LIST = b"["[0]
_NO_TEXT = Raw(b'""')
_UTF8_CHECK_BYTES = 1 << 16
"""Number of bytes that are checked for valid UTF-8 at a time. Larger pieces need fresh memory pages, which cost more
than the check."""
_INTEGERS = frozenset({"max_tokens", "top_k"})
_OPTIONAL_FIELDS = frozenset({"metadata", "service_tier"})
"""Fields of the body without effect on the reply. A value of the wrong type is dropped."""


class RequestBody(Struct, kw_only=True):
    """Fields of a client request body. Optional fields may be null."""

    model: str
    messages: list[Message]
    max_tokens: int | None = None
    system: str | list[Block] | None = None
    stream: bool | None = None
    tools: Raw = ABSENT
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Metadata | None = None
    service_tier: str | None = None
    mcp_servers: Raw = ABSENT
    container: Raw = ABSENT
    context_management: Raw = ABSENT
    inference_geo: Raw = ABSENT
    thread: Raw = ABSENT
    compaction: Raw = ABSENT


decode_body_at_once = msgspec.json.Decoder(RequestBody).decode
"""Decode a body in one pass. Raises `msgspec.DecodeError`, in which the path of the invalid field may be missing."""
_decode_message = msgspec.json.Decoder(Message).decode
_decode_raws = msgspec.json.Decoder(list[Raw]).decode
_decode_string = msgspec.json.Decoder(str).decode
_decode_body_fields = build_fields_decoder(RequestBody.__struct_encode_fields__)
_decode_message_fields = build_fields_decoder(Message.__struct_encode_fields__)


def decode_field_by_field(body: bytes, repairs: list[str]) -> RequestBody:
    """Return the fields of an invalid or unusual body, after repairs. Raises `InvalidRequest` if it stays invalid.

    A description of each replaced character or dropped field is added to `repairs`.
    """
    require_bounded_members(body)
    body = _repair_encoding(body, repairs)
    try:
        return _read_fields(_read_object(body), repairs)
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        raise InvalidRequest(f"The request body is not valid JSON: {reason}.") from None


def are_messages_valid(messages: list[Message]) -> bool:
    """Return True if no message needs a repair: all roles are known, and all content blocks have valid fields."""
    return all(message.role in ROLES and is_content_valid(message.content) for message in messages)


def is_content_valid(content: str | list[Block] | None) -> bool:
    """Return True if the content needs no repair: it is text, None, or blocks with valid fields."""
    return are_well_formed(content) if type(content) is list else True


_SURROGATES = re.compile(
    rb"\\(?:\\|u[dD](?:[89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|([89a-fA-F][0-9a-fA-F]{2})))"
)
"""Pattern of JSON escapes: a backslash, a pair of surrogates, or a lone surrogate (group 1)."""


def replace_lone_surrogates(text: bytes) -> tuple[bytes, int]:
    """Return JSON text with U+FFFD in place of lone surrogates, and the number of replacements."""
    replaced, end, lone = bytearray(), 0, 0
    for escape in _SURROGATES.finditer(text):
        if escape[1] is not None:
            replaced += memoryview(text)[end : escape.start()]
            replaced += b"\\ufffd"
            end = escape.end()
            lone += 1
    return (bytes(replaced + memoryview(text)[end:]), lone) if lone else (text, 0)


def find_utf8_error(text: bytes) -> tuple[str, int] | None:
    """Return the reason and the place of the first byte that is not UTF-8. None: the text is valid."""
    view, start, end = memoryview(text), 0, len(text)
    try:
        while start < end:
            cut = min(start + _UTF8_CHECK_BYTES, end)
            while cut < end and view[cut] & 0xC0 == 0x80 and cut > start + _UTF8_CHECK_BYTES - 4:
                cut -= 1
            str(view[start:cut], "utf-8")
            start = cut
    except UnicodeDecodeError as error:
        return error.reason, start + error.start
    return None


def _read_object(body: bytes) -> dict[str, Raw]:
    try:
        return _decode_body_fields(body)
    except msgspec.ValidationError:
        raise InvalidRequest("The request body must be a JSON object.") from None


def _repair_encoding(body: bytes, repairs: list[str]) -> bytes:
    """Return the body without byte order mark and lone surrogates. Raises `InvalidRequest` if it is not UTF-8."""
    if (error := find_utf8_error(body)) is not None:
        raise InvalidRequest(f"The request body is not valid UTF-8: {error[0]} (byte {error[1]}).")
    body = body.removeprefix(codecs.BOM_UTF8)
    if not body or body.isspace():
        raise InvalidRequest("The request body is empty; it must be a JSON object.")
    body, lone = replace_lone_surrogates(body)
    if lone:
        repairs.append(f"{lone} lone surrogate{'s' if lone > 1 else ''} replaced by U+FFFD")
    return body


def _read_fields(given: dict[str, Raw], repairs: list[str]) -> RequestBody:
    for name in _INTEGERS & given.keys():
        given[name] = _without_fraction(given[name])
    messages, system = given.get("messages"), given.pop("system", None)
    if messages is not None:
        given["messages"] = Raw(b"[]") if memoryview(messages)[0] == _LIST else messages
    read, dropped = decode_lenient_fields(given, decode_body_at_once, _OPTIONAL_FIELDS)
    repairs.extend(f"{name}: removed, because its type is not the documented one" for name in dropped)
    if messages is not None:
        raws = _decode_raws(messages)
        read.messages = [_read_message(raw, f"messages.{index}") for index, raw in enumerate(raws)]
    if system is not None:
        read.system = _read_content(system, "system")
    return read


def _without_fraction(number: Raw) -> Raw:
    """Return a whole number without a fraction: `64.0` becomes `64`.

    Some client languages write all numbers with a fraction.
    """
    try:
        value = msgspec.json.decode(number)
    except msgspec.ValidationError:  # out of range; the decoding of the field raises with its path
        return number
    return Raw(b"%d" % value) if isinstance(value, float) and value.is_integer() else number


def _read_message(raw: Raw, path: str) -> Message:
    try:
        message = _decode_message(raw)
    except msgspec.ValidationError:
        pass
    else:
        if are_messages_valid([message]):
            return message
    if not is_json_object(raw):
        raise wrong_type_error(path, "an object", raw)
    fields = _decode_message_fields(raw)
    if "output_config" in fields:
        fields.setdefault("content", _NO_TEXT)
    for name in ("role", "content"):
        if name not in fields:
            raise missing_field_error(f"{path}.{name}")
    role = decode_string(fields["role"])
    if role not in ROLES:
        raise wrong_type_error(f"{path}.role", "'user', 'assistant' or 'system'", fields["role"])
    clear_at = decode_string(fields["clear_at"]) if "clear_at" in fields else None
    content = _read_content(fields["content"], f"{path}.content")
    return Message(role, content, clear_at, fields.get("output_config", ABSENT))


def _read_content(raw: Raw, path: str) -> str | list[Block]:
    return _decode_string(raw) if is_string_or_absent(raw) else decode_blocks(raw, path)
