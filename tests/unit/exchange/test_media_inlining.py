"""Links to images, for a backend without links. `golden_texts/exchanges/links` has the other cases."""

import asyncio
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.exchange.media_inlining import MAX_CONCURRENT_FETCHES, MAX_URLS_PER_REQUEST
from anthropic_proxy.engine.upstream.contract import FetchedPage
from anthropic_proxy.engine.upstream.web_fetch import FETCH_TIMEOUT_SECONDS
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import WebFetchFailed
from tests.support.fake_upstream import FakeUpstream, reply
from tests.support.harness import FakeResponse, ProxyHarness, Room
from tests.support.virtual_time import in_virtual_time


async def test_links_are_fetched_together_up_to_a_limit() -> None:
    fetched: list[str] = []
    active = most_active = 0
    bodies: list[Any] = []

    async def fetch(_origin: object, url: str, **_: Any) -> FetchedPage:
        nonlocal active, most_active
        fetched.append(url)
        active += 1
        most_active = max(most_active, active)
        await asyncio.sleep(0)
        active -= 1
        return FetchedPage(url=url, media_type="image/png", body=b"\x89PNG\r\n\x1a\n")

    def answer(_: FakeUpstream, body: dict[str, Any]) -> FakeResponse:
        bodies.append(body)
        return reply(False)

    proxy = ProxyHarness(FakeUpstream(answer), MOONSHOT_API_KEY="sk-0123456789abcdef", BIG_MODEL="moonshot/kimi-k2.6")
    proxy.services = structs.replace(proxy.services, web_fetch=fetch)
    urls = [f"https://pictures.test/{number}" for number in range(MAX_URLS_PER_REQUEST + 2)]
    images = [{"type": "image", "source": {"type": "url", "url": url}} for url in urls]
    await proxy.post(messages=[{"role": "user", "content": images}])
    assert (len(fetched), len(set(fetched))) == (MAX_URLS_PER_REQUEST, MAX_URLS_PER_REQUEST)
    assert 1 < most_active <= MAX_CONCURRENT_FETCHES
    assert json.dumps(bodies[0]).count("[image: https://pictures.test/") == 2
    assert set(fetched) == set(urls[2:])  # the newest


@pytest.mark.parametrize("kind", ["image", "document"])
@pytest.mark.parametrize("urls", ["12", "11"], ids=["two files", "one file in two places"])
@pytest.mark.parametrize(("room", "calls"), [(3_999_999, 0), (4_000_000, 1)])
async def test_fetched_files_need_memory(room: int, calls: int, urls: str, kind: str) -> None:
    async def fetch(_origin: object, url: str, **_: Any) -> FetchedPage:
        if kind == "document":
            return FetchedPage(url=url, media_type="text/plain", text="word" * 500_000)
        return FetchedPage(url=url, media_type="image/png", body=b"\x89PNG" * 500_000)

    bodies: list[Any] = []
    upstream = FakeUpstream(lambda _, body: bodies.append(body) or reply(False))
    proxy = ProxyHarness(upstream, MOONSHOT_API_KEY="sk-0123456789abcdef", BIG_MODEL="moonshot/kimi-k2.6")
    proxy.services = structs.replace(proxy.services, web_fetch=fetch)
    content = [image(f"https://pictures.test/{url}") | {"type": kind} for url in urls]
    sink = await proxy.post(messages=[{"role": "user", "content": content}], memory=Room(room))
    assert (len(bodies), sink.error and sink.error.status) == (calls, None if calls else 529)


async def send_images(*messages: Any, sizes: Mapping[str, int] = {}, hanging: Collection[str] = ()) -> list[Any]:
    """Return the parts of the messages that the backend gets: `image`, or the text."""
    delays = itertools.cycle((3, 1, 2, 0))

    async def fetch(_origin: object, url: str, **_: Any) -> FetchedPage:
        for _ in range(next(delays)):
            await asyncio.sleep(0)
        if url in hanging:
            await asyncio.sleep(FETCH_TIMEOUT_SECONDS)
            raise WebFetchFailed("gave nothing whole", "url_not_accessible")
        return FetchedPage(url=url, media_type="image/png", body=b"\x89PNG" * (sizes.get(url, 4) // 4))

    def answer(_: FakeUpstream, body: dict[str, Any]) -> FakeResponse:
        bodies.append(body)
        return reply(False)

    bodies: list[Any] = []
    proxy = ProxyHarness(FakeUpstream(answer), MOONSHOT_API_KEY="sk-0123456789abcdef", BIG_MODEL="moonshot/kimi-k2.6")
    proxy.services = structs.replace(proxy.services, web_fetch=fetch)
    await proxy.post(messages=list(messages))
    (body,) = bodies
    contents = [message["content"] for message in body["messages"] if message["role"] == "user"]
    return [part.get("text", "image") for content in contents if isinstance(content, list) for part in content]


def image(url: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "url", "url": url}}


async def test_the_newest_links_are_fetched_while_there_is_room() -> None:
    urls = [f"https://pictures.test/{number}" for number in range(5)]
    content = [image(url) for url in urls]
    found = await send_images({"role": "user", "content": content}, sizes=dict.fromkeys(urls, 9 << 20))
    assert found == [*(f"[image: {url}]" for url in urls[:2]), *["image"] * 3]


@pytest.mark.parametrize(
    ("hanging", "seconds", "fetched"),
    [
        (range(0), 0, range(20)),
        (range(16, 19), 5, [*range(16), 19]),  # the other place takes all others
        (range(0, 20, 4), 10, [place for place in range(20) if place % 4]),
        (range(20), 10, range(0)),
    ],
)
@in_virtual_time
async def test_links_that_hang_share_one_time_limit(
    hanging: Sequence[int], seconds: float, fetched: Sequence[int]
) -> None:
    urls = [f"https://pictures.test/{number}" for number in range(20)]
    content = [image(url) for url in urls]
    began = asyncio.get_running_loop().time()
    found = await send_images({"role": "user", "content": content}, hanging={urls[place] for place in hanging})
    assert [place for place, part in enumerate(found) if part == "image"] == [*fetched]
    assert asyncio.get_running_loop().time() - began == pytest.approx(seconds, abs=0.1)


async def test_links_in_a_document_of_blocks_are_fetched() -> None:
    content = [{"type": "text", "text": "before"}, image("https://pictures.test/1")]
    document = {"type": "document", "title": "T", "source": {"type": "content", "content": content}}
    assert await send_images({"role": "user", "content": [document]}) == ["T", "before", "image"]


CLAUDE = {"AWS_REGION": "us-east-1", "AWS_BEARER_TOKEN_BEDROCK": "k-0123456789abcdef"}
OTHER = {"MOONSHOT_API_KEY": "sk-0123456789abcdef"}


@pytest.mark.parametrize(
    ("model", "settings"), [("bedrock/anthropic.claude-opus-5-5", CLAUDE), ("moonshot/kimi-k2.6", OTHER)]
)
async def test_the_encoding_of_large_files_leaves_the_event_loop_free(model: str, settings: dict[str, str]) -> None:
    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def turns_for(size: int) -> int:
        async def fetch(_origin: object, url: str, **_: Any) -> FetchedPage:
            nonlocal begun
            begun = turns
            return FetchedPage(url=url, media_type="image/png", body=b"\x89PNG" * (size // 4))

        def answer(_: str, request: UpstreamRequest, __: Credential | None) -> FakeResponse:
            nonlocal used
            used = turns - begun
            assert len(request.body) > size
            return FakeResponse(401, b"{}")

        begun = used = 0
        proxy = ProxyHarness(answer, **settings)
        proxy.services = structs.replace(proxy.services, web_fetch=fetch)
        await proxy.post(model=model, messages=[{"role": "user", "content": [image("https://pictures.test/1")]}])
        return used

    turns = 0
    other = asyncio.create_task(count_turns())
    try:
        small, large = await turns_for(4), await turns_for(15 << 20)
        assert 0 < 4 * small < large  # encoded on the event loop, both need the same turns
    finally:
        other.cancel()
