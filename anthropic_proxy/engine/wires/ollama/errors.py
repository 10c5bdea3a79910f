"""Errors of Ollama: what the client receives, with advice for the user, and the change that avoids a rejected `think`.

The advice is a command or setting, such as `ollama pull` for a model that is not installed. A fault is a decoded error
of the server.
"""

import re
from collections.abc import Mapping
from contextlib import suppress

import msgspec
from msgspec import structs

from anthropic_proxy.engine.messages.deltas import Delta, Usage
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.contract import DecodedError
from anthropic_proxy.engine.wires.dialect import (
    EFFORT_VALUES,
    SAMPLING_VALUES,
    UNOPENED_REASONING,
    Adaptation,
    RequestPart,
)
from anthropic_proxy.engine.wires.failures import (
    PARAMETER_ERROR_STATUSES,
    KnownTokenCounts,
    UpstreamFault,
    build_upstream_error,
    decode_error_body,
    find_reply_end,
    has_own_words,
    read_error_object,
    read_own_words,
)
from anthropic_proxy.engine.wires.ollama.dialect import Dialect, resolve_context_window
from anthropic_proxy.engine.wires.past_media import OMIT_PAST_MEDIA
from anthropic_proxy.engine.wires.tool_call_repair import read_unopened_reasoning
from anthropic_proxy.errors import UpstreamError

_NOT_PULLED = compile_later(r"model [\"'`]?(?:(?!model (?!not found))[^\"'`])*[\"'`]? not found", re.IGNORECASE)
_NO_THINKING = compile_later(
    r"does not support thinking|invalid think|\bthink must be|ChatRequest\.think\b"
    r"|\bthink value .{1,80} is not supported",
    re.IGNORECASE,
)
_NO_TOOLS = compile_later(r"does not support tools", re.IGNORECASE)
_OUT_OF_MEMORY = compile_later(r"requires more system memory|out of memory|cudaMalloc failed", re.IGNORECASE)
_BUSY = compile_later(r"server busy", re.IGNORECASE)


def decode_error(call: TranslatedCall[Dialect], status: int, headers: Mapping[str, str], body: bytes) -> DecodedError:
    fault = read_fault(decode_error_body(status, headers, body), call, may_postpone=True)
    if (reply := decode_reply_end(fault, call)) is not None:
        return reply
    error = classify_fault(fault, call)
    if error.status == 401:
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if address := msgspec.json.decode(body, type=_SignIn).signin_url:
                error.message += f". Sign in with `ollama signin`, or at {address}"
    return error


class _SignIn(msgspec.Struct):
    signin_url: str = ""


def decode_reply_end(
    fault: UpstreamFault, call: TranslatedCall[Dialect], *, has_content: bool = False
) -> list[Delta] | None:
    """Return the reply that an error stands for, such as a refusal. `has_content`: content arrived before it."""
    end = find_reply_end(fault, call.provider_prefix, has_content=has_content)
    if end is None:
        return None
    # the tokens of a reply that filled the window are estimated, because the server does not count them
    return [end] if end.reason == "model_context_window_exceeded" else [Usage(output_tokens=0), end]


def classify_fault(fault: UpstreamFault, call: TranslatedCall[Dialect]) -> UpstreamError:
    message = fault.message
    if _BUSY.search(message):
        fault = structs.replace(fault, codes=fault.codes | {"overloaded_error"})
    known = KnownTokenCounts(resolve_context_window(call), call.estimate_input_tokens, call.request.max_tokens)
    error = build_upstream_error(fault, call.provider_prefix, known)
    if error.status == 404 and message in ("", "404 page not found"):
        error.message = (
            f"{call.provider_prefix} returned HTTP 404: there is no /api/chat. "
            "The address must be Ollama's own, without a path such as /v1"
        )
    elif error.status == 404 and _NOT_PULLED.search(message):
        error.message = f"{call.provider_prefix}: model '{call.model}' not found. Get it with: ollama pull {call.model}"
    elif _NO_THINKING.search(message):
        error.parameter = "think"
    elif _NO_TOOLS.search(message):
        error.parameter = "tools"
        error.message += ". Choose a model that supports them: https://ollama.com/search?c=tools"
    elif _OUT_OF_MEMORY.search(message):
        error.message += ". A smaller OLLAMA_CONTEXT_LENGTH needs less, and so does a smaller model"
    return error


def read_fault(fault: UpstreamFault, call: TranslatedCall[Dialect], *, may_postpone: bool = False) -> UpstreamFault:
    """`read_own_words` for an error that may have the one of Ollama's engine in its text."""
    own = read_own_words(fault, call, may_postpone=may_postpone)
    inner, whole = _unwrap(own), _unwrap(fault)
    if own is fault or inner is own:
        return inner
    return structs.replace(inner, told=whole.message) if has_own_words(inner.message) else whole


def _unwrap(fault: UpstreamFault) -> UpstreamFault:
    """Return the error of Ollama's engine, which Ollama puts as JSON text into its own error message."""
    start = fault.message.find("{")
    if start < 0:
        return fault
    try:
        content = msgspec.json.decode(fault.message[start:].partition("\n")[0])
    except (msgspec.DecodeError, RecursionError):
        return fault
    inner = read_error_object(content, fault.status, {}) if isinstance(content, dict) else fault
    if not inner.message:
        return fault
    return structs.replace(inner, retry_after=fault.retry_after, without_texts=fault.without_texts)


_DROP, _SWITCH, _NO_SAMPLING = "drop think", "switch think", "drop sampling"
PARTS = (
    RequestPart(name=_NO_SAMPLING, values=SAMPLING_VALUES),
    RequestPart(name=_DROP, values=EFFORT_VALUES),
    RequestPart(name=OMIT_PAST_MEDIA, changes_prefix=True, is_content=True, is_last=True),
)


def find_adaptation(call: TranslatedCall[Dialect], error: UpstreamError) -> Adaptation | None:
    if error.status not in PARAMETER_ERROR_STATUSES or error.parameter != "think":
        return None
    # a server that knows booleans only, or fewer levels, rejects the value; else the model does not think at all
    levels = call.dialect.think_form in ("level", "only_level")
    name = _SWITCH if levels and "does not support thinking" not in error.provider_text else _DROP
    return None if apply_adaptation(call.dialect, name) == call.dialect else Adaptation(name)


def apply_adaptation(dialect: Dialect, name: str) -> Dialect:
    if name == _SWITCH:
        return structs.replace(dialect, think_form="switch")
    if name == UNOPENED_REASONING:
        return structs.replace(dialect, thinking_tags=read_unopened_reasoning(dialect.thinking_tags))
    if name == OMIT_PAST_MEDIA:
        return structs.replace(dialect, omits_past_media=True)
    if name == _NO_SAMPLING:
        return structs.replace(dialect, sends_sampling=False)
    return structs.replace(dialect, think_form="never") if name == _DROP else dialect
