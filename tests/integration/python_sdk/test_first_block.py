"""The example of `docs/start/sdks.md` and its like, on each wire: the first block is the text."""

import contextlib
import io
from typing import Any

import anthropic
import pytest

from tests.support.paths import ROOT
from tests.support.sdk import MODEL, WEATHER, user_messages
from tests.support.wires import Upstream

HIDING: dict[str, Any] = {
    "absent": anthropic.omit,
    "disabled": {"type": "disabled"},
    "omitted": {"type": "adaptive", "display": "omitted"},
}
PAGE = ROOT / "docs/start/sdks.md"
ADDRESS = '"http://127.0.0.1:8082"'


def test_the_example_of_the_page_prints_the_text(wire: Upstream) -> None:
    example = PAGE.read_text("utf-8").partition("```python client\n")[2].partition("```")[0]
    assert example.count(ADDRESS) == 1
    assert "message.content[0].text" in example
    program = example.replace(ADDRESS, repr(wire.proxy.url)).replace('"hello"', '"Say exactly: hello"')
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, str(PAGE), "exec"), {})  # the page is our own
    assert printed.getvalue() == "hello\n"


@pytest.mark.parametrize("thinking", HIDING.values(), ids=HIDING)
def test_the_first_block_is_the_text(client: anthropic.Anthropic, thinking: Any) -> None:
    asked = user_messages("Say exactly: hello")
    message = client.messages.create(model=MODEL, max_tokens=4_000, messages=asked, thinking=thinking)
    with client.messages.stream(model=MODEL, max_tokens=4_000, messages=asked, thinking=thinking) as stream:
        texts = "".join(stream.text_stream)
        streamed = stream.get_final_message()
    for found in (message, streamed):
        assert found.content[0].text == "hello"  # type: ignore[union-attr]  # what programs read
        assert len(found.content) == 1
    assert texts == "hello"


@pytest.mark.parametrize("thinking", HIDING.values(), ids=HIDING)
def test_a_program_that_sends_back_only_calls_goes_on(client: anthropic.Anthropic, thinking: Any) -> None:
    messages: list[Any] = user_messages("How is the weather in Oslo and Rome?")
    for _ in range(4):
        reply = client.messages.create(
            model=MODEL, max_tokens=4_000, messages=messages, tools=[WEATHER], thinking=thinking
        )
        assert {block.type for block in reply.content} <= {"text", "tool_use"}
        calls = [block for block in reply.content if block.type == "tool_use"]
        if not calls:
            break
        sent = [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.input} for call in calls]
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": "snow"} for call in calls]
        messages += [{"role": "assistant", "content": sent}, {"role": "user", "content": results}]
    assert reply.stop_reason == "end_turn"
    assert len(messages) > 1
