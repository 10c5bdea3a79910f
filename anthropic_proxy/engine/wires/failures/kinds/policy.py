"""Refusals because of content, and used-up quotas.

The reason of a refusal is a rule about safety, moderation or permitted use. The client receives a reply with the stop
reason `refusal` instead of an error, and no other provider is tried. A quota is the credit of an account (`billing`),
or the use that a period or plan permits (`allowance`).
"""

import re
from typing import Literal

from anthropic_proxy.engine.wires.failures.error_body import UpstreamFault
from anthropic_proxy.engine.wires.failures.kinds import matches_any, regex

_TEXT = (
    r"(?:content|prompts?|inputs?|outputs?|texts?|images?|conversation|query|questions?|completion|generation|words)"
)
"""Nouns that mean content of a request or reply (`prompt`, `image`)."""
_CONTENT = rf"(?:{_TEXT}|messages?|requests?|responses?|data|media)"
"""Nouns that mean content, and nouns that may also mean the API call itself (`request`)."""
_FINDING = (
    r"(?:violat\w+|flagged|inappropriate|prohibited|disallowed|moderat\w+|unsafe|harmful|sensitive|objectionable"
    r"|filtered|risk\w*|against|offensive|potentially)"
)
"""Words for a judgment that only content can receive (`harmful`, `flagged`)."""
_VERDICT = rf"(?:{_FINDING}|blocked|rejected|limited|not allowed|refus\w+|declined|denied)"
"""Words for a judgment of content or, ambiguously, of an API call (`blocked`, `denied`)."""
_CONTENT_RULE = (
    r"(?:(?:usage|content|use|safety)[ _]?(?:management[ _]?)?(?:polic(?:y|ies)|guidelines?|rules?|standards?)"
    r"|(?:content|safety|prompt|input|output|text|ai)[- ](?:filter\w*|system|reasons?|concerns?|grounds|risks?|check\w*"
    r"|settings?|safety"
    r"|classifier)"
    r"|moderation|responsible ai|guardrails?|safeguards?|community (?:guidelines|standards)|terms of (?:service|use)"
    r"|prohibited_content|harmful|abuse|abusive|unsafe|inappropriate|sensitive (?:content|words?|topics?|information)"
    r"|cyber\w*|biolog\w*|weapons?|illegal|violence|hate)"
)
"""Names of rules that concern content only (`content policy`)."""
_RULE = r"(?:polic(?:y|ies)|guidelines?|safety|terms|inspection|compliance|regulations|laws?|blocklist|sensitive)"
"""Names of rules that may also concern access, networks, plans or regions (`policy`, `terms`)."""


def _elements(*patterns: str) -> tuple[re.Pattern[str], ...]:
    return tuple(regex(rf"\b{pattern}\b") for pattern in patterns)


REFUSAL_PATTERN_TRIPLES = (_elements(_CONTENT, _VERDICT, _CONTENT_RULE), _elements(_TEXT, _FINDING, _RULE))
"""Groups of three patterns: subject, verdict and reason. A sentence in which all three match is a refusal (xAI 403,
Azure, OpenRouter 403, Groq, OpenAI, Bedrock guardrails; 2026-11). `Request blocked by policy` does not match, because
networks send it for access rules (403 texts of Cloudflare, AWS and Google; 2026-11)."""
REFUSAL_TEXTS = (
    # DashScope (2026-11)
    regex(r"\b(?:inappropriate|sensitive|unsafe|harmful|prohibited|objectionable) (?:content|input|text|prompt)"),
    regex(rf"\b{_CONTENT}\b[^.\n]{{0,40}}\b(?:was|were|been|is|be) flagged\b"),  # OpenRouter 403, Mistral (2026-11)
    # gateways with lists of words (2026-11)
    regex(r"\bcontains? (?:\w+ ){0,3}(?:words?|terms|phrases|topics)\b[^.\n]{0,40}\b(?:blocked|banned|not allowed)\b"),
    regex(r"\bcontent exists? risk"),  # DeepSeek 400: Content Exists Risk (2026-11)
    regex(r"\b(?:failed check: )?safety_check_type"),  # xAI 403 (2026-11)
    # Azure, OpenAI (2026-11)
    regex(r"\b(?:blocked|rejected|stopped|filtered) by (?:our |the |a )?(?:safety|content|moderation)"),
    regex(r"\bdata inspection failed|\bdata may contain inappropriate"),  # DashScope: data_inspection_failed (2026-11)
    # Gemini (2026-11)
    regex(r"\b(?:blocked|finish) ?reason:? (?:safety|prohibited_content|blocklist|spii|recitation)\b"),
    # OpenAI, Codex (2026-11)
    regex(r"\bcyber(?:security)? (?:policy|risk|misuse)|\bflagged\b[^.\n]{0,60}\b(?:cyber\w*|bio\w*)"),
    # Moonshot (2026-11)
    regex(r"\b(?:high|new)[ _]?risk\b[^.\n]{0,40}\brejected|\brejected\b[^.\n]{0,40}\b(?:high|considered) risk"),
    # MiniMax: input new_sensitive (1026); moderation by category (2026-11)
    regex(r"new_?sensitive|\b(?:hate speech|violence|self-harm|sexual content)\b[^.\n]{0,30}\b(?:detected|found)"),
    # StepFun (451), also through OpenRouter (2026-11)
    regex(r"\bcontent you provided or (?:the )?machine output(?:ted)? is blocked"),
    regex("敏感内容|不安全|违规|内容安全|敏感信息"),  # Z.ai and BigModel 1301, Qianfan, Volcengine (2026-11)
)
"""Error texts of a refusal because of content. One match in a sentence suffices."""
REFUSAL_CODES = regex(  # OpenAI, Azure, DashScope, Mistral, Moonshot, Volcengine, StepFun: error codes (2026-11)
    r"content_?policy|content_?filter|content_?moderation|moderation_?(?:blocked|failed|error|flagged)|invalid_prompt"
    r"|bio_?policy|cyber_?policy|misalignment_?policy|policy_violation|responsibleaipolicy|data_?inspection_?failed"
    r"|content_?safety|safety_?(?:check|violation|block)|sensitive_?(?:content|words|information)|prompt_?blocked"
    r"|prohibited_content|usage_?guidelines|unsafe_?content|datainspectionfailed|guardrail_?interven|censorship_?block"
)
_SENTENCE_END = re.compile(r"[.!?;]\s|\n")
_FLAGGED_PARAMETER = "safety_identifier"
"""Parameter that OpenAI names in a refusal because of cyber risk (Codex logs, read 2026-11)."""
_FILTERED_CODE = "1301"
"""Code of Z.ai and BigModel for filtered content. The body also has `contentFilter` (docs.z.ai, errors, 2026-11)."""
_OTHER_SUBJECTS = re.compile(
    r"\b(?:unsupported|unknown|unrecognized|unexpected|not permitted|not supported|extra inputs|invalid type|api key"
    r"|(?:your|this) (?:account|organization|project|team)\b[^.\n]{0,60}\b(?:suspend\w*|deactivat\w*|disabled|banned"
    r"|blocked|terminated|violat\w*)|account (?:has been|is)|data policy|retention|privacy"
    r"|(?:accept\w*|agree\w*)\b[^.\n]{0,30}\bterms|roles?|max_\w+"
    r"|models? [\w./-]{1,80} (?:is |are )?(?:not|prohibited|denied)|rate[ _-]?limit|quota"
    r"|content-type|media type|no endpoints|accept the|string too long|must be|permission"
    r"|per minute|context (?:length|window)|ip address|vpc|firewall|country|region|retry|slow down"
    r"|too many requests)\b",
    re.IGNORECASE,
)
"""Subjects of errors that are not about content: accounts, parameters, networks, limits. A sentence that names one is
skipped."""
_ACCESS = re.compile(
    r"\b(?:verif(?:y|ied|ication)|(?:un|not )authori[sz]ed|authenticat\w+|administrator|subscription|not found|waf"
    r"|(?:access|access control|security|egress|network|organization|resource|tool|budget|identity-based)"
    r" (?:rules?|polic(?:y|ies)))\b",
    re.IGNORECASE,
)
"""Words for conditions of access. If the error text contains one, `REFUSAL_PATTERN_TRIPLES` is not searched."""


def is_policy_refusal(fault: UpstreamFault) -> bool:
    if fault.status in (401, 402):
        return False
    if REFUSAL_CODES.search(" ".join(fault.codes)):
        return True
    if fault.parameter == _FLAGGED_PARAMETER and fault.message:
        return not _OTHER_SUBJECTS.search(f"{fault.message} {' '.join(fault.codes).replace('_', ' ')}")
    if _FILTERED_CODE in fault.codes and fault.is_content_filtered:
        return True
    sentences = [one for one in _SENTENCE_END.split(fault.message) if not _OTHER_SUBJECTS.search(one)]
    if any(matches_any(REFUSAL_TEXTS, sentence) for sentence in sentences):
        return True
    return not _ACCESS.search(fault.message) and any(
        all(pattern.search(sentence) for pattern in triple)
        for sentence in sentences
        for triple in REFUSAL_PATTERN_TRIPLES
    )


_USED_UP = (
    r"(?:depleted|exhausted|used up|run out|ran out|insufficient|exceeded|reached|too low|empty|negative|expired|spent)"
)
BILLING_TEXTS = (
    # Anthropic, OpenAI (2026-11)
    regex(r"\bcredit balance\b|\bspending (?:limit|cap)\b|\bpayment (?:is )?required\b|\bin arrears\b"),
    # DeepSeek, OpenAI (2026-11)
    regex(r"\binsufficient[ _](?:balance|funds|credits?|quota)|\bnot enough (?:balance|credits?|funds)"),
    # Gemini: prepayment credits are depleted; OpenRouter, xAI (2026-11)
    regex(rf"\b(?:credits?|balance|prepayment|pre-?paid|funds|wallet)\b[^.\n]{{0,40}}\b{_USED_UP}\b"),
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
        r"\b(?:reached|exceeded|exhausted|hit|used|expired)\b"
    ),
    # Ollama's cloud: you have reached your hourly usage limit (2026-11)
    regex(
        rf"\b(?:reached|exceed(?:s|ed)|exhausted|hit|used)\b[^.\n]{{0,40}}\b{_PERIOD}\b[^.\n]{{0,30}}"
        r"\b(?:limit|quota|allowance|cap|usage)\b"
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
    """Return the kind of quota that is used up. None: the error has another cause."""
    if fault.status not in _STATUSES:
        return None
    is_short = _SHORT.search(fault.message) is not None
    if fault.codes & BILLING_CODES or (not is_short and matches_any(BILLING_TEXTS, fault.message)):
        return "billing"
    if _NOTHING.search(fault.message):
        return "allowance"
    if is_short or (fault.retry_after or _LONG_SECONDS) < _LONG_SECONDS:
        return None
    return "allowance" if fault.codes & ALLOWANCE_CODES or matches_any(ALLOWANCE_TEXTS, fault.message) else None
