"""Provider traffic on each wire: the smallest replies and errors in which a fault can be hidden."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from tests.support.replies import (
    CHAT,
    GEMINI,
    GROQ,
    MESSAGES,
    OLLAMA,
    RESPONSES,
    Reply,
    ReplyForm,
    encode,
    event,
)

PIECES = ("Über ", "den ", "Wolken")
"""Text of the model; the first letter takes two bytes, so that it can be cut in two."""
BEGUN = PIECES[0]
WHOLE = "".join(PIECES)
COUNT = 7
"""The number of tokens in every count."""
ANSWERED: Mapping[str, bytes] = {
    "/api/tags": b'{"models":[{"name":"llama3:latest","size":1}]}',
    "/api/show": b'{"capabilities":["completion","tools"],"model_info":{"llama.context_length":8192}}',
}
"""Questions beside the request itself, which no row is about."""
_TEXT = "(text)"
_CALL = ("call_1", "dig", ['{"deep": 1', "}"])


def literal(text: str) -> bytes:
    """Return a text as a JSON string."""
    return json.dumps(text, ensure_ascii=False).encode()


@dataclass(frozen=True, kw_only=True)
class ProviderProtocol:
    """One wire, as one provider speaks it."""

    name: str
    """As tables call it: `chat`."""
    provider: str
    """Protocols of the same provider share an address, and are asked one after the other."""
    model: str
    """Model that the client asks for."""
    address: str
    """The setting with the address. The text after it is the path below the address."""
    path: str = ""
    settings: Mapping[str, str]
    serves: str
    """Part of the path of each request."""
    replies: ReplyForm
    error: Callable[[int, str], bytes]
    """The body of a refusal with a status and a message."""
    fault: Callable[[str, bool], bytes]
    """The body of an error that comes as a success, with a message; True: an overload."""
    broken: Callable[[bytes], bytes] = lambda fault: b"data: " + fault + b"\n\n"
    """The record of such a body inside a stream that began well."""
    framing: Literal["sse", "ndjson"] = "sse"

    @property
    def route(self) -> str:
        return f"chain-{self.name}"

    @property
    def route_table(self) -> str:
        """The table of a route to two models over this protocol."""
        model = self.model if "/" in self.model else f"{self.provider}/{self.model}"
        targets = json.dumps([f"{model}-old", model])
        return f'[[routes]]\nname = "{self.route}"\nwhen.model = "{self.route}"\ntargets = {targets}\n'

    def serves_path(self, path: str) -> bool:
        """Return whether a request with this path is meant for this protocol."""
        return self.serves in path.partition("?")[0]

    def streams(self, path: str, body: Any) -> bool:
        """Return whether a stream was asked for."""
        return ":streamGenerateContent" in path or bool(body.get("stream"))

    def frame(self, data: bytes) -> bytes:
        """Return one record of a stream."""
        return data + b"\n" if self.framing == "ndjson" else b"data: " + data + b"\n\n"

    def _parts(self, count: Any = COUNT) -> tuple[bytes, bytes, bytes]:
        """Return what comes before the text, the record with the text, and what comes after it."""
        records = self.replies.stream(Reply(texts=[_TEXT], count=count))
        place = next(place for place, record in enumerate(records) if literal(_TEXT) in record)
        return b"".join(records[:place]), records[place], b"".join(records[place + 1 :])

    @cached_property
    def _usual_parts(self) -> tuple[bytes, bytes, bytes]:
        return self._parts()

    @property
    def opening(self) -> bytes:
        """The beginning of a stream, before any text of the model."""
        return self._usual_parts[0]

    def words(self, content: bytes) -> bytes:
        """Return the record of a fragment; `content` is a JSON string."""
        return self._usual_parts[1].replace(literal(_TEXT), content)

    @property
    def calling(self) -> bytes:
        """A stream with the beginning of a tool call: half of its arguments, or all of them where calls come whole."""
        records = self.replies.stream(Reply(calls=[_CALL]))
        place = next(place for place, record in enumerate(records) if b"deep" in record)
        return b"".join(records[: place + 1])

    def ending(self, count: Any = COUNT) -> bytes:
        """Return the end that marks a stream as complete."""
        return self._parts(count)[2].replace(literal(_TEXT), literal(WHOLE))

    def body(self, content: bytes, count: Any = COUNT) -> bytes:
        """Return a reply that is not streamed."""
        return self.replies.whole(Reply(texts=[_TEXT], count=count)).replace(literal(_TEXT), content)


def _refuse_openai(status: int, message: str) -> bytes:
    codes = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
    kind = "invalid_request_error" if status < 500 else "server_error"
    return encode({"error": {"message": message, "type": kind, "param": None, "code": codes.get(status)}})


def _fail_chat(message: str, overloaded: bool) -> bytes:
    code = "engine_overloaded_error" if overloaded else None
    return encode({"error": {"message": message, "type": "server_error", "param": None, "code": code}})


def _fail_responses(message: str, overloaded: bool) -> bytes:
    error = {"code": "overloaded_error" if overloaded else "server_error", "message": message}
    return encode({"id": "resp_1", "object": "response", "status": "failed", "error": error, "output": []})


def _refuse_google(status: int, message: str) -> bytes:
    names = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
    names |= {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
    error: dict[str, Any] = {"code": status, "message": message}
    return encode({"error": error | ({"status": names[status]} if status in names else {})})


def _fail_ollama(message: str, overloaded: bool) -> bytes:
    return encode({"error": "server busy, please try again" if overloaded else message})


def _refuse_anthropic(status: int, message: str) -> bytes:
    kinds = {401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error"}
    kinds |= {413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error", 529: "overloaded_error"}
    kind = kinds.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return encode({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_upstream"})


_OPENAI: dict[str, Any] = {"provider": "openai", "address": "OPENAI_BASE_URL", "path": "/v1", "error": _refuse_openai}
_GOOGLE: dict[str, Any] = {
    "serves": "enerateContent",
    "replies": GEMINI,
    "error": _refuse_google,
    "fault": lambda message, overloaded: _refuse_google(503 if overloaded else 500, message),
}
_CHAT: dict[str, Any] = {**_OPENAI, "serves": "/chat/completions", "fault": _fail_chat}
PROTOCOLS = (
    ProviderProtocol(
        **_CHAT,
        name="chat",
        model="openai/gpt-4.1",
        settings={"OPENAI_API_KEY": "sk-lab-openai-0001"},
        replies=CHAT,
    ),
    ProviderProtocol(
        **_OPENAI,
        name="responses",
        model="openai/gpt-5.5",
        settings={},
        serves="/responses",
        replies=RESPONSES,
        fault=_fail_responses,
        broken=lambda fault: event({"type": "error", **json.loads(fault)["error"], "param": None}),
    ),
    ProviderProtocol(
        **_GOOGLE,
        name="gemini",
        provider="google",
        model="gemini/gemini-3.6-flash",
        address="GEMINI_BASE_URL",
        settings={"GEMINI_API_KEY": "lab-gemini-1"},
    ),
    ProviderProtocol(
        **_GOOGLE,
        name="vertex",
        provider="vertex",
        model="vertex_ai/gemini-3.6-flash",
        address="VERTEX_BASE_URL",
        settings={"VERTEX_PROJECT": "lab"},
    ),
    ProviderProtocol(
        name="ollama",
        provider="ollama",
        model="ollama/llama3",
        address="OLLAMA_API_BASE",
        settings={},
        serves="/api/chat",
        replies=OLLAMA,
        error=lambda _, message: encode({"error": message}),
        fault=_fail_ollama,
        broken=lambda fault: fault + b"\n",
        framing="ndjson",
    ),
    ProviderProtocol(
        name="relay",
        provider="anthropic",
        model="claude-sonnet-4-5",
        address="ANTHROPIC_UPSTREAM_URL",
        settings={"ANTHROPIC_API_KEY": "lab-ant-1"},
        serves="/messages",
        replies=MESSAGES,
        error=_refuse_anthropic,
        fault=lambda message, overloaded: _refuse_anthropic(529 if overloaded else 500, message),
        broken=lambda fault: b"event: error\ndata: " + fault + b"\n\n",
    ),
    ProviderProtocol(
        **{**_CHAT, "provider": "groq", "address": "GROQ_BASE_URL"},
        name="groq",
        model="groq/llama-3.3-70b-versatile",
        settings={"GROQ_API_KEY": "gsk_lab_groq_01"},
        replies=GROQ,
    ),
)
