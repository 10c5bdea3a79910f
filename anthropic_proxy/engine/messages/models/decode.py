"""Decoding of the body of a client request into a `MessagesRequest`.

Theory of operation. A body is decoded in one of three ways:

1. At once, in one pass of the decoder. Almost all bodies are valid, and almost all of those are clean: every provider
   accepts their messages as they are. `as_clean_messages` finds this out in one pass, and cleaning is then skipped.
2. Field by field, if the first way fails or finds a flaw. This drops optional fields of a wrong type, replaces invalid
   characters, and raises an error with the path of the invalid field.
3. By a scan (`scan_request`), if only relays may serve the request. A relay forwards the body unchanged to a provider
   with the same API, so only a few fields are decoded, and never the text of the messages.

A relay may forward invalid bodies too, because the provider validates them. `decode_request_or_envelope` therefore
stores the error in `decode_error`.
"""

import codecs
import re
from collections.abc import Hashable, Mapping, Sequence, Sized
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeVar, assert_never, get_args

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, structs

from anthropic_proxy.engine.messages.models.client_json import build_body_error, read_json
from anthropic_proxy.engine.messages.models.parts import (
    MIN_BYTES,
    count_members,
    count_messages_and_blocks,
    count_parts,
    count_surrogates,
)
from anthropic_proxy.engine.messages.models.raw_json import (
    ABOVE_STRINGS,
    ABSENT,
    EMPTY_STRING_LENGTH,
    MIN_COUNTED_BYTES,
    MIN_OBJECT,
    SHALLOW_BYTES,
    TOO_DEEP_MESSAGE,
    build_fields_decoder,
    decode_lenient_fields,
    decode_string,
    find_schema_error,
    has_too_many_members,
    is_json_object,
    is_json_text_too_deep,
    is_raw_too_deep,
    is_string_or_absent,
    missing_field_error,
    replace_lone_surrogates,
    require_bounded_members,
    validation_error,
    wrong_type_error,
)
from anthropic_proxy.engine.messages.models.structs import (
    ROLES,
    TEXT_TYPE,
    Block,
    CacheMarks,
    CompactionBlock,
    DocumentBlock,
    FallbackBlock,
    ImageBlock,
    McpServer,
    Message,
    MessagesRequest,
    Metadata,
    OutputConfig,
    OutputFormat,
    RedactedThinkingBlock,
    SearchResultBlock,
    ServerToolResultBlock,
    ServerToolUseBlock,
    Source,
    TextBlock,
    ThinkingBlock,
    ThinkingConfig,
    Tool,
    ToolAdditionBlock,
    ToolChoice,
    ToolReferenceBlock,
    ToolRemovalBlock,
    ToolResultBlock,
    ToolUseBlock,
    UnknownBlock,
)
from anthropic_proxy.engine.messages.models.tool_arguments import build_arguments_object
from anthropic_proxy.engine.messages.models.tools import are_valid_ids, are_valid_names, decode_tools
from anthropic_proxy.engine.messages.work_budget import WorkPostponed
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.errors import ClientError, InvalidRequest, UnsupportedFeature

if TYPE_CHECKING:
    from anthropic_proxy.engine.messages.models.context_edits import ContextEdit

_MAX_COUNTS = (("messages", b'"role"', 100_000), ("content blocks and tools", b'"type"', 50_000))
"""Rows: name of the counted objects, bytes in each such object, maximum number in a body. A body with more objects is
rejected. JSON strings cannot contain these bytes, because their quotes are escaped."""
_MAX_SLOW_BYTES = 256 * 1024
"""Maximum size of a text on the event loop of which each part is decoded by itself, which takes some 10 ms."""
_MAX_SEQUENCES, _MAX_SEQUENCE_CHARACTERS = 4_096, 65_536
_GLOBAL_REGION = b'"global"'
"""Value of the request field `inference_geo`, as JSON, that permits every region."""
_FAST = Raw(b'"fast"')
_FORCING = ("any", "tool")
_COMPACTION = b'"compact_'
"""Beginning of the `type` of an edit of the request field `context_management`."""
_CLASSIFIER_ANSWERS = b"<block>no</block>", b"<severity>N</severity>"
_END_OF_CALLS = b"</transcript>"
_NOT_GIVEN = (ABSENT, Raw(b"null"), Raw(b"[]"))
"""Values of a body field that mean the same as its absence."""


class _Body(Struct, kw_only=True):
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
    speed: Raw = ABSENT
    mcp_servers: Raw = ABSENT
    container: Raw = ABSENT
    context_management: Raw = ABSENT
    inference_geo: Raw = ABSENT
    fallbacks: Raw = ABSENT
    thread: Raw = ABSENT
    compaction: Raw = ABSENT
    safeguards: Raw = ABSENT


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_messages = msgspec.json.Decoder(list[Message]).decode


class CleanMessages(list[Message]):
    """Immutable list of messages that the encoders (wires) of all providers accept as they are.

    Cleaning is skipped for them: it removes empty text, and replaces content that providers do not accept.
    """

    names: Mapping[str, str] = {}
    """Id of each tool call → name of the called tool."""
    parts = 0
    """See `MessagesRequest`."""
    has_media = False
    """True if the messages contain images or documents. Only these two can have more tokens than bytes."""
    late_system: Sequence[Message] = ()
    """Messages with the role `system`."""
    known: "CleanMessages | None" = None
    """First messages of this list, which earlier requests had too (`histories.py`). None: there are none."""
    results: dict[Hashable, Any]
    """What was computed from known messages for one request and serves the others too. Only they have the field."""

    def share_results(self) -> None:
        """Make these the known messages of other requests, before another thread can see them.

        What is computed for them uses the results of the known messages before them, but none before those.
        """
        self.results = {}
        if self.known is not None:
            self.known.known = None


class Frame(Struct):
    """A request body without its messages, which the requests of a conversation usually have in common."""

    head: bytes
    """Bytes up to the bracket before the first message."""
    tail: bytes
    """Bytes from the bracket behind the last message on."""
    read: _Body
    """Body with no messages, decoded from `head` and `tail`."""


class KnownMessages(Struct):
    """Messages that earlier requests had too, and their place in the body of a request."""

    messages: CleanMessages
    begin: int
    end: int
    """Offsets of the first of them and of the message behind them."""
    mark: bytes
    """JSON text that replaces the known messages once, to check that they are in the field `messages` of the body: the
    bracket before the first message, a message that no client can guess, and a comma."""
    frame: Frame | None
    """Frame of the request, or of an earlier one. None: not known yet."""


def decode_request(
    body: bytes, *, for_token_count: bool = False, known: KnownMessages | None = None, may_postpone: bool = False
) -> MessagesRequest:
    """Decode a body of `POST /v1/messages`. Raises `InvalidRequest` with the path of the invalid field.

    If `for_token_count` is True, `max_tokens` may be missing, because a request to count tokens has no output limit.
    `known`: messages of this body that are not decoded again. `may_postpone`: see `_postpone_if_slow`.
    Raises `UnsupportedFeature` for the field `thread`, because the proxy stores no conversations.
    """
    if len(body) >= MIN_COUNTED_BYTES:
        require_bounded_members(body)
        # each of them is an object, and a search for one character takes an eighth of the time
        if body.count(b"{") > min(maximum for _, _, maximum in _MAX_COUNTS):
            for what, marker, maximum in _MAX_COUNTS:
                if (found := body.count(marker)) > maximum:
                    raise InvalidRequest(
                        f"The request body contains {found} {what}; at most {maximum} are allowed.", code="request-body"
                    )
    repairs: list[str] = []
    try:
        at_once = (known and _decode_behind(body, known)) or _decode_at_once(body)
        if at_once is None:
            _postpone_if_slow(body, may_postpone=may_postpone)
        read = at_once or _decode_field_by_field(body, repairs)
        _require_supported_fields(read, for_token_count=for_token_count, may_postpone=may_postpone)
        request = MessagesRequest(
            model=read.model,
            messages=read.messages,
            system=read.system or "",
            max_tokens=read.max_tokens,
            stream=read.stream is True,
            thinking=read.thinking,
            output_config=read.output_config,
            stop_sequences=read.stop_sequences or [],
            temperature=read.temperature,
            metadata=read.metadata,
            cache_marks=CacheMarks(body),
            body_bytes=len(body),
            repairs=repairs,
        )
        # what few requests have
        request.top_p = read.top_p
        request.top_k = read.top_k
        request.service_tier = read.service_tier
        request.is_fast = read.speed == _FAST
        request.tool_choice, request.output_format = read.tool_choice, read.output_format
        if read.tools not in _NOT_GIVEN:
            if may_postpone and len(read.tools) > _MAX_SLOW_BYTES:
                raise WorkPostponed
            request.tools = decode_tools(read.tools)
        request.is_classifier_question = _is_classifier_question(body, request.tools, read.stop_sequences)
        if read.mcp_servers not in _NOT_GIVEN:
            request.mcp_servers = _decode_mcp_servers(read.mcp_servers)
        if read.safeguards not in _NOT_GIVEN:
            request.safeguards = read.safeguards.copy()  # not of the whole body
        request.container = read.container not in _NOT_GIVEN
        if read.inference_geo not in _NOT_GIVEN:
            request.region = _decode_region(read.inference_geo)
        if read.context_management not in _NOT_GIVEN:
            from anthropic_proxy.engine.messages.models.context_edits import (  # noqa: PLC0415  # few requests
                decode_context_edits,
            )

            request.context_edits = decode_context_edits(read.context_management, read.model)
            request.permits_other_calls = _permits_other_calls(read)
        if read.fallbacks is not ABSENT:
            request.permits_other_calls = True
        if read.compaction not in _NOT_GIVEN and not for_token_count:  # it has no effect on counts
            request.context_edits = (_decode_compaction(read),)
        request.message_count = len(read.messages)
        if at_once is not None:  # a body with a call whose input is no object is not decoded at once
            called: Mapping[str, str]
            are_unique = True
            if isinstance(read.messages, CleanMessages):
                called = read.messages.names
            else:
                request.may_have_summaries = True
                blocks = [block for message in read.messages for block in message.blocks]
                calls = [block for block in blocks if type(block) is ToolUseBlock]
                called = {block.id: block.name for block in calls}
                are_unique = len(called) == len(calls)
            if called:
                are_valid = are_valid_names(called.values(), request.tools) and are_valid_ids(called)
                request.has_invalid_calls = not (are_valid and are_unique)
            else:
                request.has_invalid_calls = False
        else:
            request.may_have_summaries = True
        for block in _list_new_blocks(read.messages):
            if type(block) is ToolResultBlock:
                request.tool_results += 1
                request.tool_errors += block.is_error is True
        if len(body) >= MIN_BYTES:
            messages, system = read.messages, read.system
            parts = messages.parts if type(messages) is CleanMessages else count_parts(messages)
            request.parts = parts + len(request.tools) + len(request.mcp_servers)
            if type(system) is list:
                request.parts += len(system)
            if len(read.tools) > _MAX_SLOW_BYTES:
                request.parts += count_members(read.tools)
            if read.output_config is not None or read.output_format is not None:
                schemas = [form.schema for form in _list_forms(read) if len(form.schema) > _MAX_SLOW_BYTES]
                request.parts += sum(map(count_members, schemas))
            if at_once is None:
                request.parts += count_surrogates(body)  # a relay replaces them again
    except RecursionError as error:
        raise build_body_error(error, body) from None
    return request


def _postpone_if_slow(text: Sized, *, may_postpone: bool) -> None:
    """Raise `WorkPostponed`, if that is allowed, for a text that the event loop does not decode: its parts are decoded
    one by one.
    """
    if may_postpone and len(text) > _MAX_SLOW_BYTES:
        raise WorkPostponed


def build_thread_error() -> UnsupportedFeature:
    """Return the error for a conversation that nobody keeps. The official SDKs then send the complete history."""
    return UnsupportedFeature(
        "thread: this proxy stores no conversations; send the complete history in messages",
        details={"error_code": "thread_unsupported_request"},
        code="conversation-state",
        is_negotiated=True,
    )


def _require_supported_fields(read: _Body, *, for_token_count: bool, may_postpone: bool) -> None:
    if read.thread not in _NOT_GIVEN:
        raise build_thread_error()
    if not read.messages and (read.compaction in _NOT_GIVEN or for_token_count):
        raise InvalidRequest("messages: at least one message is required", code="empty-messages")
    if read.max_tokens is None:
        if not for_token_count:
            raise missing_field_error("max_tokens")
    elif read.max_tokens < 0:
        raise wrong_type_error("max_tokens", "greater than or equal to 0", read.max_tokens)
    if sequences := read.stop_sequences:
        characters = sum(map(len, sequences))
        if len(sequences) > _MAX_SEQUENCES or characters > _MAX_SEQUENCE_CHARACTERS:
            raise InvalidRequest(
                f"stop_sequences: {len(sequences)} sequences of {characters} characters; at most "
                f"{_MAX_SEQUENCES} of {_MAX_SEQUENCE_CHARACTERS} characters together are allowed",
                code="stop-sequences",
            )
    if read.output_config is not None or read.output_format is not None:
        for form in _list_forms(read):
            _postpone_if_slow(form.schema, may_postpone=may_postpone)
            if flaw := find_schema_error(bytes(form.schema)):
                raise InvalidRequest(f"output_config.format.schema: {flaw}", code="invalid-field")


def _list_forms(read: _Body) -> Sequence[OutputFormat]:
    """Return the formats that a body requests for its reply."""
    config = read.output_config
    return [form for form in (read.output_format, None if config is None else config.format) if form is not None]


def _decode_compaction(read: _Body) -> "ContextEdit":
    from anthropic_proxy.engine.messages.models import compaction  # noqa: PLC0415  # few requests

    config, choice = read.output_config, read.tool_choice
    summarize = compaction.decode_compaction(read.compaction)
    compaction.require_no_field_beside(
        {
            "context_management": read.context_management not in _NOT_GIVEN,
            "stop_sequences": bool(read.stop_sequences),
            "tool_choice": choice is not None and choice.type in _FORCING,
            "output_format": read.output_format is not None,
            "output_config.format": config is not None and config.format is not None,
        },
        ABSENT if config is None else config.task_budget,
    )
    compaction.require_summarizable(read.messages)
    return summarize


def decode_request_or_envelope(
    body: bytes, *, for_token_count: bool = False, known: KnownMessages | None = None, may_postpone: bool = False
) -> MessagesRequest:
    """Decode a client request body, also an invalid one, because a relay may forward it unchanged.

    Of an invalid body, only `model` and `stream` are decoded, and the error is stored in `decode_error`. If these two
    fields are invalid too, the error is raised.
    """
    try:
        return decode_request(body, for_token_count=for_token_count, known=known, may_postpone=may_postpone)
    except ClientError as error:
        return decode_envelope(body, error)


class _Envelope(Struct):
    model: str
    stream: bool | None = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def decode_envelope(body: bytes, error: ClientError) -> MessagesRequest:
    """Return only `model` and `stream` of an invalid body. Raises `error` if these are invalid too."""
    try:
        read = _decode_envelope(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise error from None
    return MessagesRequest(
        model=read.model,
        messages=[],
        stream=bool(read.stream),
        has_invalid_calls=False,
        body_bytes=len(body),
        parts=count_members(body) if len(body) >= MIN_BYTES else 0,
        decode_error=error,
    )


def _decode_region(raw: Raw) -> str:
    """Return the region in lower case. "": any."""
    return "" if bytes(raw) == _GLOBAL_REGION else _decode_word(raw).lower()


def _decode_word(raw: Raw) -> str:
    """Return a text without escapes. Any other value: its JSON text."""
    return bytes(raw).decode(errors="replace").strip('"')


def _permits_other_calls(read: "_Body | _Head") -> bool:
    edits = read.context_management
    if read.fallbacks is not ABSENT:
        return True
    text = b"" if edits is ABSENT else bytes(edits)
    return _COMPACTION in text or b"\\u" in text  # an escape may hide the type


_NO_SERVER = McpServer()


def _decode_mcp_servers(raw: Raw) -> list[McpServer]:
    """Return the MCP servers. One of a wrong type, or a field that is no list, has the name "" and the URL ""."""
    if has_too_many_members(bytes(raw)):
        return [_NO_SERVER]
    try:
        raws = msgspec.json.decode(raw, type=list[Raw])
    except msgspec.ValidationError:
        return [_NO_SERVER]
    servers = []
    for server in raws:
        try:
            servers.append(msgspec.json.decode(server, type=McpServer))
        except msgspec.ValidationError:
            servers.append(_NO_SERVER)
    return servers


_BlockT_co = TypeVar("_BlockT_co", covariant=True)


class _DecodedMessage(Protocol[_BlockT_co]):
    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str | Sequence[_BlockT_co]: ...


def _list_new_blocks(messages: Sequence[_DecodedMessage[_BlockT_co]]) -> list[_BlockT_co]:
    """Return the content blocks after the last assistant message. Content that is a plain text has no blocks."""
    found: list[_BlockT_co] = []
    for message in reversed(messages):
        if message.role == "assistant":
            break
        content = message.content
        if type(content) is list:  # one call less than isinstance
            found += content
    return found


# At once


def _decode_at_once(body: bytes) -> _Body | None:
    """Decode a body in one pass. None: the body is invalid, or has optional fields of a wrong type."""
    try:
        read = _decode_body(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    if not body.isascii() and _find_utf8_error(body) is not None:
        return None
    if type(read.system) is list and not _are_texts(read.system):
        return None
    if (clean := as_clean_messages(read.messages, counts_parts=len(body) >= MIN_BYTES)) is not None:
        read.messages = clean
    elif not all(message.role in ROLES and _is_content_valid(message.content) for message in read.messages):
        return None
    return read


def _are_texts(blocks: list[Block]) -> bool:
    for block in blocks:
        if type(block) is not TextBlock:
            return False
        if not is_string_or_absent(block.text):
            return False
    return True


class _Messages(Struct):
    messages: Raw


_decode_place = msgspec.json.Decoder(_Messages).decode


def _decode_behind(body: bytes, known: KnownMessages) -> _Body | None:
    """Decode a body without the known messages. None: they are not in the field `messages`, or not all is clean."""
    frame = known.frame
    try:
        if (
            frame is None
            or len(frame.head) != known.begin
            or not (body.startswith(frame.head) and body.endswith(frame.tail, known.end))
        ):
            text = b"%b%b%b" % (body[: known.begin - 1], known.mark, body[known.end :])
            messages = bytes(_decode_place(text).messages)
            if not messages.startswith(known.mark):  # there are two fields `messages`, or one inside of another field
                return None
            head, tail = body[: known.begin], text[known.begin + len(messages) - 2 :]
            if (read := _decode_at_once(head + tail)) is None:
                return None
            frame = known.frame = Frame(head, tail, read)
        text = b"[%b]" % body[known.end : len(body) - len(frame.tail)]
        added = _decode_messages(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    if not text.isascii() and _find_utf8_error(text) is not None:
        return None
    if (clean := as_clean_messages(added, known.messages)) is None:
        return None
    return structs.replace(frame.read, messages=clean)


def _is_content_valid(content: str | list[Block] | None) -> bool:
    return are_well_formed(content) if type(content) is list else True


_UTF8_CHECK_BYTES = 1 << 16
"""Number of bytes that are checked for valid UTF-8 at a time. Larger pieces need fresh memory pages, which cost more
than the check."""


def _find_utf8_error(text: bytes) -> tuple[str, int] | None:
    """Return the reason and the place of the first byte that is not UTF-8. None: the text is valid."""
    view = memoryview(text)
    start = 0
    end = len(text)
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


def as_clean_messages(
    messages: list[Message], before: CleanMessages | None = None, *, counts_parts: bool = True
) -> CleanMessages | None:
    """Return the messages as `CleanMessages`. None: they may be invalid, or cleaning may change them.

    `before`: known messages, in which each call has its result, and which precede `messages` in the result.
    `counts_parts`: False for messages that no later request knows, and of whose parts nobody asks.
    """
    # without calls of functions for the usual blocks: an agent's request has hundreds of them
    late_system: list[Message] = []  # a call of `list[Message]` takes ten times as long
    names: dict[str, str] = {}
    parts = count_messages_and_blocks(messages) if counts_parts else 0
    if before is None:
        clean = CleanMessages(messages)
    else:
        clean = CleanMessages([*before, *messages])
        clean.known, clean.has_media = before, before.has_media
        parts += before.parts
        late_system += before.late_system
        names |= before.names
    clean.late_system, clean.names = late_system, names
    # call ids must be unique, and results must begin the next message in the order of the calls
    waiting: list[str] = []
    nested: list[Raw] = []  # contents of results, which are decoded at the end
    for message in messages:
        role, content = message.role, message.content
        if not content or role not in ROLES or (waiting and role != "user"):
            return None
        if role == "system":
            late_system.append(message)
        if isinstance(content, str):
            if waiting:
                return None
            continue
        calls: list[str] = []
        answered = 0
        for block in content:
            if type(block) is TextBlock:
                text = block.text
                if (waiting and answered < len(waiting)) or not (
                    text < ABOVE_STRINGS and len(text) > EMPTY_STRING_LENGTH
                ):
                    return None
            elif type(block) is ToolResultBlock:
                if role != "user" or answered == len(waiting) or block.tool_use_id != waiting[answered]:
                    return None
                answered += 1
                if not block.content < ABOVE_STRINGS:
                    nested.append(block.content)
            elif type(block) is ToolUseBlock:
                given = block.input
                if role != "assistant" or not block.id or block.id in names or not given >= MIN_OBJECT:
                    return None
                if len(given) > SHALLOW_BYTES:
                    if is_json_text_too_deep(bytes(given)):
                        return None
                    if len(given) > _MAX_SLOW_BYTES:
                        parts += count_members(given)
                names[block.id] = block.name
                calls.append(block.id)
            elif type(block) is ThinkingBlock:
                if role != "assistant":
                    return None
            elif role == "user" and answered == len(waiting) and is_supported_media(block):
                clean.has_media = True
            else:
                return None
        if answered < len(waiting):
            return None
        waiting = calls
    if waiting:
        return None
    for inner in nested:
        try:
            blocks = decode_nested_content(inner)
        except InvalidRequest:
            return None
        if not blocks:
            return None
        parts += len(blocks)
        for block in blocks:
            if type(block) is TextBlock:
                if not (is_string_or_absent(block.text) and len(block.text) > EMPTY_STRING_LENGTH):
                    return None
            elif is_supported_media(block):
                clean.has_media = True
            else:
                return None
    clean.parts = parts
    return clean


# Content blocks

AUDIO_VIDEO_PREFIXES = ("audio/", "video/")
"""Prefixes of the media types of audio and video, which the proxy does not support."""
_REPLACED_SOURCES = ("file", "text", "content")
"""Types of image and document sources that no provider's encoder (wire) accepts. `prepare` replaces them by text, or by
the blocks in the source."""
_LIST, _NULL = b"[n"

_decode_block = msgspec.json.Decoder(Block).decode
_decode_blocks = msgspec.json.Decoder(list[Block]).decode

_KNOWN_TYPES = frozenset(kind.__struct_config__.tag for kind in get_args(Block) if kind is not UnknownBlock)


def decode_nested_content(content: Raw, *, in_result: bool = True, path: str = "content") -> list[Block]:
    """Decode the `content` of a tool result, or of a search result or document (`in_result`: False).

    Raises `InvalidRequest`, also for a block that cannot be there: each level of blocks in blocks would be decoded
    again with all that it contains. `path`: path of the content for this error.
    """
    if is_string_or_absent(content):
        return [TextBlock(content)] if len(content) > EMPTY_STRING_LENGTH else []
    if memoryview(content)[0] == _NULL:
        return []
    blocks = decode_blocks(content, path)
    refused = ToolResultBlock if in_result else ToolResultBlock | SearchResultBlock | DocumentBlock
    for index, block in enumerate(blocks):
        if isinstance(block, refused):
            allowed = (
                f"a type of block that a {'tool_result' if in_result else 'search_result or document'} can contain"
            )
            raise wrong_type_error(f"{path}.{index}.type", allowed, block.__struct_config__.tag)
    return blocks


def decode_blocks(content: Raw, path: str) -> list[Block]:
    """Decode a JSON list of content blocks. Raises `InvalidRequest`. `path`: path of the list in the body."""
    try:
        blocks = _decode_blocks(content)
    except RecursionError:
        raise InvalidRequest(f"{path}: {TOO_DEEP_MESSAGE}", code="request-body") from None
    except msgspec.ValidationError:
        pass
    else:
        if are_well_formed(blocks):
            return blocks
    if memoryview(content)[0] != _LIST:
        raise wrong_type_error(path, "a string or a list of blocks", content)
    require_bounded_members(bytes(content))
    return [_read_block(raw, f"{path}.{index}") for index, raw in enumerate(_decode_raws(content))]


_WITHOUT_JSON = (
    ThinkingBlock,
    RedactedThinkingBlock,
    ToolReferenceBlock,
    ToolAdditionBlock,
    ToolRemovalBlock,
    CompactionBlock,
    FallbackBlock,
)
"""Blocks whose fields the decoder has checked."""


def are_well_formed(blocks: list[Block]) -> bool:
    """Return True if texts, arguments and results in the blocks have the right JSON type and allowed nesting.

    Blocks of an unknown type are not well formed.
    """
    # these fields are undecoded JSON (`Raw`), so the type is judged by the first character
    for block in blocks:
        if type(block) is TextBlock:
            if not is_string_or_absent(block.text):
                return False
        elif type(block) is ToolUseBlock:
            if not is_json_object(block.input) or is_raw_too_deep(block.input):
                return False
        elif type(block) is ToolResultBlock:
            content = block.content
            if not is_string_or_absent(content) and memoryview(content)[0] not in (_LIST, _NULL):
                return False
        elif type(block) is ServerToolUseBlock:
            if is_raw_too_deep(block.input):
                return False
        elif isinstance(block, ServerToolResultBlock):
            if is_raw_too_deep(block.content):
                return False
        elif type(block) is UnknownBlock:
            return False
        elif isinstance(block, ImageBlock | DocumentBlock):
            if not _has_valid_source(block):
                return False
        elif type(block) is SearchResultBlock:
            if not _contains_texts(block.content):
                return False
        elif not isinstance(block, _WITHOUT_JSON):
            assert_never(block)
    return True


_CONTENT_FIELDS = {"base64": "data", "url": "url", "file": "file_id", "text": "data", "content": "content"}
"""Type of a source → its field with the content, which it must have."""


def _has_valid_source(block: ImageBlock | DocumentBlock) -> bool:
    """Return False if `_require_valid_source` has to examine the source. One of an unknown type is valid."""
    source = block.source
    kind = source.type
    field = _CONTENT_FIELDS.get(kind)
    if field is None:
        return True
    content: str | Raw = getattr(source, field)
    if not len(content) or (kind == "text" and source.media_type not in ("", TEXT_TYPE)):
        return False
    return not isinstance(content, Raw) or is_string_or_absent(content) or memoryview(content)[0] == _LIST


def _require_valid_source(fields: Mapping[str, Raw], path: str) -> None:
    """`fields`: those of a source as the client has sent it."""
    kind = decode_string(fields["type"])
    field = _CONTENT_FIELDS.get(kind or "")
    if field is None:
        return
    if field not in fields:
        raise missing_field_error(f"{path}.{field}")
    if kind == "content" and not is_string_or_absent(content := fields[field]) and memoryview(content)[0] != _LIST:
        raise wrong_type_error(f"{path}.{field}", "a string or a list of blocks", content)
    if kind == "text" and "media_type" in fields:
        media_type = decode_string(fields["media_type"]) or ""
        if media_type.partition(";")[0].strip().lower() != TEXT_TYPE:
            raise wrong_type_error(f"{path}.media_type", f"'{TEXT_TYPE}'", media_type)


class _Typed(Struct, gc=False):
    type: str = ""


_decode_types = msgspec.json.Decoder(list[_Typed]).decode


def _contains_texts(content: Raw) -> bool:
    """Return True for the content of a search result: texts, and blocks of unknown types."""
    try:
        types = _decode_types(content)
    except msgspec.ValidationError:
        return False
    return bool(types) and all(one.type == "text" or one.type not in _KNOWN_TYPES for one in types)


def _require_texts(content: Raw, path: str) -> None:
    """Raise the error for the content of a search result."""
    if memoryview(content)[0] != _LIST:
        raise wrong_type_error(path, "a list of text blocks", content)
    blocks = decode_blocks(content, path)
    if not blocks:
        raise wrong_type_error(path, "a list of at least one text block", content)
    _require_only_texts(blocks, path)


def _require_only_texts(blocks: Sequence[Block], path: str) -> None:
    """Raise `InvalidRequest` for a block of a known type that is no text."""
    for index, block in enumerate(blocks):
        if not isinstance(block, TextBlock | UnknownBlock):
            raise wrong_type_error(f"{path}.{index}.type", "'text'", block.__struct_config__.tag)


def is_supported_media(block: Block) -> bool:
    """Return True for an image or document that all providers' encoders (wires) accept unchanged."""
    if not isinstance(block, ImageBlock | DocumentBlock) or (
        isinstance(block, DocumentBlock) and (block.context or block.requests_citations)
    ):
        return False
    source = block.source
    if source.type in _REPLACED_SOURCES or source.media_type.startswith(AUDIO_VIDEO_PREFIXES):
        return False
    return _has_valid_source(block)


_decode_block_fields = build_fields_decoder(
    ["type", *(name for kind in get_args(Block) for name in kind.__struct_encode_fields__)]
)
_decode_source_fields = build_fields_decoder(Source.__struct_encode_fields__)


def _read_block(raw: Raw, path: str) -> Block:
    if not is_json_object(raw):
        raise wrong_type_error(path, "an object", raw)
    fields = _decode_block_fields(raw)
    if "type" not in fields:
        raise missing_field_error(f"{path}.type")
    kind = decode_string(fields["type"])
    if kind is None:
        raise wrong_type_error(f"{path}.type", "a string", fields["type"])
    if kind not in _KNOWN_TYPES:
        if is_raw_too_deep(raw):
            raise InvalidRequest(f"{path}: {TOO_DEEP_MESSAGE}", code="request-body")
        return UnknownBlock(kind, raw)
    source: Mapping[str, Raw] = {}
    if "source" in fields and is_json_object(fields["source"]):
        source = _decode_source_fields(fields["source"])
        fields["source"] = Raw(msgspec.json.encode(source))
    encoded = msgspec.json.encode(fields)
    try:
        block: Block = _decode_block(encoded)
    except msgspec.ValidationError as error:
        raise validation_error(error, encoded, path) from None
    if isinstance(block, ToolUseBlock) and not is_json_object(block.input):
        # Clients send back what a model wrote in place of an object. Without it the conversation could not go on.
        block.input = build_arguments_object(bytes(block.input).decode())
    if isinstance(block, ImageBlock | DocumentBlock):
        _require_valid_source(source, f"{path}.source")
        return block
    if are_well_formed([block]):
        return block
    if isinstance(block, TextBlock):
        raise wrong_type_error(f"{path}.text", "a string", block.text)
    if isinstance(block, ToolResultBlock):
        raise wrong_type_error(f"{path}.content", "a string or a list of blocks", block.content)
    if isinstance(block, SearchResultBlock):
        _require_texts(block.content, f"{path}.content")
        return block
    field = "input" if isinstance(block, ToolUseBlock | ServerToolUseBlock) else "content"
    raise InvalidRequest(f"{path}.{field}: {TOO_DEEP_MESSAGE}", code="request-body")


# Field by field

_INTEGERS = frozenset({"max_tokens", "top_k"})
_OPTIONAL_FIELDS = frozenset({"metadata", "service_tier"})
"""Fields of the body without effect on the reply. A value of the wrong type is dropped."""

_decode_message = msgspec.json.Decoder(Message).decode
_decode_raws = msgspec.json.Decoder(list[Raw]).decode
_decode_string = msgspec.json.Decoder(str).decode
_decode_body_fields = build_fields_decoder(_Body.__struct_encode_fields__)
_decode_message_fields = build_fields_decoder(Message.__struct_encode_fields__)


def _decode_field_by_field(body: bytes, repairs: list[str]) -> _Body:
    require_bounded_members(body)
    if (flaw := _find_utf8_error(body)) is not None:
        raise InvalidRequest(f"The request body is not valid UTF-8: {flaw[0]} (byte {flaw[1]}).", code="request-body")
    body = body.removeprefix(codecs.BOM_UTF8)
    if not body or body.isspace():
        raise InvalidRequest("The request body is empty; it must be a JSON object.", code="request-body")
    body, lone = replace_lone_surrogates(body)
    if lone:
        repairs.append(f"{lone} lone surrogate{'s' if lone > 1 else ''} replaced by U+FFFD")
    try:
        try:
            given = _decode_body_fields(body)
        except msgspec.ValidationError:
            raise InvalidRequest("The request body must be a JSON object.", code="request-body") from None
        for name in _INTEGERS & given.keys():
            # some client languages write all numbers with a fraction
            with suppress(msgspec.ValidationError):  # out of range; the decoding of the field raises with its path
                number = msgspec.json.decode(given[name])
                if isinstance(number, float) and number.is_integer():
                    given[name] = Raw(b"%d" % number)
        messages = given.get("messages")
        system = given.pop("system", None)
        if messages is not None:
            given["messages"] = Raw(b"[]") if memoryview(messages)[0] == _LIST else messages
        read, dropped = decode_lenient_fields(given, _decode_body, _OPTIONAL_FIELDS)
        repairs.extend(f"{name}: removed, because its type is not the documented one" for name in dropped)
        if messages is not None:
            raws = _decode_raws(messages)
            read.messages = [_read_message(raw, f"messages.{index}") for index, raw in enumerate(raws)]
        if system is not None:
            read.system = _read_content(system, "system")
            if not isinstance(read.system, str):
                _require_only_texts(read.system, "system")
    except msgspec.DecodeError as error:
        raise build_body_error(error, body) from None
    return read


def _read_message(raw: Raw, path: str) -> Message:
    try:
        message = _decode_message(raw)
    except msgspec.ValidationError:
        pass
    else:
        if message.role in ROLES and _is_content_valid(message.content):
            return message
    if not is_json_object(raw):
        raise wrong_type_error(path, "an object", raw)
    fields = _decode_message_fields(raw)
    if "output_config" in fields:
        fields.setdefault("content", Raw(b'""'))
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


# By a scan

_MODEL = compile_later(rb'"model"\s*:\s*"([^"\\]{1,512})"')
_SCANNED_BYTES = 1024
"""Number of bytes at each end of a body in which the model id is searched."""
_PROXY_PREFIX = "px1."
_SEARCH_PREFIX = "web_search_"

_Kind = Literal[
    "text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking", "server_tool_use"
]
"""Frequent types of content blocks. Blocks of these types never contain search passages that the proxy encoded."""
_Foreign = Annotated[str, Meta(pattern=rf"^(?!{re.escape(_PROXY_PREFIX)})")]


class _AnyObject(Struct, gc=False):
    """A JSON object of which nothing is decoded."""


class _PlainBlock(Struct, gc=False):
    """A content block without a signature of the proxy, and with an object as `input`, if it has one.

    Any other block causes a decoding error. The request is then decoded as `_ScannedBody`.
    """

    type: _Kind
    signature: _Foreign = ""
    data: _Foreign = ""
    citations: None = None
    is_error: bool | None = None
    id: str | None = None
    name: str | None = None
    input: _AnyObject | UnsetType = UNSET


class _PlainMessage(Struct, gc=False):
    role: Literal["user", "assistant", "system"]
    content: str | list[_PlainBlock]


class _ScannedBlock(Struct, gc=False):
    type: str = ""
    signature: str = ""
    data: str = ""
    citations: Raw = ABSENT
    is_error: Any = None
    id: str | None = None
    name: str | None = None
    input: Raw = ABSENT


class _ScannedMessage(Struct, gc=False):
    content: str | list[_ScannedBlock]
    role: Any = None


class _Head(Struct, kw_only=True):
    model: str
    max_tokens: int | None = None
    stream: bool | None = None
    tools: Raw = ABSENT
    mcp_servers: Raw = ABSENT
    metadata: Metadata | None = None
    speed: Raw = ABSENT
    inference_geo: Raw = ABSENT
    fallbacks: Raw = ABSENT
    context_management: Raw = ABSENT
    compaction: Raw = ABSENT
    service_tier: Raw = ABSENT
    safeguards: Raw = ABSENT
    stop_sequences: list[str] | None = None


class _PlainBody(_Head):
    messages: list[_PlainMessage]


class _ScannedBody(_Head):
    messages: list[_ScannedMessage]


_decode_plain = msgspec.json.Decoder(_PlainBody).decode
_decode_scanned = msgspec.json.Decoder(_ScannedBody).decode


def guess_model(body: bytes) -> str:
    """Return the probable model id from the first and last bytes of a body, without decoding it. "": not found.

    The caller determines by this id if only relays may serve the request, and then tries `scan_request`.
    """
    found = _MODEL.search(body[:_SCANNED_BYTES]) or _MODEL.search(body[-_SCANNED_BYTES:])
    return found[1].decode(errors="replace") if found else ""


def scan_request(body: bytes, *, may_postpone: bool = False) -> MessagesRequest | None:
    """Return a client request with the fields that a relay needs, without its messages.

    None: the body may be invalid, so `decode_request` must decode it. `may_postpone`: see `_postpone_if_slow`.
    """
    if len(body) >= MIN_COUNTED_BYTES and has_too_many_members(body):
        return None
    read: _PlainBody | _ScannedBody
    try:
        try:
            read = _decode_plain(body)
        except msgspec.ValidationError:
            read = _decode_scanned(body)
        tools: list[Tool] = []
        if read.tools not in _NOT_GIVEN:
            if may_postpone and len(read.tools) > _MAX_SLOW_BYTES:
                raise WorkPostponed
            tools = decode_tools(read.tools)
        if read.compaction not in _NOT_GIVEN:  # not every server with the API knows it
            return None
        tool_results = tool_errors = 0
        blocks: list[_PlainBlock | _ScannedBlock] = _list_new_blocks(read.messages)
        for block in blocks:
            if block.type == "tool_result":
                tool_results += 1
                tool_errors += block.is_error is True
        request = MessagesRequest(
            model=read.model,
            messages=[],
            max_tokens=read.max_tokens,
            message_count=len(read.messages),
            tool_results=tool_results,
            tool_errors=tool_errors,
            stream=bool(read.stream),
            tools=tools,
            metadata=read.metadata,
            mcp_servers=_decode_mcp_servers(read.mcp_servers) if read.mcp_servers not in _NOT_GIVEN else [],
            safeguards=read.safeguards.copy() if read.safeguards not in _NOT_GIVEN else ABSENT,
            stop_sequences=read.stop_sequences or [],
            body_bytes=len(body),
            scanned_only=True,
            is_fast=read.speed == _FAST,
            region="" if read.inference_geo in _NOT_GIVEN else _decode_region(read.inference_geo),
            permits_other_calls=_permits_other_calls(read),
            service_tier=None if read.service_tier in _NOT_GIVEN else _decode_word(read.service_tier),
            has_proxy_signatures=isinstance(read, _ScannedBody)
            and any(_has_proxy_signature(message.content) for message in read.messages),
            has_invalid_calls=_has_invalid_calls(read, tools),
            is_classifier_question=_is_classifier_question(body, tools, read.stop_sequences),
        )
        if len(body) >= MIN_BYTES:
            request.parts = count_messages_and_blocks(read.messages) + len(tools)
        if read.context_management not in _NOT_GIVEN:
            from anthropic_proxy.engine.messages.models.context_edits import (  # noqa: PLC0415  # few requests
                decode_context_edits,
            )

            with suppress(InvalidRequest):  # the server may know an edit that the proxy does not
                request.context_edits = decode_context_edits(read.context_management, read.model)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ClientError):
        return None
    return request


class _Contents(Struct):
    content: Raw = Raw(b"")  # immutable


class _Question(Struct):
    messages: list[_Contents]
    system: Raw = Raw(b"")  # immutable


_decode_question = msgspec.json.Decoder(_Question).decode


def _is_classifier_question(body: bytes, tools: Sequence[Tool], stop_sequences: Sequence[str] | None) -> bool:
    """Return True for the four questions of Claude Code's classifier, which have no tools (observed with 2.1.332). It
    asks about a call, and about the work of a sub-agent; and again if the first reply is no answer. Only the first
    question about a call has a stop sequence. Each system prompt has a form of the answer, and each last message the
    calls.
    """
    if tools:
        return False
    if stop_sequences == ["</block>"]:
        return True
    if _END_OF_CALLS not in body or not any(answer in body for answer in _CLASSIFIER_ANSWERS):
        return False
    try:
        question = read_json(body, _decode_question)
    except InvalidRequest:
        return False
    system = bytes(question.system)
    shows_calls = any(_END_OF_CALLS in bytes(message.content) for message in question.messages[-1:])
    return shows_calls and any(answer in system for answer in _CLASSIFIER_ANSWERS)


def _has_invalid_calls(read: _PlainBody | _ScannedBody, tools: Sequence[Tool]) -> bool:
    called = [
        (block.id or "", block.name)
        for message in read.messages
        if message.role == "assistant" and type(message.content) is list
        for block in message.content
        if block.name is not None
    ]
    if called:
        names = dict(called)
        are_valid = are_valid_names(names.values(), tools) and are_valid_ids(names)
        if not are_valid or len(names) < len(called):
            return True
    return isinstance(read, _ScannedBody) and any(
        block.type == "tool_use" and not is_json_object(block.input)
        for message in read.messages
        if type(message.content) is list
        for block in message.content
    )


def _has_proxy_signature(content: str | list[_ScannedBlock]) -> bool:
    if isinstance(content, str):
        return False
    for block in content:
        if block.signature.startswith(_PROXY_PREFIX) or block.data.startswith(_PROXY_PREFIX):
            return True
        if block.type.startswith(_SEARCH_PREFIX) or memoryview(block.citations).nbytes:
            return True
    return False
