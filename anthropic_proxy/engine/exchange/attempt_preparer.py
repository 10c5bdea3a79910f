"""`AttemptPreparer`: adapts a client request to a target, before each attempt."""

from collections.abc import Collection, Mapping
from functools import partial

from msgspec import structs

from anthropic_proxy.engine.engine import MAX_BYTES_ON_LOOP, MAX_STEPS_ON_LOOP, Engine
from anthropic_proxy.engine.exchange.attempt import Attempt, TargetRun
from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.exchange.media_inlining import SAMPLE_LINK, SOURCE_OF_LINK, MediaInliner, MediaKey
from anthropic_proxy.engine.exchange.relay import build_relay_call
from anthropic_proxy.engine.messages.effort_plan import EffortPlan
from anthropic_proxy.engine.messages.loaded_tools import NOWHERE, PLACEHOLDER_NAME, DeferredToolPlaces
from anthropic_proxy.engine.messages.models import MessagesRequest, Source, decode_request_or_envelope
from anthropic_proxy.engine.messages.models.tools import list_tool_names
from anthropic_proxy.engine.messages.preparation import TargetLimits, prepare
from anthropic_proxy.engine.messages.tokens import EstimateCache
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.engine.wires.bound_requests import WEB, ClientOrigin
from anthropic_proxy.engine.wires.contract import Credential, TranslatedCall


class AttemptPreparer:
    """Makes the attempts of one client request. Notes on what was changed go to its fidelity report."""

    def __init__(
        self,
        engine: Engine,
        incoming: ClientRequest,
        *,
        session: str,
        is_large: bool,
        origin: ClientOrigin,
        estimates: EstimateCache,
    ) -> None:
        """`session`: conversation to which the request belongs. "": none. The record of such a request may name one.
        `is_large`: it occupies the event loop for too long.
        """
        self._engine = engine
        self._incoming = incoming
        self._receipt = incoming.receipt
        self._session = session
        self._is_large = is_large
        self._servers = origin.servers
        self._estimates = estimates
        self._inliner: MediaInliner | None = None
        """Downloader for the files to which the request links. None: no links, or `FETCH_URLS` is off."""
        if engine.web_fetch is not None and SOURCE_OF_LINK in incoming.body and WEB in origin.servers:
            self._inliner = MediaInliner(engine.web_fetch, origin)

    async def prepare_relay(self, target: Target, credential: Credential | None, run: TargetRun) -> Attempt:
        """Return a new attempt at a relay. Its provider checks the request, which may be invalid."""
        engine = self._engine
        self._receipt.fidelity.clear_notes()
        files: Mapping[tuple[str, str], Source | None] = {}
        if self._inliner is not None and not target.wire.accepts_media_url(target.dialect, SAMPLE_LINK):
            read = await engine.background.run_in_thread_if_large(
                self._is_large, decode_request_or_envelope, self._incoming.body
            )
            fetched = await self._fetch_media(
                self._inliner, read, target, engine.find_target_limits(target, self._servers)
            )
            files = await engine.background.run_in_thread_if_large(self._is_large, self._inliner.encode_files, fetched)
            self._receipt.fidelity.add_notes(self._inliner.notes)
        refused = engine.observations.list_refused_thinking(self._receipt.client.id)
        if run.adaptations is not None:
            refused = run.adaptations.list_refused_thinking()
        call = build_relay_call(
            self._incoming,
            run.request,
            target,
            refused,
            files=files,
            earlier_adaptations=() if run.adaptations is None else run.adaptations.names,
            adaptations_left=run.adaptations_left,
            token_scale=run.token_scale,
        )
        return Attempt(target=target, run=run, call=call, credential=credential, is_large=self._is_large)

    async def prepare(self, target: Target, credential: Credential | None, run: TargetRun) -> Attempt:
        """Return a new attempt, with the request adapted to the target and notes on what was changed.

        Raises the decoding error of an invalid request.
        """
        engine = self._engine
        request = run.request
        report = self._receipt.fidelity
        if request.decode_error is not None:
            raise request.decode_error
        limits = engine.find_target_limits(target, self._servers)
        if run.requires_room:
            limits = structs.replace(limits, reject_overflow=True)
        inliner = self._inliner
        if inliner is not None:
            fetched = await self._fetch_media(inliner, request, target, limits)
            request = await engine.background.run_in_thread_if_large(
                self._is_large, inliner.inline_urls, request, fetched
            )
        estimate = partial(self._estimates.get_or_estimate, scale=run.token_scale)
        session = self._session
        scope = self._receipt.client.scope_session(session)
        conversation = f"{scope} {self._receipt.agent} {target.prefixed_id}" if scope else ""
        places: DeferredToolPlaces | None = None
        loads_tools = session and limits.loaded_tools != "listed" and PLACEHOLDER_NAME in list_tool_names(request.tools)
        if loads_tools:
            places = engine.observations.find_tool_places(conversation, request.messages)
        given = request, limits, estimate, places or NOWHERE
        prepared = await engine.background.run_in_thread(prepare, *given) if self._is_large else prepare(*given)
        prepared.request.session = session or self._incoming.cache_session
        prepared.request.questions = self._incoming.questions
        if loads_tools:
            engine.observations.store_tool_places(conversation, request.messages, places, prepared.places)
        is_further_call = run.continuation is not None
        if report.notes and not is_further_call:
            report.clear_notes()
        if prepared.notes:
            report.add_notes(prepared.notes, skip_noted_fields=is_further_call)
        if inliner is not None:
            report.add_notes(inliner.notes)
        dialect = target.dialect
        effort_plan: EffortPlan | None = None
        if session and dialect.sends_effort_changes:
            effort_plan = engine.observations.follow_effort(conversation, prepared.request)
        call = TranslatedCall(
            request=prepared.request,
            model=target.model,
            requested_model=request.model,
            dialect=dialect,
            streams_upstream=request.stream or prepared.request.may_end_early or dialect.always_stream,
            effort_plan=effort_plan,
            client_tool_names=prepared.aliases,
            continuation_token=run.continuation or "",
            new_id=engine.new_id,
            provider_prefix=target.provider.prefix,
            responses_setting=target.provider.responses_setting,
            base_url=target.base_url,
            context_window=limits.context_window,
            max_input_tokens=limits.max_input,
            estimate_input_tokens=partial(estimate, request),
            max_schema_steps=MAX_STEPS_ON_LOOP,
        )
        return Attempt(
            target=target,
            run=run,
            call=call,
            credential=credential,
            is_large=self._is_large,
            proxy_tools=prepared.proxy_tools,
            deferred_tools=prepared.deferred,
        )

    async def _fetch_media(
        self, inliner: MediaInliner, request: MessagesRequest, target: Target, limits: TargetLimits
    ) -> Collection[MediaKey]:
        fetched = await inliner.fetch(request, target, limits)
        self._is_large = self._is_large or inliner.fetched_bytes > MAX_BYTES_ON_LOOP
        return fetched
