"""Refusals in the form of Ollama: a status and `{"error": "text"}`."""

import json
from dataclasses import dataclass, field

from messages_conformance.backends.ollama.wire import TEXTS
from tests.support.fakes.model_scripts import Fault


@dataclass(frozen=True)
class ErrorResponse:
    """An answer that is no reply."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


def refuse(status: int, text: str, headers: dict[str, str] | None = None, **more: str) -> ErrorResponse:
    return ErrorResponse(status, json.dumps({"error": text, **more}).encode(), headers or {})


def refuse_model(name: str) -> ErrorResponse:
    return refuse(404, f"model '{name}' not found")


def refuse_overflow(tokens: int, window: int) -> ErrorResponse:
    """Return the refusal of a prompt that is larger than the window: the engine's own body as the text."""
    inner = {
        "code": 400,
        "message": f"request ({tokens} tokens) exceeds the available context size ({window} tokens), try increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": tokens,
        "n_ctx": window,
    }
    return refuse(400, json.dumps({"error": inner}, separators=(",", ":")))


def refuse_by_plan(fault: Fault, name: str, window: int) -> ErrorResponse | None:
    """Return the refusal that a fault asks for; None where it is none of those that come instead of a reply."""
    seconds = fault.figure("after", 1)
    refusals = {
        "rate": refuse(429, TEXTS["rate_limit"], {"retry-after": f"{seconds:g}"}),
        "overflow": refuse_overflow(window + 4_321, window),
        "missing": refuse_model(name),
        "unauthorized": refuse(401, "unauthorized", signin_url="https://ollama.com/connect?name=box&key=fake"),
        "forbidden": refuse(403, TEXTS["permission"]),
        "thinking": refuse(400, f'"{name}" does not support thinking'),
        "server": refuse(500, TEXTS["server"]),
        "memory": refuse(500, "model requires more system memory (52.9 GiB) than is available (31.2 GiB)"),
        "overloaded": refuse(503, TEXTS["overloaded"]),
        "unavailable": ErrorResponse(
            503, b"upstream connect error or disconnect/reset before headers", {}, "text/plain"
        ),
        "gateway": ErrorResponse(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>", {}, "text/html"),
    }
    return refusals.get(fault.kind)
