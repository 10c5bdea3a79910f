"""Web searches by Brave, Tavily and Exa, set by `[search]` of the configuration file, against strict fakes."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.upstream.contract import SearchResult, WebSearch
from anthropic_proxy.engine.upstream.transports import Transports
from anthropic_proxy.errors import WebSearchFailed
from anthropic_proxy.gateway.problems import find_feature_problems
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings, load_settings
from tests.support.bound_requests import CLIENT
from tests.support.fakes.search_services import KEY, SearchStandIn, new_search_service
from tests.support.fakes.searxng import Searxng, new_searxng, result
from tests.support.fakes.server import serving_strictly
from tests.support.golden_texts import GOLDEN

RESULTS = json.loads((GOLDEN / "search_results.json").read_text("utf-8"))
FOUND = [
    SearchResult(url="https://a.test/brie", title="Brie & Co", snippet="A cheese", page_age="2026-05-01"),
    SearchResult(url="https://b.test/", title="B"),
]
KINDS = list(RESULTS)


def load(text: str, folder: Path, **environ: str) -> Settings:
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    return load_settings(environ, PROVIDERS, env_file=str(folder / ".env"))


@asynccontextmanager
async def asking(service: SearchStandIn, folder: Path, key: str = KEY) -> AsyncIterator[WebSearch]:
    with serving_strictly(new_search_service(service)) as running:
        text = f'[search]\nservice = "{service.kind}"\nbase_url = "{running.url}"\napi_key = {{ env = "THE_KEY" }}\n'
        transports = Transports(load(text, folder, THE_KEY=key))
        assert transports.web_search is not None
        yield transports.web_search
        await transports.close()


async def failure(service: SearchStandIn, folder: Path, query: str = "brie", key: str = KEY) -> WebSearchFailed:
    async with asking(service, folder, key) as search:
        with pytest.raises(WebSearchFailed) as caught:
            await search.search(CLIENT, query)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
async def test_results_of_each_service(kind: str, tmp_path: Path) -> None:
    async with asking(SearchStandIn(kind, RESULTS[kind]), tmp_path) as search:
        assert await search.search(CLIENT, "what is brie?") == FOUND


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_found_is_no_failure(kind: str, tmp_path: Path) -> None:
    async with asking(SearchStandIn(kind), tmp_path) as search:
        assert await search.search(CLIENT, "brie") == []


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("brave", {"q": "brie site:a.test", "count": "20", "text_decorations": "false", "result_filter": "web"}),
        ("tavily", {"query": "brie", "max_results": 7, "include_domains": ["a.test"]}),
        ("exa", {"query": "brie", "numResults": 7, "contents": {"highlights": True}, "includeDomains": ["a.test"]}),
    ],
)
async def test_domains_are_sent_in_the_form_of_the_service(kind: str, expected: dict[str, Any], tmp_path: Path) -> None:
    service = SearchStandIn(kind, RESULTS[kind])
    async with asking(service, tmp_path) as search:
        assert await search.search(CLIENT, "brie", allowed_domains=["a.test"], limit=7) == FOUND[:1]
        assert await search.search(CLIENT, "brie", blocked_domains=["a.test"], limit=7) == FOUND[1:]
    assert service.requests[0] == expected


async def test_a_query_that_domains_would_make_too_long_is_sent_alone(tmp_path: Path) -> None:
    service, words = SearchStandIn("brave", RESULTS["brave"]), "x" * 395
    async with asking(service, tmp_path) as search:
        assert await search.search(CLIENT, words, allowed_domains=["a.test"]) == FOUND[:1]
    assert service.requests[0]["q"] == words


@pytest.mark.parametrize("kind", ["brave", "tavily"])
async def test_a_query_above_the_limit_of_the_service_is_not_sent(kind: str, tmp_path: Path) -> None:
    service = SearchStandIn(kind)
    assert (await failure(service, tmp_path, "x" * 401)).error_code == "query_too_long"
    assert service.requests == []


@pytest.mark.parametrize(("kind", "status"), [("brave", 422), ("tavily", 401), ("exa", 401)])
async def test_a_rejected_key_is_reported_in_the_words_of_the_service(kind: str, status: int, tmp_path: Path) -> None:
    error = await failure(SearchStandIn(kind), tmp_path, key="another-key-0123456789")
    assert error.error_code == "unavailable"
    assert error.message.partition(" answers ")[2] == f"with HTTP {status}: The provided API key is invalid."


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("status", "code"), [(429, "too_many_requests"), (500, "unavailable"), (432, "unavailable")])
async def test_a_failure_has_the_error_code_of_the_api(kind: str, status: int, code: str, tmp_path: Path) -> None:
    error = await failure(SearchStandIn(kind, status=status, error=f"Limit for {KEY} reached"), tmp_path)
    assert error.error_code == code
    assert error.message.partition(" answers ")[2] == f"with HTTP {status}: Limit for … reached"


async def test_a_missing_key_fails_each_search_and_is_a_warning(tmp_path: Path) -> None:
    settings = load('[search]\nservice = "brave"\napi_key = { env = "BRAVE_KEY" }\n', tmp_path)
    path = tmp_path / CONFIG_FILE
    problem = f"BRAVE_KEY is not set (search.api_key in {path}, line 3). Set it in .env or in the environment."
    assert [found.text for found in find_feature_problems(settings)] == [f"Web searches fail: {problem}"]
    search = Transports(settings).web_search
    assert search is not None
    with pytest.raises(WebSearchFailed) as caught:
        await search.search(CLIENT, "brie")
    assert (caught.value.message, caught.value.error_code) == (problem, "unavailable")


async def test_searxng_in_the_file(tmp_path: Path) -> None:
    with serving_strictly(new_searxng(Searxng([result("https://a.test/")]))) as running:
        settings = load(f'[search]\nservice = "searxng"\nbase_url = "{running.url}"\n', tmp_path)
        transports = Transports(settings)
        assert transports.web_search is not None
        assert [page.url for page in await transports.web_search.search(CLIENT, "brie")] == ["https://a.test/"]
        await transports.close()
