"""`EffortPlan`: the effort (level of reasoning) with which a conversation began, and its later changes.

The effort belongs to the beginning of a prompt. Some models accept a change as an item inside the conversation, before
the user message from which it applies, so that the prompt cache stays valid. The earlier changes must then be sent
again in each request, at the same place.

A client sends requests beside the conversation that begin with the same messages and have another effort, such as one
for a suggestion. So the plans of several requests are kept, and a request goes on with that of the one before it.
"""

import zlib
from collections.abc import Mapping, Sequence

from msgspec import Struct

from anthropic_proxy.engine.messages.models import Message, TextBlock, ToolResultBlock

MAX_CHANGES = 32
"""Maximum changes in one conversation. At the next one, the beginning of the prompt changes."""

MAX_PLANS = 8
"""Maximum number of requests of one conversation whose plans are kept."""
_NO_EFFORT = ("none", "default")


class EffortPlan(Struct, frozen=True):
    baseline: str
    """Effort that the request itself names."""
    changes: Mapping[int, str] = {}
    """Number of a user message, from 0 → effort from this message on. The numbers ascend."""

    @property
    def current(self) -> str:
        return [self.baseline, *self.changes.values()][-1]


def follow_effort(known: EffortPlan | None, messages: Sequence[Message], effort: str) -> EffortPlan:
    """Return the plan with which a request asks for `effort` now. `known`: the plan of the request before. None: none.

    The effort can only change with a user message at the end. A change elsewhere begins a new plan.
    """
    turns = sum(map(_is_turn, messages))
    if known is None or not turns or effort in _NO_EFFORT or known.baseline in _NO_EFFORT:
        return EffortPlan(effort)
    changes = {turn: changed for turn, changed in known.changes.items() if turn < turns - 1}
    current = next(reversed(changes.values()), known.baseline)
    last = known.changes.get(turns - 1, current)
    if effort not in (current, last) and not (messages and _is_turn(messages[-1])):
        return EffortPlan(effort)
    if effort != current:
        changes[turns - 1] = effort
    return EffortPlan(known.baseline, changes) if len(changes) <= MAX_CHANGES else EffortPlan(effort)


def _is_turn(message: Message) -> bool:
    """Return True for a user message with content besides tool results."""
    return message.role == "user" and any(type(block) is not ToolResultBlock for block in message.content)


class KnownPlan(Struct, frozen=True):
    """The plan of an earlier request."""

    turns: int
    """Number of its user messages."""
    digest: int
    """Checksum of the texts of the last one."""
    plan: EffortPlan


def find_plan(known: Sequence[KnownPlan], messages: Sequence[Message], effort: str) -> EffortPlan | None:
    """Return the plan of the request before: of those whose last user message is in `messages`, the longest one.

    Of several, it is the one that asks for `effort` already. If there is none, the client has edited the message, and
    the latest request counts. None: no request is known.
    """
    turns = [message for message in messages if _is_turn(message)]
    earlier = [each for each in known if 0 < each.turns <= len(turns) and _digest(turns[each.turns - 1]) == each.digest]

    def rank(each: KnownPlan) -> tuple[int, bool, bool]:
        return each.turns, each.plan.current == effort, each.plan.baseline not in _NO_EFFORT

    found = max(earlier, key=rank) if earlier else next(iter(known), None)
    return None if found is None else found.plan


def keep_plan(known: Sequence[KnownPlan], messages: Sequence[Message], plan: EffortPlan) -> Sequence[KnownPlan]:
    """Return the plans for later requests, the latest first.

    A plan that begins anew replaces none of the same messages: it may belong to a request beside the conversation.
    """
    turns = [message for message in messages if _is_turn(message)]
    kept = KnownPlan(len(turns), _digest(turns[-1]) if turns else 0, plan)
    place = kept.turns, kept.digest, plan.baseline
    others = [each for each in known if (each.turns, each.digest, each.plan.baseline) != place]
    return [kept, *others][:MAX_PLANS]


def _digest(turn: Message) -> int:
    digest = 0
    for block in turn.content:
        if type(block) is TextBlock:
            digest = zlib.crc32(block.text, digest)
    return digest


def encode_plans(plans: Sequence[KnownPlan]) -> str:
    return "\n".join(f"{each.turns} {each.digest} {encode_plan(each.plan)}" for each in plans)


def decode_plans(text: str) -> Sequence[KnownPlan]:
    """Return the plans of `encode_plans` without damaged ones."""
    plans = []
    for line in text.split("\n"):
        turns, _, rest = line.partition(" ")
        digest, _, encoded = rest.partition(" ")
        plan = decode_plan(encoded)
        if plan is not None and all(number.isdecimal() and len(number) <= 10 for number in (turns, digest)):
            plans.append(KnownPlan(int(turns), int(digest), plan))
    return plans


def encode_plan(plan: EffortPlan) -> str:
    return " ".join([plan.baseline, *(f"{turn}:{effort}" for turn, effort in plan.changes.items())])


def decode_plan(text: str) -> EffortPlan | None:
    """Return the plan of `encode_plan`. None: the text is no plan."""
    if not text:
        return None
    baseline, *changes = text.split(" ")
    pairs = [change.partition(":") for change in changes]
    if not all(turn.isdecimal() and len(turn) < 10 and effort for turn, _, effort in pairs):
        return None
    return EffortPlan(baseline, {int(turn): effort for turn, _, effort in pairs})
