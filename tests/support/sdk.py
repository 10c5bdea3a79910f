"""Requests of the tests of this folder, and the parts of them that reached the provider."""

from typing import Any

from tests.support.fakes.server import Exchange, Running

MODEL = "claude-sonnet-5-5"
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Tell the weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TIME: dict[str, Any] = {"name": "get_time", "input_schema": {"type": "object", "properties": {}}}


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
