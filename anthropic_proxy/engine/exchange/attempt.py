"""`Attempt`: one call to a target, and `AttemptPreparer`, which makes it from the client request.

All attempts at one target share a `TargetRun`: what is left of the repetitions.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from anthropic_proxy.engine.background import MAX_BYTES_ON_LOOP, MAX_STEPS_ON_LOOP
from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.adaptation import Adaptations
from anthropic_proxy.engine.exchange.call_states import restore_call_states
from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.exchange.inspection import InspectAdded
from anthropic_proxy.engine.exchange.media_inlining import SAMPLE_LINK, MediaInliner, MediaKey
from anthropic_proxy.engine.exchange.plan import find_citation_key
from anthropic_proxy.engine.exchange.relay import RelayStream, build_relay_call
from anthropic_proxy.engine.exchange.upstream_stream import UpstreamStream
from anthropic_proxy.engine.hooks import Client
from anthropic_proxy.engine.messages.call_states import list_ids_with_states
from anthropic_proxy.engine.messages.effort_plan import EffortPlan
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.loaded_tools import NOWHERE, PLACEHOLDER_NAME, DeferredToolPlaces
from anthropic_proxy.engine.messages.media import may_have_media
from anthropic_proxy.engine.messages.models import (
    CleanMessages,
    MessagesRequest,
    Source,
    Tool,
)
from anthropic_proxy.engine.messages.models.tools import list_tool_names
from anthropic_proxy.engine.messages.preparation import PreparationResult, ProxyTool, TargetLimits, prepare
from anthropic_proxy.engine.messages.reply_filter import ReplyFilter
from anthropic_proxy.engine.messages.reply_schema import ReplySchema
from anthropic_proxy.engine.messages.tokens import EstimateCache, TokenScale
from anthropic_proxy.engine.providers.model_observations import ModelObservations
from anthropic_proxy.engine.providers.part_search import PartSearch
from anthropic_proxy.engine.providers.prefix_guard import Prompt
from anthropic_proxy.engine.routing.targets import Target, sees
from anthropic_proxy.engine.wires.anthropic.betas import BETAS_OF_CONTEXT, makes_edits, remove_betas
from anthropic_proxy.engine.wires.bound_requests import ClientOrigin, ServerName
from anthropic_proxy.engine.wires.calls import Call, TranslatedCall
from anthropic_proxy.engine.wires.dialect import BaseDialect, RequestPart
from anthropic_proxy.engine.wires.tools import BoundIds
from anthropic_proxy.engine.wires.upstream_http import Credential
from anthropic_proxy.errors import InternalError, UpstreamError

if TYPE_CHECKING:
    from anthropic_proxy.engine.exchange.image_describing import ImageDescriber
    from anthropic_proxy.engine.messages.context_editing import ContextEditor

MAX_RETRIES_PER_TARGET = 1
"""Maximum number of retries at one target after temporary failures."""
MAX_REPLACED_KEYS = 1
"""Maximum number of retries at one target with a key that was read again from its file or command."""
MAX_QUEUE_SECONDS = 5.0
"""Maximum seconds that a call waits, if another target follows, for a throttled provider (`requests_per_minute`), or
for the key of a command that its provider has rejected."""


class Repair(Struct):
    """How a request differs from its usual form, because the server has refused parts of such requests.

    Parts are names of adaptations.
    """

    beginning: str
    """Digest of client, model and first message, and the model. Several conversations may have the same."""
    conversation: str
    """Digest of `beginning` and the first reply, and the model. Of a first request: of `beginning` and all of it."""
    parts: Sequence[RequestPart]
    """What may be left out of the request of the client."""
    values: Mapping[str, str]
    """Part → digest of its value in the request of the client. "": it has no values."""
    is_first: bool
    """True if the request begins the conversation."""
    left_out: tuple[str, ...] = ()
    """Parts that the first call leaves out."""
    pairs: Mapping[str, tuple[str, ...]] = {}
    """Parts that the first call leaves out if it has those with which they are refused."""
    changes: int = 0
    """How often the conversation has changed its form."""
    search: PartSearch | None = None
    """The search for which the first call sends some suspects. None: none."""
    with_partners: BaseDialect | None = None
    """The dialect of the first call with all partners of the tested part. None: the search has no partners yet."""
    watched: Collection[str] | None = ()
    """Parts of which an acceptance shows something. None: all of the wire."""
    sent: tuple[str, ...] = ()
    """The watched parts that the latest call has, and the tested one if it lacks it only for want of a partner."""
    refusal: UpstreamError | None = None
    """Error of the first call, after which the call was repeated. None: no repetition."""
    refused_dialect: BaseDialect | None = None
    """The dialect of the first call. None: no repetition."""
    others: tuple[str, ...] = ()
    """The parts of the first call that can be left out together."""
    repetition: tuple[str, ...] = ()
    """Parts that the repetition leaves out besides."""
    plainer_forms: Sequence[tuple[str, ...]] = ()
    """What further repetitions leave out instead, one after the other, if this one is refused too."""
    notes: Sequence[FidelityNote] = ()
    is_recorded: bool = False
    """True if an acceptance was stored. A further call for the same reply shows nothing more."""

    def list_suspects(self) -> list[str]:
        """Return the parts of which the refusal and the acceptance of the repetition show that one is refused.

        Content is not searched for. A part that is left out only alone was tried after the request without all others.
        """
        suspects = [part for part in self.parts if part.name in self.repetition]
        if any(part.is_last for part in suspects):
            return []  # the conversation was refused without the others before
        single = [part for part in suspects if part.is_single]
        names = {part.name for part in single or suspects if not part.is_content}
        return [name for name in self.repetition if name in names]

    @property
    def form(self) -> str:
        """Digest of what the latest call leaves out. "": nothing."""
        names = sorted({*self.left_out, *self.repetition})
        return hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest() if names else ""


class TargetRun(Struct):
    """What all attempts at one target share: the request, and the repetitions that are left."""

    request: MessagesRequest
    token_scale: TokenScale
    """How tokens of the model are estimated."""
    origin: ClientOrigin
    """Why the calls are made, and where they may lead."""
    adaptations_left: int
    key_changes: int = 0
    """How often the key was changed. The keys of the provider are a limit (`Credentials.max_key_changes`)."""
    retries_left: int = MAX_RETRIES_PER_TARGET
    key_replacements_left: int = MAX_REPLACED_KEYS
    is_message: bool = True
    """False: a request of `forwarding.py`. It is repeated with a key that was read again or a new access token, but not
    with another key, which has limits of its own for such requests and may belong to another workspace."""
    uses_first_key: bool = False
    requires_room: bool = False
    """True if a target before this one failed. A model whose window is known to be too small is then not called: its
    refusal would hide the failure, and the client would shorten a conversation that only had to be repeated."""
    has_next_target: bool = False
    """True if another target follows. This one is then skipped while its circuit is open, or if the call would wait for
    longer than `MAX_QUEUE_SECONDS`."""
    continuation: str | None = None
    """Token to continue a reply that the provider split. "": another call without a token. None: first call."""
    reply_filter: ReplyFilter | None = None
    """Filter of the previous call, if this call continues its reply."""
    adaptations: Adaptations | None = None
    """Changes of the request after errors of the provider in this exchange. None: no change so far."""
    repair: Repair | None = None
    """None: the request has its usual form, as far as known."""

    @property
    def max_queue_seconds(self) -> float | None:
        return MAX_QUEUE_SECONDS if self.has_next_target else None


class Attempt(Struct, kw_only=True):
    """One call to a target. It is filled step by step: prepared, encoded, sent, opened."""

    target: Target
    run: TargetRun
    call: Call[BaseDialect]
    """Input of the wire. A relay's body is removed when the reply begins, to free memory."""
    credential: Credential | None
    """None: the provider needs no key."""
    is_large: bool = False
    """True if a thread must encode the request, because it would occupy the event loop for too long."""
    proxy_tools: Mapping[str, ProxyTool] = {}
    """Name of a tool in calls of the model → the tool that the proxy runs in place of client or provider."""
    deferred_tools: Sequence[Tool] = ()
    """Tools that are not sent to the model until its tool search finds them."""
    upstream_path: str = ""
    """Path below the base URL. "": not encoded yet."""
    proves: str = ""
    """`UpstreamRequest.proves`."""
    prompt: Prompt | None = None
    """Its prompt, for the comparison with the one before. None: not encoded, no session, or too large."""
    reply_schema: ReplySchema | None = None
    """JSON Schema against which the proxy checks the reply. None: none requested, or the provider enforces it."""
    stream: UpstreamStream | RelayStream | None = None
    """The reply, whose first content has arrived. None: not opened."""

    def decoded(self) -> UpstreamStream:
        """Return the reply as deltas. Only such a reply can have further calls."""
        if not isinstance(self.stream, UpstreamStream):
            raise InternalError("a relay cannot continue a reply")
        return self.stream

    def store_lessons(self, observations: ModelObservations, client: Client, *, is_rejected: bool = False) -> None:
        """Store for a client what the success of the call shows about the model, or its rejection that no adaptation
        avoids.
        """
        if self.proves:
            observations.store_adaptation(self.target.upstream, self.target.model, self.proves, client.id)
        if self.run.adaptations is not None:
            self.run.adaptations.store_for_model(self.target, is_rejected=is_rejected)


class AttemptPreparer(Struct, eq=False):
    """Makes the attempts of one client request. Notes on what was changed go to its fidelity report."""

    engine: Engine
    incoming: ClientRequest
    session: str
    """Conversation to which the request belongs. "": none. The record of such a request may name one."""
    is_large: bool
    """True if the request occupies the event loop for too long."""
    servers: Collection[ServerName]
    """Servers beside the providers that the calls may reach."""
    estimates: EstimateCache
    inliner: MediaInliner | None
    """Downloader for the files to which the request links. None: no links, or `FETCH_URLS` is off."""
    editor: "ContextEditor | None"
    """Maker of the edits by `context_management`. None: none is requested."""
    describer: "ImageDescriber | None"
    """Describer of pictures for models that do not see. None: no model is set for it."""
    inspect: InspectAdded | None
    """Inspection of what the proxy adds to the request. None: there are no inspectors."""
    citation_key: bytes = b""
    """See `MessagesRequest`. b"": no attempt has needed it."""

    async def prepare_relay(self, target: Target, credential: Credential | None, run: TargetRun) -> Attempt:
        """Return a new attempt at a relay. Its provider checks the request, which may be invalid."""
        engine = self.engine
        self.incoming.receipt.fidelity.clear_notes()
        files: Mapping[tuple[str, str], Source | None] = {}
        if self.inliner is not None and not target.wire.accepts_media_url(target.dialect, SAMPLE_LINK):
            read = await self.incoming.decode()
            fetched = await self._fetch_media(
                self.inliner, read, target, engine.find_target_limits(target, self.servers)
            )
            files = await self.incoming.background.run_in_thread_if_large(
                self.is_large, self.inliner.encode_files, fetched
            )
            self.incoming.receipt.fidelity.add_notes(self.inliner.notes)
        edited = None if run.request.context_edits is None else await self._edit_relayed(target, run.request)
        descriptions: Mapping[str, str] = {}
        if self.describer is not None and not sees(target):
            body = self.incoming.body if edited is None else edited
            descriptions = await self._describe_relayed(self.describer, body, files)
        refused = engine.observations.list_refused_thinking(self.incoming.receipt.client.id)
        if run.adaptations is not None:
            refused = run.adaptations.list_refused_thinking()
        call = build_relay_call(
            self.incoming,
            run.request,
            target,
            refused,
            files=files,
            descriptions=descriptions,
            earlier_adaptations=() if run.adaptations is None else run.adaptations.names,
            adaptations_left=run.adaptations_left,
            token_scale=run.token_scale,
        )
        if edited is not None:
            headers = remove_betas(call.headers, BETAS_OF_CONTEXT)
            call = structs.replace(call, body=edited, headers=headers, has_edited_messages=True)
        return Attempt(target=target, run=run, call=call, credential=credential, is_large=self.is_large)

    async def prepare(self, target: Target, credential: Credential | None, run: TargetRun) -> Attempt:
        """Return a new attempt, with the request adapted to the target and notes on what was changed.

        Raises the decoding error of an invalid request.
        """
        engine = self.engine
        incoming = self.incoming
        request = run.request
        report = incoming.receipt.fidelity
        if request.decode_error is not None:
            raise request.decode_error
        limits = engine.find_target_limits(target, self.servers)
        if run.requires_room:
            limits = structs.replace(limits, reject_overflow=True)
        if type(request.messages) is not CleanMessages:
            self.citation_key = self.citation_key or await find_citation_key(engine, incoming)
            request.citation_key, request.kept_passages = self.citation_key, engine.kept_passages
        if self.editor is not None:
            request = await self.incoming.background.run_in_thread_if_large(self.is_large, self.editor.edit, request)
        edited = request
        if call_ids := list_ids_with_states(request.messages):
            request = await restore_call_states(engine, incoming, request, call_ids, is_large=self.is_large)
        inliner = self.inliner
        if inliner is not None:
            fetched = await self._fetch_media(inliner, request, target, limits)
            request = await self.incoming.background.run_in_thread_if_large(
                self.is_large, inliner.inline_urls, request, fetched
            )
        media_notes: Sequence[FidelityNote] = ()
        # messages in this form cite no document, so a model that reads all documents and pictures gets them
        reads_all = limits.accepts_pdf and limits.accepts_images and type(request.messages) is CleanMessages
        if not reads_all and may_have_media(request.messages):
            request, media_notes = await self._replace_media(request, target, limits)
        estimate = partial(self.estimates.get_or_estimate, scale=run.token_scale)
        session = self.session
        conversation = ""
        if session:
            scope = incoming.receipt.client.scope_session(session)
            conversation = f"{scope} {incoming.receipt.agent} {target.prefixed_id}"
            if run.repair is not None:  # what is kept for a prompt is kept for its form
                conversation += run.repair.form
        places: DeferredToolPlaces | None = None
        may_load_tools = session and request.tools and limits.loaded_tools != "listed"
        loads_tools = may_load_tools and PLACEHOLDER_NAME in list_tool_names(request.tools)
        if loads_tools:
            places = engine.observations.find_tool_places(conversation, request.messages)
        if self.is_large:
            estimated = edited if request.stream else None  # `message_start` has the estimate
            prepared = await self.incoming.background.run_in_thread(
                _prepare_and_estimate, request, limits, estimate, places or NOWHERE, estimated
            )
        else:
            prepared = prepare(request, limits, estimate, places or NOWHERE)
        sent = prepared.request
        sent.session = session or incoming.cache_session
        sent.questions = incoming.questions
        if loads_tools:
            engine.observations.store_tool_places(conversation, request.messages, places, prepared.places)
        is_further_call = run.continuation is not None
        if report.notes and not is_further_call:
            report.clear_notes()
        if prepared.notes:
            report.add_notes(prepared.notes, skip_noted_fields=is_further_call)
        if inliner is not None:
            report.add_notes(inliner.notes)
        if media_notes:
            report.add_notes(media_notes)
        dialect = target.dialect
        effort_plan: EffortPlan | None = None
        if session and dialect.sends_effort_changes:
            effort_plan = engine.observations.follow_effort(conversation, sent)
        call = TranslatedCall(
            request=sent,
            model=target.model,
            requested_model=request.model,
            dialect=dialect,
            streams_upstream=request.stream or sent.may_end_early or dialect.always_stream,
            effort_plan=effort_plan,
            client_tool_names=prepared.aliases,
            continuation_token=run.continuation or "",
            new_id=BoundIds(engine.new_id),
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
            is_large=self.is_large,
            proxy_tools=prepared.proxy_tools,
            deferred_tools=prepared.deferred,
        )

    async def _fetch_media(
        self, inliner: MediaInliner, request: MessagesRequest, target: Target, limits: TargetLimits
    ) -> Collection[MediaKey]:
        reads_pdf = not limits.accepts_pdf and self.engine.documents.is_installed
        describes = self.describer is not None and await self.describer.may_describe()
        fetched = await inliner.fetch(request, target, limits, reads_pdf=reads_pdf, reads_images=describes)
        self.is_large = self.is_large or inliner.fetched_bytes > MAX_BYTES_ON_LOOP
        if self.inspect is not None:
            await inliner.inspect(self.inspect)
        return fetched

    async def _replace_media(
        self, request: MessagesRequest, target: Target, limits: TargetLimits
    ) -> tuple[MessagesRequest, Sequence[FidelityNote]]:
        """Return the request with texts in place of the documents and pictures that the model does not read or cite."""
        notes: list[FidelityNote] = []
        if not limits.accepts_pdf or self.engine.documents.is_installed:
            from anthropic_proxy.engine.exchange.document_reading import (  # noqa: PLC0415  # few need it
                read_documents,
            )

            request, found, size = await read_documents(
                self.engine.documents,
                self.incoming.background,
                request,
                target,
                limits,
                is_large=self.is_large,
                describer=self.describer,
                inspect=self.inspect,
                count_read=partial(self.incoming.count_made, "documents"),
            )
            notes += found
            self.is_large = self.is_large or size > MAX_BYTES_ON_LOOP
        if self.describer is not None and not limits.accepts_images:
            from anthropic_proxy.engine.exchange.image_describing import describe_images  # noqa: PLC0415  # few need it

            request, found = await describe_images(self.describer, request, is_large=self.is_large)
            notes += found
        return request, notes

    async def _edit_relayed(self, target: Target, request: MessagesRequest) -> bytes | None:
        """Return the body for a server that does not make the edits of the conversation itself. None: it stays."""
        editor, body = self.editor, self.incoming.body
        edits = request.context_edits or ()
        summary = "" if editor is None else editor.summary
        if not summary and makes_edits(target.dialect, edits):
            return None
        from anthropic_proxy.engine.messages.models import context_edits  # noqa: PLC0415  # few requests
        from anthropic_proxy.engine.wires.anthropic import context_spans  # noqa: PLC0415  # few requests

        if edits and (request.scanned_only or isinstance(edits[0], context_edits.Summarize)):
            return None  # the server has refused the beta since the request was planned, or another one counts
        in_thread = partial(self.incoming.background.run_in_thread_if_large, self.is_large)
        summarizes = editor is not None and editor.summarizes
        notes = context_edits.list_notes_of_relay(edits, summarizes=summarizes)
        self.incoming.receipt.fidelity.add_notes(notes)
        if summary:
            return await in_thread(context_spans.replace_conversation, body, summary)
        removed = None if editor is None else await in_thread(editor.find_removed)
        return await in_thread(context_spans.edit_conversation, body, removed)

    async def _describe_relayed(
        self, describer: "ImageDescriber", body: bytes, files: Mapping[tuple[str, str], Source | None]
    ) -> Mapping[str, str]:
        """Return `RelayCall.descriptions`, and note them."""
        from anthropic_proxy.engine.exchange.image_describing import describe_relayed  # noqa: PLC0415  # few need it

        texts, notes = await describe_relayed(describer, body, files, is_large=self.is_large)
        self.incoming.receipt.fidelity.add_notes(notes)
        return texts


def _prepare_and_estimate(
    request: MessagesRequest,
    limits: TargetLimits,
    estimate: Callable[[MessagesRequest], int],
    places: DeferredToolPlaces,
    estimated: MessagesRequest | None,
) -> PreparationResult:
    """`estimated`: request of which the estimate is kept. None: none is needed."""
    prepared = prepare(request, limits, estimate, places)
    if estimated is not None:
        estimate(estimated)
    return prepared
