"""Features that Ollama reports for its models: queried in the background, and applied to requests."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from anthropic_proxy.engine.messages.preparation.request import MIN_MARGIN_TOKENS
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import SHOW_TIMEOUT_SECONDS, Catalog, OllamaModelSource
from anthropic_proxy.engine.providers.model_facts import ModelCapabilities
from anthropic_proxy.engine.routing.model_listing import list_tier_mappings
from anthropic_proxy.engine.wires.bound_requests import BoundRequest
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import load_settings
from tests.support.fakes.ollama.models import MODELS, Model, show, tags
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.virtual_time import in_virtual_time

LEVELS = ("none", "low", "medium", "high", "max")
REPLY = b'{"message":{"role":"assistant","content":"well"},"done":true,"done_reason":"stop","eval_count":1}'


class Server:
    """An Ollama with a function of the body for every answer but the chat's."""

    def __init__(self, **answers: Any) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.credentials: list[Credential | None] = []
        self._answers = {"tags": lambda _: FakeResponse(200, msgspec.json.encode(tags())), "show": _show} | answers

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        name = request.path.removeprefix("/api/")
        body = json.loads(request.body) if request.body else None
        self.asked.append((name, body))
        self.credentials.append(credential)
        return self._answers.get(name, lambda _: FakeResponse(200, REPLY))(body)  # type: ignore[no-any-return]

    async def send(self, bound: BoundRequest) -> FakeResponse:
        return self(bound.base_url, bound.request, bound.credential)

    @property
    def chats(self) -> list[Any]:
        return [body for name, body in self.asked if name == "chat"]


def _show(body: Any) -> FakeResponse:
    model = MODELS.get(body["model"])
    return (
        FakeResponse(200, msgspec.json.encode(show(model)))
        if model
        else FakeResponse(404, b'{"error":"model not found"}')
    )


async def described(model: str, shown: Any = None, base_url: str = "http://localhost:11434", **options: Any) -> Any:
    server = Server(**({} if shown is None else {"show": lambda _: FakeResponse(200, msgspec.json.encode(shown))}))
    return await OllamaModelSource(server.send, lambda: base_url, **options).query_capabilities(model)


# Reported abilities


@pytest.mark.parametrize(
    ("model", "window", "efforts", "vision", "tools"),
    [
        ("qwen3:8b", 40_960, LEVELS, False, True),
        ("qwen3-coder:30b", 65_536, (), False, True),
        ("qwen3-vl:8b", 65_536, LEVELS, True, True),
        ("gpt-oss:20b", 65_536, ("low", "medium", "high"), False, True),
        ("gemma3:4b", 65_536, (), True, False),
        ("mine:small", 3_072, (), False, True),
        ("gpt-oss:120b-cloud", 131_072, ("low", "medium", "high"), False, True),
    ],
)
async def test_a_description_becomes_facts(model: str, window: int, efforts: Any, vision: bool, tools: bool) -> None:
    assert await described(model) == ModelCapabilities(
        context_window=window,
        max_output=window,
        efforts=efforts,
        accepts_images=vision,
        tools=tools,
        known=True,
        features_known=True,
    )


@pytest.mark.parametrize(
    ("model", "shown", "window"),
    [
        ("old", {"model_info": {"llama.context_length": 8_192.0}}, 8_192),
        ("odd", {"model_info": {"llama.context_length": "many", "x": None}, "parameters": None}, 65_536),
        ("none", {}, 65_536),
        ("large", {"parameters": "stop x\nnum_ctx                        200000\ntop_k 1"}, 200_000),
        ("alias", {"remote_host": "https://ollama.com:443", "model_info": {"a.context_length": 262_144}}, 262_144),
        ("qwen3:480b-CLOUD", {"model_info": {"a.context_length": 262_144}}, 262_144),
        ("glm:cloud", {}, 128_000),
        ("my-cloud-model", {"model_info": {"a.context_length": 262_144}}, 65_536),
    ],
)
async def test_the_window_is_the_model_s_own_within_reason(model: str, shown: Any, window: int) -> None:
    facts = await described(model, shown)
    assert (facts.context_window, facts.max_output) == (window, window)
    assert facts.tools  # without a report of its abilities a model is not doubted
    assert facts.accepts_images


async def test_the_user_s_window_wins_over_the_model_s_but_not_in_the_cloud() -> None:
    assert (await described("qwen3:8b", window=100_000)).context_window == 100_000
    assert (await described("mine:small", window=100_000)).context_window == 100_000
    assert (await described("gpt-oss:120b-cloud", window=100_000)).context_window == 131_072
    at_ollama = await described("deepseek-v4", {"model_info": {"a.context_length": 900_000}}, "https://ollama.com")
    assert at_ollama.context_window == 900_000


@pytest.mark.parametrize(
    "answer",
    [
        FakeResponse(404, b'{"error":"no"}'),
        FakeResponse(200, b"[1"),
        FakeResponse(200, b"[]"),
        FakeResponse(200),
        FakeResponse(500),
    ],
)
async def test_useless_answers_are_ignored(answer: FakeResponse) -> None:
    server = Server(show=lambda _: answer, tags=lambda _: answer)
    models = OllamaModelSource(server.send, lambda: "http://localhost:11434")
    assert await models.query_capabilities("x") is None
    assert await models.list_models() is None
    assert answer.closed == 2


async def test_models_that_chat_are_listed_by_size() -> None:
    listed = await OllamaModelSource(Server().send, lambda: "http://localhost:11434").list_models()
    assert (listed[0], listed[-1]) == ("qwen3-coder:30b", "gpt-oss:120b-cloud")
    assert "nomic-embed-text:latest" not in listed


@pytest.mark.parametrize("window", ["", "16384"])
async def test_a_model_without_tools_is_not_chosen_because_the_setting_leaves_none_room(window: str) -> None:
    sizes = {"gemma3:27b": 17_000_000_000, "qwen3:8b": 5_000_000_000}
    models = {
        "gemma3:27b": Model("gemma3", 131_072, ("completion", "vision"), sizes["gemma3:27b"]),
        "qwen3:8b": Model("qwen3", 131_072, ("completion", "tools"), sizes["qwen3:8b"]),
    }
    listed = [{"name": name, "size": one.size, "details": one.details} for name, one in models.items()]
    server = Server(
        tags=lambda _: FakeResponse(200, msgspec.json.encode({"models": listed})),
        show=lambda body: FakeResponse(200, msgspec.json.encode(show(models[body["model"]]))),
    )
    proxy = ProxyHarness(server, PREFERRED_PROVIDER="ollama", OLLAMA_CONTEXT_LENGTH=window)
    await proxy.services.catalog.refresh_listing("ollama", 60)
    rows = list_tier_mappings(proxy.services.settings, proxy.services.catalog)
    assert {row.target for row in rows} == {"ollama/qwen3:8b"}


@pytest.mark.parametrize(
    ("installed", "big", "small"),
    [
        ("qwen3-coder:30b gpt-oss:20b llama3.2:latest", "qwen3-coder:30b", "llama3.2:latest"),
        ("qwen3-coder:30b llama3:latest llama3.2:latest", "qwen3-coder:30b", "llama3.2:latest"),  # llama3: 8,192 tokens
        ("qwen3:8b gpt-oss:20b mine:small", "gpt-oss:20b", "gpt-oss:20b"),  # 40,960 and 3,072 tokens
        ("qwen3:8b gemma3:4b llama3.2:latest", "llama3.2:latest", "llama3.2:latest"),  # gemma3 calls no tools
        ("gpt-oss:120b-cloud llama3.2:latest", "llama3.2:latest", "llama3.2:latest"),
        ("gpt-oss:120b-cloud", "gpt-oss:120b-cloud", "gpt-oss:120b-cloud"),
        ("nomic-embed-text:latest llama3.2:latest qwen3:8b", "llama3.2:latest", "llama3.2:latest"),
        ("llama3:latest mine:small", "mine:small", "mine:small"),  # none has room, and llama3 calls no tools
        ("own-embedder llama3.2:latest", "llama3.2:latest", "llama3.2:latest"),  # of an older server
    ],
)
async def test_a_model_that_cannot_run_a_session_is_not_chosen(installed: str, big: str, small: str) -> None:
    """The proxy uses the models that `init` proposes: both call the same function after the same query."""
    embedder = Model("qwen3", 40_960, ("embedding",), 9_000_000_000)
    models = {name: MODELS.get(name, embedder) for name in installed.split()}
    listed = [
        {"name": name, "size": one.size, "details": one.details}
        | ({} if "own-embedder" in models else {"capabilities": list(one.abilities)})
        for name, one in models.items()
    ]
    server = Server(
        tags=lambda _: FakeResponse(200, msgspec.json.encode({"models": listed})),
        show=lambda body: FakeResponse(200, msgspec.json.encode(show(models[body["model"]]))),
    )
    proxy = ProxyHarness(server, PREFERRED_PROVIDER="ollama")
    await proxy.services.catalog.refresh_listing("ollama", 60)
    rows = list_tier_mappings(proxy.services.settings, proxy.services.catalog)
    targets = {row.tier: row.target for row in rows}
    wanted = {tier: f"ollama/{small if tier == 'haiku' else big}" for tier in targets}
    assert targets == wanted


async def test_models_without_chat_of_older_servers_are_known_by_their_family_or_name() -> None:
    families = {
        "a": "qwen3",
        "b": "nomic-bert",
        "embeddinggemma:latest": "gemma3",
        "hf.co/Qwen/Qwen3-Embedding-8B": "qwen3",
        "dengcao/qwen3-reranker:4b": "qwen3",
        "llama-guard3:8b": "llama",
    }
    tags = [{"name": name, "size": 1, "details": {"family": family}} for name, family in families.items()]
    old = {"models": [*tags, {"name": "without-details", "size": 0}]}
    server = Server(tags=lambda _: FakeResponse(200, msgspec.json.encode(old)))
    listed = await OllamaModelSource(server.send, lambda: "http://localhost:11434").list_models()
    assert listed == ["a", "without-details"]


# When it is asked


class Source:
    """A source with answers that come when the test lets them."""

    def __init__(self) -> None:
        self.facts: ModelCapabilities | None = ModelCapabilities(context_window=1, known=True)
        self.begun = asyncio.Event()
        self.open = asyncio.Event()
        self.asked: list[str] = []
        self.models: Sequence[str] | None = ("a",)

    async def list_models(self) -> Sequence[str] | None:
        self.asked.append("")
        return self.models

    async def query_capabilities(self, model: str) -> ModelCapabilities | None:
        self.asked.append(model)
        self.begun.set()
        await self.open.wait()
        return self.facts

    def provisional_capabilities(self, model: str, facts: ModelCapabilities) -> ModelCapabilities:
        return ModelCapabilities(context_window=2)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def settle(catalogue: Catalog) -> None:
    await asyncio.gather(*catalogue._queries.values())
    await asyncio.sleep(0)


async def test_the_first_request_waits_for_the_facts_and_later_ones_have_them() -> None:
    source, clock = Source(), Clock()
    catalogue = Catalog(sources={"p": source}, clock=clock)
    first = [asyncio.create_task(catalogue.fetch_capabilities("p", "m")) for _ in range(3)]
    await source.begun.wait()
    source.open.set()
    assert {facts.context_window for facts in await asyncio.gather(*first)} == {1}
    assert (await catalogue.fetch_capabilities("p", "m")).context_window == 1
    assert source.asked.count("m") == 1
    assert catalogue.cached_model_ids("p") == ("a",)


async def test_a_query_that_began_long_before_the_first_request_is_waited_for() -> None:
    source, clock = Source(), Clock()
    catalogue = Catalog(sources={"p": source}, clock=clock)
    catalogue.start_due_queries("p", "m")
    await source.begun.wait()
    clock.now = 9
    first = asyncio.create_task(catalogue.fetch_capabilities("p", "m"))
    await asyncio.sleep(0)
    source.open.set()
    assert (await first).context_window == 1


async def test_a_question_without_an_answer_is_put_again_later_and_not_waited_for() -> None:
    source, clock = Source(), Clock()
    source.facts = None
    source.open.set()
    catalogue = Catalog(sources={"p": source}, clock=clock)
    assert (await catalogue.fetch_capabilities("p", "m")).context_window == 2
    await catalogue.fetch_capabilities("p", "m")
    assert source.asked.count("m") == 1
    clock.now = 10
    source.facts = ModelCapabilities(context_window=3, known=True)
    assert (await catalogue.fetch_capabilities("p", "m")).context_window == 2
    await settle(catalogue)
    assert catalogue.cached_capabilities("p", "m").context_window == 3


async def test_facts_and_listing_are_renewed_beside_the_requests() -> None:
    source, clock = Source(), Clock()
    source.open.set()
    catalogue = Catalog(sources={"p": source}, clock=clock)
    assert (await catalogue.fetch_capabilities("p", "m")).context_window == 1
    source.facts, source.models, clock.now = ModelCapabilities(context_window=4, known=True), ("b", "a"), 1_000
    assert (await catalogue.fetch_capabilities("p", "m")).context_window == 1
    await settle(catalogue)
    assert (catalogue.cached_capabilities("p", "m").context_window, catalogue.cached_model_ids("p")) == (4, ("b", "a"))
    source.facts, source.models, clock.now = None, None, 2_000
    await catalogue.fetch_capabilities("p", "m")
    await settle(catalogue)
    assert (catalogue.cached_capabilities("p", "m").context_window, catalogue.cached_model_ids("p")) == (4, ("b", "a"))


async def test_others_are_never_asked_and_a_closed_catalogue_asks_no_more() -> None:
    source = Source()
    catalogue = Catalog(sources={"p": source}, clock=Clock())
    assert "openai" not in catalogue.queried_providers
    assert (await catalogue.fetch_capabilities("openai", "gpt-4.1")).known
    await catalogue.refresh_listing("openai")
    catalogue.start_due_queries("p", "m")
    await catalogue.close()
    assert catalogue._queries == {}


# What it is good for


async def ask(server: Server, model: str, settings: dict[str, str] | None = None, **fields: Any) -> Any:
    proxy = ProxyHarness(server, PREFERRED_PROVIDER="ollama", BIG_MODEL=f"ollama/{model}", **(settings or {}))
    kept = await proxy.post(**fields)
    await proxy.services.catalog.close()
    return kept


@pytest.mark.parametrize(
    ("model", "settings", "window"),
    [
        ("qwen3:8b", {}, 40_960),
        ("qwen3-coder:30b", {}, 65_536),
        ("mine:small", {}, 3_072),
        ("not-pulled", {}, 65_536),
        ("llama3:70b", {}, 8_192),
        ("qwen3:8b", {"OLLAMA_CONTEXT_LENGTH": "16384"}, 16_384),
        ("llama3:70b", {"OLLAMA_CONTEXT_LENGTH": "16384"}, 16_384),
        ("not-pulled", {"OLLAMA_CONTEXT_LENGTH": "131072"}, 131_072),
        ("gpt-oss:120b-cloud", {"OLLAMA_CONTEXT_LENGTH": "16384"}, None),
        ("not-pulled:cloud", {"OLLAMA_CONTEXT_LENGTH": "16384"}, None),
    ],
)
async def test_the_first_request_has_the_right_window(model: str, settings: dict[str, str], window: Any) -> None:
    server = Server()
    await ask(server, model, settings)
    assert server.chats[0]["options"].get("num_ctx") == window


async def test_what_a_model_cannot_do_is_not_asked_of_it() -> None:
    tool = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    messages = [{"role": "user", "content": [picture]}]
    server = Server()
    await ask(server, "llama3:latest", tools=[tool], messages=messages, output_config={"effort": "high"})
    await ask(server, "qwen3-vl:8b", tools=[tool], messages=messages, output_config={"effort": "high"})
    blind, sees = server.chats
    assert "tools" not in blind
    assert "think" not in blind
    assert blind["messages"] == [{"role": "user", "content": "[image omitted: image/png]"}]
    assert sees["messages"] == [{"role": "user", "content": "", "images": ["aGk="]}]
    assert (sees["think"], len(sees["tools"])) == ("high", 1)


class _Late(FakeResponse):
    """A reply after eight seconds of the loop's clock. `is_lost`: none within the time of a query."""

    def __init__(self, status: int, *chunks: bytes, is_lost: bool) -> None:
        super().__init__(status, *chunks)
        self._seconds = 1_000 if is_lost else 8

    async def read(self) -> bytes:
        seconds, self._seconds = self._seconds, 0
        await asyncio.sleep(seconds)
        return await super().read()


PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
LOOK = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
PLACES: dict[str, list[Any]] = {
    "prompt": [{"role": "user", "content": [PICTURE]}],
    "history": [
        {"role": "user", "content": [PICTURE]},
        {"role": "assistant", "content": "a picture"},
        {"role": "user", "content": "go on"},
    ],
    "result": [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": [CALL]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [PICTURE]}]},
    ],
}


@pytest.mark.parametrize("model", ["llama3:latest", "llama3.2:latest", "mine:small", "qwen3-vl:8b", "gemma3:4b"])
@pytest.mark.parametrize("place", PLACES)
@in_virtual_time
async def test_a_server_that_describes_its_model_late_gets_the_same_requests(place: str, model: str) -> None:
    def show_late(body: Any) -> FakeResponse:
        return _Late(200, msgspec.json.encode(show(MODELS[body["model"]])), is_lost=False)

    fields = {"messages": PLACES[place], "tools": [LOOK], "output_config": {"effort": "high"}}
    at_once, late = Server(), Server(show=show_late)
    await ask(at_once, model, **fields)
    await ask(late, model, **fields)
    assert late.chats == at_once.chats


@in_virtual_time
async def test_only_the_first_request_waits_for_a_server_that_never_describes_its_model() -> None:
    server = Server(show=lambda _: _Late(200, is_lost=True))
    proxy = ProxyHarness(server, PREFERRED_PROVIDER="ollama", BIG_MODEL="ollama/qwen3:8b")
    now = asyncio.get_running_loop().time
    await proxy.post()
    assert now() == SHOW_TIMEOUT_SECONDS
    await proxy.post()
    assert now() == SHOW_TIMEOUT_SECONDS
    await proxy.services.catalog.close()
    assert len(server.chats) == 2


async def test_the_output_is_limited_by_what_the_window_leaves() -> None:
    server = Server()
    await ask(server, "mine:small", max_tokens=32_000)
    assert 2_100 < server.chats[0]["options"]["num_predict"] < 3_072 - MIN_MARGIN_TOKENS


async def test_a_key_goes_with_every_question() -> None:
    server = Server()
    await ask(server, "qwen3:8b", {"OLLAMA_API_KEY": "key-of-ollama", "OLLAMA_API_BASE": "https://ollama.com"})
    assert {name for name, _ in server.asked} == {"show", "tags", "chat"}
    assert {credential and credential.value for credential in server.credentials} == {"Bearer key-of-ollama"}


@pytest.mark.parametrize("text", ["10m", "1h30m", "300", "-1", "-1m", "0", "1.5h", "250ms"])
def test_times_to_keep_a_model_are_those_of_ollama(text: str) -> None:
    settings = load_settings({"OLLAMA_KEEP_ALIVE": text}, PROVIDERS, env_file=None)
    assert settings.ollama_keep_alive == text


@pytest.mark.parametrize("text", ["ten", "10 m", "5x", "m", "--1", "1e3"])
def test_other_times_are_refused_at_start(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"OLLAMA_KEEP_ALIVE .* 10m or 24h"):
        load_settings({"OLLAMA_KEEP_ALIVE": text}, PROVIDERS, env_file=None)
