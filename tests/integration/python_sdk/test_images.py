"""Pictures at models that do not see, by the SDK on four wires and a relay: another model describes them.

The color of a picture is in the body of the provider that describes, and the words about it in that of the other.
"""

import base64
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.support.fakes import openai_chat
from tests.support.fakes.server import Running, serving
from tests.support.pdf import PICTURE, document, write_pdf
from tests.support.pictures import paint, show
from tests.support.sdk import MODEL, text_of
from tests.support.sdk import Upstream as Eyes
from tests.support.wires import EVERY_KIND, Upstream, standing_described

YELLOW, PURPLE, BLACK = (paint(color) for color in ((255, 255, 0), (128, 0, 128), (0, 0, 0)))
QUESTION = {"type": "text", "text": "What is in the description?"}
TOOL = {"name": "Read", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}


@pytest.fixture(scope="module")
def seeing() -> Iterator[Running]:
    with serving(openai_chat.new_openai()) as running:
        yield running


@pytest.fixture
def eyes(seeing: Running) -> Iterator[Eyes]:
    """The provider that describes."""
    seen = Eyes(seeing)
    yield seen
    assert [breach for exchange in seen.exchanges for breach in exchange.breaches] == []


@pytest.fixture(scope="module", params=EVERY_KIND)
def wire_of_module(
    request: pytest.FixtureRequest, seeing: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Upstream]:
    with standing_described(request.param, tmp_path_factory.mktemp(request.param), seeing) as upstream:
        yield upstream
        assert "Traceback" not in upstream.proxy.log


def has_picture(body: Any, picture: bytes) -> bool:
    return base64.b64encode(picture).decode() in json.dumps(body)


def test_a_picture_is_seen_by_one_model_and_described_for_the_other(
    client: anthropic.Anthropic, wire: Upstream, eyes: Eyes
) -> None:
    content: Any = [show(YELLOW), QUESTION]
    options: Any = {"model": MODEL, "max_tokens": 4_000, "messages": [{"role": "user", "content": content}]}
    with client.messages.stream(**options) as stream:
        streamed = stream.get_final_message()
    whole = client.messages.create(**options)
    assert text_of(streamed) == text_of(whole) == "yellow"
    assert [has_picture(exchange.body, YELLOW) for exchange in eyes.exchanges] == [True]
    assert len(wire.bodies) == 2
    for body in wire.bodies:
        assert not has_picture(body, YELLOW)
        assert "<image_description>" in json.dumps(body)


def test_a_picture_in_the_result_of_a_tool_is_described(
    client: anthropic.Anthropic, wire: Upstream, eyes: Eyes
) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "shot.png"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [show(PURPLE)]}
    messages: Any = [
        {"role": "user", "content": "Read shot.png"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result, QUESTION]},
    ]
    tools: Any = [TOOL]
    client.messages.create(model=MODEL, max_tokens=4_000, messages=messages, tools=tools)
    assert r"\npurple\n</image_description>" in json.dumps(wire.bodies[-1])
    assert [has_picture(exchange.body, PURPLE) for exchange in eyes.exchanges] == [True]
    assert not any(has_picture(body, PURPLE) for body in wire.bodies)


def test_the_reply_says_that_the_proxy_has_described_a_picture(
    client: anthropic.Anthropic, wire: Upstream, eyes: Eyes
) -> None:
    content: Any = [show(BLACK), QUESTION]
    raw = client.messages.with_raw_response.create(
        model=MODEL, max_tokens=4_000, messages=[{"role": "user", "content": content}]
    )
    assert "dropped=0" in raw.headers["x-proxy-fidelity"]
    assert "emulated=0" not in raw.headers["x-proxy-fidelity"]
    assert len(eyes.exchanges) == 1


def test_a_scanned_page_is_described(client: anthropic.Anthropic, wire: Upstream, eyes: Eyes) -> None:
    scanned: Any = [document(write_pdf(PICTURE)), {"type": "text", "text": "Count to 3"}]
    client.messages.create(model=MODEL, max_tokens=4_000, messages=[{"role": "user", "content": scanned}])
    is_relayed = wire.kind.has_native_features  # its server gets the PDF as it is
    assert ("a description of the page follows" in json.dumps(wire.bodies[-1])) is not is_relayed
    assert len(eyes.exchanges) == (0 if is_relayed else 1)


def test_a_token_count_asks_no_model(client: anthropic.Anthropic, wire: Upstream, eyes: Eyes) -> None:
    content: Any = [show(paint((255, 255, 0), 3)), QUESTION]
    counted = client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": content}])
    assert counted.input_tokens > 0
    assert eyes.exchanges == []
