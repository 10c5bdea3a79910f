"""Ollama's wire."""

from tests.faults.protocols.protocol import USAGE, ProviderProtocol, as_json


class Ollama(ProviderProtocol):
    """Ollama's `/api/chat`."""

    def serves_path(self, path: str) -> bool:
        return path.endswith("/api/chat")

    def frame(self, data: bytes) -> bytes:
        return data + b"\n"

    def words(self, content: bytes) -> bytes:
        return self.frame(b'{"model":"llama3","message":{"role":"assistant","content":' + content + b'},"done":false}')

    def calling(self) -> bytes:
        call = b'{"function":{"name":"dig","arguments":{"deep":1}}}'
        message = b'{"role":"assistant","content":"","tool_calls":[' + call + b"]}"
        return self.frame(b'{"model":"llama3","message":' + message + b',"done":false}')

    def ending(self, count: bytes | None = USAGE) -> bytes:
        return self.frame(self.body(b'""', count))

    def body(self, content: bytes, count: bytes | None = USAGE) -> bytes:
        usage = b"" if count is None else b',"prompt_eval_count":%b,"eval_count":%b' % (count, count)
        message = b'{"role":"assistant","content":' + content + b"}"
        return b'{"model":"llama3","message":' + message + b',"done":true,"done_reason":"stop"' + usage + b"}"

    def error(self, status: int, message: str) -> bytes:
        return as_json({"error": message})

    def fault(self, message: str, *, overloaded: bool) -> bytes:
        return as_json({"error": "server busy, please try again" if overloaded else message})
