"""Inspection of texts that the proxy adds to a request: a decision about them is one about the request."""

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct, structs

from anthropic_proxy.engine.exchange.forwarding import count_tokens
from anthropic_proxy.engine.upstream.contract import FetchedPage, SearchResult
from anthropic_proxy.errors import InspectorUnavailable, PolicyBlocked, WorkerBusy
from anthropic_proxy.gateway.settings import CONFIG_FILE
from anthropic_proxy.plugins import Client, InspectedTexts, InspectorScope, Redaction, Refusal
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.owners import PAIRS_OF_CLIENTS
from tests.support.pdf import document, write_pdf
from tests.support.pictures import BLIND, IMAGES, chat_reply, paint, show
from tests.support.replies import CHAT, MESSAGES, Reply
from tests.support.tool_loop import FETCH, SEARCH, Script, call, calls, reply, text

Json = dict[str, Any]
Decision = Sequence[Redaction] | Refusal
ANN = Client(name="ann")
SECRET = "walrus"
PLACEHOLDER = re.compile(r"REDACTED_ANIMAL_[0-9a-f]{16}")
KEYS = {
    "GROQ_API_KEY": "gsk_0123456789abcdef",
    "MOONSHOT_API_KEY": "sk-0123456789abcdef",
    "BIG_MODEL": BLIND,
    "MIDDLE_MODEL": BLIND,
}
RELAY = "msgs/text"
SETTINGS = f"""
{IMAGES}
[providers.msgs]
base_url = "http://msgs.test"
wire = "messages"
dialect = {{ accepts_media_urls = false }}
[providers.msgs.models]
"text" = {{ accepts_images = false, accepts_pdf = false }}
[providers.counting]
base_url = "http://counting.test"
wire = "chat"
dialect = {{ count_paths = ["/count"] }}
[providers.counting.models]
"text" = {{ accepts_images = false }}
[[routes]]
name = "two targets"
targets = ["{BLIND}", "counting/text"]
[routes.when]
model = "claude-haiku-4-5"
"""
PDF = write_pdf(f"Deed of {SECRET}", "Signed by Ada")
LINK = {"type": "url", "url": "https://files.test/a"}
CALL = {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}}]}
COMPACT = {"edits": [{"type": "compact_20260112", "trigger": {"type": "input_tokens", "value": 50_000}}]}


def ask(*content: Json, **fields: Any) -> Json:
    return {"messages": [{"role": "user", "content": [*content]}], **fields}


ADDITIONS: Mapping[str, Json] = {
    "the words of a PDF": ask(document(PDF)),
    "the words of a PDF to cite": ask(document(PDF, citations={"enabled": True})),
    "the words of a PDF in a result": {
        "tools": [{"name": "Read", "input_schema": {"type": "object"}}],
        "messages": [
            {"role": "user", "content": "Read it"},
            CALL,
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [document(PDF)]}],
            },
        ],
    },
    "the words of a PDF that was fetched": ask(
        {"type": "document", "source": {**LINK, "url": "https://files.test/pdf"}}
    ),
    "a page that was fetched": ask({"type": "document", "source": LINK}),
    "a page that was fetched, relayed": ask({"type": "document", "source": LINK}, model=RELAY),
    "the description of a picture": ask(show(paint("red"))),
    "the description of a picture, relayed": ask(show(paint("red")), model=RELAY),
    "the description of a picture that was fetched": ask(
        {"type": "image", "source": {**LINK, "url": "https://files.test/png"}}
    ),
    "a summary": {"messages": [{"role": "user", "content": "w " * 130_000}], "context_management": COMPACT},
    "a summary, relayed": {
        "messages": [{"role": "user", "content": "w " * 130_000}],
        "context_management": COMPACT,
        "model": RELAY,
    },
}


def redact(texts: InspectedTexts) -> Decision:
    found = [(place, passage.text.find(SECRET)) for place, passage in enumerate(texts.passages)]
    return [Redaction(place, start, start + len(SECRET), "animal") for place, start in found if start >= 0]


def refuse(texts: InspectedTexts) -> Decision:
    return Refusal("animal", "No animals.") if any(SECRET in passage.text for passage in texts.passages) else ()


def wait(_: InspectedTexts) -> Decision:
    raise WorkerBusy("Other requests need the thread.")


def fail(texts: InspectedTexts) -> Decision:
    if any(SECRET in passage.text for passage in texts.passages):
        raise ConnectionError
    return ()


class Inspector:
    """It decides by a function, and keeps the texts with the secret that it has read."""

    scope = InspectorScope(name="animals")

    def __init__(self, decide: Callable[[InspectedTexts], Decision]) -> None:
        self._decide = decide
        self.read: list[str] = []

    async def inspect(self, texts: InspectedTexts) -> Decision:
        self.read += [passage.text for passage in texts.passages if SECRET in passage.text]
        return self._decide(texts)

    def find_open_end(self, text: str) -> int:
        return len(text)


class World(Struct):
    proxy: ProxyHarness
    inspector: Inspector
    sent: list[str]
    """Bodies that the providers of the request got, without those of own requests."""

    async def post(self, body: Json, *, stream: bool = False, client: Client = ANN) -> RecordingSink:
        headers = {"anthropic-beta": "compact-2026-01-12"}
        return await self.proxy.post(headers=headers, client=client, stream=stream, **body)


def open_world(folder: Path, decide: Callable[[InspectedTexts], Decision]) -> World:
    (folder / CONFIG_FILE).write_text(SETTINGS, encoding="utf-8")
    sent: list[str] = []

    def answer(base_url: str, request: Any, _: Any) -> FakeResponse:
        body = json.loads(request.body)
        text = request.body.decode()
        if request.path.endswith("/count"):
            sent.append(text)
            return FakeResponse(200, b'{"input_tokens":100}')
        if "You describe a picture" in text:
            return chat_reply(f"A {SECRET}.")
        words = f"It is a {found[0]}." if (found := PLACEHOLDER.search(text)) else "well"
        if "the summary that you write now replaces it" in text:
            words = f"<summary>\nThe user has a {SECRET}.\n</summary>"
        else:
            sent.append(text)
        form, stream = MESSAGES if "msgs" in base_url else CHAT, body.get("stream")
        frames = form.stream(Reply(texts=[words])) if stream else [form.whole(Reply(texts=[words]))]
        kind = "text/event-stream" if stream else "application/json"
        return FakeResponse(200, *frames, headers={"content-type": kind})

    async def fetch(_origin: object, url: str, **_: Any) -> FetchedPage:
        if url.endswith("pdf"):
            return FetchedPage(url=url, media_type="application/pdf", body=PDF)
        if url.endswith("png"):
            return FetchedPage(url=url, media_type="image/png", body=paint("green"))
        return FetchedPage(url=url, media_type="text/html", body=b"x", text=f"A {SECRET}.", title=f"On a {SECRET}")

    proxy = ProxyHarness(answer, env_file=str(folder / ".env"), **KEYS)
    inspector = Inspector(decide)
    proxy.services = structs.replace(proxy.services, inspectors=[inspector], web_fetch=fetch)
    return World(proxy, inspector, sent)


def shown(world: World) -> str:
    """All that left, also in base64."""
    texts = "\n".join(world.sent)
    return texts + "".join(
        base64.b64decode(word + "==", validate=False).decode(errors="replace")
        for word in texts.split('"')
        if len(word) > 99
    )


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("addition", ADDITIONS)
async def test_a_redacted_text_leaves_as_a_placeholder_and_is_inspected_once(
    tmp_path: Path, addition: str, stream: bool
) -> None:
    world = open_world(tmp_path, redact)
    for _ in range(2):
        sink = await world.post(ADDITIONS[addition], stream=stream)
        assert sink.error is None, (sink.error, world.proxy.log.getvalue())
        assert f"It is a {SECRET}." in (json.dumps(sink.body) + sink.stream.decode())
    assert len(world.sent) == 2
    assert SECRET not in shown(world)
    assert all("REDACTED_ANIMAL_" in text for text in world.sent)
    assert len(world.inspector.read) == len({*world.inspector.read}) > 0
    receipt = next(one for one in reversed(world.proxy.receipts) if not one.parent)
    assert [(one.inspector, one.part, one.decision) for one in receipt.inspections] == [
        ("animals", "request", "redacted")
    ]


@pytest.mark.parametrize(("pages", "status"), [(20, None), (21, 503)])
async def test_equal_pages_have_no_more_redactions_than_other_texts(
    tmp_path: Path, pages: int, status: int | None
) -> None:
    """A decision about equal pages is made once, and applied to each of them."""

    def redact_each(texts: InspectedTexts) -> Decision:
        words = [(place, found) for place, one in enumerate(texts.passages) for found in re.finditer(SECRET, one.text)]
        return [Redaction(place, *found.span(), "animal") for place, found in words]

    world = open_world(tmp_path, redact_each)
    sink = await world.post(ask(document(write_pdf(*[f"{SECRET} " * 500] * pages))))
    assert (sink.error and sink.error.status) == status
    assert len(world.sent) == (status is None)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("addition", ADDITIONS)
async def test_a_refused_text_is_a_refused_request(tmp_path: Path, addition: str, stream: bool) -> None:
    world = open_world(tmp_path, refuse)
    for _ in range(2):
        sink = await world.post(ADDITIONS[addition], stream=stream)
        assert isinstance(sink.error, PolicyBlocked)
        assert (sink.error.status, sink.error.error_type, sink.error.message) == (400, "policy_blocked", "No animals.")
    assert world.sent == []
    receipt = next(one for one in reversed(world.proxy.receipts) if not one.parent)
    assert (receipt.attempts, receipt.failed_attempts) == ([], [])
    assert len(world.inspector.read) == len({*world.inspector.read})


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("addition", ADDITIONS)
async def test_an_inspector_that_fails_fails_the_request_and_no_provider(
    tmp_path: Path, addition: str, stream: bool
) -> None:
    world = open_world(tmp_path, fail)
    for _ in range(2):  # a failure is no decision
        sink = await world.post(ADDITIONS[addition], stream=stream)
        assert isinstance(sink.error, InspectorUnavailable)
        assert (sink.error.status, sink.error.should_retry) == (503, False)
    assert world.sent == []
    receipt = next(one for one in reversed(world.proxy.receipts) if not one.parent)
    assert (receipt.attempts, receipt.failed_attempts) == ([], [])
    assert len(world.inspector.read) == 2 * len({*world.inspector.read})


@pytest.mark.parametrize("decide", [refuse, fail, wait])
async def test_no_further_target_gets_what_an_inspector_does_not_pass(
    tmp_path: Path, decide: Callable[[InspectedTexts], Decision]
) -> None:
    world = open_world(tmp_path, decide)
    sink = await world.post(ask(document(PDF), model="claude-haiku-4-5"))
    assert isinstance(sink.error, PolicyBlocked | InspectorUnavailable | WorkerBusy)
    assert world.sent == []
    assert world.proxy.receipts[-1].route == "two targets"


@pytest.mark.parametrize(("client", "other_client", "_is_same_owner"), PAIRS_OF_CLIENTS)
async def test_a_decision_is_kept_for_its_owner_and_key(
    tmp_path: Path, client: Client, other_client: Client, _is_same_owner: bool
) -> None:
    """An inspector may decide by the key, of which it is told."""
    world = open_world(tmp_path, redact)
    for one in (client, other_client) * 2:
        await world.post(ADDITIONS["the words of a PDF"], client=one)
    assert world.inspector.read == [f"Deed of {SECRET}"] * 2


async def count(world: World, body: Json) -> Any:
    data = json.dumps({"model": "counting/text", **body}).encode()
    incoming = new_client_request(data, path="/v1/messages/count_tokens", client=Client(name="ann"))
    return await count_tokens(world.proxy.services, incoming, RecordingSink().wait_disconnected)


COUNTED = ["the words of a PDF", "the words of a PDF in a result"]


@pytest.mark.parametrize("addition", COUNTED)
async def test_a_count_is_inspected_too(tmp_path: Path, addition: str) -> None:
    world = open_world(tmp_path, redact)
    assert json.loads((await count(world, ADDITIONS[addition])).body) == {"input_tokens": 100}
    assert len(world.sent) == 1
    assert SECRET not in shown(world)
    await world.post({**ADDITIONS[addition], "model": "counting/text"})
    assert world.inspector.read == [f"Deed of {SECRET}"]


async def test_a_count_has_the_known_description_of_a_picture_as_inspected(tmp_path: Path) -> None:
    world = open_world(tmp_path, redact)
    body = {**ADDITIONS["the description of a picture"], "model": "counting/text"}
    await world.post(body)
    await count(world, body)
    assert len(world.sent) == 2
    assert SECRET not in shown(world)


@pytest.mark.parametrize(
    ("decide", "error"), [(refuse, PolicyBlocked), (fail, InspectorUnavailable), (wait, WorkerBusy)]
)
async def test_a_count_fails_like_a_message(
    tmp_path: Path, decide: Callable[[InspectedTexts], Decision], error: type[Exception]
) -> None:
    world = open_world(tmp_path, decide)
    with pytest.raises(error):
        await count(world, ADDITIONS["the words of a PDF"])
    assert world.sent == []


class Searcher:
    service = "searxng"

    async def search(self, origin: object, query: str, **_: Any) -> Sequence[SearchResult]:
        return [SearchResult(url="https://a.test", title="A", snippet=f"A {SECRET}.")]


TOOL_RESULTS: Mapping[str, tuple[Json, list[bytes]]] = {
    "a search": (SEARCH, calls(call("web_search", query="q"))),
    "a page": (FETCH, calls(call("web_fetch", url="https://files.test/a"))),
    "a PDF": (FETCH, calls(call("web_fetch", url="https://files.test/pdf"))),
}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("decide", [redact, refuse, fail])
@pytest.mark.parametrize("tool", TOOL_RESULTS)
async def test_what_a_tool_of_the_proxy_finds_is_inspected_once(
    tmp_path: Path, tool: str, decide: Callable[[InspectedTexts], Decision], stream: bool
) -> None:
    """Instead of a result that an inspector refuses, the model gets an error. A failure is one of the request."""
    world = open_world(tmp_path, decide)
    definition, first = TOOL_RESULTS[tool]
    script = Script(first, reply(text("Done.")), first, reply(text("Done.")))

    async def answer(bound: Any) -> Any:
        return script(bound.base_url, bound.request, None)

    services = world.proxy.services
    transports = {**services.transports, "counting": answer}
    world.proxy.services = structs.replace(services, transports=transports, web_search=Searcher())
    for _ in range(2):
        words = [{"type": "text", "text": "See https://files.test/a and https://files.test/pdf"}]
        sink = await world.post(ask(*words, tools=[definition], model="counting/text"), stream=stream)
        code = "inspector-unavailable" if decide is fail else ""
        assert world.proxy.receipts[-1].error_code == code
        if code and stream:
            assert b"event: error" in sink.stream
            assert b"message_stop" not in sink.stream
        else:
            assert (sink.error.code if sink.error else "") == code
        if code:  # no further call of the model
            script.answers = [first, reply(text("Done."))]
    told = json.dumps(script.requests)
    assert SECRET not in told
    assert ("REDACTED_ANIMAL_" in told) == (decide is redact)
    assert ("unavailable" in told) == (decide is refuse)
    assert len(script.requests) == (2 if decide is fail else 4)
    times = 2 if decide is fail else 1  # a failure is no decision
    assert len(world.inspector.read) == times * len({*world.inspector.read}) > 0
