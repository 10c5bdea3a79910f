"""`Admission`: asks the policies of plugins if a request may be served, and says where it may lead (`ClientOrigin`).

A policy may reserve an amount, such as a part of a budget. When the request has ended, it receives the receipt, and
replaces the reservation by the real amount.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from msgspec import Struct, structs

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.exchange.estimates import estimate_client_request_tokens
from anthropic_proxy.engine.exchange.plan import choose_plan
from anthropic_proxy.engine.exchange.relay import build_relay_call
from anthropic_proxy.engine.hooks import (
    AdmissionRequest,
    AdmissionTarget,
    AdmitFurtherCall,
    Client,
    FurtherCall,
    Receipt,
    Settle,
)
from anthropic_proxy.engine.messages.models import MessagesRequest, ThinkingConfig
from anthropic_proxy.engine.messages.preparation import DEFAULT_MAX_TOKENS, server_tool_kind
from anthropic_proxy.engine.messages.purpose import CLASS_HEADER, SESSION_HEADER
from anthropic_proxy.engine.messages.tokens import EstimateCache, TokenScale
from anthropic_proxy.engine.options import ConfiguredRoute
from anthropic_proxy.engine.providers import Provider, find_registry
from anthropic_proxy.engine.providers.model_facts import ModelCapabilities
from anthropic_proxy.engine.routing.choices import find_preferred_provider, resolve_model_name_and_tier
from anthropic_proxy.engine.routing.router import Plan
from anthropic_proxy.engine.routing.targets import Target, find_capabilities
from anthropic_proxy.engine.wires.anthropic.request import list_sent_models
from anthropic_proxy.engine.wires.bound_requests import ALL_SERVERS, ClientOrigin, Place, ServerName
from anthropic_proxy.errors import PermissionDenied

_USUAL_SEARCHES, _USUAL_CONSULTATIONS = 5, 3
"""Number of web searches, and of calls of an advisor, that a policy expects of a tool without `max_uses`."""
_FAST = "fast"


class Admission(Struct, eq=False):
    """What the policies say about one request."""

    engine: Engine
    incoming: ClientRequest
    estimates: EstimateCache
    """Token estimate of the request, computed at most once, for routes, limits and `message_start`."""
    settles: list[Settle] = []
    """Functions to call with the receipt at the end of the request, also after a rejection."""
    servers: Collection[ServerName] = ALL_SERVERS
    """Servers beside the providers that the policies and the route allow."""
    further_calls: list[AdmitFurtherCall] = []
    """Functions that admit another call for the same request."""

    async def admit_plan(self, request: MessagesRequest, plans: Sequence[Plan], *, is_limit_query: bool) -> Plan:
        """Return the first plan whose models the policies allow.

        Raises the `ClientError` of the first policy that rejects the request: if it allows no model, that for the last
        plan. `is_limit_query`: no provider is called.
        """
        *others, last = plans
        for plan in others:
            try:
                await self._ask(self._describe(request, plan, is_limit_query=is_limit_query))
            except PermissionDenied:
                self.settle()  # of policies that allowed it
                self.settles.clear()
                self.further_calls.clear()
            else:
                return plan
        await self._ask(self._describe(request, last, is_limit_query=is_limit_query))
        return last

    def build_origin(self, models: Collection[Place], route: ConfiguredRoute | None = None) -> ClientOrigin:
        """Return the origin of the calls of admitted models. `route`: the one that chose them."""
        incoming = self.incoming
        servers = self.servers if route is None or route.web else ()
        return ClientOrigin(incoming.purpose, incoming.receipt.request_id, incoming.background.payer, models, servers)

    async def admit_successor(
        self, origin: ClientOrigin, target: Target, request: MessagesRequest, scale: TokenScale
    ) -> ClientOrigin:
        """Ask the policies for the successor of a retired model, which the plan does not name.

        Return `origin` with the successor. Raises the `ClientError` of the first that rejects it.
        """
        await self._admit_call(target, request, scale)
        return structs.replace(origin, models={*origin.models, (target.provider.name, target.model)})

    async def _admit_call(self, target: Target, request: MessagesRequest, scale: TokenScale) -> None:
        incoming = self.incoming
        further = FurtherCall(
            target=describe_target(self.engine, incoming, target, request),
            body_bytes=request.body_bytes,
            estimate_input_tokens=partial(estimate_client_request_tokens, incoming, self.estimates, scale, request),
            receipt=incoming.receipt,
        )
        for admit in self.further_calls:
            await admit(further)

    async def admit_further_call(self, target: Target, request: MessagesRequest, scale: TokenScale) -> None:
        """Ask the policies for another call of a model, if one was billed before.

        The request itself was admitted for the first. Raises the `ClientError` of the first policy that rejects it.
        """
        if any(attempt.all_input_tokens or attempt.output_tokens for attempt in self.incoming.receipt.attempts):
            await self._admit_call(target, request, scale)

    async def admit_count(self, request: MessagesRequest, plan: Plan) -> bool:
        """Return False if the policies do not allow the models of `plan`, so that the tokens can only be estimated.

        Raises the `ClientError` of a policy that rejects a token count.
        """
        try:
            await self.require_models(request, plan)
        except PermissionDenied:
            await self.admit_without_model()
            return False
        return True

    async def require_models(self, request: MessagesRequest, plan: Plan) -> None:
        """Raise the `ClientError` of a policy that does not allow the models of `plan`."""
        await self._ask(self._describe(request, plan, has_reply=False))

    async def admit_without_model(self, *providers: Provider) -> None:
        """Ask the policies for a request that calls no model, but perhaps providers.

        Raises the `ClientError` of the first that rejects it.
        """
        incoming = self.incoming
        described = AdmissionRequest(
            client=incoming.receipt.client,
            purpose=incoming.purpose,
            model="",
            body_bytes=len(incoming.body),
            request_id=incoming.receipt.request_id,
            has_reply=False,
            targets=[AdmissionTarget(prefix=provider.prefix, model="", max_output_tokens=0) for provider in providers],
            response_headers=incoming.receipt.limit_headers,
        )
        await self._ask(described)

    def settle(self) -> None:
        """Give the receipt to all policies that reserved something.

        The exception of a policy is logged, so that no other reservation stays open.
        """
        for settle in self.settles:
            try:
                settle(self.incoming.receipt)
            except Exception:  # noqa: BLE001  # a defect of a plugin
                self.engine.log.write_traceback(self.incoming.receipt.request_id)

    def _describe(
        self, request: MessagesRequest, plan: Plan, *, has_reply: bool = True, is_limit_query: bool = False
    ) -> AdmissionRequest:
        engine, incoming = self.engine, self.incoming
        settings, receipt = engine.settings, incoming.receipt
        requested = plan.requested or request.model
        preferred = find_preferred_provider(settings, engine.catalog)
        first = plan.targets[0]
        scale = engine.observations.find_token_scale(first.provider.name, first.model, receipt.client.id)
        name, tier = resolve_model_name_and_tier(requested, preferred, settings)
        prefix, _, rest = name.partition("/")
        is_ignored = tier and find_registry(settings).find_by_prefix(prefix.lower()) is not None
        return AdmissionRequest(
            client=receipt.client,
            purpose=incoming.purpose,
            model=requested,
            normalized_model=name,
            mapped_model=rest if is_ignored else name,
            body_bytes=len(incoming.body),
            route=plan.route.name if plan.route is not None else "",
            request_id=receipt.request_id,
            parent=receipt.parent,
            has_reply=has_reply,
            is_limit_query=is_limit_query,
            targets=[
                describe_target(engine, incoming, target, request, has_reply=has_reply) for target in plan.targets
            ],
            estimate_input_tokens=partial(estimate_client_request_tokens, incoming, self.estimates, scale, request),
            response_headers=receipt.limit_headers,
            servers={*ALL_SERVERS},
        )

    async def _ask(self, described: AdmissionRequest) -> None:
        self.servers = described.servers
        try:
            for limiter in (*self.engine.policies, *self.engine.limiters):
                settle = await limiter.admit(described)
                if settle is not None:
                    self.settles.append(settle)
        finally:
            if described.further_calls:  # a function that holds the request which holds it keeps the body in memory
                self.further_calls += described.further_calls
                described.further_calls.clear()


@contextmanager
def settled_admission(engine: Engine, incoming: ClientRequest) -> Iterator[Admission]:
    """Settle an admission at the end of a `with` block, for requests other than messages."""
    admission = Admission(engine, incoming, EstimateCache())
    try:
        yield admission
    finally:
        admission.settle()


async def admit_conversation(engine: Engine, model: str, client: Client, session: str) -> Target:
    """Return the target of a request of Claude Code's conversation that names `model`, without sending one.

    Raises the `ClientError` of such a request.
    """
    receipt = Receipt(request_id=engine.new_id("req_"), client=client, started_at=engine.clock(), session=session)
    headers = {SESSION_HEADER: session, CLASS_HEADER: "main"}
    incoming = ClientRequest(receipt=receipt, headers=headers, body=b"", background=engine.background.of(client.payer))
    request = MessagesRequest(model=model, messages=[], thinking=ThinkingConfig(type="adaptive"))
    plan = await choose_plan(engine, incoming, request, EstimateCache())
    with settled_admission(engine, incoming) as admission:
        await admission.require_models(request, plan)
    return plan.targets[0]


def describe_target(
    engine: Engine, incoming: ClientRequest, target: Target, request: MessagesRequest, *, has_reply: bool = True
) -> AdmissionTarget:
    """Describe a call of `request` for policies. `has_reply` False: its tokens are only counted."""
    searches = [tool.max_uses for tool in request.tools if server_tool_kind(tool) == "web_search"]
    return AdmissionTarget(
        prefix=target.provider.prefix,
        model=target.model,
        max_output_tokens=_find_max_output(target.capabilities, request.max_tokens),
        service_tier=_FAST if request.is_fast else "",
        region=request.region,
        max_searches=sum(_USUAL_SEARCHES if uses is None else max(uses, 0) for uses in searches),
        named_models=_describe_named_models(engine, incoming, target, request) if has_reply else (),
    )


def _describe_named_models(
    engine: Engine, incoming: ClientRequest, target: Target, request: MessagesRequest
) -> Sequence[AdmissionTarget]:
    """Describe the models that the body names beside `model`. Only a relay sends them to its provider."""
    if not (incoming.named_models and target.is_relayed):
        return ()
    described = []
    provider = target.provider
    for named in list_sent_models(build_relay_call(incoming, request, target), incoming.named_models):
        facts = find_capabilities(provider, named.model, engine.settings, engine.catalog)
        limit = request.max_tokens if named.is_fallback and named.max_tokens is None else named.max_tokens
        uses = 1 if named.is_fallback else _USUAL_CONSULTATIONS if named.max_uses is None else max(named.max_uses, 0)
        described.append(
            AdmissionTarget(
                prefix=provider.prefix,
                model=named.model,
                max_output_tokens=_find_max_output(facts, limit),
                service_tier=_FAST if request.is_fast or named.is_fast else "",
                region=request.region,
                field=named.field,
                max_calls=uses,
            )
        )
    return described


def _find_max_output(facts: ModelCapabilities, requested: int | None) -> int:
    limit = facts.effective_max_output
    output = limit or DEFAULT_MAX_TOKENS if requested is None else max(requested, 0)
    return output if limit is None else min(output, limit)
