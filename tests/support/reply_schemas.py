"""A model that is asked for a reply of a schema."""

import json
from typing import Any

from tests.support.fake_upstream import FakeUpstream, frame
from tests.support.harness import FakeResponse

SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "stars": {"type": "integer"}},
    "required": ["title", "stars"],
    "additionalProperties": False,
}
FORMAT: dict[str, Any] = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
GOOD, WRONG = '{"title": "A walk", "stars": 4}', '{"title": "A walk", "stars": "four"}'
DEEPSEEK = {
    "OPENAI_API_KEY": "sk-one-0123456789",
    "OPENAI_BASE_URL": "https://api.deepseek.com",
    "PREFERRED_PROVIDER": "openai",
    "BIG_MODEL": "openai/deepseek-chat",
}


def model_reply(*pieces: str, finish: str = "stop", stream: bool = True) -> FakeResponse:
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    if not stream:
        choice = {"index": 0, "message": {"role": "assistant", "content": "".join(pieces)}, "finish_reason": finish}
        return FakeResponse(200, json.dumps({"choices": [choice], "usage": usage}).encode())
    last = b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n"
    return FakeResponse(200, *(frame({"content": piece}) for piece in pieces), frame({}, finish), last)


class Model(FakeUpstream):
    """Answers one after the other; keeps the bodies that it was asked with."""

    def __init__(self, *texts: str | FakeResponse, stream: bool = True) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._texts = list(texts)
        self._stream = stream
        super().__init__(lambda upstream, body: self._next(body))

    def _next(self, body: dict[str, Any]) -> FakeResponse:
        self.bodies.append(body)
        text = self._texts.pop(0)
        return text if isinstance(text, FakeResponse) else model_reply(text, stream=self._stream)
