"""A server with a model that sees and one that does not, and a proxy that lets the first describe for the second."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from tests.support.fakes.server import RequestLog, new_application, serving

INPUT, OUTPUT = 1_000, 50
"""Tokens of each reply."""
CONFIG = """
[providers.own]
base_url = "{url}/v1"
[providers.own.models]
"eyes" = {{ accepts_images = true }}
"text" = {{ accepts_images = false }}

[images]
model = "own/eyes"

[prices."own/eyes"]
input = 3
output = 7

[prices."own/text"]
input = 2
output = 5
"""


class PictureServer:
    def __init__(self) -> None:
        self.bodies: dict[str, list[Any]] = {"eyes": [], "text": []}
        """Model → the bodies of its requests."""

    async def answer(self, request: web.Request, raw: bytes, _: RequestLog) -> web.Response:
        if request.path.endswith("/models"):
            return web.json_response({"data": []})
        body = json.loads(raw)
        self.bodies[body["model"]].append(body)
        message = {"role": "assistant", "content": "A square."}
        usage = {"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": usage})

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Yield the configuration file of a proxy for it."""
        with serving(new_application(self.answer, RequestLog())) as running:
            yield CONFIG.format(url=running.url)

    def count(self, model: str) -> int:
        return len(self.bodies[model])
