"""The official SDK: requests of its tests, and the parts of them that reached the provider."""

from typing import Any

import anthropic

from tests.support.fakes.server import Exchange, Running
from tests.support.tls import NO_AUTHORITIES

MODEL = "claude-sonnet-5-5"
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Tell the weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def open_sdk(base_url: str, **options: Any) -> anthropic.Anthropic:
    client = anthropic.DefaultHttpxClient(verify=NO_AUTHORITIES)
    return anthropic.Anthropic(base_url=base_url, http_client=client, **options)


def open_async_sdk(base_url: str, **options: Any) -> anthropic.AsyncAnthropic:
    client = anthropic.DefaultAsyncHttpxClient(verify=NO_AUTHORITIES)
    return anthropic.AsyncAnthropic(base_url=base_url, http_client=client, **options)


class Upstream:
    """Requests that reached the provider during one test."""

    def __init__(self, running: Running) -> None:
        self.journal = running.journal
        self.start = len(running.journal.exchanges)

    @property
    def exchanges(self) -> list[Exchange]:
        return self.journal.exchanges[self.start :]

    @property
    def last(self) -> dict[str, Any]:
        body: dict[str, Any] = self.exchanges[-1].body
        return body


def user_messages(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")
