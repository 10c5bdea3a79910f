"""Anthropic's own wire."""

from tests.faults.protocols.protocol import USAGE, ProviderProtocol, as_json

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


class Relay(ProviderProtocol):
    """Anthropic's own Messages, which passes."""

    def serves_path(self, path: str) -> bool:
        return path.partition("?")[0].endswith("/messages")

    def event(self, kind: str, fields: bytes = b"") -> bytes:
        data = b'{"type":"' + kind.encode() + b'"' + (b"," + fields if fields else b"") + b"}"
        return b"event: " + kind.encode() + b"\n" + self.frame(data)

    def opening(self) -> bytes:
        usage = b'{"input_tokens":7,"output_tokens":1}'
        message = self._message(b"[]", b"null", usage)
        block = b'"index":0,"content_block":{"type":"text","text":""}'
        return self.event("message_start", b'"message":' + message) + self.event("content_block_start", block)

    def words(self, content: bytes) -> bytes:
        return self.event("content_block_delta", b'"index":0,"delta":{"type":"text_delta","text":' + content + b"}")

    def calling(self) -> bytes:
        block = b'"index":1,"content_block":{"type":"tool_use","id":"toolu_1","name":"dig","input":{}}'
        part = b'"index":1,"delta":{"type":"input_json_delta","partial_json":"{\\"deep\\": 1"}'
        stop = self.event("content_block_stop", b'"index":0')
        return stop + self.event("content_block_start", block) + self.event("content_block_delta", part)

    def ending(self, count: bytes | None = USAGE) -> bytes:
        usage = b"" if count is None else b',"usage":{"output_tokens":%b}' % count
        delta = b'"delta":{"stop_reason":"end_turn","stop_sequence":null}' + usage
        stop = self.event("content_block_stop", b'"index":0')
        return stop + self.event("message_delta", delta) + self.event("message_stop")

    def body(self, content: bytes, count: bytes | None = USAGE) -> bytes:
        usage = None if count is None else b'{"input_tokens":%b,"output_tokens":%b}' % (count, count)
        return self._message(b'[{"type":"text","text":' + content + b"}]", b'"end_turn"', usage)

    def _message(self, content: bytes, reason: bytes, usage: bytes | None) -> bytes:
        usage_field = b"" if usage is None else b',"usage":' + usage
        return (
            b'{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":'
            + content
            + b',"stop_reason":'
            + reason
            + b',"stop_sequence":null'
            + usage_field
            + b"}"
        )

    def error(self, status: int, message: str) -> bytes:
        kind = _ANTHROPIC_KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return as_json({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_upstream"})

    def fault(self, message: str, *, overloaded: bool) -> bytes:
        return self.error(529 if overloaded else 500, message)

    def broken(self, message: str, *, overloaded: bool) -> bytes:
        return b"event: error\n" + super().broken(message, overloaded=overloaded)
