"""`Delivery`: calls the provider for an admitted request, and delivers its reply.

- *Call*: `Attempts` calls the targets until one sends content (`attempts.py`). If the proxy runs tools itself, one
  reply has several calls (`tool_loop/`).
- *Deliver*: the client gets events (`_stream`), one message (`_fold`), the provider's bytes (`_relay`), or an error.

Two flags decide how a failure reaches the client. `_opened`: events of the proxy were sent, so the status is 200, and
an error becomes an `error` event. `_relayed`: bytes of the provider were sent, which an `error` event follows. Neither:
an HTTP response with the status of the error.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from anthropic_proxy.engine.background import is_large
from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.adaptation import correct_system_form, store_reply_form
from anthropic_proxy.engine.exchange.admission import Admission
from anthropic_proxy.engine.exchange.attempts import Attempts
from anthropic_proxy.engine.exchange.client_side import ClientRequest, ResponseSink, record_failure
from anthropic_proxy.engine.exchange.estimates import estimate_client_request_tokens
from anthropic_proxy.engine.exchange.final_calls import FinalCalls
from anthropic_proxy.engine.exchange.relay import RelayStream
from anthropic_proxy.engine.exchange.tool_loop.loop import RepeatableStream, ToolLoop, run_pending_calls
from anthropic_proxy.engine.exchange.tool_loop.schema_retry import SchemaCheckedStream
from anthropic_proxy.engine.exchange.upstream_stream import DeltaStream, SingleToolCallFilter
from anthropic_proxy.engine.exchange.watchdog import Watchdog
from anthropic_proxy.engine.messages.call_states import HiddenThinking
from anthropic_proxy.engine.messages.deltas import Block, Delta, Stop, TokenCounts, Usage
from anthropic_proxy.engine.messages.events import ErrorEvent, Event, MessageDelta, Ping
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.fold import Fold
from anthropic_proxy.engine.messages.models import MessagesRequest
from anthropic_proxy.engine.messages.preparation import ends_with_paused_reply
from anthropic_proxy.engine.messages.tokens import TokenScale
from anthropic_proxy.engine.messages.writer import MessageWriter
from anthropic_proxy.engine.providers.model_observations import MIN_RECORDED_TOKENS
from anthropic_proxy.engine.providers.prefix_guard import find_lost_tokens, settle_change
from anthropic_proxy.engine.routing.call_limits import CallSlot
from anthropic_proxy.engine.routing.router import Plan
from anthropic_proxy.engine.slices import MAX_REPLY_BYTES_ON_LOOP
from anthropic_proxy.errors import ProxyError, UpstreamError

if TYPE_CHECKING:
    from anthropic_proxy.engine.exchange.compaction import Compacted, Compaction
    from anthropic_proxy.engine.exchange.edited_relay import EditedRelay
    from anthropic_proxy.engine.exchange.image_describing import ImageDescriber
    from anthropic_proxy.engine.exchange.inspection.inspection import Inspection
    from anthropic_proxy.engine.exchange.relayed_calls import RelayedCalls
    from anthropic_proxy.engine.exchange.safeguards.check import ReplyCheck
    from anthropic_proxy.engine.exchange.safeguards.relayed import RelayedCheck
    from anthropic_proxy.engine.exchange.tool_loop.runner import ProxyToolRunner

EMPTY_DELTA_AFTER_SECONDS = 240.0
"""Seconds without content for the client after which empty deltas replace pings: clients accept only 10 minutes of
pings."""


_LOST_STATE = FidelityNote(
    "approximated",
    "content.tool_use",
    "the next request has no reasoning before a call: too much is kept for the owner, or the store is away",
)


class Extras(Struct, frozen=True):
    """What few requests have beside the calls for their reply."""

    check: "ReplyCheck | None"
    """Checks of the tool calls of the reply. None: the client requested none."""
    compaction: "Compaction | None"
    """The summary that the client requests of the proxy. None: none."""
    describer: "ImageDescriber | None"
    """See `AttemptPreparer`."""


class Delivery:
    """An admitted request, until its reply is delivered. The watchdog observes it from the constructor to `finish`."""

    _may_call = False
    """True once the limit of upstream calls lets the exchange call a provider."""
    _opened = False
    """True once events that the proxy created were sent to the client. The status is then final."""
    _relayed = False
    """True once bytes of a streamed provider response were forwarded to the client unchanged."""
    _reply: DeltaStream | None = None
    """The decoded reply whose delivery has failed. None: there is none, or a relay."""
    _call_filter: SingleToolCallFilter | None = None
    """Filter that drops all tool calls after the first one. None: the client allows parallel calls."""
    _check: "ReplyCheck | None" = None
    _compaction: "Compaction | None" = None
    _compacted: "Compacted | None" = None
    """The summary with which the reply begins. None: there is none."""
    _calls: FinalCalls | None = None
    """The tool calls of a translated reply. None: they are neither checked nor changed."""

    def __init__(
        self,
        engine: Engine,
        incoming: ClientRequest,
        sink: ResponseSink,
        *,
        request: MessagesRequest,
        plan: Plan,
        admission: Admission,
        clock: Callable[[], float],
        inspection: "Inspection | None",
        extras: Extras | None,
        answer: FidelityNote | None,
    ) -> None:
        """`inspection`: that of request and reply. None: there are no inspectors. `answer`: note on an empty reply of
        the proxy itself. None: a provider is called.
        """
        self._engine = engine
        self._incoming = incoming
        self._sink = sink
        self._request = request
        self._plan = plan
        self._estimates = admission.estimates
        self._clock = clock
        self._inspection = inspection
        self._answer = answer
        describer = None
        if extras is not None:
            self._check, self._compaction, describer = extras.check, extras.compaction, extras.describer
        receipt = self._receipt = incoming.receipt
        timeouts = engine.settings.timeouts
        # a probe shows what a server does
        self._hidden = None if request.shows_thinking or incoming.purpose == "probe" else HiddenThinking(engine.new_id)
        """The thinking that the client does not get. None: it gets all."""
        self._writer = MessageWriter(
            message_id=engine.new_id("msg_"), model=request.model, signature="", clock=clock, hidden=self._hidden
        )
        receipt.blocks = self._writer.marks
        self.watchdog = Watchdog(
            wait_disconnected=sink.wait_disconnected,
            on_idle=self._keep_alive if request.stream else None,
            first_byte_seconds=timeouts.first_byte_seconds,
            idle_seconds=timeouts.idle_seconds,
            first_checks=engine.first_checks,
        )
        self._origin = admission.build_origin(plan.places, plan.route)
        self._attempts = Attempts(
            engine,
            incoming,
            request,
            self.watchdog,
            admission=admission,
            origin=self._origin,
            clock=clock,
            describer=describer,
            inspect=None if inspection is None else inspection.inspect_added,
        )
        if request.context_edits is not None:
            editor = self._attempts.editor
            self._writer.applied_edits = [] if editor is None else editor.applied  # of the latest call at the end
            if self._compaction is not None:
                self._compaction.prepare_writer(self._writer)
                if editor is not None:
                    editor.summarizes = True
        self._slot: CallSlot | None = None
        """The place among the concurrent calls to providers. None: their number is not limited."""
        if engine.queue is not None:
            self._slot = CallSlot(engine.queue, receipt)
            self.watchdog.on_unread = self._slot.give_up
        if describer is not None:
            describer.slot = self._slot

    async def run(self) -> None:
        """Call and deliver. The first failure is raised."""
        if self._answer is not None:
            await self._answer_without_call(self._answer)
            return
        if self._compaction is not None and await self._compact(self._compaction):
            return
        slot = self._slot
        if slot is not None:
            await slot.acquire()
        try:
            self._may_call = True
            reply = await self._open_reply()
            if self._compacted is not None:
                self._receipt.fidelity.add_notes(self._compacted.notes)
                if type(reply) is not RelayStream:
                    reply = _begin_reply(self._compacted, reply)
            if self._inspection is not None and type(reply) is not RelayStream:
                reply = self._inspect_reply(self._inspection, reply)
            await self._deliver(reply)
        finally:
            if slot is not None:
                slot.release()
            if self._check is not None:
                self._check.close()
        await self._learn(reply)

    async def explain_error(self, error: ProxyError) -> None:
        """Add to an error what the attempts know about its cause, and remove the keys from it."""
        if isinstance(error, UpstreamError):
            await self._attempts.read_list_for_remedy(error)
            await self._attempts.annotate_error(error)

    async def send_error(self, error: ProxyError) -> None:
        """Send an error: as an event if the stream has begun, otherwise with its HTTP status."""
        events = self.flush_reply()
        if self._opened:
            if self._calls is not None:
                events = self._calls.feed(events)
            await self._sink.send_events([*events, *self._writer.fail(error)], is_last=True)
        elif self._relayed:
            await self._sink.send_events([ErrorEvent(error)], is_last=True)
        else:
            await self._sink.send_error_response(error)

    def flush_reply(self) -> list[Event]:
        """Return the events of what the decoder and the filters of a failed reply still hold, and count it as received.
        A second call returns an empty list.
        """
        if self._reply is None or self._writer.finished:
            return []
        deltas = self._reply.flush_pending()
        if self._call_filter is not None:
            deltas = [*self._call_filter.feed(deltas), *self._call_filter.flush_pending()]
        return self._writer.feed(deltas)

    async def finish(self) -> None:
        """Stop the watchdog, and complete the receipt with the usage of the calls."""
        receipt = self._receipt
        writer = self._writer
        records = self._attempts.records
        self.watchdog.stop()
        receipt.outcome = receipt.outcome or writer.stop_reason or ""
        if self._opened or self._relayed or receipt.outcome != "cancelled":
            receipt.status = receipt.status or 200
        if records.finish(writer.usage, writer.running):
            records.add_input(await self._estimate_sent_tokens())

    async def _answer_without_call(self, note: FidelityNote) -> None:
        """Send an empty reply."""
        self._receipt.fidelity.add_notes((note,))
        writer, check = self._writer, self._check
        ending: list[Delta] = [Usage(input_tokens=0, output_tokens=0), Stop("max_tokens")]
        if self._request.stream:
            self._opened = True
            events = [*self._start(), *writer.feed(ending), *writer.finish()]
            if check is not None:
                events = await self._add_verdicts(check, events)
            await self._sink.send_events(events, is_last=True)
        else:
            fold = Fold(writer)
            fold.feed(ending)
            message = fold.finish()
            if check is not None:
                message.safeguard_results = await check.finish()
            await self._sink.send_message(message)

    async def _compact(self, compaction: "Compaction") -> bool:
        """Let a model summarize the conversation, if it is time for it. Return True if that is the whole reply.

        Otherwise the summary takes the place of the conversation.
        """
        compacted = self._compacted = await compaction.run()
        if compacted is None:
            return False
        writer = self._writer
        if (editor := self._attempts.editor) is not None:
            editor.summary = compacted.replacement
        self._request = compacted.request
        writer.summaries = [*compacted.calls]
        writer.is_summary = compacted.is_whole
        if compacted.applied is not None:
            writer.applied_edits = compacted.applied
        if compacted.is_whole:
            self._receipt.fidelity.add_notes(compacted.notes)
            reply = _begin_reply(compacted, None)
            if self._inspection is not None:
                reply = self._inspect_reply(self._inspection, reply)
            await self._deliver(reply)
        return compacted.is_whole

    def _inspect_reply(self, inspection: "Inspection", reply: DeltaStream) -> DeltaStream:
        return inspection.open_reply(reply, hides_thinking=self._hidden is not None)

    async def _open_reply(self) -> DeltaStream | RelayStream:
        """Call the targets of the plan, and return the first reply that sends content. Raises an error if none does.

        The reply has further calls (`tool_loop/`) if the proxy runs a tool, checks a schema, or continues a split one.
        """
        engine = self._engine
        attempts = self._attempts
        request = self._request
        runner: ProxyToolRunner | None = None
        ahead: list[Delta] = []
        if ends_with_paused_reply(request.messages):
            runner = self._new_runner()
            request, ahead = await run_pending_calls(engine, runner, request, self._plan)
        attempt = await attempts.open_first_call(request, self._plan)
        stream = attempt.stream
        reply_schema = attempt.reply_schema
        if type(stream) is RelayStream:
            return stream
        assert stream is not None
        if reply_schema is None and not (attempt.proxy_tools or ahead) and stream.continuation is None:
            return RepeatableStream(attempts, attempt) if stream.begins_with_thinking else stream
        reply = ToolLoop(attempts, runner or self._new_runner(), request, attempt, ahead)
        return reply if reply_schema is None else SchemaCheckedStream(reply, reply_schema, self._incoming.background)

    def _new_runner(self) -> "ProxyToolRunner":
        from anthropic_proxy.engine.exchange.tool_loop.runner import ProxyToolRunner  # noqa: PLC0415  # few need it

        inspect = self._inspection.inspect_result if self._inspection is not None else None
        count = partial(self._incoming.count_made, "results", may_wait=False)
        return ProxyToolRunner(self._engine, self._origin, self._receipt.fidelity.add_notes, count, inspect)

    async def _deliver(self, reply: DeltaStream | RelayStream) -> None:
        """Send an open reply to the client in the form that it expects, and close it."""
        self._receipt.first_token_seconds = self._clock() - self._receipt.started_at
        choice = self._request.tool_choice
        if choice is not None and choice.disable_parallel_tool_use:
            self._call_filter = SingleToolCallFilter()
        if type(reply) is not RelayStream:
            self._receipt.message_id = self._writer.message_id
            if self._check is not None:
                self._receipt.fidelity.add_notes((self._check.note,))
            if self._check is not None or reply.restore is not None:
                self._calls = FinalCalls(None if self._check is None else self._check.start_check, reply.restore)
        try:
            if type(reply) is RelayStream:
                await self._relay(reply)
            elif self._request.stream:
                await self._stream(reply)
            else:
                await self._fold(reply)
        except BaseException:
            self._reply = None if type(reply) is RelayStream else reply
            raise
        finally:
            self.watchdog.stop()  # complete or failed: a disconnect has no effect now
            if type(reply) is RelayStream:
                self._writer.take_usage(reply.usage_so_far)
            await reply.close()

    async def _stream(self, reply: DeltaStream) -> None:
        """Send each list of deltas as events, in one write. The last list is sent together with the end.

        After the first write, no further call needs the request, so its memory is freed.
        """
        writer = self._writer
        watchdog = self.watchdog
        sink = self._sink
        calls = self._calls
        call_filter = self._call_filter
        slot = self._slot
        states = None if self._hidden is None else self._hidden.unsaved
        writer.signature = reply.default_signature
        holds_request = True
        last_events: list[Event] = []
        while (deltas := await reply.read()) is not None:
            if call_filter is not None:
                deltas = call_filter.feed(deltas)
            events = writer.feed(deltas)
            if events and not writer.started:
                events = self._start() + events
            if states:
                await self._keep_states(states)
            if calls is not None:
                events = calls.feed(events)
            if writer.stop is not None and reply.complete:
                last_events = events
                break
            if events:
                self._opened = True
                watchdog.begin_write()
                await sink.send_events(events)
                watchdog.end_write()
                if holds_request and not reply.may_send_again:
                    holds_request = False
                    self._release_body()
                    reply.release_request()
                if slot is not None and slot.is_given_up:
                    await self._take_place_again(slot)
        last_events = last_events or self._start()
        last_events += writer.finish() if calls is None else calls.feed(writer.finish())
        if self._check is not None:
            last_events = await self._add_verdicts(self._check, last_events)
        if slot is not None:  # the provider has sent all
            slot.release()
        self._opened = True
        watchdog.begin_write()
        await sink.send_events(last_events, is_last=True)

    async def _fold(self, reply: DeltaStream) -> None:
        """Send the reply as one message, for a request that is not streamed."""
        writer = self._writer
        fold = Fold(writer)
        call_filter = self._call_filter
        writer.signature = reply.default_signature
        while (deltas := await reply.read()) is not None:
            if call_filter is not None:
                deltas = call_filter.feed(deltas)
            fold.feed(deltas)
            if writer.stop is not None and reply.complete:  # nothing is left to read
                self.watchdog.end_upstream_call()
                break
        # an estimate was needed if the input may fill the context window: the reply's count then corrects the next one
        if writer.usage.input_tokens is None or self._estimates.has_estimate():
            latest = self._attempts.sender.latest
            writer.estimate = await self._incoming.background.run_in_thread_if_large(
                latest is not None and latest.is_large, self._attempts.estimate_tokens, self._request
            )
        if writer.characters + writer.queued_characters > MAX_REPLY_BYTES_ON_LOOP:
            message = await self._incoming.background.run_in_thread(fold.finish)
        else:
            message = fold.finish()
        hidden = self._hidden
        if hidden is not None and hidden.unsaved:
            await self._keep_states(hidden.unsaved)
        if self._calls is not None:
            self._calls.finish_message(message)
        if self._check is not None:
            self._end_upstream_call()
            message.safeguard_results = await self._check.finish()
        if self._slot is not None:
            self._slot.release()
        await self._sink.send_message(message)

    async def _keep_states(self, states: dict[str, str]) -> None:
        """Keep what belongs to calls before the client gets these, because its next request needs it."""
        if not await self._engine.kept_states.keep(self._engine.store, self._receipt.client.payer, states):
            self._receipt.fidelity.add_notes((_LOST_STATE,))
        states.clear()

    async def _relay(self, reply: RelayStream) -> None:
        """Send the provider's bytes, and the event in place of a missing end."""
        sink = self._sink
        slot = self._slot
        watchdog = self.watchdog
        streams = self._request.stream
        if self._opened:
            reply.omit_message_start()
        is_first, is_last = True, False
        relay: RelayStream | EditedRelay = reply
        if reply.has_edited_messages:
            relay = self._open_edited(reply)
        read = relay.read
        check: RelayedCheck | None = None
        inspection = self._inspection
        if inspection is not None and not inspection.changes_replies:
            inspection = None
        if inspection is not None or self._check is not None:
            from anthropic_proxy.engine.exchange.relayed_calls import RelayedCalls  # noqa: PLC0415  # few replies

            calls = RelayedCalls(inspection)
            if inspection is not None:
                read = inspection.open_relay(relay, calls, streams=streams).read
            if self._check is not None or self._request.safeguards:
                check = self._open_relayed_check(calls, inspection)
        try:
            while (data := await read()) is not None:
                is_last = reply.complete and reply.ending is None
                if check is not None:
                    data = await (check.feed(data) if streams else check.feed_message(data))
                    if is_last and check.is_waiting:
                        self._end_upstream_call()
                        if data:
                            self._relayed = streams
                            watchdog.begin_write()
                            await sink.send_relayed_bytes(data, reply.headers, is_stream=streams, is_last=False)
                            watchdog.end_write()
                        data = await check.finish()
                    elif not data:
                        continue
                if is_first:
                    self._relayed = streams
                watchdog.begin_write()
                await sink.send_relayed_bytes(data, reply.headers, is_stream=streams, is_last=is_last)
                watchdog.end_write()
                if is_first:
                    is_first = False
                    self._release_body()
                if slot is not None and slot.is_given_up and not is_last:
                    await self._take_place_again(slot)
        finally:
            self._receipt.outcome = reply.stop_reason or ""
        if reply.failure is not None:
            await self._attempts.annotate_error(reply.failure)
            record_failure(self._receipt, reply.failure, self._engine.settings.reveal_proxy_keys())
        if check is not None and check.is_waiting and (held := await check.finish()):
            await sink.send_relayed_bytes(held, reply.headers, is_stream=streams, is_last=False)
        if not is_last:
            watchdog.begin_write()
            await sink.send_events([reply.ending] if reply.ending else [], is_last=True)
        if check is not None and check.answered is not None:
            self._attempts.learn_safeguards(answered=check.answered)

    def _open_edited(self, reply: RelayStream) -> "EditedRelay":
        """Return a relayed reply with its summary, and with what the client is told about the edits."""
        from anthropic_proxy.engine.exchange.edited_relay import EditedRelay  # noqa: PLC0415  # few replies

        def count_reply() -> TokenCounts:
            self._writer.usage = reply.usage_so_far
            return self._writer.counts

        beginning = [] if self._compacted is None else self._compacted.beginning
        return EditedRelay(
            reply,
            self._incoming.background,
            block=next((delta.raw for delta in beginning if isinstance(delta, Block)), None),
            summaries=self._writer.summaries,
            count_reply=count_reply,
            applied=self._writer.applied_edits or (),
            streams=self._request.stream,
        )

    def _open_relayed_check(self, calls: "RelayedCalls", inspection: "Inspection | None") -> "RelayedCheck":
        """`inspection`: that of the reply. None: its texts are not changed."""
        from anthropic_proxy.engine.exchange.safeguards.relayed import RelayedCheck  # noqa: PLC0415  # few replies

        is_told = any(note.field == "safeguards" for note in self._receipt.notes)
        return RelayedCheck(
            self._check,
            calls,
            reads_calls=inspection is None,
            answers=not is_told,
            hides_texts=inspection is not None and bool(inspection.values),
        )

    async def _add_verdicts(self, check: "ReplyCheck", events: list[Event]) -> list[Event]:
        """Return the last events of a reply with the verdicts. The events before them are sent at once."""
        place = next(place for place, event in enumerate(events) if isinstance(event, MessageDelta))
        delta = events[place]
        assert isinstance(delta, MessageDelta)
        if check.is_waiting and place:
            self._opened = True
            self.watchdog.begin_write()
            await self._sink.send_events(events[:place])
            self.watchdog.end_write()
            events, place = events[place:], 0
        self._end_upstream_call()
        events[place] = structs.replace(delta, safeguard_results=await check.finish())
        return events

    async def _take_place_again(self, slot: CallSlot) -> None:
        """The client reads again. Meanwhile it gets pings, and its provider is not silent."""
        self.watchdog.end_upstream_call()
        await slot.take_again()
        self.watchdog.resume_upstream_call()

    def _end_upstream_call(self) -> None:
        """The provider has sent all. The checks of its calls need a place among the concurrent calls too."""
        self.watchdog.end_upstream_call()
        if self._slot is not None:
            self._slot.release()

    def _release_body(self) -> None:
        """Free the memory of the client request, as soon as no retry is possible."""
        self._incoming.free_body()
        self._request.release_body()
        if (editor := self._attempts.editor) is not None:
            editor.release()

    def _start(self) -> list[Event]:
        """Return the first events of a stream: `message_start` and a ping. Empty after the first call."""
        if self._writer.started:
            return []
        estimate = 0 if self._writer.is_summary else self._attempts.estimate_tokens(self._request)
        return [*self._writer.start(estimate), Ping()]

    async def _keep_alive(self) -> None:
        """Send a ping or an empty delta after an idle time. Before the first delta, this fixes status 200.

        A relay sends the pings of its provider only, unless the stream was already started for an earlier target.
        """
        latest = self._attempts.sender.latest
        if latest is not None:
            is_relaying = latest.target.is_relayed
        else:
            is_relaying = self._may_call and self._plan.targets[0].is_relayed
        if self._relayed or (is_relaying and not self._opened):
            return
        is_idle = self.watchdog.quiet_seconds > EMPTY_DELTA_AFTER_SECONDS
        # a block of the proxy would collide with the blocks of a relayed stream, which start at 0
        opens = is_idle and not any(target.is_relayed for target in self._plan.targets)
        events = self._start() or (self._writer.keep_alive() if opens else [Ping()])
        self._opened = True
        await self._sink.send_events(events)

    async def _learn(self, reply: DeltaStream | RelayStream) -> None:
        """Compare token counts with the estimate, and the prompt with the one before it. Keep the form of the reply.

        The provider's count corrects later estimates for the model. The count of a tool loop does not, because it has
        input that the estimate does not count.
        """
        engine, receipt, writer, latest = self._engine, self._receipt, self._writer, self._attempts.sender.latest
        counts = writer.counts
        if latest is not None:
            if latest.stream and (is_unopened := latest.stream.has_unopened_reasoning) is not None:
                store_reply_form(engine, latest.target, self._incoming, is_unopened=is_unopened)
            if reply.has_one_call and writer.estimate and writer.usage.input_tokens is not None:
                scale = latest.run.token_scale
                estimated = round(writer.estimate / scale.factor)
                if estimated >= MIN_RECORDED_TOKENS and self._estimates.is_latest_usual(scale.family):
                    counted = counts.all_input_tokens
                    form = "" if latest.run.repair is None else latest.run.repair.form
                    engine.observations.record_token_count(
                        receipt.provider, receipt.model, receipt.client.id, estimated, counted, form=form
                    )
        if (prompt := self._attempts.sender.prompt) is not None:
            prompt.tokens = counts.all_input_tokens
            if reply.has_one_call:
                prompt.cached_tokens = counts.cache_read_tokens
            if is_large(len(prompt.body), self._incoming.parts):
                await self._incoming.background.run_in_thread(engine.prefix_guard.compare, prompt)
            else:
                engine.prefix_guard.compare(prompt)
            if latest is not None and (lost := find_lost_tokens(prompt)):
                before = prompt.cached_tokens + lost
                correct_system_form(engine, latest.target, receipt.client.id, before, prompt.cached_tokens)
            engine.prefix_guard.keep(prompt)
            if prompt.change is not None:
                receipt.prefix_change = settle_change(receipt, prompt.change, counts, engine.log)

    async def _estimate_sent_tokens(self) -> int:
        """Return the estimated input of the last call. 0: its request was freed, and not estimated before."""
        incoming, latest = self._incoming, self._attempts.sender.latest
        scale = TokenScale() if latest is None else latest.run.token_scale
        request = self._request if latest is None else latest.run.request
        is_known = request is self._request and self._estimates.has_estimate()
        if is_known or not incoming.body:
            return self._estimates.estimate_latest(scale)
        if (editor := self._attempts.editor) is not None:
            request = editor.find_edited(request)
        return await self._incoming.background.run_in_thread_if_large(
            incoming.is_large, estimate_client_request_tokens, incoming, self._estimates, scale, request
        )


def _begin_reply(compacted: "Compacted", reply: DeltaStream | None) -> DeltaStream:
    """Return the reply behind its summary. `reply` None: nothing follows."""
    from anthropic_proxy.engine.exchange.compaction import BegunStream  # noqa: PLC0415  # few requests

    return BegunStream(compacted.beginning, reply)
