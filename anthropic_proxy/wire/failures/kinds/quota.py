"""`find_exhausted_quota`: recognizes provider errors for a used-up quota, which a retry after a short delay cannot fix.

A quota is the credit of the account, or an allowance: the use that a period or plan permits. `BILLING_…` tables have
error texts and codes about credit, `ALLOWANCE_…` tables about an allowance. Rate limits per minute are not recognized.
"""

import re
from typing import Literal

from anthropic_proxy.wire.failures.error_body import UpstreamFault
from anthropic_proxy.wire.failures.kinds.sizes import matches_any, regex

_USED_UP = (
    r"(?:depleted|exhausted|used up|run out|ran out|insufficient|exceeded|reached|too low|empty|negative|expired|spent)"
)
BILLING_TEXTS = (
    # Anthropic, OpenAI (2026-11)
    regex(r"\bcredit balance\b|\bspending (?:limit|cap)\b|\bpayment (?:is )?required\b|\bin arrears\b"),
    # DeepSeek, OpenAI (2026-11)
    regex(r"\binsufficient[ _](?:balance|funds|credits?|quota)|\bnot enough (?:balance|credits?|funds)"),
    # Gemini: prepayment credits are depleted; OpenRouter, xAI (2026-11)
    regex(
        rf"\b(?:credits?|balance|prepayment|pre-?paid|funds|wallet)\b[^.\n]{{0,40}}\b{_USED_UP}\b",
    ),
    regex(
        rf"\b{_USED_UP}\b[^.\n]{{0,30}}\b(?:credits?|balance|funds|prepayment)\b"
    ),  # xAI: run out of credits (2026-11)
    # xAI (2026-11)
    regex(r"\bused all (?:of )?(?:your )?(?:available )?credits|\b(?:add|purchase|buy) (?:more )?credits|\btop up\b"),
    # OpenAI, Google (2026-11)
    regex(r"\bbilling (?:hard )?limit|\bbilling (?:is )?(?:disabled|not (?:active|enabled))"),
    # Alibaba: Arrearage; gateways (2026-11)
    regex(
        r"\b(?:overdue payment|arrearage|recharge your|no (?:remaining |more |available )?(?:credits?|balance|funds))\b"
    ),
    regex("余额不足|欠费"),  # Z.ai and BigModel 1113 (2026-11)
)
"""Error texts for an account without credit, or with an unpaid or inactive billing account."""
BILLING_CODES = frozenset(
    (
        *("insufficient_quota", "exceeded_current_quota_error", "billing_hard_limit_reached", "billing_not_active"),
        *("1113", "insufficient_balance", "insufficient_credits", "payment_required", "Arrearage"),
    )
)
"""Error codes for an account without credit, or with an unpaid or inactive billing account."""
_PERIOD = (
    r"(?:hourly|daily|weekly|monthly|session|subscription|\d+[- ]?(?:h|hours?|days?)|per[- ](?:day|week|month)|plan"
    r"|(?:five|one|two)[- ]hours?|cloud|free[- ]tier)"
)
_EXCEEDED, _LIMIT = r"(?:reached|exceed(?:s|ed))", r"(?:quota|limit|allowance)"
_PER_DAY = r"per[- ](?:day|week|month)"
ALLOWANCE_TEXTS = (
    # Z.ai (2026-11)
    regex(
        r"\busage limit\b[^.\n]{0,40}\b(?:reached|exceeded|hit)|\b(?:reached|hit|exceeded)\b[^.\n]{0,40}\busage limit"
    ),
    # Z.ai 1310, Ollama's cloud, Kimi Code (2026-11)
    regex(
        rf"\b{_PERIOD}\b[^.\n]{{0,40}}\b(?:limit|quota|allowance|cap|usage)\b[^.\n]{{0,40}}"
        r"\b(?:reached|exceeded|exhausted|hit|used|expired)\b",
    ),
    # Ollama's cloud: you have reached your hourly usage limit (2026-11)
    regex(
        rf"\b(?:reached|exceed(?:s|ed)|exhausted|hit|used)\b[^.\n]{{0,40}}\b{_PERIOD}\b[^.\n]{{0,30}}"
        r"\b(?:limit|quota|allowance|cap|usage)\b",
    ),
    # OpenRouter: Rate limit exceeded: free-models-per-day (2026-11)
    regex(r"\blimit\b[^.\n]{0,20}\b(?:reached|exceeded|hit)\b[^.\n]{0,40}\b(?:daily|per[- ](?:day|week|month))\b"),
    # gateways: reached its quota of 2,000,000 input tokens per day; tokens per day has exceeded your quota (2026-11)
    regex(rf"\b{_EXCEEDED}\b[^.\n]{{0,20}}\b{_LIMIT}\b[^.\n]{{0,40}}\b{_PER_DAY}\b"),
    regex(rf"\b{_PER_DAY}\b[^.\n]{{0,20}}\b{_EXCEEDED}\b[^.\n]{{0,20}}\b{_LIMIT}\b"),
    # Gemini, gateways (2026-11)
    regex(r"\b(?:quota|allowance)\b[^.\n]{0,30}\b(?:exhausted|depleted|used up|consumed)|\bno (?:remaining )?quota\b"),
    regex(r"\b(?:plan|subscription|trial)\b[^.\n]{0,30}\b(?:has )?expired"),  # Z.ai 1309 (2026-11)
)
"""Error texts for a used-up allowance of a period (hours, day, week, month) or of a plan."""
ALLOWANCE_CODES = frozenset(("1304", "1308", "1309", "1310"))
"""Error codes of Z.ai for used-up allowances of a day, five hours or a week, and for an expired plan (docs.z.ai, error
codes, read 2026-11)."""
_STATUSES = (None, 400, 403, 404, 413, 422, 429, 451, 500)
"""HTTP statuses of provider errors that are searched for a used-up quota. None: no status reported."""
_LONG_SECONDS = 60.0
"""Minimum retry delay in seconds of a used-up allowance. After a shorter delay, the official SDKs retry by
themselves."""
_SHORT = re.compile(
    r"\bper[- ](?:minute|min|second)\b|\b[tr]pm\b|concurren|try again in (?:\d+m)?[\d.]+ ?(?:ms|s\b|sec)", re.IGNORECASE
)


_NOTHING = re.compile(r"\blimit: 0\b(?!\.\d)")
"""Error text of Gemini for a model that the plan excludes. A retry cannot help, although the error has a short retry
delay (2026-11)."""


def find_exhausted_quota(fault: UpstreamFault) -> Literal["billing", "allowance"] | None:
    """Return the kind of quota that is used up. None: the error has another cause.

    `billing` is the credit of the account. `allowance` is the use that a period or plan permits.
    """
    if fault.status not in _STATUSES:
        return None
    if fault.codes & BILLING_CODES or _is_billing(fault):
        return "billing"
    if _NOTHING.search(fault.message):
        return "allowance"
    if _SHORT.search(fault.message) or (fault.retry_after or _LONG_SECONDS) < _LONG_SECONDS:
        return None
    return "allowance" if fault.codes & ALLOWANCE_CODES or matches_any(ALLOWANCE_TEXTS, fault.message) else None


def _is_billing(fault: UpstreamFault) -> bool:
    return not _SHORT.search(fault.message) and matches_any(BILLING_TEXTS, fault.message)
