"""Plugin that exports trace spans with OpenTelemetry (extra `otel`). Variables `OTEL_…` turn it on.

Each client request is one span, and each call to a provider a child span of it. Spans contain ids, names, counts and
times, never message content. They are built from the receipt of the request after its last byte.
"""

from anthropic_proxy.plugins import Plugin
from anthropic_proxy.settings import Settings, export_to_otel


def open_plugin(settings: Settings) -> Plugin:
    """Return the plugin. Without the packages of the extra `otel`, the plugin does nothing.

    The start-up summary then names the missing packages.
    """
    try:
        from anthropic_proxy.traces.exporter import SpanExporters  # noqa: PLC0415  # imports the OpenTelemetry SDK
    except ImportError:
        return Plugin()
    export_to_otel(settings)
    exporters = SpanExporters(settings.trace_exporters)
    return Plugin(tracer=exporters, observers=[exporters], start=exporters.start, stop=exporters.stop)
