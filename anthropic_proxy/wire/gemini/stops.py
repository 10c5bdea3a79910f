"""Google's finish reasons → stop reasons (`FinishReason`, 2026-11)."""

from anthropic_proxy.wire.finish_reasons import FinishKind, finish_kind

_REFUSALS = frozenset(
    (
        *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "MODEL_ARMOR", "ESCALATION"),
        "PUP_LIMITED_DISABLED",
    )
)
CONTINUATION_REASON = "CONTINUATION"
"""The limit of one request; another would go on with its token, up to the client's own limit."""
_LIMITS = frozenset(("MAX_TOKENS", CONTINUATION_REASON))
_BROKEN = frozenset(
    ("MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL", "MISSING_THOUGHT_SIGNATURE")
)


def classify_finish_reason(reason: str) -> FinishKind:
    """Return the kind of a finish reason: Google's own names first, then those of any API."""
    if reason in _REFUSALS or reason.startswith("IMAGE_"):
        return "blocked"
    return "limit" if reason in _LIMITS else finish_kind(reason)


def is_unparsable_output(reason: str) -> bool:
    """Return True if the server could not parse the model's output. A retry may succeed."""
    return reason in _BROKEN
