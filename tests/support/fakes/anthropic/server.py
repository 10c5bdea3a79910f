"""The stand-in itself: takes a request, judges it, and answers as planned.

Faults that a marker in the prompt asks for, besides the refusals of `failures`:
`late` (no headers for `seconds`), `silence` (headers, then nothing for `seconds`), `stall` (the same after `pieces`
events), `cut` (the connection breaks after `pieces` events), `half` (in the middle of the next event), `torn` (the
stream ends there, without an end), `error` (an error event there), `reset` (the connection breaks before any byte),
`filter`, `length`.
"""

import asyncio
import json
import random
from typing import Any

from aiohttp import web

from messages_conformance.backends.messages.editing import edit_context
from tests.support.fakes.anthropic.failures import (
    ErrorResponse,
    refuse_by_plan,
    refuse_key,
    refuse_model,
    refuse_overflow,
    refuse_request,
)
from tests.support.fakes.anthropic.models import MODELS, find_model
from tests.support.fakes.anthropic.reading import PromptCache, count, read_conversation
from tests.support.fakes.anthropic.replies import cut_reply, events_of, frame, message_of, new_id, usage_of
from tests.support.fakes.anthropic.rules import OURS, check_body
from tests.support.fakes.anthropic.summaries import write_summary
from tests.support.fakes.faults import NO_FAULT, Outcome, break_connection, fail_early
from tests.support.fakes.model_scripts import Fault, Faults, decide
from tests.support.fakes.scripted_model import Reply
from tests.support.fakes.server import ContractViolation, Exchange, RequestLog, new_application
from tests.support.secret_canaries import new_canary

KEY = new_canary("sk-ant-fake-")
"""The key that is accepted, unless the command line names another."""

MESSAGES, COUNTING, LISTING = "/v1/messages", "/v1/messages/count_tokens", "/v1/models"
VERSIONS = ("2023-06-01", "2026-10-21")
_REPLIES = {
    "filter": Reply(text="The first words of a text that", finish="filter"),
    "length": Reply(text="The first words of a text that", finish="length"),
}


class Anthropic:
    """One stand-in: its keys, its prompt cache, and which faults were given already."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys
        self.cache = PromptCache()
        self.faults = Faults()
        self.chance = random.Random(4)
        self.raw: dict[int, bytes] = {}
        """Number of an exchange → the bytes of its request."""

    async def answer(self, request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        body = _decode(raw)
        exchange = journal.open(request, body)
        self.raw[exchange.number] = raw
        if f'"{OURS}'.encode() in raw:
            exchange.breaches.append(
                ContractViolation("leak", "a thinking block of the proxy's own reached the provider")
            )
        request_id = new_id("req_", self.chance)
        outcome = "cancelled"
        try:
            refusal = self._refuse(request, body, exchange)
            if refusal is not None:
                response, outcome = _send(refusal, exchange, request_id), "refused"
            elif request.method == "GET":
                response, outcome = self._list_models(request, exchange, request_id), "answered"
            elif request.path == COUNTING:
                response, outcome = self._count(body, exchange, request_id), "answered"
            else:
                response, outcome = await self._reply(request, body, exchange, request_id)
        finally:
            journal.close(exchange, outcome)
        return response

    def _refuse(self, request: web.Request, body: Any, exchange: Exchange) -> ErrorResponse | None:
        """Return the refusal of a request that does not come as far as a model."""
        is_listing = request.method == "GET" and request.path.startswith(LISTING)
        if not is_listing and (request.method, request.path) not in (("POST", MESSAGES), ("POST", COUNTING)):
            exchange.breaches.append(ContractViolation("url", f"{request.method} {request.path}"))
            return ErrorResponse(404, "not_found_error", "Not Found")
        key = request.headers.get("x-api-key", "")
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if (key or token) not in self.keys:
            return refuse_key(key, token)
        version = request.headers.get("anthropic-version")
        if version not in VERSIONS:
            text = f'"{version}" is not a valid version' if version else "header is required"
            exchange.breaches.append(ContractViolation("version", f"anthropic-version: {text}"))
            return refuse_request(exchange.breaches[-1].message)
        return None if is_listing else self._judge(request, body, exchange)

    def _judge(self, request: web.Request, body: Any, exchange: Exchange) -> ErrorResponse | None:
        if request.content_type != "application/json" or not isinstance(body, dict):
            exchange.breaches.append(
                ContractViolation("json", "The request body is not valid JSON: expected an object")
            )
            return refuse_request(exchange.breaches[-1].message)
        model = find_model(body["model"]) if isinstance(body.get("model"), str) else MODELS["claude-sonnet-5-5"]
        if model is None:
            return refuse_model(body["model"])
        betas = request.headers.get("anthropic-beta", "")
        breaches = list(check_body(body, model, betas, counting=request.path == COUNTING))
        exchange.breaches.extend(breaches)
        return refuse_request(breaches[0].message) if breaches else None

    def _list_models(self, request: web.Request, exchange: Exchange, request_id: str) -> web.Response:
        entries = [
            {
                "type": "model",
                "id": model.snapshot or name,
                "display_name": model.title,
                "created_at": "2026-02-04T00:00:00Z",
                "max_input_tokens": model.window,
                "max_tokens": model.output,
            }
            for name, model in MODELS.items()
        ]
        wanted = request.path.removeprefix(LISTING).strip("/")
        headers = {"request-id": request_id}
        exchange.status = 200
        if wanted:
            model = find_model(wanted)
            one = next((entry for entry in entries if model and entry["display_name"] == model.title), None)
            if one is None:
                return _send(refuse_model(wanted), exchange, request_id)
            return web.json_response(one, headers=headers)
        ids = [entry["id"] for entry in entries]
        start = ids.index(request.query["after_id"]) + 1 if "after_id" in request.query else 0
        page = entries[start : start + int(request.query.get("limit", 20))]
        more = start + len(page) < len(entries)
        listed = {"data": page, "has_more": more, "first_id": page[0]["id"], "last_id": page[-1]["id"]}
        return web.json_response(listed, headers=headers)

    def _count(self, body: dict[str, Any], exchange: Exchange, request_id: str) -> web.Response:
        exchange.status = 200
        counted = {name: body[name] for name in ("system", "messages", "tools") if name in body}
        return web.json_response({"input_tokens": count(counted)}, headers={"request-id": request_id})

    async def _reply(self, request: web.Request, body: dict[str, Any], exchange: Exchange, request_id: str) -> Outcome:
        model = find_model(body["model"]) or MODELS["claude-sonnet-5-5"]
        edited, applied = edit_context(body)
        summary, edited = write_summary(edited) or (None, edited)
        conversation = read_conversation(edited)
        fault = self.faults.find(conversation) or NO_FAULT
        if (failed := await fail_early(request, fault)) is not None:
            return failed
        refusal = refuse_by_plan(fault, body["model"], model)
        prompt = count([edited.get("tools"), edited.get("system"), edited["messages"]])
        if refusal is None and prompt > model.window:
            refusal = refuse_overflow(prompt, model)
        if refusal is not None:
            return _send(refusal, exchange, request_id), "refused"
        if summary is not None and summary.reason == "compaction":
            generated, counts = summary, (0, 0, 0)
        else:
            generated = cut_reply(_REPLIES.get(fault.kind) or decide(conversation), body, self.chance)
            counts = prompt, *self.cache.feed(edited)
        if summary is not None and summary is not generated:
            generated.blocks[:0], generated.summarized = summary.blocks, summary.summarized
        generated.applied_edits = applied if body.get("context_management") else None
        usage = usage_of(generated, *counts)
        exchange.status = 200
        head = {
            "model": model.snapshot or body["model"],
            "id": new_id("msg_", self.chance),
            "type": "message",
            "role": "assistant",
        }
        headers = _headers(request_id)
        if body.get("stream"):
            frames = [frame(event, self.chance.randrange(16)) for event in events_of(generated, head, usage)]
            return await _stream(request, frames, headers, fault, request_id)
        if fault.kind in ("cut", "torn", "half"):
            break_connection(request)
            return web.Response(), "cut"
        if fault.kind in ("stall", "silence"):
            await asyncio.sleep(fault.figure("seconds", 10))
        return web.json_response(message_of(generated, head, usage), headers=headers), "answered"


def _decode(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8"))
    except ValueError:
        return None


def _headers(request_id: str) -> dict[str, str]:
    return {
        "request-id": request_id,
        "anthropic-organization-id": "8c1f6a02-0000-4000-8000-000000000000",
        "anthropic-ratelimit-requests-limit": "4000",
        "anthropic-ratelimit-requests-remaining": "3999",
        "anthropic-ratelimit-requests-reset": "2026-11-20T12:00:00Z",
        "server": "cloudflare",
        "cf-ray": "9a1b2c3d4e5f-FRA",
        "set-cookie": "__cf_bm=secret; path=/",
    }


def _send(refusal: ErrorResponse, exchange: Exchange, request_id: str) -> web.Response:
    exchange.status = refusal.status
    content_type = "application/json" if refusal.page is None else "text/html"
    headers = {**_headers(request_id), **refusal.headers, "content-type": content_type}
    return web.Response(status=refusal.status, body=refusal.body(request_id), headers=headers)


async def _stream(
    request: web.Request, frames: list[bytes], headers: dict[str, str], fault: Fault, request_id: str
) -> Outcome:
    """Write the events, one packet each, and fail where the fault requires it."""
    response = web.StreamResponse(headers={**headers, "content-type": "text/event-stream; charset=utf-8"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    if fault.kind == "silence":
        await asyncio.sleep(fault.figure("seconds", 10))
    pieces = int(fault.figure("pieces", 4))
    for position, one in enumerate(frames):
        if position == pieces and fault.kind == "stall":
            await asyncio.sleep(fault.figure("seconds", 10))
        elif position == pieces and fault.kind in ("cut", "half", "torn", "error"):
            await _fail(request, response, one, fault.kind, request_id)
            return response, "cut"
        await response.write(one)
    await response.write_eof()
    return response, "answered"


async def _fail(
    request: web.Request, response: web.StreamResponse, following: bytes, kind: str, request_id: str
) -> None:
    if kind == "half":
        await response.write(following[: len(following) // 2])
        await asyncio.sleep(0.05)  # so that the half arrives before the connection breaks
    if kind == "error":
        error = {"type": "overloaded_error", "message": "Overloaded"}
        await response.write(frame({"type": "error", "error": error, "request_id": request_id}))
    if kind in ("torn", "error"):
        await response.write_eof()
    else:
        break_connection(request)


def new_anthropic(*keys: str) -> web.Application:
    stand_in = Anthropic(keys or (KEY,))
    application = new_application(stand_in.answer, RequestLog())
    application[STAND_IN] = stand_in
    return application


STAND_IN = web.AppKey("stand_in", Anthropic)
