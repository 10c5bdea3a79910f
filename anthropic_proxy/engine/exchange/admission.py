"""Asks the policies of plugins if a client request may be served.

A policy may reserve an amount, such as a part of a budget. When the request has ended, it receives the receipt, and
replaces the reservation by the real amount.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.exchange.plan import estimate_client_request_tokens
from anthropic_proxy.engine.hooks import AdmissionRequest, AdmissionTarget, AdmitFurtherCall, Receipt, Settle
from anthropic_proxy.engine.messages.models import MessagesRequest
from anthropic_proxy.engine.messages.preparation import DEFAULT_MAX_TOKENS
from anthropic_proxy.engine.messages.tokens import EstimateCache
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.routing.choices import find_preferred_provider, resolve_model_name_and_tier
from anthropic_proxy.engine.routing.router import Plan
from anthropic_proxy.engine.routing.targets import Target

_USUAL_SEARCHES = 5
"""Number of web searches that a policy expects of a tool without `max_uses`."""


async def admit(
    engine: Engine,
    incoming: ClientRequest,
    request: MessagesRequest,
    plan: Plan,
    *,
    estimates: EstimateCache,
    settles: list[Settle],
    further_calls: list[AdmitFurtherCall],
    is_limit_query: bool = False,
) -> None:
    """Ask the policies to admit a request to `/v1/messages`. Raises the `ClientError` of the first that rejects it.

    `settles` receives the functions to call with the receipt at the end of the request, also after a rejection.
    `further_calls` receives those that admit another call for the same request. `is_limit_query`: no provider is
    called.
    """
    settings = engine.settings
    receipt = incoming.receipt
    preferred = find_preferred_provider(settings, engine.catalog)
    first = plan.targets[0]
    scale = engine.observations.find_token_scale(first.provider.name, first.model)
    name, tier = resolve_model_name_and_tier(request.model, preferred, settings)
    prefix, _, rest = name.partition("/")
    is_ignored = tier and find_registry(settings).find_by_prefix(prefix.lower()) is not None
    described = AdmissionRequest(
        client=receipt.client,
        model=request.model,
        normalized_model=name,
        mapped_model=rest if is_ignored else name,
        body_bytes=len(incoming.body),
        route=plan.route.name if plan.route is not None else "",
        request_id=receipt.request_id,
        parent=receipt.parent,
        is_limit_query=is_limit_query,
        targets=[describe_target(target, request) for target in plan.targets],
        estimate_input_tokens=partial(estimate_client_request_tokens, incoming, estimates, scale, request),
        response_headers=receipt.limit_headers,
        further_calls=further_calls,
    )
    await _ask_policies(engine, described, settles)


def describe_target(target: Target, request: MessagesRequest) -> AdmissionTarget:
    """Describe a call of `request` for policies."""
    limit = target.capabilities.max_output
    output = limit or DEFAULT_MAX_TOKENS if request.max_tokens is None else max(request.max_tokens, 0)
    if target.capabilities.known and limit is not None:
        output = min(output, limit)
    searches = [tool.max_uses for tool in request.tools if tool.type is not None and tool.type.startswith("web_search")]
    return AdmissionTarget(
        prefix=target.provider.prefix,
        model=target.model,
        max_output_tokens=output,
        service_tier="fast" if request.is_fast else "",
        max_searches=sum(_USUAL_SEARCHES if uses is None else max(uses, 0) for uses in searches),
    )


@asynccontextmanager
async def admit_without_reply(engine: Engine, incoming: ClientRequest) -> AsyncIterator[None]:
    """Admit a request other than a message at the start of an `async with` block, and settle the admission at its end.

    Raises the `ClientError` of a policy that rejects the request.
    """
    receipt = incoming.receipt
    described = AdmissionRequest(
        client=receipt.client,
        model="",
        body_bytes=len(incoming.body),
        request_id=receipt.request_id,
        has_reply=False,
        response_headers=receipt.limit_headers,
    )
    settles: list[Settle] = []
    try:
        await _ask_policies(engine, described, settles)
        yield
    finally:
        settle_admissions(engine, settles, receipt)


def settle_admissions(engine: Engine, settles: Sequence[Settle], receipt: Receipt) -> None:
    """Call all `settles`. The exception of one is logged, so that no other reservation stays open."""
    for settle in settles:
        try:
            settle(receipt)
        except Exception:  # noqa: BLE001  # a defect of a plugin
            engine.log.write_traceback(receipt.request_id)


async def _ask_policies(engine: Engine, described: AdmissionRequest, settles: list[Settle]) -> None:
    for policy in engine.policies:
        settle = await policy.admit(described)
        if settle is not None:
            settles.append(settle)
