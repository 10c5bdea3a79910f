"""Many links to images, for a backend without links. `golden_texts/exchanges/links` has the other cases."""

import asyncio
import json
from typing import Any

from msgspec import structs

from anthropic_proxy.engine.exchange.media_inlining import MAX_CONCURRENT_FETCHES, MAX_URLS_PER_REQUEST
from anthropic_proxy.engine.upstream.contract import FetchedPage
from tests.support.fake_upstream import FakeUpstream, reply
from tests.support.harness import FakeResponse, ProxyHarness


async def test_links_are_fetched_together_up_to_a_limit() -> None:
    fetched: list[str] = []
    active = most_active = 0
    bodies: list[Any] = []

    async def fetch(url: str, **_: Any) -> FetchedPage:
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
