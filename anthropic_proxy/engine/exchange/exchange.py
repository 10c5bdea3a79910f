"""One exchange: a client request, from its body to the last byte of the reply.

`Exchange.run` admits the request, lets `Delivery` call and deliver, and sends a failure of either to the client.
`Exchange._admit` reads from top to bottom like its steps: read, plan, admit.

- *Read*: decode the body. If every provider that may serve the request receives the body unchanged (a relay), only its
  top-level fields are decoded.
- *Plan*: choose the plan, which has the targets in the order of the calls.
- *Admit*: policies of plugins check the client's limits and budgets, and reserve an amount.
- *Call* and *deliver*: `Delivery` (`delivery.py`).

The watchdog cancels this task if the provider is silent or the client disconnects; its `reason` tells these from the
stop of the server. The receipt is the record of the request for log, metrics and ledger. The server creates it, `run`
completes it.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from anthropic_proxy.engine.background import is_large
from anthropic_proxy.engine.clock import start_clock
from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.admission import Admission
from anthropic_proxy.engine.exchange.client_side import (
    ClientRequest,
    ResponseSink,
    record_client,
    record_failure,
    start_recording,
)
from anthropic_proxy.engine.exchange.delivery import Delivery, Extras
from anthropic_proxy.engine.exchange.inspection import open_inspection
from anthropic_proxy.engine.exchange.own_requests import ParentRequest
from anthropic_proxy.engine.exchange.plan import choose_plan, follow_session, read_client_request
from anthropic_proxy.engine.exchange.provider_errors import idle_timeout_error
from anthropic_proxy.engine.exchange.relay import restrict_relayed_request
from anthropic_proxy.engine.exchange.safeguards import open_check
from anthropic_proxy.engine.exchange.safeguards.hidden_texts import hides_call
from anthropic_proxy.engine.exchange.watchdog import ClientDisconnected, end_if_disconnected, uncancel
from anthropic_proxy.engine.hooks import WITH_OWN_LIMITS
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import MessagesRequest, decode_request_or_envelope, scan_request
from anthropic_proxy.engine.messages.preparation import find_session_id
from anthropic_proxy.engine.messages.purpose import asks_for_title, is_limit_query, read_purpose
from anthropic_proxy.engine.messages.tokens import EstimateCache
from anthropic_proxy.engine.options import ImageDescriptions
from anthropic_proxy.engine.routing.choices import MAX_NAME_LENGTH
from anthropic_proxy.engine.routing.router import Plan
from anthropic_proxy.errors import ClientError, InternalError, PolicyBlocked, ProxyError, ShuttingDown

if TYPE_CHECKING:
    from anthropic_proxy.engine.exchange.compaction import Compaction
    from anthropic_proxy.engine.exchange.image_describing import ImageDescriber
    from anthropic_proxy.engine.exchange.inspection.inspection import Inspection

_LIMIT_QUERY = FidelityNote("emulated", "max_tokens", "answered by the proxy: the client asks for its limits")
_WARM_UP = FidelityNote(
    "emulated", "max_tokens", "answered by the proxy: other providers fill their caches automatically"
)


class Exchange:
    """One `POST /v1/messages`. A failure becomes an HTTP status, or an `error` event in a started stream."""

    def __init__(
        self, engine: Engine, incoming: ClientRequest, sink: ResponseSink, inspection: "Inspection | None" = None
    ) -> None:
        """`inspection`: what has inspected the body. None: the exchange inspects it, if there are inspectors."""
        self._engine = engine
        self._incoming = incoming
        self._sink = sink
        self._inspection = inspection
        self._receipt = incoming.receipt
        self._admission = Admission(engine, incoming, EstimateCache())

    async def run(self) -> None:
        """Serve the request. Raises only the cancellation of this task, after the client got an error."""
        engine = self._engine
        receipt = self._receipt
        receipt.started_at = engine.clock()  # the upload of the body does not count
        clock = start_clock(receipt.started_at)
        record_client(receipt, self._incoming.headers)
        if engine.recorders and not engine.inspectors:
            start_recording(engine, self._incoming, self._sink, engine.recorders)
        delivery: Delivery | None = None
        try:
            delivery = await self._admit(clock)
            await delivery.run()
        except ProxyError as error:
            await self._fail(error, delivery)
        except ClientDisconnected:
            self._note_disconnect(delivery)
        except asyncio.CancelledError:
            if delivery is None or not delivery.watchdog.reason:
                await self._fail(ShuttingDown(), delivery)
                raise
            uncancel()
            if delivery.watchdog.reason == "gone":
                self._note_disconnect(delivery)
            else:
                await self._fail(idle_timeout_error(receipt.prefix, delivery.watchdog.upstream_limit), delivery)
        except Exception as error:  # noqa: BLE001  # any other exception is a defect of the proxy
            await self._fail(log_internal_error(error, engine, receipt.request_id), delivery)
        finally:
            await self._finish(delivery, clock)

    def _note_disconnect(self, delivery: Delivery | None) -> None:
        self._receipt.outcome = "cancelled"
        if delivery is not None:
            with suppress(ProxyError):
                delivery.flush_reply()

    async def _admit(self, clock: Callable[[], float]) -> Delivery:
        """Read, plan and admit the request. Return what calls the provider. The first failure is raised.

        `clock`: that of the exchange.
        """
        engine = self._engine
        incoming = self._incoming
        receipt = self._receipt

        # read
        request, match = await incoming.background.run_postponable(
            is_large(len(incoming.body)), read_client_request, engine, incoming
        )
        incoming.parts = request.parts
        receipt.requested_model = request.model[:MAX_NAME_LENGTH]  # a longer one is refused, but recorded
        receipt.stream = request.stream
        receipt.tool_count = len(request.tools)
        receipt.message_count = request.message_count
        receipt.tool_results = request.tool_results
        receipt.tool_errors = request.tool_errors
        if not receipt.session and request.metadata is not None and request.metadata.user_id:
            receipt.session = find_session_id(request.metadata.user_id) or ""
        purpose = match.facts.purpose if match is not None else read_purpose(incoming.headers, request, receipt.kind)
        receipt.kind, receipt.agent_type, receipt.prompt_id = purpose.kind, purpose.agent_type, purpose.prompt_id
        if incoming.on_model is not None:
            incoming.on_model(request.model)

        # plan
        chosen = engine.session_models
        if chosen is not None and not chosen.is_empty and await follow_session(chosen, incoming, request):
            match = None
            if request.scanned_only:
                request = await self._incoming.decode()
        plan = await choose_plan(engine, incoming, request, self._admission.estimates, match)
        plans: Sequence[Plan] = (plan,)
        if incoming.plans:
            plans = incoming.plans
            plan = plans[0]
        elif request.is_classifier_question:
            incoming.purpose = "classifier"
            plans, request = await self._list_plans_of_classifier(plan, request)
            plan = plans[0]
        self._record_plan(plan)
        # a relay's provider checks the request itself
        if request.decode_error is not None and not all(choice.targets[0].is_relayed for choice in plans):
            raise request.decode_error
        if request.may_have_summaries and not plan.targets[0].is_relayed:
            await self._check_summaries(request)  # before inspectors redact them

        # admit
        if receipt.client.is_restricted and any(target.is_relayed for choice in plans for target in choice.targets):
            await restrict_relayed_request(engine, incoming)
        # the limits of a virtual key are known here; those of another client are the provider's
        asks_limits = receipt.client.role in WITH_OWN_LIMITS and is_limit_query(
            incoming.headers, request, incoming.body
        )
        if engine.policies or engine.limiters:
            plan = await self._admission.admit_plan(request, plans, is_limit_query=asks_limits)
            self._record_plan(plan)
        for note in plan.notes:
            engine.log.write_once(note)
        inspection: Inspection | None = None
        if engine.inspectors:
            inspection, request = await self._inspect(request)
        if engine.title_recorders and asks_for_title(receipt.kind, request, incoming.body):
            hide = None if inspection is None else inspection.hide_values
            start_recording(engine, incoming, self._sink, engine.title_recorders, hide)
        extras: Extras | None = None
        if request.safeguards or request.context_edits or engine.settings.images is not None:
            extras, plan = self._open_extras(request, plan, inspection)
        answer: FidelityNote | None = None
        if asks_limits:
            answer = _LIMIT_QUERY
        elif request.max_tokens == 0 and not plan.targets[0].is_relayed:
            answer = _WARM_UP
        return Delivery(
            engine,
            incoming,
            self._sink,
            request=request,
            plan=plan,
            admission=self._admission,
            clock=clock,
            inspection=inspection,
            extras=extras,
            answer=answer,
        )

    def _open_extras(
        self, request: MessagesRequest, plan: Plan, inspection: "Inspection | None"
    ) -> tuple[Extras, Plan]:
        """Return also the plan that is left."""
        check = None
        if request.safeguards:
            check = open_check(self._build_parent(request, plan), request.safeguards, inspection)
        compaction: Compaction | None = None
        if request.context_edits:
            from anthropic_proxy.engine.exchange.compaction import open_compaction  # noqa: PLC0415  # few requests

            inspect = None if inspection is None else inspection.inspect_added
            compaction, plan = open_compaction(self._build_parent(request, plan), request, plan, inspect)
        describer: ImageDescriber | None = None
        images = self._engine.settings.images
        if images is not None and self._incoming.purpose != "image_description":
            describer = _open_describer(self._build_parent(request, plan), images, inspection)
        return Extras(check, compaction, describer), plan

    def _build_parent(self, request: MessagesRequest, plan: Plan) -> ParentRequest:
        return ParentRequest(self._engine, self._incoming, request, plan, run_exchange)

    async def _check_summaries(self, request: MessagesRequest) -> None:
        from anthropic_proxy.engine.messages.models.compaction import require_valid_blocks  # noqa: PLC0415  # few requests

        await self._incoming.background.run_in_thread_if_large(
            self._incoming.is_large, require_valid_blocks, request.messages, request.context_edits or ()
        )

    def _record_plan(self, plan: Plan) -> None:
        receipt = self._receipt
        receipt.route = plan.route.name if plan.route is not None else ""
        receipt.route_reason = plan.reason
        if receipt.session_model:
            receipt.route_reason = f"chosen for the session: {receipt.session_model}; {plan.reason}"
        receipt.fidelity.mode = plan.fidelity
        if self._incoming.plans and plan.requested:
            receipt.requested_model = plan.requested

    async def _list_plans_of_classifier(
        self, plan: Plan, request: MessagesRequest
    ) -> tuple[Sequence[Plan], MessagesRequest]:
        """Questions of Claude Code's own classifier go to the model of auto mode, if one is set and the client may use
        it, else to that of the request. The request is returned decoded if it has a choice of models.
        """
        engine = self._engine
        parent = self._build_parent(request, plan)
        chosen: Sequence[Plan] = ()
        try:
            chosen = await parent.list_plans(
                "classifier", route_model=parent.route_model_of_checks, setting_model=engine.settings.auto_mode.model
            )
        except ClientError as error:
            engine.log.write_once(f"auto mode: {error.stored_message}", "warning")
        if chosen and request.scanned_only:
            request = await self._incoming.decode()
        return (*chosen, plan), request

    async def _inspect(self, request: MessagesRequest) -> "tuple[Inspection, MessagesRequest]":
        """Return the inspection, and the request as the inspectors leave it. The recorders get this form too."""
        engine, incoming = self._engine, self._incoming
        inspection = self._inspection
        if inspection is None:
            inspection = open_inspection(engine, self._receipt, request.model)
            body = await end_if_disconnected(inspection.inspect_body(incoming), self._sink.wait_disconnected)
            if request.is_classifier_question and (
                inspection.has_replaced or (inspection.values and hides_call(body, inspection.values))
            ):
                raise PolicyBlocked(
                    "The inspectors of this proxy redact texts of the calls, so no model can judge what would run.",
                    code="classifier-redacted",
                )
        else:
            body = incoming.body
        if body != incoming.body:
            incoming.body = body
            read = scan_request if request.scanned_only else decode_request_or_envelope
            inspected = await incoming.background.run_postponable(incoming.is_large, read, body)
            assert inspected is not None, "the body was scanned before"
            request = inspected
            incoming.parts = request.parts
        if engine.recorders:
            start_recording(engine, incoming, self._sink, engine.recorders, inspection.hide_values)
        return inspection, request

    async def _fail(self, error: ProxyError, delivery: Delivery | None) -> None:
        """Record an error and send it. `delivery` None: the request was not admitted."""
        engine, receipt = self._engine, self._receipt
        if delivery is not None:
            await delivery.explain_error(error)
        record_failure(receipt, error, engine.settings.reveal_proxy_keys())
        if not receipt.client.administers:
            error.message = error.describe_to_people(engine.settings.limit_contact)
        if delivery is not None:
            await delivery.send_error(error)
        else:
            await self._sink.send_error_response(error)
        error.release_tracebacks()

    async def _finish(self, delivery: Delivery | None, clock: Callable[[], float]) -> None:
        """Complete the receipt, and settle what the policies have reserved."""
        receipt = self._receipt
        try:
            if delivery is not None:
                await delivery.finish()
        finally:
            receipt.duration_seconds = clock() - receipt.started_at
            if self._admission.settles:
                self._admission.settle()
            self._engine.end_exchange(receipt)


def _open_describer(
    parent: ParentRequest, table: ImageDescriptions, inspection: "Inspection | None"
) -> "ImageDescriber":
    from anthropic_proxy.engine.exchange.image_describing import ImageDescriber  # noqa: PLC0415  # few proxies have it

    return ImageDescriber(parent, table, None if inspection is None else inspection.inspect_added)


async def run_exchange(
    engine: Engine, incoming: ClientRequest, sink: ResponseSink, inspection: "Inspection | None" = None
) -> None:
    await Exchange(engine, incoming, sink, inspection).run()


def log_internal_error(error: Exception, engine: Engine, request_id: str) -> InternalError:
    """Log the traceback of a defect of the proxy. Return an error that names only the class of the exception."""
    engine.log.write_traceback(request_id)
    return InternalError(f"{type(error).__name__} in the proxy; the traceback is in its log.")
