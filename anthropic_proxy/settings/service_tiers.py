"""`normalize_service_tier`: service tiers, by which providers bill the same tokens at different prices."""

import re

_NORMAL = frozenset({"", "auto", "default", "on_demand", "standard", "unspecified"})
"""Names that providers report for their normal service tier: OpenAI `default`, Groq `on_demand`, Anthropic and Google
`standard`. A server that repeats a requested `auto` does not state its tier."""
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,23}")
"""Pattern of the name of a tier. It becomes part of a stored text, so it has no control characters and no space."""
_OTHER = "other"


def normalize_service_tier(name: str) -> str:
    """Return the service tier `name`, which a provider reported, in lower case. "": the normal tier, or none.

    A text that is no name of a tier becomes `other`.
    """
    if name in _NORMAL:
        return ""
    lower = name.strip().lower()
    if lower in _NORMAL:
        return ""
    return lower if _NAME.fullmatch(lower) else _OTHER
