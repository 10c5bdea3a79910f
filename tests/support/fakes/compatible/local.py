"""A server of the user's own, as strict as any of vLLM, llama.cpp and LM Studio is in some point.

Sources: vllm/entrypoints/openai/protocol.py and its refusals as users report them; llama.cpp tools/server/README.md;
chat templates of Qwen and Gemma, which raise at a late system message; recorded ollama_openai/*.
"""

import itertools
from collections.abc import Iterator
from typing import Any

from tests.support.fakes.compatible.kinds import (
    Head,
    Kind,
    Model,
    ReplyWithReasoning,
    check_as_openai,
    check_fields,
    message_of,
    send_json,
    whole_call,
)
from tests.support.fakes.model_scripts import Fault
from tests.support.fakes.openai_chat.failures import ErrorResponse
from tests.support.fakes.server import ContractViolation

_KNOWN = frozenset(
    (
        *("model", "messages", "max_tokens", "temperature", "top_p", "stop", "stream", "stream_options", "tools"),
        *("tool_choice", "parallel_tool_calls", "response_format"),
    )
)
TOKENIZE_PATH = "/tokenize"
_TOKENIZED = frozenset(
    (
        *("model", "messages", "tools", "add_generation_prompt", "continue_final_message", "add_special_tokens"),
        *("chat_template", "chat_template_kwargs", "return_token_strs", "mm_processor_kwargs"),
    )
)
_MODELS = {
    "qwen3-coder": Model(65_536, 65_536, schemas=True),
    "Qwen/Qwen3-8B": Model(40_960, 40_960, thinks="always", schemas=True),
    "gemma-4-27b": Model(131_072, 131_072, pictures=True, schemas=True),
    "Qwen/Qwen3-32B": Model(32_768, 32_768, schemas=True, wording="0.16"),
    "Qwen/Qwen3-14B": Model(32_768, 32_768, schemas=True, wording="0.18"),
}


def check(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    """Yield every rule that a request breaks."""
    shapes = list(check_fields(body, _KNOWN, "{}: Extra inputs are not permitted"))
    yield from shapes
    if shapes:
        return
    roles = [message.get("role") for message in body["messages"]]
    for before, after in itertools.pairwise(roles):
        if before == after in ("user", "assistant"):
            yield ContractViolation(
                "turns", "Conversation roles must alternate user/assistant/user/assistant/...", "messages"
            )
    for position, message in enumerate(body["messages"]):
        if message.get("role") == "system" and position:
            yield ContractViolation(
                "mid_conversation_system", "System message must be at the beginning.", f"messages[{position}]"
            )
        if message.get("role") == "developer":
            yield ContractViolation("role", "Unexpected message role.", f"messages[{position}]")
    # vLLM reads `reasoning`, llama.cpp `reasoning_content`. Neither rejects the other name in a message.
    for breach in check_as_openai(body, model, frozenset(), frozenset(("reasoning", "reasoning_content"))):
        if breach.rule != "output_limit":  # there is none but the window
            yield breach


def check_tokenize(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    """Yield every rule that a token count of vLLM breaks (vllm/entrypoints/serve/tokenize/protocol.py)."""
    yield from check_fields(body, _TOKENIZED, "{}: Extra inputs are not permitted")
    yield from check({name: value for name, value in body.items() if name in _KNOWN}, model)


def _refuse(status: int, message: str, kind: str = "BadRequestError") -> ErrorResponse:
    return send_json(status, {"error": {"message": message, "type": kind, "param": None, "code": status}})


def _refuse_model(name: str) -> ErrorResponse:
    return _refuse(404, f"The model `{name}` does not exist.", "NotFoundError")


def _refuse_overflow(model: Model, prompt: int, output: int) -> ErrorResponse:
    """Return the words of vLLM: of its versions 0.11 to 0.15, of 0.16 (renderers/params.py at 017638d), or of 0.18.

    Since 0.16, the characters are compared first (here 6 in a token), and the input is counted only up to the first
    token that does not fit.
    """
    window = model.window
    context = f"This model's maximum context length is {window} tokens"
    if model.wording == "0.11":
        if prompt >= window:
            return _refuse(400, f"{context}. However, your request has {prompt} input tokens. {_SHORTER} messages.")
        text = (
            f"'max_tokens' or 'max_completion_tokens' is too large: {output}. {context} and your request has {prompt}"
        )
        return _refuse(400, f"{text} input tokens ({output} > {window} - {prompt}). None")
    max_input = window - output
    if max_input < 0:
        text = (
            f"max_tokens={output}cannot be greater than max_model_len=max_total_tokens={window}. Please request fewer"
        )
        return _refuse_value(f"{text} output tokens.", "max_tokens", output)
    counted, characters, most = min(prompt, max_input + 1), prompt * 4, max_input * 6
    parameter, value = ("input_text", characters) if characters > most else ("input_tokens", counted)
    if model.wording == "0.16":
        passed = f"{value} input {'characters' if value == characters else 'tokens'}"
        text = f"You passed {passed} and requested {output} output tokens. However, the model's context length is only "
        text += f"{window} tokens, resulting in a maximum input length of {max_input} tokens"
        text += f" (at most {most} characters)" if value == characters else ""
        return _refuse_value(f"{text}. {_SHORTER} prompt.", parameter, value)
    text = f"{context}. However, you requested {output} output tokens and your prompt contains "
    if value == characters:
        text += f"{value} characters (more than {most} characters, which is the upper bound for {max_input} input"
        text += " tokens)"
    else:
        text += f"at least {value} input tokens, for a total of at least {value + output} tokens"
    return _refuse_value(f"{text}. {_SHORTER} prompt or the number of requested output tokens.", parameter, value)


_SHORTER = "Please reduce the length of the input"


def _refuse_value(text: str, parameter: str, value: int) -> ErrorResponse:
    error = {"message": f"{text} (parameter={parameter}, value={value})", "type": "BadRequestError", "code": 400}
    return send_json(400, {"error": error | {"param": parameter}})


def _refuse_by_plan(fault: Fault, name: str, model: Model) -> ErrorResponse | None:
    refusals = {
        "overflow": _refuse_overflow(model, model.window + 4_321, 0),
        "missing": _refuse_model(name),
        "server": _refuse(500, "EngineCore encountered an issue.", "InternalServerError"),
        "loading": _refuse(503, "Loading model", "unavailable_error"),
    }
    return refusals.get(fault.kind)


def _body(full_reply: ReplyWithReasoning, head: Head) -> dict[str, Any]:
    message = message_of(full_reply, "reasoning_content")
    choice = {"index": 0, "message": message, "finish_reason": full_reply.generated.finish, "stop_reason": None}
    return head | {"object": "chat.completion", "choices": [choice], "usage": full_reply.usage}


def _chunks(full_reply: ReplyWithReasoning, head: Head, asked: bool) -> Iterator[dict[str, Any]]:
    """Yield a stream with the reasoning under both of its names, as servers send it that are between two versions."""
    head = head | {"object": "chat.completion.chunk"}
    generated = full_reply.generated
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning": piece, "reasoning_content": piece} for piece in full_reply.reasoning]
    deltas += [{"content": piece} for piece in generated.text]
    deltas += [{"tool_calls": [whole_call(index, call)]} for index, call in enumerate(generated.calls)]
    for delta in deltas:
        yield head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield head | {"choices": [{"index": 0, "delta": {}, "finish_reason": generated.finish}]}
    if asked:
        yield head | {"choices": [], "usage": full_reply.usage}


LOCAL = Kind(
    name="local",
    path="/v1/chat/completions",
    key="",
    models=_MODELS,
    thinking_field="reasoning_content",
    check=check,
    thinks=lambda body, model: model.thinks == "always",
    call_id=lambda body, name, number: f"chatcmpl-tool-{len(body['messages']):04d}{number:04d}",
    refuse_breach=lambda breach: _refuse(400, breach.message),
    refuse_key=lambda key: _refuse(401, "Unauthorized", "AuthenticationError"),
    refuse_model=_refuse_model,
    refuse_overflow=_refuse_overflow,
    refuse_by_plan=_refuse_by_plan,
    body=_body,
    chunks=_chunks,
    counts_output=True,
)
