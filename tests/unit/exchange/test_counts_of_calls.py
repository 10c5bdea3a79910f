"""A reply of several calls to a provider: each call has a count of its own, however the reply goes on.

The count is what the provider has reported, else an estimate of what was sent and received. The receipt has their sum.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pytest
from msgspec import Struct

from anthropic_proxy.engine.model_calls import list_calls
from anthropic_proxy.engine.upstream.contract import SearchResult
from anthropic_proxy.errors import UpstreamProtocolError
from anthropic_proxy.plugins import Receipt
from tests.support.golden_runner import fold_events
from tests.support.harness import STALL, FakeResponse, LeavingSink, RecordingSink
from tests.support.tool_loop import SEARCH, Script, Searcher, call, calls, frame, gemini, proxy, reply, text
from tests.support.virtual_time import in_virtual_time

FIRST = 1_000, 900
"""Input and output tokens that the provider reports of the first call."""
SECOND = 1_000, 300
WORDS = "word " * 400
RECEIVED = len(WORDS) // 4
"""Estimated tokens of what was received of the second call."""
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
Chunks = Sequence[bytes | bytearray | Exception]


OPENROUTER = {"OPENAI_BASE_URL": "https://openrouter.ai/api/v1", "BIG_MODEL": "openai/google/gemini-3.1-pro"}
THINKING = {"type": "adaptive"}


class Form(Struct, frozen=True):
    """Why a reply has two calls."""

    first: Chunks = ()
    """The response to the first call. Empty: there is only one call."""
    words: bytes = frame(text(WORDS))
    """The beginning of the second response."""
    ending: Chunks = (*reply(tokens=SECOND),)
    fields: Mapping[str, Any] = MappingProxyType({})
    settings: Mapping[str, str] = MappingProxyType({"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"})
    repeats_input: bool = True
    """The client is told the input of the second call only."""
    fails: bool = False
    streams: bool = False
    """The response is streamed although the client wants a whole reply."""


def thoughts(finish: str) -> list[bytes]:
    """A reply without a word. `finish`: "error" is that of a call that cannot be read."""
    usage = {"prompt_tokens": FIRST[0], "completion_tokens": FIRST[1], "total_tokens": sum(FIRST)}
    native = "MALFORMED_FUNCTION_CALL" if finish == "error" else finish
    end = {"delta": {}, "finish_reason": finish, "native_finish_reason": native}
    ending = b"data: %b\n\n" % json.dumps({"choices": [end], "usage": usage}).encode()
    return [frame({"reasoning": "Hm. "}), ending, b"data: [DONE]\n\n"]


FORMS = {
    "one call": Form(),
    "a search of the proxy": Form(
        calls(call("web_search", query="a"), tokens=FIRST), fields={"tools": [SEARCH]}, repeats_input=False
    ),
    "thinking that uses up the limit": Form(
        thoughts("length"), fields={"model": "openai/mine", "max_tokens": 900}, streams=True
    ),
    "a call that cannot be read": Form(
        thoughts("error"), fields={"thinking": THINKING}, settings=OPENROUTER, fails=True
    ),
    "a reply for a schema": Form(
        reply(text("No JSON."), tokens=FIRST),
        fields={"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        settings={"OPENAI_BASE_URL": "https://api.deepseek.com", "BIG_MODEL": "openai/deepseek-chat"},
    ),
    "a split reply": Form(
        gemini({"text": "One "}, finish="CONTINUATION", token="dG8=", tokens=FIRST),
        b'data: {"candidates": [{"content": {"parts": [{"text": "%b"}]}}]}\r\n\r\n' % WORDS.encode(),
        gemini({"text": ""}, tokens=SECOND),
        {"model": "gemini/gemini-4-argon"},
        {"GEMINI_API_KEY": "k"},
        streams=True,
    ),
}


async def run(form: Form, *ending: bytes | bytearray | Exception, stream: bool) -> tuple[Receipt, RecordingSink]:
    sink = LeavingSink()

    class Response(FakeResponse):
        async def read(self) -> bytes:
            if self.chunks and self.chunks[0] is STALL:
                sink.left.set()
            return await super().read()

    answers = [Response(200, *form.first)] if form.first else []
    script = Script(*answers, Response(200, form.words, *ending))
    harness = proxy(script, Searcher(), **form.settings)
    await harness.post(sink=sink, **{"max_tokens": 5_000, "stream": stream, **form.fields})
    (receipt,) = harness.receipts
    assert not script.answers
    return receipt, sink


def require_counts(receipt: Receipt, form: Form, second: tuple[int, int]) -> None:
    """Compare the calls, their sum and what is priced. An input of 0 stands for any estimate."""
    expected = [FIRST, second] if form.first else [second]
    if not form.first and second[0] != SECOND[0]:
        assert receipt.input_tokens > 0
        expected = [(receipt.input_tokens, second[1])]
    assert [(one.input_tokens, one.output_tokens) for one in receipt.attempts] == expected
    assert (receipt.input_tokens, receipt.output_tokens) == tuple(map(sum, zip(*expected, strict=True)))
    priced = [(one.tokens.input_tokens, one.tokens.output_tokens) for one in list_calls(receipt)]
    assert priced == expected


@pytest.mark.parametrize("name", FORMS)
@in_virtual_time
async def test_the_call_that_runs_when_the_client_leaves_is_estimated(name: str) -> None:
    receipt, _ = await run(FORMS[name], STALL, stream=True)
    assert receipt.outcome == "cancelled", receipt.error
    require_counts(receipt, FORMS[name], (FIRST[0] if FORMS[name].first else 0, RECEIVED))


@pytest.mark.parametrize("name", FORMS)
@in_virtual_time
async def test_the_input_of_a_whole_reply_that_a_client_leaves_is_estimated(name: str) -> None:
    receipt, _ = await run(FORMS[name], STALL, stream=False)
    assert receipt.outcome == "cancelled", receipt.error
    require_counts(receipt, FORMS[name], (FIRST[0] if FORMS[name].first else 0, RECEIVED if FORMS[name].streams else 0))


@pytest.mark.parametrize("name", FORMS)
@in_virtual_time
async def test_the_call_whose_connection_breaks_is_estimated(name: str) -> None:
    receipt, _ = await run(FORMS[name], UpstreamProtocolError("it broke"), stream=True)
    assert receipt.outcome == "error"
    require_counts(receipt, FORMS[name], (FIRST[0] if FORMS[name].first else 0, RECEIVED))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", FORMS)
async def test_calls_that_have_ended_have_the_counts_of_the_provider(name: str, stream: bool) -> None:
    form = FORMS[name]
    if "schema" in name:
        form = Form(form.first, frame(text('{"a": 1}')), form.ending, form.fields, form.settings)
    receipt, sink = await run(form, *form.ending, stream=stream)
    assert sink.error is None
    require_counts(receipt, form, SECOND)
    usage = (fold_events(sink.stream) if stream else sink.body)["usage"]
    told = [SECOND[0] + (FIRST[0] if form.first and not form.repeats_input else 0)]
    is_unseen = form.fails and not stream  # the client is not told of an attempt before the first byte
    told.append(SECOND[1] + (FIRST[1] if form.first and not is_unseen else 0))
    assert [usage["input_tokens"], usage["output_tokens"]] == told


async def test_a_call_without_a_report_at_the_end_of_a_reply_is_estimated() -> None:
    form = FORMS["a search of the proxy"]
    receipt, sink = await run(form, frame({}, "stop"), b"data: [DONE]\n\n", stream=True)
    usage = fold_events(sink.stream)["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (receipt.input_tokens, receipt.output_tokens)
    assert receipt.output_tokens == FIRST[1] + RECEIVED
    assert [one.input_tokens > 0 for one in receipt.attempts] == [True, True]


async def test_the_text_of_a_call_that_has_ended_replaces_no_report() -> None:
    """The text is longer than the report says, and the next call fails."""
    script = Script(calls(text(WORDS), call("web_search", query="a"), tokens=(1_000, 185)), FakeResponse(400, b"{}"))
    harness = proxy(script, Searcher())
    await harness.post(tools=[SEARCH], stream=True, max_tokens=5_000)
    (receipt,) = harness.receipts
    assert (receipt.outcome, receipt.input_tokens, receipt.output_tokens) == ("error", 1_000, 185)


async def test_a_call_that_has_ended_is_final_while_its_tools_run() -> None:
    sink = LeavingSink()

    class Endless(Searcher):
        async def search(self, *asked: Any, **more: Any) -> Sequence[SearchResult]:
            sink.left.set()
            await asyncio.Event().wait()
            return []

    harness = proxy(Script(calls(text(WORDS), call("web_search", query="a"), tokens=(1_000, 185))), Endless())
    await harness.post(sink=sink, tools=[SEARCH], stream=True, max_tokens=5_000)
    (receipt,) = harness.receipts
    assert (receipt.outcome, receipt.input_tokens, receipt.output_tokens) == ("cancelled", 1_000, 185)
