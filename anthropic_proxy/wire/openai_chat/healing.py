"""What a refusal teaches about a model: which parameter to leave out or to say otherwise (`translation.md` F.4)."""

from msgspec import structs

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.wire.contract import Call, Healing
from anthropic_proxy.wire.failures import find_limit, find_room, find_window
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.openai_chat.faults import belongs_elsewhere
from anthropic_proxy.wire.openai_healing import SHARED_DROPS, Drops, find_drop, find_effort, learn, words_of

_DROPS: Drops = {
    **SHARED_DROPS,
    "stream_options": {"says_usage": False},
    "reasoning_effort": {"effort": "omit", "effort_with_tools": ""},
    "thinking": {"effort": "omit", "thinking_keeps": ""},
    "include_reasoning": {"thinking_request": ""},
    "reasoning_format": {"thinking_request": ""},
    "tool_choice": {"forces_tools": "never"},
    "response_format": {"json_output": "ask"},
    "json_schema": {"json_output": "ask"},
    "reasoning_content": {"thinking_field": ""},
    "reasoning": {"thinking_field": "", "effort": "omit"},
    "image": {"takes_pictures": False},
    "file": {"takes_pictures": False},
}
_LIMITS = ("max_tokens", "max_completion_tokens")


def find_healing(call: Call, error: UpstreamError) -> Healing | None:
    """Return what to do differently after a refusal that names a parameter or another language; None: it stands."""
    if error.status in (400, 404, 422) and belongs_elsewhere(error.message):
        return Healing("wire responses")
    if error.status not in (400, 422) or error.parameter is None:
        return None
    if (room := find_room(error.message)) is not None:
        return _heal_room(call, room, find_window(error.message) or 0)
    words = words_of(error.parameter)
    name = words[0] if words else ""
    if name in _LIMITS:
        return _heal_limit(call, name, error.message)
    if name == "reasoning_effort" and (healing := find_effort(call, error)):
        return healing
    if "developer" in error.message and (name == "role" or words[-1:] == ["messages"]):
        return Healing("role system") if call.dialect.system_role == "developer" else None
    return find_drop(call, name, _DROPS)


def heal(dialect: Dialect, name: str) -> Dialect:
    """Return the dialect with one thing learned; an unknown name changes nothing."""
    verb, _, value = name.partition(" ")
    if verb == "say" and value in _LIMITS:
        return structs.replace(dialect, limit_name=value)
    if verb == "role" and value == "system":
        return structs.replace(dialect, system_role="system")
    healed: Dialect = learn(dialect, name, _DROPS)
    return healed


def _heal_room(call: Call, room: int, window: int) -> Healing | None:
    """Ask for what this prompt leaves; where no prompt ever leaves so much, for half the window from now on."""
    if room <= 0:
        return None
    half = window // 2
    never_fits = min(call.request.max_tokens, call.dialect.output_limit or call.request.max_tokens) >= window
    return Healing(f"limit {half}") if never_fits and room >= half else Healing(f"limit {room}", lasts=False)


def _heal_limit(call: Call, name: str, message: str) -> Healing | None:
    """Say the limit by its other name, or take the number that the message names."""
    if (limit := find_limit(message, call.request.max_tokens)) is not None:
        return Healing(f"limit {limit}")
    other = _LIMITS[1 - _LIMITS.index(name)]
    return Healing(f"say {other}") if call.dialect.limit_name == name else None
