"""What a refusal teaches about a model: which parameter to leave out or to say otherwise.

The table knows parameters, not servers: whoever refuses `temperature` is not sent it again.
"""

import re
from collections.abc import Mapping
from typing import Any

from msgspec import structs

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.messages.types import DocumentBlock, ImageBlock
from anthropic_proxy.wire.contract import Call, Healing
from anthropic_proxy.wire.failures import find_level, find_limit, find_room, find_window
from anthropic_proxy.wire.openai_chat.dialect import Dialect

_DROPS: Mapping[str, Mapping[str, Any]] = {
    "temperature": {"sampling": "never"},
    "top_p": {"sampling": "never"},
    "parallel_tool_calls": {"says_parallel": False},
    "stream_options": {"says_usage": False},
    "safety_identifier": {"names_user": False},
    "prompt_cache_key": {"names_user": False},
    "store": {"says_store": False},
    "service_tier": {"says_service_tier": False},
    "strict": {"says_strict": False},
    "reasoning_effort": {"effort": "omit", "effort_with_tools": ""},
    "include_reasoning": {"thinking_request": ""},
    "reasoning_format": {"thinking_request": ""},
    "tool_choice": {"forces_tools": "never"},
    "response_format": {"json_output": "ask"},
    "json_schema": {"json_output": "ask"},
    "reasoningEffort": {"effort": "omit"},
    "reasoning_content": {"thinking_field": ""},
    "reasoning": {"thinking_field": "", "effort": "omit"},
    "image_url": {"takes_pictures": False},
    "image": {"takes_pictures": False},
    "file": {"takes_pictures": False},
}
"""Parameter → dialect fields under which it is not said."""

_LIMITS = ("max_tokens", "max_completion_tokens")


def find_healing(call: Call, error: UpstreamError) -> Healing | None:
    """Return what to do differently after a 400 or 422 that names a parameter; None where the refusal stands."""
    if error.status not in (400, 422) or error.parameter is None:
        return None
    parameter = error.parameter
    if (room := find_room(error.message)) is not None:
        return _heal_room(call, room, find_window(error.message) or 0)
    last = re.split(r"[.\[\]]+", parameter.rstrip("]"))[-1]
    if last in _LIMITS:
        return _heal_limit(call, last, error.message)
    if last == "reasoning_effort" and (level := find_level(error.message, call.request.effort)):
        return Healing(f"effort {call.request.effort} {level}")
    if "developer" in error.message and (last == "role" or parameter.startswith("messages")):
        return Healing("role system") if call.dialect.system_role == "developer" else None
    if last in ("image_url", "image", "file") and _asks_about_picture(call):
        return None  # the question is about the picture: an answer without it would be worse than the error
    name = next((name for name in (last, parameter) if name in _DROPS), None)
    if name is None or heal(call.dialect, f"drop {name}") == call.dialect:
        return None
    return Healing(f"drop {name}")


def heal(dialect: Dialect, name: str) -> Dialect:
    """Return the dialect with one thing learned; an unknown name changes nothing."""
    verb, _, value = name.partition(" ")
    if verb == "drop" and value in _DROPS:
        return structs.replace(dialect, **_DROPS[value])
    if verb == "say" and value in _LIMITS:
        return structs.replace(dialect, limit_name=value)
    if verb == "limit" and value.isdecimal():
        return structs.replace(dialect, output_limit=int(value))
    if verb == "role" and value == "system":
        return structs.replace(dialect, system_role="system")
    if verb == "effort" and len(levels := value.split()) == 2:
        return structs.replace(dialect, effort_names=(*dialect.effort_names, (levels[0], levels[1])))
    return dialect


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


def _asks_about_picture(call: Call) -> bool:
    users = [message for message in call.request.messages if message.role == "user"]
    return bool(users) and any(isinstance(block, ImageBlock | DocumentBlock) for block in users[-1].blocks)
