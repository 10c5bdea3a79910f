"""What a refusal teaches about a model: which parameter to leave out or to say otherwise (`translation.md` F.4)."""

from msgspec import structs

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.wire.contract import Call, Healing
from anthropic_proxy.wire.failures import find_limit, find_room
from anthropic_proxy.wire.openai_healing import SHARED_DROPS, Drops, find_drop, find_effort, learn, words_of
from anthropic_proxy.wire.openai_responses.dialect import Dialect
from anthropic_proxy.wire.openai_responses.faults import REASONING_ITEMS

_DROPS: Drops = {
    **SHARED_DROPS,
    "phase": {"says_phase": False},
    "truncation": {"says_truncation": False},
    "summary": {"summaries": False},
    "effort": {"reasons": False},
    "reasoning": {"reasons": False},
    "reasoning_effort": {"reasons": False},
    "include": {"reasons": False, "search_sources": False},
    "max_tool_calls": {"search_limit": False},
    "file_data": {"takes_pictures": False},
    "file_url": {"takes_pictures": False},
    REASONING_ITEMS: {"replays_thinking": False},
}


def find_healing(call: Call, error: UpstreamError) -> Healing | None:
    """Return what to do differently after a 400 or 422 that names a parameter; None where the refusal stands."""
    if error.status not in (400, 422) or error.parameter is None:
        return None
    if (room := find_room(error.message)) is not None:
        return Healing(f"limit {room}", lasts=False) if room > 0 else None
    if error.parameter == REASONING_ITEMS:
        healing = find_drop(call, REASONING_ITEMS, _DROPS)
        return healing and structs.replace(healing, lasts=False)  # wrong with this one history, not with the model
    name = next(iter(words_of(error.parameter)), "")
    if name == "max_output_tokens":
        limit = find_limit(error.message, call.request.max_tokens)
        return None if limit is None else Healing(f"limit {limit}")
    if name == "effort" and (healing := find_effort(call, error)):
        return healing
    return find_drop(call, name, _DROPS)


def heal(dialect: Dialect, name: str) -> Dialect:
    """Return the dialect with one thing learned; an unknown name changes nothing."""
    healed: Dialect = learn(dialect, name, _DROPS)
    return healed
