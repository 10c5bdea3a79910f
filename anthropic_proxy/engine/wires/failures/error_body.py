"""Decoding of error responses of all providers into one struct, `UpstreamFault`.

There is no common format: the error may be an object, a list or a text, and a gateway puts the error of another server
into a field or a message of its own. Each value may have any type and any length.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.models.raw_json import ABSENT
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.wires.json_repair import decode_repaired
from anthropic_proxy.secrets import redact_key_patterns

_SERVER_PREFIXES = "|".join(
    (
        # `litellm.InternalServerError: OpenAIException - `, `Vertex_aiException BadRequestError - `
        r"[\w.]{0,100}(?:error|exception)(?: \w{1,100}error)?(?::| -)",
        r"[a-z]{1,20}(?:-[a-z]{1,20})? error:",  # Portkey: the name of the cloud
        r"the model returned the following errors:",  # Amazon Bedrock
        r"error code: \d{3} -",  # OpenAI's SDK
        r"an error occurred \(\w{1,100}\) when calling the \w{1,100} operation:",  # AWS's SDK
        # `400 {` is of the SDKs in TypeScript
        r"(?:http )?\d{3}(?: internal server error)?(?::| -|(?= \{))|internal server error(?::| -)",
        r"(?:provider returned error|upstream request failed):",
        # the beginning of an error object, as JSON or as Python prints it
        r"b['\"](?=[{\[])|[{\[]|['\"](?:error|message|detail|msg)['\"]:\s*['\"]?",
        r"['\"](?:code|status|type|param|details|request_id)['\"]:\s*['\"]?[\w-]{1,100}['\"]?,",
    )
)
"""Texts that servers and gateways put before the error message of another server."""
_WRAPPERS = rf"\s*+(?:(?:{_SERVER_PREFIXES})\s*+)*"
_WRAPPED = compile_anchored(_WRAPPERS, re.IGNORECASE)
_QUOTING = compile_anchored(
    _WRAPPERS + r"(?P<failure>(?:error parsing tool call|failed to parse input at pos \d{1,20}|failed to parse xml"
    r"|xml syntax error on line \d{1,20})(?=:)|expected element type(?= <))",
    re.IGNORECASE,
)
"""Beginnings of error messages that are followed by the output of the model, which the server could not parse. Ollama:
`error parsing tool call: raw='…'` (ollama/ollama issue 12884); llama.cpp: `Failed to parse input at pos 12: …`
(ggml-org/llama.cpp issue 20761; read 2026-11). They are searched only at the beginning, because other errors quote the
request. The parsers of calls in XML write `XML syntax error on line 8: …` and `expected element type <function> but
have <parameter>` (ollama/ollama issues 18563, 16810 and 12380)."""
_MESSAGE_FIELDS = (
    *("message", "Message", "detail", "msg", "error_description", "error_message", "errorMessage", "error_msg"),
    *("errmsg", "err_msg", "description", "title", "faultstring"),
)
"""Fields with the text of an error, in the order of their use. `Message`: AWS for requests without access, and ASP.NET
(BerriAI/litellm pull 39166, read 2026-11). `error_description`: OAuth (RFC 6749, section 5.2). `faultstring`:
Apigee."""
_FIELDS_WITH_MESSAGES = (*_MESSAGE_FIELDS, "error", "metadata", "raw", "innererror")
"""Fields of an error that contain its message, or the error of another server. Other fields of an error with a 4xx
status may contain the request."""
_BASE_STATUSES = {1001: 504, 1002: 429, 1004: 401, 1008: 402, 1039: 429, 1041: 429, 2013: 400, 2049: 401, 2056: 429}
"""Error codes in a field `base_resp` → HTTP status. MiniMax sends such errors with the status 200
(platform.minimax.io/docs/api-reference/errorcode.md, read 2026-11-25)."""
_FILTERED_CODES = (1026, 1027)
"""Error codes in `base_resp` for sensitive text in the request or the reply."""
_TITLE = compile_later(r"<(title|h1|message)>([^<]+)", re.IGNORECASE)
_TAG = compile_later(r"<[^<>]*>")
_SERVER_STATUS = compile_later(r"\b5\d\d\b", most=200)
_BAD_GATEWAY = 502
"""Status of a text in place of a reply that states none."""
_EXCERPT_CHARACTERS = 200
_MESSAGE_CHARACTERS = 4_000
"""Maximum number of characters of a provider's error message. A longer one is cut, because many patterns search it."""
_MAX_PLAIN_BYTES = 2_000
"""Maximum size of a body in plain text that is an error message. A longer one is a page."""
_MAX_CODE_CHARACTERS = 128
_MAX_ENTRIES = 32
_MAX_VALUES = 1_000
"""Number of texts and objects of an error that are searched for the errors inside it."""
_MAX_DEPTH = 3
"""Maximum number of gateways whose errors are inside each other."""


_CHARSET = compile_later(
    r"charset=[\"']?(gb18030|gbk|gb2312|big5|shift_jis|euc-jp|euc-kr|iso-8859-1|windows-125\d)\b", re.IGNORECASE
)


class UpstreamFault(Struct, frozen=True, kw_only=True):
    """Content of an error response of a provider, before classification. API keys in texts are redacted."""

    status: int | None = None
    """HTTP status of the response. If an error is inside a 200 response: the status in the body. None: not reported."""
    message: str = ""
    """The provider's error message. "": the body contains no message."""
    told: str = ""
    """The whole text, for the client, if `message` is without what it quotes of the request. "": `message`."""
    codes: frozenset[str] = frozenset()
    parameter: str | None = None
    """Name or path of the request parameter that the provider rejects, in the provider's spelling. None: not named."""
    retry_after: float | None = None
    """Delay until the next try in whole seconds, 1 to 3,600. None: not reported."""
    is_permanent: bool = False
    """True if the response has the header `x-should-retry: false` (OpenAI). The request is then not retried."""
    input_tokens: int | None = None
    """Input tokens of the rejected request (field `n_prompt_tokens` of llama.cpp). None: not reported."""
    context_window: int | None = None
    """Context window of the model in tokens (field `n_ctx` of llama.cpp). None: not reported."""
    failed_generation: str | None = None
    """Model output that the server could not parse as a tool call (Groq's `failed_generation`). None: not reported."""
    is_unreadable_output: bool = False
    """True if the server could not parse the output of its model, which `message` then does not quote."""
    is_content_filtered: bool = False
    """True if the body has a list of content that a filter found (Z.ai's `contentFilter`)."""
    excerpt: str = ""
    """Printable beginning of a body that is not an error object, for the log. "": the body is an error object."""
    has_used_up_limit: bool = False
    """True if a header says that nothing is left of a rate limit."""
    without_texts: "UpstreamFault | None" = None
    """Status, codes, retry delay and used-up limits from the status line, headers and fields alone: texts may quote the
    client, also as JSON. None: there are none of these."""

    @property
    def text(self) -> str:
        return self.told or self.message


def decode_error_body(status: int | None, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
    """Return the content of an error response of a provider. Never raises. If the body is not a JSON error, the field
    `excerpt` of the result has the beginning of the body.
    """
    body = _convert_to_utf8(headers, body)
    try:
        content = msgspec.json.decode(body.removeprefix(b"data:"))  # Xiaomi sends an event of a stream (2026-05)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        content = _decode_damaged(body.decode(errors="replace"))
        # servers in Rust and Go send an error in plain text; others send a page
        if content is None and len(body) <= _MAX_PLAIN_BYTES and "html" not in headers.get("content-type", "").lower():
            with suppress(UnicodeDecodeError):
                words = " ".join(body.decode().split())
                is_text = words[:1] not in ("", "<") and not begins_as_json(words)
                content = words if is_text and words.isprintable() else None
    if isinstance(content, dict | list | str):
        fault = read_error_object(content, status, headers)
        if fault.message or fault.codes:
            return fault
    text = "".join(character for character in body[:2_000].decode(errors="replace") if character.isprintable())
    excerpt = redact_key_patterns(text[:_EXCERPT_CHARACTERS])
    codes = frozenset(_read_aws_name(headers.get("x-amzn-errortype")))
    delay = find_retry_delay(headers, None, "")
    return UpstreamFault(
        status=status,
        codes=codes,
        retry_after=delay,
        is_permanent=_stays(headers),
        excerpt=excerpt,
        without_texts=UpstreamFault(
            status=status, codes=codes, retry_after=delay, has_used_up_limit=has_used_up_limit(headers)
        ),
    )


def _convert_to_utf8(headers: Mapping[str, str], body: bytes) -> bytes:
    """Return a body in UTF-8, converted from the encoding in its `content-type`. Without one, "�" replaces the bytes of
    a JSON text that are not UTF-8, so that its codes stay readable.
    """
    try:
        body.decode()
    except UnicodeDecodeError:
        named = _CHARSET.search(headers.get("content-type", ""))
        if named is not None or body.lstrip()[:1] in (b"{", b"["):
            return body.decode(named[1] if named is not None else "utf-8", "replace").encode()
    return body


def _stays(headers: Mapping[str, str]) -> bool:
    return headers.get("x-should-retry", "").strip().lower() == "false"


_ERROR_MEMBERS = ("errors", "fault", "err")
"""Members with the error of a body without `error` and text: `errors` of ModelScope and GraphQL, `fault` of Apigee."""
_STATUS_FIELDS = ("code", "status_code", "statusCode", "status", "http_code", "http_status")
"""Fields of an error inside a response of status 200 that may have its HTTP status."""
_PHRASES = frozenset(
    (
        *(status.phrase.lower() for status in HTTPStatus),
        # names of the other versions of Python
        *("content too large", "request entity too large", "unprocessable content", "unprocessable entity"),
    )
)
"""Names of HTTP statuses, which say less of an error than the text beside them."""


def read_error_object(content: Any, status: int | None, headers: Mapping[str, str]) -> UpstreamFault:
    """Return the content of a decoded error of any provider. Never raises. `content` is the decoded error body, or the
    value of its field `error`.
    """
    while isinstance(content, list) and content:
        content = content[0]
    outer = content if isinstance(content, dict) else {}
    inner: Any = _open_error(outer)
    if inner is None:
        inner = content
    elif text := _read_beside(inner, outer):
        stated = inner if isinstance(inner, dict) else {"code": outer.get("code"), "type": _code(inner)}
        inner = {**stated, "message": text}
    if inner is outer and not _message_value(outer):
        inner = next((outer[name] for name in _ERROR_MEMBERS if is_error_stated(outer.get(name))), content)
        while isinstance(inner, list) and inner:
            inner = inner[0]
    error = inner if isinstance(inner, dict) else {"message": inner, "code": outer.get("code")}
    if isinstance(base := error.get("base_resp"), dict):
        code = _integer(base.get("status_code")) or 0
        error = {"message": base.get("status_msg"), "code": "content_filter" if code in _FILTERED_CODES else code}
        status = _BASE_STATUSES.get(code, status)
    if status in (None, 200):
        numbers = (_status(one.get(name)) for one in (error, outer) for name in _STATUS_FIELDS)
        status = next((number for number in numbers if number), None)
    if (failure := _find_unreadable_output(error, status)) is not None:
        # All other fields may contain what the model wrote, which must not decide which failure this is.
        delay = find_retry_delay(headers, None, "")
        return UpstreamFault(
            status=status,
            message=failure,
            retry_after=delay,
            is_permanent=_stays(headers),
            is_unreadable_output=True,
            without_texts=UpstreamFault(status=status, retry_after=delay),
        )
    nested = _find_nested_errors(error)
    if isinstance(metadata := error.get("metadata"), dict) and isinstance(sent := metadata.get("headers"), dict):
        # OpenRouter: headers of the server behind it
        headers = {name.lower(): value for name, value in sent.items() if isinstance(value, str)} | dict(headers)
    named = next((name for one in (error, *nested) if (name := _string(one.get("param")))), None)
    message = _text_of(error, nested)
    if named is not None and " " in named.strip():  # Xiaomi sends the reason in `param` (2026-05)
        message = f"{message}: {named}"
        named = None
    message = message[:_MESSAGE_CHARACTERS]
    aws_name = _read_aws_name(headers.get("x-amzn-errortype") or outer.get("__type"))
    without_texts = UpstreamFault(
        status=status,
        codes=_collect_codes((error, *_find_nested_errors(error, reads_texts=False)), aws_name),
        retry_after=find_retry_delay(headers, error.get("details"), ""),
        has_used_up_limit=has_used_up_limit(headers),
    )
    return UpstreamFault(
        status=status,
        message=redact_key_patterns(message),
        codes=_collect_codes((error, *nested), aws_name),
        parameter=(named or find_parameter_in_message(message) or "")[:_MAX_CODE_CHARACTERS] or None,
        retry_after=find_retry_delay(headers, error.get("details"), message),
        is_permanent=_stays(headers),
        input_tokens=_integer(error.get("n_prompt_tokens")),
        context_window=_integer(error.get("n_ctx")),
        failed_generation=_string(error.get("failed_generation")),
        is_content_filtered=bool(outer.get("contentFilter") or error.get("contentFilter")),
        without_texts=without_texts,
    )


def _open_error(content: dict[str, Any]) -> Any:
    """Return the value of `error`, of the innermost one that has only another one. None: no error is stated."""
    found = None
    for _ in range(_MAX_DEPTH):
        if not is_error_stated(content.get("error")):
            break
        found = content["error"]
        if not isinstance(found, dict) or _message_value(found):
            break
        content = found
    return found


def _read_beside(stated: Any, outer: dict[str, Any]) -> str:
    """Return the message of an error whose text stands beside the field `error` (Fastify, NestJS, Spring, OAuth). What
    `error` has is kept if it says something too. "": the message is in `error`.
    """
    text = _message_value(stated) if isinstance(stated, dict) else stated
    beside = _message_value(outer)
    beside = _words_of_faults(beside) if isinstance(beside, list) else beside
    if not isinstance(beside, str) or _says_something(text) > _says_something(beside):
        return ""
    if _says_something(beside) > _says_something(text) or not isinstance(text, str) or text in beside:
        return beside
    return f"{text}: {beside}" if isinstance(stated, str) and beside else ""


def _says_something(value: Any) -> bool:
    """Return False for a text without a sentence, such as a code or the name of a status, and for true and a number."""
    if not isinstance(value, str):
        return isinstance(value, dict | list)
    return " " in value.strip() and value.strip(" .").lower() not in _PHRASES


_ERROR_NAME = compile_later(r"(?:error|failed|failure)\Z", re.IGNORECASE)
_NO_ERROR = (b"null", b"false", b"{}", b'""', b"[]", b"0")


def read_error_field(field: Raw, data: Raw | bytes = b"") -> UpstreamFault | None:
    """Return the error in the field `error` of a reply. None: it states none. `data`: the frame or body of the field,
    which may have the text of the error beside it.
    """
    if field is ABSENT or bytes(field) in _NO_ERROR:
        return None
    value = decode_repaired(field)
    if not is_error_stated(value):
        return None
    frame = decode_repaired(data)
    frames = frame if isinstance(frame, list) else [frame]
    outer = next((one for one in frames if isinstance(one, dict) and one.get("error") == value), {})
    return read_error_object(outer | {"error": value}, 200, {})


def is_error_stated(value: Any) -> bool:
    """Return True if the value of a field `error` states one. Servers that write each field of a struct send null,
    false, 0, an empty text, or an object of these.
    """
    return bool(any(value.values()) if isinstance(value, dict) else value)


def states_error(content: Any) -> bool:
    """Return True if the decoded JSON of an event without a field of a reply says that it is an error. Without that,
    its text may be the state of a request: `{"detail": "waiting in queue"}`.
    """
    while isinstance(content, list) and content:
        content = content[0]
    if not isinstance(content, dict):
        return False
    names = (content.get(name) for name in ("type", "object", "code", "status"))
    if content.get("success") is False or any(_ERROR_NAME.search(name) for name in names if isinstance(name, str)):
        return True
    if any(is_error_stated(content.get(name)) for name in ("error", *_ERROR_MEMBERS)):
        return True
    base = content.get("base_resp")
    if isinstance(base, dict) and base.get("status_code"):
        return True
    return any(_status(content.get(name)) is not None for name in _STATUS_FIELDS)


def find_bare_error(data: bytes) -> UpstreamFault | None:
    """Return the error in a body or event of status 200 that has no field of a reply. None: it has no text.

    Servers send `error`, or only the fields of an error object: FastAPI `detail` (saberjack/SHTUCodeProxy issue 4),
    MiniMax `base_resp` (platform.minimax.io/docs/api-reference/errorcode.md), Z.ai `msg` and `success`, vLLM before
    0.10 `message` (serving_engine.py; read 2026-11). Others send a text or a page in place of JSON.
    """
    return read_bare_error(decode_error(data))


_JSON_BEGIN = compile_anchored(r"\s*+(?:\{\s*+(?:[\"'}]|\Z)|\[\s*+(?:[\[{\"'\]]|[\d.,\s+-]*+\]?\s*+\Z))")
_MAX_DAMAGED_CHARACTERS = 8_192
"""Number of characters of damaged JSON that are searched for an error. They take some 10 ms at most."""
_PIECE = compile_later(r'"[^"\\]*+(?:\\.[^"\\]*+)*(?P<end>"?)|[{}\[\],]', re.DOTALL)
"""A string of JSON, whose end may be missing, or a character between values."""
_PYTHON_VALUE = compile_later(
    r"""(?P<json>"[^"\\]*+(?:\\.[^"\\]*+)*"?)|'(?P<text>[^'\\]*+(?:\\.[^'\\]*+)*)'?|\b(?P<word>True|False|None)\b""",
    re.DOTALL,
)
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


def begins_as_json(text: str) -> bool:
    """Return False for a text without an object or a list at its beginning, such as `[ERROR] …`."""
    return _JSON_BEGIN.match(text) is not None


def decode_error(data: bytes) -> Any:
    """`decode_repaired` for what may be an error: also for an object whose end is missing, or that Python has printed
    (`{'error': …}`), and for one before other text.
    """
    content = decode_repaired(data)
    decoded = _decode_damaged(content) if isinstance(content, str) else None
    return content if decoded is None else decoded


def _decode_damaged(text: str) -> Any:
    """Return the object or list at the beginning of a text that is no JSON. None: there is none."""
    if not begins_as_json(text):
        return None
    text = text[:_MAX_DAMAGED_CHARACTERS]
    for converted in (text, _PYTHON_VALUE.sub(_convert_python_value, text)):
        rest = converted
        for _ in range(2):  # whole, and without a member that is cut
            closed, rest = _close(rest)
            with suppress(msgspec.DecodeError, UnicodeError, RecursionError):
                return msgspec.json.decode(closed)
    return None


def _convert_python_value(found: re.Match[str]) -> str:
    if (text := found["text"]) is not None:
        escaped = text.replace("\\\\", "\0").replace("\\'", "'").replace('"', '\\"').replace("\0", "\\\\")
        return f'"{escaped}"'
    return found["json"] or _PYTHON_WORDS[found["word"]]


def _close(text: str) -> tuple[str, str]:
    """Return the first value of a text with the missing ends, and the text before the last member."""
    closers: list[str] = []
    ending, last = "", 0
    for piece in _PIECE.finditer(text):
        mark = piece[0][0]
        if mark == '"':
            ending = "" if piece["end"] else mark
        elif mark in "{[":
            closers.append("}" if mark == "{" else "]")
            last = piece.end()
        elif mark == ",":
            last = piece.start()
        elif closers:
            closers.pop()
            if not closers:
                return text[: piece.end()], text[:last]
    return text + ending + "".join(reversed(closers)), text[:last]


def read_bare_error(content: Any) -> UpstreamFault | None:
    """`find_bare_error` for decoded JSON. A text is not JSON, or a JSON string."""
    if isinstance(content, str):
        return _read_text(content)
    while isinstance(content, list) and content:
        content = content[0]
    if (
        not content or not isinstance(content, dict) or isinstance(content.get("message"), dict)
    ):  # Ollama's replies have a message
        return None
    if content.get("object") not in (None, "error"):  # a part of a reply
        return None
    base = content.get("base_resp")
    if isinstance(base, dict) and not base.get("status_code"):
        return None
    fault = read_error_object(content, 200, {})
    return fault if fault.message or fault.is_unreadable_output else None


_EVENT = compile_anchored(r"\s*+(?:event|data|id|retry)?:")


def _read_text(text: str) -> UpstreamFault | None:
    if not text.strip() or begins_as_json(text) or _EVENT.match(text):  # damaged JSON, or events in place of a body
        return None
    message, status = describe_text(text)
    return read_error_object({"error": {"message": message, "code": status}}, 200, {}) if message else None


def describe_text(text: str) -> tuple[str, int]:
    """Return the message and the status of a text in place of a reply. Of a page, the title or the text counts, and a
    status in it.
    """
    text, status = text[:_MESSAGE_CHARACTERS], _BAD_GATEWAY
    if text.lstrip()[:1] == "<":
        title = _TITLE.search(text)
        text = title[2] if title is not None else _TAG.sub(" ", text)
        if (stated := _SERVER_STATUS.search(text)) is not None:
            status = int(stated[0])
    return "".join(filter(str.isprintable, " ".join(text.split()))), status


def _find_nested_errors(error: dict[str, Any], *, reads_texts: bool = True) -> list[dict[str, Any]]:
    """Return the errors of other servers that a gateway puts into a field or into the message, the outer ones first.

    `reads_texts`: False leaves out those that are JSON in a text, which the client may have written.
    """
    nested = list[dict[str, Any]]()
    level = [error]
    for _ in range(_MAX_DEPTH):
        found = list[Any]()
        for one in level:
            metadata = one.get("metadata")
            raw = metadata.get("raw") if isinstance(metadata, dict) else None
            found += [one.get("innererror"), _message_value(one), raw, one.get("error") if one is not error else None]
        decoded = [
            _decode_object(value) if reads_texts and isinstance(value, str) and "{" in value else value
            for value in found
        ]
        level = [one for one in decoded if isinstance(one, dict)]
        nested += level
    return nested


def remove_wrappers(message: str) -> str:
    """Return an error message from the beginning of that of the server behind a gateway.

    Only what the gateway has written before it is removed: what follows may quote text of the client.
    """
    wrapped = _WRAPPED.match(message, 0, _MESSAGE_CHARACTERS)
    return message[wrapped.end() :] if wrapped is not None else message


def _find_unreadable_output(error: dict[str, Any], status: int | None) -> str | None:
    """Return the message of a server that could not parse the output of its model, without this output.

    None: it is another error. The texts of an error and of all errors inside it are searched. After a 4xx status, only
    messages without an error code or parameter are searched, because other texts may be quoted from the request.
    """
    is_rejection = status is not None and 400 <= status < 500
    values: list[Any] = [error]
    for _ in range(_MAX_VALUES):
        if not values:
            break
        value = values.pop()
        if isinstance(value, str):
            if (quoting := _QUOTING.match(value, 0, _MESSAGE_CHARACTERS)) is not None:
                return quoting["failure"]
            if "{" in value and (not is_rejection or value.lstrip()[:1] == "{"):
                values.append(_decode_object(value))
        elif isinstance(value, list):
            values += value
        elif isinstance(value, dict) and not is_rejection:
            values += value.values()
        elif isinstance(value, dict):
            names_parameter = _string(value.get("param")) is not None
            if not names_parameter and all(_status(code) is not None for code in _codes_of(value)):
                values += [value.get(field) for field in _FIELDS_WITH_MESSAGES]
    return None


def _decode_object(text: str) -> Any:
    start = text.find("{")
    try:
        return msgspec.json.decode(text[start : text.rfind("}") + 1])
    except (msgspec.DecodeError, RecursionError):
        return None


def _text_of(error: dict[str, Any], nested: list[dict[str, Any]]) -> str:
    value = _message_value(error)
    if isinstance(value, dict):
        value = _message_value(value) or value
    if isinstance(value, str):
        text = value
    else:  # validation errors of a web framework: `[{"loc": ["body", "seed"], "msg": …}]` becomes `seed: …`
        words = _words_of_faults(value) if isinstance(value, list) else ""
        text = words or msgspec.json.encode(value).decode()
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    # the text of an error behind a gateway may be the value of `error` (xAI)
    texts = (text for one in reversed(nested) for text in (_message_value(one), one.get("error")))
    inner = next((text for text in texts if isinstance(text, str) and text and "{" not in text[:1]), "")
    if isinstance(details := error.get("details"), list) and (words := _words_of_faults(details)):  # Azure
        text = f"{text}: {words}"
    if isinstance(raw, str) and raw:  # OpenRouter sends the cause in `metadata.raw`
        return f"{text}: {inner if inner and raw.lstrip()[:1] == '{' else raw}"
    return f"{text}: {inner}" if isinstance(raw, dict) and inner else text


def _message_value(error: dict[str, Any]) -> Any:
    values = [value for name in _MESSAGE_FIELDS if (value := error.get(name))]
    return next(filter(_says_something, values), values[0] if values else "")


def _words_of_faults(value: list[Any]) -> str:
    found = value[:_MAX_ENTRIES]
    if all(isinstance(one, str) for one in found):
        return "; ".join(found)
    faults = [one for one in found if isinstance(one, dict) and isinstance(one.get("msg"), str)]
    if len(faults) < len(found):
        return ""
    texts = []
    for one in faults:
        path = one.get("loc")
        steps = [str(step) for step in path] if isinstance(path, list) else []
        place = ".".join(steps[1:] if steps[:1] == ["body"] else steps)
        texts.append(f"{place}: {one['msg']}" if place and one["msg"] else place or one["msg"])
    return "; ".join(texts)


def _collect_codes(errors: Iterable[dict[str, Any]], aws_name: Sequence[str]) -> frozenset[str]:
    codes = (code for one in errors for code in _codes_of(one))
    return frozenset(code[:_MAX_CODE_CHARACTERS] for code in (*codes, *aws_name))


def _codes_of(error: dict[str, Any]) -> list[str]:
    codes = [error.get("code"), error.get("type"), error.get("status"), error.get("reason")]  # Novita: `reason`
    if (number := _integer(error.get("code"))) is not None and number >= 1_000:
        codes.append(str(number))  # Z.ai, MiniMax
    inner = error.get("innererror")
    if isinstance(inner, dict):
        codes.append(inner.get("code"))  # Azure
    details = error.get("details")
    if isinstance(details, list):
        objects = [detail for detail in details[:_MAX_ENTRIES] if isinstance(detail, dict)]
        codes += [detail.get("reason") for detail in objects]  # Google
        for detail in objects:
            violations = detail.get("violations")
            if isinstance(violations, list):
                codes += [one.get("quotaId") for one in violations[:_MAX_ENTRIES] if isinstance(one, dict)]
    return [code for code in codes if isinstance(code, str) and code]


def _read_aws_name(value: Any) -> list[str]:
    """Return the name of an error of AWS, which may stand before `:http://…` or after `com.amazon…#`. []: no name."""
    name = value.partition(":")[0].rpartition("#")[2].strip() if isinstance(value, str) else ""
    return [name] if name else []


def _code(value: Any) -> str | None:
    return value if isinstance(value, str) and " " not in value else None


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _status(value: Any) -> int | None:
    number = int(value) if isinstance(value, str) and len(value) == 3 and value.isdecimal() else _integer(value)
    return number if number is not None and 400 <= number < 600 else None


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


_NAME = r"[`'\"](?P<{}>[\w.\[\]]{{1,200}})[`'\"]"
_PATH = r"(?<![\w.\[\]])(?P<{}>[\w.\[\]]{{1,200}})"
"""Pattern of a parameter path such as `tools[0].name`. It begins at the start of a word, which limits the search
time."""
_PARAMETERS = compile_later(
    r"(?:unsupported|unknown|unrecognized|invalid) (?:parameter|name|request argument supplied|field)s?:? "
    rf"{_NAME.format('named')}"
    rf"|{_NAME.format('quoted')} (?:is|are) not supported"
    r"|does not support (?:the )?(?:parameter )?[`'\"]?(?P<unknown>\w+(?:\.\w+)*)[`'\"]?(?: parameter)?(?:[.,;]|$)"
    r"|only 1 is allowed for (?P<fixed>temperature)|invalid (?P<held>\w+): only\b"
    rf"|{_PATH.format('extra')}: extra (?:inputs|fields)"
    r"|extra_forbidden['\"], *['\"]loc['\"]: *[\[(]['\"]body['\"], *(?P<place>[^\])]{1,300})"
    rf"|{_PATH.format('variant')}: unknown variant"
    rf"|property {_NAME.format('property')} is unsupported"
    r"|(?<![\w.\[\]])(?P<schema>tools[.\[][\w.\[\]]{1,200}): property\b"
    r"|\b(?P<bare>\w{1,200})[`'\"]? is not supported with this model"
    r"|(?P<limit>max_(?:completion_)?tokens)\W{1,2}(?:must be|is too large|exceeds|value\b|\(\d+\) exceeds)"
    r"|\b(?P<thinking>think) value .{1,80} is not supported"  # Ollama, also at /v1
    r"|(?P<choice>tool_choice) '\w+' is incompatible"
    r"|(?P<definition>invalid (?:json )?schema for (?:function|tool)\b"
    r"|fail\w* to (?:parse|compile|convert|build) (?:the )?grammar|(?:parsing|invalid) grammar\b"  # llama.cpp, vLLM
    r"|json schema conversion failed|unable to generate parser\b|number of repetitions exceeds"  # llama.cpp
    r"|schema contains features not supported|unsupported json schema"  # vLLM
    r"|\bnot a valid (?:[\w-]{1,40} ){0,3}json schema)",  # Moonshot, also behind gateways
    re.IGNORECASE,
)
_STEP = compile_later(r"[\w-]+")


def find_parameter_in_message(message: str) -> str | None:
    """Return the name or path of the request parameter that an error message rejects. None: no parameter is found."""
    match = _PARAMETERS.search(message)
    if match is None:
        return None
    if place := match["place"]:  # as Python or JSON writes a list: `'tools', 0, 'strict'`
        return ".".join(_STEP.findall(place))
    return "tools.parameters" if match["definition"] else next(name for name in match.groups() if name)


MAX_DELAY_SECONDS = 3_600
"""Maximum retry delay in seconds. A longer delay is reduced to this value."""

_MIN_EPOCH_SECONDS = 1_000_000_000
"""Smallest number in a header that is a time since 1970, and not a duration: September 2001."""
_DURATION = compile_anchored(
    r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?"
)
_AMOUNT = (
    r"\d{1,9}(?:\.\d{1,9})? ?(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)?(?![a-z])"
)
_AGAIN = compile_later(
    r"(?:try again|retry|resets?|renews?|available(?: again)?|wait)(?: again)? (?:in|after|for) (?:about |another )?"
    rf"((?:{_AMOUNT}(?:, | and | )?){{1,4}})",
    re.IGNORECASE,
)
_AMOUNTS = compile_later(r"(\d+(?:\.\d+)?) ?([a-z]*)", re.IGNORECASE)
_UNITS = (("ms", 0.001), ("mil", 0.001), ("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400), ("", 1))
"""Rows: beginning of the name of a time unit, its length in seconds. The first matching row counts."""
_RESET = compile_later(
    r"\breset\w*(?: \w+){0,3}:? (\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(?::\d{2})?(?:\.\d{1,9})?) ?"
    r"(Z|UTC|GMT|[+-]\d{2}:?\d{2})(?!\w)",
    re.IGNORECASE,
)
"""Pattern of a reset time with a time zone. A time without a zone (Z.ai) is not read, because it may be wrong by
hours."""


_LIMIT_HEADER = compile_later(r"rate-?limit")
_NOTHING_LEFT = compile_anchored(r"-?0+(?:\.0+)?|-\d{1,20}(?:\.\d{1,20})?")
_NO_REST = compile_later(r"(?:^|[;, ])(?:r|remaining)=0(?![\d.])")


def has_used_up_limit(headers: Mapping[str, str]) -> bool:
    """Return True if nothing is left of a rate limit: `anthropic-ratelimit-tokens-remaining: 0` (Anthropic),
    `x-ratelimit-remaining-requests: 0` (OpenAI, Groq, Azure), `ratelimit: "minute";r=0` (IETF draft; read 2026-11).
    """
    return any(
        _NOTHING_LEFT.fullmatch(value.strip()) if "remaining" in name else _NO_REST.search(value)
        for name, value in headers.items()
        if _LIMIT_HEADER.search(name)
    )


def find_retry_delay(headers: Mapping[str, str], details: Any, message: str) -> float | None:
    """Return whole seconds up to `MAX_DELAY_SECONDS`. None: not reported. `details`: Google's place for the delay."""
    seconds = _find_seconds(headers, details, message)
    if seconds is None:
        return None
    return float(math.ceil(min(max(seconds, 1), MAX_DELAY_SECONDS)))  # `min` before `ceil`: seconds may be infinite


def _read_date(text: str) -> Any:
    """Return the `datetime` in a header. Raises `ValueError`, `TypeError` or `OverflowError` for another text."""
    from email.utils import parsedate_to_datetime  # noqa: PLC0415  # loads 14 modules, for errors only

    return parsedate_to_datetime(text)


def _find_seconds(headers: Mapping[str, str], details: Any, message: str) -> float | None:
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    if (after := headers.get("retry-after")) is not None:
        seconds = _number(after)
        if seconds is None:  # a date; the header `date` is used because the clock of the proxy may differ
            with suppress(ValueError, TypeError, OverflowError):
                seconds = (_read_date(after) - _read_date(headers.get("date", ""))).total_seconds()
        if seconds is not None:
            return seconds
    objects = [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    delay = next((one["retryDelay"] for one in objects if isinstance(one.get("retryDelay"), str)), None)
    if delay is not None and (seconds := _duration(delay)) is not None:  # Google's `RetryInfo`
        return seconds
    if (match := _AGAIN.search(message)) is not None:
        return sum(
            float(number) * next(factor for beginning, factor in _UNITS if unit.lower().startswith(beginning))
            for number, unit in _AMOUNTS.findall(match[1])
        )
    if (match := _RESET.search(message)) is not None and (now := headers.get("date")) is not None:
        zone = "+00:00" if match[2].upper() in ("Z", "UTC", "GMT") else match[2]
        with suppress(ValueError, TypeError, OverflowError):
            moment = _read_date(now)
            return float((moment.fromisoformat(match[1] + zone) - moment).total_seconds())
    resets = [
        _seconds_until(reset, headers.get("date", ""))
        for what in ("", "-requests", "-tokens")
        if (reset := headers.get(f"x-ratelimit-reset{what}"))
        and headers.get(f"x-ratelimit-remaining{what}", "0") == "0"
    ]
    return max((reset for reset in resets if reset is not None), default=None)


def _seconds_until(reset: str, now: str) -> float | None:
    """Return the seconds until a limit ends. None: the text is no time, or the present time is unknown.

    `reset` is a duration, a number of seconds or milliseconds since 1970, or an ISO time.
    """
    seconds = _duration(reset)
    if seconds is not None and seconds < _MIN_EPOCH_SECONDS:
        return seconds
    with suppress(ValueError, TypeError, OverflowError):
        moment = _read_date(now)
        if seconds is not None:
            return seconds / (1000 if seconds >= _MIN_EPOCH_SECONDS * 1000 else 1) - float(moment.timestamp())
        return float((moment.fromisoformat(reset.strip()) - moment).total_seconds())
    return None


def _duration(text: str) -> float | None:
    """Return the seconds of a duration such as `1m2.5s`, `12s`, `250ms` or `12`. None: the text is no duration."""
    seconds = _number(text)
    if seconds is not None:
        return seconds
    if not text.strip() or (match := _DURATION.fullmatch(text.strip())) is None:
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
