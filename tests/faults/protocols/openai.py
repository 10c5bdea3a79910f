"""OpenAI's two wires, and a compatible server."""

from tests.faults.protocols.protocol import USAGE, WHOLE, ProviderProtocol, as_json, literal

_KINDS = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


class Chat(ProviderProtocol):
    """Chat Completions."""

    def serves_path(self, path: str) -> bool:
        return path.endswith("/chat/completions")

    def _chunk(self, delta: bytes, reason: bytes = b"null") -> bytes:
        return self.frame(
            b'{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m",'
            b'"choices":[{"index":0,"delta":' + delta + b',"finish_reason":' + reason + b"}]}"
        )

    def opening(self) -> bytes:
        return self._chunk(b'{"role":"assistant","content":""}')

    def words(self, content: bytes) -> bytes:
        return self._chunk(b'{"content":' + content + b"}")

    def calling(self) -> bytes:
        call = b'{"index":0,"id":"call_1","type":"function","function":{"name":"dig","arguments":"{\\"deep\\": 1"}}'
        return self._chunk(b'{"tool_calls":[' + call + b"]}")

    def ending(self, count: bytes | None = USAGE) -> bytes:
        usage = b"" if count is None else self.frame(b'{"choices":[],"usage":' + self._usage(count) + b"}")
        return self._chunk(b"{}", b'"stop"') + usage + self.frame(b"[DONE]")

    def body(self, content: bytes, count: bytes | None = USAGE) -> bytes:
        usage = b"" if count is None else b',"usage":' + self._usage(count)
        return (
            b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
            b'{"role":"assistant","content":' + content + b'},"finish_reason":"stop"}]' + usage + b"}"
        )

    def _usage(self, count: bytes) -> bytes:
        return b'{"prompt_tokens":%b,"completion_tokens":%b,"total_tokens":%b}' % (count, count, count)

    def error(self, status: int, message: str) -> bytes:
        kind = "invalid_request_error" if status < 500 else "server_error"
        return as_json({"error": {"message": message, "type": kind, "param": None, "code": _KINDS.get(status)}})

    def fault(self, message: str, *, overloaded: bool) -> bytes:
        code = "engine_overloaded_error" if overloaded else None
        return as_json({"error": {"message": message, "type": "server_error", "param": None, "code": code}})


class Groq(Chat):
    """Chat Completions as Groq sends it: usage and errors stand under names of its own."""

    def ending(self, count: bytes | None = USAGE) -> bytes:
        usage = b"" if count is None else b',"x_groq":{"id":"req_1","usage":' + self._usage(count) + b"}"
        last = b'{"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]' + usage + b"}"
        return self.frame(last) + self.frame(b"[DONE]")


class Responses(ProviderProtocol):
    """OpenAI's Responses."""

    def serves_path(self, path: str) -> bool:
        return path.endswith("/responses")

    def event(self, kind: str, fields: bytes) -> bytes:
        data = b'{"type":"' + kind.encode() + b'",' + fields + b"}"
        return b"event: " + kind.encode() + b"\n" + self.frame(data)

    def opening(self) -> bytes:
        item = b'{"id":"msg_1","type":"message","role":"assistant","status":"in_progress","content":[]}'
        created = b'"response":{"id":"resp_1","status":"in_progress","output":[],"usage":null,"error":null}'
        added = b'"output_index":0,"item":' + item
        return self.event("response.created", created) + self.event("response.output_item.added", added)

    def words(self, content: bytes) -> bytes:
        return self.event(
            "response.output_text.delta", b'"item_id":"msg_1","output_index":0,"content_index":0,"delta":' + content
        )

    def calling(self) -> bytes:
        item = b'{"id":"fc_1","type":"function_call","call_id":"call_1","name":"dig","arguments":""}'
        part = b'"item_id":"fc_1","output_index":1,"delta":"{\\"deep\\": 1"'
        added = self.event("response.output_item.added", b'"output_index":1,"item":' + item)
        return added + self.event("response.function_call_arguments.delta", part)

    def ending(self, count: bytes | None = USAGE) -> bytes:
        done = b'"output_index":0,"item":' + self._item(literal(WHOLE))
        completed = b'"response":' + self.body(literal(WHOLE), count)
        return self.event("response.output_item.done", done) + self.event("response.completed", completed)

    def body(self, content: bytes, count: bytes | None = USAGE) -> bytes:
        usage = b"null" if count is None else b'{"input_tokens":%b,"output_tokens":%b}' % (count, count)
        return (
            b'{"id":"resp_1","object":"response","status":"completed","error":null,"incomplete_details":null,'
            b'"model":"m","output":[' + self._item(content) + b'],"usage":' + usage + b"}"
        )

    def _item(self, content: bytes) -> bytes:
        content = b'[{"type":"output_text","text":' + content + b',"annotations":[]}]'
        return b'{"id":"msg_1","type":"message","role":"assistant","status":"completed","content":' + content + b"}"

    def error(self, status: int, message: str) -> bytes:
        kind = "invalid_request_error" if status < 500 else "server_error"
        return as_json({"error": {"message": message, "type": kind, "param": None, "code": _KINDS.get(status)}})

    def fault(self, message: str, *, overloaded: bool) -> bytes:
        error = {"code": "overloaded_error" if overloaded else "server_error", "message": message}
        return as_json({"id": "resp_1", "object": "response", "status": "failed", "error": error, "output": []})

    def broken(self, message: str, *, overloaded: bool) -> bytes:
        code = "overloaded_error" if overloaded else "server_error"
        return self.event("error", as_json({"code": code, "message": message, "param": None})[1:-1])
