"""Queries of providers for their model lists, such as `GET /models`."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any
from urllib.parse import urljoin

from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.options import EngineOptions
from anthropic_proxy.engine.providers import Provider
from anthropic_proxy.engine.providers.call_options import extend_request
from anthropic_proxy.engine.providers.catalog import LearnedModel, may_chat
from anthropic_proxy.engine.providers.hosts import (
    find_base_url,
    find_missing_key,
    find_netloc,
    find_server_name,
    is_in_table,
    is_own_server,
)
from anthropic_proxy.engine.providers.model_ids import ModelId, read_model_id
from anthropic_proxy.engine.wires.bound_requests import Answer, BoundRequest, Transport, fetch_answer
from anthropic_proxy.engine.wires.failures import decode_error_body
from anthropic_proxy.engine.wires.operator_origin import OperatorOrigin
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import ProxyError, UpstreamProtocolError, UpstreamRefused, UpstreamTimeout

_ORIGIN = OperatorOrigin("model_list")
_PATHS: Mapping[str, str] = {
    "chat": "/models",
    "responses": "/models",
    "gemini": "/models?pageSize=1000",
    "messages": "/v1/models?limit=1000",
    "ollama": "/api/tags",
}
"""Wire name → path and query of the model list. Vertex AI has the wire `gemini`, but no such list."""
_HEADERS = {"messages": {"anthropic-version": "2023-06-01"}}
_WINDOW_FIELDS = (
    *("loaded_context_length", "max_model_len", "context_window", "context_length", "inputTokenLimit"),
    *("max_input_tokens", "n_ctx", "max_context_length", "context_size"),
)
"""Names of the field with the context window in model lists: vLLM; Groq; Moonshot and OpenRouter; Gemini; Anthropic;
llama.cpp; Mistral; Novita."""
_NESTED_FIELDS = ("meta", "top_provider", "metadata")
"""Names of objects with further limits of a model: llama.cpp; the host that OpenRouter calls first; DeepInfra."""
_LOADED_FIELDS = ("loaded_context_length", "context_length", "n_ctx")
_OUTPUT_FIELDS = ("max_completion_tokens", "outputTokenLimit", "max_output_tokens", "max_tokens")
"""Names of the field with the output limit in model lists: Groq and OpenRouter; Gemini; Novita; Anthropic and
DeepInfra."""
_MIN_LIMIT, _MAX_LIMIT = 256, 100_000_000
"""Smallest and largest number of tokens that is a limit of a model. Other numbers in a list have another meaning."""
_RETIREMENT_FIELD = "shutdown_date"
"""Name of the field with the date of a retirement, such as 2026-12-11 (developers.openai.com/api/reference/resources/
models/methods/list, read 2026-11-26)."""
_PRICE_FIELDS = {
    "input": "prompt",
    "output": "completion",
    "cache_read": "input_cache_read",
    "cache_write": "input_cache_write",
    "request": "request",
}
"""Kind of price → its name in the object `pricing` of OpenRouter's list: strings in US dollars per token, and per
request (openrouter.ai/docs/overview/models, read 2026-11-26). Lists with other units have numbers there, or other names
(docs.perplexity.ai/docs/router/models)."""
_MAX_TOKEN_PRICE = Decimal("0.01")
"""A larger price of one token has another unit."""
_MAX_PRICE_CHARACTERS = 40
_MAX_SHOWN = 60
"""Characters of a name that is left out, in a note."""
_MAX_ENTRIES = 5_000
"""Number of entries of a list that are read. Each takes time and memory."""
_MAX_BYTES_ON_LOOP = 64 * 1024
"""Maximum size of a list that is decoded on the event loop, where others wait meanwhile."""
_MAX_BYTES = 16 * 1024 * 1024
LOADED_PATHS = ("/api/v0/models", "/api/ps", "/props")
"""Paths, beside the API, at which LM Studio, Ollama and llama.cpp state the windows of loaded models (lmstudio.ai/docs,
"REST API v0"; docs.ollama.com/api/ps; ggml-org/llama.cpp tools/server/README.md, read 2026-11-25)."""
_LOADED_TIMEOUT_SECONDS = 0.8
MODEL_LIST = "model list of the server"
"""Origin of the limits in a list, as pages name it."""
LIMITS_TIMEOUT_SECONDS = 5.0
"""Maximum seconds of a query for the limits of the models of a server."""


class ListedModel(Struct, frozen=True):
    id: ModelId
    context_window: int | None = None
    """In tokens. None: the list does not state it."""
    max_output: int | None = None
    """In tokens. None: the list does not state it."""
    retires_on: date | None = None
    """None: the list states no date."""
    prices: Mapping[str, float] | None = None
    """See `LearnedModel.prices`."""
    owner: str = ""
    """`owned_by`: programs for own servers state their name there. "": the list states none."""


class _List(Struct):
    data: Sequence[Raw] | None = None
    models: Sequence[Raw] | None = None


def has_model_list(provider: Provider) -> bool:
    if provider.host_patterns:  # the APIs of clouds have no list
        return False
    return provider.transport == "http" and provider.key_source == "settings" and _list_wire(provider) in _PATHS


async def query_chat_models(
    provider: Provider,
    settings: EngineOptions,
    send: Transport,
    credential: Credential | None,
    timeout_seconds: float,
    *,
    left_out: list[str] | None = None,
) -> list[ListedModel]:
    """Return the chat models in the list of a provider, in its order. Raises `UpstreamError`.

    `left_out`: gets the names that are no `ModelId`, as text for people.
    """
    wire = _list_wire(provider)
    request = _build_request(provider, settings, _PATHS[wire])
    base_url = find_base_url(provider, provider.wires[wire], settings)
    try:
        async with asyncio.timeout(timeout_seconds):
            answer = await fetch_answer(send, BoundRequest(_ORIGIN, base_url, request, credential), _MAX_BYTES)
    except TimeoutError:
        text = f"{provider.prefix} did not answer the query for its models within {timeout_seconds:g} s."
        raise UpstreamTimeout(text, provider=provider.prefix) from None
    if answer.status != 200:
        raise _describe_refusal(provider, settings, base_url, answer)
    try:
        if len(answer.body) > _MAX_BYTES_ON_LOOP:
            found = await asyncio.to_thread(_decode_list, provider, answer.body, left_out)
        else:
            found = _decode_list(provider, answer.body, left_out)
    except (InvalidJson, TypeError):
        text = f"{provider.prefix} answered the query for its models with something else, at {base_url}"
        raise UpstreamProtocolError(text, provider=provider.prefix) from None
    if is_own_server(provider) and not any(one.context_window for one in found.values()):
        windows = await _query_loaded_windows(base_url, send, request, credential)
        if (only := windows.pop("", None)) is not None and len(found) == 1:
            windows = dict.fromkeys(found, only)
        for name in found.keys() & windows.keys():
            found[name] = structs.replace(found[name], context_window=windows[name])
    return list(found.values())


def _decode_list(provider: Provider, body: bytes, left_out: list[str] | None) -> dict[str, ListedModel]:
    """Raises `InvalidJson` or `TypeError` for a body that is no list."""
    found: dict[str, ListedModel] = {}
    for entry in islice(_find_entries(body), _MAX_ENTRIES):
        text = _read_id(entry)
        name = read_model_id(text)
        if name is None:
            if left_out is not None:
                left_out.append(ascii(text[:_MAX_SHOWN]))
        elif name not in provider.non_chat_models and may_chat(name):
            parts = [entry, *(entry[field] for field in _NESTED_FIELDS if isinstance(entry.get(field), dict))]
            window, most = (
                min(filter(None, (_find_number(part, fields) for part in parts)), default=None)
                for fields in (_WINDOW_FIELDS, _OUTPUT_FIELDS)
            )
            retires_on = None
            with suppress(TypeError, ValueError):
                retires_on = date.fromisoformat(entry[_RETIREMENT_FIELD]) if _RETIREMENT_FIELD in entry else None
            owner = entry.get("owned_by")
            owner = owner if isinstance(owner, str) and len(owner) <= _MAX_SHOWN else ""
            found[name] = ListedModel(name, window, most, retires_on, _read_prices(entry), owner)
    return found


async def is_key_accepted(
    provider: Provider, settings: EngineOptions, send: Transport, credential: Credential, timeout_seconds: float
) -> bool:
    """Return True if the server has accepted the key. False: no answer tells.

    Call it after the list has arrived. Raises `UpstreamRefused` if the server rejects the key.
    """
    wire, key_path = _list_wire(provider), provider.host.key_path
    base_url = find_base_url(provider, provider.wires[wire], settings)
    request = _build_request(provider, settings, key_path or _PATHS[wire])
    address = urljoin(base_url, "/").rstrip("/") if key_path else base_url
    key = credential if key_path else None
    try:
        async with asyncio.timeout(timeout_seconds):
            answer = await fetch_answer(send, BoundRequest(OperatorOrigin("setup"), address, request, key), _MAX_BYTES)
    except (ProxyError, TimeoutError):
        return False
    if key_path and answer.status == 401:
        raise _describe_refusal(provider, settings, base_url, answer)
    return answer.status == 200 if key_path else answer.status in (400, 401, 403)


def _build_request(provider: Provider, settings: EngineOptions, path: str) -> UpstreamRequest:
    headers = _HEADERS.get(_list_wire(provider), {})
    request = UpstreamRequest(path=path, body=b"", method="GET", headers=headers)
    options = settings.call_options.get(provider.name)
    return request if options is None else extend_request(options, request)


def _describe_refusal(provider: Provider, settings: EngineOptions, base_url: str, answer: Answer) -> UpstreamRefused:
    if answer.status in (401, 403):
        at = f" at {find_netloc(base_url)}" if provider.name in settings.base_urls else ""
        reason = f"{provider.prefix}{at} rejected the key ({answer.status})"
    elif answer.status == 429:
        pause = answer.headers.get("retry-after", "")
        retry = f" Retry in {pause} s." if pause.isdecimal() else ""
        reason = f"{provider.prefix} accepts no more requests now: rate limit (429).{retry}"
    else:
        reason = f"{provider.prefix} answered the query for its models with status {answer.status}"
    error = UpstreamRefused(reason, provider=provider.prefix, status=answer.status)
    error.provider_text = decode_error_body(answer.status, answer.headers, answer.body).message
    return error


async def _query_loaded_windows(
    base_url: str, send: Transport, request: UpstreamRequest, credential: Credential | None
) -> dict[str, int]:
    """Return the windows of the loaded models of a server. The key "" stands for its only model."""
    root = base_url.removesuffix("/v1")

    async def query(path: str) -> dict[str, int]:
        try:
            async with asyncio.timeout(_LOADED_TIMEOUT_SECONDS):
                bound = BoundRequest(_ORIGIN, root, structs.replace(request, path=path), credential)
                answer = await fetch_answer(send, bound, _MAX_BYTES)
            if path == "/props":
                settings = decode_json(answer.body)["default_generation_settings"]
                entries: Iterable[Mapping[str, Any]] = [{"id": "", **settings}]
            else:
                entries = _find_entries(answer.body)
            windows = {_read_id(entry): _find_number(entry, _LOADED_FIELDS) for entry in entries}
        except (ProxyError, TimeoutError, InvalidJson, TypeError, KeyError):
            return {}  # another kind of server
        return {name: window for name, window in windows.items() if window is not None}

    found: dict[str, int] = {}
    for windows in await asyncio.gather(*map(query, LOADED_PATHS)):
        found |= windows
    return found


async def query_limits(
    provider: Provider, settings: EngineOptions, send: Transport, find_credential: Callable[[], Credential | None]
) -> Sequence[LearnedModel] | None:
    """Return the models in the list of a server, with the limits that it states. None: no reply, or no key.

    Known models have no limits here: a gateway serves them with those of their vendor. A table `[providers.NAME]` has
    a server of its own.
    """
    if find_missing_key(provider, settings):
        return None
    try:
        listed = await query_chat_models(provider, settings, send, find_credential(), LIMITS_TIMEOUT_SECONDS)
    except ProxyError:
        return None
    server = find_server_name(provider, settings)
    return [
        LearnedModel(
            server=server,
            model=model.id,
            observed_on=date.today(),
            evidence=MODEL_LIST,
            context_window=None if is_known else model.context_window,
            max_output=None if is_known else model.max_output,
            prices=model.prices,
        )
        for model in listed
        for is_known in (not provider.is_configured and is_in_table(provider, model.id),)
    ]


def _list_wire(provider: Provider) -> str:
    return next(iter(provider.wires))


def _read_id(entry: Mapping[str, Any]) -> str:
    return str(entry.get("id") or entry.get("model") or entry.get("name") or "").removeprefix("models/")


def _find_entries(body: bytes) -> Iterator[Mapping[str, Any]]:
    """Each entry is decoded alone, because decoding holds the lock of the interpreter, also in a thread."""
    if body.lstrip().startswith(b"["):
        entries: Sequence[Raw] | None = decode_json(body, list[Raw])
    else:
        listed = decode_json(body, _List)
        entries = listed.models if listed.data is None else listed.data
    if entries is None:
        raise TypeError("an object without a list")
    for entry in (decode_json(bytes(raw)) for raw in entries):
        methods = entry.get("supportedGenerationMethods") if isinstance(entry, dict) else None
        if isinstance(entry, dict) and (methods is None or "generateContent" in methods):
            yield entry


def _read_prices(entry: Mapping[str, Any]) -> Mapping[str, float] | None:
    """None also for a price that differs from request to request, such as that of OpenRouter's routers: -1."""
    pricing = entry.get("pricing")
    if not isinstance(pricing, dict):
        return None
    found = {}
    for kind, name in _PRICE_FIELDS.items():
        text = pricing.get(name)
        try:
            amount = Decimal(text) if isinstance(text, str) and len(text) <= _MAX_PRICE_CHARACTERS else None
        except InvalidOperation:
            return None
        if amount is not None:
            if not amount.is_finite() or not 0 <= amount < _MAX_TOKEN_PRICE:
                return None
            if amount or kind in ("input", "output"):  # a cache without a price of its own has 0
                found[kind] = float(amount * 1_000_000)
    return found if "input" in found and "output" in found and "request" not in found else None


def _find_number(entry: Mapping[str, Any], names: Sequence[str]) -> int | None:
    for name in names:
        try:
            number = int(float(entry.get(name, 0)))  # servers also write "131072" and 131072.0
        except (TypeError, ValueError, OverflowError):
            continue
        if _MIN_LIMIT <= number <= _MAX_LIMIT:
            return number
    return None
