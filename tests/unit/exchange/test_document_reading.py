"""PDFs for models that accept none: what the provider gets in their place, and what the client is told."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.background import BackgroundWork
from anthropic_proxy.engine.documents.reader import MAX_PICTURES, PDF_PROGRAM, PROCESSES, DocumentReader
from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.exchange.forwarding import count_tokens
from anthropic_proxy.engine.messages.documents import MAX_CHARACTERS, MAX_PICTURES_LENGTH
from anthropic_proxy.engine.platforms.sandbox import SandboxedProgram
from anthropic_proxy.engine.upstream.contract import FetchedPage
from anthropic_proxy.gateway.server.asgi import BodyMemory
from anthropic_proxy.plugins import Client
from tests.support.citations import write_marks
from tests.support.fake_upstream import FakeUpstream, error, reply
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.pdf import (
    PICTURE,
    document,
    write_encrypted_pdf,
    write_endless_program,
    write_full_program,
    write_pdf,
)
from tests.support.waiting import wait_for_async

TEXT_MODEL, SEEING_MODEL = "groq/openai/gpt-oss-120b", "moonshot/kimi-k2.6"
DEED = write_pdf("Deed of sale", "Signed by Ada")


class Proxy:
    """A proxy, and the messages that its provider got."""

    def __init__(self, model: str = TEXT_MODEL, **settings: str) -> None:
        self.bodies: list[Any] = []
        keys = {"GROQ_API_KEY": "gsk_0123456789abcdef", "MOONSHOT_API_KEY": "sk-0123456789abcdef"}
        self.harness = ProxyHarness(FakeUpstream(self._answer), **keys, BIG_MODEL=model, **settings)

    def _answer(self, _: FakeUpstream, body: dict[str, Any]) -> FakeResponse:
        self.bodies.append(body)
        return reply(bool(body.get("stream")))

    async def post(self, *content: Any, **fields: Any) -> RecordingSink:
        return await self.harness.post(messages=[{"role": "user", "content": [*content]}], **fields)

    async def send(self, *content: Any, **fields: Any) -> Any:
        """Return the content of the user message that the provider got."""
        sink = await self.post(*content, **fields)
        assert sink.error is None, (sink.error, self.harness.log.getvalue())
        return self.bodies[-1]["messages"][-1]["content"]

    def notes(self) -> list[tuple[str, str, str]]:
        return [(note.handling, note.field, note.reason) for note in self.harness.receipts[-1].fidelity.notes]


def text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n\n".join(part.get("text", "(picture)") for part in content)


async def test_a_model_of_text_gets_the_text_of_each_page() -> None:
    proxy = Proxy()
    content = await proxy.send(document(DEED, title="deed.pdf", context="Of 1843"), {"type": "text", "text": "Who?"})
    assert text_of(content) == (
        'deed.pdf\nOf 1843\n\n<page number="1">\nDeed of sale\n</page>\n'
        '<page number="2">\nSigned by Ada\n</page>\n\nWho?'
    )
    assert proxy.notes() == [
        ("emulated", "messages.document", "sent as text, with its title"),
        ("emulated", "messages.document", "the model reads no PDF: the proxy sends its text by page"),
    ]


async def test_a_pdf_in_the_result_of_a_tool_is_read() -> None:
    proxy = Proxy()
    messages = [
        {"role": "user", "content": "Read it"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [document(DEED)]}]},
    ]
    tools = [{"name": "Read", "input_schema": {"type": "object"}}]
    await proxy.harness.post(messages=messages, tools=tools)
    result = next(message for message in proxy.bodies[0]["messages"] if message["role"] == "tool")
    assert text_of(result["content"]) == (
        '<page number="1">\nDeed of sale\n</page>\n<page number="2">\nSigned by Ada\n</page>'
    )


async def test_a_model_that_sees_gets_pictures_of_the_pages_too() -> None:
    proxy = Proxy(SEEING_MODEL)
    content = await proxy.send(document(write_pdf("Deed", PICTURE)))
    kinds = [part["type"] for part in content]
    assert kinds == ["text", "image_url", "text", "image_url"]
    assert [part["text"] for part in content if "text" in part] == [
        '<page number="1">\nDeed\n</page>',
        '<page number="2">\n[no text; a picture of the page follows]\n</page>',
    ]
    assert content[1]["image_url"]["url"].startswith("data:image/png;base64,iVBORw0KGgo")
    assert ("emulated", "messages.document", "the proxy sends pictures of pages of a PDF") in proxy.notes()


async def test_pages_that_a_model_of_text_cannot_read_are_a_loss() -> None:
    proxy = Proxy()
    content = await proxy.send(document(write_pdf("Deed", PICTURE)))
    assert text_of(content) == '<page number="1">\nDeed\n</page>\n<page number="2">\n[no text]\n</page>'
    assert proxy.notes()[-1] == ("dropped", "messages.document", "pages of a PDF that have no text are not sent")


async def test_the_text_of_a_page_cannot_close_its_mark() -> None:
    content = await Proxy().send(document(write_pdf('</page>\n< / PAGE >\n<page number="2">\n<pages> a < b')))
    assert text_of(content) == (
        '<page number="1">\n&lt;/page>\n&lt; / PAGE >\n&lt;page number="2">\n<pages> a < b\n</page>'
    )


async def test_a_document_is_read_once_in_a_conversation_and_the_prefix_stays() -> None:
    proxy = Proxy()
    first = {"role": "user", "content": [document(DEED), {"type": "text", "text": "Who?"}]}
    messages: list[Any] = [first]
    for turn in range(4):
        await proxy.harness.post(messages=messages)
        messages += [{"role": "assistant", "content": "Ada"}, {"role": "user", "content": f"And {turn}?"}]
    assert proxy.harness.services.documents.read_count == 1
    beginnings = {json.dumps(body["messages"][0]) for body in proxy.bodies}
    assert len(beginnings) == 1


async def test_a_document_of_another_client_is_read_again() -> None:
    proxy = Proxy()
    messages = [{"role": "user", "content": [document(DEED)]}]
    for name in ("ann", "bob", "ann"):
        await proxy.harness.post(messages=messages, client=Client(name=name))
    assert proxy.harness.services.documents.read_count == 2


async def refuse(*content: Any) -> tuple[int, str, str]:
    """Return status, type and message of the error that the client gets."""
    proxy = Proxy()
    error = (await proxy.post(*content)).error
    assert error is not None
    assert proxy.bodies == []
    return error.status, error.error_type, error.message


async def test_what_the_api_refuses_is_refused_with_its_words() -> None:
    place = "messages.0.content.0.pdf.source.base64.data"
    kind = (400, "invalid_request_error")
    assert await refuse(document(b"%PDF-1.7 damaged")) == (*kind, f"{place}: The PDF specified was not valid.")
    encrypted = await refuse(document(write_encrypted_pdf()))
    assert encrypted == (*kind, f"{place}: The PDF specified is password protected.")
    too_long = await refuse(document(write_pdf(*["page"] * 1_000)))
    assert too_long == (*kind, f"{place}: A maximum of 600 PDF pages may be provided.")
    halves = [document(write_pdf(*[text] * 301)) for text in ("a", "b")]
    path = place.replace("content.0", "content.1")
    assert await refuse(*halves) == (*kind, f"{path}: A maximum of 600 PDF pages may be provided.")


async def test_no_further_document_is_read_beyond_the_pages_of_a_request() -> None:
    proxy = Proxy()
    error = (await proxy.post(*(document(write_pdf(*[text] * 301)) for text in "abcde"))).error
    assert error is not None
    path = "messages.0.content.1.pdf.source.base64.data"
    assert error.message == f"{path}: A maximum of 600 PDF pages may be provided."
    assert proxy.harness.services.documents.read_count == 2


def read_with(proxy: Proxy, program: SandboxedProgram) -> None:
    proxy.harness.services = structs.replace(proxy.harness.services, documents=DocumentReader(program=program))


async def test_the_pictures_of_all_pages_of_a_request_have_one_limit(tmp_path: Path) -> None:
    """Also of a file that stands in it several times. The first ones keep theirs in the next request."""
    proxy = Proxy(SEEING_MODEL)
    size = MAX_PICTURES_LENGTH // 4 - 100
    read_with(proxy, write_full_program(tmp_path, pages=2, text=1, picture=size))
    first, second = document(b"first"), document(b"second")
    content = await proxy.send(first, first, first, second)
    assert sum(len(part["image_url"]["url"]) for part in content if "image_url" in part) < MAX_PICTURES_LENGTH
    shown = ["image_url" if "image_url" in part else part["text"] for part in content]
    page = '<page number="{}">\na\n</page>'
    assert shown[:8] == [page.format(1), "image_url", page.format(2), "image_url"] * 2
    assert shown[8:] == ["[document omitted: application/pdf]", f"{page.format(1)}\n{page.format(2)}"]


async def test_the_texts_of_all_documents_of_a_request_have_one_limit(tmp_path: Path) -> None:
    proxy = Proxy()
    read_with(proxy, write_full_program(tmp_path, pages=3, text=MAX_CHARACTERS // 5))
    content = text_of(await proxy.send(document(b"first"), document(b"second")))
    assert content.count("a" * 1_000) == MAX_CHARACTERS // 1_000
    assert ("dropped", "messages.document", "the text of a long PDF is cut") in proxy.notes()


class MeasuredProxy(Proxy):
    """It notes the bytes that large bodies and documents have while the provider answers."""

    def __init__(self) -> None:
        super().__init__(SEEING_MODEL)
        self.held: list[int] = []

    def count_held(self) -> int:
        return self.harness.services.body_memory[2].count_before("nobody")

    def _answer(self, upstream: FakeUpstream, body: dict[str, Any]) -> FakeResponse:
        self.held.append(self.count_held())
        return super()._answer(upstream, body)


async def test_what_was_read_counts_in_the_memory_for_bodies_until_the_reply_begins(tmp_path: Path) -> None:
    proxy = MeasuredProxy()
    read_with(proxy, write_full_program(tmp_path, pages=1, picture=6 << 20))
    message = {"role": "user", "content": [document(b"first"), document(b"second")]}
    body = {"model": "claude-opus-5", "max_tokens": 9, "stream": True, "messages": [message]}
    incoming = new_client_request(json.dumps(body).encode())
    incoming.memory = BodyMemory(proxy.harness.services, "key ann")
    await Exchange(proxy.harness.services, incoming, RecordingSink()).run()
    assert proxy.held == [pytest.approx(12 << 20, abs=10_000)]
    assert proxy.count_held() == 0


async def test_a_pdf_beyond_the_limits_becomes_a_text() -> None:
    proxy = Proxy()
    slow = structs.replace(PDF_PROGRAM, timeout_seconds=0.001)
    proxy.harness.services = structs.replace(proxy.harness.services, documents=DocumentReader(program=slow))
    assert text_of(await proxy.send(document(DEED, title="deed.pdf"))) == "[document omitted: deed.pdf]"
    reason = "replaced by a text: the PDF needs too much time or memory to be read"
    assert proxy.notes() == [("dropped", "messages.document", reason)]


async def test_documents_of_a_request_beyond_its_time_become_texts() -> None:
    proxy = Proxy()
    proxy.harness.services = structs.replace(proxy.harness.services, documents=DocumentReader(max_work_seconds=1e-9))
    read, late = text_of(await proxy.send(document(DEED), document(write_pdf("late"), title="late.pdf"))).split("\n\n")
    assert read.startswith('<page number="1">\nDeed of sale')
    assert late == "[document omitted: late.pdf]"
    reason = "replaced by a text: the PDF needs too much time or memory to be read"
    assert ("dropped", "messages.document", reason) in proxy.notes()
    assert proxy.harness.services.documents.read_count == 1


async def test_a_document_that_only_waited_for_those_of_others_is_no_loss(tmp_path: Path) -> None:
    busy = structs.replace(PROCESSES, max_wait_seconds=0.0)
    documents = DocumentReader(program=write_endless_program(tmp_path), worker=busy)
    background = BackgroundWork()
    others = [asyncio.create_task(documents.read(background.of(who), "JVBERi0=", "none")) for who in "ab"]
    await wait_for_async(lambda: documents.read_count, lambda count: count == 2)
    proxy = Proxy(FALLBACK_SONNET=SEEING_MODEL)
    proxy.harness.services = structs.replace(proxy.harness.services, documents=documents)
    error = (await proxy.post(document(DEED, title="deed.pdf"))).error
    assert error is not None
    assert (error.status, error.error_type, error.code, error.retry_after) == (
        529,
        "overloaded_error",
        "worker-busy",
        2,
    )
    assert error.message == "Other requests need the processes that read PDFs, and 0 wait. Try again in a moment."
    assert proxy.bodies == []
    (receipt,) = proxy.harness.receipts
    assert (receipt.failed_attempts, receipt.attempts) == ([], [])
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class NotInstalled(DocumentReader):
    is_installed = False


async def test_without_the_extra_the_note_names_it() -> None:
    proxy = Proxy()
    proxy.harness.services = structs.replace(proxy.harness.services, documents=NotInstalled())
    assert text_of(await proxy.send(document(DEED))) == "[document omitted: application/pdf]"
    ((handling, field, reason),) = proxy.notes()
    assert (handling, field) == ("dropped", "messages.document")
    assert reason.startswith("replaced by a text: pypdfium2, which reads PDFs, is not installed. Install it with: ")


async def test_a_pdf_by_url_is_fetched_and_read() -> None:
    async def fetch(_origin: object, url: str, **_: Any) -> FetchedPage:
        return FetchedPage(url=url, media_type="application/pdf", body=DEED)

    proxy = Proxy()
    proxy.harness.services = structs.replace(proxy.harness.services, web_fetch=fetch)
    linked = {"type": "document", "title": "deed", "source": {"type": "url", "url": "https://files.test/deed.pdf"}}
    assert text_of(await proxy.send(linked)).startswith('deed\n\n<page number="1">\nDeed of sale\n</page>')


async def test_a_model_that_reads_pdf_gets_the_file() -> None:
    proxy = Proxy("openai/gpt-4.1")
    harness = ProxyHarness(FakeUpstream(proxy._answer), OPENAI_API_KEY="sk-0123456789abcdef", BIG_MODEL="gpt-4.1")
    await harness.post(messages=[{"role": "user", "content": [document(DEED)]}])
    assert base64.b64encode(DEED).decode() in json.dumps(proxy.bodies)
    assert harness.services.documents.read_count == 0


@pytest.mark.parametrize(
    "pdf", [b"%PDF-1.4 damaged", write_pdf(*[PICTURE] * (MAX_PICTURES + 1))], ids=["damaged", "long scan"]
)
async def test_a_model_that_reads_pdf_gets_the_file_also_to_cite_it_if_the_proxy_cannot_read_all_of_it(
    pdf: bytes,
) -> None:
    proxy = Proxy("openai/gpt-4.1")
    harness = ProxyHarness(FakeUpstream(proxy._answer), OPENAI_API_KEY="sk-0123456789abcdef", BIG_MODEL="gpt-4.1")
    cited = {**document(pdf), "citations": {"enabled": True}}
    await harness.post(messages=[{"role": "user", "content": [cited]}])
    assert base64.b64encode(pdf).decode() in json.dumps(proxy.bodies)


@pytest.mark.parametrize(
    "settings",
    [
        {"GROQ_API_KEY": "gsk_0123456789abcdef", "BIG_MODEL": TEXT_MODEL},
        {"OPENAI_API_KEY": "sk-0123456789abcdef", "BIG_MODEL": "gpt-4.1"},
    ],
)
async def test_a_sentence_of_a_page_is_cited_at_its_page(settings: dict[str, str]) -> None:
    harness = ProxyHarness(FakeUpstream(_cite), **settings)
    cited = document(write_pdf("Deed of sale. Of 1843.", "Signed by Ada. Witnessed by Bob."), title="deed")
    sink = await harness.post(messages=[{"role": "user", "content": [{**cited, "citations": {"enabled": True}}]}])
    assert sink.error is None, (sink.error, harness.log.getvalue())
    (block,) = [block for block in sink.body["content"] if block.get("citations")]
    assert block["citations"] == [
        {
            "type": "page_location",
            "document_index": 0,
            "document_title": "deed",
            "file_id": None,
            "cited_text": "Signed by Ada. ",
            "start_page_number": 2,
            "end_page_number": 3,
        }
    ]


def _cite(_: FakeUpstream, body: dict[str, Any]) -> FakeResponse:
    sent = json.dumps(body)
    assert '<page number=\\"2\\">\\n[3] Signed by Ada.\\n[4] Witnessed by Bob.\\n</page>' in sent
    message = {"role": "assistant", "content": write_marks('By <cite n="3">Ada</cite>.', sent)}
    return FakeResponse(200, json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode())


@pytest.mark.parametrize("is_result", [False, True])
async def test_only_what_the_proxy_has_read_has_pages(is_result: bool) -> None:
    """A client may call its blocks a PDF. They are cited as blocks, also beside a PDF."""
    source = {"type": "content", "media_type": "application/pdf", "content": [{"type": "text", "text": "Signed."}]}
    claimed = {"type": "document", "title": "claimed", "source": source, "citations": {"enabled": True}}
    pdf = {**document(write_pdf("Deed.", "Signed.")), "citations": {"enabled": True}}

    def cite(_: FakeUpstream, body: dict[str, Any]) -> FakeResponse:
        words = write_marks('It <cite n="1">was</cite> <cite n="3">signed</cite>.', json.dumps(body))
        message = {"role": "assistant", "content": words}
        return FakeResponse(200, json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode())

    harness = ProxyHarness(FakeUpstream(cite), GROQ_API_KEY="gsk_0123456789abcdef", BIG_MODEL=TEXT_MODEL)
    messages: list[Any] = [{"role": "user", "content": [claimed, pdf]}]
    if is_result:
        call = {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {}}
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [claimed, pdf]}
        messages = [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ]
    sink = await harness.post(messages=messages)
    assert sink.error is None, (sink.error, harness.log.getvalue())
    cited = [citation for block in sink.body["content"] for citation in block.get("citations") or ()]
    places = [(one["type"], one["document_index"], one["cited_text"]) for one in cited]
    assert places == [("content_block_location", 0, "Signed."), ("page_location", 1, "Signed.")]


async def test_a_pdf_that_a_server_refuses_is_read_by_the_proxy() -> None:
    bodies: list[str] = []

    def answer(_: FakeUpstream, body: dict[str, Any]) -> FakeResponse:
        bodies.append(json.dumps(body["messages"]))
        has_file = '"type": "file"' in bodies[-1]
        return error(400, "This model does not support file content types.") if has_file else reply(False)

    harness = ProxyHarness(FakeUpstream(answer), OPENAI_API_KEY="sk-0123456789abcdef", BIG_MODEL="gpt-4.1")
    sink = await harness.post(messages=[{"role": "user", "content": [document(DEED), document(b"%PDF damaged")]}])
    assert sink.error is None, (sink.error, harness.log.getvalue())
    assert '"type": "file"' in bodies[0]
    assert "Signed by Ada" in bodies[1]
    assert "[document omitted: application/pdf]" in bodies[1]
    reasons = [note.reason for note in harness.receipts[-1].fidelity.notes if note.handling == "dropped"]
    assert reasons == ["replaced by a text: the PDF is damaged, has a password or too many pages"]


async def count(harness: ProxyHarness, content: Any) -> int:
    body = {"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": content}]}
    incoming = new_client_request(json.dumps(body).encode(), path="/v1/messages/count_tokens")
    counted = await count_tokens(harness.services, incoming, RecordingSink().wait_disconnected)
    tokens: int = json.loads(counted.body)["input_tokens"]
    return tokens


async def test_a_count_has_the_tokens_of_the_text_of_a_pdf() -> None:
    words = "\n".join(["All work and no play makes Jack a dull boy."] * 40)
    harness = Proxy().harness
    text = {"type": "text", "text": f'<page number="1">\n{words}\n</page>'}
    assert abs(await count(harness, [document(write_pdf(words))]) - await count(harness, [text])) <= 2


async def test_a_count_of_a_cited_pdf_is_that_of_its_text_also_for_a_model_that_reads_it() -> None:
    words = "\n".join(["All work and no play makes Jack a dull boy."] * 400)
    settings = {"OPENAI_API_KEY": "sk-0123456789abcdef", "BIG_MODEL": "gpt-4.1"}
    harness = ProxyHarness(FakeUpstream(lambda *_: error(404, "There is no such path.")), **settings)
    text = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": words}}
    cited = [{**one, "citations": {"enabled": True}} for one in (document(write_pdf(words)), text)]
    of_pdf, of_text = [await count(harness, [one]) for one in cited]
    assert 5_000 < of_text < of_pdf < of_text + 2_000  # a picture of the page too
