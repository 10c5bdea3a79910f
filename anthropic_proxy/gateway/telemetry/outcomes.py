"""How a request ended, and the verdicts about its tool calls. The log, the live view, the ledger and the dashboard
classify and name them in the same way.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from anthropic_proxy.plugins import CallCheck, CheckVerdict, InspectionDecision, InspectionRecord, Receipt

OutcomeClass = Literal["ok", "retried", "truncated", "refused", "error", "cancelled"]
"""`retried`: served after a failed attempt. `truncated`: the reply ended at the token limit, or the context window
was full. `refused`: the model declined. `cancelled`: the client disconnected."""
_STOP_REASONS: dict[str, OutcomeClass] = {
    "error": "error",
    "cancelled": "cancelled",
    "max_tokens": "truncated",
    "model_context_window_exceeded": "truncated",
    "refusal": "refused",
}
_FIRST_ERROR_STATUS = 400
_MAX_PROBE_TOKENS = 16
"""Claude Code tests a model with `max_tokens: 1`. This is the least that the Responses API generates and bills."""


_CAUSES: Mapping[str, tuple[str, str]] = {
    "compaction": ("summary of", "the conversation in"),
    "image_description": ("description of", "a picture in"),
}
_CAUSE_OF_CHECKS = ("check of", "a tool call in the reply to")


def describe_cause(kind: str) -> tuple[str, str]:
    """Return why the proxy has sent a request of this kind: what it is, and of what in the request that caused it."""
    return _CAUSES.get(kind, _CAUSE_OF_CHECKS)


class OutcomeTag(NamedTuple):
    sign: str
    role: str
    """Color role of the terminal, and CSS class of the pages: ok, warn, error, quiet."""
    text: str


def classify_outcome(receipt: Receipt) -> OutcomeClass:
    """Return how a request has ended, as one of the words by which views filter."""
    outcome_class = _STOP_REASONS.get(receipt.outcome)
    # a test of a model, whose reply the client wants to end at its limit
    is_probe = receipt.message_count == 1 and not receipt.tool_count and receipt.output_tokens <= _MAX_PROBE_TOKENS
    if outcome_class and not (outcome_class == "truncated" and is_probe):
        return outcome_class
    if receipt.status >= _FIRST_ERROR_STATUS:  # a forwarded response, or that of a plugin's endpoint
        return "error"
    return "retried" if receipt.failed_attempts else "ok"


def describe_outcome(outcome_class: str, stop_reason: str, status: int) -> OutcomeTag:
    match outcome_class:
        case "error":
            return OutcomeTag("✕", "error", str(status or "error"))
        case "retried":
            return OutcomeTag("↻", "warn", "retried")
        case "truncated" | "refused":
            return OutcomeTag("!", "warn", outcome_class)
        case "cancelled":
            return OutcomeTag("–", "quiet", "cancelled")
        case _:
            return OutcomeTag("✓", "ok", stop_reason or str(status))


VERDICTS: Mapping[CheckVerdict, OutcomeTag] = {
    "flagged": OutcomeTag("✕", "error", "flagged"),
    "unavailable": OutcomeTag("!", "warn", "unavailable"),
    "not_flagged": OutcomeTag("✓", "ok", "not flagged"),
    "harmless": OutcomeTag("–", "quiet", "harmless"),
}
"""Verdict about a tool call → how it is shown, the most serious one first."""

INCIDENTS: Sequence[CheckVerdict] = ("flagged", "unavailable")
"""Verdicts that a user should know of: the call does not run, or the client asks about it."""


def find_verdict(checks: Sequence[CallCheck]) -> CheckVerdict | Literal[""]:
    """Return the most serious verdict. "": there are no checks."""
    if not checks:
        return ""
    verdicts = {check.verdict for check in checks}
    return next((verdict for verdict in VERDICTS if verdict in verdicts), "")


def count_verdicts(checks: Sequence[CallCheck]) -> str:
    """`1 flagged, 2 not flagged`. "": there are no checks."""
    if not checks:
        return ""
    counts = Counter(check.verdict for check in checks)
    return ", ".join(f"{counts[verdict]} {tag.text}" for verdict, tag in VERDICTS.items() if counts[verdict])


INSPECTIONS: Mapping[InspectionDecision, OutcomeTag] = {
    "refused": OutcomeTag("✕", "error", "refused"),
    "failed": OutcomeTag("!", "warn", "failed"),
    "redacted": OutcomeTag("~", "warn", "redacted"),
    "passed": OutcomeTag("✓", "ok", "passed"),
}
"""Decision of an inspector → how it is shown, the most serious one first."""


def list_findings(record: InspectionRecord) -> str:
    """`2 × key, 1 × card number`, `timeout`. "": nothing was found."""
    findings = [f"{number} × {kind}" for kind, number in record.kinds.items()]
    return ", ".join([record.failure, *findings] if record.failure else findings)


def describe_inspection(record: InspectionRecord) -> str:
    """`secrets redacted the request: 2 × key, 1 × card number`, `guard failed for the reply: timeout`"""
    findings = list_findings(record)
    verb = {"passed": "passed", "failed": "failed for"}.get(record.decision, record.decision)
    return f"{record.inspector} {verb} the {record.part}{findings and ': '}{findings}"


def name_verdict(check: CallCheck) -> str:
    """`flagged`, `unavailable by the provider`"""
    text = VERDICTS[check.verdict].text
    return f"{text} by the provider" if check.kind == "provider" else text


def name_cause(check: CallCheck) -> str:
    """Return why a call has no verdict, as short as a log line needs it: `timeout`. What is too large has its reason,
    which says what the user can do.
    """
    return check.reason if check.kind == "too large" else check.kind


def describe_check(check: CallCheck) -> str:
    """`flagged: Deletes the database.`, `unavailable: timeout`, `harmless (only reads: ls)`"""
    text = name_verdict(check)
    if check.reason:
        return f"{text}: {check.reason}"
    return f"{text} ({check.rule})" if check.rule else text
