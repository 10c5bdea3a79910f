"""Asks Ollama which models it has, and what each can do: `/api/tags` and `/api/show`.

Source: Ollama's API documentation and `api/types.go` (2026-08).
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.errors import ProxyError
from anthropic_proxy.routing.catalogue.facts import ModelFacts
from anthropic_proxy.wire.contract import Credential, Send, UpstreamRequest

TAGS_SECONDS = 1.0
SHOW_SECONDS = 10.0
"""A server that is loading a model answers late; the request that asks does not wait for it."""
MOST_WINDOW = 65_536
"""Tokens of a window that we choose: a model may have more, but it costs memory on the user's machine."""

_MOST_BYTES = 8 * 1024 * 1024
_CLOUD_HOST = "ollama.com"
_LEVELS = ("low", "medium", "high")
_ONLY_LEVELS = frozenset(("gptoss", "gpt-oss"))
"""Families that cannot be told not to think (docs.ollama.com, Thinking)."""
_NUM_CTX = re.compile(r"^num_ctx\s+(\d+)\s*$", re.MULTILINE)

Answer = TypeVar("Answer")


class _Details(Struct):
    family: str | None = None


class _Tag(Struct):
    name: str
    size: int = 0
    details: _Details | None = None
    capabilities: list[str] | None = None
    """Missing before 0.30."""


class _Tags(Struct):
    models: list[_Tag] | None = None


class _Shown(Struct):
    parameters: str | None = None
    """Of the model's own file, a line each: name, spaces, value."""
    details: _Details | None = None
    model_info: dict[str, Raw] | None = None
    capabilities: list[str] | None = None
    """Missing before 0.6.4."""
    remote_host: str | None = None


class OllamaModels:
    """What one Ollama server says of its models; a `ModelSource`.

    `window` is the one that the user asks for, for every model on their machine.
    """

    def __init__(
        self,
        send: Send,
        base_url: str,
        *,
        window: int | None = None,
        find_credential: Callable[[], Credential | None] = lambda: None,
    ) -> None:
        self._send = send
        self._base_url = base_url
        self._window = window
        self._find_credential = find_credential

    async def list_models(self) -> Sequence[str] | None:
        """Return the models that were pulled and can chat, the largest first; None: no Ollama answers."""
        request = UpstreamRequest(path="/api/tags", body=b"", method="GET")
        tags = await self._ask(request, _Tags, TAGS_SECONDS)
        if tags is None or tags.models is None:
            return None
        return [model.name for model in sorted(tags.models, key=lambda model: -model.size) if _can_chat(model)]

    async def describe(self, model: str) -> ModelFacts | None:
        """Return what a model can do; None: it does not answer, or was not pulled."""
        body = msgspec.json.encode({"model": model})
        request = UpstreamRequest(path="/api/show", body=body, headers={"content-type": "application/json"})
        shown = await self._ask(request, _Shown, SHOW_SECONDS)
        if shown is None:
            return None
        window = self._window_of(model, shown)
        abilities = shown.capabilities
        family = shown.details.family if shown.details is not None else None
        efforts: tuple[str, ...] = ()
        if abilities is not None and "thinking" in abilities:
            efforts = _LEVELS if family in _ONLY_LEVELS else ("none", *_LEVELS, "max")
        return ModelFacts(
            window=window,
            max_output=window,
            efforts=efforts,
            vision=abilities is None or "vision" in abilities,
            tools=abilities is None or "tools" in abilities,
            known=True,
        )

    def assume(self, model: str, facts: ModelFacts) -> ModelFacts:
        """Return the table's facts with the window that the user asks for, beside which none of its limits stands."""
        if self._window is None or self._is_in_the_cloud(model):
            return facts
        vision = facts.vision or not facts.known
        return structs.replace(facts, window=self._window, max_output=self._window, vision=vision, known=True)

    def _window_of(self, model: str, shown: _Shown) -> int:
        info = shown.model_info or {}
        lengths = (_whole(value) for name, value in info.items() if name.endswith(".context_length"))
        own = max((length for length in lengths if length), default=None)
        if shown.remote_host or self._is_in_the_cloud(model):
            return own or ModelFacts().window
        chosen = _NUM_CTX.search(shown.parameters or "")
        return self._window or (int(chosen[1]) if chosen else min(own or MOST_WINDOW, MOST_WINDOW))

    def _is_in_the_cloud(self, model: str) -> bool:
        if urlsplit(self._base_url).hostname == _CLOUD_HOST:
            return True
        _, colon, tag = model.lower().rpartition(":")
        return bool(colon) and (tag == "cloud" or tag.endswith("-cloud"))

    async def _ask(self, request: UpstreamRequest, kind: type[Answer], seconds: float) -> Answer | None:
        try:
            async with asyncio.timeout(seconds):
                return msgspec.json.decode(await self._read(request), type=kind)
        except (ProxyError, TimeoutError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    async def _read(self, request: UpstreamRequest) -> bytes:
        """Return the body of an answer; nothing where it is no success."""
        response = await self._send(self._base_url, request, self._find_credential())
        body = b""
        try:
            while response.status == 200 and len(body) < _MOST_BYTES and (piece := await response.read()):
                body += piece
        finally:
            await response.close()
        return body


def _can_chat(tag: _Tag) -> bool:
    if tag.capabilities is not None:
        return "completion" in tag.capabilities
    family = tag.details.family if tag.details is not None else None
    return "bert" not in (family or "")  # what older servers hold beside chat models are models for embeddings


def _whole(value: Raw) -> int | None:
    try:
        number = msgspec.json.decode(value, type=float)
    except msgspec.DecodeError:
        return None
    return int(number) if number > 0 else None
