"""OpenTelemetry spans of a finished client request, built from its receipt (record of the request).

`SpanRecorder` records one span for the request, and a child span for each attempt (call to a provider). Providers
received the ids already during the request, so `PresetIds` passes these ids to the SDK. Names follow the OpenTelemetry
conventions for HTTP server spans 1.44 and for GenAI client spans 1.42.0-dev (repository semantic-conventions-genai,
read 2026-11).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import IdGenerator
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

from anthropic_proxy.plugins import Receipt, UpstreamAttempt
from anthropic_proxy.trace_context import TraceContext

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

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
_CHAT, _COUNT_TOKENS = "chat", "count_tokens"
"""Values of `gen_ai.operation.name`. The conventions define the first one, and permit others."""
_MODEL_ROUTE = "/v1/models/"
_SERVER_ERROR = 500
Attributes = dict[str, "AttributeValue"]
"""Type: attribute name of a span → value."""


class PresetIds(IdGenerator):
    """Id generator that returns preset ids, because spans are built after their ids were sent to the provider."""

    def __init__(self) -> None:
        self.trace_id = self.span_id = 0

    def generate_trace_id(self) -> int:
        """Return the preset trace id, which the provider already received."""
        return self.trace_id

    def generate_span_id(self) -> int:
        """Return the preset id of the next span, which the provider already received."""
        return self.span_id


class SpanRecorder:
    """Recorder of the spans of finished requests.

    `tracer` of the OpenTelemetry SDK builds the spans. `ids` is its id generator, which gets the ids of a span before
    the span is built.
    """

    def __init__(self, tracer: Tracer, ids: PresetIds) -> None:
        self._tracer = tracer
        self._ids = ids

    def record_spans(self, receipt: Receipt, trace: TraceContext) -> None:
        """Record the span of a finished request, and a child span for each call to a provider."""
        self._ids.trace_id = int(trace.trace_id, 16)
        context = build_parent_context(trace) if trace.parent_id else Context()
        route = _find_route(receipt.path)
        name = f"{receipt.method} {route}" if route else receipt.method
        attributes = _request_attributes(receipt, route)
        span = self._start(name, trace.span_id, SpanKind.SERVER, attributes, context=context, at=receipt.started_at)
        inside = set_span_in_context(span)
        for attempt in receipt.attempts:
            self._record_attempt(receipt, attempt, inside)
        if receipt.outcome == "error" and receipt.status >= _SERVER_ERROR:
            span.set_status(Status(StatusCode.ERROR, receipt.error))
        span.end(_nanoseconds(receipt.started_at + receipt.duration_seconds))

    def _record_attempt(self, receipt: Receipt, attempt: UpstreamAttempt, context: Context) -> None:
        attributes = dict(_attempt_attributes(receipt, attempt))
        started_at = receipt.started_at + attempt.offset_seconds
        operation = _find_operation(receipt)
        name = f"{operation} {attempt.model}" if operation else f"{receipt.method} {_find_route(receipt.path)}"
        span = self._start(name, attempt.span_id, SpanKind.CLIENT, attributes, context=context, at=started_at)
        if attempt.error_type:
            span.set_status(Status(StatusCode.ERROR, attempt.error))
        span.end(_nanoseconds(started_at + attempt.duration_seconds))

    def _start(
        self, name: str, span_id: str, kind: SpanKind, attributes: Attributes, *, context: Context, at: float
    ) -> Span:
        self._ids.span_id = int(span_id, 16)
        return self._tracer.start_span(name, context, kind, attributes, start_time=_nanoseconds(at))


def build_parent_context(trace: TraceContext) -> Context:
    """Return the OpenTelemetry context that makes the span of the client the parent of the request's span.

    `trace` has the ids of the trace and of the client's span.
    """
    parent = SpanContext(
        int(trace.trace_id, 16),
        int(trace.parent_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(trace.flags, 16)),
        trace_state=TraceState.from_header([trace.state] if trace.state else []),
    )
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _request_attributes(receipt: Receipt, route: str) -> Attributes:
    """Return the attributes of the request's span: HTTP, the session, and facts of the proxy."""
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
    }
    return attributes | {name: value for name, value in optional.items() if value}


def _attempt_attributes(receipt: Receipt, attempt: UpstreamAttempt) -> "Iterator[tuple[str, AttributeValue]]":
    """Yield the attributes of the span of a provider call, as the GenAI conventions define them.

    A call for a model list has neither operation nor model.
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
    if receipt.stream:
        yield "gen_ai.request.stream", True
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
        yield from _usage_attributes(attempt)


def _usage_attributes(attempt: UpstreamAttempt) -> "Iterator[tuple[str, AttributeValue]]":
    """Yield the token counts. Unlike in Anthropic's API, `input_tokens` includes cached tokens."""
    cached, written = attempt.cache_read_tokens, attempt.cache_write_tokens
    yield "gen_ai.usage.input_tokens", attempt.input_tokens + cached + written
    yield "gen_ai.usage.output_tokens", attempt.output_tokens
    if cached:
        yield "gen_ai.usage.cache_read.input_tokens", cached
    if written:
        yield "gen_ai.usage.cache_write.input_tokens", written
        yield "gen_ai.usage.cache_creation.input_tokens", written  # its name until 1.41, which viewers still expect
    if attempt.thinking_tokens:
        yield "gen_ai.usage.reasoning.output_tokens", attempt.thinking_tokens


def _find_operation(receipt: Receipt) -> str:
    """Return the attribute `gen_ai.operation.name` for the provider calls of a request. "": a call of a model list."""
    if receipt.path.endswith("/count_tokens"):
        return _COUNT_TOKENS
    return "" if receipt.path.startswith(_ROUTES[-1]) else _CHAT


def _find_route(path: str) -> str:
    """Return the path pattern of an endpoint of the proxy, for the span. "": an unknown path, or a path of a plugin."""
    if path in _ROUTES:
        return path
    return f"{_MODEL_ROUTE}{{model_id}}" if path.startswith(_MODEL_ROUTE) else ""


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
