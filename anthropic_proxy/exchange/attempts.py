"""Steps 5 to 8 over the targets of a route, until the first delta: prepare, encode, send, decode."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from functools import partial

from msgspec import structs

from anthropic_proxy.errors import ClientError, InternalError, ProxyError, UpstreamError
from anthropic_proxy.exchange.answer import Answer, read_whole
from anthropic_proxy.exchange.blame import (
    describe_outcome,
    expect_api,
    name_provider,
    next_target_may_help,
    say_provider,
    silence_of,
)
from anthropic_proxy.exchange.fidelity import expect_no_loss
from anthropic_proxy.exchange.healing import find_healed, with_learned
from anthropic_proxy.exchange.house import House, Inbound
from anthropic_proxy.exchange.limits import limits_of
from anthropic_proxy.exchange.links import find_links
from anthropic_proxy.exchange.masking import hide_key_in
from anthropic_proxy.exchange.passing import lent_credential, relay_call
from anthropic_proxy.exchange.relay import RelayedAnswer, passed_headers
from anthropic_proxy.exchange.watch import Watch
from anthropic_proxy.hooks import Receipt
from anthropic_proxy.messages.conformity import Shape
from anthropic_proxy.messages.deltas import Delta
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.prepare import Limits, OwnedTool, prepare
from anthropic_proxy.messages.stops import StopCutter
from anthropic_proxy.messages.tokens import Estimates
from anthropic_proxy.messages.types import MessagesRequest, Tool
from anthropic_proxy.routing.router import Route, Target
from anthropic_proxy.wire.contract import Call, Credential, UpstreamRequest, UpstreamResponse, relays

REPEATS_PER_TARGET = 1
MOST_HEALINGS = 2
"""Refusals of a parameter that one request may learn from, beside its repeat."""
REPEAT_SECONDS = 0.5
"""Pause before the repeat where the provider did not say how long."""


class Attempts:
    """Makes one attempt after the other while nothing was delivered, and remembers what was tried."""

    def __init__(
        self, house: House, inbound: Inbound, request: MessagesRequest, receipt: Receipt, watch: Watch
    ) -> None:
        self._house = house
        self._inbound = inbound
        self._request = request
        self._receipt = receipt
        self._watch = watch
        self._links = find_links(house, inbound, watch)
        self._estimates = Estimates()
        self._lessons: list[Note] = []
        """What refusals of the target under way taught in the course of this request."""
        self._credential: Credential | None = None
        """What the attempt under way proves itself with."""
        self._way = "http"
        self._replaceable = False
        """Whether another target follows, so that this one can be left alone."""
        self.relaying = False
        """Whether the attempt under way passes bytes as they come."""
        self.owned: Mapping[str, OwnedTool] = {}
        """Tools that the proxy runs for the attempt under way, by the name that a call bears."""
        self.deferred: Sequence[Tool] = ()
        """Tools that its search of tools looks through."""
        self._continuation: str | None = None
        """What the attempt goes on with; None: it begins a reply, "": it asks the model anew within one."""
        self._cutter: StopCutter | None = None
        """Looks for stop sequences in a text that goes on from the answer before; None: the text begins anew."""
        self.shape: Shape | None = None
        """What the reply to the attempt under way must be; None: anything, or its provider sees to it."""
        self.scale = 1.0
        """What the estimate of a request is multiplied with, for the model of the attempt under way."""

    async def open(self, route: Route) -> Answer | RelayedAnswer:
        """Return the first answer that delivers; raises the last failure if none does.

        A target that this request cannot even be said to (it has no key, or no relay could read the request) is
        passed over; its refusal counts only where no provider was asked.
        """
        failure: ProxyError | None = None
        for target in route.targets:
            self._replaceable = target is not route.targets[-1]
            try:
                return await self._try_target(target)
            except UpstreamError as error:
                failure = error
                self._receipt.tried.append(describe_outcome(target, error))
                if not next_target_may_help(error):
                    break
                error.let_go()
            except ClientError as refusal:
                failure = failure or refusal
        if failure is None:
            raise InternalError("a route has no target")
        if isinstance(failure, UpstreamError):
            self._receipt.tried.pop()
        raise failure

    def take(self, request: MessagesRequest) -> None:
        """Ask this from now on, in place of what the client wrote."""
        self._request = request

    async def open_again(self, answer: Answer, request: MessagesRequest, continuation: str = "") -> Answer:
        """Return the answer to the next call of the same reply, at the target of the last.

        `continuation` is what the provider gave to have the same request go on. Part of the reply has left, so nothing
        is healed and nobody else is asked; what may succeed is repeated once.
        """
        self._request, self._continuation, self._replaceable = request, continuation, False
        self._cutter = answer.cutter if continuation else None
        target = _where_it_continues(answer.target) if continuation else answer.target
        again = await self._try_until_it_stands(target, healings=0)
        if isinstance(again, RelayedAnswer):
            raise InternalError("a relay was asked to go on with a reply")
        return again

    def note(self, note: Note) -> None:
        """Take down what became of the request while it was answered."""
        self._receipt.fidelity.add([note])

    def count(self, request: MessagesRequest) -> int:
        """Return the input of a request in tokens, as the model of the attempt under way is likely to count them."""
        return round(self._estimates.find(request) * self.scale)

    def explain(self, error: UpstreamError) -> None:
        """Make an error of the attempt under way fit to be told: it says who failed, and no key."""
        self._hide_keys_in(error)
        say_provider(error, self._receipt.provider)

    def _hide_keys_in(self, error: UpstreamError) -> None:
        hide_key_in(error, self._credential)
        if self._way != "http":  # an engine finds the keys itself, so nobody knows which it used
            for key in self._house.settings.foreign_keys:
                hide_key_in(error, Credential("", key.reveal()))
        for server in self._request.mcp_servers:
            if server.authorization_token:
                hide_key_in(error, Credential("", server.authorization_token))

    async def _try_target(self, target: Target) -> Answer | RelayedAnswer:
        self.relaying = relays(target.wire)
        if self._house.catalogue.asks(target.provider.name):
            facts = await self._house.catalogue.learn(target.provider.name, target.model)
            target = structs.replace(target, facts=facts)
        target = await self._with_learned(target)
        self._lessons.clear()
        return await self._try_until_it_stands(target, MOST_HEALINGS)

    async def _try_until_it_stands(self, target: Target, healings: int) -> Answer | RelayedAnswer:
        """Return the first answer of this target that delivers, after all that may help was tried."""
        pool = self._house.credentials
        repeats, turns = REPEATS_PER_TARGET, pool.turns(target.provider)
        self._house.budget.earn(target.upstream)
        while True:
            credential = lent_credential(self._house, self._inbound, target.provider) or pool.find(target.provider)
            self._credential, self._way = credential, target.provider.way
            call = self._relay_call(target) if self.relaying else await self._prepare_call(target)
            try:
                if target.provider.key_source != "settings":
                    self._receipt.provider = target.provider.name  # who is silent if no token comes
                    credential, base_url = await pool.find_token(target.provider, target.base_url)
                    target = structs.replace(target, base_url=base_url)
                    self._credential = credential
                return await self._attempt(target, call, credential)
            except UpstreamError as error:
                self._hide_keys_in(error)
                name_provider(error, target, credential)
                if healings and (healed := await self._heal(target, call, error)):
                    target, healings = healed, healings - 1
                elif turns and pool.turn(target.provider, credential, error):
                    turns -= 1
                    self._receipt.tried.append(describe_outcome(target, error))
                    if key := pool.describe(target.provider, credential):
                        self._house.log.once(f"{key} rests, because of: {error.message}")
                elif error.retryable and repeats and self._house.budget.spend(target.upstream):
                    repeats -= 1
                    self._receipt.tried.append(describe_outcome(target, error))
                    await self._house.pause(error.retry_after or REPEAT_SECONDS)
                else:
                    raise
                error.let_go()

    async def _with_learned(self, target: Target) -> Target:
        """Return the target with what earlier replies taught about its model."""
        self.scale = await self._house.learned.find_scale(target.provider.name, target.model)
        return await with_learned(self._house, target)

    async def _heal(self, target: Target, call: Call, error: UpstreamError) -> Target | None:
        """Return the target as it can be tried again after a refusal of one parameter; None where that stands."""
        if (found := await find_healed(self._house, target, call, error)) is None:
            return None
        healed, lesson = found
        self._lessons.append(lesson)
        self._receipt.tried.append(describe_outcome(target, error))
        return healed

    async def _attempt(self, target: Target, call: Call, credential: Credential | None) -> Answer | RelayedAnswer:
        upstream_request = self._encode(target, call)
        self._receipt.provider, self._receipt.model = target.provider.name, target.model
        breakers = self._house.breakers
        if self._replaceable:
            breakers.admit(target.upstream)
        sending = self._send(target, call, upstream_request, credential)
        del upstream_request  # whoever sends it lets go of it, long before the model has thought
        try:
            answer = await sending
        except UpstreamError as error:
            breakers.failed(target.upstream, error)
            raise
        except BaseException:
            breakers.abandoned(target.upstream)
            raise
        breakers.succeeded(target.upstream)
        return answer

    def _encode(self, target: Target, call: Call) -> UpstreamRequest:
        """Say the request in the target's language; notes what is lost, and raises where that must not be."""
        upstream_request = target.wire.encode_request(call)
        report, begins = self._receipt.fidelity, self._continuation is None
        report.add(upstream_request.notes, again=not begins)
        report.add(self._lessons)
        if begins:
            expect_no_loss(report, target)
        schema = bytes(call.request.output_schema)
        self.shape = Shape(schema) if schema and not upstream_request.keeps_schema else None
        return upstream_request

    async def _send(
        self, target: Target, call: Call, upstream_request: UpstreamRequest, credential: Credential | None
    ) -> Answer | RelayedAnswer:
        self._watch.call_sent()
        try:
            response = await self._house.ways[target.provider.way](target.base_url, upstream_request, credential)
            del upstream_request
            try:
                return await self._open_answer(target, call, response)
            except BaseException:
                await response.close()
                raise
        except asyncio.CancelledError:
            if not self._watch.forgive_silence():
                raise
            raise silence_of(target.provider.name, self._watch.upstream_limit) from None

    async def _open_answer(self, target: Target, call: Call, response: UpstreamResponse) -> Answer | RelayedAnswer:
        expect_api(response, target)
        answer: Answer | RelayedAnswer
        if relays(target.wire):
            watch, credential = self._watch, self._credential
            sent = structs.replace(call, raw=b"")  # it was; a stream need not hold it
            answer = RelayedAnswer(target.wire, target, sent, response, watch, credential=credential)
        else:
            report = self._receipt.fidelity
            answer = Answer(target, call, response, self._watch, report=report, cutter=self._cutter)
        if 200 <= response.status < 300:
            await answer.open()
            return answer
        deltas = await self._read_error(target, call, response)
        if isinstance(answer, RelayedAnswer):
            raise InternalError("a relayed error was taken for a reply")
        answer.keep(deltas)
        return answer

    async def _prepare_call(self, target: Target) -> Call:
        if self._request.refusal is not None:
            raise self._request.refusal
        request, limits, links = self._request, self.limits(target), self._links
        if links is not None:
            request = await links.put_into(request, target, limits)
        prepared = prepare(request, limits, self.count)
        self.owned, self.deferred = prepared.owned, prepared.deferred
        if self._continuation is None:
            self._receipt.fidelity.begin()
        self._receipt.fidelity.add(prepared.notes, again=self._continuation is not None)
        if links is not None:
            self._receipt.fidelity.add(links.notes)
        return Call(
            request=prepared.request,
            model=target.model,
            asked_model=request.model,
            dialect=target.dialect,
            stream=request.stream or bool(prepared.request.stop_sequences) or target.dialect.streams_always,
            aliases=prepared.aliases,
            continuation=self._continuation or "",
            new_id=self._house.new_id,
            provider=target.provider.name,
            window=target.facts.window if target.facts.known else None,
            max_input=target.facts.max_input if target.facts.known else None,
            estimate=partial(self.count, request),
        )

    def limits(self, target: Target) -> Limits:
        """Return what `prepare` must know of a target, as this house is set up."""
        house = self._house
        searches, fetches = house.search is not None, house.fetch is not None
        return limits_of(target, must_fit=house.settings.check_window, searches=searches, fetches=fetches)

    def _relay_call(self, target: Target) -> Call:
        self._receipt.fidelity.begin()
        return relay_call(self._inbound, self._request, target, self._house.new_id)

    async def _read_error(self, target: Target, call: Call, response: UpstreamResponse) -> list[Delta]:
        try:
            body = await read_whole(response, self._watch)
        except UpstreamError:
            body = b""  # the status alone says enough
        except asyncio.CancelledError:
            if not self._watch.forgive_silence():
                raise
            body = b""
        headers = _dated(response.headers, self._house.clock)
        outcome = target.wire.decode_error(call, response.status, headers, body)
        if isinstance(outcome, UpstreamError) and self.relaying:
            outcome.headers = passed_headers(response.headers)
        if isinstance(outcome, ProxyError):
            raise outcome
        if isinstance(outcome, list):
            return outcome
        raise InternalError(f"a wire gave {outcome!r} for an error answer")


def _where_it_continues(target: Target) -> Target:
    """Return the target at the version of its API that goes on with a reply."""
    version = getattr(target.dialect, "continuation_version", "")
    if not version:
        return target
    base_url = target.base_url.replace(f"{target.provider.url_version}/", f"{version}/", 1)
    return structs.replace(target, base_url=base_url)


def _dated(headers: Mapping[str, str], clock: Callable[[], float]) -> Mapping[str, str]:
    """Return the headers of an answer with the time of its arrival, where it does not say its own (RFC 9110, 6.6.1)."""
    if "date" in headers:
        return headers
    return {"date": formatdate(clock(), usegmt=True)} | {name.lower(): value for name, value in headers.items()}
