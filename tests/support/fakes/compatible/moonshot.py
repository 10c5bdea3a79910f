"""Moonshot (Kimi). Sources: platform.kimi.ai/docs: api/chat, guide/use-kimi-k2-thinking-model, models, errors; recorded
moonshot/* (documentation examples); the words of refusals are those that users report.
"""

import re
from collections.abc import Iterator
from typing import Any

from messages_conformance.backends.openai.messages import decode_data_url
from tests.support.fakes.compatible.kinds import (
    Head,
    Kind,
    Model,
    ReplyWithReasoning,
    calls_of,
    check_as_openai,
    check_fields,
    message_of,
    parts_of,
    send_json,
)
from tests.support.fakes.model_scripts import Fault
from tests.support.fakes.openai_chat.failures import ErrorResponse
from tests.support.fakes.server import ContractViolation
from tests.support.schema_languages import find_faults_for_moonshot

_OWN = frozenset(("thinking", "reasoning_effort"))
_KNOWN = _OWN | frozenset(
    (
        *("model", "messages", "max_completion_tokens", "max_tokens", "temperature", "top_p", "stop", "n", "stream"),
        *("stream_options", "tools", "tool_choice", "parallel_tool_calls", "response_format", "presence_penalty"),
        *("frequency_penalty", "prompt_cache_key", "safety_identifier"),
    )
)
_OWN_IN_MESSAGES = frozenset(("reasoning_content", "partial"))
_FIXED = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "n")
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,63}")
_SWITCHES: dict[str, Any] = {"thinks": "unless_off", "pictures": True, "schemas": True}
_ALWAYS: dict[str, Any] = {"thinks": "always", "pictures": True, "schemas": True}
_MODELS = {
    "kimi-k2-instruct": Model(131_072, 131_072),
    "kimi-k2-base": Model(131_072, 131_072),
    "kimi-k2-thinking": Model(262_144, 131_072, thinks="always"),
    "kimi-k2.5": Model(262_144, 131_072, **_SWITCHES),
    "kimi-k2.6": Model(262_144, 131_072, **_SWITCHES),
    "kimi-k2.7-code": Model(262_144, 131_072, **_ALWAYS),
    "kimi-k3": Model(1_048_576, 1_048_576, ("low", "high", "max"), **_ALWAYS),
}
_KEEPING = ("kimi-k2.6", "kimi-k2.7-code", "kimi-k3")


def _check_thinking(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    thinking, effort = body.get("thinking"), body.get("reasoning_effort")
    if thinking is not None:
        if not isinstance(thinking, dict) or thinking.get("type") not in ("enabled", "disabled"):
            yield ContractViolation("thinking", "invalid thinking: type must be enabled or disabled", "thinking")
        elif model.thinks == "never" or (model.thinks == "always" and thinking["type"] == "disabled"):
            yield ContractViolation("thinking_model", "thinking cannot be set so for this model", "thinking")
        elif "keep" in thinking and body["model"] not in _KEEPING:
            yield ContractViolation("thinking_keep", "thinking.keep is not supported for this model", "thinking")
    if effort is not None and effort not in model.efforts:
        yield ContractViolation("effort", f"invalid reasoning_effort: {effort}", "reasoning_effort")
    if not _thinks(body, model):
        return
    choice = body.get("tool_choice")
    if not model.efforts and (choice == "required" or isinstance(choice, dict)):
        choice_name = "specified" if isinstance(choice, dict) else "required"
        yield ContractViolation(
            "choice", f"tool_choice '{choice_name}' is incompatible with thinking enabled", "tool_choice"
        )
    for position, message in enumerate(body["messages"]):
        if message.get("tool_calls") and not message.get("reasoning_content"):
            text = (
                "thinking is enabled but reasoning_content is missing in assistant tool call message at index "
                f"{position}"
            )
            yield ContractViolation("reasoning_missing", text, "messages")


def _check_tools(body: dict[str, Any]) -> Iterator[ContractViolation]:
    for position, tool in enumerate(body.get("tools") or ()):
        function = tool.get("function") or {}
        if not _NAME.fullmatch(str(function.get("name"))):
            text = (
                "Invalid request: function name is invalid, must start with a letter and can contain letters, "
                "numbers, underscores, and dashes"
            )
            yield ContractViolation("tool_name", text, f"tools[{position}]")
        for text in find_faults_for_moonshot(function.get("parameters")):
            message_text = f"tools.function.parameters is not a valid moonshot flavored json schema, details: <{text}>"
            yield ContractViolation("schema", message_text, f"tools[{position}]")
    if body["model"] in ("kimi-k2-instruct", "kimi-k2-base"):
        for number, (position, call) in enumerate(calls_of(body)):
            expected = f"functions.{call['function']['name']}:{number}"
            if call["id"] != expected:
                text = f"tool_call id at message {position} is {call['id']}, which the template reads as {expected}"
                yield ContractViolation("call_id", text, "messages")


def check(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    """Yield every rule that a request breaks."""
    shapes = list(check_fields(body, _KNOWN, "Invalid request: unknown field {}"))
    yield from shapes
    if shapes:
        return
    yield from _check_thinking(body, model)
    yield from _check_tools(body)
    fixed = [name for name in _FIXED if name in body] if model.thinks != "never" else []
    for name in fixed:
        yield ContractViolation("fixed", f"invalid {name}: only 1 is allowed for this model", name)
    if model.thinks == "never" and body.get("temperature", 0) > 1:
        yield ContractViolation("temperature", "invalid temperature: must be between 0 and 1", "temperature")
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        if not model.schemas:
            yield ContractViolation("format_model", "response_format json_schema is not supported", "response_format")
        for text in find_faults_for_moonshot(wanted["json_schema"].get("schema")):
            yield ContractViolation(
                "format_schema", f"response_format is not valid, details: <{text}>", "response_format"
            )
    for place, part in parts_of(body, "image_url"):
        if decode_data_url(part["image_url"]["url"]) is None:
            yield ContractViolation("image_url", f"unsupported image url: {part['image_url']['url']}", place)
    for place, _ in parts_of(body, "file"):
        yield ContractViolation("file", f"Invalid request: unsupported content type at {place}", place)
    for position, message in enumerate(body["messages"]):
        if message.get("partial") and position != len(body["messages"]) - 1:
            yield ContractViolation("partial", "partial is only allowed on the last message", f"messages[{position}]")
        if message.get("role") == "developer":
            yield ContractViolation("role", "Invalid request: unsupported role developer", f"messages[{position}]")
    for breach in check_as_openai(body, model, _OWN, _OWN_IN_MESSAGES):
        if breach.rule != "too_long":  # its own identifiers are as long as a name makes them
            yield breach


def _thinks(body: dict[str, Any], model: Model) -> bool:
    switched_off = (body.get("thinking") or {}).get("type") == "disabled"
    return model.thinks == "always" or (model.thinks == "unless_off" and not switched_off)


def _call_id(body: dict[str, Any], name: str, number: int) -> str:
    return f"functions.{name}:{len(list(calls_of(body))) + number}"


def _refuse(status: int, message: str, kind: str = "invalid_request_error", **headers: str) -> ErrorResponse:
    return send_json(status, {"error": {"message": message, "type": kind}}, **headers)


def _refuse_model(name: str) -> ErrorResponse:
    return _refuse(404, f"Not found the model {name} or Permission denied", "resource_not_found_error")


def _refuse_overflow(model: Model, prompt: int, output: int) -> ErrorResponse:
    return _refuse(
        400, f"Invalid request: Your request exceeded model token limit: {model.window} (requested: {prompt + output})"
    )


def _refuse_by_plan(fault: Fault, name: str, model: Model) -> ErrorResponse | None:
    seconds = f"{fault.figure('after', 1):g}"
    limited = (
        f"Your account org-fake request reached max organization TPM: 500000, please try again after {seconds} seconds"
    )
    spent = "Your account org-fake is suspended, possibly due to reaching the spending limit or balance"
    busy = "The engine is currently overloaded, please try again later"
    refusals = {
        "rate": _refuse(429, limited, "rate_limit_reached_error", retry_after=seconds),
        "quota": _refuse(429, spent, "exceeded_current_quota_error"),
        "overloaded": _refuse(429, busy, "engine_overloaded_error"),
        "unauthorized": _refuse_key(""),
        "forbidden": _refuse(403, "The API you are accessing is not open", "permission_denied_error"),
        "missing": _refuse_model(name),
        "overflow": _refuse_overflow(model, model.window + 4_321, 0),
        "server": _refuse(500, "Failed to extract file", "server_error"),
        "policy": _refuse(400, "The request was rejected because it was considered high risk", "content_filter"),
    }
    return refusals.get(fault.kind)


def _refuse_key(key: str) -> ErrorResponse:
    return _refuse(401, "Invalid Authentication", "invalid_authentication_error")


def _usage(full_reply: ReplyWithReasoning) -> dict[str, Any]:
    usage = {name: value for name, value in full_reply.usage.items() if not name.endswith("_details")}
    usage["cached_tokens"] = full_reply.usage["prompt_tokens_details"]["cached_tokens"]
    if full_reply.reasoning:
        usage["completion_tokens_details"] = {"reasoning_tokens": full_reply.generated.reasoning}
    return usage


def _body(full_reply: ReplyWithReasoning, head: Head) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": message_of(full_reply, "reasoning_content"),
        "finish_reason": full_reply.generated.finish,
    }
    return head | {"object": "chat.completion", "choices": [choice], "usage": _usage(full_reply)}


def _chunks(full_reply: ReplyWithReasoning, head: Head, asked: bool) -> Iterator[dict[str, Any]]:
    """Yield a stream: calls in fragments, and the counts inside the last choice, whether they were asked for or not."""
    head = head | {"object": "chat.completion.chunk"}

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        return head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish} | more]}

    generated = full_reply.generated
    yield chunk({"role": "assistant", "content": ""})
    yield from (chunk({"reasoning_content": piece}) for piece in full_reply.reasoning)
    yield from (chunk({"content": piece}) for piece in generated.text)
    for index, (identity, name, pieces) in enumerate(generated.calls):
        call = {"index": index, "id": identity, "type": "function", "function": {"name": name, "arguments": ""}}
        yield chunk({"tool_calls": [call]})
        yield from (chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}) for piece in pieces)
    yield chunk({}, generated.finish, usage=_usage(full_reply))


MOONSHOT = Kind(
    name="moonshot",
    path="/v1/chat/completions",
    key="sk-kimi0123456789abcdefghij",
    models=_MODELS,
    thinking_field="reasoning_content",
    check=check,
    thinks=_thinks,
    call_id=_call_id,
    refuse_breach=lambda breach: _refuse(400, breach.message),
    refuse_key=_refuse_key,
    refuse_model=_refuse_model,
    refuse_overflow=_refuse_overflow,
    refuse_by_plan=_refuse_by_plan,
    body=_body,
    chunks=_chunks,
)
