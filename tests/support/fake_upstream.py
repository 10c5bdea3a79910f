"""An upstream of scripted replies of Chat Completions."""

import json
from collections.abc import Callable
from typing import Any

from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from tests.support.harness import FakeResponse

KEYS = {"OPENAI_API_KEY": "sk-one-0123456789", "GROQ_API_KEY": "gsk_two0123456789"}


def frame(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


TEXT = frame({"role": "assistant", "content": "well"})
STREAM = (TEXT, frame({}, "stop"), b"data: [DONE]\n\n")
BODY = json.dumps(
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": "well"}, "finish_reason": "stop"}]}
).encode()


def reply(stream: bool) -> FakeResponse:
    return FakeResponse(200, *STREAM) if stream else FakeResponse(200, BODY)


def error(status: int, message: str = "no", **headers: str) -> FakeResponse:
    body = json.dumps({"error": {"message": message, "type": "x", "code": None}}).encode()
    return FakeResponse(status, body, headers={name.replace("_", "-"): value for name, value in headers.items()})


class FakeUpstream:
    """An upstream that answers by a function and keeps the base URL and the credential of each request."""

    def __init__(self, answer: Callable[["FakeUpstream", dict[str, Any]], FakeResponse]) -> None:
        self.requests: list[tuple[str, str]] = []
        self.answers: list[FakeResponse] = []
        self._answer = answer

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        self.requests.append((base_url, credential.value if credential else ""))
        answer = self._answer(self, json.loads(request.body))
        self.answers.append(answer)
        return answer

    @property
    def servers(self) -> list[str]:
        return [url.split("/")[2].split(".")[-2] for url, _ in self.requests]
