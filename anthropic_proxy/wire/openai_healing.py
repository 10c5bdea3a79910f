"""What refusals teach about models behind OpenAI's two languages, where both say the same (`translation.md` F.4).

The tables know parameters, not servers: whoever refuses `temperature` is not sent it again.
"""

import re
from collections.abc import Mapping
from typing import Any

from msgspec import structs

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.messages.types import DocumentBlock, ImageBlock
from anthropic_proxy.wire.contract import Call, Healing
from anthropic_proxy.wire.failures import find_level
from anthropic_proxy.wire.schema import BASICS

Drops = Mapping[str, Mapping[str, Any]]
"""Parameter → dialect fields under which it is not said."""

SHARED_DROPS: Drops = {
    "temperature": {"sampling": "never"},
    "top_p": {"sampling": "never"},
    "parallel_tool_calls": {"says_parallel": False},
    "safety_identifier": {"names_user": False},
    "prompt_cache_key": {"names_user": False},
    "store": {"says_store": False},
    "service_tier": {"says_service_tier": False},
    "strict": {"says_strict": False},
    "parameters": {"schema": BASICS},
    "image_url": {"takes_pictures": False},
}
"""Fields that both dialects have."""

_STEP = re.compile(r"[^.\[\]]+")
_HUMP = re.compile(r"(?<=[a-z0-9])[A-Z]")


def words_of(parameter: str) -> list[str]:
    """Return the names in a path, the last one first: `summary`, `reasoning` of `reasoning.summary`.

    Positions are left out; the languages spell with underscores, whatever a refusal does (`reasoningEffort`).
    """
    steps = [step for step in _STEP.findall(parameter) if not step.isdecimal()]
    return [_HUMP.sub(lambda hump: f"_{hump[0].lower()}", step) for step in reversed(steps)]


def find_effort(call: Call, error: UpstreamError) -> Healing | None:
    """Return the level of effort to say in place of the one that was refused, where the refusal lists others."""
    asked = call.request.effort
    level = find_level(error.message, asked)
    return Healing(f"effort {asked} {level}") if level else None


def find_drop(call: Call, name: str, drops: Drops) -> Healing | None:
    """Return how to do without a parameter; None where it was not said, or is what the request is about."""
    fields = drops.get(name)
    if fields is None or structs.replace(call.dialect, **fields) == call.dialect:
        return None
    if "takes_pictures" in fields and _asks_about_picture(call):
        return None  # an answer without the picture would be worse than the error
    return Healing(f"drop {name}")


def learn(dialect: Any, name: str, drops: Drops) -> Any:
    """Return the dialect with one thing learned that both languages know; another name changes nothing."""
    verb, _, value = name.partition(" ")
    fields: dict[str, Any] = {}
    if verb == "drop":
        fields.update(drops.get(value, {}))
    elif verb == "limit" and value.isdecimal():
        fields["output_limit"] = int(value)
    elif verb == "effort" and len(levels := value.split()) == 2:
        fields["effort_names"] = (*dialect.effort_names, (levels[0], levels[1]))
    return structs.replace(dialect, **fields) if fields else dialect


def _asks_about_picture(call: Call) -> bool:
    users = [message for message in call.request.messages if message.role == "user"]
    return bool(users) and any(isinstance(block, ImageBlock | DocumentBlock) for block in users[-1].blocks)
