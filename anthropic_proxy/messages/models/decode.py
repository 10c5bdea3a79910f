"""`decode_request`: decoding of a client request.

A valid body is decoded in one pass. An invalid one is decoded again field by field, for an error with the exact path
and to drop optional fields of a wrong type.
"""

import re

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.errors import ClientError, InvalidRequest, UnsupportedFeature
from anthropic_proxy.messages.models.block_structs import ABSENT, Block
from anthropic_proxy.messages.models.blocks import (
    TOO_DEEP_MESSAGE,
    are_well_formed,
    decode_blocks,
    decode_string,
    non_null_fields,
    schema_error,
)
from anthropic_proxy.messages.models.cache_marks import CacheMarks
from anthropic_proxy.messages.models.fast_path import as_clean_messages
from anthropic_proxy.messages.models.mcp_servers import decode_mcp_servers
from anthropic_proxy.messages.models.raw_kinds import is_json_object, is_string_or_absent
from anthropic_proxy.messages.models.structs import (
    ROLES,
    Message,
    MessagesRequest,
    Metadata,
    OutputConfig,
    OutputFormat,
    ThinkingConfig,
    ToolChoice,
)
from anthropic_proxy.messages.models.tools import decode_tools
from anthropic_proxy.messages.models.validation_errors import (
    decode_lenient_fields,
    missing_field_error,
    wrong_type_error,
)

_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
"""Pattern of a JSON escape: a pair of surrogates, a lone surrogate (the group), or another escape."""


def replace_lone_surrogates(text: str) -> tuple[str, int]:
    """Replace lone surrogates in JSON text by U+FFFD. Return the text and the number of replacements."""
    lone = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal lone
        lone += match[1] is not None
        return match[0] if match[1] is None else "\\ufffd"

    return (_ESCAPE.sub(replace, text), lone) if "\\u" in text else (text, 0)


_MAX_COUNTS = (("messages", b'"role"', 100_000), ("content blocks and tools", b'"type"', 50_000))
"""Name of the counted objects, the bytes by which they are counted, and their maximum number in a body. A larger number
is rejected. JSON strings escape the quotes of these bytes. The limit of messages is that of Anthropic's API."""
_MIN_COUNTED_BYTES = 1 << 21
"""Size from which the objects of `_MAX_COUNTS` are counted in a body. A smaller body cannot contain too many."""
_MAX_SEQUENCES, _MAX_SEQUENCE_CHARACTERS = 4_096, 65_536
"""Number of stop sequences, and their total characters."""
_UTF8_CHECK_BYTES = 1 << 16
"""Number of bytes that are checked for valid UTF-8 at a time. Larger pieces need fresh memory pages, which cost more
than the check."""
_LIST = b"["[0]
_INTEGERS = frozenset({"max_tokens", "top_k"})
_GLOBAL_REGION = b'"global"'
"""Value of `inference_geo` that permits every region."""
_CHANGING_EDITS = (b'"clear_tool_uses_', b'"compact_')
"""Prefixes of the types of `context_management` that change the model's input. `clear_thinking_…` does not."""
_OPTIONAL_FIELDS = frozenset({"metadata", "service_tier"})
"""Fields of the body without effect on the reply. A value of an unexpected type is dropped."""


class _Body(Struct, kw_only=True):
    """Body of a client request, decoded in one pass. Optional fields may be null.

    Tools stay `Raw`, because they are cached.
    """

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


class _Envelope(Struct):
    model: str
    stream: bool | None = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_message = msgspec.json.Decoder(Message).decode
_decode_raws = msgspec.json.Decoder(list[Raw]).decode
_decode_string = msgspec.json.Decoder(str).decode


def decode_request(body: bytes, *, for_token_count: bool = False) -> MessagesRequest:
    """Decode a body of `POST /v1/messages`, or of a token count, in which `max_tokens` is optional.

    Raises `InvalidRequest` with the path of the error, and `UnsupportedFeature` for a field that stands for history.
    """
    repairs: list[str] = []
    if len(body) >= _MIN_COUNTED_BYTES:
        _require_bounded_counts(body)
    try:
        read = _read(body, repairs)
        _require_supported(read, for_token_count)
        request = _request(read, len(body), repairs)
    except RecursionError:
        raise InvalidRequest(f"The request body {TOO_DEEP_MESSAGE}.") from None
    request.cache_marks = CacheMarks(body)
    return request


def decode_request_or_keep(body: bytes, *, for_token_count: bool = False) -> MessagesRequest:
    """Decode the body of a client request.

    A body that `decode_request` rejects is kept for a relay, with the error in `decode_error`.
    """
    try:
        return decode_request(body, for_token_count=for_token_count)
    except ClientError as error:
        return decode_envelope(body, error)


def decode_envelope(body: bytes, error: ClientError) -> MessagesRequest:
    """Decode only `model` and `stream` of a body that `decode_request` rejected, for a relay.

    A relay forwards such a body, because the upstream API validates it. Raises the given error if decoding fails.
    """
    try:
        read = _decode_envelope(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise error from None
    return MessagesRequest(
        model=read.model, messages=[], stream=bool(read.stream), body_bytes=len(body), decode_error=error
    )


def _read(body: bytes, repairs: list[str]) -> _Body:
    try:
        read = _decode_body(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _decode_field_by_field(body, repairs)
    if _is_utf8(body) and _is_sound(read.system):
        if (clean := as_clean_messages(read.messages)) is not None:
            read.messages = clean
            return read
        if _are_sound(read.messages):
            return read
    return _decode_field_by_field(body, repairs)


def _request(read: _Body, size: int, repairs: list[str]) -> MessagesRequest:
    return MessagesRequest(
        model=read.model,
        messages=read.messages,
        message_count=len(read.messages),
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


def _require_supported(read: _Body, for_token_count: bool) -> None:
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
        if form and (flaw := schema_error(bytes(form.schema))):
            raise InvalidRequest(f"output_config.format.schema: {flaw}")


def _require_bounded_counts(body: bytes) -> None:
    if body.count(b"{") <= min(maximum for _, _, maximum in _MAX_COUNTS):
        return  # each of them is an object, and a search for one character takes an eighth of the time
    for what, marker, maximum in _MAX_COUNTS:
        if (found := body.count(marker)) > maximum:
            raise InvalidRequest(f"The request body contains {found} {what}; at most {maximum} are allowed.")


def _is_given(raw: Raw) -> bool:
    return raw is not ABSENT and (len(raw) > len(b"null") or bytes(raw) not in (b"null", b"[]"))


def _are_sound(messages: list[Message]) -> bool:
    return all(message.role in ROLES and _is_sound(message.content) for message in messages)


def _is_sound(content: str | list[Block] | None) -> bool:
    return are_well_formed(content) if type(content) is list else True


def _is_utf8(body: bytes) -> bool:
    view, start, end = memoryview(body), 0, len(body)
    try:
        while start < end:
            cut = min(start + _UTF8_CHECK_BYTES, end)
            while cut < end and view[cut] & 0xC0 == 0x80 and cut > start + _UTF8_CHECK_BYTES - 4:
                cut -= 1
            str(view[start:cut], "utf-8")
            start = cut
    except UnicodeDecodeError:
        return False
    return True


def _decode_field_by_field(body: bytes, repairs: list[str]) -> _Body:
    body = _repair_encoding(body, repairs)
    try:
        return _read_fields(_read_object(body), repairs)
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        raise InvalidRequest(f"The request body is not valid JSON: {reason}.") from None


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


def _read_fields(given: dict[str, Raw], repairs: list[str]) -> _Body:
    for name in _INTEGERS & given.keys():
        given[name] = _without_fraction(given[name])
    messages, system = given.get("messages"), given.pop("system", None)
    if messages is not None:
        given["messages"] = Raw(b"[]") if memoryview(messages)[0] == _LIST else messages
    read, dropped = decode_lenient_fields(given, _decode_body, _OPTIONAL_FIELDS)
    repairs.extend(f"{name}: removed, because its type is not the documented one" for name in dropped)
    if messages is not None:
        raws = _decode_raws(messages)
        read.messages = [_read_message(raw, f"messages.{index}") for index, raw in enumerate(raws)]
    if system is not None:
        read.system = _read_content(system, "system")
    return read


def _without_fraction(number: Raw) -> Raw:
    """Return a whole number without its fraction: `64.0` as `64`. Some languages write all numbers with a fraction."""
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
        if _are_sound([message]):
            return message
    if not is_json_object(raw):
        raise wrong_type_error(path, "an object", raw)
    fields = non_null_fields(raw)
    for name in ("role", "content"):
        if name not in fields:
            raise missing_field_error(f"{path}.{name}")
    role = decode_string(fields["role"])
    if role not in ROLES:
        raise wrong_type_error(f"{path}.role", "'user', 'assistant' or 'system'", fields["role"])
    return Message(role, _read_content(fields["content"], f"{path}.content"))


def _read_content(raw: Raw, path: str) -> str | list[Block]:
    return _decode_string(raw) if is_string_or_absent(raw) else decode_blocks(raw, path)
