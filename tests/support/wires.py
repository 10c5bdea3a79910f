"""The wires for tests with real clients: a strict fake server for each, and the settings of a user."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from anthropic_proxy.gateway.settings import CONFIG_FILE
from messages_conformance.backends.messages.editing import edit_context
from tests.support.fakes import anthropic, gemini, ollama, openai_chat, openai_responses
from tests.support.fakes.anthropic.reading import read_conversation as read_messages
from tests.support.fakes.gemini.reading import read_conversation as read_gemini
from tests.support.fakes.ollama.reading import read_conversation as read_ollama
from tests.support.fakes.openai_chat.reading import read_conversation as read_chat
from tests.support.fakes.openai_responses.reading import read_conversation as read_responses
from tests.support.fakes.scripted_model import Conversation
from tests.support.fakes.server import Exchange, Running, serving
from tests.support.server_process import Proxy, running_proxy


@dataclass(frozen=True)
class Kind:
    """One wire, and a model on it that sees, calls tools and, but on Chat Completions, reasons."""

    build: Callable[[], web.Application]
    settings: Callable[[str], dict[str, str]]
    read: Callable[[dict[str, Any]], Conversation]
    path: str
    """In the path of every request for a reply."""
    conversation_field: str
    """The field of a body that holds the conversation."""
    model: str
    """Name of the model in the log."""
    first_block: int = 8
    """Packets of a stream after which its first block has begun, and not ended."""
    second_block: int = 16
    """Packets after which the second has, where there is one."""
    accepts_documents: bool = True
    has_native_features: bool = False
    """True if the provider edits conversations, cites and reads PDFs itself."""
    thoughts: int = 4
    """Number of replies out of four, three of them with calls, that come back with the thoughts before them."""
    searches: bool = False
    efforts: dict[str, Any] = field(default_factory=dict)
    """Effort asked for → its value in the body, found by `effort_of`."""
    effort_of: Callable[[dict[str, Any]], Any] = lambda body: None


def _openai(url: str, model: str) -> dict[str, str]:
    own = {"OPENAI_API_KEY": openai_chat.KEY, "OPENAI_BASE_URL": f"{url}/v1", "PREFERRED_PROVIDER": "openai"}
    return own | {"BIG_MODEL": model, "SMALL_MODEL": model}


def _gemini(url: str) -> dict[str, str]:
    own = {"GEMINI_API_KEY": gemini.KEY, "GEMINI_BASE_URL": f"{url}/v1beta", "PREFERRED_PROVIDER": "google"}
    return own | {"BIG_MODEL": "gemini-3.8-flash", "SMALL_MODEL": "gemini-3.8-flash"}


KINDS = {
    "openai_responses": Kind(
        build=openai_responses.new_openai,
        settings=lambda url: _openai(url, "gpt-5.5"),
        read=read_responses,
        path="/responses",
        conversation_field="input",
        model="gpt-5.5",
        searches=True,
        efforts={"low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "xhigh"},
        effort_of=lambda body: (body.get("reasoning") or {}).get("effort"),
    ),
    "gemini": Kind(
        build=gemini.new_gemini,
        settings=_gemini,
        read=lambda body: read_gemini(body, "gemini-3.8-flash"),
        path="enerateContent",
        conversation_field="contents",
        model="gemini-3.8-flash",
        first_block=2,
        second_block=4,
        thoughts=3,  # only calls are signed
        searches=True,
        efforts={"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"},
        effort_of=lambda body: body["generationConfig"].get("thinkingConfig", {}).get("thinkingLevel"),
    ),
    "openai_chat": Kind(
        build=openai_chat.new_openai,
        settings=lambda url: _openai(url, "gpt-4.1"),
        read=read_chat,
        path="/chat/completions",
        conversation_field="messages",
        model="gpt-4.1",
        thoughts=0,
        efforts=dict.fromkeys(("low", "high", "max")),
        effort_of=lambda body: body.get("reasoning_effort"),
    ),
    "ollama": Kind(
        build=ollama.new_ollama,
        settings=lambda url: {"OLLAMA_API_BASE": url, "BIG_MODEL": "qwen3-vl:8b", "SMALL_MODEL": "qwen3-vl:8b"},
        read=read_ollama,
        path="/api/chat",
        conversation_field="messages",
        model="qwen3-vl:8b",
        accepts_documents=False,
        efforts={effort: effort for effort in ("low", "medium", "high", "max")},
        effort_of=lambda body: body.get("think"),
    ),
}

RELAY = "relay"
"""Name of the kind that speaks the Messages API itself, for tests of features that it has natively."""
_CLIENT_KEY = "the-clients-own"
_RELAY = Kind(
    build=lambda: anthropic.new_anthropic(anthropic.KEY, _CLIENT_KEY),
    settings=lambda url: {
        "ANTHROPIC_API_KEY": anthropic.KEY,
        "ANTHROPIC_UPSTREAM_URL": url,
        "PREFERRED_PROVIDER": "anthropic",
    },
    read=lambda body: read_messages(edit_context(body)[0]),
    path="/v1/messages",
    conversation_field="messages",
    model="claude-sonnet-5-5",
    has_native_features=True,
)

EVERY_KIND = (*KINDS, RELAY)


class Upstream:
    """A running fake server, the proxy before it, and the requests to the fake since this object was created."""

    def __init__(self, kind: Kind, running: Running, proxy: Proxy) -> None:
        self.kind = kind
        self.running = running
        self.proxy = proxy
        self._start = len(running.journal.exchanges)

    @property
    def exchanges(self) -> list[Exchange]:
        """The requests for a reply, in order."""
        since = self.running.journal.exchanges[self._start :]
        replies = [exchange for exchange in since if self.kind.path in exchange.path]
        return [exchange for exchange in replies if not exchange.path.endswith(("/input_tokens", "/count_tokens"))]

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [exchange.body for exchange in self.exchanges]

    @property
    def conversations(self) -> list[Conversation]:
        return [self.kind.read(body) for body in self.bodies]

    def breaches(self) -> list[Any]:
        since = self.running.journal.exchanges[self._start :]
        return [breach for exchange in since for breach in exchange.breaches]


@contextmanager
def standing(name: str, directory: Path, **settings: str) -> Iterator[Upstream]:
    """`name`: one of `KINDS`, or `RELAY`."""
    kind = _RELAY if name == RELAY else KINDS[name]
    with serving(kind.build()) as running, running_proxy(directory, kind.settings(running.url) | settings) as proxy:
        yield Upstream(kind, running, proxy)


_WIRES = {
    "openai_responses": ("responses", "/v1", openai_chat.KEY),
    "gemini": ("gemini", "/v1beta", gemini.KEY),
    "openai_chat": ("chat", "/v1", openai_chat.KEY),
    "ollama": ("ollama", "", "none"),
    RELAY: ("messages", "", anthropic.KEY),
}
"""Kind → its name in the settings, the end of its address, and the key of its fake server."""


@contextmanager
def standing_blind(name: str, directory: Path, text: str = "", **settings: str) -> Iterator[Upstream]:
    """Like `standing`, with the model as one of the table `[providers.blind]`, which neither sees nor reads PDFs.

    `text`: the rest of the configuration file.
    """
    kind = _RELAY if name == RELAY else KINDS[name]
    wire, path, key = _WIRES[name]
    with serving(kind.build()) as running:
        table = (
            f'[providers.blind]\nbase_url = "{running.url}{path}"\nwire = "{wire}"\napi_key = {{ env = "BLIND_KEY" }}\n'
            f'[providers.blind.models]\n"{kind.model}" = {{ accepts_images = false, accepts_pdf = false }}\n'
        )
        (directory / CONFIG_FILE).write_text(table + text, encoding="utf-8")
        model = f"blind/{kind.model}"
        own = {"BLIND_KEY": key, "BIG_MODEL": model, "SMALL_MODEL": model, "PREFERRED_PROVIDER": "blind"}
        with running_proxy(directory, own | settings) as proxy:
            yield Upstream(kind, running, proxy)


@contextmanager
def standing_described(name: str, directory: Path, seeing: Running) -> Iterator[Upstream]:
    """Like `standing_blind`, with another model that describes pictures. `seeing`: its provider, a fake of OpenAI."""
    text = (
        f'[providers.eyes]\nbase_url = "{seeing.url}/v1"\napi_key = {{ env = "EYES_KEY" }}\n'
        '[providers.eyes.models]\n"gpt-4.1" = { accepts_images = true }\n[images]\nmodel = "eyes/gpt-4.1"\n'
    )
    with standing_blind(name, directory, text, EYES_KEY=openai_chat.KEY) as upstream:
        yield upstream
