"""Groq. Sources: recorded groq/*; console.groq.com/docs: api-reference, openai, reasoning, structured-outputs, errors.

The words for fields that it does not know are those that users report (`property 'store' is unsupported`).
"""

from collections.abc import Iterator
from typing import Any

from tests.support.fakes.compatible.kinds import (
    USUAL_FIELDS,
    Head,
    Kind,
    Model,
    ReplyWithReasoning,
    check_as_openai,
    check_fields,
    message_of,
    parts_of,
    send_json,
    whole_call,
)
from tests.support.fakes.model_scripts import Fault
from tests.support.fakes.openai_chat.failures import ErrorResponse
from tests.support.fakes.server import ContractViolation

_OWN = frozenset(
    (
        *("reasoning_effort", "reasoning_format", "include_reasoning", "service_tier", "disable_tool_validation"),
        *("compound_custom", "search_settings"),
    )
)
_OWN_TOOLS = ("browser_search", "code_interpreter")
_SYSTEM_TOOLS = ("web_search", "visit_website", "code_interpreter", "browser_automation", "wolfram_alpha")
_KNOWN = _OWN | USUAL_FIELDS
_IN_MESSAGES = {
    "system": {"role", "content"},
    "developer": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls", "reasoning"},
    "tool": {"role", "content", "tool_call_id"},
}
_TIERS = ("auto", "on_demand", "flex", "performance")
_OSS = {"efforts": ("low", "medium", "high"), "thinks": "always", "schemas": True}
_MODELS = {
    "llama-3.3-70b-versatile": Model(131_072, 32_768),
    "llama-3.1-8b-instant": Model(131_072, 131_072),
    "openai/gpt-oss-120b": Model(131_072, 65_536, **_OSS),  # type: ignore[arg-type]
    "openai/gpt-oss-20b": Model(131_072, 65_536, **_OSS),  # type: ignore[arg-type]
    "groq/compound": Model(131_072, 8_192),
    "qwen/qwen3.8-27b": Model(131_072, 16_384, ("none", "low", "medium", "high"), "unless_off", pictures=True),
    "qwen/qwen3.6-27b": Model(131_072, 16_384, ("none", "default"), "unless_off", pictures=True),
}


def _check_messages(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    for position, message in enumerate(body["messages"]):
        role, place = message.get("role"), f"messages.{position}"
        for name, value in message.items():
            fault = ""
            if name not in _IN_MESSAGES.get(str(role), set()):
                fault = f"'{place}' : property '{name}' is unsupported"
            elif value is None:
                fault = f"'{place}.{name}' : value must not be null"
            if fault:
                text = f"'{place}' : for 'role:{role}' the following must be satisfied[({fault})]"
                yield ContractViolation("message_field", text, place)
        if "reasoning" in message and model.thinks == "never":
            text = f"messages[{position}].reasoning: reasoning is not supported with this model"
            yield ContractViolation("reasoning_model", text, place)
        if isinstance(message.get("content"), list) and not model.pictures:
            yield ContractViolation("content_string", f"'{place}.content' : value must be a string", place)


def _check_reasoning(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    effort, form = body.get("reasoning_effort"), body.get("reasoning_format")
    if effort is not None and effort not in model.efforts:
        listed = " or ".join(f"`{one}`" for one in model.efforts)
        text = f"`reasoning_effort` must be one of {listed}" if listed else "reasoning_effort is not supported"
        yield ContractViolation("effort", f"{text} with this model", "reasoning_effort")
    for name in ("reasoning_format", "include_reasoning"):
        is_accepted = model.thinks != "never" and (name == "include_reasoning" or model.thinks == "unless_off")
        if name in body and not is_accepted:
            yield ContractViolation("reasoning_field", f"{name} is not supported with this model", name)
    if form is not None and "include_reasoning" in body:
        yield ContractViolation(
            "reasoning_both", "cannot specify both reasoning_format and include_reasoning", "reasoning_format"
        )
    wants_json = "response_format" in body or "tools" in body
    if form not in (None, "parsed", "hidden") and wants_json:
        text = "reasoning_format must be parsed or hidden when using JSON mode or tools"
        yield ContractViolation("reasoning_raw", text, "reasoning_format")


def _check_output(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    wanted = (body.get("response_format") or {}).get("type")
    if wanted not in ("json_object", "json_schema"):
        return
    if wanted == "json_schema" and not model.schemas:
        yield ContractViolation(
            "format_model", "This model does not support response format `json_schema`.", "response_format"
        )
    if "tools" in body:
        yield ContractViolation(
            "format_tools", "json mode cannot be combined with tool/function calling", "response_format"
        )
    if body.get("stream"):
        yield ContractViolation("format_stream", "response_format does not support streaming", "response_format")


def _check_own_tools(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    """Check the tools that Groq runs itself.

    Its OpenAI models accept two tools, its systems accept a list of enabled tools.
    """
    own = [tool["type"] for tool in body.get("tools") or () if tool.get("type") in _OWN_TOOLS]
    is_system = model is _MODELS["groq/compound"]
    if own and not model.schemas:
        yield ContractViolation("own_tools", f"tool type {own[0]!r} is not supported with this model", "tools")
    if is_system and body.get("tools"):
        yield ContractViolation("system_tools", "custom tools are not supported with this system", "tools")
    settings = [name for name in ("compound_custom", "search_settings") if name in body]
    if settings and not is_system:
        yield ContractViolation("system_settings", f"property '{settings[0]}' is unsupported", settings[0])
    enabled = (body.get("compound_custom") or {}).get("tools", {}).get("enabled_tools") or ()
    if odd := [name for name in enabled if name not in _SYSTEM_TOOLS]:
        yield ContractViolation(
            "system_tool", f"enabled_tools: unknown tool {odd[0]!r}", "compound_custom.tools.enabled_tools"
        )


def _without_own_tools(body: dict[str, Any]) -> dict[str, Any]:
    tools = [tool for tool in body.get("tools") or () if tool.get("type") not in _OWN_TOOLS]
    if len(tools) == len(body.get("tools") or ()):
        return body
    others = {name: value for name, value in body.items() if name not in ("tools", "tool_choice")}
    return others | ({"tools": tools, "tool_choice": body.get("tool_choice", "auto")} if tools else {})


def check(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    """Yield every rule that a request breaks."""
    shapes = list(check_fields(body, _KNOWN, "property '{}' is unsupported"))
    yield from shapes
    if shapes:
        return
    yield from _check_messages(body, model)
    yield from _check_reasoning(body, model)
    yield from _check_output(body, model)
    yield from _check_own_tools(body, model)
    if body.get("n", 1) != 1:
        yield ContractViolation("n", "'n' : number must be at most 1", "n")
    if body.get("service_tier", "auto") not in _TIERS:
        yield ContractViolation("tier", f"'service_tier' : value must be one of {list(_TIERS)}", "service_tier")
    for name in ("max_tokens", "max_completion_tokens"):
        if (body.get(name) or 0) > model.output:
            text = (
                f"`{name}` must be less than or equal to `{model.output}`, the maximum value for `{name}` is less "
                "than the `context_window` for this model"
            )
            yield ContractViolation("output_limit", text, name)
    for place, _ in parts_of(body, "file"):
        yield ContractViolation("file", f"'{place}.type' : value must be one of 'text', 'image_url'", place)
    for breach in check_as_openai(_without_own_tools(body), model, _OWN, frozenset(("reasoning",))):
        if breach.rule != "output_limit":
            yield breach


def _thinks(body: dict[str, Any], model: Model) -> bool:
    return model.thinks == "always" or (model.thinks == "unless_off" and body.get("reasoning_effort") != "none")


def _refuse(
    status: int, message: str, kind: str = "invalid_request_error", code: str = "", **headers: str
) -> ErrorResponse:
    error = {"message": message, "type": kind} | ({"code": code} if code else {})
    return send_json(status, {"error": error}, **headers)


def _refuse_model(name: str) -> ErrorResponse:
    text = f"The model `{name}` does not exist or you do not have access to it."
    return _refuse(404, text, code="model_not_found")


def _refuse_overflow(model: Model, prompt: int, output: int) -> ErrorResponse:
    text = "Please reduce the length of the messages or completion."
    error = {"message": text, "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}
    return send_json(400, {"error": error})


UNREADABLE = {
    "message": "Failed to call a function. Please adjust your prompt. See 'failed_generation' for more details.",
    "type": "invalid_request_error",
    "code": "tool_use_failed",
    "failed_generation": '{"name": "get_weather", "arguments": {\n  "city": "Oslo"\n}}',
}
"""The error for a model's call that the server could not read; in a stream as `event: error` with a status code."""


def _refuse_by_plan(fault: Fault, name: str, model: Model) -> ErrorResponse | None:
    seconds = f"{fault.figure('after', 1):g}"
    start = f"for model `{name}` in organization `org_fake` service tier `on_demand` on tokens per minute (TPM): "
    limited = f"Rate limit reached {start}Limit 12000, Used 11000, Requested 5000. Please try again in {seconds}s."
    large = f"Request too large {start}Limit 12000, Requested 52310, please reduce your message size and try again."
    refusals = {
        "rate": _refuse(429, limited, "tokens", "rate_limit_exceeded", retry_after=seconds),
        "large": _refuse(413, large, "tokens", "rate_limit_exceeded"),
        "capacity": _refuse(498, "Flex tier capacity exceeded", "capacity_error", "capacity_exceeded"),
        "unauthorized": _refuse_key(""),
        "forbidden": _refuse(403, "Forbidden", code="permissions_error"),
        "missing": _refuse_model(name),
        "overflow": _refuse_overflow(model, model.window + 1, 0),
        "unreadable": send_json(400, {"error": UNREADABLE}),
        "server": _refuse(500, "Internal Server Error", "internal_server_error"),
        "overloaded": _refuse(503, "Service Unavailable: the model is over capacity", "internal_server_error"),
    }
    return refusals.get(fault.kind)


def _refuse_key(key: str) -> ErrorResponse:
    return _refuse(401, "Invalid API Key", code="invalid_api_key")


def _usage(full_reply: ReplyWithReasoning) -> dict[str, Any]:
    usage = {name: value for name, value in full_reply.usage.items() if not name.endswith("_details")}
    cached = full_reply.usage["prompt_tokens_details"]["cached_tokens"]
    times = {"queue_time": 0.04, "prompt_time": 0.01, "completion_time": 0.05, "total_time": 0.06}
    details: dict[str, Any] = {"prompt_tokens_details": {"cached_tokens": cached}} if cached else {}
    if full_reply.reasoning:
        details["completion_tokens_details"] = {"reasoning_tokens": full_reply.generated.reasoning}
    return usage | times | details


def _body(full_reply: ReplyWithReasoning, head: Head) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": message_of(full_reply, "reasoning"),
        "logprobs": None,
        "finish_reason": full_reply.generated.finish,
    }
    extra = {"x_groq": {"id": "req_fake"}, "service_tier": "on_demand"}
    return head | {"object": "chat.completion", "choices": [choice], "usage": _usage(full_reply)} | extra


def _chunks(full_reply: ReplyWithReasoning, head: Head, asked: bool) -> Iterator[dict[str, Any]]:
    head = head | {"object": "chat.completion.chunk"}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return head | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}

    generated = full_reply.generated
    yield chunk({"role": "assistant", "content": None if generated.calls else ""}) | {
        "x_groq": {"id": "req_fake", "seed": 4}
    }
    yield from (chunk({"reasoning": piece, "channel": "analysis"}) for piece in full_reply.reasoning)
    yield from (chunk({"content": piece}) for piece in generated.text)
    yield from (chunk({"tool_calls": [whole_call(index, call)]}) for index, call in enumerate(generated.calls))
    usage = _usage(full_reply)
    yield (
        chunk({}, generated.finish)
        | {"x_groq": {"id": "req_fake", "usage": usage}}
        | ({"usage": usage} if asked else {})
    )


GROQ = Kind(
    name="groq",
    path="/openai/v1/chat/completions",
    key="gsk_fake0123456789abcdefghij",
    models=_MODELS,
    thinking_field="reasoning",
    check=check,
    thinks=_thinks,
    call_id=lambda body, name, number: f"fc_{len(body['messages']):04d}{number:04d}-89f9-48d3",
    refuse_breach=lambda breach: _refuse(400, breach.message),
    refuse_key=_refuse_key,
    refuse_model=_refuse_model,
    refuse_overflow=_refuse_overflow,
    refuse_by_plan=_refuse_by_plan,
    body=_body,
    chunks=_chunks,
)
