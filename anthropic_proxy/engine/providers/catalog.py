"""Model catalog: the limits and features (capabilities) of backend models, and the model lists of providers.

The values for a model have three sources: the facts about models (`model_facts.py`), what the command `doctor` has
observed at a server, and the provider itself, if it can be queried (Ollama, own servers). The facts apply until it has
replied.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.platforms.files import locked_folder, write_whole_file
from anthropic_proxy.engine.providers.model_facts import FACTS, ModelCapabilities, find_table_capabilities
from anthropic_proxy.engine.providers.model_ids import read_model_id
from anthropic_proxy.engine.wires.bound_requests import BoundRequest, Transport, fetch_answer
from anthropic_proxy.engine.wires.operator_origin import OperatorOrigin
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import ProxyError

_NON_CHAT_PATTERNS = (
    *("*embed*", "*whisper*", "*tts*", "*moderation*", "*transcribe*", "*realtime*", "*-image*", "dall-e*", "sora*"),
    *("babbage*", "davinci*", "imagen*", "veo*", "aqa", "*-audio*", "*guard*", "*rerank*"),
)
"""Patterns of model ids without chat: embeddings, speech, images. Neither lists of the OpenAI format nor
Ollama before 0.30 state the purpose of a model."""
MIN_SESSION_TOKENS = 44_000
"""Minimum context window for a session of Claude Code, in tokens: system prompt, tools and a few files."""
_CLOUD_SUFFIXES = (":cloud", "-cloud")
"""Suffixes of models in the Ollama cloud, which require an account. Default models are local if possible."""
_MAX_COMPARED_MODELS = 8
"""Number of installed models of which the server is asked whether they are usable: the largest, and the smallest."""

LEARNED_FILE_NAME = "learned-models.json"
"""Name of the file with the learned facts, in the data directory of the user."""
LEARNED_MAX_AGE_DAYS = 90
"""Age in days above which a fact is ignored, because servers change their settings and the models behind a name."""
_LEARNED_FILE_VERSION = 1
_LEARN_AGAIN = "Run  anthropic-proxy doctor  to write it again."


class LearnedModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits and features of one model at one server, as the command `doctor` or a query has observed them."""

    server: str
    model: str
    observed_on: date
    """Date of the observation."""
    evidence: str
    """Text of the server, or the observation, from which the values were read. It contains no keys."""
    context_window: int | None = None
    """Maximum tokens of input and output together. None: not observed."""
    max_output: int | None = None
    """Maximum tokens of one reply. None: not observed."""
    accepts_images: bool | None = None
    """True if the server accepted an image, False if it rejected one. None: not observed."""
    efforts: tuple[str, ...] = ()
    """Levels of reasoning effort that the server accepted: `low`, `high`. Empty: not observed."""
    prices: Mapping[str, float] | None = None
    """Kind of tokens, as in the tables `[prices]` of the configuration file → US dollars per million. None: the list
    of the server does not state them."""

    def apply(self, capabilities: ModelCapabilities) -> ModelCapabilities:
        changes: dict[str, object] = {}
        if self.context_window is not None:
            output = self.max_output or (capabilities.max_output if capabilities.known else None)
            changes["context_window"] = self.context_window
            changes["max_output"] = output and min(output, self.context_window)
            if capabilities.max_input is not None:
                changes["max_input"] = min(capabilities.max_input, self.context_window)
            changes["accepts_images"] = capabilities.accepts_images or not capabilities.known
            changes["known"] = True
        elif self.max_output is not None:
            changes["max_output_from_error"] = self.max_output
        if self.accepts_images is not None:
            changes["accepts_images"] = self.accepts_images
            changes["rejects_images"] = not self.accepts_images
        if self.efforts:
            changes["efforts"] = self.efforts
        return structs.replace(capabilities, **changes)


LearnedModels = Mapping[tuple[str, str], LearnedModel]
"""Server and model → the observed facts."""


class _LearnedFile(Struct, kw_only=True):
    version: int
    models: list[LearnedModel]


def load_learned_models(directory: Path | None, today: date) -> tuple[LearnedModels, Sequence[str]]:
    """Return the facts that are at most `LEARNED_MAX_AGE_DAYS` old, and warnings for the log."""
    if directory is None:
        return {}, ()
    file = directory / LEARNED_FILE_NAME
    try:
        content = decode_json(file.read_bytes(), _LearnedFile)
    except FileNotFoundError:
        return {}, ()
    except OSError as error:
        return {}, (f"{file} cannot be read and is ignored ({error.strerror}). {_LEARN_AGAIN}",)
    except InvalidJson as error:
        return {}, (f"{file} is not valid and is ignored ({error}). {_LEARN_AGAIN}",)
    if content.version != _LEARNED_FILE_VERSION:
        return {}, (f"{file} has the version {content.version} and is ignored. {_LEARN_AGAIN}",)
    recent = [learned for learned in content.models if (today - learned.observed_on).days <= LEARNED_MAX_AGE_DAYS]
    warnings = []
    if old := len(content.models) - len(recent):
        noun = "model, which is" if old == 1 else "models, which are"
        warnings.append(
            f"{file} has facts about {old} {noun} ignored because they are older than {LEARNED_MAX_AGE_DAYS} days. "
            f"{_LEARN_AGAIN}"
        )
    return {(learned.server, learned.model): learned for learned in recent}, warnings


def store_learned_models(directory: Path, models: Sequence[LearnedModel], today: date) -> Path:
    """Add facts to the file, without outdated ones, and return its path. Raises `TimeoutError` and `OSError`."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / LEARNED_FILE_NAME
    with locked_folder(directory):  # another run may store its facts at the same time
        known, _ = load_learned_models(directory, today)
        merged = {**known, **{(learned.server, learned.model): learned for learned in models}}
        in_order = sorted(merged.values(), key=lambda one: (one.server, one.model))
        content = _LearnedFile(version=_LEARNED_FILE_VERSION, models=in_order)
        write_whole_file(file, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
    return file


FIRST_LIMITS_TIMEOUT_SECONDS = 2.5
"""Maximum seconds that the model list of the proxy waits for the first reply about the limits of a server's models."""
UNUSED_LIST_TIMEOUT_SECONDS = 0.5
"""The same for a server that no tier and no route uses: it may be switched off."""
REFRESH_INTERVAL_SECONDS = 300.0
"""Age in seconds of cached capabilities at which the next request starts a query in the background."""
QUERY_RETRY_INTERVAL_SECONDS = 5.0
"""Minimum seconds between two queries about a model while the provider has not reported its capabilities."""
LISTING_REFRESH_INTERVAL_SECONDS = 60.0
"""Age in seconds of a cached model list at which the next request starts a query in the background."""

_MAX_ENTRIES = 4096
"""Maximum number of models, among those that clients have named, whose values are kept."""


class ModelSource(Protocol):
    """Client that queries one provider for its models."""

    async def list_models(self) -> Sequence[str] | None:
        """Return the ids of the models, the largest first. None: no reply."""

    async def query_capabilities(self, model: str) -> ModelCapabilities | None:
        """Return the limits and features of a model. None: no reply in a limited time, or unknown model."""

    def provisional_capabilities(self, model: str, capabilities: ModelCapabilities) -> ModelCapabilities:
        """Return the values that apply until the provider has replied, based on those of `models.toml`."""


ListedPrices = Mapping[tuple[str, str], Mapping[str, float]]
"""Server and model → `LearnedModel.prices`."""
LimitsQuery = Callable[[], Awaitable[Sequence[LearnedModel] | None]]
"""Query of a server for the models in its list, with the limits that it states. None: no reply."""

OnListedPrices = Callable[[Collection[str], ListedPrices], None]
"""Receives the servers of each new list of models, and its prices, if it or the list before has some."""


class Catalog:
    """Cached capabilities of models, and model lists of providers.

    `listings` maps a provider name to its model ids, the largest model first.
    """

    def __init__(
        self,
        listings: Mapping[str, Sequence[str]] | None = None,
        sources: Mapping[str, ModelSource] | None = None,
        limit_queries: Mapping[str, LimitsQuery] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_listed_prices: OnListedPrices | None = None,
    ) -> None:
        self._listings = dict(listings or {})
        self._sources = sources or {}
        self.queried_providers = frozenset(self._sources)
        """Names of the providers that are asked for their models and the limits of a model."""
        self._limit_queries = limit_queries or {}
        self._clock = clock
        self._found: dict[tuple[str, str], ModelCapabilities] = {}
        """Provider and model → capabilities, from the facts about models or reported by the provider."""
        self._facts = FACTS.file
        self._described: set[tuple[str, str]] = set()
        """Models whose provider has reported the capabilities."""
        self._failed: set[tuple[str, str]] = set()
        """Models with a failed query, and slow lists. Requests no longer wait for queries about the same model or
        list."""
        self._queried_at: dict[tuple[str, str], float] = {}
        """Provider and model ("": the listing) → clock time of the last query."""
        self._queries: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._learned: LearnedModels = {}
        self._reported: dict[str, LearnedModels] = {}
        """Provider → models in its newest list, also those without limits."""
        self._published: dict[tuple[str, str], LearnedModel] = {}
        """Context windows that others publish, for models that neither the doctor nor a server states."""
        self._on_listed_prices = on_listed_prices
        self.edition = 0
        """Version number of the contents, increased by each change. `PlanCache` then discards its plans."""

    def cached_model_ids(self, provider: str) -> Sequence[str] | None:
        """Return the cached model ids of a provider, the largest model first. None: never reported."""
        return self._listings.get(provider)

    def choose_installed_model(self, provider: str, default: str, *, prefers_small: bool) -> str:
        """Return the model for Claude tiers: `default` if it is installed, else the largest or the smallest local one.

        One that has no room for a session, as the server has told, is used only if all others have none either, or call
        no tools. `OLLAMA_CONTEXT_LENGTH` limits the room of all.
        """
        local = self._list_local_models(provider)
        listed = [name for name in self._listings.get(provider) or () if name in (default, f"{default}:latest")]
        found = [*listed, *(reversed(local) if prefers_small else local)]

        def find_lacks(model: str) -> tuple[bool, bool]:
            """Return whether the provider has told that it calls no tools, and that it has no room for a session."""
            if (provider, model) not in self._described:
                return False, False
            known = self._found[provider, model]
            return not known.tools, known.effective_max_input < MIN_SESSION_TOKENS

        chosen = min(found, key=find_lacks, default=default)
        return default if chosen in listed else chosen

    def _list_local_models(self, provider: str) -> Sequence[str]:
        listed = self._listings.get(provider) or ()
        return [model for model in listed if not model.endswith(_CLOUD_SUFFIXES)] or listed

    def cached_capabilities(self, provider: str, model: str, models_table: str = "") -> ModelCapabilities:
        """Return the capabilities of a model without a query.

        `models_table` is the name of the table in `models.toml`; "": the name of the provider.
        """
        capabilities = self._found.get((provider, model))
        if capabilities is None:
            capabilities = find_table_capabilities(models_table or provider, model)
            source = self._sources.get(provider)
            if source is not None:
                capabilities = source.provisional_capabilities(model, capabilities)
            if len(self._found) < _MAX_ENTRIES:  # clients may ask for any name
                # the provider may have reported other values since the check above, in another thread
                return self._found.setdefault((provider, model), capabilities)
        return capabilities

    @property
    def has_observed_models(self) -> bool:
        return bool(self._learned or self._reported or self._published)

    def list_observations(self, server: str, model: str, examined: LearnedModel | None = None) -> list[LearnedModel]:
        """Return what the doctor and the server state about a model, else what others publish.

        `examined`: newer facts of the doctor, which are not in the catalog yet.
        """
        key = server, model
        reported = self._reported.get(server.partition(" ")[0], {})
        found = [one for one in (examined or self._learned.get(key), reported.get(key)) if one is not None]
        published = self._published.get(key)
        if published is not None and not any(one.context_window for one in found):
            found.append(published)
        return found

    def find_observed_model(self, server: str, model: str, examined: LearnedModel | None = None) -> LearnedModel | None:
        """Return the facts of the doctor and of the server. The smaller one of two limits applies."""
        found = self.list_observations(server, model, examined)
        if len(found) < 2:
            return found[0] if found else None
        return structs.replace(
            found[0],
            context_window=min((one.context_window for one in found if one.context_window), default=None),
            max_output=min((one.max_output for one in found if one.max_output), default=None),
        )

    def find_learned_model(self, server: str, model: str) -> LearnedModel | None:
        return self._learned.get((server, model))

    def add_published_model(self, published: LearnedModel) -> None:
        key = published.server, published.model
        if key not in self._published and len(self._published) < _MAX_ENTRIES:  # clients may ask for any name
            self._published[key] = published
            self.edition += 1

    def follow_facts(self) -> None:
        """Forget the capabilities that come from facts about models which were replaced."""
        if self._facts is not FACTS.file:
            self._facts = FACTS.file
            self._found = {key: self._found[key] for key in self._described if key in self._found}
            self.edition += 1

    def replace_learned_models(self, learned: LearnedModels) -> None:
        if learned != self._learned:
            self._learned = learned
            self.edition += 1

    def list_reported_models(self, server: str) -> list[str]:
        """Return the models in the list of a server, also those without limits. Empty: it was not read."""
        reported = self._reported.get(server.partition(" ")[0], {})
        return [model for listed_at, model in reported if listed_at == server]

    def has_reported_capabilities(self, provider: str, model: str) -> bool:
        """Return True if the provider itself has reported the cached values of a model."""
        return (provider, model) in self._described

    async def fetch_capabilities(
        self, provider: str, model: str, max_seconds: float = FIRST_LIMITS_TIMEOUT_SECONDS
    ) -> ModelCapabilities:
        """Return the capabilities of a model, if possible as its provider reports them.

        The call waits only for the first query about the model, because the values decide what is sent: pictures,
        tools, levels and the window, with which a server loads the model. A query about one model ends by itself; for a
        list the call waits `max_seconds`. `find_observed_model` returns the limits in the model list of a server.
        """
        self.start_due_queries(provider, model)
        is_list = provider in self._limit_queries
        key = (provider, "" if is_list else model)
        query = self._queries.get(key)
        if query is not None and key not in self._described and key not in self._failed:
            remaining = self._queried_at[key] + max_seconds - self._clock() if is_list else None
            if remaining is None or remaining > 0:
                done, _ = await asyncio.wait((query,), timeout=remaining)
                if not done:
                    self._failed.add(key)
        return self.cached_capabilities(provider, model)

    def start_due_queries(self, provider: str, model: str) -> None:
        if (query := self._limit_queries.get(provider)) is not None:
            key = (provider, "")
            interval = LISTING_REFRESH_INTERVAL_SECONDS if key in self._described else QUERY_RETRY_INTERVAL_SECONDS
            if self._is_due(key, interval):
                self._start_query(key, self._read_limits(query, key))
            return
        source = self._sources.get(provider)
        if source is None:
            return
        if self._is_due((provider, ""), LISTING_REFRESH_INTERVAL_SECONDS):
            self._start_query((provider, ""), self.refresh_listing(provider))
        key = (provider, model)
        if self._is_due(key, REFRESH_INTERVAL_SECONDS if key in self._described else QUERY_RETRY_INTERVAL_SECONDS):
            self._start_query(key, self._describe(source, provider, model))

    async def refresh_listing(self, provider: str, max_seconds: float = 0.0) -> None:
        """Query the model list of a provider now. Without a reply, the cached list is kept.

        Then the models are queried from which `choose_installed_model` chooses, for `max_seconds` before the result.
        Ids with control characters are left out: commands print them on terminals.
        """
        source = self._sources.get(provider)
        if source is None:
            return
        self._queried_at[provider, ""] = self._clock()
        listed = await source.list_models()
        if listed is not None:
            self._listings[provider] = tuple(filter(str.isprintable, listed))
            self.edition += 1
            local = self._list_local_models(provider)
            compared = dict.fromkeys((*local[:_MAX_COMPARED_MODELS], *local[-_MAX_COMPARED_MODELS:]))
            keys = [(provider, model) for model in compared if (provider, model) not in self._described]
            for key in keys:
                if key not in self._queries:
                    self._start_query(key, self._describe(source, *key))
            running = [self._queries[key] for key in keys if key in self._queries]
            if running and max_seconds:
                await asyncio.wait(running, timeout=max_seconds)

    async def close(self) -> None:
        queries = list(self._queries.values())
        for query in queries:
            query.cancel()
        await asyncio.gather(*queries, return_exceptions=True)

    async def _describe(self, source: ModelSource, provider: str, model: str) -> None:
        capabilities = await source.query_capabilities(model)
        if capabilities is None:
            self._failed.add((provider, model))
        else:
            self._found[provider, model] = capabilities
            self.edition += 1
            self._described.add((provider, model))

    async def _read_limits(self, query: LimitsQuery, key: tuple[str, str]) -> None:
        found = await query()
        if found is not None:
            earlier = self._reported.get(key[0], {})
            reported: dict[tuple[str, str], LearnedModel] = {}
            for listed in found:
                model = listed.server, listed.model
                has_limits = listed.context_window or listed.max_output
                # some servers state the window of a model only while it is loaded
                reported[model] = listed if has_limits else earlier.get(model, listed)
            prices = {(one.server, one.model): one.prices for one in found if one.prices is not None}
            if self._on_listed_prices is not None and (prices or any(one.prices for one in earlier.values())):
                self._on_listed_prices({server for server, _ in (*earlier, *reported)}, prices)
            self._reported[key[0]] = reported
            if reported != earlier:
                self.edition += 1
            self._described.add(key)

    def _is_due(self, key: tuple[str, str], seconds: float) -> bool:
        if key in self._queries:
            return False
        queried_at = self._queried_at.get(key)
        if queried_at is None:
            return len(self._queried_at) < _MAX_ENTRIES
        return self._clock() - queried_at >= seconds

    def _start_query(self, key: tuple[str, str], query: Coroutine[Any, Any, None]) -> None:
        self._queried_at[key] = self._clock()
        task = self._queries[key] = asyncio.create_task(query)
        task.add_done_callback(lambda _: self._queries.pop(key, None))


TAGS_TIMEOUT_SECONDS = 1.0
"""Maximum seconds of a query for the model list."""
SHOW_TIMEOUT_SECONDS = 10.0
"""Maximum seconds of a query about one model, for which the first request waits. Long, because an Ollama server replies
late while it loads a model."""
MAX_DEFAULT_WINDOW = 65_536
"""Maximum context window, in tokens, of a local model without a configured one. A larger window costs memory."""

_MAX_BYTES = 8 * 1024 * 1024
_CLOUD_HOST = "ollama.com"
_LEVELS = ("low", "medium", "high")
_LEVEL_ONLY_FAMILIES = frozenset(("gptoss", "gpt-oss"))
"""Model families that always think: effort level `none` is not supported (docs.ollama.com, Thinking)."""
_NUM_CTX = compile_later(r"^num_ctx\s+(\d+)\s*$", re.MULTILINE)

_Reply = TypeVar("_Reply")


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


def may_chat(model: str) -> bool:
    """Return False if the name says that a model has no chat: a model for embeddings, speech or images."""
    return not any(fnmatchcase(model.lower(), pattern) for pattern in _NON_CHAT_PATTERNS)


class OllamaModelSource:
    """Client that queries one Ollama server.

    `window` is the context window in tokens that the user has set for all local models. None: each model has its own.
    """

    def __init__(
        self,
        send: Transport,
        find_base_url: Callable[[], str],
        *,
        window: int | None = None,
        find_credential: Callable[[], Credential | None] = lambda: None,
    ) -> None:
        self._send = send
        self._find_base_url = find_base_url
        self._window = window
        self._find_credential = find_credential

    async def list_models(self) -> Sequence[str] | None:
        request = UpstreamRequest(path="/api/tags", body=b"", method="GET")
        tags = await self._query(request, _Tags, TAGS_TIMEOUT_SECONDS)
        if tags is None or tags.models is None:
            return None
        names = []
        for tag in sorted(tags.models, key=lambda tag: -tag.size):
            if tag.capabilities is not None:
                can_chat = "completion" in tag.capabilities
            else:
                can_chat = may_chat(tag.name) and "bert" not in ((tag.details and tag.details.family) or "")
            if can_chat and (name := read_model_id(tag.name)) is not None:
                names.append(name)
        return names

    async def query_capabilities(self, model: str) -> ModelCapabilities | None:
        body = msgspec.json.encode({"model": model})
        request = UpstreamRequest(path="/api/show", body=body, headers={"content-type": "application/json"})
        details = await self._query(request, _ModelDetails, SHOW_TIMEOUT_SECONDS)
        if details is None:
            return None
        lengths = []
        for name, value in (details.model_info or {}).items():
            if name.endswith(".context_length"):
                with suppress(InvalidJson):
                    lengths.append(int(max(decode_json(bytes(value), float), 0)))
        own = max(lengths, default=0)
        if details.remote_host or self._is_cloud_model(model):
            window = own or ModelCapabilities().context_window
        else:
            chosen = _NUM_CTX.search(details.parameters or "")
            default = min(own or MAX_DEFAULT_WINDOW, MAX_DEFAULT_WINDOW)
            window = self._window or (int(chosen[1]) if chosen else default)
        abilities = details.capabilities
        family = details.details.family if details.details is not None else None
        efforts: tuple[str, ...] = ()
        if abilities is not None and "thinking" in abilities:
            efforts = _LEVELS if family in _LEVEL_ONLY_FAMILIES else ("none", *_LEVELS, "max")
        return ModelCapabilities(
            context_window=window,
            max_output=window,
            efforts=efforts,
            accepts_images=abilities is None or "vision" in abilities,
            tools=abilities is None or "tools" in abilities,
            known=True,
            features_known=True,
        )

    def provisional_capabilities(self, model: str, capabilities: ModelCapabilities) -> ModelCapabilities:
        if self._window is None or self._is_cloud_model(model):
            return capabilities
        vision = capabilities.accepts_images or not capabilities.known
        limits = dict.fromkeys(("context_window", "max_output"), self._window)
        return structs.replace(capabilities, **limits, accepts_images=vision, known=True, features_known=True)

    def _is_cloud_model(self, model: str) -> bool:
        if urlsplit(self._find_base_url()).hostname == _CLOUD_HOST:
            return True
        _, colon, tag = model.lower().rpartition(":")
        return bool(colon) and (tag == "cloud" or tag.endswith("-cloud"))

    async def _query(self, request: UpstreamRequest, kind: type[_Reply], seconds: float) -> _Reply | None:
        try:
            async with asyncio.timeout(seconds):
                bound = BoundRequest(
                    OperatorOrigin("model_list"), self._find_base_url(), request, self._find_credential()
                )
                answer = await fetch_answer(self._send, bound, _MAX_BYTES)
            return decode_json(answer.body, kind) if answer.status == 200 else None
        except (ProxyError, TimeoutError, InvalidJson):
            return None
