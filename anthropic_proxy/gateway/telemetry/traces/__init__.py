"""Plugin that exports traces with OpenTelemetry. It needs the extra `otel`, and variables `OTEL_…` enable it. A traced
request becomes one span, and each of its calls to a provider a child span, without message content.
"""

from functools import partial

from anthropic_proxy.gateway.settings import Settings, export_to_otel
from anthropic_proxy.plugins import Plugin


def open_plugin(settings: Settings) -> Plugin:
    """Return the plugin that exports traces. Without the packages of the extra `otel`, it does nothing."""
    try:
        from anthropic_proxy.gateway.telemetry.traces.exporter import TraceExporter, open_exporter  # noqa: PLC0415  # imports the OpenTelemetry SDK
    except ImportError:
        return Plugin()
    export_to_otel(settings)
    exporter = TraceExporter(settings.trace_exporters, partial(open_exporter, collectors=settings.collectors))
    return Plugin(tracer=exporter, observers=[exporter], start=exporter.start, stop=exporter.stop)
