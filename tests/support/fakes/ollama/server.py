"""The stand-in itself: takes a request, judges it, and answers as planned.

Faults that a marker in the prompt asks for, besides the refusals of `failures`:
`late` (no headers for `seconds`), `silence` (headers, then nothing for `seconds`), `stall` (the same after `pieces`
lines), `cut` (the connection breaks after `pieces` lines), `torn` (the stream ends there, without its last line),
`error` (an error line there), `reset` (the connection breaks before any byte), `length`, `empty`.
"""

import json
import random
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from messages_conformance.backends.ollama.shapes import check
from messages_conformance.backends.ollama.wire import stream_lines, whole_reply, write_line
from tests.support.fakes.faults import NO_FAULT, Outcome, fail_early, fail_whole, send_stream
from tests.support.fakes.model_scripts import Fault, Faults, decide
from tests.support.fakes.ollama.failures import ErrorResponse, refuse, refuse_by_plan, refuse_model, refuse_overflow
from tests.support.fakes.ollama.models import Model, find_model, show, tags
from tests.support.fakes.ollama.reading import prompt_tokens, read_conversation
from tests.support.fakes.ollama.replies import cut_reply, script
from tests.support.fakes.ollama.rules import check_body
from tests.support.fakes.scripted_model import Reply
from tests.support.fakes.server import ContractViolation, Exchange, RequestLog, leaks, new_application

_REPLIES = {"length": Reply(text="The first words of a text that", finish="length"), "empty": Reply()}
_FAILED = "an error was encountered while running the model"


class Ollama:
    """The state of one stand-in: fault counts and chance. With a key, only clients that present it are served."""

    def __init__(self, key: str | None) -> None:
        self.key = key
        self.faults = Faults()
        self.chance = random.Random(4)

    async def answer(self, request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        body = _decode(raw) if raw else None
        exchange = journal.open(request, body)
        exchange.breaches.extend(leaks(exchange.headers, raw))
        outcome = "cancelled"
        try:
            response, outcome = await self._answer(request, body, exchange)
        finally:
            journal.close(exchange, outcome)
        return response

    async def _answer(self, request: web.Request, body: Any, exchange: Exchange) -> Outcome:
        asked = (request.method, request.path)
        if asked in (("GET", "/"), ("HEAD", "/")):
            return web.Response(text="Ollama is running"), "answered"
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return _send(refuse(401, "unauthorized"), exchange)
        exchange.status = 200
        if asked == ("GET", "/api/version"):
            return web.json_response({"version": "0.32.9"}), "answered"
        if asked == ("GET", "/api/tags"):
            return web.json_response(tags()), "answered"
        if asked not in (("POST", "/api/show"), ("POST", "/api/chat")):
            exchange.breaches.append(ContractViolation("url", f"there is no {request.method} {request.path}"))
            return _send(ErrorResponse(404, b"404 page not found", {}, "text/plain"), exchange)
        if not isinstance(body, dict):
            exchange.breaches.append(ContractViolation("json", "the body is no JSON object"))
            return _send(refuse(400, "missing request body" if body is None else "invalid character"), exchange)
        if request.path == "/api/show":
            return self._show(body, exchange)
        return await self._chat(request, body, exchange)

    def _show(self, body: dict[str, Any], exchange: Exchange) -> Outcome:
        exchange.breaches.extend(check(body, "ShowRequest", "ShowRequest"))
        if exchange.breaches:
            return _send(refuse(400, exchange.breaches[0].message), exchange)
        found = find_model(body["model"])
        if found is None:
            return _send(refuse_model(body["model"]), exchange)
        return web.json_response(show(found[1])), "answered"

    async def _chat(self, request: web.Request, body: dict[str, Any], exchange: Exchange) -> Outcome:
        name = str(body.get("model", ""))
        found = find_model(name)
        if found is None:
            return _send(refuse_model(name), exchange)
        model = found[1]
        breaches = list(check_body(body, name, model))
        exchange.breaches.extend(breaches)
        if breaches:
            return _send(refuse(400, breaches[0].message), exchange)
        conversation = read_conversation(body)
        fault = self.faults.find(conversation) or NO_FAULT
        if (failed := await fail_early(request, fault)) is not None:
            return failed
        window = min(body["options"].get("num_ctx", model.context), model.context)
        tokens = prompt_tokens(body)
        refusal = refuse_by_plan(fault, name, window)
        if refusal is None and tokens >= window:
            refusal = refuse_overflow(tokens, window)
        if refusal is not None:
            return _send(refusal, exchange)
        limit = min(body["options"].get("num_predict", -1) % (1 << 30), window - tokens)
        reply = _REPLIES.get(fault.kind) or decide(conversation)
        generated = cut_reply(reply, limit, thinks=_thinks(body, model), chance=self.chance)
        remote = {"remote_model": model.remote, "remote_host": "https://ollama.com:443"} if model.remote else {}
        scripted = script(generated, tokens)
        if body.get("stream", True):
            lines = (value | remote for value in stream_lines(scripted, name) if isinstance(value, dict))
            return await _stream(request, lines, fault)
        if fault.kind in ("error", "cut", "torn", "stall", "silence"):
            return await _fail_whole(request, fault, exchange)
        return web.json_response(whole_reply(scripted, name) | remote), "answered"


def _thinks(body: dict[str, Any], model: Model) -> bool:
    return model.can("thinking") and body.get("think", True) is not False


def _decode(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode("utf-8", "replace")


def _send(refusal: ErrorResponse, exchange: Exchange) -> Outcome:
    exchange.status = refusal.status
    headers = {"content-type": refusal.content_type} | refusal.headers
    return web.Response(status=refusal.status, body=refusal.body, headers=headers), "refused"


async def _fail_whole(request: web.Request, fault: Fault, exchange: Exchange) -> Outcome:
    """Fail a reply that is not streamed as the stream would have failed."""
    failed = await fail_whole(request, fault)
    return failed or _send(refuse(500, _FAILED), exchange)


async def _stream(request: web.Request, lines: Iterator[dict[str, Any]], fault: Fault) -> Outcome:
    headers = {"content-type": "application/x-ndjson"}
    pieces = 0 if fault.kind == "error" else 4
    late = {"error": lambda: write_line({"error": _FAILED})}
    return await send_stream(request, map(write_line, lines), headers, fault, pieces=pieces, late=late)


def new_ollama(key: str | None = None) -> web.Application:
    return new_application(Ollama(key).answer, RequestLog())
