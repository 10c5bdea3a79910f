"""Export of traces with the OpenTelemetry SDK, to a collector (`otlp`) or to the console.

The proxy calls `start_trace` at the beginning of a request. Its spans (the request, and a child for each call to a
provider) are built at its end from the receipt, and a thread of the SDK sends them. Providers received the ids already
during the request, so `PresetIds` passes them to the SDK.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)

from anthropic_proxy import __version__
from anthropic_proxy.engine.messages.deltas import TokenCounts
from anthropic_proxy.engine.model_calls import ModelCall, list_calls_of_attempt
from anthropic_proxy.engine.own_thread import run_in_own_thread
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.trace_context import TraceContext, new_span_id, new_trace_id
from anthropic_proxy.engine.upstream.library_http import new_requests_session
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.environment import hidden_otel_headers
from anthropic_proxy.gateway.settings.fields import CollectorSettings
from anthropic_proxy.gateway.telemetry.log.lines import redact_receipt
from anthropic_proxy.plugins import Gateway, Receipt, UpstreamAttempt

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

SERVICE_NAME = "anthropic-proxy"
STOP_SECONDS = 2.0
"""Maximum seconds to send spans to the collector at the end of the process. Spans not sent by then are lost."""
_EXPORT_LOGGERS = "opentelemetry.exporter"
_CONNECTION_ERROR = compile_later(r"no server responds at \S+ \(([^)]+)\)")
"""Pattern of the reason in the text of a connection error: `connection refused`."""
MIN_SECONDS_BETWEEN_WARNINGS = 60.0


class TraceExporter:
    """Exporter of the traces of this process: a `plugins.Tracer` and `plugins.Observer`. `names`: those of
    `Settings.trace_exporters`.
    """

    def __init__(self, names: Sequence[str], open_exporter: Callable[[str], SpanExporter]) -> None:
        self._names = names
        self._open_exporter = open_exporter
        self._processors: Sequence[BatchSpanProcessor] = ()
        """One for each exporter, with a thread of its own: none waits for a slow collector."""
        self._provider: TracerProvider | None = None
        self._recorder: SpanRecorder | None = None
        self._gateway: Gateway[Settings] | None = None
        self._settings: Settings | None = None
        """Settings of `_secrets`. After a reload, the gateway has other settings."""
        self._secrets: tuple[str, ...] = ()
        """API keys in `_settings`, which are masked in attributes of spans."""

    async def start(self, gateway: Gateway[Settings]) -> None:
        """Problems of the SDK are logged by `gateway`."""
        loop = asyncio.get_running_loop()
        self._gateway = gateway

        def report(text: str) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(gateway.log_warning_once, text)

        logger = logging.getLogger("opentelemetry")
        logger.handlers = [_Records(report)]
        logger.propagate = False
        ids = PresetIds()
        service = {"service.name": SERVICE_NAME, "service.version": __version__}
        resource = Resource.create({**service, **OTELResourceDetector().detect().attributes})
        provider = self._provider = TracerProvider(id_generator=ids, resource=resource, shutdown_on_exit=False)
        self._processors = [BatchSpanProcessor(self._open_exporter(name)) for name in self._names]
        for processor in self._processors:
            provider.add_span_processor(processor)
        tracer = provider.get_tracer("anthropic_proxy", __version__, schema_url=CONVENTIONS_URL)
        self._recorder = SpanRecorder(tracer, ids)

    def start_trace(self, parent: TraceContext | None) -> TraceContext:
        """The sampler of the SDK decides if the request is traced (`flags`). `parent` None: the trace begins here."""
        trace_id = new_trace_id() if parent is None else parent.trace_id
        parent_id, state = ("", "") if parent is None else (parent.parent_id, parent.state)
        flags = "00"
        if self._provider is not None:
            context = None if parent is None else build_parent_context(parent)
            # the sampler of the SDK, which `OTEL_TRACES_SAMPLER` selects
            sampler = self._provider.sampler
            result = sampler.should_sample(context, int(trace_id, 16), "POST", SpanKind.SERVER)
            flags = "01" if result.decision is Decision.RECORD_AND_SAMPLE else "00"
        return TraceContext(trace_id=trace_id, span_id=new_span_id(), parent_id=parent_id, flags=flags, state=state)

    async def record(self, receipt: Receipt) -> None:
        """A thread of the SDK sends the spans."""
        if self._recorder is not None and receipt.trace is not None and receipt.trace.is_sampled:
            if self._gateway is not None and self._gateway.settings is not self._settings:
                self._settings = self._gateway.settings
                self._secrets = tuple(self._settings.reveal_all_secrets())
            self._recorder.record_spans(redact_receipt(receipt, self._secrets), receipt.trace)

    async def stop(self) -> None:
        if self._provider is None:
            return
        self._provider = None
        self._recorder = None
        # own threads, because the process must not wait for a collector that does not answer
        sent = [run_in_own_thread("traces", processor.shutdown) for processor in self._processors]
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*sent)


def open_exporter(name: str, collectors: Sequence[CollectorSettings]) -> SpanExporter:
    if name == "console":
        return ConsoleSpanExporter()
    session = new_requests_session("traces")
    if name == "otlp":
        return OTLPSpanExporter(session=session)
    collector = next(one for one in collectors if one.name == name)
    headers = {name: value.reveal() for name, value in collector.headers.items()}
    with hidden_otel_headers():  # they are those of another collector
        return OTLPSpanExporter(collector.urls["traces"], headers=headers, session=session)


class _Records(logging.Handler):
    """Log handler that reports warnings of the SDK, at most one line per minute for each kind of warning."""

    def __init__(self, report: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._report = report
        self._reported_at: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self._reported_at.get(record.msg, -MIN_SECONDS_BETWEEN_WARNINGS) >= MIN_SECONDS_BETWEEN_WARNINGS:
            self._reported_at[record.msg] = now
            text = record.getMessage()
            if not record.name.startswith(_EXPORT_LOGGERS):
                self._report(f"Traces: {text}")
                return
            cause = _CONNECTION_ERROR.search(text)
            reason = f"{cause[1][0].upper()}{cause[1][1:]}" if cause else text
            remedy = "Requests are not affected. Check OTEL_EXPORTER_OTLP_ENDPOINT, [collectors] and the collector."
            self._report(f"Traces cannot be sent: {reason}. {remedy}")


# names: conventions for HTTP server spans 1.44 and for GenAI client spans 1.42.0-dev
# (repository semantic-conventions-genai, read 2026-11)
CONVENTIONS_URL = "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev"
"""Schema URL: name and version of the GenAI conventions, sent with the spans."""
PROVIDER_NAMES = {
    "azure": "azure.ai.openai",
    "gemini": "gcp.gemini",
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "vertex": "gcp.vertex_ai",
    "xai": "x_ai",
}
"""Provider of the proxy → value of `gen_ai.provider.name`, where the conventions define another name."""
_ROUTES = ("/v1/messages", "/v1/messages/count_tokens", "/v1/models")
_CHAT = "chat"
"""Value of `gen_ai.operation.name` that the conventions define."""
_COUNT_TOKENS = "count_tokens"
"""Value of `gen_ai.operation.name` of our own. The conventions permit such values."""
_MODEL_ROUTE = "/v1/models/"
_SERVER_ERROR = 500
_MAX_CHECKS = 100
Attributes = dict[str, "AttributeValue"]


class PresetIds(IdGenerator):
    """Id generator that returns preset ids, because spans are built after their ids were sent to the provider."""

    def __init__(self) -> None:
        self.trace_id = self.span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class SpanRecorder:
    """`ids` is the id generator of `tracer`, which gets the ids of a span before the span is built."""

    def __init__(self, tracer: Tracer, ids: PresetIds) -> None:
        self._tracer = tracer
        self._ids = ids

    def record_spans(self, receipt: Receipt, trace: TraceContext) -> None:
        self._ids.trace_id = int(trace.trace_id, 16)
        context = build_parent_context(trace) if trace.parent_id else Context()
        route = _find_route(receipt.path)
        name = f"{receipt.method} {route}" if route else receipt.method
        attributes = _request_attributes(receipt, route)
        span = self._start(name, trace.span_id, SpanKind.SERVER, attributes, context=context, at=receipt.started_at)
        inside = set_span_in_context(span)
        for attempt in receipt.attempts:
            call_attributes = dict(_attempt_attributes(receipt, attempt))
            started_at = receipt.started_at + attempt.offset_seconds
            operation = _find_operation(receipt)
            call_name = f"{operation} {attempt.model}" if operation else f"{receipt.method} {_find_route(receipt.path)}"
            call = self._start(
                call_name, attempt.span_id, SpanKind.CLIENT, call_attributes, context=inside, at=started_at
            )
            if attempt.error_type:
                call.set_status(Status(StatusCode.ERROR, attempt.error))
            ended_at = _nanoseconds(started_at + attempt.duration_seconds)
            if attempt.iterations:
                inside_call = set_span_in_context(call)
                for other in _list_others(attempt):
                    inner = self._start(
                        f"{_CHAT} {other.model}",
                        new_span_id(),
                        SpanKind.INTERNAL,
                        dict(_model_attributes(attempt.provider, other)),
                        context=inside_call,
                        at=started_at,
                    )
                    inner.end(ended_at)
            call.end(ended_at)
        if receipt.outcome == "error" and receipt.status >= _SERVER_ERROR:
            span.set_status(Status(StatusCode.ERROR, receipt.error))
        span.end(_nanoseconds(receipt.started_at + receipt.duration_seconds))

    def _start(
        self, name: str, span_id: str, kind: SpanKind, attributes: Attributes, *, context: Context, at: float
    ) -> Span:
        self._ids.span_id = int(span_id, 16)
        return self._tracer.start_span(name, context, kind, attributes, start_time=_nanoseconds(at))


def build_parent_context(trace: TraceContext) -> Context:
    """`trace` has the ids of the trace and of the client's span."""
    parent = SpanContext(
        int(trace.trace_id, 16),
        int(trace.parent_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(trace.flags, 16)),
        trace_state=TraceState.from_header([trace.state] if trace.state else []),
    )
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _request_attributes(receipt: Receipt, route: str) -> Attributes:
    attributes: Attributes = {
        "http.request.method": receipt.method,
        "url.path": receipt.path,
        "url.scheme": "http",
        "anthropic_proxy.request_id": receipt.request_id,
        "anthropic_proxy.client": receipt.client.name,
    }
    optional: Attributes = {
        "http.route": route,
        "http.response.status_code": receipt.status,
        "user_agent.original": receipt.user_agent,
        "session.id": receipt.session,
        "error.type": receipt.error_type,
        "anthropic_proxy.agent": receipt.agent,
        "anthropic_proxy.project": receipt.project,
        "anthropic_proxy.requested_model": receipt.requested_model,
        "anthropic_proxy.provider": receipt.provider,
        "anthropic_proxy.model": receipt.model,
        "anthropic_proxy.route_reason": receipt.route_reason,
        "anthropic_proxy.outcome": receipt.outcome,
        "anthropic_proxy.failed_attempts": receipt.failed_attempts,
        "anthropic_proxy.fidelity_notes": len(receipt.notes),
        "anthropic_proxy.kind": receipt.kind,
        "anthropic_proxy.parent": receipt.parent,
        "anthropic_proxy.checks": [f"{check.verdict} {check.kind}" for check in receipt.checks[:_MAX_CHECKS]],
        "anthropic_proxy.inspections": [
            f"{inspection.inspector} {inspection.part} {inspection.decision}" for inspection in receipt.inspections
        ],
    }
    return attributes | {name: value for name, value in optional.items() if value}


def _attempt_attributes(receipt: Receipt, attempt: UpstreamAttempt) -> "Iterator[tuple[str, AttributeValue]]":
    """Yield the attributes of the span of a provider call, as the GenAI conventions define them. A call for a model
    list has neither operation nor model.
    """
    operation = _find_operation(receipt)
    yield "gen_ai.provider.name", PROVIDER_NAMES.get(attempt.provider, attempt.provider)
    if operation:
        yield "gen_ai.operation.name", operation
        yield "gen_ai.request.model", attempt.model
    else:
        yield "http.request.method", receipt.method
    if receipt.session:
        yield "gen_ai.conversation.id", receipt.session
    if receipt.agent:
        yield "gen_ai.agent.id", receipt.agent
    if receipt.agent_type:
        yield "gen_ai.agent.name", receipt.agent_type
    if receipt.stream:
        yield "gen_ai.request.stream", True
    if attempt.max_tokens:
        yield "gen_ai.request.max_tokens", attempt.max_tokens
    if attempt.host:
        yield "server.address", attempt.host
        yield "server.port", attempt.port
    if attempt.status:
        yield "http.response.status_code", attempt.status
    is_last = attempt is receipt.attempts[-1]
    if attempt.error_type:
        yield "error.type", attempt.error_type
        if operation == _CHAT:
            yield "gen_ai.response.finish_reasons", ["error"]
    elif is_last and receipt.outcome:
        yield "gen_ai.response.finish_reasons", ["error" if receipt.outcome == "cancelled" else receipt.outcome]
    if is_last and receipt.first_token_seconds is not None:
        yield "gen_ai.response.time_to_first_chunk", receipt.first_token_seconds - attempt.offset_seconds
    if operation == _CHAT and not attempt.error_type:
        yield "gen_ai.response.model", attempt.model
        if is_last and receipt.message_id:
            yield "gen_ai.response.id", receipt.message_id
        yield from _usage_attributes(_count_own(attempt) if attempt.iterations else attempt)


def _list_others(attempt: UpstreamAttempt) -> list[ModelCall]:
    """Return the calls of other models within the provider."""
    return [call for call in list_calls_of_attempt(attempt) if call.is_other_model]


def _count_own(attempt: UpstreamAttempt) -> TokenCounts:
    counts = TokenCounts()
    for call in list_calls_of_attempt(attempt):
        if not call.is_other_model:
            counts.add_tokens(call.tokens)
    return counts


def _model_attributes(provider: str, call: ModelCall) -> "Iterator[tuple[str, AttributeValue]]":
    yield "gen_ai.provider.name", PROVIDER_NAMES.get(provider, provider)
    yield "gen_ai.operation.name", _CHAT
    yield "gen_ai.request.model", call.model
    yield "gen_ai.response.model", call.model
    yield "anthropic_proxy.kind", call.kind
    yield from _usage_attributes(call.tokens)


def _usage_attributes(tokens: TokenCounts) -> "Iterator[tuple[str, AttributeValue]]":
    yield "gen_ai.usage.input_tokens", tokens.all_input_tokens  # in Anthropic's API without cached ones
    yield "gen_ai.usage.output_tokens", tokens.output_tokens
    if tokens.cache_read_tokens:
        yield "gen_ai.usage.cache_read.input_tokens", tokens.cache_read_tokens
    if written := tokens.cache_write_tokens:
        yield "gen_ai.usage.cache_write.input_tokens", written
        yield "gen_ai.usage.cache_creation.input_tokens", written  # its name until 1.41, which viewers still expect
    if tokens.thinking_tokens:
        yield "gen_ai.usage.reasoning.output_tokens", tokens.thinking_tokens


def _find_operation(receipt: Receipt) -> str:
    """Value of `gen_ai.operation.name`. "": a call of a model list."""
    if receipt.path.endswith("/count_tokens"):
        return _COUNT_TOKENS
    return "" if receipt.path.startswith(_ROUTES[-1]) else _CHAT


def _find_route(path: str) -> str:
    """Path pattern of an endpoint. "": an unknown path, or a path of a plugin."""
    if path in _ROUTES:
        return path
    return f"{_MODEL_ROUTE}{{model_id}}" if path.startswith(_MODEL_ROUTE) else ""


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
