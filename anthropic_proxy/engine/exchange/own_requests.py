"""Requests of the proxy to models because of the request of a client: `ParentRequest` makes them.

Theory of operation. A check of a tool call sends what the user wrote to a model. It must not go where the request
itself could not go, and it has the client, the price and the rules of the request. So such a request is made from its
parent, and gets from it: the client (key, team and owner), the headers that rules read, the route, the fidelity mode,
the region, the trace, and the id for its record. It then takes the way of a client request: the admission, attempts,
inspectors, recorders and limits are the same.

Its models are a list of plans in order, of which the first is used that the policies allow. With routes, the list
depends on the route of the parent:

    a route of the parent's rank or earlier names the kind of the request   its targets
    the route of the parent names a model for the purpose                   this model
    the route of the parent                                                 the model of the setting, if it is one of
                                                                            the targets; then the targets
    no route                                                                the model of the setting, then the default

A summary is written by the targets of the parent, unless the first row names others.

If the policies allow none, the request is not sent, and its caller goes on without a reply.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import structs

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.client_side import ClientRequest, CollectingSink, ResponseSink
from anthropic_proxy.engine.exchange.plan import choose_plan
from anthropic_proxy.engine.hooks import Receipt
from anthropic_proxy.engine.messages.models import MessagesRequest
from anthropic_proxy.engine.messages.preparation import Question
from anthropic_proxy.engine.messages.purpose import (
    AGENT_HEADER,
    AGENT_TYPE_HEADER,
    PROMPT_HEADER,
    SESSION_HEADER,
    RequestKind,
)
from anthropic_proxy.engine.messages.tokens import EstimateCache
from anthropic_proxy.engine.options import ConfiguredRoute, list_condition_texts
from anthropic_proxy.engine.passed_proxies import LOOP_HEADER
from anthropic_proxy.engine.routing.router import Plan, RoutingQuery
from anthropic_proxy.engine.routing.routes import PROJECT_HEADER
from anthropic_proxy.engine.wires.anthropic.betas import BETA_HEADER
from anthropic_proxy.engine.wires.purposes import OwnPurpose

if TYPE_CHECKING:
    from anthropic_proxy.engine.exchange.inspection.inspection import Inspection

RunExchange = Callable[[Engine, ClientRequest, ResponseSink, "Inspection | None"], Awaitable[None]]
"""Function that runs an exchange. Its last argument has inspected the body. None: the exchange inspects it."""
_KINDS: Mapping[OwnPurpose, RequestKind] = {
    "auto_mode_check": "auto_mode_check",
    "confirmation": "auto_mode_check",
    "image_description": "image_description",
    "compaction": "compaction",
}
"""Purpose → kind in records and in conditions of routes."""
_PASSED_HEADERS = frozenset(
    (
        *("x-api-key", "authorization", "user-agent", PROJECT_HEADER, LOOP_HEADER),
        *(SESSION_HEADER, AGENT_HEADER, AGENT_TYPE_HEADER, PROMPT_HEADER),
    )
)
"""Headers of the client that requests because of it have too: its key for the provider, what records name, and the
proxies that it has passed."""
_PASSED_PREFIX = "anthropic-"
"""Beginning of further ones, such as the workspace. Betas belong to the body."""
_ONLY_STANDARD = "standard_only"
"""Value of `service_tier` that restricts a request. The others are wishes."""


class OwnSink(CollectingSink):
    """The client of a request of the proxy. It leaves when nobody waits for the reply any more."""

    def __init__(self, receipt: Receipt, max_bytes: int | None = None) -> None:
        super().__init__(receipt, max_bytes)
        self.has_left = False
        self.ended = asyncio.Event()
        """Set when the request has ended."""

    def leave(self) -> None:
        """End the request like a client that disconnects."""
        self.has_left = True
        self.overflow.set()


class ParentRequest:
    """A request of a client that has a plan, as the cause of requests of the proxy. `run` runs an exchange. None: the
    plans are wanted, and nothing is sent.
    """

    def __init__(
        self,
        engine: Engine,
        incoming: ClientRequest,
        request: MessagesRequest,
        plan: Plan,
        run: RunExchange | None = None,
    ) -> None:
        self.engine = engine
        self.incoming = incoming
        self._plan = plan
        self._run = run
        self._binding_fields: dict[str, str] = {}
        """Fields of the request that bind what is sent because of it."""
        if request.region:
            self._binding_fields["inference_geo"] = request.region
        if request.service_tier == _ONLY_STANDARD:
            self._binding_fields["service_tier"] = _ONLY_STANDARD

    @property
    def may_send(self) -> bool:
        return self._run is not None

    @property
    def route(self) -> ConfiguredRoute | None:
        """Route that the request matched. None: there is none."""
        return self._plan.route

    @property
    def route_model_of_checks(self) -> str | None:
        """Model that the route names for checks of tool calls. None: it names none."""
        return self._plan.route.auto_mode_model if self._plan.route is not None else None

    @property
    def route_model_of_images(self) -> str | None:
        """Model that the route names for descriptions of pictures. None: it names none."""
        return self._plan.route.image_model if self._plan.route is not None else None

    async def list_plans(
        self,
        kind: RequestKind,
        *,
        route_model: str | None = None,
        setting_model: str | None = None,
        default_model: str | None = None,
    ) -> Sequence[Plan]:
        """Return the plans of a request in the order in which the admission tries them. Empty: no model is allowed.

        `route_model`: model that the route of the parent names for the purpose. `setting_model`: model that a setting
        names for it. `default_model`: model of the purpose if neither does. None: there is none. Raises `ClientError`
        if no target can serve a model.
        """
        named = [model for model in (route_model, setting_model, default_model) if model is not None]
        if not named:
            return ()
        route = self._plan.route
        if (plan := await self._find_plan_of_kind(kind, named[0])) is not None:
            plans = [plan]
        elif route is None:
            plans = [await self._choose(kind, model) for model in named]
        elif route_model is not None:
            plans = [self._map(route_model)]
        else:
            plans = [] if setting_model is None else [self._map(setting_model)]
            plans = [plan for plan in plans if plan.places <= self._plan.places]
            if default_model is not None:
                plans.append(self._plan)
        return self._bind(plans)

    async def list_plans_of_model(self, kind: RequestKind, model: str) -> Sequence[Plan]:
        """Return the plan of a request to the parent's own model, unless a route names another for the kind.

        `model`: that of the parent. Raises `ClientError` if no target of this route can serve a model.
        """
        return self._bind([await self._find_plan_of_kind(kind, model) or self._plan])

    def _bind(self, plans: Sequence[Plan]) -> Sequence[Plan]:
        if self._plan.fidelity == "strict" or "inference_geo" in self._binding_fields:
            return [structs.replace(plan, fidelity="strict") for plan in plans]
        return plans

    def new_receipt(self, purpose: OwnPurpose) -> Receipt:
        engine, parent = self.engine, self.incoming.receipt
        receipt = Receipt(request_id=engine.new_id("req_"), client=parent.client, started_at=engine.clock())
        receipt.kind, receipt.parent = _KINDS[purpose], parent.request_id
        if engine.tracer is not None:
            receipt.trace = engine.tracer.start_trace(parent.trace and parent.trace.below())
        return receipt

    def new_request(
        self,
        purpose: OwnPurpose,
        receipt: Receipt,
        body: bytes,
        plans: Sequence[Plan],
        *,
        questions: Sequence[Question] = (),
    ) -> ClientRequest:
        """Return a request with the parent's rules. `body`: a JSON object without the fields that bind.

        A summary is part of the conversation, whose cached prompt it reads. Any other request has a cache of its own.
        """
        if self._binding_fields:
            body = body[:-1] + b"," + msgspec.json.encode(self._binding_fields)[1:]
        return ClientRequest(
            receipt=receipt,
            headers=self._select_headers(),
            body=body,
            background=self.incoming.background,
            purpose=purpose,
            plans=plans,
            questions=questions,
            cache_session="" if purpose == "compaction" else f"checks {self.incoming.receipt.session}",
        )

    async def send(self, request: ClientRequest, sink: OwnSink, inspection: "Inspection | None" = None) -> None:
        """Return when the request has ended, also if `sink` has left before. The request outlives a task that is
        cancelled here, so that its record is complete.

        `inspection`: what has inspected the body. None: it is inspected now.
        """

        run_exchange = self._run
        assert run_exchange is not None, "this parent sends nothing"

        async def run() -> None:
            try:
                await run_exchange(self.engine, request, sink, inspection)
            finally:
                sink.ended.set()

        self.engine.background.start_task(run())
        await sink.ended.wait()

    async def _choose(self, kind: RequestKind, model: str) -> Plan:
        """Return the plan that a request of the client for `model` would have."""
        parent = self.incoming.receipt
        receipt = Receipt(request_id=parent.request_id, client=parent.client, started_at=0.0, kind=kind)
        request = MessagesRequest(model=model, messages=[])
        asked = ClientRequest(
            receipt=receipt,
            headers=self._with_session(self.incoming.headers),
            body=b"",
            background=self.incoming.background,
        )
        return await choose_plan(self.engine, asked, request, EstimateCache())

    def _map(self, model: str) -> Plan:
        """Return the plan of a model, as one of the parent's route."""
        engine = self.engine
        plan = engine.plan_cache.find_plan(RoutingQuery(model), engine.settings, engine.catalog)
        return structs.replace(plan, route=self._plan.route)

    async def _find_plan_of_kind(self, kind: RequestKind, model: str) -> Plan | None:
        """Return the plan of a route for requests of this kind, which is not behind the parent's route. None: none."""
        routes, own = self.engine.settings.routes, self._plan.route
        before = routes if own is None else routes[: routes.index(own) + 1]
        if not any(kind in list_condition_texts(route.when.request) for route in before):
            return None
        plan = await self._choose(kind, model)
        is_of_kind = plan.route in before and kind in list_condition_texts(plan.route.when.request)
        return plan if is_of_kind else None

    def _select_headers(self) -> Mapping[str, str]:
        options = self.engine.settings.call_options.values()
        copied = {source for each in options for source in each.copied_headers.values()}
        selected = {
            name: value
            for name, value in self.incoming.headers.items()
            if name in _PASSED_HEADERS or name in copied or (name.startswith(_PASSED_PREFIX) and name != BETA_HEADER)
        }
        return self._with_session(selected)

    def _with_session(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        session = self.incoming.receipt.session
        return {**headers, SESSION_HEADER: session} if session else headers
