"""PDFs at models that accept none, by the SDK on four wires: the words of a page are in the body of the provider."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.support.pdf import PICTURE, document, write_pdf
from tests.support.sdk import MODEL, text_of
from tests.support.wires import KINDS, Upstream, standing_blind

DEED = document(write_pdf("Deed of the walrus", "Signed by Ada"), title="deed.pdf")
PAGES = '<page number=\\"1\\">\\nDeed of the walrus\\n</page>\\n<page number=\\"2\\">\\nSigned by Ada\\n</page>'


@pytest.fixture(scope="module", params=KINDS)
def wire_of_module(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with standing_blind(request.param, tmp_path_factory.mktemp(request.param)) as upstream:
        yield upstream
        assert "Traceback" not in upstream.proxy.log


def test_a_page_of_a_pdf_is_in_the_body_of_the_provider(client: anthropic.Anthropic, wire: Upstream) -> None:
    content: Any = [DEED, {"type": "text", "text": "Count to 3"}]
    options: Any = {"model": MODEL, "max_tokens": 4_000, "messages": [{"role": "user", "content": content}]}
    with client.messages.stream(**options) as stream:
        streamed = stream.get_final_message()
    whole = client.messages.create(**options)
    assert text_of(streamed) == text_of(whole) == "1 2 3"
    assert all(PAGES in json.dumps(body) for body in wire.bodies)
    assert len(wire.bodies) == 2


def test_a_pdf_in_the_result_of_a_tool_is_read(client: anthropic.Anthropic, wire: Upstream) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "deed.pdf"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [DEED]}
    messages: Any = [
        {"role": "user", "content": "Read deed.pdf"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result, {"type": "text", "text": "Count to 3"}]},
    ]
    tools: Any = [{"name": "Read", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}]
    client.messages.create(model=MODEL, max_tokens=4_000, messages=messages, tools=tools)
    assert PAGES in json.dumps(wire.bodies[-1])


def test_a_damaged_pdf_is_the_error_of_the_api(client: anthropic.Anthropic, wire: Upstream) -> None:
    broken: Any = document(b"%PDF-1.7 and nothing else")
    with pytest.raises(anthropic.BadRequestError) as raised:
        client.messages.create(model=MODEL, max_tokens=100, messages=[{"role": "user", "content": [broken]}])
    message = "messages.0.content.0.pdf.source.base64.data: The PDF specified was not valid."
    assert raised.value.body["error"] == {"type": "invalid_request_error", "message": message}
    assert wire.bodies == []


def test_a_page_without_text_is_a_noted_loss(client: anthropic.Anthropic, wire: Upstream) -> None:
    scanned: Any = [document(write_pdf(PICTURE)), {"type": "text", "text": "Count to 3"}]
    raw = client.messages.with_raw_response.create(
        model=MODEL, max_tokens=4_000, messages=[{"role": "user", "content": scanned}]
    )
    assert raw.headers["x-proxy-fidelity"].startswith("best-effort; ")
    assert "dropped=1" in raw.headers["x-proxy-fidelity"]
    assert '<page number=\\"1\\">\\n[no text]\\n</page>' in json.dumps(wire.bodies[-1])
