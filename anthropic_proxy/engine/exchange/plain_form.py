"""`PlainForms`: the repair of requests that a server refuses for a reason that the proxy does not know.

The refused request is repeated once without its parts that may be left out (`Wire.parts`), whatever the words of
the refusal are. If the server accepts that, the conversation keeps this form, because its cached prompt depends on it,
and the first requests of later conversations search for the refused part (`part_search.py`). If the server refuses
again, the client gets the first error. Decision 0016 has the rules.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from msgspec import Struct, structs

from anthropic_proxy.engine.background import is_large_request
from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.attempt import Attempt, Repair
from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import Message, MessagesRequest, decode_request_or_envelope
from anthropic_proxy.engine.providers.model_observations import digest_beginning
from anthropic_proxy.engine.providers.part_search import begin_search
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.engine.wires.calls import Call
from anthropic_proxy.engine.wires.contract import Wire, changes_body
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.errors import CircuitOpen, UnreadableReply, UpstreamError

REFUSAL_STATUSES = (400, 422)
"""HTTP statuses of a request that the server does not accept as it is."""
MAX_REFUSAL_SECONDS = 5.0
"""A server that refuses the form of a request does so before the model begins. A later error has another reason."""
_SHARE_OF_CLIENT, _SHARE_OF_MODEL = 0.4, 0.2
"""What a repetition costs of the budget of a client without a key, which is that of two and a half sessions, and of the
model's, which is that of five clients."""
MAX_FORM_CHANGES = 2
"""How often a conversation changes its form, because each change costs its cached prompt."""


class PlainForms(Struct, eq=False):
    """The repairs of one client request."""

    engine: Engine
    incoming: ClientRequest

    async def apply_known(self, target: Target, request: MessagesRequest) -> tuple[Target, Repair]:
        """Return `target` without the parts that its conversation, or a search, leaves out."""
        observations = self.engine.observations
        messages = await self._read_messages(request)
        repair = Repair(self._name_conversation(target, messages))
        if self.incoming.receipt.fidelity.mode == "strict":
            return target, repair  # it loses nothing because of what is only suspected
        if (form := observations.find_form(repair.conversation)) is not None:
            repair.left_out, repair.changes = form
        elif messages and all(message.role != "assistant" for message in messages):
            repair.search = observations.find_part_search(target.upstream, target.model, self._learner)
            repair.left_out = () if repair.search is None else repair.search.left_out
        self.incoming.receipt.adaptations += repair.left_out
        return _leave_out(target, repair.left_out), repair

    async def find_plain_target(self, attempt: Attempt, error: UpstreamError) -> Target | None:
        """Return a copy of the target for the repetition of a refused request. None: it is not repeated."""
        run, target = attempt.run, attempt.target
        if not target.dialect.repairs_unknown_refusals or not self._is_refusal(error):
            return None
        repair = run.repair or Repair(self._name_conversation(target, await self._read_messages(run.request)))
        if repair.refusal is not None or repair.changes >= MAX_FORM_CHANGES:
            return None
        budget, costs = self.engine.repair_budget, self._list_costs(target)
        if not budget.allows(costs):  # before the parts are listed, which encodes the request several times
            return None
        sent = await self._list_parts(attempt)
        tested = () if repair.search is None else repair.search.tested
        # a repetition that differs in the tested parts alone shows that the server refuses one of them
        repair.repetition = tuple(name for name in sent if name in tested) or sent
        if not repair.repetition or not budget.try_spend_all(costs):
            return None
        repair.refusal = error
        run.repair = repair
        receipt = self.incoming.receipt
        receipt.adaptations += repair.repetition
        names = ", ".join(repair.repetition)
        prefix = target.provider.prefix
        why = f"left out after {prefix} had refused the request"
        repair.notes = [FidelityNote("kept", name, why) for name in repair.repetition]  # the encoder notes any loss
        self.engine.log.write_once(
            f"{prefix}/{target.model}: sent again in a plainer form ({names}), because of: {error.message}"
        )
        return _leave_out(target, repair.repetition)

    async def list_tested_parts(self, attempt: Attempt, repair: Repair) -> None:
        """Note which parts a request has, before it is sent, if it serves a search."""
        if repair.search is not None and not repair.sent:
            repair.sent = await self._list_parts(attempt)

    def record_acceptance(self, target: Target, repair: Repair) -> None:
        """Store what the acceptance of a request shows about its parts."""
        observations = self.engine.observations
        upstream, model, client = target.upstream, target.model, self.incoming.receipt.client.id
        before = search = observations.find_part_search(upstream, model, self._learner)
        if repair.refusal is not None and search is None:
            content = {part.name for part in target.wire.parts if part.is_content}
            suspects = [name for name in repair.repetition if name not in content]
            search = begin_search(suspects, repair.conversation) if suspects else None
        elif search is not None and repair.refusal is not None and repair.search is not None:
            search = search.record_refusal(repair.repetition, repair.conversation)
        elif search is not None and repair.search is not None:
            search = search.record_acceptance(repair.sent)
        if search is not None and (proven := search.proven):
            observations.store_adaptation(upstream, model, proven, client)
            search = search.record_acceptance((proven,))
        if search != before or repair.refusal is not None:
            observations.store_part_search(upstream, model, client, self._learner, search)
        if left_out := (*repair.left_out, *repair.repetition):
            changes = repair.changes + (repair.refusal is not None)
            observations.store_form(repair.conversation, left_out, changes)

    async def _list_parts(self, attempt: Attempt) -> tuple[str, ...]:
        is_strict = self.incoming.receipt.fidelity.mode == "strict"
        list_parts = partial(_list_sent_parts, attempt.target.wire, lossless_only=is_strict)
        return await self.engine.background.run_for_call(list_parts, attempt.call, is_large=attempt.is_large)

    def _is_refusal(self, error: UpstreamError) -> bool:
        """Return True if a server has refused the form of a request, as far as its status and codes say."""
        is_unknown_model = error.status == 404  # by its text
        if error.stated_status not in REFUSAL_STATUSES or is_unknown_model:
            return False
        if isinstance(error, UnreadableReply | CircuitOpen):
            return False
        last = self.incoming.receipt.attempts[-1]
        has_usage = last.all_input_tokens or last.output_tokens
        is_too_long = error.cause is not None and error.cause.kind != "images"
        return last.duration_seconds <= MAX_REFUSAL_SECONDS and not has_usage and not is_too_long

    def _list_costs(self, target: Target) -> Mapping[str, float]:
        """Return the accounts that pay for a repetition: no client uses up that of the model alone, and no session of a
        client without a key that of the client.
        """
        client = {f"client {self.incoming.receipt.client.id}": _SHARE_OF_CLIENT}
        model = {f"model {target.upstream}/{target.model}": _SHARE_OF_MODEL}
        return {**client, **model, f"client {self._learner}": 1.0}

    @property
    def _session(self) -> str:
        """Conversation to which the request belongs. "": none."""
        return "" if self.incoming.cache_session else self.incoming.receipt.session

    @property
    def _learner(self) -> str:
        """Whose requests decide what is known about a model: the client, or without keys its session."""
        client = self.incoming.receipt.client
        return client.scope_session(self._session) if client.credential_forwardable else client.id

    async def _read_messages(self, request: MessagesRequest) -> Sequence[Message]:
        """Return the messages of a request, of which a relay may know only the other fields. Empty: it is invalid."""
        if request.messages:
            return request.messages
        body, background = self.incoming.body, self.engine.background
        is_large = is_large_request(body)
        return (await background.run_in_thread_if_large(is_large, decode_request_or_envelope, body)).messages

    def _name_conversation(self, target: Target, messages: Sequence[Message]) -> str:
        receipt = self.incoming.receipt
        scope = receipt.client.scope_session(self._session) or receipt.client.id
        return digest_beginning(f"{scope} {receipt.agent} {target.prefixed_id}", messages)


def _list_sent_parts(wire: Wire[BaseDialect, Any], call: Call[BaseDialect], *, lossless_only: bool) -> tuple[str, ...]:
    """Return the names of the parts of its wire that a request has: without each, another request would be sent.

    Those behind the beginning of the prompt come first.
    """
    sent = wire.encode_request(call).body
    parts = [part for part in wire.parts if part.is_lossless or not lossless_only]
    parts.sort(key=attrgetter("changes_prefix"))
    plainer = ((part.name, wire.apply_adaptation(call.dialect, part.name)) for part in parts)
    return tuple(
        name
        for name, dialect in plainer
        if dialect != call.dialect and changes_body(call, dialect, wire.encode_request, sent)
    )


def _leave_out(target: Target, names: tuple[str, ...]) -> Target:
    dialect = target.dialect
    for name in names:
        dialect = target.wire.apply_adaptation(dialect, name)
    return structs.replace(target, dialect=dialect)
