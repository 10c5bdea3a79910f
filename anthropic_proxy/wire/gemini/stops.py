"""Finish reasons of Gemini: the field `finishReason` gives the reason for the end of a reply.

`classify_finish_reason` returns the meaning of a reason. `CONTINUATION_REASON` means that another request can continue
the reply. Source: reference of `FinishReason` (2026-11).
"""

from anthropic_proxy.wire.finish_reasons import FinishKind, find_finish_kind

# Source of the values: reference of `FinishReason` (2026-11).
_REFUSALS = frozenset(
    (
        *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "MODEL_ARMOR", "ESCALATION"),
        "PUP_LIMITED_DISABLED",
    )
)
CONTINUATION_REASON = "CONTINUATION"
"""Finish reason at the output limit of one request. Another request can continue the reply."""
_LIMITS = frozenset(("MAX_TOKENS", CONTINUATION_REASON))


def classify_finish_reason(reason: str) -> FinishKind:
    """Return the meaning of a finish reason of Gemini.

    A reason that is neither a refusal nor a limit of Gemini is classified by `find_finish_kind`, which other wires use
    too.
    """
    if reason in _REFUSALS or reason.startswith("IMAGE_"):
        return "blocked"
    return "limit" if reason in _LIMITS else find_finish_kind(reason)
