"""Spans contain no key of the current settings."""

from typing import cast

from msgspec import Struct
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.traces.exporter import TraceExporter
from anthropic_proxy.plugins import Client, Gateway, Receipt
from anthropic_proxy.secrets import Secret


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
    assert span.attributes is not None
    assert "a-new-word-1234" not in str({**span.attributes})
    assert span.attributes["anthropic_proxy.requested_model"] == "…"
