"""Links to images and documents for a backend without links: fetched once, or named in a text."""

import asyncio
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.exchange.media_inlining import MAX_CONCURRENT_FETCHES, MAX_URLS_PER_REQUEST
from anthropic_proxy.engine.upstream.contract import IMAGE_MEDIA_TYPES, FetchedPage
from anthropic_proxy.engine.wires.contract import Credential, UpstreamRequest
from anthropic_proxy.errors import FetchErrorCode, WebFetchFailed
from tests.support.fake_upstream import error, reply
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink

MOONSHOT = {"MOONSHOT_API_KEY": "sk-0123456789abcdef", "BIG_MODEL": "moonshot/kimi-k2.6"}
OPENAI = {"OPENAI_API_KEY": "sk-0123456789abcdef", "BIG_MODEL": "gpt-4.1"}
GEMINI = {"GEMINI_API_KEY": "AIza0123456789abcdef", "PREFERRED_PROVIDER": "google", "BIG_MODEL": "gemini-2.0-flash"}
CAT = "https://pictures.test/cat.png"
DEED = "https://papers.test/deed.pdf"
PNG = b"\x89PNG\r\n\x1a\n"


class Net:
    """The pages that there are, and how often each was fetched."""

    def __init__(self, **failures: FetchErrorCode) -> None:
        self.fetched: Counter[str] = Counter()
        self.active_fetches = self.max_active_fetches = 0
        self.failures = failures

    async def fetch(
        self,
        url: str,
        *,
        media_types: Collection[str],
        allowed_domains: Sequence[str] = (),
        blocked_domains: Sequence[str] = (),
        max_url_length: int = 0,
    ) -> FetchedPage:
        self.fetched[url] += 1
        self.active_fetches += 1
        self.max_active_fetches = max(self.max_active_fetches, self.active_fetches)
        await asyncio.sleep(0)
        self.active_fetches -= 1
        host = url.split("/")[2].split(".", maxsplit=1)[0]
        if host in self.failures:
            raise WebFetchFailed(f"{url} cannot be had", self.failures[host])
        if media_types == IMAGE_MEDIA_TYPES:
            return FetchedPage(url=url, media_type="image/png", body=PNG)
        if "application/pdf" in media_types and url.endswith(".pdf"):
            return FetchedPage(url=url, media_type="application/pdf", body=b"%PDF-")
        if url.endswith(".html"):
            return FetchedPage(url=url, media_type="text/html", title="Cheese", text="# Brie")
        raise WebFetchFailed(f"{url} is application/pdf", "unsupported_content_type")


class Linked:
    """A proxy that may fetch URLs, and the requests to its providers."""

    def __init__(self, net: Net | None, *answers: FakeResponse, **settings: str) -> None:
        self.sent: list[dict[str, Any]] = []
        left = list(answers)

        def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
            self.sent.append(json.loads(request.body))
            return left.pop(0) if left else reply(False)

        self.proxy = ProxyHarness(upstream, **settings)
        if net is not None:
            self.proxy.services = structs.replace(self.proxy.services, web_fetch=net.fetch)

    async def post(self, *content: Any, **fields: Any) -> RecordingSink:
        return await self.proxy.post(messages=[{"role": "user", "content": list(content)}], max_tokens=100, **fields)

    @property
    def notes(self) -> list[tuple[str, str]]:
        return [(note.handling, note.field) for note in self.proxy.receipts[-1].fidelity.notes]


def image(url: str = CAT) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "url", "url": url}}


def document(url: str = DEED, **fields: str) -> dict[str, Any]:
    return {"type": "document", "source": {"type": "url", "url": url}, **fields}


def parts_of(sent: Mapping[str, Any]) -> list[Any]:
    content = sent["messages"][-1]["content"]
    return content if isinstance(content, list) else [content]


DATA = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
QUESTION = {"type": "text", "text": "?"}


async def test_a_picture_is_sent_as_bytes_if_the_backend_accepts_no_links() -> None:
    net = Net()
    linked = Linked(net, **MOONSHOT)
    await linked.post(image(), QUESTION)
    assert parts_of(linked.sent[0])[0] == DATA
    assert linked.notes == [("emulated", "messages.image")]


async def test_without_the_setting_a_text_names_the_link() -> None:
    linked = Linked(None, **MOONSHOT)
    await linked.post(image(), QUESTION)
    assert f"[image: {CAT}]" in json.dumps(linked.sent[0])
    assert linked.notes == [("dropped", "messages.image")]


async def test_a_link_passes_if_the_backend_accepts_it() -> None:
    net = Net()
    linked = Linked(net, **OPENAI)
    await linked.post(image(), QUESTION)
    assert parts_of(linked.sent[0])[0]["image_url"] == {"url": CAT}
    assert not net.fetched
    assert linked.notes == []


async def test_a_pdf_comes_as_its_bytes_where_only_pictures_may_be_links() -> None:
    linked = Linked(Net(), **OPENAI)
    await linked.post(document(title="Deed"), QUESTION)
    file = {"filename": "Deed.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}
    assert parts_of(linked.sent[0])[0] == {"type": "file", "file": file}


async def test_a_page_as_a_document_is_text_with_its_title() -> None:
    linked = Linked(Net(), **OPENAI)
    await linked.post(document("https://papers.test/brie.html"), QUESTION)
    assert parts_of(linked.sent[0]) == ["Cheese\n\n# Brie\n\n?"]


async def test_a_pdf_is_not_fetched_for_a_model_that_reads_none() -> None:
    linked = Linked(Net(), **MOONSHOT)
    await linked.post(document(), QUESTION)
    assert f"[document: {DEED}]" in json.dumps(linked.sent[0])
    assert linked.notes == [("dropped", "messages.document")]


async def test_a_picture_is_not_fetched_for_a_model_that_sees_none() -> None:
    net = Net()
    linked = Linked(net, **{**MOONSHOT, "BIG_MODEL": "moonshot/kimi-k2-instruct"})
    await linked.post(image(), QUESTION)
    assert not net.fetched


async def test_a_model_that_knows_links_by_their_type_gets_the_others_as_bytes() -> None:
    net = Net()
    linked = Linked(net, FakeResponse(200, b'{"candidates": []}'), **{**GEMINI, "BIG_MODEL": "gemini-3.1-pro-preview"})
    await linked.post(image(), image("https://pictures.test/?id=1"), QUESTION)
    parts = linked.sent[0]["contents"][0]["parts"]
    assert parts[0] == {"fileData": {"mimeType": "image/png", "fileUri": CAT}}
    assert parts[1] == {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}
    assert list(net.fetched) == ["https://pictures.test/?id=1"]


async def test_a_data_url_without_a_media_type_is_not_fetched() -> None:
    linked = Linked(Net(closed="url_not_allowed"), **MOONSHOT)
    await linked.post(image("data:;base64,//closed/"), QUESTION)
    assert parts_of(linked.sent[0]) == ["[image omitted: text/plain]\n\n?"]


@pytest.mark.parametrize("code", ["url_not_allowed", "url_not_accessible", "content_too_large"])
async def test_a_link_that_cannot_be_had_becomes_a_text_that_names_it(code: FetchErrorCode) -> None:
    linked = Linked(Net(closed=code), **MOONSHOT)
    await linked.post(image("https://closed.test/cat.png"), image(), QUESTION)
    assert "[image: https://closed.test/cat.png]" in json.dumps(linked.sent[0])
    assert DATA in parts_of(linked.sent[0])
    assert linked.notes == [("dropped", "messages.image"), ("emulated", "messages.image")]
    reasons = [note.reason for note in linked.proxy.receipts[-1].fidelity.notes]
    assert code in reasons[0]
    assert "closed.test" not in "".join(reasons)


async def test_strict_refuses_what_could_not_be_fetched() -> None:
    linked = Linked(Net(closed="url_not_allowed"), FIDELITY="strict", **MOONSHOT)
    sink = await linked.post(image("https://closed.test/cat.png"), QUESTION)
    assert sink.error.message == (
        "moonshot/kimi-k2.6 would lose messages.image: the backend accepts no URL, and it was not fetched: "
        "url_not_allowed; a text replaces it. FIDELITY=strict rejects this. Remove it from the request, "
        "choose another backend, or allow it with FIDELITY=best-effort (FIDELITY_<TIER> "
        "for one tier)."
    )
    assert linked.sent == []


async def test_links_in_results_of_tools_are_fetched_and_what_stands_beside_them_stays() -> None:
    net = Net()
    linked = Linked(net, **MOONSHOT)
    await linked.proxy.post(
        max_tokens=100,
        tools=[{"name": "look", "input_schema": {"type": "object"}}],
        messages=[
            {"role": "user", "content": "StatsRequest"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}]},
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_1",
                        "content": [{"type": "text", "text": "It is \u00fc"}, {"type": "new", "text": "odd"}, image()],
                    }
                ],
            },
        ],
    )
    body_text = json.dumps(linked.sent[0], ensure_ascii=False)
    assert "It is ü" in body_text
    assert "odd" in body_text
    assert DATA in parts_of(linked.sent[0])


async def test_a_link_is_fetched_once_in_an_exchange_however_often_it_stands_and_is_tried() -> None:
    net = Net()
    linked = Linked(net, error(500), error(500), FALLBACK_SONNET="moonshot/kimi-k2.5", **MOONSHOT)
    await linked.post(image(), image(), QUESTION)
    assert len(linked.sent) > 1
    assert net.fetched == {CAT: 1}
    assert all(parts_of(sent).count(DATA) == 2 for sent in linked.sent)


async def test_links_are_fetched_only_for_a_backend_that_accepts_none() -> None:
    net = Net()
    settings = {**OPENAI, "MOONSHOT_API_KEY": "sk-x", "FALLBACK_SONNET": "moonshot/kimi-k2.6"}
    linked = Linked(net, error(500), **settings)
    await linked.post(image(), QUESTION)
    assert [parts_of(sent)[0]["image_url"]["url"][:5] for sent in linked.sent] == ["https", "data:"]
    assert net.fetched == {CAT: 1}
    assert linked.notes == [("emulated", "messages.image")]


async def test_links_are_fetched_together_up_to_a_limit() -> None:
    net = Net()
    linked = Linked(net, **MOONSHOT)
    await linked.post(
        *(image(f"https://pictures.test/{number}") for number in range(MAX_URLS_PER_REQUEST + 2)), QUESTION
    )
    assert len(net.fetched) == MAX_URLS_PER_REQUEST
    assert 1 < net.max_active_fetches <= MAX_CONCURRENT_FETCHES
    assert json.dumps(linked.sent[0]).count("[image: https://pictures.test/") == 2


async def test_a_request_without_links_is_not_looked_through() -> None:
    net = Net()
    linked = Linked(net, **MOONSHOT)
    await linked.post(
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "eA=="}}, QUESTION
    )
    assert linked.notes == []
    assert not net.fetched
