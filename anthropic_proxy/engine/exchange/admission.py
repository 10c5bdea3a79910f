"""`Admissions`: asks the policies of plugins if a client request may be served.

A policy is plugin code that admits or rejects requests, for example by a budget. `Admissions.admit` asks the policies,
which may reserve an amount of the budget. When the request has ended, `settle` passes its record to these policies, and
they replace the reservation by the real amount. `admitted_token_count_request` does both, asking and settling, for a
`count_tokens` request.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.call_building import estimate_client_request_tokens
from anthropic_proxy.engine.exchange.client_request import ClientRequest
from anthropic_proxy.engine.hooks import AdmissionRequest, AdmissionTarget, Receipt, Settle
from anthropic_proxy.engine.messages.models import MessagesRequest
from anthropic_proxy.engine.messages.tokens import EstimateCache
from anthropic_proxy.engine.routing.router import Route, Target, find_preferred_provider, resolve_model_name_and_tier


class Admissions:
    """Admission of one client request by the policies, plugin code that may reject requests.

    Without policies, every request is admitted.
    """

    def __init__(self, engine: Engine, receipt: Receipt) -> None:
        self._engine = engine
        self._receipt = receipt
        self._settles: list[Settle] = []

    async def admit(
        self, incoming: ClientRequest, request: MessagesRequest, route: Route, estimates: EstimateCache
    ) -> None:
        """Ask the policies of plugins to admit a request to `/v1/messages`.

        Raises the `ClientError` of the first policy that rejects it.
        """
        if not self._engine.policies:
            return
        settings, target = self._engine.settings, route.targets[0]
        preferred = find_preferred_provider(settings, self._engine.catalog)
        scale = await self._engine.observations.find_token_scale(target.provider.name, target.model)
        described = AdmissionRequest(
            client=incoming.client,
            model=request.model,
            normalized_model=resolve_model_name_and_tier(request.model, preferred, settings)[0],
            body_bytes=len(incoming.body),
            route=route.rule.name if route.rule is not None else "",
            request_id=incoming.request_id,
            targets=[_describe_target(each, request) for each in route.targets],
            estimate_input_tokens=partial(estimate_client_request_tokens, incoming, estimates, scale, request),
            response_headers=self._receipt.limit_headers,
        )
        await self._ask_policies(described)

    async def admit_token_count(self, incoming: ClientRequest) -> None:
        """Ask all policies of plugins to admit a `count_tokens` request, which gets no reply of a model.

        Raises the `ClientError` of the first policy that rejects the request.
        """
        if not self._engine.policies:
            return
        described = AdmissionRequest(
            client=incoming.client,
            model="",
            body_bytes=len(incoming.body),
            request_id=incoming.request_id,
            has_reply=False,
            response_headers=self._receipt.limit_headers,
        )
        await self._ask_policies(described)

    async def _ask_policies(self, described: AdmissionRequest) -> None:
        for policy in self._engine.policies:
            if (settle := await policy.admit(described)) is not None:
                self._settles.append(settle)

    def settle(self) -> None:
        """Pass the record of the finished request to the policies that reserved an amount for it.

        Call this once, at the end of the request.
        """
        for settle in self._settles:
            settle(self._receipt)


@asynccontextmanager
async def admitted_token_count_request(engine: Engine, incoming: ClientRequest) -> AsyncIterator[None]:
    """Admit a `count_tokens` request at the start of an `async with` block, and settle the admission at its end.

    Raises the `ClientError` of a policy (plugin code) that rejects the request.
    """
    receipt = incoming.receipt or Receipt(
        request_id=incoming.request_id, client=incoming.client, started_at=engine.clock(), path=incoming.path
    )
    admissions = Admissions(engine, receipt)
    try:
        await admissions.admit_token_count(incoming)
        yield
    finally:
        admissions.settle()


def _describe_target(target: Target, request: MessagesRequest) -> AdmissionTarget:
    limit = target.capabilities.max_output
    requested = limit if request.max_tokens is None else max(request.max_tokens, 0)
    known = target.capabilities.known
    return AdmissionTarget(
        prefix=target.provider.prefix,
        model=target.model,
        max_output_tokens=min(requested, limit) if known else requested,
    )
