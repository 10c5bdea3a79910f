"""Export of traces with the OpenTelemetry SDK, to a collector (`otlp`) or to the console.

A span is the record of one client request or provider call, with its start and end. `TraceExporter.start_trace` decides
at the beginning of a request if it is traced. `TraceExporter.record` builds its spans at the end, and a thread of the
SDK sends them.
"""

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import SpanKind

from anthropic_proxy import __version__
from anthropic_proxy.log.lines import redact_receipt
from anthropic_proxy.plugins import Gateway, Receipt
from anthropic_proxy.settings import Settings
from anthropic_proxy.trace_context import TraceContext, new_span_id, new_trace_id
from anthropic_proxy.traces.spans import CONVENTIONS_URL, PresetIds, SpanRecorder, build_parent_context

SERVICE_NAME = "anthropic-proxy"
"""Attribute `service.name` of all spans, unless `OTEL_SERVICE_NAME` is set."""
STOP_SECONDS = 2.0
"""Maximum seconds to send spans to the collector at the end of the process. Spans not sent by then are lost."""
_EXPORT_LOGGERS = "opentelemetry.exporter"
_CONNECTION_ERROR = re.compile(r"\[(?:Errno|WinError) -?\d+\] ([^'\")]+)")
"""Pattern of the reason of the operating system in the text of a connection error: `Connection refused`."""
MIN_SECONDS_BETWEEN_WARNINGS = 60.0
"""Minimum time between two log lines about the same problem of the SDK."""


class TraceExporter:
    """Exporter of the traces of this process, which implements the interfaces `plugins.Tracer` and `plugins.Observer`.

    The proxy therefore calls `start_trace` at the beginning of a request, and `record` at its end. `names` are the
    destinations of the traces: `otlp` (a collector), `console`, or both.
    """

    def __init__(self, names: Sequence[str], open_exporter: Callable[[str], SpanExporter] | None = None) -> None:
        self._names = names
        self._open_exporter = open_exporter or _open_exporter
        self._provider: TracerProvider | None = None
        self._recorder: SpanRecorder | None = None
        self._gateway: Gateway | None = None
        self._settings: Settings | None = None
        """Settings from which `_secrets` was computed. After a reload, the gateway has other settings."""
        self._secrets: tuple[str, ...] = ()
        """API keys in `_settings`, which are masked in attributes of spans."""

    async def start(self, gateway: Gateway) -> None:
        """Start the OpenTelemetry SDK with its threads. Problems of the SDK are logged by `gateway`."""
        loop, self._gateway = asyncio.get_running_loop(), gateway

        def report(text: str) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(gateway.log_warning_once, text)

        _forward_log_records(report)
        ids = PresetIds()
        provider = self._provider = TracerProvider(id_generator=ids, resource=_resource(), shutdown_on_exit=False)
        for name in self._names:
            provider.add_span_processor(BatchSpanProcessor(self._open_exporter(name)))
        tracer = provider.get_tracer("anthropic_proxy", __version__, schema_url=CONVENTIONS_URL)
        self._recorder = SpanRecorder(tracer, ids)

    def start_trace(self, parent: TraceContext | None) -> TraceContext:
        """Return the trace ids for a new request, and decide by the sampler of the SDK if the request is traced.

        The decision is in the field `flags` of the result.

        `parent` has the trace ids that the client sent. None: the client sent none, so the trace begins here.
        """
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
        """Build the spans of a finished request, if it is traced. A thread of the SDK sends them."""
        if self._recorder is not None and receipt.trace is not None and receipt.trace.is_sampled:
            self._recorder.record_spans(redact_receipt(receipt, self._find_secrets()), receipt.trace)

    def _find_secrets(self) -> tuple[str, ...]:
        """Return the API keys in the current settings, which are removed from texts of spans."""
        if self._gateway is not None and self._gateway.settings is not self._settings:
            self._settings = self._gateway.settings
            self._secrets = tuple(self._settings.reveal_all_secrets())
        return self._secrets

    async def stop(self) -> None:
        """Send the remaining spans, for at most `STOP_SECONDS`."""
        if self._provider is None:
            return
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        provider, self._provider, self._recorder = self._provider, None, None

        def shut_down() -> None:
            provider.shutdown()
            if not loop.is_closed():
                loop.call_soon_threadsafe(done.set)

        # a daemon thread, because the process must not wait for a collector that does not answer
        threading.Thread(target=shut_down, name="traces", daemon=True).start()
        try:
            await asyncio.wait_for(done.wait(), STOP_SECONDS)
        except TimeoutError:
            return


def _open_exporter(name: str) -> SpanExporter:
    return OTLPSpanExporter() if name == "otlp" else ConsoleSpanExporter()


def _resource() -> Resource:
    """Return the attributes of all spans: service name and version, and `OTEL_RESOURCE_ATTRIBUTES`."""
    own = {"service.name": SERVICE_NAME, "service.version": __version__}
    return Resource.create({**own, **OTELResourceDetector().detect().attributes})


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
            self._report(_describe(record))


def _describe(record: logging.LogRecord) -> str:
    """Return a log record of the SDK as text for users.

    After a failed export, the text has only the reason and a remedy.
    """
    text = record.getMessage()
    if not record.name.startswith(_EXPORT_LOGGERS):
        return f"Traces: {text}"
    cause = _CONNECTION_ERROR.search(text)
    reason = cause[1] if cause else text
    remedy = "Requests are not affected. Check OTEL_EXPORTER_OTLP_ENDPOINT and the collector."
    return f"Traces cannot be sent: {reason}. {remedy}"


def _forward_log_records(report: Callable[[str], None]) -> None:
    """Send log records of the SDK to `report` instead of standard error."""
    logger = logging.getLogger("opentelemetry")
    logger.handlers = [_Records(report)]
    logger.propagate = False
