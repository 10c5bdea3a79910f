"""Steps 5 to 8 over the targets of a route, until the first delta: prepare, encode, send, decode."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

from msgspec import structs

from anthropic_proxy.errors import ClientError, InternalError, MissingExtra, ProxyError, UpstreamError
from anthropic_proxy.exchange.adaptation import Adaptations, apply_stored_adaptations
from anthropic_proxy.exchange.background import MAX_REPLY_BYTES_ON_LOOP
from anthropic_proxy.exchange.encoding import MAX_STEPS_ON_LOOP, decode_reply_schema, is_large, run_for_call
from anthropic_proxy.exchange.error_messages import (
    describe_attempt,
    explain_credential,
    idle_timeout_error,
    name_address,
    next_target_may_help,
    prefix_provider,
    require_api_response,
)
from anthropic_proxy.exchange.masking import redact_error, redact_secrets_in
from anthropic_proxy.exchange.media_inlining import new_media_inliner
from anthropic_proxy.exchange.not_found import explain_not_found
from anthropic_proxy.exchange.passthrough import build_relay_call, client_credential
from anthropic_proxy.exchange.relay import RelayStream, forwarded_headers
from anthropic_proxy.exchange.strict_mode import require_lossless
from anthropic_proxy.exchange.target_limits import continuation_target, target_limits
from anthropic_proxy.exchange.upstream_stream import UpstreamStream, read_error_body, with_date
from anthropic_proxy.exchange.watchdog import Watchdog
from anthropic_proxy.messages.deltas import Delta
from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.models import MessagesRequest, Tool
from anthropic_proxy.messages.preparation import ProxyTool, TargetLimits, prepare
from anthropic_proxy.messages.reply_schema import ReplySchema
from anthropic_proxy.messages.stop_sequences import StopSequenceFilter
from anthropic_proxy.messages.tokens import EstimateCache
from anthropic_proxy.plugins import Receipt
from anthropic_proxy.routing.router import Route, Target
from anthropic_proxy.services import ClientRequest, Services
from anthropic_proxy.wire.contract import Call, Credential, UpstreamRequest, UpstreamResponse, relays

MAX_RETRIES_PER_TARGET = 1
MAX_ADAPTATIONS = 2
"""Maximum number of adaptations per target, besides retries."""
RETRY_DELAY_SECONDS = 0.5
"""Delay before a retry without `retry-after`."""


class Attempts:
    """Attempts of one exchange: one after the other until a reply starts, recorded in the receipt."""

    def __init__(
        self,
        services: Services,
        incoming: ClientRequest,
        request: MessagesRequest,
        receipt: Receipt,
        watchdog: Watchdog,
    ) -> None:
        self._services = services
        self._incoming = incoming
        self._request = request
        self._receipt = receipt
        self._watchdog = watchdog
        self._large = is_large(incoming, receipt.tool_count)
        self._inliner = new_media_inliner(services, incoming)
        self._estimates = EstimateCache()
        self._adaptations: Adaptations | None = None
        """Adaptations of the current target. None: none."""
        self._credential: Credential | None = None
        """Credential of the current attempt. None: no key."""
        self._transport = "http"
        self._sent: tuple[Target, str] | None = None
        """Target and path of the latest upstream request."""
        self._replaceable = False
        """True if another target follows, so an open circuit skips this one."""
        self.relaying = False
        """True if the current attempt relays bytes."""
        self.owned: Mapping[str, ProxyTool] = {}
        """Tools that the proxy runs in the current attempt, by the name in a call."""
        self.deferred: Sequence[Tool] = ()
        """Tools that tool search can find."""
        self._continuation: str | None = None
        """None: first call of a reply. "": further call of the tool loop. Otherwise: the continuation token."""
        self._cutter: StopSequenceFilter | None = None
        """Stop sequence filter of the continued answer. None: no continuation."""
        self.reply_schema: ReplySchema | None = None
        """Schema of the reply. None: no schema, or the provider enforces it."""
        self.token_scale = 1.0
        """Factor of token estimates for the model of the current attempt."""

    async def open(self, route: Route) -> UpstreamStream | RelayStream:
        """Return the first answer with content. Raises the last failure if there is none.

        Targets that cannot accept the request are skipped. Their error is raised only if no provider was called.
        """
        failure: ProxyError | None = None
        for target in route.targets:
            self._replaceable = target is not route.targets[-1]
            try:
                return await self._try_target(target)
            except UpstreamError as error:
                failure = error
                self._receipt.failed_attempts.append(describe_attempt(target, error))
                if not next_target_may_help(error):
                    break
                error.drop_traceback()
            except (ClientError, MissingExtra) as refusal:
                failure = failure or refusal
        if failure is None:
            raise InternalError("a route has no target")
        if isinstance(failure, UpstreamError):
            self._receipt.failed_attempts.pop()
        raise failure

    def replace_request(self, request: MessagesRequest) -> None:
        """Replace the request of the client for later calls."""
        self._request = request

    async def open_next_call(
        self, answer: UpstreamStream, request: MessagesRequest, continuation: str = ""
    ) -> UpstreamStream:
        """Return the answer to the next call of a reply that has started: same target, no adaptation, one retry.

        `continuation`: token of the provider. "": a further call of the tool loop.
        """
        self._request, self._continuation, self._replaceable = request, continuation, False
        self._cutter = answer.cutter if continuation else None
        target = continuation_target(answer.target) if continuation else answer.target
        again = await self._try_target_with_retries(target, adaptations=0)
        if isinstance(again, RelayStream):
            raise InternalError("a relay was asked to go on with a reply")
        return again

    def add_note(self, note: FidelityNote) -> None:
        """Add a fidelity note to the receipt."""
        self._receipt.fidelity.add([note])

    def estimate_tokens(self, request: MessagesRequest) -> int:
        """Return the estimated input tokens of a request, scaled for the current model."""
        return round(self._estimates.get_or_count(request) * self.token_scale)

    def annotate_error(self, error: UpstreamError) -> None:
        """Add the provider name to an error and redact keys."""
        self._hide_keys_in(error)
        prefix_provider(error, self._receipt.prefix)
        if self._sent is not None:
            explain_not_found(error, *self._sent, self._services.settings)

    def _hide_keys_in(self, error: UpstreamError) -> None:
        redact_error(error, self._credential)
        secrets = [server.authorization_token for server in self._request.mcp_servers if server.authorization_token]
        if self._transport != "http":  # LiteLLM reads the keys itself; the proxy cannot know which one was sent
            secrets += [key.reveal() for key in self._services.settings.other_secrets]
        redact_secrets_in(error, secrets)

    async def _try_target(self, target: Target) -> UpstreamStream | RelayStream:
        self.relaying = relays(target.wire)
        if self._services.catalogue.has_source(target.provider.name):
            facts = await self._services.catalogue.fetch(target.provider.name, target.model)
            target = structs.replace(target, facts=facts)
        target = await self._with_observations(target)
        self._adaptations = None
        return await self._try_target_with_retries(target, MAX_ADAPTATIONS)

    async def _try_target_with_retries(self, target: Target, adaptations: int) -> UpstreamStream | RelayStream:
        """Return the first answer of this target with content, after adaptations, other keys and retries."""
        pool = self._services.credentials
        retries, key_rotations = MAX_RETRIES_PER_TARGET, pool.key_count(target.provider)
        self._services.retry_budget.deposit(target.upstream)
        while True:
            forwarded = client_credential(self._services, self._incoming, target.provider)
            credential = forwarded or pool.next_credential(target.provider)
            self._credential, self._transport = credential, target.provider.transport
            call = self._relay_call(target) if self.relaying else await self._prepare_call(target)
            try:
                if target.provider.key_source != "settings":
                    self._receipt.provider, self._receipt.prefix = target.provider.name, target.provider.prefix
                    credential, base_url = await pool.next_token(target.provider, target.base_url)
                    target = structs.replace(target, base_url=base_url)
                    self._credential = credential
                return await self._attempt(target, call, credential)
            except UpstreamError as error:
                self._watchdog.end_call()
                self._hide_keys_in(error)
                explain_credential(error, target, credential)
                if adaptations and (adapted := await self._adapt(target, call, error)):
                    target, adaptations = adapted, adaptations - 1
                elif key_rotations and pool.rotate(target.provider, credential, error):
                    key_rotations -= 1
                    self._receipt.failed_attempts.append(describe_attempt(target, error))
                    if key := pool.describe(target.provider, credential):
                        self._services.log.write_once(f"{key} rests, because of: {error.message}")
                elif retries and self._may_retry(target, error):
                    retries -= 1
                    self._receipt.failed_attempts.append(describe_attempt(target, error))
                    await self._services.sleep(error.retry_after or RETRY_DELAY_SECONDS)
                else:
                    raise
                error.drop_traceback()

    def _may_retry(self, target: Target, error: UpstreamError) -> bool:
        """Return True to retry after a delay. A delay above the first byte timeout is left to the client."""
        delay = error.retry_after or RETRY_DELAY_SECONDS
        if not error.retryable or delay > self._services.settings.timeouts.first_byte:
            return False
        return self._services.retry_budget.try_withdraw(target.upstream)

    async def _with_observations(self, target: Target) -> Target:
        """Return the target with the stored adaptations; set the token token_scale of its model."""
        self.token_scale = await self._services.observations.token_scale(target.provider.name, target.model)
        return await apply_stored_adaptations(self._services, target)

    async def _adapt(self, target: Target, call: Call, error: UpstreamError) -> Target | None:
        """Return the adapted target for a retry. None: no adaptation matches the error."""
        self._adaptations = self._adaptations or Adaptations(self._services)
        if (adapted := await self._adaptations.find(target, call, error)) is not None:
            self._receipt.failed_attempts.append(describe_attempt(target, error))
        return adapted

    async def _attempt(self, target: Target, call: Call, credential: Credential | None) -> UpstreamStream | RelayStream:
        upstream_request = await self._encode(target, call)
        self._receipt.provider, self._receipt.prefix = target.provider.name, target.provider.prefix
        self._receipt.model = target.model
        self._sent = target, upstream_request.path
        breakers, upstream = self._services.circuit_breakers, target.upstream
        if self._replaceable:
            breakers.acquire(upstream)
        sending = self._send(target, call, upstream_request, credential)
        del upstream_request  # the transport releases it after sending; a reply can take minutes
        try:
            answer = await sending
        except UpstreamError as error:
            breakers.failed(upstream, error)
            name_address(error, target)
            raise
        except BaseException:
            breakers.cancelled(upstream)
            raise
        breakers.succeeded(upstream)
        if self._adaptations is not None:
            await self._adaptations.remember(target)
        return answer

    async def _encode(self, target: Target, call: Call) -> UpstreamRequest:
        """Encode the request and record losses. Raises `UnsupportedFeature` in fidelity mode strict."""
        upstream_request = await run_for_call(self._services, target.wire.encode_request, call, large=self._large)
        report, is_first = self._receipt.fidelity, self._continuation is None
        report.add(upstream_request.notes, again=not is_first)
        if self._adaptations is not None:
            report.add(self._adaptations.notes)
        if is_first:
            require_lossless(report, target)
        checked = b"" if upstream_request.enforces_schema else call.request.output_schema
        self.reply_schema = await decode_reply_schema(self._services, bytes(checked)) if checked else None
        return upstream_request

    async def _send(
        self, target: Target, call: Call, upstream_request: UpstreamRequest, credential: Credential | None
    ) -> UpstreamStream | RelayStream:
        self._watchdog.begin_call()
        try:
            send = self._services.transports[target.provider.transport]
            response = await send(target.base_url, upstream_request, credential)
            del upstream_request
            try:
                return await self._open_answer(target, call, response)
            except BaseException:
                await response.close()
                raise
        except asyncio.CancelledError:
            if not self._watchdog.recover_from_idle():
                raise
            raise idle_timeout_error(target.provider.prefix, self._watchdog.upstream_limit) from None

    async def _open_answer(
        self, target: Target, call: Call, response: UpstreamResponse
    ) -> UpstreamStream | RelayStream:
        require_api_response(response, target)
        answer: UpstreamStream | RelayStream
        if relays(target.wire):
            sent = structs.replace(call, raw=b"")  # already sent; the stream must not retain it
            answer = RelayStream(target.wire, target, sent, response, self._watchdog, credential=self._credential)
        else:
            background, report, cutter = self._services.background, self._receipt.fidelity, self._cutter
            answer = UpstreamStream(target, call, response, self._watchdog, background, report=report, cutter=cutter)
        if 200 <= response.status < 300:
            await answer.open()
            return answer
        deltas = await self._read_error(target, call, response)
        if isinstance(answer, RelayStream):
            raise InternalError("a relayed error was taken for a reply")
        answer.set_deltas(deltas)
        return answer

    async def _prepare_call(self, target: Target) -> Call:
        if self._request.decode_error is not None:
            raise self._request.decode_error
        request, limits, inliner = self._request, self.limits(target), self._inliner
        if inliner is not None:
            request = await inliner.inline(request, target, limits)
        inputs = request, limits, self.estimate_tokens
        prepared = await self._services.background.run(prepare, *inputs) if self._large else prepare(*inputs)
        self.owned, self.deferred = prepared.proxy_tools, prepared.deferred
        if self._continuation is None:
            self._receipt.fidelity.reset()
        self._receipt.fidelity.add(prepared.notes, again=self._continuation is not None)
        if inliner is not None:
            self._receipt.fidelity.add(inliner.notes)
        return Call(
            request=prepared.request,
            model=target.model,
            requested_model=request.model,
            dialect=target.dialect,
            stream=request.stream or bool(prepared.request.stop_sequences) or target.dialect.always_stream,
            aliases=prepared.aliases,
            continuation=self._continuation or "",
            new_id=self._services.new_id,
            provider=target.provider.prefix,
            address=target.base_url,
            window=limits.window,
            max_input=limits.max_input,
            estimate=partial(self.estimate_tokens, request),
            max_steps_here=MAX_STEPS_ON_LOOP,
        )

    def limits(self, target: Target) -> TargetLimits:
        """Return the limits of a target for `prepare`."""
        services = self._services
        searches, fetches = services.web_search is not None, services.web_fetch is not None
        return target_limits(target, must_fit=services.settings.check_window, searches=searches, fetches=fetches)

    def _relay_call(self, target: Target) -> Call:
        self._receipt.fidelity.reset()
        return build_relay_call(self._incoming, self._request, target, self._services.new_id)

    async def _read_error(self, target: Target, call: Call, response: UpstreamResponse) -> list[Delta]:
        body = await read_error_body(response, self._watchdog)
        headers, large = with_date(response.headers, self._services.clock), len(body) > MAX_REPLY_BYTES_ON_LOOP
        decode, background = target.wire.decode_error, self._services.background
        outcome = await background.run_if(large, decode, call, response.status, headers, body)
        if isinstance(outcome, UpstreamError) and self.relaying:
            outcome.headers = forwarded_headers(response.headers)
        if isinstance(outcome, ProxyError):
            raise outcome
        if isinstance(outcome, list):
            return outcome
        raise InternalError(f"a wire gave {outcome!r} for an error answer")
