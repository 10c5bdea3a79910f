"""`OllamaModelSource`: queries an Ollama server for its models (`/api/tags`) and their limits (`/api/show`).

The server is queried because its user decides which models are installed. `query_capabilities` returns the limits and
features of a model. `provisional_capabilities` returns values for use before the first reply. Source: Ollama's API
documentation and `api/types.go` (2026-08).
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.errors import ProxyError
from anthropic_proxy.json_decoding import InvalidJson, decode_json
from anthropic_proxy.routing.catalog.table import ModelCapabilities
from anthropic_proxy.wire.contract import Credential, Transport, UpstreamRequest, read_body

TAGS_TIMEOUT_SECONDS = 1.0
"""Maximum seconds of a query for the model list."""
SHOW_TIMEOUT_SECONDS = 10.0
"""Maximum seconds of a query about one model. Long, because an Ollama server replies late while it loads a model."""
MAX_DEFAULT_WINDOW = 65_536
"""Maximum context window, in tokens, of a local model without a configured one. A larger window costs memory."""

_MAX_BYTES = 8 * 1024 * 1024
_CLOUD_HOST = "ollama.com"
_LEVELS = ("low", "medium", "high")
_LEVEL_ONLY_FAMILIES = frozenset(("gptoss", "gpt-oss"))
"""Model families that always think: effort level `none` is not supported (docs.ollama.com, Thinking)."""
_NUM_CTX = re.compile(r"^num_ctx\s+(\d+)\s*$", re.MULTILINE)

Reply = TypeVar("Reply")
"""Type variable: struct as which the reply of the server is decoded."""


class _Details(Struct):
    family: str | None = None


class _Tag(Struct):
    name: str
    size: int = 0
    details: _Details | None = None
    capabilities: list[str] | None = None
    """Names of supported features. None: Ollama before 0.30."""


class _Tags(Struct):
    models: list[_Tag] | None = None


class _ModelDetails(Struct):
    parameters: str | None = None
    """Text of the Modelfile parameters. Each line has a name, spaces and a value: `num_ctx 8192`."""
    details: _Details | None = None
    model_info: dict[str, Raw] | None = None
    capabilities: list[str] | None = None
    """Names of supported features. None: Ollama before 0.6.4."""
    remote_host: str | None = None


class OllamaModelSource:
    """Client that queries one Ollama server for its models and their limits and features.

    `window` is the context window in tokens that the user has set for all local models. None: each model has its own.
    """

    def __init__(
        self,
        send: Transport,
        base_url: str,
        *,
        window: int | None = None,
        find_credential: Callable[[], Credential | None] = lambda: None,
        adjust: Callable[[str, ModelCapabilities], ModelCapabilities] = lambda _, reported: reported,
    ) -> None:
        self._send = send
        self._base_url = base_url
        self._window = window
        self._find_credential = find_credential
        self._adjust = adjust

    async def list_models(self) -> Sequence[str] | None:
        """Query and return the ids of the installed chat models, the largest first. None: no valid reply."""
        request = UpstreamRequest(path="/api/tags", body=b"", method="GET")
        tags = await self._query(request, _Tags, TAGS_TIMEOUT_SECONDS)
        if tags is None or tags.models is None:
            return None
        return [model.name for model in sorted(tags.models, key=lambda model: -model.size) if _can_chat(model)]

    async def query_capabilities(self, model: str) -> ModelCapabilities | None:
        """Query and return the limits and features of a model. None: no valid reply, or no such model."""
        body = msgspec.json.encode({"model": model})
        request = UpstreamRequest(path="/api/show", body=body, headers={"content-type": "application/json"})
        details = await self._query(request, _ModelDetails, SHOW_TIMEOUT_SECONDS)
        if details is None:
            return None
        window = self._window_of(model, details)
        abilities = details.capabilities
        family = details.details.family if details.details is not None else None
        efforts: tuple[str, ...] = ()
        if abilities is not None and "thinking" in abilities:
            efforts = _LEVELS if family in _LEVEL_ONLY_FAMILIES else ("none", *_LEVELS, "max")
        reported = ModelCapabilities(
            context_window=window,
            max_output=window,
            efforts=efforts,
            accepts_images=abilities is None or "vision" in abilities,
            tools=abilities is None or "tools" in abilities,
            known=True,
        )
        return self._adjust(model, reported)

    def provisional_capabilities(self, model: str, capabilities: ModelCapabilities) -> ModelCapabilities:
        """Return the limits and features of a model for use until the server has replied to a query.

        `capabilities` are the values of `models.toml`. For a local model, the context window that the user has set
        replaces the one of `models.toml`.
        """
        if self._window is None or self._is_cloud_model(model):
            return capabilities
        vision = capabilities.accepts_images or not capabilities.known
        return structs.replace(
            capabilities,
            context_window=self._window,
            max_output=self._window,
            accepts_images=vision,
            known=True,
        )

    def _window_of(self, model: str, details: _ModelDetails) -> int:
        info = details.model_info or {}
        lengths = (_positive_int(value) for name, value in info.items() if name.endswith(".context_length"))
        own = max((length for length in lengths if length), default=None)
        if details.remote_host or self._is_cloud_model(model):
            return own or ModelCapabilities().context_window
        chosen = _NUM_CTX.search(details.parameters or "")
        return self._window or (int(chosen[1]) if chosen else min(own or MAX_DEFAULT_WINDOW, MAX_DEFAULT_WINDOW))

    def _is_cloud_model(self, model: str) -> bool:
        if urlsplit(self._base_url).hostname == _CLOUD_HOST:
            return True
        _, colon, tag = model.lower().rpartition(":")
        return bool(colon) and (tag == "cloud" or tag.endswith("-cloud"))

    async def _query(self, request: UpstreamRequest, kind: type[Reply], seconds: float) -> Reply | None:
        try:
            async with asyncio.timeout(seconds):
                return decode_json(await self._read(request), kind)
        except (ProxyError, TimeoutError, InvalidJson):
            return None

    async def _read(self, request: UpstreamRequest) -> bytes:
        """Send a request to the Ollama server and return the reply body. b"": the status is not 200."""
        response = await self._send(self._base_url, request, self._find_credential())
        try:
            return await read_body(response, _MAX_BYTES) if response.status == 200 else b""
        finally:
            await response.close()


def _can_chat(tag: _Tag) -> bool:
    if tag.capabilities is not None:
        return "completion" in tag.capabilities
    family = tag.details.family if tag.details is not None else None
    return "bert" not in (family or "")  # without `capabilities`, the other models are embedding models


def _positive_int(value: Raw) -> int | None:
    try:
        number = decode_json(bytes(value), float)
    except InvalidJson:
        return None
    return int(number) if number > 0 else None
