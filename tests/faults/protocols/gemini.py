"""Google's wire."""

from typing import Any

from tests.faults.protocols.protocol import USAGE, ProviderProtocol, as_json


class Gemini(ProviderProtocol):
    """Google's `generateContent`, at either door."""

    def serves_path(self, path: str) -> bool:
        return "enerateContent" in path

    def streams(self, path: str, body: Any) -> bool:
        return ":streamGenerateContent" in path

    def words(self, content: bytes) -> bytes:
        return self.frame(
            b'{"candidates":[{"content":{"parts":[{"text":'
            + content
            + b'}],"role":"model"},"index":0}],"modelVersion":"m"}'
        )

    def calling(self) -> bytes:
        part = b'{"functionCall":{"name":"dig","args":{"deep":1}}}'
        return self.frame(b'{"candidates":[{"content":{"parts":[' + part + b'],"role":"model"},"index":0}]}')

    def ending(self, count: bytes | None = USAGE) -> bytes:
        candidate = b'{"content":{"parts":[{"text":""}],"role":"model"},"finishReason":"STOP","index":0}'
        return self.frame(b'{"candidates":[' + candidate + b"]" + self._usage(count) + b"}")

    def body(self, content: bytes, count: bytes | None = USAGE) -> bytes:
        content = b'{"content":{"parts":[{"text":' + content + b'}],"role":"model"},"finishReason":"STOP","index":0}'
        return b'{"candidates":[' + content + b"]" + self._usage(count) + b"}"

    def _usage(self, count: bytes | None) -> bytes:
        if count is None:
            return b""
        return b',"usageMetadata":{"promptTokenCount":%b,"candidatesTokenCount":%b}' % (count, count)

    def error(self, status: int, message: str) -> bytes:
        names = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
        names |= {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
        error: dict[str, Any] = {"code": status, "message": message}
        return as_json({"error": error | ({"status": names[status]} if status in names else {})})

    def fault(self, message: str, *, overloaded: bool) -> bytes:
        return self.error(503 if overloaded else 500, message)
