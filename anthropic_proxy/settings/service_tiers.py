"""`normalize_service_tier`: converts the names of service tiers that providers report to one form.

A service tier is a class of service. A provider bills the same tokens at another price in each tier.
"""

import re

_NORMAL = frozenset({"", "auto", "default", "on_demand", "standard", "unspecified"})
"""Names that providers report for their normal service tier: OpenAI `default`, Groq `on_demand`, Anthropic and Google
`standard`. A server that repeats a requested `auto` does not state its tier."""
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,23}")
"""Pattern of the name of a tier. It becomes part of a stored text, so it has no control characters and no space."""
_OTHER = "other"


def normalize_service_tier(name: str) -> str:
    """Return the name of a service tier, which a provider reported, in lower case.

    The result is "" for the normal tier, such as `standard` or `default`, and for an empty name. It is `other` for a
    text that is not a valid name, such as a text with a space.
    """
    if name in _NORMAL:
        return ""
    lower = name.strip().lower()
    if lower in _NORMAL:
        return ""
    return lower if _NAME.fullmatch(lower) else _OTHER
