"""The stand-in itself: takes a request, judges it, and answers as planned; Chat Completions are passed to its sister.

Faults that a marker in the prompt asks for, besides the refusals of its sister's `failures`: `late` (no headers for
`seconds`), `silence` (headers, then nothing for `seconds`), `stall` (the same after `pieces` events), `cut` (the
connection breaks after `pieces` events), `torn` (the stream ends there, without an end), `error` (an error event
there), `failed` (the response fails there), `reset` (the connection breaks before any byte),
`refusal`, `filter`, `length`, `empty`.
"""

from collections.abc import Iterator
from typing import Any

from aiohttp import web
from openai.types.responses.input_token_count_params import InputTokenCountParams

from messages_conformance.backends.responses.rules import as_items
from tests.support.fakes.faults import NO_FAULT, Outcome, fail_early, send_stream
from tests.support.fakes.model_scripts import Fault, decide
from tests.support.fakes.openai_chat.failures import ErrorResponse, refuse, refuse_by_plan
from tests.support.fakes.openai_chat.models import MODELS, Model, find_model
from tests.support.fakes.openai_chat.reading import PICTURE_TOKENS, count, prompt_of
from tests.support.fakes.openai_chat.replies import cut_reply
from tests.support.fakes.openai_chat.server import KEY, REPLIES, SORRY, OpenAI
from tests.support.fakes.openai_responses.reading import read_conversation
from tests.support.fakes.openai_responses.replies import (
    Output,
    body_of,
    events_of,
    frame,
    head_of,
    new_output,
    usage_of,
)
from tests.support.fakes.openai_responses.rules import check_body
from tests.support.fakes.scripted_model import Reply
from tests.support.fakes.server import ContractViolation, Exchange, RequestLog, new_application

__all__ = ["KEY", "new_openai"]

PATH = "/v1/responses"
_ENCRYPTED = "reasoning.encrypted_content"
_COUNTED = set(InputTokenCountParams.__annotations__)


def refuse_model(name: str) -> ErrorResponse:
    """Return the refusal of an unknown model: with status 400 here, as recorded."""
    text = f"The requested model '{name}' does not exist."
    return refuse(400, text, param="model", code="model_not_found")


def refuse_overflow() -> ErrorResponse:
    text = "Your input exceeds the context window of this model. Please adjust your input and try again."
    return refuse(400, text, param="input", code="context_length_exceeded")


class Responses(OpenAI):
    """One fake server with the state of the Chat Completions fake, and the reasoning that it sent, by id."""

    path = PATH

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.issued: dict[str, str] = {}

    def check(self, body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
        return check_body(body, model, self.issued)

    def refuse_model(self, name: str, model: Model | None) -> ErrorResponse | None:
        return refuse_model(name) if model is None else None

    async def reply(self, request: web.Request, body: dict[str, Any], exchange: Exchange) -> Outcome:
        model = find_model(body["model"]) or MODELS["gpt-5"]
        conversation = read_conversation(body)
        fault = self.faults.find(conversation) or NO_FAULT
        if (failed := await fail_early(request, fault)) is not None:
            return failed
        prompt, size = prompt_of({"tools": body.get("tools"), "messages": as_items(body)})[0], count_input(body)
        refusal = self._refuse_by_plan(fault, body, model)
        if refusal is None and size + (body.get("max_output_tokens") or 0) > model.window:
            refusal = refuse_overflow()
        if refusal is not None:
            return await self.send(request, refusal, exchange), "refused"
        output = self._generate_output(body, model, REPLIES.get(fault.kind) or decide(conversation), size, prompt)
        exchange.status = 200
        head = head_of(body, model, self.chance)
        if body.get("stream"):
            return await _stream(request, events_of(output, head, self.chance), self.headers(), fault)
        if fault.kind in ("error", "cut", "torn", "stall", "silence"):
            return await self.fail_whole(request, fault, exchange)
        whole = _failed(head) if fault.kind == "failed" else body_of(output, head)
        return web.json_response(whole, headers=self.headers()), "answered"

    def _refuse_by_plan(self, fault: Fault, body: dict[str, Any], model: Model) -> ErrorResponse | None:
        kinds = {"missing": refuse_model(body["model"]), "overflow": refuse_overflow()}
        return kinds.get(fault.kind) or refuse_by_plan(fault, body["model"], model)

    def _generate_output(self, body: dict[str, Any], model: Model, reply: Reply, size: int, prompt: str) -> Output:
        reasoning = body.get("reasoning") or {}
        generated = cut_reply(
            reply,
            {"max_completion_tokens": body.get("max_output_tokens")},
            reasons=model.reasons and (reasoning.get("effort") or model.default_effort) != "none",
            chance=self.chance,
        )
        output = new_output(
            generated,
            usage_of(generated, size, self.cache.feed(prompt)),
            summarizes=bool(reasoning.get("summary")),
            gives_reasoning=_ENCRYPTED in (body.get("include") or ()),
            chance=self.chance,
            query=reply.query,
        )
        for item, _ in output.items:
            if "encrypted_content" in item:
                self.issued[item["id"]] = item["encrypted_content"]
        return output


class InputTokens(Responses):
    """The token counts of the server, which know the reasoning that it sent."""

    path = f"{PATH}/input_tokens"

    def __init__(self, responses: Responses) -> None:
        super().__init__(responses.key)
        self.issued = responses.issued

    def check(self, body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
        for name in body.keys() - _COUNTED:
            yield ContractViolation("unknown_field", f"Unknown parameter: '{name}'.", name, "unknown_parameter")
        yield from check_body({**body, "store": False}, model, self.issued)

    async def reply(self, request: web.Request, body: dict[str, Any], exchange: Exchange) -> Outcome:
        fault = self.faults.find(read_conversation(body)) or NO_FAULT
        if (failed := await fail_early(request, fault)) is not None:
            return failed
        exchange.status = 200
        counted = {"object": "response.input_tokens", "input_tokens": count_input(body)}
        return web.json_response(counted, headers=self.headers()), "answered"


def count_input(body: dict[str, Any]) -> int:
    prompt, pictures = prompt_of({"tools": body.get("tools"), "messages": as_items(body)})
    return count(prompt) + count(body.get("instructions") or "") + pictures * PICTURE_TOKENS


def _failed(head: dict[str, Any]) -> dict[str, Any]:
    error = {"code": "server_error", "message": "The model failed to generate a response."}
    return head | {"status": "failed", "error": error, "incomplete_details": None, "output": [], "usage": None}


async def _stream(
    request: web.Request, events: Iterator[dict[str, Any]], headers: dict[str, str], fault: Fault
) -> Outcome:
    last: dict[str, Any] = {}

    def frames() -> Iterator[bytes]:
        nonlocal last
        for event in events:
            last = event.get("response") or last
            yield frame(event)

    late = {
        "error": lambda: frame({"type": "error", "code": "server_error", "message": SORRY, "param": None}),
        "failed": lambda: frame({"type": "response.failed", "response": _failed(last)}),
    }
    headers |= {"content-type": "text/event-stream; charset=utf-8"}
    return await send_stream(request, frames(), headers, fault, pieces=2 if fault.kind in late else 8, late=late)


def new_openai(key: str = KEY) -> web.Application:
    chat, responses = OpenAI(key), Responses(key)
    by_path = {one.path: one for one in (responses, InputTokens(responses))}

    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        return await by_path.get(request.path, chat).answer(request, raw, journal)

    return new_application(answer, RequestLog())
