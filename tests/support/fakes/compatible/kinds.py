"""Parts of a stand-in: models, rules, refusals and the shapes of its replies."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from tests.support.fakes.model_scripts import Fault
from tests.support.fakes.openai_chat.failures import ErrorResponse
from tests.support.fakes.openai_chat.models import Model as OpenAIModel
from tests.support.fakes.openai_chat.replies import GeneratedReply
from tests.support.fakes.openai_chat.rules import check_body
from tests.support.fakes.server import ContractViolation


@dataclass(frozen=True)
class Model:
    """Limits and abilities of one model."""

    window: int
    output: int
    efforts: tuple[str, ...] = ()
    """Values of `reasoning_effort`; empty: it is refused."""
    thinks: Literal["never", "unless_off", "always"] = "never"
    pictures: bool = False
    schemas: bool = False
    """True if a reply's schema is taken; else at most `json_object`."""
    wording: Literal["0.11", "0.16", "0.18"] = "0.11"
    """Version of vLLM with whose error texts a user's own server rejects too long input."""


@dataclass(frozen=True)
class ReplyWithReasoning:
    """A reply with the reasoning before it, in pieces."""

    generated: GeneratedReply
    reasoning: list[str]
    usage: dict[str, Any]
    """As OpenAI counts: reasoning inside the output, cached input inside the prompt."""


Head = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One provider."""

    name: str
    path: str
    key: str
    """The only one that is accepted; empty: everybody is served."""
    models: dict[str, Model]
    thinking_field: str
    """Field of the reasoning in replies, and in the messages that give it back."""
    check: Callable[[dict[str, Any], Model], Iterator[ContractViolation]]
    thinks: Callable[[dict[str, Any], Model], bool]
    call_id: Callable[[dict[str, Any], str, int], str]
    """Body, the function's name, the position in the reply → the call's identifier."""
    refuse_breach: Callable[[ContractViolation], ErrorResponse]
    refuse_key: Callable[[str], ErrorResponse]
    refuse_model: Callable[[str], ErrorResponse]
    refuse_overflow: Callable[[Model, int, int], ErrorResponse]
    """Model, tokens of the prompt, tokens of the output asked for."""
    refuse_by_plan: Callable[[Fault, str, Model], ErrorResponse | None]
    body: Callable[[ReplyWithReasoning, Head], dict[str, Any]]
    chunks: Callable[[ReplyWithReasoning, Head, bool], Iterator[dict[str, Any]]]
    """The bool: whether usage was asked for."""
    counts_output: bool = False
    """True if input and the output asked for must fit the window together."""


USUAL_FIELDS = frozenset(
    (
        *("model", "messages", "max_completion_tokens", "max_tokens", "temperature", "top_p", "stop", "seed", "user"),
        *("n", "stream", "stream_options", "tools", "tool_choice", "parallel_tool_calls", "response_format"),
        *("presence_penalty", "frequency_penalty"),
    )
)
"""Fields of Chat Completions that Groq and xAI both know."""


def send_json(status: int, content: Any, **headers: str) -> ErrorResponse:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return ErrorResponse(status, json.dumps(content).encode(), names)


def check_as_openai(
    body: dict[str, Any], model: Model, own: frozenset[str], own_in_messages: frozenset[str]
) -> Iterator[ContractViolation]:
    messages = [
        {name: value for name, value in message.items() if name not in own_in_messages} for message in body["messages"]
    ]
    plain = {name: value for name, value in body.items() if name not in own} | {"messages": messages}
    yield from check_body(plain, OpenAIModel(model.window, model.output, pictures=model.pictures))


def check_fields(body: dict[str, Any], known: frozenset[str], text: str) -> Iterator[ContractViolation]:
    """Yield the fields at the top that the server does not know; `{}` in the text stands for the name."""
    for name, value in body.items():
        if name not in known:
            yield ContractViolation("unknown_field", text.format(name), name)
        elif value is None:
            yield ContractViolation("null", f"'{name}' : value must not be null", name)
    if not isinstance(body.get("messages"), list) or not all(isinstance(one, dict) for one in body["messages"]):
        yield ContractViolation("messages", "'messages' : value must be an array of objects", "messages")


def calls_of(body: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    for position, message in enumerate(body["messages"]):
        for call in message.get("tool_calls") or ():
            yield position, call


def parts_of(body: dict[str, Any], kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for position, message in enumerate(body["messages"]):
        content = message.get("content")
        for number, part in enumerate(content if isinstance(content, list) else ()):
            if part.get("type") == kind:
                yield f"messages[{position}].content[{number}]", part


def message_of(full_reply: ReplyWithReasoning, field: str) -> dict[str, Any]:
    """Return the whole message of a reply."""
    generated = full_reply.generated
    message: dict[str, Any] = {"role": "assistant", "content": "".join(generated.text)}
    if full_reply.reasoning:
        message[field] = "".join(full_reply.reasoning)
    if generated.calls:
        message["tool_calls"] = [
            {"id": identity, "type": "function", "function": {"name": name, "arguments": "".join(pieces)}}
            for identity, name, pieces in generated.calls
        ]
    return message


def whole_call(index: int, call: tuple[str, str, list[str]]) -> dict[str, Any]:
    identity, name, pieces = call
    function = {"name": name, "arguments": "".join(pieces)}
    return {"id": identity, "type": "function", "function": function, "index": index}


def rename_calls(generated: GeneratedReply, rename: Callable[[str, int], str]) -> GeneratedReply:
    calls = [(rename(name, number), name, pieces) for number, (_, name, pieces) in enumerate(generated.calls)]
    return replace(generated, calls=calls)
