"""`ExchangeGateway`: the methods of the proxy that plugins may call, the interface `plugins.Gateway`."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date
from functools import partial
from typing import Literal

from msgspec import structs

from anthropic_proxy.engine.exchange.adaptation import apply_stored_adaptations
from anthropic_proxy.engine.exchange.admission import admit_conversation
from anthropic_proxy.engine.exchange.client_side import ClientRequest, CollectingSink
from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.hooks import PLAIN_FORM, Client, Receipt
from anthropic_proxy.engine.messages.preparation import TargetLimits
from anthropic_proxy.engine.messages.server_tools import SERVER_TOOLS, ServerToolKind
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.hosts import build_server_name, is_in_table
from anthropic_proxy.engine.routing.model_listing import ModelEntry, find_model, list_models
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.errors import ClientError, InternalError
from anthropic_proxy.gateway.http_calls import HttpCalls
from anthropic_proxy.gateway.problems import find_server_problems, sort_problems
from anthropic_proxy.gateway.readiness import describe_setup
from anthropic_proxy.gateway.services import Services
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import (
    Cost,
    LedgerState,
    ModelFeatures,
    Problem,
    ServerFacts,
    Setup,
    Store,
)


class ExchangeGateway:
    """The contract of the methods is in `plugins.Gateway`. `calculate_cost` is called in a thread."""

    def __init__(
        self,
        current_services: Callable[[], Services],
        calculate_cost: Callable[[Receipt], Cost],
        reload: Callable[[], Awaitable[bool]],
        describe_server: Callable[[], ServerFacts],
    ) -> None:
        self._current_services = current_services
        self._calculate_cost = calculate_cost
        self._reload = reload
        self.describe_server = describe_server
        self.send_http = HttpCalls(lambda: current_services().http).send_http

    @property
    def settings(self) -> Settings:
        return self._current_services().settings

    @property
    def catalog(self) -> Catalog:
        return self._current_services().catalog

    async def run(self, body: bytes, client: Client) -> bytes:
        services = self._current_services()
        receipt = Receipt(request_id=services.new_id("req_"), client=client, started_at=services.clock())
        receipt.trace = None if services.tracer is None else services.tracer.start_trace(None)
        sink, number = CollectingSink(receipt), services.running.begin(receipt)
        name_model = partial(services.running.name_model, number)
        try:
            background = services.background.of(client.payer)
            incoming = ClientRequest(receipt=receipt, headers={}, body=body, background=background, on_model=name_model)
            await Exchange(services, incoming, sink).run()
        finally:
            services.running.end(number)
        if sink.error is not None:
            raise sink.error
        if sink.is_stream:
            raise InternalError("a plugin sent a request with stream")
        return bytes(sink.body)

    def describe_targets(self, model: str) -> str:
        services = self._current_services()
        plan = build_plan(RoutingQuery(model), services.settings, services.catalog)
        return f"{', '.join(f'{target.provider.prefix}/{target.model}' for target in plan.targets)} ({plan.reason})"

    def list_models(self, *names: str) -> Sequence[ModelEntry]:
        services = self._current_services()
        if not names:
            return list_models(services.settings, services.catalog)
        found = []
        for name in names:
            with suppress(ClientError):
                found.append(find_model(name, services.settings, services.catalog))
        return found

    async def calculate_cost(self, receipt: Receipt) -> Cost:
        return await asyncio.to_thread(self._calculate_cost, receipt)

    @property
    def store(self) -> Store:
        return self._current_services().store

    def log_warning_once(self, text: str) -> None:
        self._current_services().log.write_once(text, "warning")

    def health(self) -> Mapping[str, int]:
        services = self._current_services()
        return {
            "open_circuits": services.circuit_breakers.open_circuit_count(),
            "keys_in_cooldown": services.credentials.cooldown_count(),
        }

    @property
    def ledger_state(self) -> LedgerState | None:
        find_state = self._current_services().ledger_state
        return None if find_state is None else find_state()

    def log_warning_each_time(self, text: str) -> None:
        self._current_services().log.write_warning(text)

    def describe_setup(self) -> Setup:
        return self._describe_setup({})

    async def check_setup(self) -> Setup:
        services = self._current_services()
        return self._describe_setup(
            await find_server_problems(services.settings, services.catalog, services.transports)
        )

    def _describe_setup(self, server_problems: Mapping[str, Problem]) -> Setup:
        services = self._current_services()
        setup = describe_setup(
            services.settings,
            services.catalog,
            services.circuit_breakers,
            services.credentials,
            server_problems,
            today=date.today(),
        )
        of_server = [condition.problem for condition in services.list_conditions()]
        return structs.replace(setup, problems=sort_problems([*of_server, *setup.problems]))

    async def reload_settings(self) -> bool:
        return await self._reload()

    async def describe_models(self, names: Sequence[str], client: str) -> Sequence[ModelFeatures]:
        return await describe_models(self._current_services(), names, client)

    async def examine_model(self, model: str, client: Client, session: str) -> ModelFeatures:
        services = self._current_services()
        target = await admit_conversation(services, model, client, session)
        name = f"{target.provider.prefix}/{target.model}"
        (features,) = await describe_models(services, [name], client.id)
        return features

    async def collect_running_requests(self) -> Sequence[Receipt]:
        return (await self._current_services().receipts.feed.collect_snapshot()).running

    def stream_request_events(
        self, includes: Callable[[Client], bool] | None = None, *, client: str = ""
    ) -> AsyncGenerator[bytes, None]:
        return self._current_services().receipts.feed.live.open_stream(client, includes)


async def describe_models(services: Services, names: Sequence[str], client: str) -> list[ModelFeatures]:
    """Each name is a model id with the prefix of a provider. Models that no request can reach are omitted."""
    found = []
    for name in names:
        try:
            target = build_plan(RoutingQuery(name), services.settings, services.catalog).targets[0]
        except ClientError:
            continue
        used: list[str] = []
        adapted = apply_stored_adaptations(services, target, used, client)
        parts = {part.name: part.title for part in adapted.wire.parts}
        refused = services.observations.find_refused_parts(target.upstream, target.model, adapted.wire.name, client, "")
        used += [f"{PLAIN_FORM}{parts[name]}" for name in refused.list_shown(parts)]
        limits = services.find_target_limits(adapted)
        changed = {
            "context_window": target.capabilities.context_window_from_error
            != adapted.capabilities.context_window_from_error,
            "max_output": target.capabilities.max_output_from_error != adapted.capabilities.max_output_from_error,
            "images": target.capabilities.rejects_images != adapted.capabilities.rejects_images,
            "documents": target.capabilities.rejects_documents != adapted.capabilities.rejects_documents,
        }
        if services.catalog.has_reported_capabilities(target.provider.name, target.model):
            source = "server"
        else:
            known = is_in_table(target.provider, target.model)
            source = "built-in table" if known else "assumed"
        found.append(
            ModelFeatures(
                model=name,
                provider=target.provider.name,
                context_window=limits.context_window,
                max_input=limits.max_input or limits.context_window,
                max_output=limits.max_output,
                tools=limits.accepts_tools,
                images=limits.accepts_images,
                documents=limits.accepts_pdf,
                efforts=limits.efforts,
                has_thinking_budget=limits.accepts_thinking_budget,
                server_tools={
                    kind: _find_place(services, name, kind, limits)
                    for kind, row in SERVER_TOOLS.items()
                    if row.is_in_dashboard
                },
                source=source,
                other_sources={
                    **_find_other_sources(services, target),
                    **{field: "error of the provider" for field, is_changed in changed.items() if is_changed},
                },
                adaptations=tuple(used),
            )
        )
    return found


def _find_place(
    services: Services, name: str, kind: ServerToolKind, limits: TargetLimits
) -> Literal["provider", "proxy", "none"]:
    """`provider`: also if the provider runs the tool only on another of its APIs. `limits`: those of the model."""
    query = RoutingQuery(name, frozenset((kind,)))
    target = build_plan(query, services.settings, services.catalog).targets[0]
    if target.is_relayed:
        from anthropic_proxy.engine.wires.anthropic.dialect import Dialect  # noqa: PLC0415  # only with this API

        assert isinstance(target.dialect, Dialect)
        return "none" if kind in target.dialect.missing_tools else "provider"
    if kind in target.dialect.server_tools:
        return "provider"
    can_search = SERVER_TOOLS[kind].service != "search" or limits.search == "allowed"
    return "proxy" if can_search and kind in limits.proxy_tool_kinds else "none"


_SOURCE_FIELDS = {
    "context_window": "context_window",
    "max_output": "max_output",
    "accepts_images": "images",
    "efforts": "efforts",
}
"""Field of `LearnedModel` and of a model's settings → field of `ModelFeatures`."""


def _find_other_sources(services: Services, target: Target) -> dict[str, str]:
    """Return the source of each value that neither the table nor the server's description of the model states."""
    provider, catalog, sources = target.provider, services.catalog, dict[str, str]()
    server = build_server_name(provider, target.base_url)
    observations = [] if provider.uses_installed_models else catalog.list_observations(server, target.model)
    observed = catalog.find_observed_model(server, target.model) if observations else None
    for name, field in _SOURCE_FIELDS.items() if observed else ():
        value = getattr(observed, name)
        if value is not None and value != ():
            origin = next(one for one in observations if getattr(one, name) == value)
            day = origin.observed_on
            is_of_doctor = origin is catalog.find_learned_model(server, target.model)
            sources[field] = f"doctor, {day.day} {day:%b %Y}" if is_of_doctor else origin.evidence
    if provider.is_configured:
        stated = provider.find_stated_capabilities(target.model)
        sources |= {_SOURCE_FIELDS[name]: f"[providers.{provider.name}]" for name in stated.keys() & _SOURCE_FIELDS}
    return sources
