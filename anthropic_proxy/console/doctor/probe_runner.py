"""Sending of probes (test requests of the doctor) through a proxy, with a record of the upstream traffic."""

import asyncio
import io
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field, structs

from anthropic_proxy.console.doctor.findings import ProbeTotals
from anthropic_proxy.engine.exchange.client_side import ClientRequest, CollectingSink
from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.memory_values import MemoryValues
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.providers import Provider
from anthropic_proxy.engine.providers.catalog import LearnedModel
from anthropic_proxy.engine.providers.model_facts import ModelCapabilities
from anthropic_proxy.engine.providers.model_observations import ModelObservations
from anthropic_proxy.engine.providers.provider_models import ListedModel, has_model_list, query_chat_models
from anthropic_proxy.engine.routing.health import NO_REPETITIONS, CircuitBreakers, RepetitionBudget
from anthropic_proxy.engine.routing.router import Plan
from anthropic_proxy.engine.routing.targets import Target, find_capabilities
from anthropic_proxy.engine.slices import MAX_REPLY_BYTES_ON_LOOP
from anthropic_proxy.engine.wires.bound_requests import BoundRequest, Transport
from anthropic_proxy.engine.wires.upstream_http import ConvertedResponse, UpstreamResponse
from anthropic_proxy.errors import ProxyError, UpstreamProtocolError, UpstreamTimeout
from anthropic_proxy.gateway.services import Services
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.plugins import Client, Receipt

PROBE_TIMEOUT_SECONDS = 120.0
"""Maximum seconds of one probe. It is long, because a local server may first load its model."""
LIST_TIMEOUT_SECONDS = 20.0
"""Maximum seconds of the query for a model list."""
_MAX_RECORDED_BYTES = 256 * 1024
_MAX_REPLY_BYTES = 4 * 1024 * 1024
"""Maximum size in bytes of one reply. A server that ignores output limits may never end its reply."""
_DELTA_FIELDS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
_OTHER_CAUSES = (401, 402, 403, 404, 408, 409, 425, 429)
"""HTTP statuses below 500 that do not concern the fields of a request: key, model, quota, load."""


class UpstreamExchange(Struct):
    """One upstream request of a probe, with its response as received."""

    request: bytes
    """Body."""
    status: int = 0
    """HTTP status of the response. 0: no response."""
    response: bytearray = field(default_factory=bytearray)
    """Beginning of the response body."""

    @property
    def is_rejected(self) -> bool:
        """True if the status of the response means that the server rejected a field of the request."""
        # includes 500, because some servers return it for unknown fields
        return 400 <= self.status <= 500 and self.status not in _OTHER_CAUSES


class ProbeResult(Struct, kw_only=True):
    """Result of one probe: the reply or error as a client receives it, and the upstream requests."""

    blocks: Sequence[Mapping[str, Any]] = ()
    """Content blocks of the reply, in the format of the Messages API."""
    stop_reason: str = ""
    """Reason for the end of the reply, in the words of the Messages API. "": no reply, but an error."""
    error: ProxyError | None = None
    """Error that the client receives. None: a reply."""
    upstream: Sequence[UpstreamExchange] = ()
    """Upstream requests, in order. Several: the proxy adapted or repeated the request."""
    adaptations: Sequence[str] = ()
    """Names of the adaptations with which a rejected request then succeeded."""
    notes: Sequence[FidelityNote] = ()
    """Fidelity notes: request fields that the proxy approximated, emulated or dropped."""
    seconds: float = 0.0
    """Seconds from the request of the probe to the end of its reply."""
    input_tokens: int = 0
    output_tokens: int = 0
    text_events: int = 0
    """Number of events of the streamed reply with text or thinking."""

    @property
    def text(self) -> str:
        return "".join(block.get("text", "") for block in self.blocks if block["type"] == "text")

    @property
    def thinking(self) -> str:
        """Reasoning in the reply. "": none."""
        return "".join(block.get("thinking", "") for block in self.blocks if block["type"] == "thinking")

    @property
    def calls(self) -> Sequence[Mapping[str, Any]]:
        """Calls of client tools in the reply."""
        return [block for block in self.blocks if block["type"] == "tool_use"]

    @property
    def last_status(self) -> int:
        """HTTP status of the provider's last response, or of the proxy's error if the provider sent no response.

        0: there was neither a response nor an error.
        """
        answered = [exchange.status for exchange in self.upstream if exchange.status]
        return answered[-1] if answered else self.error.status if self.error is not None else 0

    @property
    def first_rejection(self) -> UpstreamExchange | None:
        """First upstream request that the server rejected because of a field. None: there is none."""
        return next((exchange for exchange in self.upstream if exchange.is_rejected), None)


class ProbeRunner:
    """Sender of probes through the proxy, without its routes, policies and inspectors. `totals` counts requests and
    tokens.
    """

    def __init__(self, services: Services, totals: ProbeTotals) -> None:
        self._services = structs.replace(services, log=Log(io.StringIO()), policies=(), limiters=(), inspectors=())
        self.totals = totals

    async def send(self, target: Target, body: Mapping[str, Any]) -> ProbeResult:
        """`body`: request of the Messages API without `model`."""
        recorded: list[UpstreamExchange] = []
        observations = ModelObservations(MemoryValues())
        name = target.provider.name
        services = structs.replace(
            self._services,
            observations=observations,
            circuit_breakers=CircuitBreakers(),
            retry_budget=RepetitionBudget(),
            repair_budget=RepetitionBudget(NO_REPETITIONS),  # a probe shows what the server refuses
            transports={name: _record(self._services.transports[name], recorded)},
        )
        receipt = Receipt(request_id=services.new_id("req_"), client=Client(name="doctor"), started_at=services.clock())
        sink, started = CollectingSink(receipt, _MAX_REPLY_BYTES), time.monotonic()
        # escapes: the body may have a text of a model with half of a surrogate pair
        content = json.dumps({"model": f"{target.provider.prefix}/{target.model}", **body}).encode()
        plan = Plan((target,), "probe", is_relayed=target.is_relayed)
        background = services.background.of(receipt.client.payer)
        request = ClientRequest(
            receipt=receipt, headers={}, body=content, background=background, purpose="probe", plans=(plan,)
        )
        error: ProxyError | None = None
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                await Exchange(services, request, sink).run()
        except TimeoutError:
            error = UpstreamTimeout(f"no complete reply within {PROBE_TIMEOUT_SECONDS:g} s")
        finally:
            self.totals.requests += len(recorded)
        is_large = len(sink.body) > MAX_REPLY_BYTES_ON_LOOP  # the loop may serve clients too
        result = await background.run_in_thread_if_large(is_large, _read_reply, sink, error)
        result.upstream, result.seconds = recorded, time.monotonic() - started
        result.adaptations = observations.find_adaptations(target.upstream, target.model, receipt.client.id)
        self.totals.input_tokens += result.input_tokens
        self.totals.output_tokens += result.output_tokens
        return result

    async def query_capabilities(self, target: Target) -> ModelCapabilities | None:
        """Return the limits of a model, as its server reports them. None: it reports none, or the query failed."""
        services = self._services
        if target.provider.name not in services.catalog.queried_providers:
            return None
        await services.catalog.fetch_capabilities(target.provider.name, target.model)
        facts = find_capabilities(target.provider, target.model, services.settings, services.catalog)
        return facts if facts.known else None

    def find_capabilities(self, target: Target, examined: LearnedModel) -> ModelCapabilities:
        """Return the capabilities with which the proxy serves a model after it has stored `examined`."""
        services = self._services
        return find_capabilities(target.provider, target.model, services.settings, services.catalog, examined)

    async def list_models(self, provider: Provider) -> list[ListedModel] | None:
        """Return the models that `provider` lists. None: the provider has no model list, or the query failed."""
        if not has_model_list(provider):
            return None
        services = self._services
        self.totals.requests += 1
        try:
            credential = services.credentials.next_credential(provider)
            send = services.transports[provider.name]
            return await query_chat_models(provider, services.settings, send, credential, LIST_TIMEOUT_SECONDS)
        except ProxyError:
            return None


def _record(send: Transport, recorded: list[UpstreamExchange]) -> Transport:
    """Return a transport that sends by `send` and appends each request with its response to `recorded`."""

    async def send_and_record(bound: BoundRequest) -> UpstreamResponse:
        exchange = UpstreamExchange(bound.request.body)
        recorded.append(exchange)
        response = await send(bound)
        exchange.status = response.status

        def record(chunk: bytes) -> bytes:
            if len(exchange.response) < _MAX_RECORDED_BYTES:
                exchange.response += chunk
            return chunk

        return ConvertedResponse(response, record)

    return send_and_record


def _read_reply(sink: CollectingSink, error: ProxyError | None) -> ProbeResult:
    """Return the collected reply to a probe. `error`: failure of the probe itself; None: no failure."""
    if error is None and sink.overflow.is_set():
        error = UpstreamProtocolError(
            f"the reply is larger than {_MAX_REPLY_BYTES // 1024**2} MiB", code="reply-too-large"
        )
    receipt = sink.receipt
    result = ProbeResult(error=error or sink.error, notes=tuple(receipt.notes))
    result.input_tokens, result.output_tokens = receipt.input_tokens, receipt.output_tokens
    if result.error is not None or not sink.started:
        return result
    if not sink.is_stream:
        message = json.loads(sink.body)
        result.blocks, result.stop_reason = message["content"], message.get("stop_reason") or ""
        return result
    blocks: dict[int, dict[str, Any]] = {}
    pieces = dict[tuple[int, str], list[str]]()  # joined at the end: a server may send many
    for line in bytes(sink.body).splitlines():
        if not line.startswith(b"data:"):
            continue
        event = json.loads(line.removeprefix(b"data:"))
        if event["type"] == "content_block_start":
            blocks[event["index"]] = dict(event["content_block"])
        elif event["type"] == "content_block_delta":
            index, delta = event["index"], event["delta"]
            kind = delta["type"]
            if kind == "input_json_delta":
                pieces.setdefault((index, "json"), []).append(delta["partial_json"])
            elif kind in _DELTA_FIELDS:
                field_name = _DELTA_FIELDS[kind]
                pieces.setdefault((index, field_name), []).append(delta[field_name])
                result.text_events += kind != "signature_delta"
        elif event["type"] == "message_delta":
            result.stop_reason = event["delta"].get("stop_reason") or ""
        elif event["type"] == "error":
            result.error = ProxyError(event["error"]["message"])
    for (index, field_name), texts in pieces.items():
        blocks[index][field_name] = "".join((blocks[index].get(field_name, ""), *texts))
    for block in blocks.values():
        if block["type"] == "tool_use":
            block["input"] = json.loads(block.pop("json", "") or "{}")
    result.blocks = list(blocks.values())
    return result
