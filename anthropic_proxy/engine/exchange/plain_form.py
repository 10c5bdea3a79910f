"""`PlainForms`: the repair of requests that a server refuses for a reason that the proxy does not know.

The refused request is repeated once without its parts that may be left out (`Wire.parts`), whatever the words of
the refusal are. If the server accepts that, the conversation keeps this form, because its cached prompt depends on it,
and the first requests of later conversations search for the refused part (`part_search.py`). If the server refuses
again, the client gets the first error. Decision 0016 has the rules.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.adaptation import name_conversation
from anthropic_proxy.engine.exchange.attempt import Attempt, Repair
from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.hooks import PLAIN_FORM
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import MessagesRequest
from anthropic_proxy.engine.providers.model_observations import CONVERSATION_SECONDS, digest_first_reply
from anthropic_proxy.engine.providers.part_search import PartSearch
from anthropic_proxy.engine.providers.refused_parts import RefusedParts
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.engine.wires.calls import Call
from anthropic_proxy.engine.wires.contract import Wire
from anthropic_proxy.engine.wires.dialect import BaseDialect, RequestPart
from anthropic_proxy.engine.wires.past_media import OMIT_PAST_MEDIA
from anthropic_proxy.engine.wires.purposes import CHECK_PURPOSES
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import CircuitOpen, UnreadableReply, UpstreamError

REFUSAL_STATUSES = (400, 422)
"""HTTP statuses of a request that the server does not accept as it is."""
MEDIA_STATUSES = (413, 415)
"""HTTP statuses of a request whose media are too large, or of a kind that the server does not accept."""
_CHECKS = (*CHECK_PURPOSES, "image_description", "classifier")
"""Purposes and kinds of requests from whose content nothing is left out, because it is judged or described."""
FAILURE_STATUS = 500
"""HTTP status with which some servers refuse a request. If the server has just accepted another one for the model, the
retry of today is made in the plain form."""
MAX_SECONDS_SINCE_ACCEPTANCE = 60.0
"""A server that has accepted another request for the model works, if that began at most this long before."""
MAX_REFUSAL_SECONDS = 5.0
"""A server that refuses the form of a request does so before the model begins. A later error has another reason."""
MAX_LOGGED_WORDS = 200
"""Characters of an error that the log shows: it may quote the request."""
_SHARE_OF_CLIENT, _SHARE_OF_MODEL = 0.4, 0.2
"""What a repetition costs of the budget of a client without a key, which is that of two and a half sessions, and of the
model's, which is that of five clients."""
MAX_FORM_CHANGES = 2
"""How often a conversation changes its form, because each change costs its cached prompt."""


class PlainForms(Struct, eq=False):
    """The repairs of one client request."""

    engine: Engine
    incoming: ClientRequest

    async def apply_known(self, target: Target, request: MessagesRequest) -> tuple[Target, Repair | None]:
        """Return `target` without the parts that its conversation, a search, or what is known leaves out."""
        known = self._find_known(target)
        if not known.exist:
            return target, None
        repair = await self._begin_repair(target, request, known)
        usable = {part.name for part in self._list_usable(repair)}  # nothing is lost because of what is only suspected
        names = [part.name for part in repair.parts if part.name in usable and not part.is_content]
        refused = dict(known.find_refused(names, repair.values, is_first=repair.is_first))
        suspects: tuple[str, ...] = ()
        if (form := self._find_form(repair)) is not None:
            suspects, repair.changes = form
        elif repair.is_first:
            suspects = self._begin_step(known, repair, refused, usable)
        alone = (name for name, needs in refused.items() if not needs)
        repair.left_out = tuple(dict.fromkeys((*(name for name in suspects if name in usable), *alone)))
        pairs = {name: needs for name, needs in refused.items() if needs and name not in repair.left_out}
        if repair.is_first:
            repair.pairs = pairs
        # in a running conversation, a part of a pair is sent for want of the other one, which shows nothing
        lacking = {*repair.left_out, *(() if repair.is_first else pairs)}
        others = [part.name for part in repair.parts if part.name not in lacking]
        self._note_reasons(target, repair, suspects)
        repair.watched = None if repair.search is not None else known.list_watched(others, repair.values)
        self._show_left_out(repair, repair.left_out)
        if repair.search is not None and repair.search.partners:
            others = [name for name in repair.left_out if name not in repair.search.partners]
            repair.with_partners = _leave_out(target, others).dialect
        return _leave_out(target, repair.left_out), repair

    @staticmethod
    def _note_reasons(target: Target, repair: Repair, suspects: Collection[str]) -> None:
        """Note why a call leaves parts out. `suspects`: those that its conversation or a search leaves out."""
        prefix = target.provider.prefix
        known = f"left out because {prefix} has refused earlier requests with it"
        suspected = "left out because the conversation was refused with it, or with another part that it lacks now"
        if repair.search is not None:
            suspected = f"left out of this conversation to find out which part {prefix} refuses"
        repair.notes = [
            FidelityNote("kept", part.title, suspected if part.name in suspects else known)
            for part in repair.parts
            if part.name in repair.left_out
        ]

    def _list_usable(self, repair: Repair) -> list[RequestPart]:
        """Return the parts that the fidelity mode allows to leave out."""
        return [part for part in repair.parts if part.is_lossless or not self._is_strict]

    def _begin_step(
        self, known: RefusedParts, repair: Repair, refused: dict[str, tuple[str, ...]], usable: Collection[str]
    ) -> tuple[str, ...]:
        """Let the first request of a conversation take part in a search, or test a known part. Return the suspects that
        it leaves out, and remove from `refused` what it sends for this.
        """
        search = known.find_search()
        if search is not None and (not self._is_strict or {*search.parts} <= {*usable}):
            repair.search = search
            # without those that they need: an accepted request differs in the tested parts only
            for name in search.tested:
                refused.pop(name, None)
            return search.left_out
        if search is None and (test := known.begin_test(refused)):
            del refused[test]
        return ()

    def _find_form(self, repair: Repair) -> tuple[tuple[str, ...], int] | None:
        """Return the form of a conversation, which is that of its first request if there was no other one yet."""
        find_form = self.engine.observations.find_form
        return find_form(repair.conversation) or (None if repair.is_first else find_form(repair.beginning))

    def _store_form(self, repair: Repair) -> None:
        """Store the form of an accepted request. The same first request, sent again, renews nothing."""
        observations, left_out = self.engine.observations, (*repair.left_out, *repair.repetition)
        changes = repair.changes + (repair.refusal is not None)
        if repair.is_first and (left_out or observations.find_form(repair.beginning)):
            observations.store_form(repair.beginning, left_out, changes)
        if left_out:
            observations.store_form(repair.conversation, left_out, changes, renews=not repair.is_first)

    async def find_plain_target(self, attempt: Attempt, error: UpstreamError) -> Target | None:
        """Return a copy of the target for the repetition of a refused request. None: it is not repeated."""
        run, target = attempt.run, attempt.target
        if not target.dialect.repairs_unknown_refusals or not self._is_refusal(attempt, error):
            return None
        repair = run.repair
        if repair is not None and (repair.refusal is not None or repair.changes >= MAX_FORM_CHANGES):
            return None
        budget, costs = self.engine.repair_budget, self._list_costs(target)
        if not budget.allows(costs):  # before the parts are listed, which encodes the request several times
            return None
        repair = repair or await self._begin_repair(target, run.request, self._find_known(target))
        parts = self._list_usable(repair)
        may_leave_last = self._may_leave_last_parts(target, repair, error)
        if self._is_check:
            parts = [part for part in parts if not part.is_content]
        elif not may_leave_last:
            parts = [part for part in parts if not part.is_last]
        if error.stated_status in MEDIA_STATUSES:
            parts = [part for part in parts if part.name == OMIT_PAST_MEDIA]
        if error.stated_status == FAILURE_STATUS and not self._find_known(target).has_failed_twice(repair.conversation):
            parts = [part for part in parts if not part.states_usage]
        single = {part.name for part in parts if part.is_single}
        sent = await self._list_parts(attempt, repair, [part.name for part in parts])
        repair.plainer_forms = _list_plainer_forms(sent, single, repair.search, tries_single=not may_leave_last)
        if not repair.plainer_forms or not budget.try_spend_all(costs):
            return None
        repair.refusal = error
        repair.refused_dialect = target.dialect
        repair.others = tuple(name for name in sent if name not in single)
        run.repair = repair
        return self._leave_out_next(target, repair, error)

    def find_plainer_target(self, target: Target, repair: Repair, error: UpstreamError) -> Target | None:
        """Return a copy of the target for a further repetition, after the form of the one before was refused too. None:
        there is no other plainer form, or it was not refused for its form.
        """
        refusal = repair.refusal
        has_refused_twice = refusal is not None and refusal.stated_status in REFUSAL_STATUSES
        if not repair.plainer_forms or not has_refused_twice or error.stated_status not in REFUSAL_STATUSES:
            return None
        if not self.engine.repair_budget.try_spend_all(self._list_costs(target)):
            return None
        return self._leave_out_next(target, repair, error)

    def _leave_out_next(self, target: Target, repair: Repair, error: UpstreamError) -> Target:
        """Return a copy of the target that leaves out the next of the plainer forms, and what the first call has."""
        repair.repetition, *others = repair.plainer_forms
        repair.plainer_forms = others
        receipt = self.incoming.receipt
        receipt.adaptations[:] = [name for name in receipt.adaptations if not name.startswith(PLAIN_FORM)]
        receipt.plain_form = ()
        self._show_left_out(repair, (*repair.left_out, *repair.repetition))
        prefix = target.provider.prefix
        why = f"left out after {prefix} had refused the request"
        titles = _list_titles(repair, repair.repetition)
        earlier = [note for note in repair.notes if note.reason != why]
        repair.notes = [*earlier, *(FidelityNote("kept", title, why) for title in titles)]  # the encoder notes any loss
        words = error.stored_message
        words = words if len(words) <= MAX_LOGGED_WORDS else f"{words[:MAX_LOGGED_WORDS]}…"
        self.engine.log.write_once(
            f"{prefix}/{target.model}: sent again in a plainer form ({', '.join(titles)}), because of: {words}"
        )
        plain = target if repair.refused_dialect is None else structs.replace(target, dialect=repair.refused_dialect)
        return _leave_out(plain, repair.repetition)

    def _show_left_out(self, repair: Repair, names: Sequence[str]) -> None:
        receipt, titles = self.incoming.receipt, _list_titles(repair, names)
        receipt.adaptations += [f"{PLAIN_FORM}{title}" for title in titles]
        receipt.plain_form = [*receipt.plain_form, *titles]

    def record_second_refusal(self, target: Target, repair: Repair) -> None:
        """Note that a conversation was refused in the plain form too: its next repetition may leave out more."""
        known = self._find_known(target)
        known.doubt(repair.left_out)
        known.record_second_refusal(repair.conversation)

    def record_second_failure(self, target: Target, repair: Repair) -> None:
        """Note that a conversation has failed in the plain form too, with `FAILURE_STATUS`: its next repetition may
        leave out more.
        """
        self._find_known(target).record_second_failure(repair.conversation)

    def _may_leave_last_parts(self, target: Target, repair: Repair, error: UpstreamError) -> bool:
        """Return True if the repetition may leave out content of earlier turns."""
        return error.stated_status in MEDIA_STATUSES or self._find_known(target).was_refused_twice(repair.conversation)

    async def examine(self, attempt: Attempt, repair: Repair, sent: UpstreamRequest) -> bool:
        """Note which parts an encoded request has, if its acceptance shows something about them. Return True if the
        attempt has changed, because some of them are refused only together.
        """
        if repair.refusal is not None or (repair.watched == () and not repair.pairs):
            return False
        pairs, repair.pairs = repair.pairs, {}
        watched = [part.name for part in repair.parts] if repair.watched is None else repair.watched
        found = await self._list_parts(attempt, repair, {*watched, *pairs}.union(*pairs.values()), sent)
        left_out: list[str] = []
        for name, needs in pairs.items():
            if {name, *needs} <= {*found}.difference(left_out):
                left_out.append(name)
        repair.sent = tuple(name for name in found if name in watched and name not in left_out)
        if left_out:
            repair.left_out += tuple(left_out)
            attempt.target = _leave_out(attempt.target, left_out)
            attempt.call = structs.replace(attempt.call, dialect=attempt.target.dialect)
            self._show_left_out(repair, left_out)
            self._note_reasons(attempt.target, repair, ())
            repair.sent = await self._list_parts(attempt, repair, repair.sent)  # some need those that are left out
        if repair.search is not None and repair.with_partners is not None:
            # some parts need another one to be sent at all
            missing = [name for name in repair.search.tested if name not in repair.sent]
            call = structs.replace(attempt.call, dialect=repair.with_partners)
            repair.sent += await self._list_parts(structs.replace(attempt, call=call), repair, missing)
        return bool(left_out)

    def record_acceptance(self, target: Target, repair: Repair) -> None:
        """Store what the acceptance of a request shows about its parts, once for each request of the client."""
        if repair.is_recorded:
            return
        repair.is_recorded = True
        known = self._find_known(target)
        if repair.refusal is None:
            known.record_acceptance(repair.search, repair.sent, repair.values, repair.left_out)
            known.forget_failure(repair.beginning)
        else:
            known.doubt(repair.left_out)
            suspects = repair.list_suspects()
            if repair.refusal.stated_status == FAILURE_STATUS and not known.fails_again(repair.beginning):
                return  # one failure shows nothing
            spared = [name for name in repair.others if name not in repair.repetition]
            known.record_refusal(repair.search, suspects, repair.conversation, repair.values, spared)
        self._store_form(repair)
        if repair.left_out or repair.repetition:
            known.announce(repair.conversation, CONVERSATION_SECONDS)

    async def _begin_repair(self, target: Target, request: MessagesRequest, known: RefusedParts) -> Repair:
        read = await self._read_request(request)
        is_first = bool(read.messages) and all(message.role != "assistant" for message in read.messages)
        beginning = name_conversation(self.incoming, read, target)
        parts = target.wire.list_parts(target.dialect, self.incoming.headers, self.incoming.body)
        conversation = await self._name_conversation(beginning, read, is_first=is_first)
        return Repair(
            f"{beginning} {known.model}",  # so that it is forgotten with the model
            f"{conversation} {known.model}",
            parts=parts,
            values={part.name: _digest_value(part, read) for part in parts},
            is_first=is_first,
        )

    async def _name_conversation(self, beginning: str, request: MessagesRequest, *, is_first: bool) -> str:
        """Return `Repair.conversation`."""
        if not is_first:
            return digest_first_reply(beginning, request.messages)
        body, background = self.incoming.body, self.incoming.background
        digest = partial(hashlib.blake2b, body, digest_size=16, key=beginning[:32].encode())
        return (await background.run_in_thread_if_large(self.incoming.is_large, digest)).hexdigest()

    async def _list_parts(
        self, attempt: Attempt, repair: Repair, names: Collection[str], sent: UpstreamRequest | None = None
    ) -> tuple[str, ...]:
        """Return those of the parts `names` that a request has. `sent`: the encoded request. None: not encoded."""
        listed = [part for part in repair.parts if part.name in names]
        list_parts = partial(_list_sent_parts, attempt.target.wire, listed, sent)
        return await self.incoming.background.run_for_call(list_parts, attempt.call, is_large=attempt.is_large)

    def _find_known(self, target: Target) -> RefusedParts:
        client = self.incoming.receipt.client
        # clients that call with keys of their own have accounts of their own
        has_own_key = client.credential_forwardable and target.provider.accepts_client_credential
        has_own_key = has_own_key and not self.engine.settings.keys.get(target.provider.name)
        account = self._learner if has_own_key else ""
        return self.engine.observations.find_refused_parts(
            target.upstream, target.model, target.wire.name, self._learner, account
        )

    @property
    def _is_check(self) -> bool:
        """True if the content of the request is judged, whatever kind the client says that it is."""
        return self.incoming.purpose in _CHECKS or self.incoming.receipt.kind in _CHECKS

    @property
    def _is_strict(self) -> bool:
        return self.incoming.receipt.fidelity.mode == "strict"

    def _is_refusal(self, attempt: Attempt, error: UpstreamError) -> bool:
        """Return True if a server has refused the form of a request, as far as its status and codes say."""
        if isinstance(error, UnreadableReply | CircuitOpen) or not self._may_be_refusal(attempt, error):
            return False
        last = self.incoming.receipt.attempts[-1]
        has_usage = last.all_input_tokens or last.output_tokens
        is_too_long = error.cause is not None and error.cause.kind not in ("images", "documents")
        return last.duration_seconds <= MAX_REFUSAL_SECONDS and not has_usage and not is_too_long

    def _may_be_refusal(self, attempt: Attempt, error: UpstreamError) -> bool:
        status = error.stated_status
        target = attempt.target
        accepted_at = self.engine.acceptances.get((target.upstream, target.model, attempt.upstream_path))
        if status in REFUSAL_STATUSES:
            # another status is that of its text, such as 404 for a missing model, which none is that has replied before
            return error.status in REFUSAL_STATUSES or (error.status == 404 and accepted_at is not None)
        if status in MEDIA_STATUSES:
            return any(part.name == OMIT_PAST_MEDIA for part in target.wire.parts)
        if accepted_at is None:
            return False
        if status == FAILURE_STATUS:
            return self.incoming.receipt.started_at - accepted_at <= MAX_SECONDS_SINCE_ACCEPTANCE
        return status == 404

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
        session = client.scope_session(self._session) if client.credential_forwardable else ""
        return session or client.id

    async def _read_request(self, request: MessagesRequest) -> MessagesRequest:
        """Return a request with its messages, of which a relay may know only the other fields, unless it is invalid."""
        if request.messages:
            return request
        return await self.incoming.decode()


def _digest_value(part: RequestPart, request: MessagesRequest) -> str:
    """Return a digest of the fields of the client on which the value of a part depends. "": it has no values."""
    if not part.values:
        return ""
    values = []
    for path in part.values:
        value: object = request
        for name in path.split("."):
            value = getattr(value, name, None)
        values.append(value)
    return hashlib.blake2b(msgspec.json.encode(values), digest_size=8).hexdigest()


def _list_sent_parts(
    wire: Wire[BaseDialect, Any],
    parts: Sequence[RequestPart],
    sent: UpstreamRequest | None,
    call: Call[BaseDialect],
) -> tuple[str, ...]:
    """Return the names of the parts that a request has. Those behind the beginning of the prompt come first."""
    encoded = sent or wire.encode_request(call)
    names = [part.name for part in sorted(parts, key=attrgetter("changes_prefix"))]
    plainer = ((name, wire.apply_adaptation(call.dialect, name)) for name in names)
    return tuple(name for name, dialect in plainer if wire.has_part(call, name, dialect, encoded))


def _list_plainer_forms(
    sent: Sequence[str], single: Collection[str], search: PartSearch | None, *, tries_single: bool
) -> list[tuple[str, ...]]:
    """Return what the repetitions of a refused request leave out, one after the other: what a search tests, all parts,
    and beside these each of the parts that are left out only alone.
    """
    others = tuple(name for name in sent if name not in single)
    found = [name for name in sent if name in single] if tries_single else []
    forms = [] if search is None else [search.find_repetition(others, found)]
    forms += [others, *((*others, name) for name in found)]
    return [*dict.fromkeys(filter(None, forms))]


def _list_titles(repair: Repair, names: Sequence[str]) -> list[str]:
    return [part.title for part in repair.parts if part.name in names]


def _leave_out(target: Target, names: Sequence[str]) -> Target:
    dialect = target.dialect
    for name in names:
        dialect = target.wire.apply_adaptation(dialect, name)
    return structs.replace(target, dialect=dialect)
