"""Spans of receipts that a server rarely produces, read from the in-memory exporter of the OpenTelemetry SDK."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import Struct, structs
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.trace import SpanKind, StatusCode

from anthropic_proxy.engine.messages.deltas import Iteration
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.trace_context import TraceContext
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.traces.exporter import PROVIDER_NAMES, PresetIds, SpanRecorder, TraceExporter
from anthropic_proxy.plugins import CallCheck, Client, Gateway, InspectionRecord, Receipt, UpstreamAttempt
from anthropic_proxy.secrets import Secret
from tests.support.pictures import Gallery, paint, show

TRACE = TraceContext(trace_id="4bf92f3577b34da6a3ce929d0e0e4736", span_id="b7ad6b7169203331", flags="01")


def attempt(number: int, **fields: Any) -> UpstreamAttempt:
    usual = {"provider": "xai", "model": "grok", "offset_seconds": number / 10, "duration_seconds": 0.1}
    return UpstreamAttempt(**{**usual, "span_id": f"{number:016x}", **fields})


def spans_of(*attempts: UpstreamAttempt, **fields: Any) -> Sequence[ReadableSpan]:
    """Return the spans of a receipt: the attempts in their order, then the request."""
    ids, exporter = PresetIds(), InMemorySpanExporter()
    provider = TracerProvider(id_generator=ids, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    receipt = Receipt(request_id="req_1", client=Client(), started_at=1000.0, attempts=[*attempts], **fields)
    SpanRecorder(provider.get_tracer("test"), ids).record_spans(receipt, TRACE)
    return exporter.get_finished_spans()


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    assert span.attributes is not None
    return {**span.attributes}


def test_input_tokens_include_cached_ones_and_each_call_of_a_tool_loop_has_its_own() -> None:
    first = attempt(1, input_tokens=10, cache_read_tokens=100, cache_write_tokens=5, output_tokens=7)
    second = attempt(2, input_tokens=20, output_tokens=9, thinking_tokens=4)
    one, two, _ = map(attributes_of, spans_of(first, second, outcome="end_turn", status=200))
    usage = {name.removeprefix("gen_ai.usage."): value for name, value in one.items() if "usage" in name}
    assert usage == {
        "input_tokens": 115,
        "output_tokens": 7,
        "cache_read.input_tokens": 100,
        "cache_write.input_tokens": 5,
        "cache_creation.input_tokens": 5,
    }
    assert (two["gen_ai.usage.input_tokens"], two["gen_ai.usage.reasoning.output_tokens"]) == (20, 4)
    assert "gen_ai.response.finish_reasons" not in one
    assert two["gen_ai.response.finish_reasons"] == ("end_turn",)


def test_each_model_that_a_provider_has_called_has_its_own_span() -> None:
    iterations = (
        Iteration(kind="message", input_tokens=10, output_tokens=7),
        Iteration(kind="advisor_message", model="opus", input_tokens=800, cache_read_tokens=30, output_tokens=90),
        Iteration(kind="compaction", input_tokens=500, output_tokens=3),
    )
    counted = attempt(1, input_tokens=1_310, cache_read_tokens=30, output_tokens=100, iterations=iterations)
    advice, call, _ = spans_of(counted, outcome="end_turn", status=200)
    assert (advice.name, call.name) == ("chat opus", "chat grok")
    assert advice.parent is not None
    assert advice.parent.span_id == call.context.span_id != advice.context.span_id
    assert (advice.start_time, advice.end_time) == (call.start_time, call.end_time)
    assert attributes_of(advice) == {
        "gen_ai.provider.name": "x_ai",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "opus",
        "gen_ai.response.model": "opus",
        "anthropic_proxy.kind": "advisor_message",
        "gen_ai.usage.input_tokens": 830,
        "gen_ai.usage.output_tokens": 90,
        "gen_ai.usage.cache_read.input_tokens": 30,
    }
    usage = {
        name.removeprefix("gen_ai.usage."): value for name, value in attributes_of(call).items() if "usage" in name
    }
    assert usage == {"input_tokens": 510, "output_tokens": 10}


def test_a_cancelled_reply_is_no_failure_of_the_request() -> None:
    call, request = spans_of(attempt(1, output_tokens=3), outcome="cancelled", status=200)
    assert attributes_of(call)["gen_ai.response.finish_reasons"] == ("error",)
    assert {span.status.status_code for span in (call, request)} == {StatusCode.UNSET}
    assert attributes_of(request)["anthropic_proxy.outcome"] == "cancelled"


def test_a_stream_that_breaks_is_an_error_of_both() -> None:
    failed = attempt(1, error_type="api_error", error="xai: broken", status=200)
    fields = {"outcome": "error", "status": 502, "error_type": "api_error", "error": "xai: broken"}
    call, request = spans_of(failed, **fields)
    assert [span.status.description for span in (call, request)] == ["xai: broken"] * 2
    assert attributes_of(call)["http.response.status_code"] == 200
    assert attributes_of(request)["http.response.status_code"] == 502


def test_facts_of_the_client_are_attributes_of_the_request() -> None:
    facts = {"user_agent": "claude-cli/2", "session": "s-1", "agent": "a-1", "project": "web"}
    call, request = spans_of(attempt(1), **facts)
    found = attributes_of(request)
    assert (found["user_agent.original"], found["session.id"]) == ("claude-cli/2", "s-1")
    assert (found["anthropic_proxy.agent"], found["anthropic_proxy.project"]) == ("a-1", "web")
    assert attributes_of(call)["gen_ai.conversation.id"] == "s-1"


def test_a_reply_has_the_id_that_the_client_knows_and_each_call_its_limit() -> None:
    failed = attempt(1, error_type="overloaded_error", error="busy", max_tokens=8_192)
    first, second, _ = spans_of(failed, attempt(2, max_tokens=4_096), message_id="msg_1")
    names = ("gen_ai.request.max_tokens", "gen_ai.response.id")
    assert [attributes_of(first).get(name) for name in names] == [8_192, None]
    assert [attributes_of(second).get(name) for name in names] == [4_096, "msg_1"]
    assert not {*names} & attributes_of(spans_of(attempt(1))[0]).keys()


def test_decisions_of_inspectors_are_attributes_of_the_request() -> None:
    records = [
        InspectionRecord("secrets", "request", "redacted", {"key": 1}),
        InspectionRecord("law", "reply", "passed"),
    ]
    found = attributes_of(spans_of(attempt(1), inspections=records)[-1])
    assert found["anthropic_proxy.inspections"] == ("secrets request redacted", "law reply passed")


def test_verdicts_about_tool_calls_are_attributes_of_the_request() -> None:
    checks = [
        CallCheck("c1", "Bash", "flagged", "Deletes data."),
        CallCheck("c2", "Bash", "unavailable", "timeout", kind="timeout"),
    ]
    found = attributes_of(spans_of(attempt(1), kind="main", checks=checks)[-1])
    assert found["anthropic_proxy.checks"] == ("flagged model", "unavailable timeout")
    check = attributes_of(spans_of(attempt(1), kind="auto_mode_check", parent="req_0", checks=checks[:1])[-1])
    names = ("anthropic_proxy.kind", "anthropic_proxy.parent", "anthropic_proxy.checks")
    assert [check[name] for name in names] == ["auto_mode_check", "req_0", ("flagged model",)]


def test_names_are_those_of_the_conventions() -> None:
    call, _ = spans_of(
        attempt(1, cache_read_tokens=1, cache_write_tokens=1, thinking_tokens=1), session="s", stream=True
    )
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    newer = {"gen_ai.usage.cache_write.input_tokens"}  # renamed after the version that the Python package contains
    assert {name for name in attributes_of(call) if name.startswith("gen_ai.")} <= known | newer
    names = {value.value for value in gen_ai_attributes.GenAiProviderNameValues}
    assert {*PROVIDER_NAMES.values()} <= names | {"moonshot_ai"}
    assert {row.name for row in PROVIDERS} >= {*PROVIDER_NAMES} - {
        "azure",
        "gemini",
        "mistral",
    }  # tables of the configuration file


def test_token_counts_and_model_lists_of_a_provider_are_spans_without_usage() -> None:
    counted, request = spans_of(attempt(1, status=200), path="/v1/messages/count_tokens", status=200)
    assert (counted.name, request.name) == ("count_tokens grok", "POST /v1/messages/count_tokens")
    assert attributes_of(counted) == {
        "gen_ai.provider.name": "x_ai",
        "gen_ai.operation.name": "count_tokens",
        "gen_ai.request.model": "grok",
        "http.response.status_code": 200,
    }
    failed = attempt(1, status=429, error_type="rate_limit_error", error="xai: slower")
    listed, _ = spans_of(failed, method="GET", path="/v1/models/grok", status=200)
    assert (listed.name, listed.status.description) == ("GET /v1/models/{model_id}", "xai: slower")
    assert attributes_of(listed) == {
        "gen_ai.provider.name": "x_ai",
        "http.request.method": "GET",
        "http.response.status_code": 429,
        "error.type": "rate_limit_error",
    }


class _Gateway(Struct):
    settings: Settings

    def log_warning_once(self, text: str) -> None:
        raise AssertionError(text)


async def test_a_key_that_a_reload_has_set_is_redacted() -> None:
    memory = InMemorySpanExporter()
    gateway, exporter = _Gateway(Settings()), TraceExporter(["console"], lambda _: memory)
    await exporter.start(cast("Gateway", gateway))
    gateway.settings = Settings(proxy_api_keys=(Secret("a-new-word-1234"),))
    receipt = Receipt(request_id="req_1", client=Client(), started_at=1.0, requested_model="a-new-word-1234")
    receipt.trace = exporter.start_trace(None)
    await exporter.record(receipt)
    await exporter.stop()
    (span,) = memory.get_finished_spans()
    assert "a-new-word-1234" not in str({**span.attributes})
    assert span.attributes["anthropic_proxy.requested_model"] == "…"


CLIENT_SPAN = TraceContext(trace_id="4bf92f3577b34da6a3ce929d0e0e4736", parent_id="b7ad6b7169203331", flags="01")


@pytest.mark.parametrize("parent", [None, CLIENT_SPAN], ids=["a trace that begins here", "the trace of a client"])
async def test_a_request_of_the_proxy_is_a_span_below_the_request_that_causes_it(
    tmp_path: Path, parent: TraceContext | None
) -> None:
    memory = InMemorySpanExporter()
    exporter = TraceExporter(["console"], lambda _: memory)
    await exporter.start(cast("Gateway", _Gateway(Settings())))
    gallery = Gallery(tmp_path)
    gallery.harness.services = structs.replace(gallery.harness.services, tracer=exporter)
    sink = await gallery.post(show(paint("red")), trace=exporter.start_trace(parent))
    assert sink.error is None, sink.error
    for receipt in gallery.harness.receipts:
        await exporter.record(receipt)
    await exporter.stop()
    spans = {span.context.span_id: span for span in memory.get_finished_spans() if span.kind is SpanKind.SERVER}
    description, request = (spans[int(one.trace.span_id, 16)] for one in gallery.harness.receipts if one.trace)
    assert description.parent is not None
    assert description.parent.span_id == request.context.span_id
    assert (request.parent and request.parent.span_id) == (parent and int(parent.parent_id, 16))
    assert {span.context.trace_id for span in spans.values()} == {request.context.trace_id}
