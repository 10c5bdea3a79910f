"""`decode_request`: one pass over the body where it is as it should be, else field by field."""

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.errors import ClientError, InvalidRequest, UnsupportedFeature
from anthropic_proxy.messages.surrogates import replace_halves
from anthropic_proxy.messages.types.blocks import DEEP_TEXT, all_sound, find_flaw, given_fields, read_blocks, string_of
from anthropic_proxy.messages.types.connectors import read_servers
from anthropic_proxy.messages.types.plain import find_plain
from anthropic_proxy.messages.types.refusals import decode_fields, missing, wrong_type
from anthropic_proxy.messages.types.structs import (
    ABSENT,
    ROLES,
    Block,
    Message,
    MessagesRequest,
    Metadata,
    OutputConfig,
    OutputFormat,
    ThinkingConfig,
    ToolChoice,
)
from anthropic_proxy.messages.types.tools import read_tools
from anthropic_proxy.messages.types.values import is_object, is_text

_MOST = (("messages", b'"role"', 100_000), ("content blocks and tools", b'"type"', 50_000))
"""What a body may have of each, by the bytes that every one of them holds (in a text the quotes would be escaped).

The first is the API's own limit. Without them a body of the allowed size could keep everybody waiting for a minute.
"""
_COUNTED_FROM = 1 << 21
"""Bytes of a body from which on that is counted: smaller ones cannot hold enough to matter."""
_MOST_SEQUENCES, _MOST_CHARACTERS = 4_096, 65_536
"""Stop sequences, and characters of all of them together."""
_PIECE = 1 << 16
"""Bytes of a body that are checked at a time: a larger copy needs fresh pages, which costs more than the check."""
_LIST = b"["[0]
_INTEGERS = frozenset({"max_tokens", "top_k"})
_ANYWHERE = b'"global"'
_CHANGING_EDITS = (b'"clear_tool_uses_', b'"compact_')
"""How the types of `context_management` begin that change what the model sees; to keep all thinking changes nothing."""
_SPARE = frozenset({"metadata", "service_tier"})
"""Fields that the request keeps its meaning without; of an unexpected type they are left out."""


class _Body(Struct, kw_only=True):
    """The body as one pass reads it: optional fields may be null, tools are left for the cache of tools."""

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


def decode_request(body: bytes, *, counting: bool = False) -> MessagesRequest:
    """Read a body of `POST /v1/messages`, or of its token counting where `max_tokens` may be absent.

    Raises `InvalidRequest` with the path of what is wrong, and `UnsupportedFeature` where ignoring a field would lose
    history.
    """
    mended: list[str] = []
    if len(body) >= _COUNTED_FROM:
        _expect_few(body)
    try:
        read = _read(body, mended)
        _refuse(read, counting)
        return _request(read, len(body), mended)
    except RecursionError:
        raise InvalidRequest(f"The request body {DEEP_TEXT}.") from None


def read_request(body: bytes, *, counting: bool = False) -> MessagesRequest:
    """Read a body as far as it can be read: what `decode_request` refuses is kept for a relay, with the refusal."""
    try:
        return decode_request(body, counting=counting)
    except ClientError as refusal:
        return read_envelope(body, refusal)


def read_envelope(body: bytes, refusal: ClientError) -> MessagesRequest:
    """Return only the model and whether to stream, of a body that `decode_request` refused.

    A relay may pass it on all the same, for the API to judge. Raises the refusal where not even those can be read.
    """
    try:
        read = _decode_envelope(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise refusal from None
    return MessagesRequest(model=read.model, messages=[], stream=bool(read.stream), size=len(body), refusal=refusal)


def _read(body: bytes, mended: list[str]) -> _Body:
    try:
        read = _decode_body(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _read_slowly(body, mended)
    if _is_utf8(body) and _is_sound(read.system):
        if (plain := find_plain(read.messages)) is not None:
            read.messages = plain
            return read
        if _are_sound(read.messages):
            return read
    return _read_slowly(body, mended)


def _request(read: _Body, size: int, mended: list[str]) -> MessagesRequest:
    return MessagesRequest(
        model=read.model,
        messages=read.messages,
        length=len(read.messages),
        max_tokens=read.max_tokens,
        system=read.system or "",
        stream=bool(read.stream),
        tools=read_tools(read.tools) if _is_given(read.tools) else [],
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
        mcp_servers=read_servers(read.mcp_servers) if _is_given(read.mcp_servers) else [],
        container=_is_given(read.container),
        binds_place=_is_given(read.inference_geo) and bytes(read.inference_geo) != _ANYWHERE,
        edits_context=any(edit in bytes(read.context_management) for edit in _CHANGING_EDITS),
        size=size,
        mended=mended,
    )


def _refuse(read: _Body, counting: bool) -> None:
    if _is_given(read.thread):
        raise UnsupportedFeature(
            "thread: this server keeps no conversations; send the whole history in messages",
            details={"error_code": "thread_unsupported_request"},
        )
    if not read.messages:
        raise InvalidRequest("messages: at least one message is required")
    if read.max_tokens is None and not counting:
        raise missing("max_tokens")
    if read.max_tokens is not None and read.max_tokens < 0:
        raise wrong_type("max_tokens", "greater than or equal to 0", read.max_tokens)
    if _is_given(read.compaction):
        raise UnsupportedFeature("compaction: not available here; send the whole history in messages")
    sequences = read.stop_sequences or ()
    if len(sequences) > _MOST_SEQUENCES or sum(map(len, sequences)) > _MOST_CHARACTERS:
        raise InvalidRequest(
            f"stop_sequences: {len(sequences)} sequences of {sum(map(len, sequences))} characters; at most "
            f"{_MOST_SEQUENCES} of {_MOST_CHARACTERS} characters together are taken"
        )
    for form in (read.output_format, read.output_config and read.output_config.format):
        if form and (flaw := find_flaw(bytes(form.schema))):
            raise InvalidRequest(f"output_config.format.schema: {flaw}")


def _expect_few(body: bytes) -> None:
    if body.count(b"{") <= min(most for _, _, most in _MOST):
        return  # each of them is an object, and one character is looked for in an eighth of the time
    for what, mark, most in _MOST:
        if (found := body.count(mark)) > most:
            raise InvalidRequest(f"The request body holds {found} {what}; at most {most} are taken.")


def _is_given(raw: Raw) -> bool:
    return raw is not ABSENT and (len(raw) > len(b"null") or bytes(raw) not in (b"null", b"[]"))


def _are_sound(messages: list[Message]) -> bool:
    return all(message.role in ROLES and _is_sound(message.content) for message in messages)


def _is_sound(content: str | list[Block] | None) -> bool:
    return all_sound(content) if type(content) is list else True


def _is_utf8(body: bytes) -> bool:
    view, start, end = memoryview(body), 0, len(body)
    try:
        while start < end:
            cut = min(start + _PIECE, end)
            while cut < end and view[cut] & 0xC0 == 0x80 and cut > start + _PIECE - 4:
                cut -= 1
            str(view[start:cut], "utf-8")
            start = cut
    except UnicodeDecodeError:
        return False
    return True


def _read_slowly(body: bytes, mended: list[str]) -> _Body:
    body = _mend(body, mended)
    try:
        return _read_fields(_read_object(body), mended)
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        raise InvalidRequest(f"The request body is not valid JSON: {reason}.") from None


def _read_object(body: bytes) -> dict[str, Raw]:
    try:
        return given_fields(body)
    except msgspec.ValidationError:
        raise InvalidRequest("The request body must be a JSON object.") from None


def _mend(body: bytes, mended: list[str]) -> bytes:
    """Return the body without byte order mark and lone surrogates; refuse it where it is no text."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The request body is not valid UTF-8: {error.reason} (byte {error.start}).") from None
    if not text.strip():
        raise InvalidRequest("The request body is empty; it must be a JSON object.")
    text, lone = replace_halves(text)
    if lone:
        mended.append(f"{lone} lone surrogate{'s' if lone > 1 else ''} replaced by U+FFFD")
    return text.encode()


def _read_fields(given: dict[str, Raw], mended: list[str]) -> _Body:
    for name in _INTEGERS & given.keys():
        given[name] = _without_fraction(given[name])
    messages, system = given.get("messages"), given.pop("system", None)
    if messages is not None:
        given["messages"] = Raw(b"[]") if memoryview(messages)[0] == _LIST else messages
    read, left_out = decode_fields(given, _decode_body, _SPARE)
    mended.extend(f"{name}: left out, its type is not the documented one" for name in left_out)
    if messages is not None:
        raws = _decode_raws(messages)
        read.messages = [_read_message(raw, f"messages.{index}") for index, raw in enumerate(raws)]
    if system is not None:
        read.system = _read_content(system, "system")
    return read


def _without_fraction(number: Raw) -> Raw:
    """Return `64.0` as `64`; some languages write every number so."""
    try:
        value = msgspec.json.decode(number)
    except msgspec.ValidationError:  # too large for any number; the fields are refused by their path
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
    if not is_object(raw):
        raise wrong_type(path, "an object", raw)
    fields = given_fields(raw)
    for name in ("role", "content"):
        if name not in fields:
            raise missing(f"{path}.{name}")
    role = string_of(fields["role"])
    if role not in ROLES:
        raise wrong_type(f"{path}.role", "'user', 'assistant' or 'system'", fields["role"])
    return Message(role, _read_content(fields["content"], f"{path}.content"))


def _read_content(raw: Raw, path: str) -> str | list[Block]:
    return _decode_string(raw) if is_text(raw) else read_blocks(raw, path)
