"""Why Google says that an answer ended, and what that is to Anthropic's clients (`FinishReason`, 2026-11)."""

_REFUSALS = frozenset(
    (
        *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "MODEL_ARMOR", "ESCALATION"),
        "PUP_LIMITED_DISABLED",
    )
)
CONTINUATION = "CONTINUATION"
"""The limit of one request; another would go on with its token, up to the client's own limit."""
_LIMITS = frozenset(("MAX_TOKENS", CONTINUATION))
_BROKEN = frozenset(
    ("MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL", "MISSING_THOUGHT_SIGNATURE")
)


def is_refusal(reason: str) -> bool:
    """Whether the provider declined to answer, or to go on."""
    return reason in _REFUSALS or reason.startswith("IMAGE_")


def is_limit(reason: str) -> bool:
    """Whether the answer met a limit of its length."""
    return reason in _LIMITS


def is_broken(reason: str) -> bool:
    """Whether the model wrote what its own server could not read: the next try may succeed."""
    return reason in _BROKEN
