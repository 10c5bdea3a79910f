"""Shared parts of the Groq, Moonshot and xAI tests: a stand-in behind a real proxy process, and a client that works."""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
from anthropic.types import Message

from tests.support.fakes.compatible import KINDS, new_server
from tests.support.fakes.openai_chat.samples import png
from tests.support.fakes.server import Running, serving
from tests.support.sdk import open_sdk
from tests.support.server_process import Proxy, running_proxy

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Tell the weather of a city.",
    "input_schema": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "city": {"type": "string", "minLength": 1},
            "unit": {"$ref": "#/$defs/unit"},
            "day": {"type": ["string", "integer"], "anyOf": [{"type": "string"}, {"type": "integer"}]},
        },
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"unit": {"enum": ["C", "F"]}},
    },
}
ADD: dict[str, Any] = {
    "name": "add",
    "description": "Add two numbers.",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}
THINK = {"type": "enabled", "budget_tokens": 2_000}


def picture(kind: str = "image/png") -> dict[str, Any]:
    """Return an image block. Data of a type other than PNG has only the first bytes of that type."""
    data = png(31, 17) if kind == "image/png" else b"GIF89a\x01\x00\x01\x00"
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": base64.b64encode(data).decode()}}


@dataclass
class Session:
    """A client of one running proxy, and the requests that its provider received since the test began."""

    client: anthropic.Anthropic
    server: Running
    proxy: Proxy
    model: str
    start: int = 0
    history: list[Any] = field(default_factory=list)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [exchange.body for exchange in self.server.journal.exchanges[self.start :]]

    @property
    def breaches(self) -> list[Any]:
        return [breach for exchange in self.server.journal.exchanges[self.start :] for breach in exchange.breaches]

    def send(self, content: Any, *, stream: bool, **fields: Any) -> Message:
        """Add a user message to the conversation and the reply to it; returns the reply."""
        self.history.append({"role": "user", "content": content})
        options: Any = {"model": self.model, "max_tokens": 4_000, "messages": self.history, **fields}
        if stream:
            with self.client.messages.stream(**options) as events:
                reply = events.get_final_message()
        else:
            reply = self.client.messages.create(**options)
        blocks = [block.model_dump(exclude_none=True) for block in reply.content]
        self.history.append({"role": "assistant", "content": blocks})
        return reply

    def work(self, text: str, run: Callable[..., Any], *, stream: bool, **fields: Any) -> Message:
        """Send a task and run every call, last one first, until the model ends its turn."""
        reply = self.send(text, stream=stream, **fields)
        while reply.stop_reason == "tool_use":
            calls = [block for block in reply.content if block.type == "tool_use"]
            results = [
                {"type": "tool_result", "tool_use_id": call.id, "content": run(**call.input)}  # type: ignore[arg-type]
                for call in reversed(calls)
            ]
            reply = self.send(results, stream=stream, **fields)
        return reply


def thinking_of(message: Message) -> str:
    return "".join(block.thinking for block in message.content if block.type == "thinking")


def weather(city: str, **_: Any) -> str:
    return {"Oslo": "snow", "Rome": "sun"}[city]


def add(a: int, b: int) -> str:
    return str(a + b)


def settings_of(name: str, server: Running) -> dict[str, str]:
    kind = KINDS[name]
    base = server.url + kind.path.removesuffix("/chat/completions")
    if not kind.key:
        return {"PREFERRED_PROVIDER": "openai", "OPENAI_BASE_URL": base}
    return {"PREFERRED_PROVIDER": name, f"{name.upper()}_API_KEY": kind.key, f"{name.upper()}_BASE_URL": base}


@contextmanager
def running(name: str, folder: Path, **settings: str) -> Iterator[tuple[Running, Proxy]]:
    with serving(new_server(name)) as server, running_proxy(folder, {**settings_of(name, server), **settings}) as proxy:
        yield server, proxy
        assert "Traceback" not in proxy.log


@contextmanager
def talking(server: Running, proxy: Proxy, model: str) -> Iterator[Session]:
    with open_sdk(base_url=proxy.url, api_key="the-clients-own", max_retries=0) as client:
        talk = Session(client, server, proxy, model, len(server.journal.exchanges))
        yield talk
        assert talk.breaches == []


def assert_refused(talk: Session, fault: str, status: int, kind: str, *, stream: bool) -> None:
    """Client view of an error: status, type, and the headers for retries."""
    got, got_kind, headers = refused(talk, fault, stream=stream)
    assert (got, got_kind) == (status, kind)
    if "after" in fault:
        assert headers["retry-after"] == "20"
    if status in (402, 424):
        assert headers["x-should-retry"] == "false"


def refused(talk: Session, fault: str, *, stream: bool) -> tuple[int, str, Any]:
    """Ask so that the provider fails; return status, kind and the headers that a client retries by."""
    try:
        talk.send(f"Say exactly: x [fault:{fault}]", stream=stream)
    except anthropic.APIStatusError as error:
        body: Any = error.body
        return error.status_code, body["error"]["type"], error.response.headers
    raise AssertionError(f"{fault} was no failure")
