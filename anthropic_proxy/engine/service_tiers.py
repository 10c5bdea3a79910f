"""Names of service tiers that providers report, in one form, so that a price finds its tier."""

from anthropic_proxy.engine.patterns import compile_anchored

_NORMAL = frozenset({"", "auto", "default", "on_demand", "standard", "unspecified"})
"""Names that providers report for their normal service tier: OpenAI `default`, Groq `on_demand`, Anthropic and Google
`standard`. A server that repeats a requested `auto` does not state its tier."""
_NAME = compile_anchored(r"[a-z][a-z0-9_-]{0,23}")
"""Pattern of the name of a tier. It becomes part of a stored text, so it has no control characters and no space."""
_OTHER = "other"


def normalize_service_tier(name: str) -> str:
    """Return the name of a service tier in lower case.

    "" for the normal tier, such as `standard` or `default`. `other` for a text that is not a valid name.
    """
    if name in _NORMAL:
        return ""
    lower = name.strip().lower()
    if lower in _NORMAL:
        return ""
    return lower if _NAME.fullmatch(lower) else _OTHER
