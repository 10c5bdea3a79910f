"""What a refusal teaches about a model: which parameter to leave out or to say otherwise."""

import re
from collections.abc import Mapping
from typing import Any

from msgspec import structs

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.messages.types import DocumentBlock, ImageBlock
from anthropic_proxy.wire.contract import Call, Healing
from anthropic_proxy.wire.failures import find_level, find_limit, find_room
from anthropic_proxy.wire.openai_responses.dialect import Dialect
from anthropic_proxy.wire.openai_responses.faults import REASONING_ITEMS

_DROPS: Mapping[str, Mapping[str, Any]] = {
    "temperature": {"sampling": "never"},
    "top_p": {"sampling": "never"},
    "parallel_tool_calls": {"says_parallel": False},
    "phase": {"says_phase": False},
    "safety_identifier": {"names_user": False},
    "prompt_cache_key": {"names_user": False},
    "store": {"says_store": False},
    "truncation": {"says_truncation": False},
    "service_tier": {"says_service_tier": False},
    "strict": {"says_strict": False},
    "summary": {"summaries": False},
    "effort": {"reasons": False},
    "reasoning": {"reasons": False},
    "include": {"reasons": False, "search_sources": False},
    "max_tool_calls": {"search_limit": False},
    "image_url": {"takes_pictures": False},
    "file_data": {"takes_pictures": False},
    "file_url": {"takes_pictures": False},
    REASONING_ITEMS: {"replays_thinking": False},
}
"""Parameter → dialect fields under which it is not said."""

_MEDIA = ("image_url", "file_data", "file_url")
_PASSING = (REASONING_ITEMS,)
"""What is wrong with this one history, not with the model."""


def find_healing(call: Call, error: UpstreamError) -> Healing | None:
    """Return what to do differently after a 400 or 422 that names a parameter; None where the refusal stands."""
    if error.status not in (400, 422) or error.parameter is None:
        return None
    if (room := find_room(error.message)) is not None:
        return Healing(f"limit {room}", lasts=False) if room > 0 else None
    name = _known_name(error.parameter)
    if name == "max_output_tokens":
        limit = find_limit(error.message, call.request.max_tokens)
        return None if limit is None else Healing(f"limit {limit}")
    if name == "effort" and (level := find_level(error.message, call.request.effort)):
        return Healing(f"effort {call.request.effort} {level}")
    if name in _MEDIA and _asks_about_picture(call):
        return None  # the question is about the picture: an answer without it would be worse than the error
    if heal(call.dialect, f"drop {name}") == call.dialect:
        return None
    return Healing(f"drop {name}", lasts=name not in _PASSING)


def heal(dialect: Dialect, name: str) -> Dialect:
    """Return the dialect with one thing learned; an unknown name changes nothing."""
    verb, _, value = name.partition(" ")
    if verb == "drop" and value in _DROPS:
        return structs.replace(dialect, **_DROPS[value])
    if verb == "limit" and value.isdecimal():
        return structs.replace(dialect, output_limit=int(value))
    if verb == "effort" and len(levels := value.split()) == 2:
        return structs.replace(dialect, effort_names=(*dialect.effort_names, (levels[0], levels[1])))
    return dialect


def _known_name(parameter: str) -> str:
    """Return the last word of a path: `include` of `include[0]`, `summary` of `reasoning.summary`."""
    if parameter in _DROPS:
        return parameter
    words = [word for word in re.split(r"[.\[\]]+", parameter) if word and not word.isdecimal()]
    return words[-1] if words else parameter


def _asks_about_picture(call: Call) -> bool:
    users = [message for message in call.request.messages if message.role == "user"]
    return bool(users) and any(isinstance(block, ImageBlock | DocumentBlock) for block in users[-1].blocks)
