"""Errors that reject a parameter, the message role `developer`, or an effort (level of reasoning)."""

import re
from collections.abc import Container

from anthropic_proxy.engine.wires.failures.kinds import matches_any, regex

PARAMETER_REJECTION_TEXTS = (
    # OpenAI, vLLM, llama.cpp (2026-11)
    regex(
        r"\b(?:un)?(?:supported|known|recogni[sz]ed|expected|permitted|allowed|available|implemented)\b"
        r"|\bun(?:supported|known|recogni[sz]ed|expected|available)"
    ),
    # xAI, Groq (2026-11)
    regex(r"\b(?:not|n't|cannot|never) (?:be )?(?:support|accept|allow|permit|recogni|set|use|combin|specif)"),
    # Z.ai (2026-11)
    regex(
        r"\b(?:invalid|illegal|incorrect|forbidden|disallowed|deprecated|removed|not one of|not valid|incompatible"
        r"|extra|no such|rejected)\b"
    ),
    # Moonshot, DeepSeek (2026-11)
    regex(r"\b(?:must be|should be|has to be|only|out of range|does not exist|no longer)\b"),
)
"""Error texts that reject any parameter, value or role. Names are searched only in a text that matches one of them."""
ROLE_REJECTION_TEXTS = (
    regex(r"\bdeveloper\b"),  # Mistral, DeepSeek, Groq: the role is named (2026-11)
    # llama.cpp: chat templates (2026-11)
    regex(r"\b(?:unexpected|unknown|invalid|unsupported|illegal|incorrect)\b[^.\n]{0,30}\broles?\b"),
    # SGLang (2026-11)
    regex(r"\broles?\b[^.\n]{0,60}\b(?:must be|should be|expected|one of|not (?:supported|allowed|valid)|invalid)"),
)
"""Texts that reject the role `developer` of the first message, by name or as an unknown role."""
_ALTERNATION = re.compile(r"\balternat\w*|\brole ['\"`]?(?:user|assistant|tool)\b", re.IGNORECASE)
_WORD = re.compile(r"([`'\"]?)([A-Za-z_]\w*)([`'\"]?)(?:\s+(parameter|field|option|argument|property)\b)?")
_HUMP = re.compile(r"(?<=[a-z0-9])[A-Z]")
_LIST = re.compile(
    r"(?:\b(?:supported|allowed|valid|accepted|available|possible|permitted)(?: \w+){0,2}(?: are\b| is\b|:)"
    r"|\b(?:one of|use|must be|should be|expected|choose|either|only|options|try|among)\b"
    r"|(?<!not )\b(?:supports?|accepts?|allows?)\b)"
    r"(?=(.{0,300}))",
    re.IGNORECASE | re.DOTALL,
)
_LIST_ENDS = re.compile(r"\b(?:but|got|received|given|instead|was|found|does not|doesn't)\b|\.\s", re.IGNORECASE)
EFFORT_LEVELS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Effort levels of all providers, in ascending order."""
_LEVEL = re.compile(r"\b(none|minimal|low|medium|high|xhigh|max|default)\b(?![_-])", re.IGNORECASE)


def find_rejected_parameter(text: str, names: Container[str]) -> str | None:
    if not matches_any(PARAMETER_REJECTION_TEXTS, text):
        return None
    for opened, word, closed, noun in _WORD.findall(text):
        # `maxTokens` is read as `max_tokens`.
        name = _HUMP.sub(lambda hump: f"_{hump[0].lower()}", word)
        # A name that is also an ordinary word counts only in quotes, or before a word such as `parameter`.
        if name in names and ("_" in name or name == "temperature" or (opened and closed) or noun):
            return name
    return None


def rejects_developer_role(text: str) -> bool:
    return (
        matches_any(PARAMETER_REJECTION_TEXTS, text)
        and matches_any(ROLE_REJECTION_TEXTS, text)
        and not _ALTERNATION.search(text)  # the order of roles: `roles must alternate`
    )


def find_replacement_effort(text: str, requested: str, sent: str) -> str | None:
    listed: list[str] = []
    for match in _LIST.finditer(text):
        listed += [word.lower() for word in _LEVEL.findall(_LIST_ENDS.split(match[1], maxsplit=1)[0])]
    if requested not in EFFORT_LEVELS or sent in listed or not listed:
        return None
    supported = [level for level in EFFORT_LEVELS if level in listed]
    reasoning = [level for level in supported if level != "none"]
    if requested != "none" and not reasoning:
        return "default" if "default" in listed else next(iter(supported), None)
    below = [
        level for level in supported if EFFORT_LEVELS.index(level) < EFFORT_LEVELS.index(requested) and level != "none"
    ]
    # The next lower listed level, else the lowest one. `none` is chosen only if no other level is listed.
    return below[-1] if below else next(iter(reasoning or supported), None)
