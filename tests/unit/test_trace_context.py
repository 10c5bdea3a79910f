"""`traceparent` and `tracestate`: which headers of a client are accepted, and which ones a provider receives."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import structs

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.trace_context import TraceContext, new_span_id, new_trace_id, read_trace_context
from anthropic_proxy.engine.upstream.http.client import HttpTransport
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.plugins import Client, Receipt, UpstreamAttempt
from tests.support.fake_upstream import KEYS, FakeUpstream, error, reply
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.tool_loop import Script, Searcher, call, calls, proxy, text
from tests.support.tool_loop import reply as answer_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{PARENT}-01"
OURS = TraceContext(trace_id=TRACE, span_id="b7ad6b7169203331", parent_id=PARENT, flags="01", state="vendor=x")


def test_new_ids_have_the_length_of_the_standard() -> None:
    headers = TraceContext(trace_id=new_trace_id(), flags="01").encode_headers(new_span_id())
    assert read_trace_context(headers) is not None
    assert list(headers) == ["traceparent"]


# What a provider receives


async def exchange(harness: ProxyHarness, trace: TraceContext | None, **fields: Any) -> RecordingSink:
    body = {"model": "claude-sonnet-4-5", "max_tokens": 900, "messages": [{"role": "user", "content": "hi"}], **fields}
    sink, encoded = RecordingSink(), json.dumps(body).encode()
    headers = {"traceparent": VALID, "tracestate": "vendor=x"}
    request = new_client_request(encoded, headers=headers, trace=trace)
    await Exchange(harness.services, request, sink).run()
    return sink


def recorded(sent: list[Mapping[str, str]], answer: Callable[[int], FakeResponse]) -> Any:
    def upstream(_: str, request: UpstreamRequest, __: object) -> FakeResponse:
        sent.append(request.trace_headers)
        assert "traceparent" not in request.headers
        return answer(len(sent))

    return upstream


async def test_each_attempt_sends_a_span_id_of_its_own() -> None:
    sent: list[Mapping[str, str]] = []
    harness = ProxyHarness(recorded(sent, lambda number: error(503) if number == 1 else reply(False)), **KEYS)
    await exchange(harness, OURS)
    (receipt,) = harness.receipts
    assert [attempt.error_type for attempt in receipt.attempts] == ["api_error", ""]
    assert [attempt.status for attempt in receipt.attempts] == [503, 200]
    spans = [attempt.span_id for attempt in receipt.attempts]
    assert len({OURS.span_id, *spans}) == 3
    assert sent == [{"traceparent": f"00-{TRACE}-{span}-01", "tracestate": "vendor=x"} for span in spans]


async def test_without_traces_a_translated_request_has_no_header_of_the_client() -> None:
    sent: list[Mapping[str, str]] = []
    harness = ProxyHarness(recorded(sent, lambda _: reply(False)), **KEYS)
    await exchange(harness, read_trace_context({"traceparent": VALID}))
    assert sent == [{}]
    assert harness.receipts[0].attempts[0].span_id == ""


async def test_without_traces_a_relay_forwards_the_headers_of_the_client_unchanged() -> None:
    sent: list[Mapping[str, str]] = []
    answer = {"type": "message", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}
    harness = ProxyHarness(
        recorded(sent, lambda _: FakeResponse(200, json.dumps(answer).encode())),
        ANTHROPIC_API_KEY="sk-ant-0123456789abcdef",
        PREFERRED_PROVIDER="anthropic",
    )
    await exchange(harness, None)
    await exchange(harness, OURS)
    span = harness.receipts[1].attempts[0].span_id
    assert sent[0] == {"traceparent": VALID, "tracestate": "vendor=x"}
    assert sent[1] == {"traceparent": f"00-{TRACE}-{span}-01", "tracestate": "vendor=x"}


async def test_trace_headers_are_sent_and_leave_the_cached_head_alone() -> None:
    transport = HttpTransport(1.0)
    plain = UpstreamRequest(path="/chat", body=b"{}", headers={"x-a": "1"})
    traced = structs.replace(plain, trace_headers={"traceparent": VALID})
    first = transport.encode_head("http://127.0.0.1:9", plain, None)
    lines = transport.encode_head("http://127.0.0.1:9", traced, None).decode().split("\r\n")
    assert lines[-4:] == [f"traceparent: {VALID}", "content-length: 2", "", ""]
    assert first.decode() == "\r\n".join([*lines[:-4], *lines[-3:]])


# Records of attempts


async def test_the_usage_of_each_call_of_a_tool_loop_is_recorded() -> None:
    script = Script(calls(call("web_search", query="oslo"), tokens=(100, 10)), answer_of(text("ok"), tokens=(150, 20)))
    harness = proxy(script, Searcher())
    tool = {"type": "web_search_20250305", "name": "web_search"}
    await exchange(harness, OURS, tools=[tool])
    (receipt,) = harness.receipts
    assert [(each.input_tokens, each.output_tokens) for each in receipt.attempts] == [(100, 10), (150, 20)]
    assert (receipt.input_tokens, receipt.output_tokens) == (250, 30)


async def test_a_record_names_the_server() -> None:
    upstream = FakeUpstream(lambda self, body: reply(False))
    harness = ProxyHarness(upstream, **KEYS, OPENAI_BASE_URL="https://models.example:8443/v1")
    await exchange(harness, None)
    (attempt,) = harness.receipts[0].attempts
    assert (attempt.provider, attempt.host, attempt.port) == ("openai", "models.example", 8443)


def test_the_json_log_has_the_names_of_opentelemetry() -> None:
    line = json_entry(OURS)
    assert (line["trace_id"], line["span_id"], line["trace_flags"]) == (TRACE, OURS.span_id, "01")
    assert "trace" not in line
    assert line["attempts"] == [{"provider": "groq", "model": "m", "offset_seconds": 0.5, "status": 429}]
    without_span = json_entry(TraceContext(trace_id=TRACE, parent_id=PARENT, flags="01"))
    assert {name for name in line if name not in without_span} == {"span_id"}
    without_trace = json_entry(None)
    assert {name for name in line if name not in without_trace} == {"trace_id", "span_id", "trace_flags"}


def json_entry(trace: TraceContext | None) -> dict[str, Any]:
    attempt = UpstreamAttempt(provider="groq", model="m", offset_seconds=0.5, status=429)
    receipt = Receipt(request_id="req_1", client=Client(), started_at=1.5, attempts=[attempt], trace=trace)
    entry: dict[str, Any] = json.loads(Log(form="json").format_exchange(receipt))
    return entry
