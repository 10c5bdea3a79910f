"""Decoding of the body of a client request field by field, to repair it or to find the path of an error.

`RequestBody` contains the fields. `decode_field_by_field` drops optional fields of a wrong type and replaces invalid
characters. `decode_body_at_once` is faster, but accepts only a valid body.
"""

import re

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.messages.models.block_structs import ABSENT, Block
from anthropic_proxy.messages.models.blocks import (
    are_well_formed,
    decode_blocks,
    decode_string,
    non_null_fields,
)
from anthropic_proxy.messages.models.raw_kinds import is_json_object, is_string_or_absent
from anthropic_proxy.messages.models.structs import (
    ROLES,
    Message,
    Metadata,
    OutputConfig,
    OutputFormat,
    ThinkingConfig,
    ToolChoice,
)
from anthropic_proxy.messages.models.validation_errors import (
    decode_lenient_fields,
    missing_field_error,
    wrong_type_error,
)

_LIST = b"["[0]
_NO_TEXT = Raw(b'""')
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


def decode_field_by_field(body: bytes, repairs: list[str]) -> RequestBody:
    """Return the fields of an invalid or unusual body, after repairs. Raises `InvalidRequest` if it stays invalid.

    A description of each replaced character or dropped field is added to `repairs`.
    """
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


_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
"""Pattern of a JSON escape: a pair of surrogates, a lone surrogate (group 1), or another escape."""


def replace_lone_surrogates(text: str) -> tuple[str, int]:
    """Return JSON text with U+FFFD in place of lone surrogates, and the number of replacements."""
    lone = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal lone
        lone += match[1] is not None
        return match[0] if match[1] is None else "\\ufffd"

    return (_ESCAPE.sub(replace, text), lone) if "\\u" in text else (text, 0)


def _read_object(body: bytes) -> dict[str, Raw]:
    try:
        return non_null_fields(body)
    except msgspec.ValidationError:
        raise InvalidRequest("The request body must be a JSON object.") from None


def _repair_encoding(body: bytes, repairs: list[str]) -> bytes:
    """Return the body without byte order mark and lone surrogates. Raises `InvalidRequest` if it is not UTF-8."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The request body is not valid UTF-8: {error.reason} (byte {error.start}).") from None
    if not text.strip():
        raise InvalidRequest("The request body is empty; it must be a JSON object.")
    text, lone = replace_lone_surrogates(text)
    if lone:
        repairs.append(f"{lone} lone surrogate{'s' if lone > 1 else ''} replaced by U+FFFD")
    return text.encode()


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
    fields = non_null_fields(raw)
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
