"""Errors of servers with the Messages API: what the client receives, and which change avoids a rejected message.

If the server has Anthropic's error format, the client receives the server's status and body, with API keys redacted.
"""

import re
from collections.abc import Mapping

from msgspec import structs

from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.wires.anthropic.betas import (
    apply_beta_adaptation,
    find_beta_adaptation,
    lacks_beta,
    select_betas,
)
from anthropic_proxy.engine.wires.anthropic.conversation import (
    find_open_loop,
    find_sent_thinking,
    has_system_messages,
    name_model,
)
from anthropic_proxy.engine.wires.anthropic.dialect import Dialect
from anthropic_proxy.engine.wires.anthropic.rejected_fields import (
    SAFEGUARDS,
    SUMMARY,
    find_rejected_field,
    names_rejected_field,
)
from anthropic_proxy.engine.wires.anthropic.request import encode_request
from anthropic_proxy.engine.wires.anthropic.stream import keep_error_body
from anthropic_proxy.engine.wires.calls import RelayCall
from anthropic_proxy.engine.wires.contract import DecodedError, changes_request
from anthropic_proxy.engine.wires.dialect import SAMPLING_VALUES, SYSTEM_REMINDER, Adaptation, RequestPart
from anthropic_proxy.engine.wires.failures import (
    PARAMETER_ERROR_STATUSES,
    KnownTokenCounts,
    build_upstream_error,
    decode_error_body,
    read_own_words,
    remove_wrappers,
)
from anthropic_proxy.engine.wires.json_schema import BASIC_RULES
from anthropic_proxy.engine.wires.past_media import OMIT_PAST_MEDIA
from anthropic_proxy.errors import UpstreamError

_PAST_THINKING_REFUSED = compile_later(
    r"^(?=.*\bsignature\b)(?=.*\bthinking\b)|\beach thinking block must contain thinking\b"
    r"|\bmessages\.\d+\b[^\n]{0,200}\b(?:redacted_)?thinking\b"
    r"|\b(?:redacted_)?thinking\b[^\n]{0,60}\bblocks?\b[^\n]{0,100}\b(?:cannot|can't|must|may not|should|invalid|not"
    r"|modified|unexpected|unsupported)\b"
    r"|\b(?:invalid|unexpected|unsupported|unknown)\b[^\n]{0,60}\b(?:redacted_)?thinking\b[^\n]{0,20}\bblocks?\b",
    re.IGNORECASE | re.MULTILINE,
)
"""Pattern of errors about thinking blocks of earlier replies: a signature or data that is not accepted, no text, blocks
that were changed or moved."""
_LATEST_REPLY = compile_later(r"\b(?:latest|last|final|previous|most recent)\b", re.IGNORECASE)
_ROLE_REFUSED = compile_later(
    r"['\"`]?user['\"`]?\s*(?:or|,|\||and|/)\s*['\"`]?assistant\b"
    r"|\bsystem\b.{0,20}\bmessages?\b.{0,60}\b(?:begin\w*|start\w*|first|top|initial|leading|before|multiple|one|once)\b"
    r"|\b(?:only|first|multiple|one)\b.{0,40}\bsystem\b.{0,20}\bmessages?\b|\broles?\b.{0,40}\balternat"
    r"|\brole\b.{0,80}\bsystem\b|\bsystem\b.{0,80}\brole\b",
    re.IGNORECASE | re.DOTALL,
)
"""Pattern of error messages about the role of a message: Ollama "unknown variant 'system', expected 'user' or
'assistant'", vLLM and mlx-vlm "Input should be 'user' or 'assistant'", LM Studio "Expected 'user' | 'assistant'",
Anthropic 'Unexpected role "system"', chat templates "System message must be at the beginning", "Conversation roles must
alternate user/assistant/…". Sources: ollama issues 16372 and 17774, vllm issues 44000 and 41114, lmstudio-bug-tracker
issue 2204."""
_DROP_THINKING, _REMIND, _BASIC_SCHEMAS = "drop thinking", "role user", "drop parameters"
_DROP_BLOCK, _DROP_REPLY = "thinking without the refused block", "thinking without the refused reply"
_DROP_NEWER = "thinking without its newer half"
_NO_THINKING = "thinking disabled"
_MIN_ADAPTATIONS_LEFT = 2
"""If a request has so few changes left, a refused signature removes all thinking. One change stays for other errors."""
_BLOCK = compile_later(r"\b(?P<reply>messages\.\d+\.content\.)\d+\b")
_THINKING_MISSING = compile_later(r"expected\W{0,3}thinking\b.{0,40}\bbut found\b", re.IGNORECASE)
"""Pattern of errors about a tool loop that does not begin with thinking (anomalyco/opencode issue 3077)."""
_THINKING_DEMANDED = compile_later(
    r"\b(?:content\[\]\.thinking|reasoning_content)\b.{0,80}\b(?:must be passed|is missing|is required)", re.IGNORECASE
)
"""Pattern of errors about replies with tool calls but without thinking (DeepSeek: SuperJJ007/CSSwitch issue 70; Kimi's
wording for `reasoning_content`)."""
_WITH_CALLS = "thinking with calls"
_DROP_FIELDS = "fields"
_MARKED_BLOCKS = (
    *(f"user.content.{block}" for block in ("text", "image", "document", "tool_result", "tool_result.content.text")),
    *(f"assistant.content.{block}" for block in ("text", "tool_use")),
    "system.content.text",
)
_CACHE_MARKS = (
    *("cache_control", "system.cache_control", "tools.cache_control"),
    *(f"messages.{block}.cache_control" for block in _MARKED_BLOCKS),
)
_FIELDS_OF_TOOLS = ("strict", "defer_loading", "eager_input_streaming")
PARTS = (
    RequestPart(name=f"{_DROP_FIELDS} temperature top_p top_k", values=SAMPLING_VALUES),
    RequestPart(name=f"{_DROP_FIELDS} metadata", is_lossless=True, values=("metadata",)),
    RequestPart(name=f"{_DROP_FIELDS} output_config.effort", values=("output_config.effort",)),
    RequestPart(name=f"{_DROP_FIELDS} thinking", values=("thinking",)),
    RequestPart(name=" ".join((_DROP_FIELDS, *_CACHE_MARKS)), changes_prefix=True, is_lossless=True),
    *(RequestPart(name=f"{_DROP_FIELDS} tools.{name}", changes_prefix=True) for name in _FIELDS_OF_TOOLS),
    RequestPart(name=_BASIC_SCHEMAS, changes_prefix=True, values=("tools",)),
    RequestPart(name=_REMIND, changes_prefix=True),
    RequestPart(
        name=f"{_DROP_FIELDS} messages.user.content.tool_result.content.tool_reference",
        changes_prefix=True,
        is_content=True,
    ),
    RequestPart(name=OMIT_PAST_MEDIA, changes_prefix=True, is_content=True, is_last=True),
    RequestPart(name=_DROP_THINKING, changes_prefix=True, is_content=True, is_last=True),
)
_PART_OF_SAFEGUARDS = compile_anchored(rf"{SAFEGUARDS}\.(?!\d+: Input tag 'dangerous_tool_use' found)")
_FIELD_STATUSES = (400, 422)
"""Statuses of errors about fields and betas. 422 is that of FastAPI."""
_OF_API = frozenset(
    (
        *(
            "cache_control",
            "compaction",
            "container",
            "context_management",
            "diagnostics",
            "fallbacks",
            "inference_geo",
        ),
        *("mcp_servers", "output_config", "output_format", "safeguards", "service_tier", "speed", "temperature"),
        *("top_k", "top_p", "messages", "system", "thinking", "tool_choice", "tools"),
    )
)
"""Fields of the API. A rejection of one of them, or of a field inside, is remembered. Other names are a client's own,
and would fill the memory."""
_MAX_INNER_FIELDS = 32
"""Maximum number of fields inside of others that are remembered for a model. A client can invent their names, and would
remove all that was learned before."""
_LAST_WORD, _FIRST_WORD = compile_later(r"\w*\W*\Z", re.ASCII, most=40), compile_later(r"\w*", re.ASCII)
_FIRST_WORDS = compile_anchored(r"\W*+[\w.]++\W++\w++", re.ASCII)
_MAX_END = 40
"""Number of characters at the end of a gateway's text that are compared with the request."""
_ASCII_ESCAPE = compile_later(r"\\u00([2-7][0-9a-f])")
_MAX_ESCAPES = 10_000
"""A request with more JSON escapes of ASCII characters, which no program writes, is not searched."""
_GAP = r"(?:\s|\\(?:[bfnrt]|u(?:00(?:0[9a-d]|1[c-f]|85|a0)|1680|20(?:0\d|0a|2[89f]|5f)|3000)|(?=[\"/])))*+"
"""Pattern of white space in JSON, and of the backslash before an escaped character."""


def decode_error(call: RelayCall[Dialect], status: int, headers: Mapping[str, str], body: bytes) -> DecodedError:
    known = KnownTokenCounts(call.effective_max_input_tokens, call.estimate_input_tokens)
    fault = read_own_words(decode_error_body(status, headers, body), call, may_postpone=True)
    error = build_upstream_error(fault, call.provider_prefix, known)
    if headers.get("x-should-retry") == "false":
        error.retryable = False
    drops_fields = status in _FIELD_STATUSES and call.dialect.drops_rejected_fields
    error.lacks_feature = drops_fields and names_rejected_field(remove_wrappers(error.provider_text))
    if call.dialect.has_anthropic_errors:
        error.status = status
        if status == 429 and error.cause is not None:
            error.should_retry = None  # the provider itself states when to retry
        keep_error_body(error, body)
    return error


def find_adaptation(call: RelayCall[Dialect], error: UpstreamError) -> Adaptation | None:
    if error.status == 400 and call.dialect.thinks and _THINKING_MISSING.search(error.provider_text):
        return Adaptation(_NO_THINKING, persistent=False, refused_thinking=find_open_loop(call))
    refuses_past = error.status == 400 and _PAST_THINKING_REFUSED.search(error.provider_text) is not None
    if (
        refuses_past
        and call.dialect.sends_past_thinking
        and (found := _find_refused_thinking(call, error.provider_text))
    ):
        return found
    demands_thinking = error.status in (400, 422) and _THINKING_DEMANDED.search(error.provider_text)
    if demands_thinking and changes_request(call, apply_adaptation(call.dialect, _WITH_CALLS), encode_request):
        return Adaptation(_WITH_CALLS)
    refuses_role = error.status in (400, 422, 500) and _ROLE_REFUSED.search(error.provider_text) is not None
    if refuses_role and call.dialect.accepts_system_messages and has_system_messages(call.body):
        return Adaptation(_REMIND)
    names_schema = "parameters" in (error.parameter or "").split(".") and not call.dialect.has_anthropic_errors
    names_schema = names_schema and error.status in PARAMETER_ERROR_STATUSES
    if names_schema and changes_request(call, apply_adaptation(call.dialect, _BASIC_SCHEMAS), encode_request):
        return Adaptation(_BASIC_SCHEMAS)
    if error.status in _FIELD_STATUSES:
        message = remove_wrappers(error.provider_text)
        if call.dialect.drops_rejected_fields:
            found = find_beta_adaptation(call, message) or _leave_out_rejected_field(call, message)
        else:
            found = _leave_out_safeguards(call, message)
        if found is not None and found.persistent and _may_quote_client(call, error, message):
            return structs.replace(found, persistent=False)
        return found
    return None


def _may_quote_client(call: RelayCall[Dialect], error: UpstreamError, message: str) -> bool:
    """Return True if the client can have written the beginning of `message`, which then teaches nothing.

    Example: an error that begins with the name of a field, `x error: Unexpected value(s) …`, reads like the error of a
    gateway.
    """
    words = _FIRST_WORDS.match(message)
    quotes = [words[0] if words is not None else message]
    if before := error.provider_text.removesuffix(message):
        last, first = _LAST_WORD.search(before[-_MAX_END:]), _FIRST_WORD.match(message)
        quotes += [last[0] + first[0]] if last is not None and first is not None else []
    text = encode_request(call).body.decode(errors="replace").lower()
    text = _ASCII_ESCAPE.sub(lambda escape: chr(int(escape[1], 16)).lower(), text, count=_MAX_ESCAPES)
    if _ASCII_ESCAPE.search(text) is not None:
        return True
    patterns = (_GAP.join(map(re.escape, "".join(quote.lower().split()))) for quote in quotes)
    return any(compile_later(pattern).search(text) is not None for pattern in patterns)


def _find_refused_thinking(call: RelayCall[Dialect], message: str) -> Adaptation | None:
    """Return the change that leaves out the thinking of the reply that the error names. None: the request has none.

    The API takes the thinking of a reply as a whole or not at all. Other replies may be right, so only those of the
    named one are remembered, and those with the same signature, which servers that sign nothing send. After too many
    rejections this request loses all thinking, and the next one has the blocks again that no error named.

    If the error names no reply, and not the latest one, the newer half is left out and remembered, until the rest is
    accepted: the server has accepted the older blocks in earlier turns, so those of another server are the newest.
    """
    found = find_sent_thinking(encode_request(call).body, name_model(call))
    named = _BLOCK.search(message)
    if not found:
        return None
    can_repeat = call.adaptations_left > _MIN_ADAPTATIONS_LEFT
    beginning = "" if named is None else named["reply"]
    if named is None and _LATEST_REPLY.search(message):
        beginning = f"{[*found][-1].rpartition('.')[0]}."
    reply = {path: block for path, block in found.items() if beginning and path.startswith(beginning)}
    if not reply:
        digests = tuple(block.digest for block in found.values())
        older = len(digests) // 2 if can_repeat else 0
        return Adaptation(_DROP_NEWER if older else _DROP_THINKING, persistent=False, refused_thinking=digests[older:])
    name = (_DROP_BLOCK if len(reply) == 1 else _DROP_REPLY) if can_repeat else _DROP_THINKING
    signature = None if named is None or named[0] not in found else found[named[0]].signature
    refused = tuple(
        block.digest
        for path, block in found.items()
        if path in reply or (signature is not None and block.signature == signature)
    )
    return Adaptation(name, persistent=False, refused_thinking=refused)


def _leave_out_rejected_field(call: RelayCall[Dialect], message: str) -> Adaptation | None:
    """Return the change that leaves out the field that the server has rejected. None: no such change."""
    field = find_rejected_field(encode_request(call).body, message)
    if field is None or field in call.dialect.dropped_fields:
        return None
    betas = select_betas(call)
    # other requests may have the beta that the field requires
    lasts = field.partition(".")[0] in _OF_API and not betas.held_back and not lacks_beta(field, betas.sent)
    if field == SAFEGUARDS and _PART_OF_SAFEGUARDS.match(message):
        lasts = False  # a client can invent parts of its own
    if "." in field:
        lasts = lasts and sum("." in name for name in call.dialect.dropped_fields) < _MAX_INNER_FIELDS
    return Adaptation(f"{_DROP_FIELDS} {field}", persistent=lasts, stored_if_rejected=field == SUMMARY)


def _leave_out_safeguards(call: RelayCall[Dialect], message: str) -> Adaptation | None:
    """Return the change after a rejection of auto mode's field or beta by a server whose client gets all other errors.

    The proxy answers the field itself, and the client would give its checks up.
    """
    dropping = structs.replace(call, dialect=structs.replace(call.dialect, drops_rejected_fields=True))
    found = find_beta_adaptation(dropping, message) or _leave_out_rejected_field(dropping, message)
    if found is None:
        return None
    _, *removed = found.name.split()
    return found if all(name == SAFEGUARDS or not lacks_beta(SAFEGUARDS, [name]) for name in removed) else None


def apply_adaptation(dialect: Dialect, name: str) -> Dialect:
    if name == _REMIND or (name == SYSTEM_REMINDER and not dialect.verifies_signatures):
        return structs.replace(dialect, accepts_system_messages=False)
    if name == _BASIC_SCHEMAS:
        return structs.replace(dialect, schema_rules=BASIC_RULES)
    if name == OMIT_PAST_MEDIA:
        return structs.replace(dialect, omits_past_media=True)
    if name == _DROP_THINKING:
        return structs.replace(dialect, sends_past_thinking=False)
    if name == _NO_THINKING:
        return structs.replace(dialect, thinks=False)
    if name == _WITH_CALLS:
        return structs.replace(dialect, requires_thinking_with_calls=True)
    verb, *names = name.split()
    if verb == _DROP_FIELDS:
        return structs.replace(dialect, dropped_fields=(*dialect.dropped_fields, *names))
    return apply_beta_adaptation(dialect, verb, names)
