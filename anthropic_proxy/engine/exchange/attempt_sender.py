"""`AttemptSender`: the single call to a provider, from the prepared attempt to the first content of its reply.

`send` checks the circuit, and `_call` makes the call: `_authorize` fetches an access token if the provider has tokens,
`_encode` makes the provider's request, and `_wait_for_content` opens the reply. The receipt gets a record of each call
(`AttemptRecords`).
"""

import asyncio
from collections.abc import Callable
from functools import lru_cache, partial
from operator import attrgetter
from urllib.parse import urlsplit

from msgspec import Struct, field, structs

from anthropic_proxy.engine.background import PayerWork
from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.attempt import Attempt
from anthropic_proxy.engine.exchange.client_errors import find_told_error
from anthropic_proxy.engine.exchange.client_side import ClientRequest, record_bytes
from anthropic_proxy.engine.exchange.plain_form import PlainForms
from anthropic_proxy.engine.exchange.provider_errors import (
    add_address_advice,
    add_missing_date,
    decode_error_response,
    idle_timeout_error,
    read_error_body,
    require_api_response,
    require_no_page,
)
from anthropic_proxy.engine.exchange.relay import RelayStream, expect_inner_calls
from anthropic_proxy.engine.exchange.upstream_stream import UpstreamStream
from anthropic_proxy.engine.exchange.usage_bounds import UsageBounds, build_usage_bounds
from anthropic_proxy.engine.exchange.watchdog import Watchdog
from anthropic_proxy.engine.hooks import Client, Receipt, UpstreamAttempt
from anthropic_proxy.engine.memory_plan import SMALL_BODY_BYTES
from anthropic_proxy.engine.messages.deltas import INPUT_COUNTS, BilledUsage, Delta, Usage, sum_usages
from anthropic_proxy.engine.messages.fidelity import FidelityReport
from anthropic_proxy.engine.messages.models import MessagesRequest
from anthropic_proxy.engine.messages.reply_schema import ReplySchema
from anthropic_proxy.engine.providers import Provider
from anthropic_proxy.engine.providers.call_options import extend_request
from anthropic_proxy.engine.providers.prefix_guard import MAX_PROMPT_BYTES, Prompt
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.engine.slices import MAX_REPLY_BYTES_ON_LOOP
from anthropic_proxy.engine.trace_context import new_span_id
from anthropic_proxy.engine.wires.bound_requests import BoundRequest, CallProgress
from anthropic_proxy.engine.wires.calls import Call, RelayCall, TranslatedCall
from anthropic_proxy.engine.wires.dialect import TEMPLATE_SWITCH, BaseDialect
from anthropic_proxy.engine.wires.upstream_http import (
    CLIENT_CREDENTIAL_ORIGIN,
    Credential,
    UpstreamRequest,
    UpstreamResponse,
)
from anthropic_proxy.errors import CircuitOpen, ProxyError, UnsupportedFeature, UpstreamError

MAX_TOKEN_SECONDS = 15.0
"""Maximum seconds that a call waits, if another target follows, for the log-in of a cloud. azure-identity ends `az`
after 10 s, and searches elsewhere before."""
MAX_ACCEPTANCES = 1_000
"""Maximum number of models and paths of which the latest acceptance is kept."""
MAX_LISTED_LOSSES = 20
"""Maximum number of lost fields that the error of the fidelity mode `strict` lists."""
_USUAL_FACTOR = 4
"""Size of a provider's request, as a multiple of the client's, up to which the memory plan counts it with the client's.
A schema whose definitions stand in many places, or a tool of Anthropic's with its whole definition, may need more."""
_WRITTEN_PARTS = 2
"""A larger one counts as so many times less of a body, of which the plan expects eight times the memory."""
_MAX_SCHEMA_STEPS_ON_LOOP = 1_000
_MAX_SCHEMA_BYTES_ON_LOOP = 64 * 1024
"""Maximum steps and bytes for decoding the schema of a reply on the event loop: 3 to 10 ms. A larger schema is decoded
in a thread."""
_read_role = attrgetter("role")
_USUAL_CONTENT_TYPES = frozenset(
    kind + charset
    for kind in ("text/event-stream", "application/json", "application/x-ndjson")
    for charset in ("", "; charset=utf-8")
)
"""Content types of replies. A response with another one is examined."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


class AttemptRecords(Struct, eq=False):
    """Writer of `Receipt.attempts`: duration, status, error and tokens of each call.

    At most one attempt is open (without a recorded end) at a time.
    """

    receipt: Receipt
    engine: Engine
    clock: Callable[[], float]
    """That of the exchange."""
    ended: Usage | None = None
    """What the client is told of the ended calls of its reply (`Usage.earlier`). None: none has ended."""
    running: UpstreamAttempt | None = None
    """The call whose reply is read, until its count is final. None: there is none."""
    progress: CallProgress = field(default_factory=CallProgress)
    """That of the latest attempt."""
    _open: UpstreamAttempt | None = None

    def begin_attempt(self, target: Target, request: UpstreamRequest, max_tokens: int = 0) -> UpstreamRequest:
        """Record the start of an attempt, and return `request` with its trace headers, if the proxy exports traces."""
        if self._open is not None:
            self.end_attempt()
        receipt = self.receipt
        host, port = _find_address(target.base_url)
        attempt = UpstreamAttempt(
            provider=target.provider.name,
            model=target.model,
            host=host,
            port=port,
            offset_seconds=self.clock() - receipt.started_at,
            max_tokens=max_tokens,
        )
        receipt.attempts.append(attempt)
        self.progress = CallProgress()
        self._open = attempt
        if recorders := [*self.engine.recorders]:
            record_bytes(recorders, self.engine.log, receipt.request_id, "upstream request", request.body)
        if receipt.trace is None or not receipt.trace.span_id:
            return request
        attempt.span_id = new_span_id()
        return structs.replace(request, trace_headers=receipt.trace.encode_headers(attempt.span_id))

    def fail_attempt(self, error: ProxyError) -> None:
        """Record that the open attempt ended with `error`. The caller has removed API keys from its message."""
        if self._open is not None:
            self._open.error_type = error.error_type
            self._open.error = error.stored_message
        self.end_attempt()

    def count_unread_reply(self, usage: Usage) -> None:
        """Record the token usage of the open attempt, which has failed or was cancelled before its first content."""
        if self._open is not None:
            self._open.set_usage(usage)

    def end_attempt(self) -> None:
        if self._open is not None:
            self._open.duration_seconds = self.clock() - self.receipt.started_at - self._open.offset_seconds
            self._open = None

    def end_call(self, usage: Usage) -> None:
        """Make `usage` the final count of the running call."""
        if self.running is not None:
            self.running.set_usage(usage)
            self.running = None

    def tell_ended_call(self, usage: Usage, *, repeats_input: bool) -> Usage:
        """Return the delta that tells the writer that what follows belongs to another call than `usage`.

        `repeats_input`: the next call has the same input. The client is told it once, because clients derive the size
        of the conversation from it.
        """
        hidden = dict.fromkeys(INPUT_COUNTS) if repeats_input else {}
        told = structs.replace(usage, iterations=None, earlier=None, **hidden)
        self.ended = told if self.ended is None else sum_usages(self.ended, told)
        return Usage(earlier=self.ended)

    def finish(self, usage: Usage, counts: BilledUsage) -> bool:
        """Complete the records when the client request ends, and give the receipt the sum of the calls.

        `usage` and `counts`: those of the call that the delivery has read last. Return True if the provider may bill
        the input of the last call and has not reported it: the client disconnected, or the reply began without a count.
        """
        receipt = self.receipt
        if self._open is not None:
            if receipt.outcome == "error":
                self._open.error_type = receipt.error_type
                self._open.error = receipt.error
            self.end_attempt()
        running = self.running
        if running is not None and usage.earlier is self.ended:  # else it has read nothing of this call
            running.copy_usage(counts)
            if usage.iterations is not None:
                running.add_iterations(usage.iterations, counts)
        attempts = receipt.attempts
        if len(attempts) == 1:
            receipt.copy_usage(attempts[0])
        else:
            for attempt in attempts:
                receipt.add_call(attempt)
        if not attempts or attempts[-1].all_input_tokens or self.progress.is_connecting:
            return False
        if receipt.outcome == "cancelled":
            return not attempts[-1].error_type
        return receipt.first_token_seconds is not None and attempts[-1] is running

    def add_input(self, tokens: int) -> None:
        """Count the estimated input `tokens` for the last call, but at least the input of each earlier one."""
        receipt = self.receipt
        tokens = max(tokens, *(attempt.all_input_tokens for attempt in receipt.attempts))
        receipt.attempts[-1].input_tokens = tokens
        receipt.input_tokens += tokens


@lru_cache(maxsize=64)
def _find_address(base_url: str) -> tuple[str, int]:
    try:
        url = urlsplit(base_url)
        return url.hostname or "", url.port or _DEFAULT_PORTS.get(url.scheme, 0)
    except ValueError:
        return "", 0


class AttemptSender(Struct, eq=False):
    """Sends the attempts of one client request, and names the target of each in the receipt."""

    engine: Engine
    incoming: ClientRequest
    request: MessagesRequest
    watchdog: Watchdog
    records: AttemptRecords
    session: str
    """Conversation to which the request belongs. "": none."""
    latest: Attempt | None = None
    """The latest attempt that was encoded, or whose circuit was open. None: there is none."""
    prompt: Prompt | None = None
    """The prompt of the latest call that was accepted. None: there is none, no session, or it is too large."""

    async def send(self, attempt: Attempt) -> Attempt:
        """Encode and send the request of an attempt, and wait until its reply has content.

        Raises `UpstreamError`, and `UnsupportedFeature` in fidelity mode `strict` if the request drops fields.
        """
        engine = self.engine
        target = attempt.target
        upstream = target.upstream
        receipt = self.incoming.receipt
        client = receipt.client.id
        if attempt.run.has_next_target:
            try:
                engine.circuit_breakers.require_closed(upstream, client)
            except CircuitOpen:
                self._record_target(attempt)
                raise
        try:
            if attempt.credential is None and engine.credentials.uses_tokens(target.provider):
                await self._authorize(attempt)
            failure = await self._call(attempt)
        except BaseException:
            engine.circuit_breakers.release_trial(upstream, client)
            raise
        if failure is not None:
            engine.circuit_breakers.record_failure(upstream, failure, client)
            add_address_advice(failure, attempt.target, engine.settings)
            raise failure
        engine.circuit_breakers.record_success(upstream, client)
        acceptances = engine.acceptances
        acceptances[upstream, target.model, attempt.upstream_path] = receipt.started_at
        if len(acceptances) > MAX_ACCEPTANCES:
            del acceptances[min(acceptances, key=acceptances.__getitem__)]  # the least recently accepted
        engine.credentials.record_success(target.provider, attempt.credential)
        self.prompt = attempt.prompt
        if (repair := attempt.run.repair) is not None:
            PlainForms(engine, self.incoming).record_acceptance(attempt.target, repair)
        attempt.store_lessons(engine.observations, receipt.client)
        return attempt

    async def _call(self, attempt: Attempt) -> UpstreamError | None:
        """Send an attempt, and wait until its reply has content. Return its failure, if it has one."""
        engine = self.engine
        receipt = self.incoming.receipt
        watchdog = self.watchdog
        run = attempt.run
        request = await self._encode(attempt)
        size = len(request.body)
        if size > SMALL_BODY_BYTES and size > _USUAL_FACTOR * len(self.incoming.body):
            await self._count_written(size)
        self._record_target(attempt)
        target = attempt.target
        call = attempt.call
        prepared = call.request if isinstance(call, TranslatedCall) else None
        if self.session and size <= MAX_PROMPT_BYTES:
            scope = receipt.client.scope_session(receipt.session)
            model = target.model if run.repair is None else target.model + run.repair.form
            conversation = scope, receipt.agent, receipt.prefix, model
            attempt.prompt = Prompt(
                conversation,
                request.body,
                sent_at=asyncio.get_running_loop().time(),
                system_messages=None if prepared is None else [*map(_read_role, prepared.messages)].count("system"),
                settings=target.dialect.prompt_settings,
                tools=(prepared and prepared.tools) or self.request.tools,
            )
        try:
            if (throttle := engine.throttles.get(receipt.provider)) is not None:
                self.records.end_attempt()  # this time belongs to no call
                await throttle.wait(receipt.client.payer, receipt.session, run.max_queue_seconds)
            limit = (prepared or self.request).max_tokens or 0
            request = self.records.begin_attempt(target, request, limit)
            bounds = build_usage_bounds(call, size, limit, receipt.fidelity)
            watchdog.begin_upstream_call()
            bound = BoundRequest(
                run.origin,
                target.base_url,
                request,
                attempt.credential,
                server=receipt.provider,
                model=target.model,
                progress=self.records.progress,
            )
            response = await engine.transports[receipt.provider](bound)
            del request, bound  # frees the body: the wait for content can take minutes
            record = receipt.attempts[-1]
            record.status = response.status
            await self._wait_for_content(attempt, response, bounds)
            self.records.running = record
        except UpstreamError as error:
            return error
        except asyncio.CancelledError:
            if not watchdog.recover_from_idle():
                raise
            return idle_timeout_error(receipt.prefix, watchdog.upstream_limit)
        return None

    async def _count_written(self, size: int) -> None:
        """Have memory for a provider's request of `size` bytes that is much larger than the client's. Raises
        `ProxyBusy`.
        """
        incoming = self.incoming
        counted = len(incoming.body) + sum(incoming.made.values())
        if incoming.body and size > _USUAL_FACTOR * counted:
            await incoming.count_made("request", size // _WRITTEN_PARTS, may_wait=False)

    def _record_target(self, attempt: Attempt) -> None:
        """Name the target of an attempt in the receipt, and for the messages of errors."""
        self.latest = attempt
        receipt = self.incoming.receipt
        target = attempt.target
        receipt.provider = target.provider.name
        receipt.prefix = target.provider.prefix
        receipt.model = target.model
        receipt.base_url = target.base_url

    async def _authorize(self, attempt: Attempt) -> None:
        """Give the attempt an access token of its provider. It may come with the address to call."""
        target = attempt.target
        # an error of the token source names this provider
        self.incoming.receipt.provider = target.provider.name
        self.incoming.receipt.prefix = target.provider.prefix
        max_seconds = MAX_TOKEN_SECONDS if attempt.run.has_next_target else None
        attempt.credential, base_url = await self.engine.credentials.next_token_and_url(
            target.provider, target.base_url, max_seconds=max_seconds
        )
        attempt.target = structs.replace(target, base_url=base_url)

    async def _encode(self, attempt: Attempt) -> UpstreamRequest:
        """Return the request of an attempt for the provider, with what the settings add to it (`CallOptions`).

        It also completes the attempt: the proxy checks the reply against a schema that the provider does not enforce.
        """
        engine = self.engine
        target = attempt.target
        provider = target.provider
        run = attempt.run
        call = attempt.call
        request = await self.incoming.background.run_for_call(
            target.wire.encode_request, call, is_large=attempt.is_large
        )
        repair = run.repair
        if repair is not None and await PlainForms(engine, self.incoming).examine(attempt, repair, request):
            target, call = attempt.target, attempt.call
            request = await self.incoming.background.run_for_call(
                target.wire.encode_request, call, is_large=attempt.is_large
            )
        options = engine.settings.call_options.get(provider.name)
        if options is not None:
            extend = partial(extend_request, options, client_headers=self.incoming.headers, with_body=True)
            request = await self.incoming.background.run_in_thread_if_large(attempt.is_large, extend, request)
        report = self.incoming.receipt.fidelity
        is_first_call = run.continuation is None
        if request.notes:
            report.add_notes(request.notes, skip_noted_fields=not is_first_call)
        if run.adaptations is not None:
            report.add_notes(run.adaptations.notes)
        if repair is not None:
            report.add_notes(repair.notes)
        if is_first_call and report.notes:
            require_lossless(report, target)
        attempt.upstream_path = request.path
        attempt.proves = request.proves
        if isinstance(call, TranslatedCall) and len(call.request.output_schema) and not request.enforces_schema:
            schema = bytes(call.request.output_schema)
            is_large = len(schema) > _MAX_SCHEMA_BYTES_ON_LOOP
            attempt.reply_schema = await self.incoming.background.run_postponable(is_large, _read_reply_schema, schema)
        return request

    async def _wait_for_content(self, attempt: Attempt, response: UpstreamResponse, bounds: UsageBounds) -> None:
        """Open the reply in a response, and wait until it has content. A failure closes the response."""
        target = attempt.target
        call = attempt.call
        stream: UpstreamStream | RelayStream
        deltas: list[Delta] | None = None
        try:
            if (
                response.status != 200
                or response.headers.get("content-type") not in _USUAL_CONTENT_TYPES
                or "content-encoding" in response.headers
            ):
                deltas = await examine_response(
                    self.engine, self.watchdog, target, call, response, background=self.incoming.background
                )
            if isinstance(call, RelayCall):
                call = structs.replace(call, body=b"", headers={}, files={}, client=self.incoming)  # frees memory
                stream = RelayStream(
                    call,
                    response,
                    self.watchdog,
                    self.incoming.background,
                    bounds=bounds,
                    list_secrets=partial(
                        list_call_secrets, self.engine, self.incoming, attempt.credential, target.provider
                    ),
                    inner_calls=expect_inner_calls(self.incoming, attempt.run.request, call.model),
                    is_forwarded=partial(
                        _is_forwarded, attempt.credential, target.provider, self.incoming.receipt.client
                    ),
                    request_bytes=len(self.incoming.body),
                )
            else:
                stream = UpstreamStream(
                    target.wire,
                    call,
                    response,
                    self.watchdog,
                    self.incoming.background,
                    bounds=bounds,
                    report=self.incoming.receipt.fidelity,
                    reply_filter=attempt.run.reply_filter,
                    deferred_tools=attempt.deferred_tools,
                    request_bytes=len(self.incoming.body),
                )
            attempt.stream = stream
            if deltas is not None:
                attempt.decoded().set_deltas(deltas)
            else:
                try:
                    await stream.wait_for_content()
                except (UpstreamError, asyncio.CancelledError):
                    self.records.count_unread_reply(stream.unread_usage)
                    raise
                if isinstance(stream, UpstreamStream) and stream.has_thinking:
                    self._learn_template_switch(attempt)
        except BaseException:
            await response.close()
            raise
        attempt.call = call

    def _learn_template_switch(self, attempt: Attempt) -> None:
        """Remember that a model reasons although the client disabled it, if the server's template may have a switch."""
        thinking, target = attempt.run.request.thinking, attempt.target
        if thinking is None or thinking.type != "disabled" or target.capabilities.efforts:
            return
        dialect = target.dialect
        if not dialect.always_reasons and target.wire.apply_adaptation(dialect, TEMPLATE_SWITCH) != dialect:
            client = self.incoming.receipt.client.id
            self.engine.observations.store_adaptation(target.upstream, target.model, TEMPLATE_SWITCH, client)


async def examine_response(
    engine: Engine,
    watchdog: Watchdog,
    target: Target,
    call: Call[BaseDialect],
    response: UpstreamResponse,
    *,
    background: PayerWork,
) -> list[Delta] | None:
    """Raise the error of a response that is no reply.

    Return the deltas of a complete reply, such as a refusal, that has an error status. None: an ordinary reply.
    """
    require_api_response(response, target, engine.settings)
    if 200 <= response.status < 300:
        return None
    body = await read_error_body(response, watchdog)
    headers = add_missing_date(response.headers, engine.clock)
    require_no_page(response.status, headers, body, target, engine.settings)

    def decode(call: Call[BaseDialect]) -> list[Delta]:
        return decode_error_response(target, call, response.status, headers, body)

    return await background.run_for_call(decode, call, is_large=len(body) > MAX_REPLY_BYTES_ON_LOOP)


def _read_reply_schema(schema: bytes, *, may_postpone: bool = False) -> ReplySchema:
    return ReplySchema(schema, max_steps_here=_MAX_SCHEMA_STEPS_ON_LOOP if may_postpone else None)


def require_lossless(report: FidelityReport, target: Target) -> None:
    """Raise `UnsupportedFeature` if the report is one of the mode `strict` and contains losses."""
    losses = report.list_rejected_losses()
    if not losses:
        return
    listed = "; ".join(f"{note.field}: {note.reason}" for note in losses[:MAX_LISTED_LOSSES])
    more = f"; and {len(losses) - MAX_LISTED_LOSSES} more" if len(losses) > MAX_LISTED_LOSSES else ""
    raise UnsupportedFeature(
        f"{target.provider.prefix}/{target.model} would lose {listed}{more}. FIDELITY=strict rejects this. "
        "Remove it from the request, choose another backend,",
        remedy="or allow it with FIDELITY=best-effort (FIDELITY_<TIER> for one tier).",
        wish="FIDELITY=best-effort",
        code="fidelity-strict",
        should_retry=False,
    )


def has_client_key(credential: Credential | None, provider: Provider, client: Client) -> bool:
    """Return True if a call has the client's own key, or would have it if the client sent one."""
    if credential is not None:
        return credential.origin == CLIENT_CREDENTIAL_ORIGIN
    return provider.accepts_client_credential and client.credential_forwardable


def _is_forwarded(credential: Credential | None, provider: Provider, client: Client, error: UpstreamError) -> bool:
    error.has_client_key = has_client_key(credential, provider, client)
    return find_told_error(error, client) is error


def list_call_secrets(
    engine: Engine, incoming: ClientRequest, credential: Credential | None, provider: Provider
) -> list[str]:
    """Return the secrets in the headers of a call, which the provider may quote in an error."""
    secrets = [*credential.secrets] if credential is not None else []
    if (options := engine.settings.call_options.get(provider.name)) is not None:
        secrets += options.reveal_secrets()
        secrets += options.reveal_copied_secrets(incoming.headers)
    return secrets
