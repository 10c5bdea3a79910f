"""What Ollama says went wrong → our errors, with what the reader can do about it."""

import re
from collections.abc import Mapping

import msgspec
from msgspec import structs

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.messages.deltas import Delta
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.failures import Fault, decode_fault, judge, read_fault
from anthropic_proxy.wire.ollama.window import window_of

_NOT_PULLED = re.compile(r"model [\"'`]?[^\"'`]*[\"'`]? not found", re.IGNORECASE)
_NO_THINKING = re.compile(
    r"does not support thinking|invalid think|\bthink must be|ChatRequest\.think\b", re.IGNORECASE
)
_NO_TOOLS = re.compile(r"does not support tools", re.IGNORECASE)
_NO_ROOM = re.compile(r"requires more system memory|out of memory|cudaMalloc failed", re.IGNORECASE)
_BUSY = re.compile(r"server busy", re.IGNORECASE)


class _SignIn(msgspec.Struct):
    signin_url: str = ""


def decode_error(call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Exception | list[Delta]:
    """Read an answer whose status is not 2xx."""
    error = judge_fault(decode_fault(status, headers, body), call)
    if error.status == 401 and (address := _sign_in(body)):
        error.message += f". Sign in with `ollama signin`, or at {address}"
    return error


def judge_fault(fault: Fault, call: Call) -> UpstreamError:
    """Return the error that a fault is."""
    fault = _unwrapped(fault)
    said = fault.message
    if _BUSY.search(said):
        fault = structs.replace(fault, codes=fault.codes | {"overloaded_error"})
    error = judge(fault, call.provider, window=window_of(call), estimate=call.estimate, asked=call.request.max_tokens)
    if error.status == 404 and not said:
        error.message += ": there is no /api/chat. The address must be Ollama's own, without a path such as /v1"
    elif error.status == 404 and _NOT_PULLED.search(said):
        error.message = f"{call.provider}: model '{call.model}' not found. Get it with: ollama pull {call.model}"
    elif _NO_THINKING.search(said):
        error.parameter = "think"
    elif _NO_TOOLS.search(said):
        error.parameter = "tools"
        error.message += ". Choose a model that takes them: https://ollama.com/search?c=tools"
    elif _NO_ROOM.search(said):
        error.message += ". A smaller OLLAMA_CONTEXT_LENGTH needs less, and so does a smaller model"
    return error


def _unwrapped(fault: Fault) -> Fault:
    """Return the fault that the text of another holds: errors of the engine inside come as their JSON text."""
    start = fault.message.find("{")
    if start < 0:
        return fault
    try:
        content = msgspec.json.decode(fault.message[start:].partition("\n")[0])
    except (msgspec.DecodeError, RecursionError):
        return fault
    inner = read_fault(content, fault.status, {}) if isinstance(content, dict) else fault
    return structs.replace(inner, retry_after=fault.retry_after) if inner.message else fault


def _sign_in(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_SignIn).signin_url
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
