"""Web searches that the proxy runs itself, against a strict fake of SearXNG."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.upstream.contract import SearchResult
from anthropic_proxy.engine.upstream.http.client import HttpTransport
from anthropic_proxy.engine.upstream.web_search import MAX_QUERY_CHARACTERS, SearxngClient
from anthropic_proxy.errors import ConfigurationError, WebSearchFailed
from anthropic_proxy.gateway.settings import load_settings
from tests.support.bound_requests import CLIENT
from tests.support.fakes.searxng import Searxng as Instance
from tests.support.fakes.searxng import new_searxng, result
from tests.support.fakes.server import Running, serving_strictly
from tests.support.golden_texts import Check
from tests.support.messages import exactly


@asynccontextmanager
async def asking(instance: Instance, path: str = "") -> AsyncIterator[tuple[SearxngClient, Running]]:
    http = HttpTransport(5)
    with serving_strictly(new_searxng(instance)) as running:
        yield SearxngClient(http.send, running.url + path), running
        await http.close()


async def failure(instance: Instance, query: str = "brie", **domains: Sequence[str]) -> WebSearchFailed:
    async with asking(instance) as (service, _):
        with pytest.raises(WebSearchFailed) as caught:
            await service.search(CLIENT, query, **domains)
    return caught.value


async def test_half_of_a_surrogate_pair_in_a_result_does_not_lose_the_others() -> None:
    found = [result("https://example.com/brie", "Brie \ud83d"), result("https://example.org/", "Camembert")]
    async with asking(Instance(found)) as (service, _):
        titles = [one.title for one in await service.search(CLIENT, "cheese")]
    assert titles == ["Brie \ufffd", "Camembert"]


async def test_results_come_in_their_order_as_the_service_shows_them() -> None:
    found = [
        result("https://example.com/brie", "Brie", publishedDate="2026-05-01T00:00:00"),
        result("https://example.org/", "", content=None, publishedDate="2026-05-01T10:30:00"),
    ]
    async with asking(Instance(found)) as (service, running):
        assert await service.search(CLIENT, " what is\n brie? ") == [
            SearchResult(
                url="https://example.com/brie",
                title="Brie",
                snippet="What https://example.com/brie says",
                page_age="2026-05-01",
            ),
            SearchResult(url="https://example.org/", title="https://example.org/", page_age="2026-05-01T10:30:00"),
        ]
        assert parse_qs(urlsplit(running.journal.exchanges[0].path).query) == {
            "q": ["what is brie?"],
            "format": ["json"],
        }


async def test_nothing_found_is_no_failure() -> None:
    async with asking(Instance()) as (service, _):
        assert await service.search(CLIENT, "brie") == []


async def test_results_are_limited_unique_and_only_pages() -> None:
    no_pages = ["magnet:?xt=1", "", "https://", "https:///path", "https://[a.test"]
    urls = ["https://a.test/", *no_pages, "https://a.test/", "https://b.test/", "https://c.test/"]
    async with asking(Instance([result(url) for url in urls])) as (service, _):
        found = await service.search(CLIENT, "brie", limit=2)
    assert [page.url for page in found] == ["https://a.test/", "https://b.test/"]


async def test_only_the_first_results_of_a_service_are_looked_at() -> None:
    """A service may answer with any number of results that the domains of the client exclude."""
    blocked, good = [result(f"https://a.test/{number}") for number in range(200)], result("https://b.test/")
    for given, kept in (([*blocked[1:], good], ["https://b.test/"]), ([*blocked, good], [])):
        async with asking(Instance(given)) as (service, _):
            found = await service.search(CLIENT, "brie", blocked_domains=["a.test"])
        assert [page.url for page in found] == kept


@pytest.mark.parametrize(
    ("allowed", "blocked", "query", "kept"),
    [
        (["a.test"], [], "brie site:a.test", ["https://a.test/x", "https://www.a.test/y"]),
        (["a.test/x", "b.test"], [], "brie (site:a.test OR site:b.test)", ["https://a.test/x", "https://b.test/x"]),
        ([], ["a.test"], "brie", ["https://b.test/x", "https://c.test/x"]),
        ([f"{name}.test" for name in "bcdefg"], [], "brie", ["https://b.test/x", "https://c.test/x"]),
    ],
)
async def test_domains_are_kept_to(allowed: list[str], blocked: list[str], query: str, kept: list[str]) -> None:
    urls = ["https://a.test/x", "https://www.a.test/y", "https://b.test/x", "https://c.test/x"]
    async with asking(Instance([result(url) for url in urls])) as (service, running):
        found = await service.search(CLIENT, "brie", allowed_domains=allowed, blocked_domains=blocked)
        assert running.journal.exchanges[0].body["q"] == query
    assert [page.url for page in found] == kept


@pytest.mark.parametrize("path", ["", "/search"])
async def test_the_address_may_name_the_search_page_itself(path: str) -> None:
    async with asking(Instance([result("https://a.test/")]), path) as (service, _):
        assert len(await service.search(CLIENT, "brie")) == 1


@pytest.mark.parametrize(
    ("query", "expected"),
    [("!!g brie", "g brie"), (":de brie <3", "de brie 3"), ("brie !important!", "brie important!")],
)
async def test_a_query_gives_the_service_no_commands(query: str, expected: str) -> None:
    async with asking(Instance([result("https://a.test/")])) as (service, running):
        assert await service.search(CLIENT, query)
        assert running.journal.exchanges[0].body["q"] == expected


def test_golden_failures(golden: Check) -> None:
    """`golden_texts/searxng_failures`; `⟨x⟩×3` stands for `xxx`."""

    def show(given: str) -> str:
        fields = json.loads(re.sub(r"⟨(.)⟩×(\d+)", lambda match: match[1] * int(match[2]), given))
        body = {"body": fields["body"].encode()} if "body" in fields else {}
        error = asyncio.run(failure(Instance(**{**fields, **body})))
        return f"{error.error_code}: {re.sub(r'http://[0-9.:]+', 'URL', error.message)}"

    golden("searxng_failures", show)


async def test_engines_that_fail_beside_others_are_no_failure() -> None:
    instance = Instance([result("https://a.test/")], unresponsive=[["brave", "timeout"]])
    async with asking(instance) as (service, _):
        assert len(await service.search(CLIENT, "brie")) == 1


@pytest.mark.parametrize(
    ("query", "domains", "code"),
    [
        ("", {}, "invalid_tool_input"),
        ("a\0b", {}, "invalid_tool_input"),
        (" \n", {}, "invalid_tool_input"),
        ("x" * (MAX_QUERY_CHARACTERS + 1), {}, "query_too_long"),
        ("brie", {"allowed_domains": ["https://a.test"]}, "invalid_tool_input"),
        ("brie", {"blocked_domains": ["*.test"]}, "invalid_tool_input"),
    ],
)
async def test_a_query_that_is_none_is_not_sent(query: str, domains: dict[str, list[str]], code: str) -> None:
    assert (await failure(Instance(status=500), query, **domains)).error_code == code


async def test_a_service_that_is_not_there_is_unavailable() -> None:
    http = HttpTransport(5)
    with pytest.raises(
        WebSearchFailed, match=exactly("SEARCH_URL: no server responds at http://127.0.0.1:1 (connection refused)")
    ) as caught:
        await SearxngClient(http.send, "http://127.0.0.1:1").search(CLIENT, "brie")
    assert caught.value.error_code == "unavailable"
    await http.close()


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://search.test", "search", "http://user:word@search.test"])
def test_an_address_that_is_none_ends_the_start(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"SEARCH_URL .* address that begins with http:// or https://"):
        load_settings({"SEARCH_URL": url}, PROVIDERS, env_file=None)
