"""The stand-in itself: takes a request at AI Studio's paths or Vertex AI's, judges it, and answers as planned.

Faults that a marker in the prompt asks for, besides the refusals of `failures`:
`late` (no headers for `seconds`), `silence` (headers, then nothing for `seconds`), `stall` (the same after `pieces`
pieces), `cut` (the connection breaks after `pieces` pieces), `torn` (the stream ends there, without an end),
`error` (an error there), `reset` (the connection breaks before any byte), `safety`, `blocked` (the prompt itself),
`length`, `malformed`, `thought` (the same after thinking), `announced`
(after text), `empty`.
"""

import json
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from messages_conformance.backends.gemini.rules import check_count
from tests.support.fakes.faults import NO_FAULT, Outcome, fail_early, fail_whole, send_stream
from tests.support.fakes.gemini.failures import (
    ErrorResponse,
    error_of,
    refuse,
    refuse_breach,
    refuse_by_plan,
    refuse_key,
    refuse_model,
    refuse_overflow,
    refuse_project,
    refuse_token,
)
from tests.support.fakes.gemini.models import MODELS, Model, find_model
from tests.support.fakes.gemini.reading import read_conversation
from tests.support.fakes.gemini.replies import GeneratedReply, Speaker, body_of, chunks_of, frame, ground, new_id
from tests.support.fakes.gemini.rules import check_body
from tests.support.fakes.gemini.shapes import in_camel_case
from tests.support.fakes.gemini.signatures import Signatures
from tests.support.fakes.model_scripts import Fault, Faults, decide
from tests.support.fakes.openai_chat.reading import PICTURE_TOKENS, PromptCache, count, prompt_of
from tests.support.fakes.server import ContractViolation, Exchange, RequestLog, leaks, new_application
from tests.support.secret_canaries import new_canary

KEY = new_canary("AIza-fake-")
"""The key that is accepted, unless another is named."""
PROJECT = "fake-project"
"""The project that exists at Vertex AI."""
MAX_INLINE_BYTES = 20 * 1024 * 1024
_UNAVAILABLE = "The service is currently unavailable."
_METHODS = ("generateContent", "streamGenerateContent", "countTokens")
_AI_STUDIO = re.compile(r"/v1(?:beta|alpha)?/models/([^:]+):(\w+)")
_VERTEX = re.compile(r"/v1(?:beta1)?/(projects/([^/]+)/locations/([a-z0-9-]+)/publishers/google/models/([^:]+)):(\w+)")
_LISTING = re.compile(r"/v1(?:beta)?/models(?:/([^/:]+))?")
_GENERATED = {
    "safety": GeneratedReply([({"text": "The first words of a text that"}, 7)], "SAFETY"),
    "length": GeneratedReply([({"text": "The first words of a text that"}, 7)], "MAX_TOKENS"),
    "malformed": GeneratedReply(
        [], "MALFORMED_FUNCTION_CALL", "Malformed function call: print(default_api.read(path='x'"
    ),
    "thought": GeneratedReply(
        [({"text": "I call the tool.", "thought": True}, 0)], "MALFORMED_FUNCTION_CALL", thoughts=9
    ),
    "announced": GeneratedReply([({"text": "I call the tool."}, 5)], "UNEXPECTED_TOOL_CALL"),
    "empty": GeneratedReply([({"text": ""}, 0)], "STOP"),
}


@dataclass(frozen=True)
class Asked:
    """Contents of a request's path. `place` is the model's path at Vertex AI; "": AI Studio."""

    name: str
    method: str
    place: str = ""
    project: str = ""

    @property
    def vertex(self) -> bool:
        return bool(self.place)


def _read_path(path: str) -> Asked | None:
    if found := _VERTEX.fullmatch(path):
        return Asked(unquote(found[4]), found[5], found[1], found[2])
    if found := _AI_STUDIO.fullmatch(path):
        return Asked(unquote(found[1]), found[2])
    return None


class Gemini:
    """One stand-in: its key and tokens, its prompt cache, the signatures and the faults that it gave already."""

    def __init__(self, key: str, accepts_token: Callable[[str], bool]) -> None:
        self.key = key
        self.accepts_token = accepts_token
        self.cache = PromptCache()
        self.faults = Faults()
        self.chance = random.Random(4)
        self.signatures = Signatures(self.chance)

    async def answer(self, request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        body, unreadable = (None, None) if not raw else _decode(raw)
        exchange = journal.open(request, body)
        body = in_camel_case(body)
        exchange.breaches.extend(leaks(exchange.headers, raw))
        outcome = "cancelled"
        try:
            asked = _read_path(request.path)
            refusal = self._refuse(request, raw, body, unreadable, asked, exchange)
            if refusal is not None:
                response: web.StreamResponse = _send(refusal, exchange)
                outcome = "refused"
            elif asked is None:
                response, outcome = self._list_models(request.path, exchange), "answered"
            elif asked.method == "countTokens":
                response, outcome = self._count(body, exchange), "answered"
            else:
                response, outcome = await self._reply(request, asked, body, exchange)
        finally:
            journal.close(exchange, outcome)
        return response

    def _refuse(
        self,
        request: web.Request,
        raw: bytes,
        body: Any,
        unreadable: ContractViolation | None,
        asked: Asked | None,
        exchange: Exchange,
    ) -> ErrorResponse | None:
        """Return the refusal of a request that does not come as far as a model."""
        if request.method == "GET" and _LISTING.fullmatch(request.path):
            return self._refuse_caller(request, None)
        if asked is None or request.method != "POST" or asked.method not in _METHODS:
            text = f"The requested URL {request.path} was not found on this server."
            exchange.breaches.append(ContractViolation("url", text))
            return refuse(404, text)
        if refusal := self._refuse_caller(request, asked):
            return refusal
        model = find_model(asked.name)
        if model is None:
            return refuse_model(asked.name, asked.place)
        breaches = [unreadable] if unreadable is not None else []
        if asked.method == "streamGenerateContent" and request.query.get("alt") != "sse":
            breaches.append(ContractViolation("alt", "This stand-in streams only with alt=sse."))
        if len(raw) > MAX_INLINE_BYTES:
            breaches.append(
                ContractViolation("size", f"Request payload size exceeds the limit: {MAX_INLINE_BYTES} bytes.")
            )
        if not breaches and asked.method == "countTokens":
            breaches += check_count(body, asked.name, vertex=asked.vertex)
            body = body.get("generateContentRequest") or body
            body = {name: value for name, value in body.items() if name != "model"}
        if not breaches:
            breaches += check_body(body, asked.name, model, self.signatures, vertex=asked.vertex)
        exchange.breaches.extend(breaches)
        return refuse_breach(breaches) if breaches else None

    def _refuse_caller(self, request: web.Request, asked: Asked | None) -> ErrorResponse | None:
        if asked is None or not asked.vertex:
            key = request.headers.get("x-goog-api-key") or request.query.get("key")
            return None if key == self.key else refuse_key(key)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self.accepts_token(token):
            return refuse_token()
        return None if asked.project == PROJECT else refuse_project(asked.place)

    def _list_models(self, path: str, exchange: Exchange) -> web.Response:
        listed = [
            {
                "name": f"models/{name}",
                "displayName": name,
                "inputTokenLimit": model.window,
                "outputTokenLimit": model.output,
                "supportedGenerationMethods": ["generateContent", "countTokens"],
                "thinking": model.thinks,
            }
            for name, model in MODELS.items()
        ]
        found = _LISTING.fullmatch(path)
        wanted = found[1] if found else None
        if wanted is None:
            exchange.status = 200
            return web.json_response({"models": listed})
        one = next((entry for entry in listed if entry["name"] == f"models/{wanted}"), None)
        if one is None:
            return _send(refuse_model(wanted, ""), exchange)
        exchange.status = 200
        return web.json_response(one)

    def _count(self, body: dict[str, Any], exchange: Exchange) -> web.Response:
        asked = body.get("generateContentRequest") or body
        prompt, pictures = _prompt_of(asked)
        total = count(prompt) + pictures * PICTURE_TOKENS
        exchange.status = 200
        return web.json_response({"totalTokens": total})

    async def _reply(self, request: web.Request, asked: Asked, body: dict[str, Any], exchange: Exchange) -> Outcome:
        model = find_model(asked.name) or MODELS["gemini-3.6-flash"]
        conversation = read_conversation(body, asked.name)
        fault = self.faults.find(conversation) or NO_FAULT
        if (failed := await fail_early(request, fault)) is not None:
            return failed
        refusal = refuse_by_plan(fault, asked.name, model, vertex=asked.vertex)
        prompt, pictures = _prompt_of(body)
        tokens = count(prompt) + pictures * PICTURE_TOKENS
        if refusal is None and tokens > model.window:
            refusal = refuse_overflow(model, tokens, vertex=asked.vertex)
        if refusal is not None:
            return _send(refusal, exchange), "refused"
        exchange.status = 200
        cached = self.cache.feed(prompt)
        tail = {"modelVersion": asked.name, "responseId": new_id(22, self.chance)}
        streams = asked.method == "streamGenerateContent"
        if fault.kind == "blocked":
            usage = {"promptTokenCount": tokens, "totalTokenCount": tokens}
            blocked = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": usage} | tail
            return await _stream(request, [blocked], fault) if streams else _whole(blocked)
        generated = _GENERATED.get(fault.kind) or self._generate(asked, body, model, conversation)
        if streams:
            return await _stream(request, chunks_of(generated, tail, tokens, cached), fault)
        if fault.kind in ("error", "cut", "torn", "stall", "silence"):
            return await _fail_whole(request, fault, exchange)
        return _whole(body_of(generated, tail, tokens, cached))

    def _generate(self, asked: Asked, body: dict[str, Any], model: Model, conversation: Any) -> GeneratedReply:
        speaker = Speaker(body, asked.name, model, self.signatures, self.chance)
        reply = decide(conversation)
        generated = speaker.generate(reply)
        if reply.query:
            generated.grounding = ground(reply.text, reply.query)
        return generated


def _decode(raw: bytes) -> tuple[Any, ContractViolation | None]:
    try:
        body = json.loads(raw)
    except ValueError as error:
        return None, ContractViolation("json", f"Invalid JSON payload received. {error}")
    if not isinstance(body, dict):
        return None, ContractViolation("json", "Invalid JSON payload received. Unexpected token.")
    return body, None


def _prompt_of(body: dict[str, Any]) -> tuple[str, int]:
    messages = [
        {"inline": "data:;base64," + part["inlineData"]["data"]} if "inlineData" in part else part
        for content in body.get("contents") or ()
        for part in content.get("parts") or ()
    ]
    return prompt_of({"tools": [body.get("systemInstruction"), body.get("tools")], "messages": messages})


def _send(refusal: ErrorResponse, exchange: Exchange) -> web.Response:
    exchange.status = refusal.status
    headers = {"content-type": refusal.content_type, "server": "ESF"}
    return web.Response(status=refusal.status, body=refusal.body, headers=headers | refusal.headers)


def _whole(body: dict[str, Any]) -> Outcome:
    return web.json_response(body, headers={"server": "ESF"}), "answered"


async def _fail_whole(request: web.Request, fault: Fault, exchange: Exchange) -> Outcome:
    """Fail a reply that is not streamed as the stream would have failed."""
    if (failed := await fail_whole(request, fault)) is not None:
        return failed
    return _send(refuse(503, _UNAVAILABLE), exchange), "refused"


async def _stream(request: web.Request, chunks: Iterable[dict[str, Any]], fault: Fault) -> Outcome:
    headers = {"content-type": "text/event-stream", "server": "ESF"}
    pieces = 0 if fault.kind == "error" else 2
    late = {"error": lambda: frame(error_of(503, _UNAVAILABLE))}
    return await send_stream(request, map(frame, chunks), headers, fault, pieces=pieces, late=late)


def new_gemini(key: str = KEY, accepts_token: Callable[[str], bool] | None = None) -> web.Application:
    """Return the stand-in as an application; `accepts_token` judges Vertex AI's tokens, else the key is one."""
    stand_in = Gemini(key, accepts_token or (lambda token: token == key))
    application = new_application(stand_in.answer, RequestLog())
    application[STAND_IN] = stand_in
    return application


STAND_IN = web.AppKey("stand_in", Gemini)
