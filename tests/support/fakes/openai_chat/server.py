"""The stand-in itself: takes a request, judges it, and answers as planned.

Faults that a marker in the prompt asks for, besides the refusals of `failures`:
`late` (no headers for `seconds`), `silence` (headers, then nothing for `seconds`), `stall` (the same after `pieces`
chunks), `cut` (the connection breaks after `pieces` chunks), `torn` (the stream ends there, without an end),
`error` (an error chunk there), `reset` (the connection breaks before any byte), `refusal`, `filter`, `length`, `empty`.
"""

import json
import random
import time
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from anthropic_proxy.engine.providers.provider_models import LOADED_PATHS
from tests.support.fakes.faults import NO_FAULT, Outcome, fail_early, fail_whole, send_stream
from tests.support.fakes.model_scripts import Fault, Faults, decide
from tests.support.fakes.openai_chat.failures import (
    ErrorResponse,
    refuse,
    refuse_breach,
    refuse_by_plan,
    refuse_key,
    refuse_model,
    refuse_overflow,
)
from tests.support.fakes.openai_chat.models import MODELS, Model, find_model
from tests.support.fakes.openai_chat.reading import PICTURE_TOKENS, PromptCache, count, prompt_of, read_conversation
from tests.support.fakes.openai_chat.replies import body_of, chunks_of, cut_reply, frame, new_id, usage_of
from tests.support.fakes.openai_chat.rules import check_body
from tests.support.fakes.scripted_model import Reply
from tests.support.fakes.server import ContractViolation, Exchange, RequestLog, leaks, new_application
from tests.support.secret_canaries import new_canary

KEY = new_canary("sk-fake-")
"""The key that is accepted, unless the command line names another."""

COUNT_PATHS = ("/v1/chat/completions/input_tokens", "/tokenize")
"""Token counts of llama.cpp and vLLM. A client finds out by asking whether a server has them."""
DONE = b"data: [DONE]\n\n"
SORRY = "The server had an error while processing your request. Sorry about that!"
REPLIES = {
    "refusal": Reply(refusal="I'm sorry, but I can't help with that."),
    "filter": Reply(text="The first words of a text that", finish="filter"),
    "length": Reply(text="The first words of a text that", finish="length"),
    "empty": Reply(),
}


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _decode(request: web.Request, raw: bytes) -> tuple[Any, ContractViolation | None]:
    if request.content_type != "application/json":
        text = f"Unsupported Content-Type: '{request.content_type}'. Use 'application/json'."
        return None, ContractViolation("content_type", text)
    try:
        body = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_twice, parse_constant=_no_constant)
    except ValueError:
        return None, ContractViolation("json", "We could not parse the JSON body of your request.")
    if not isinstance(body, dict):
        return body, ContractViolation("json", "Invalid type for 'body': expected an object.")
    return body, None


class OpenAI:
    """One stand-in: its key, its prompt cache, and which faults were given already."""

    path = "/v1/chat/completions"

    def __init__(self, key: str) -> None:
        self.key = key
        self.cache = PromptCache()
        self.faults = Faults()
        self.chance = random.Random(4)

    async def answer(self, request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        body, unreadable = (None, None) if not raw else _decode(request, raw)
        exchange = journal.open(request, body)
        exchange.breaches.extend(leaks(exchange.headers, raw))
        outcome = "cancelled"
        try:
            refusal = self._refuse(request, body, unreadable, exchange)
            if refusal is not None:
                response = await self.send(request, refusal, exchange)
                outcome = "refused"
            elif request.method == "GET":
                response, outcome = self._list_models(request.path, exchange), "answered"
            else:
                response, outcome = await self.reply(request, body, exchange)
        finally:
            journal.close(exchange, outcome)
        return response

    def _refuse(
        self, request: web.Request, body: Any, unreadable: ContractViolation | None, exchange: Exchange
    ) -> ErrorResponse | None:
        """Return the refusal of a request that does not come as far as a model."""
        is_listing = request.method == "GET" and request.path.startswith("/v1/models")
        if not is_listing and (request.method, request.path) != ("POST", self.path):
            text = f"Invalid URL ({request.method} {request.path})"
            if request.path not in (*COUNT_PATHS, *LOADED_PATHS):
                exchange.breaches.append(ContractViolation("url", text))
            return refuse(404, text)
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or key != self.key:
            return refuse_key(key)
        if is_listing:
            return None
        if unreadable is None and body is None:
            unreadable = ContractViolation("json", "We could not parse the JSON body of your request.")
        if unreadable is not None:
            exchange.breaches.append(unreadable)
            return refuse_breach(unreadable)
        name = str(body.get("model", ""))
        model = find_model(name)
        unfit = self.refuse_model(name, model) if "model" in body else None
        if unfit is not None:
            return unfit
        breaches = list(self.check(body, model or MODELS["gpt-4.1"]))
        exchange.breaches.extend(breaches)
        return refuse_breach(breaches[0]) if breaches else None

    def check(self, body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
        return check_body(body, model)

    def refuse_model(self, name: str, model: Model | None) -> ErrorResponse | None:
        return refuse_model(name, model)

    async def send(self, request: web.Request, refusal: ErrorResponse, exchange: Exchange) -> web.Response:
        exchange.status = refusal.status
        headers = {"x-request-id": new_id("req_", 32, self.chance), "content-type": refusal.content_type}
        return web.Response(status=refusal.status, body=refusal.body, headers=headers | refusal.headers)

    def _list_models(self, path: str, exchange: Exchange) -> web.Response:
        listed = [
            {"id": name, "object": "model", "created": 1_744_316_542, "owned_by": "system"} for name in sorted(MODELS)
        ]
        wanted = path.removeprefix("/v1/models").strip("/")
        exchange.status = 200
        if not wanted:
            return web.json_response({"object": "list", "data": listed})
        one = next((entry for entry in listed if entry["id"] == wanted), None)
        return web.json_response(one) if one else web.json_response({"error": {"message": "no such model"}}, status=404)

    async def reply(self, request: web.Request, body: dict[str, Any], exchange: Exchange) -> Outcome:
        model = find_model(body["model"]) or MODELS["gpt-4.1"]
        conversation = read_conversation(body)
        fault = self.faults.find(conversation) or NO_FAULT
        if (failed := await fail_early(request, fault)) is not None:
            return failed
        refusal = refuse_by_plan(fault, body["model"], model)
        prompt, pictures = prompt_of(body)
        functions = count(json.dumps(body["tools"])) if body.get("tools") else 0
        messages = count(prompt) + pictures * PICTURE_TOKENS - functions
        output = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        if refusal is None and messages + functions + output > model.window:
            refusal = refuse_overflow(model, messages, functions, output)
        if refusal is not None:
            return await self.send(request, refusal, exchange), "refused"
        generated = cut_reply(
            REPLIES.get(fault.kind) or decide(conversation),
            body,
            reasons=model.reasons and (body.get("reasoning_effort") or model.default_effort) != "none",
            chance=self.chance,
        )
        usage = exchange.usage = usage_of(generated, messages + functions, self.cache.feed(prompt))
        exchange.status = 200
        head = self._head(body, model)
        headers = self.headers()
        if not body.get("stream"):
            if fault.kind in ("error", "cut", "torn", "stall", "silence"):
                return await self.fail_whole(request, fault, exchange)
            return web.json_response(body_of(generated, head, usage), headers=headers), "answered"
        asked = (body.get("stream_options") or {}).get("include_usage")
        chunks = chunks_of(generated, head, usage if asked else None, self.chance)
        headers |= {"content-type": "text/event-stream; charset=utf-8"}
        pieces = 0 if fault.kind == "error" else 4
        late = {"error": _stream_error}
        return await send_stream(request, map(frame, chunks), headers, fault, pieces=pieces, late=late, end=DONE)

    async def fail_whole(self, request: web.Request, fault: Fault, exchange: Exchange) -> Outcome:
        """Fail a reply that is not streamed as the stream would have failed."""
        if (failed := await fail_whole(request, fault)) is not None:
            return failed
        return await self.send(request, refuse(500, SORRY, kind="server_error"), exchange), "refused"

    def _head(self, body: dict[str, Any], model: Model) -> dict[str, Any]:
        return {
            "id": new_id("chatcmpl-", 29, self.chance),
            "object": "",
            "created": int(time.time()),
            "model": model.snapshot or body["model"],
            "service_tier": "default",
            "system_fingerprint": None if model.reasons else "fp_de604bd877",
        }

    def headers(self) -> dict[str, str]:
        return {
            "x-request-id": new_id("req_", 32, self.chance),
            "openai-version": "2020-10-01",
            "openai-organization": "org-fake",
            "openai-processing-ms": "12",
            "x-ratelimit-limit-requests": "10000",
            "x-ratelimit-remaining-requests": "9999",
            "x-ratelimit-reset-requests": "6ms",
            "x-ratelimit-limit-tokens": "30000000",
            "x-ratelimit-remaining-tokens": "29999000",
            "x-ratelimit-reset-tokens": "2ms",
        }


def _stream_error() -> bytes:
    return frame({"error": {"message": SORRY, "type": "server_error", "param": None, "code": None}})


def new_openai(key: str = KEY) -> web.Application:
    return new_application(OpenAI(key).answer, RequestLog())
