"""`EffortPlan`: the effort (level of reasoning) with which a conversation began, and its later changes.

The effort belongs to the beginning of a prompt. Some models accept a change as an item inside the conversation, before
the user message from which it applies, so that the prompt cache stays valid. The earlier changes must then be sent
again in each request, at the same place.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from anthropic_proxy.engine.messages.models import Message, ToolResultBlock

MAX_CHANGES = 32
"""Maximum changes in one conversation. At the next one, the beginning of the prompt changes."""


class EffortPlan(Struct, frozen=True):
    baseline: str
    """Effort that the request itself names."""
    changes: Mapping[int, str] = {}
    """Number of a user message, from 0 → effort from this message on. The numbers ascend."""


def follow_effort(known: EffortPlan | None, messages: Sequence[Message], effort: str) -> EffortPlan:
    """Return the plan with which a request asks for `effort` now. `known`: the plan of the request before. None: none.

    The effort can only change with a user message at the end. A change elsewhere begins a new plan.
    """
    turns = sum(map(_is_turn, messages))
    if known is None or not turns or "none" in (effort, known.baseline) or "default" in (effort, known.baseline):
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


def encode_plan(plan: EffortPlan) -> str:
    return " ".join([plan.baseline, *(f"{turn}:{effort}" for turn, effort in plan.changes.items())])


def decode_plan(text: str) -> EffortPlan | None:
    """Return the plan of `encode_plan`. None: the text is none."""
    if not text:
        return None
    baseline, *changes = text.split(" ")
    pairs = [change.partition(":") for change in changes]
    if not all(turn.isdecimal() and len(turn) < 10 and effort for turn, _, effort in pairs):
        return None
    return EffortPlan(baseline, {int(turn): effort for turn, _, effort in pairs})
