"""Refusals that a client with a virtual key reads: none tells it what only an administrator can do."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import httpx2 as httpx

from tests.attacks.buyer import KEY_SETTINGS, Attempts, Buyer
from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.upstream import UpstreamCall, respond
from tests.faults.client import Answer
from tests.support.pdf import document, write_pdf

_CONTACT = "help@corp.example"
_SETTINGS = {
    **KEY_SETTINGS,
    "PREFERRED_PROVIDER": "anthropic",
    "FIDELITY_HAIKU": "strict",
    "MODEL_HAIKU": "openai/gpt-4.1",
    "LIMIT_CONTACT": _CONTACT,
    "XAI_BASE_URL": "http://127.0.0.1:9/v1",
    "XAI_API_KEY": "xai-attack-00001",
}
_ADVICE = re.compile(
    r"anthropic-proxy (?!keys list|login)[a-z]|\.env\b|\b(?:[Ss]et|with|by|to|one of) [A-Z]+_[A-Z_<>]+|address is set"
    r"|[Ss]tart (?:it|this)|Check its path|pip install"
)
"""What only an administrator can do: commands, settings and their files."""
_PDF = document(write_pdf("A deed"))
_BODIES: Mapping[str, Any] = {
    "a lost field in the mode strict": ordinary("claude-haiku-4-5", top_k=5),
    "a lost field and a stream": ordinary("claude-haiku-4-5", top_k=5, stream=True),
    "a document": ordinary("ollama/llama3", messages=[{"role": "user", "content": [_PDF]}]),
    "a model of a vendor without a key": ordinary("moonshot/kimi-k2"),
    "a model that needs a package": ordinary("azure/gpt-4.1"),
    "a cloud without credentials": ordinary("vertex_ai/gemini-2.5-pro"),
    "a cloud without a region": ordinary("bedrock/us.anthropic.claude-sonnet-4-5-v1:0"),
    "a server that does not run": ordinary("xai/grok-4"),
    "a server that does not run, streamed": ordinary("xai/grok-4", stream=True),
    "an empty model": ordinary(""),
    "no JSON": b"{",
}
_PATHS = (
    *("/metrics", "/dashboard", "/dashboard/settings", "/api/requests", "/api/usage", "/admin/keys", "/admin/keys/x"),
    *("/anthropic/v1/messages", "/v1/files", "/v1/skills", "/v1/messages/batches", "/v1/agents", "/v1/complete"),
)
_RESPONSES: Mapping[str, bytes] = {
    "a page": respond(b"<html>hello</html>", "text/html"),
    "a redirect": respond(b"", head=b"location: http://10.1.2.3/x\r\n", status=302),
    "an unknown path": respond(b"<html>not found</html>", "text/html", status=404),
    "an unknown path in JSON": respond(b'{"detail":"Not Found"}', status=404),
    "another method": respond(b'{"detail":"Method Not Allowed"}', status=405),
    "a compressed reply": respond(b"x", head=b"content-encoding: br\r\n"),
    "a strange status": respond(b"x", status=700),
}
_MODELS = ("openai/gpt-4.1", "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-flash", "ollama/llama3")


def _ask_all(attack: Attack, buyer: Buyer) -> Iterator[tuple[str, httpx.Response]]:
    for name, body in _BODIES.items():
        yield name, buyer.post(body)
    for path in _PATHS:
        yield path, buyer.client.get(path)
        yield f"POST {path}", buyer.post({}, path)
    for name, response in _RESPONSES.items():

        def build(_: UpstreamCall, response: bytes = response) -> bytes:
            return response

        attack.upstream.reply = build
        for model in _MODELS:
            for stream in (False, True):
                yield f"{name}, {model}, {stream}", buyer.post(ordinary(model, stream=stream))


def _read_refusals(attack: Attack) -> list[Answer]:
    buyer, attempts = Buyer(attack), Attempts()
    for name, answer in _ask_all(attack, buyer):
        attempts.check(name, not _ADVICE.search(answer.text), answer.text)
    seen = buyer.client.get("/api/requests/recent")
    attempts.check("its own requests", seen.status_code == 200 and not _ADVICE.search(seen.text), seen.text)
    return attempts.finish(attack)


DEVELOPERS: tuple[Row, ...] = (
    Row(name="developers: refusals of a virtual key", run=_read_refusals, settings=_SETTINGS),
)
