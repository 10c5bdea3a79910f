"""xAI, over Chat Completions. Sources: recorded xai/*; docs.x.ai: api-reference, reasoning, image understanding.

The words of refusals are those that users report (`Model … does not support parameter reasoningEffort.`).
"""

from collections.abc import Iterator
from typing import Any

from messages_conformance.backends.openai.messages import decode_data_url
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

_OWN = frozenset(("reasoning_effort", "deferred", "search_parameters"))
_KNOWN = _OWN | USUAL_FIELDS | {"logprobs", "top_logprobs"}
_NOT_WHILE_REASONING = {"presence_penalty": "presencePenalty", "frequency_penalty": "frequencyPenalty", "stop": "stop"}
_TO_XHIGH = ("low", "medium", "high", "xhigh")
_MODELS = {
    "grok-3": Model(131_072, 131_072, schemas=True),
    "grok-3-mini-beta": Model(131_072, 131_072, ("low", "high"), "always", schemas=True),
    "grok-4.3": Model(1_000_000, 30_000, ("none", "low", "medium", "high"), "unless_off", pictures=True, schemas=True),
    "grok-4.6": Model(500_000, 500_000, _TO_XHIGH, "always", pictures=True, schemas=True),
    "grok-4.20-reasoning": Model(1_000_000, 65_536, (), "always", pictures=True, schemas=True),
    "grok-4.20-non-reasoning": Model(1_000_000, 65_536, pictures=True, schemas=True),
}
_ARGUMENT = "Client specified an invalid argument"
_TARGET = "Failed to deserialize the JSON body into the target type: "
_FORMATS = ("image/jpeg", "image/png")


def _check_reasoning(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    effort = body.get("reasoning_effort")
    if effort is not None and not model.efforts:
        yield ContractViolation("effort_model", "does not support parameter reasoningEffort.", "reasoning_effort")
    elif effort is not None and effort not in model.efforts:
        listed = ", ".join(f"`{one}`" for one in model.efforts)
        text = f"{_TARGET}reasoning_effort: unknown variant `{effort}`, expected one of {listed}"
        yield ContractViolation("effort", text, "reasoning_effort")
    if _thinks(body, model):
        for name, spelled in _NOT_WHILE_REASONING.items():
            if name in body:
                yield ContractViolation("reasoning_parameter", f"does not support parameter {spelled}.", name)


def check(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    """Yield every rule that a request breaks."""
    shapes = list(check_fields(body, _KNOWN, _TARGET + "unknown field `{}`"))
    yield from shapes
    if shapes:
        return
    yield from _check_reasoning(body, model)
    for position, tool in enumerate(body.get("tools") or ()):
        if "strict" in (tool.get("function") or {}):
            yield ContractViolation("strict", f"{_TARGET}tools[{position}].function: unknown field `strict`", "tools")
    for position, message in enumerate(body["messages"]):
        if message.get("role") == "developer":
            yield ContractViolation(
                "role", f"{_TARGET}messages[{position}].role: unknown variant `developer`", "messages"
            )
        if message.get("content") == "" and not message.get("tool_calls") and message.get("role") != "tool":
            yield ContractViolation(
                "content", "Each message must have at least one content element.", f"messages[{position}]"
            )
    for place, part in parts_of(body, "image_url"):
        decoded = decode_data_url(part["image_url"]["url"])
        if decoded is not None and decoded[0] not in _FORMATS:
            yield ContractViolation(
                "image_type", f"Unsupported content-type {decoded[0]}: only jpeg and png are.", place
            )
    for place, _ in parts_of(body, "file"):
        yield ContractViolation("file", f"{_TARGET}{place}: unknown variant `file`", place)
    yield from check_as_openai(body, model, _OWN, frozenset(("reasoning_content",)))


def _thinks(body: dict[str, Any], model: Model) -> bool:
    return model.thinks == "always" or (model.thinks == "unless_off" and body.get("reasoning_effort") != "none")


def _refuse(status: int, code: str, error: str, **headers: str) -> ErrorResponse:
    return send_json(status, {"code": code, "error": error}, **headers)


def _refuse_breach(breach: ContractViolation) -> ErrorResponse:
    if breach.message.startswith("does not support"):
        return _refuse(400, _ARGUMENT, f"Model grok does {breach.message.removeprefix('does ')}")
    return _refuse(422 if breach.message.startswith(_TARGET) else 400, _ARGUMENT, breach.message)


def _refuse_key(key: str) -> ErrorResponse:
    text = f"Incorrect API key provided: {key[:2]}***{key[-2:]}. You can obtain an API key from https://console.x.ai."
    return _refuse(400, _ARGUMENT, text)


def _refuse_model(name: str) -> ErrorResponse:
    text = f"The model {name} does not exist or your team fake does not have access to it."
    return _refuse(404, "Some requested entity was not found", text)


def _refuse_overflow(model: Model, prompt: int, output: int) -> ErrorResponse:
    text = f"This model's maximum prompt length is {model.window} but the request contains {prompt} tokens."
    return _refuse(400, _ARGUMENT, text)


def _refuse_by_plan(fault: Fault, name: str, model: Model) -> ErrorResponse | None:
    seconds = f"{fault.figure('after', 1):g}"
    spent = "Your team fake has either used all available credits or reached its monthly spending limit."
    refusals = {
        "rate": _refuse(
            429,
            "Some resource has been exhausted",
            f"Too many requests for team fake and model {name}.",
            retry_after=seconds,
        ),
        "quota": _refuse(403, "The caller does not have permission to execute the specified operation", spent),
        "unauthorized": _refuse_key("xai-refused"),
        "forbidden": _refuse(403, "The caller does not have permission", "Team is blocked."),
        "missing": _refuse_model(name),
        "overflow": _refuse_overflow(model, model.window + 4_321, 0),
        "server": _refuse(500, "Internal error", "Something went wrong."),
        "overloaded": _refuse(503, "The service is currently unavailable", "The model is at capacity."),
    }
    return refusals.get(fault.kind)


def _usage(full_reply: ReplyWithReasoning) -> dict[str, Any]:
    """Return the counts with the reasoning beside the output, as recorded; only the total holds both."""
    usage, reasoning = full_reply.usage, full_reply.generated.reasoning
    details = {"audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
    return usage | {
        "completion_tokens": usage["completion_tokens"] - reasoning,
        "prompt_tokens_details": {"text_tokens": usage["prompt_tokens"], **usage["prompt_tokens_details"]},
        "completion_tokens_details": {"reasoning_tokens": reasoning, **details},
        "num_sources_used": 0,
        "cost_in_usd_ticks": 1_399_000,
    }


def _body(full_reply: ReplyWithReasoning, head: Head) -> dict[str, Any]:
    message = message_of(full_reply, "reasoning_content") | {"refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": full_reply.generated.finish}
    return head | {"object": "chat.completion", "choices": [choice], "usage": _usage(full_reply)}


def _chunks(full_reply: ReplyWithReasoning, head: Head, asked: bool) -> Iterator[dict[str, Any]]:
    head = head | {"object": "chat.completion.chunk"}
    generated = full_reply.generated
    deltas: list[dict[str, Any]] = [{"reasoning_content": piece} for piece in full_reply.reasoning]
    deltas += [{"content": piece} for piece in generated.text]
    deltas += [{"tool_calls": [whole_call(index, call)]} for index, call in enumerate(generated.calls)]
    for position, delta in enumerate(deltas or [{"content": ""}]):
        role = {} if position else {"role": "assistant"}
        yield head | {"choices": [{"index": 0, "delta": delta | role}]}
    yield head | {"choices": [{"index": 0, "delta": {}, "finish_reason": generated.finish}]}
    if asked:
        yield head | {"choices": [], "usage": _usage(full_reply)}


XAI = Kind(
    name="xai",
    path="/v1/chat/completions",
    key="xai-fake0123456789abcdefghij",
    models=_MODELS,
    thinking_field="reasoning_content",
    check=check,
    thinks=_thinks,
    call_id=lambda body, name, number: f"call_{len(body['messages']):04d}{number:04d}",
    refuse_breach=_refuse_breach,
    refuse_key=_refuse_key,
    refuse_model=_refuse_model,
    refuse_overflow=_refuse_overflow,
    refuse_by_plan=_refuse_by_plan,
    body=_body,
    chunks=_chunks,
)
