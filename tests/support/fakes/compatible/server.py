"""The stand-ins themselves: one server for all kinds.

Faults that a marker in the prompt asks for, besides the refusals of each kind: `late` (no headers for `seconds`),
`stall` (the same after `pieces` chunks), `cut` (the connection breaks after `pieces` chunks), `torn` (the stream ends
there, without an end), `reset` (the connection breaks before any byte), `unreadable` (Groq could not read the model's
call; in a stream after some pieces), `length`, `filter`, `empty`.
"""

import json
import time
from typing import Any

from aiohttp import web

from anthropic_proxy.engine.providers.provider_models import LOADED_PATHS
from tests.support.fakes.compatible.groq import GROQ, UNREADABLE
from tests.support.fakes.compatible.kinds import Kind, Model, ReplyWithReasoning, rename_calls
from tests.support.fakes.compatible.local import LOCAL, TOKENIZE_PATH, check_tokenize
from tests.support.fakes.compatible.moonshot import MOONSHOT
from tests.support.fakes.compatible.xai import XAI
from tests.support.fakes.faults import NO_FAULT, Outcome, fail_early, send_stream
from tests.support.fakes.model_scripts import Fault, decide, spoken
from tests.support.fakes.openai_chat.failures import ErrorResponse
from tests.support.fakes.openai_chat.reading import PICTURE_TOKENS, count, prompt_of, read_conversation
from tests.support.fakes.openai_chat.replies import cut_reply, frame, new_id, usage_of
from tests.support.fakes.openai_chat.server import COUNT_PATHS, DONE, OpenAI
from tests.support.fakes.scripted_model import Conversation, Reply
from tests.support.fakes.server import ContractViolation, Exchange, RequestLog, new_application

KINDS: dict[str, Kind] = {kind.name: kind for kind in (GROQ, MOONSHOT, XAI, LOCAL)}

_REPLIES = {
    "filter": Reply(text="The first words of a text that", finish="filter"),
    "length": Reply(text="The first words of a text that", finish="length"),
    "empty": Reply(),
}
_LATE = ("cut", "torn", "stall", "unreadable")


class Compatible(OpenAI):
    """One stand-in: its kind, its prompt cache, and the reasoning that it gave out."""

    def __init__(self, kind: Kind, key: str) -> None:
        super().__init__(key)
        self.kind = kind
        self.issued: set[str] = {" "}
        """Texts that may come back as reasoning. One space replaces reasoning that a client has lost."""

    def _refuse(
        self, request: web.Request, body: Any, unreadable: ContractViolation | None, exchange: Exchange
    ) -> ErrorResponse | None:
        kind = self.kind
        is_list = (request.method, request.path) == ("GET", kind.path.replace("/chat/completions", "/models"))
        if (request.method, request.path) != ("POST", kind.path) and not (is_list or self._counts(request)):
            if request.path not in (*COUNT_PATHS, *LOADED_PATHS):
                exchange.breaches.append(ContractViolation("url", f"there is no {request.method} {request.path}"))
            return ErrorResponse(404, b'{"error":{"message":"Unknown request URL","type":"invalid_request_error"}}')
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if self.key and (scheme.lower() != "bearer" or key != self.key):
            return kind.refuse_key(key)
        if is_list:
            listed = [{"id": name, "object": "model"} for name in kind.models]
            return ErrorResponse(200, json.dumps({"object": "list", "data": listed}).encode())
        if unreadable is not None or not isinstance(body, dict):
            unreadable = unreadable or ContractViolation("json", "the body is no JSON object")
            exchange.breaches.append(unreadable)
            return kind.refuse_breach(unreadable)
        name = str(body.get("model", ""))
        model = self._find_model(name)
        if model is None:
            return kind.refuse_model(name)
        check = check_tokenize if self._counts(request) else kind.check
        breaches = [*check(body, model), *self._check_reasoning(body)]
        exchange.breaches.extend(breaches)
        return kind.refuse_breach(breaches[0]) if breaches else None

    def _counts(self, request: web.Request) -> bool:
        return self.kind.name == "local" and (request.method, request.path) == ("POST", TOKENIZE_PATH)

    def _find_model(self, name: str) -> Model | None:
        models = self.kind.models
        return next(iter(models.values())) if name.startswith("fault-") else models.get(name)

    def _check_reasoning(self, body: dict[str, Any]) -> list[ContractViolation]:
        """Return the violations: messages with reasoning that this server did not write, or that came back changed."""
        thoughts = [message.get(self.kind.thinking_field) for message in body.get("messages", ())]
        foreign = [text for text in thoughts if isinstance(text, str) and text not in self.issued]
        return [
            ContractViolation("reasoning_foreign", f"{text[:60]!r} was not said by this server", "messages")
            for text in foreign
        ]

    async def reply(self, request: web.Request, body: dict[str, Any], exchange: Exchange) -> Outcome:
        kind = self.kind
        model = self._find_model(body["model"])
        assert model is not None
        conversation = read_conversation(body)
        fault = self.faults.find(conversation) or NO_FAULT
        if (failed := await fail_early(request, fault)) is not None:
            return failed
        prompt, pictures = prompt_of(body)
        tokens = count(prompt) + pictures * PICTURE_TOKENS
        if self._counts(request):
            exchange.status = 200
            counted = {
                "count": tokens,
                "max_model_len": model.window,
                "tokens": list(range(tokens)),
                "token_strs": None,
            }
            return web.json_response(counted), "answered"
        asked_for = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        refusal = None
        if not (fault.kind == "unreadable" and body.get("stream")):
            refusal = kind.refuse_by_plan(fault, body["model"], model)
        if refusal is None and tokens + (asked_for if kind.counts_output else 0) > model.window:
            refusal = kind.refuse_overflow(model, tokens, asked_for)
        if refusal is not None:
            return await self.send(request, refusal, exchange), "refused"
        full_reply = self._generate_reply(body, model, conversation, fault, tokens, self.cache.feed(prompt))
        exchange.status = 200
        head = {"id": new_id("chatcmpl-", 29, self.chance), "created": int(time.time()), "model": body["model"]}
        head["system_fingerprint"] = "fp_fake"
        if not body.get("stream"):
            if fault.kind in _LATE:
                return await self.fail_whole(request, fault, exchange)
            return web.json_response(kind.body(full_reply, head)), "answered"
        asked = bool((body.get("stream_options") or {}).get("include_usage"))
        frames = map(frame, kind.chunks(full_reply, head, asked))
        headers = {"content-type": "text/event-stream", "x-request-id": "req_fake"}
        late = {"unreadable": _unreadable}
        return await send_stream(request, frames, headers, fault, pieces=2, late=late, end=DONE)

    def _generate_reply(
        self, body: dict[str, Any], model: Model, conversation: Conversation, fault: Fault, tokens: int, cached: int
    ) -> ReplyWithReasoning:
        """Return the reply; the thinking before it names its subject, so that none is like another."""
        kind = self.kind
        thinks = kind.thinks(body, model)
        generated = cut_reply(
            _REPLIES.get(fault.kind) or decide(conversation), body, reasons=thinks, chance=self.chance
        )
        generated = rename_calls(generated, lambda name, number: kind.call_id(body, name, number))
        usage = usage_of(generated, tokens, cached)
        if not thinks:
            return ReplyWithReasoning(generated, [], usage)
        asked = next((turn.text for turn in reversed(conversation.turns) if turn.role == "user"), "")
        reasoning = ["I am asked: ", spoken(asked)[-200:], f"; this is reply {len(body['messages'])}."]
        self.issued.add("".join(reasoning))
        return ReplyWithReasoning(generated, reasoning, usage)


def _unreadable() -> bytes:
    error = json.dumps({"error": UNREADABLE | {"status_code": 400}})
    return f"event: error\ndata: {error}\n\n".encode()


def new_server(name: str, key: str | None = None) -> web.Application:
    kind = KINDS[name]
    return new_application(Compatible(kind, key or kind.key).answer, RequestLog())
