"""Names of service tiers and regions that providers report, in one form, so that a price finds them."""

from collections.abc import Collection

from anthropic_proxy.engine.patterns import compile_anchored

_NORMAL = frozenset({"", "auto", "default", "on_demand", "standard", "unspecified"})
"""Names that providers report for their normal service tier: OpenAI `default`, Groq `on_demand`, Anthropic and Google
`standard`. A server that repeats a requested `auto` does not state its tier."""
_NO_REGION = frozenset({"", "global", "not_available", "unspecified"})
"""Names that providers report if a request was not restricted to a region: Anthropic `global`, or `not_available` for a
model before Claude Opus 4.6."""
_NAME = compile_anchored(r"[a-z][a-z0-9_-]{0,23}")
"""Pattern of the name of a tier or region. It becomes part of a stored text, so it has no control characters and no
space."""
_OTHER = "other"


def normalize_service_tier(name: str) -> str:
    """Return the name of a service tier in lower case.

    "" for the normal tier, such as `standard` or `default`. `other` for a text that is not a valid name.
    """
    return "" if name in _NORMAL else _normalize(name, _NORMAL)


def normalize_region(name: str) -> str:
    """Return the name of a region in lower case.

    "" for no certain region, such as `global`. `other` for a text that is not a valid name.
    """
    return "" if name in _NO_REGION else _normalize(name, _NO_REGION)


def _normalize(name: str, usual: Collection[str]) -> str:
    lower = name.strip().lower()
    if lower in usual:
        return ""
    return lower if _NAME.fullmatch(lower) else _OTHER
