"""How a provider speaks each wire: the smallest replies and errors in which a fault can be hidden.

The shapes are those of the stand-ins in `tests.fakes`, which restate recorded traffic.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

PIECES = ("Über ", "den ", "Wolken")
"""What the model says; the first letter takes two bytes, so that it can be cut in two."""
BEGUN = PIECES[0]
WHOLE = "".join(PIECES)
USAGE = b"7"
"""The number of tokens in every count, as JSON has it."""
ANSWERED: Mapping[str, bytes] = {
    "/api/tags": b'{"models":[{"name":"llama3:latest","size":1}]}',
    "/api/show": b'{"capabilities":["completion","tools"],"model_info":{"llama.context_length":8192}}',
}
"""Questions beside the request itself, which no row is about."""


def literal(text: str) -> bytes:
    """Return a text as a JSON string."""
    return json.dumps(text, ensure_ascii=False).encode()


@dataclass(frozen=True)
class Voice:
    """One wire, as one provider speaks it."""

    name: str
    """As tables call it: `chat`."""
    provider: str
    """Voices of the same provider share an address, and are asked one after the other."""
    model: str
    """What the client asks for."""
    address: str
    """The setting that holds the address; what follows it is the path that belongs to it."""
    path: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    framing: Literal["sse", "ndjson"] = "sse"

    def speaks(self, path: str) -> bool:
        """Return whether a request with this path is meant for this voice."""
        raise NotImplementedError

    def streams(self, path: str, body: Any) -> bool:
        """Return whether a stream was asked for."""
        return bool(body.get("stream"))

    def frame(self, data: bytes) -> bytes:
        """Return one record of a stream."""
        return b"data: " + data + b"\n\n"

    def opening(self) -> bytes:
        """Return what a stream begins with, before the model says anything."""
        return b""

    def words(self, said: bytes) -> bytes:
        """Return the record of a fragment; `said` is a JSON string."""
        raise NotImplementedError

    def ending(self, count: bytes | None = USAGE) -> bytes:
        """Return how a stream says that it is complete; `count` stands in every place for a number of tokens."""
        raise NotImplementedError

    def body(self, said: bytes, count: bytes | None = USAGE) -> bytes:
        """Return a reply that is not streamed."""
        raise NotImplementedError

    def error(self, status: int, message: str) -> bytes:
        """Return the body of a refusal."""
        raise NotImplementedError

    def fault(self, message: str, *, overloaded: bool) -> bytes:
        """Return the body of an error that comes as a success."""
        raise NotImplementedError

    def broken(self, message: str, *, overloaded: bool) -> bytes:
        """Return the record of an error inside a stream that began well."""
        return self.frame(self.fault(message, overloaded=overloaded))


_KINDS = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


class Chat(Voice):
    """Chat Completions."""

    def speaks(self, path: str) -> bool:
        return path.endswith("/chat/completions")

    def _chunk(self, delta: bytes, reason: bytes = b"null") -> bytes:
        return self.frame(
            b'{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m",'
            b'"choices":[{"index":0,"delta":' + delta + b',"finish_reason":' + reason + b"}]}"
        )

    def opening(self) -> bytes:
        return self._chunk(b'{"role":"assistant","content":""}')

    def words(self, said: bytes) -> bytes:
        return self._chunk(b'{"content":' + said + b"}")

    def ending(self, count: bytes | None = USAGE) -> bytes:
        usage = b"" if count is None else self.frame(b'{"choices":[],"usage":' + self._usage(count) + b"}")
        return self._chunk(b"{}", b'"stop"') + usage + self.frame(b"[DONE]")

    def body(self, said: bytes, count: bytes | None = USAGE) -> bytes:
        usage = b"" if count is None else b',"usage":' + self._usage(count)
        return (
            b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
            b'{"role":"assistant","content":' + said + b'},"finish_reason":"stop"}]' + usage + b"}"
        )

    def _usage(self, count: bytes) -> bytes:
        return b'{"prompt_tokens":%b,"completion_tokens":%b,"total_tokens":%b}' % (count, count, count)

    def error(self, status: int, message: str) -> bytes:
        kind = "invalid_request_error" if status < 500 else "server_error"
        return _json({"error": {"message": message, "type": kind, "param": None, "code": _KINDS.get(status)}})

    def fault(self, message: str, *, overloaded: bool) -> bytes:
        code = "engine_overloaded_error" if overloaded else None
        return _json({"error": {"message": message, "type": "server_error", "param": None, "code": code}})


class Groq(Chat):
    """Chat Completions as Groq says it: usage and errors stand under names of its own."""

    def ending(self, count: bytes | None = USAGE) -> bytes:
        usage = b"" if count is None else b',"x_groq":{"id":"req_1","usage":' + self._usage(count) + b"}"
        last = b'{"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]' + usage + b"}"
        return self.frame(last) + self.frame(b"[DONE]")


class Responses(Voice):
    """OpenAI's Responses."""

    def speaks(self, path: str) -> bool:
        return path.endswith("/responses")

    def event(self, kind: str, fields: bytes) -> bytes:
        data = b'{"type":"' + kind.encode() + b'",' + fields + b"}"
        return b"event: " + kind.encode() + b"\n" + self.frame(data)

    def opening(self) -> bytes:
        item = b'{"id":"msg_1","type":"message","role":"assistant","status":"in_progress","content":[]}'
        created = b'"response":{"id":"resp_1","status":"in_progress","output":[],"usage":null,"error":null}'
        added = b'"output_index":0,"item":' + item
        return self.event("response.created", created) + self.event("response.output_item.added", added)

    def words(self, said: bytes) -> bytes:
        return self.event(
            "response.output_text.delta", b'"item_id":"msg_1","output_index":0,"content_index":0,"delta":' + said
        )

    def ending(self, count: bytes | None = USAGE) -> bytes:
        done = b'"output_index":0,"item":' + self._item(literal(WHOLE))
        completed = b'"response":' + self.body(literal(WHOLE), count)
        return self.event("response.output_item.done", done) + self.event("response.completed", completed)

    def body(self, said: bytes, count: bytes | None = USAGE) -> bytes:
        usage = b"null" if count is None else b'{"input_tokens":%b,"output_tokens":%b}' % (count, count)
        return (
            b'{"id":"resp_1","object":"response","status":"completed","error":null,"incomplete_details":null,'
            b'"model":"m","output":[' + self._item(said) + b'],"usage":' + usage + b"}"
        )

    def _item(self, said: bytes) -> bytes:
        content = b'[{"type":"output_text","text":' + said + b',"annotations":[]}]'
        return b'{"id":"msg_1","type":"message","role":"assistant","status":"completed","content":' + content + b"}"

    def error(self, status: int, message: str) -> bytes:
        kind = "invalid_request_error" if status < 500 else "server_error"
        return _json({"error": {"message": message, "type": kind, "param": None, "code": _KINDS.get(status)}})

    def fault(self, message: str, *, overloaded: bool) -> bytes:
        error = {"code": "overloaded_error" if overloaded else "server_error", "message": message}
        return _json({"id": "resp_1", "object": "response", "status": "failed", "error": error, "output": []})

    def broken(self, message: str, *, overloaded: bool) -> bytes:
        code = "overloaded_error" if overloaded else "server_error"
        return self.event("error", _json({"code": code, "message": message, "param": None})[1:-1])


class Gemini(Voice):
    """Google's `generateContent`, at either door."""

    def speaks(self, path: str) -> bool:
        return "enerateContent" in path

    def streams(self, path: str, body: Any) -> bool:
        return ":streamGenerateContent" in path

    def words(self, said: bytes) -> bytes:
        return self.frame(
            b'{"candidates":[{"content":{"parts":[{"text":'
            + said
            + b'}],"role":"model"},"index":0}],"modelVersion":"m"}'
        )

    def ending(self, count: bytes | None = USAGE) -> bytes:
        candidate = b'{"content":{"parts":[{"text":""}],"role":"model"},"finishReason":"STOP","index":0}'
        return self.frame(b'{"candidates":[' + candidate + b"]" + self._usage(count) + b"}")

    def body(self, said: bytes, count: bytes | None = USAGE) -> bytes:
        content = b'{"content":{"parts":[{"text":' + said + b'}],"role":"model"},"finishReason":"STOP","index":0}'
        return b'{"candidates":[' + content + b"]" + self._usage(count) + b"}"

    def _usage(self, count: bytes | None) -> bytes:
        if count is None:
            return b""
        return b',"usageMetadata":{"promptTokenCount":%b,"candidatesTokenCount":%b}' % (count, count)

    def error(self, status: int, message: str) -> bytes:
        names = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
        names |= {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
        error: dict[str, Any] = {"code": status, "message": message}
        return _json({"error": error | ({"status": names[status]} if status in names else {})})

    def fault(self, message: str, *, overloaded: bool) -> bytes:
        return self.error(503 if overloaded else 500, message)


class Ollama(Voice):
    """Ollama's `/api/chat`."""

    def speaks(self, path: str) -> bool:
        return path.endswith("/api/chat")

    def frame(self, data: bytes) -> bytes:
        return data + b"\n"

    def words(self, said: bytes) -> bytes:
        return self.frame(b'{"model":"llama3","message":{"role":"assistant","content":' + said + b'},"done":false}')

    def ending(self, count: bytes | None = USAGE) -> bytes:
        return self.frame(self.body(b'""', count))

    def body(self, said: bytes, count: bytes | None = USAGE) -> bytes:
        usage = b"" if count is None else b',"prompt_eval_count":%b,"eval_count":%b' % (count, count)
        message = b'{"role":"assistant","content":' + said + b"}"
        return b'{"model":"llama3","message":' + message + b',"done":true,"done_reason":"stop"' + usage + b"}"

    def error(self, status: int, message: str) -> bytes:
        return _json({"error": message})

    def fault(self, message: str, *, overloaded: bool) -> bytes:
        return _json({"error": "server busy, please try again" if overloaded else message})


_ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class Relay(Voice):
    """Anthropic's own Messages, which passes."""

    def speaks(self, path: str) -> bool:
        return path.partition("?")[0].endswith("/messages")

    def event(self, kind: str, fields: bytes = b"") -> bytes:
        data = b'{"type":"' + kind.encode() + b'"' + (b"," + fields if fields else b"") + b"}"
        return b"event: " + kind.encode() + b"\n" + self.frame(data)

    def opening(self) -> bytes:
        usage = b'{"input_tokens":7,"output_tokens":1}'
        message = self._message(b"[]", b"null", usage)
        block = b'"index":0,"content_block":{"type":"text","text":""}'
        return self.event("message_start", b'"message":' + message) + self.event("content_block_start", block)

    def words(self, said: bytes) -> bytes:
        return self.event("content_block_delta", b'"index":0,"delta":{"type":"text_delta","text":' + said + b"}")

    def ending(self, count: bytes | None = USAGE) -> bytes:
        usage = b"" if count is None else b',"usage":{"output_tokens":%b}' % count
        delta = b'"delta":{"stop_reason":"end_turn","stop_sequence":null}' + usage
        stop = self.event("content_block_stop", b'"index":0')
        return stop + self.event("message_delta", delta) + self.event("message_stop")

    def body(self, said: bytes, count: bytes | None = USAGE) -> bytes:
        usage = None if count is None else b'{"input_tokens":%b,"output_tokens":%b}' % (count, count)
        return self._message(b'[{"type":"text","text":' + said + b"}]", b'"end_turn"', usage)

    def _message(self, content: bytes, reason: bytes, usage: bytes | None) -> bytes:
        said = b"" if usage is None else b',"usage":' + usage
        return (
            b'{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":'
            + content
            + b',"stop_reason":'
            + reason
            + b',"stop_sequence":null'
            + said
            + b"}"
        )

    def error(self, status: int, message: str) -> bytes:
        kind = _ANTHROPIC_KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return _json({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_upstream"})

    def fault(self, message: str, *, overloaded: bool) -> bytes:
        return self.error(529 if overloaded else 500, message)

    def broken(self, message: str, *, overloaded: bool) -> bytes:
        return b"event: error\n" + super().broken(message, overloaded=overloaded)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


VOICES: tuple[Voice, ...] = (
    Chat("chat", "openai", "openai/gpt-4.1", "OPENAI_BASE_URL", "/v1", (("OPENAI_API_KEY", "sk-lab-openai-0001"),)),
    Responses("responses", "openai", "openai/gpt-5.5", "OPENAI_BASE_URL", "/v1"),
    Gemini("gemini", "google", "gemini/gemini-3.6-flash", "GEMINI_BASE_URL", "", (("GEMINI_API_KEY", "lab-gemini-1"),)),
    Gemini("vertex", "vertex", "vertex_ai/gemini-3.6-flash", "VERTEX_BASE_URL", "", (("VERTEX_PROJECT", "lab"),)),
    Ollama("ollama", "ollama", "ollama/llama3", "OLLAMA_API_BASE", framing="ndjson"),
    Relay(
        "relay", "anthropic", "claude-sonnet-4-5", "ANTHROPIC_UPSTREAM_URL", "", (("ANTHROPIC_API_KEY", "lab-ant-1"),)
    ),
    Groq(
        "groq", "groq", "groq/llama-3.3-70b-versatile", "GROQ_BASE_URL", "/v1", (("GROQ_API_KEY", "gsk_lab_groq_01"),)
    ),
)
