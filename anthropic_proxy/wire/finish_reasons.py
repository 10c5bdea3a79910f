"""Kinds of finish reasons in all protocols. Servers use each other's values, and new ones.

Sources of the values (read 2026-11-20): vLLM `v1/engine/__init__.py` (abort, error, repetition); SGLang (abort); Z.ai's
Chat Completion reference (sensitive, model_context_window_exceeded, network_error); vercel/ai
`map-mistral-finish-reason.ts` (model_length); DeepSeek's API reference (insufficient_system_resource); TGI (eos_token);
LM Studio's SDK (contextLengthReached, maxPredictedTokensReached); Cohere (MAX_TOKENS); OpenRouter's SDK (error).
"""

import re
from functools import lru_cache
from typing import Literal

Kind = Literal["end", "calls", "limit", "window", "blocked", "failed", "unknown"]
"""`end`, `calls`: the reply is complete. `limit`, `window`: it was cut at the output limit, or at the full context
window. `blocked`: the provider declined to continue. `failed`: the server did not finish it. `unknown`: any other."""

_MAX_CHARACTERS = 100
_KINDS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("end", re.compile(r"^(?:stop|end|eos)(?:_?(?:turn|token|sequence|string|stringfound|found))?$|^completed?$")),
    ("calls", re.compile(r"^(?:tool|function)_?(?:calls?|use)$")),
    ("window", re.compile(r"context|model_length|window")),
    ("blocked", re.compile(r"filter|sensitiv|safety|block|moderat|guardrail|refus|prohibit|recitation|policy")),
    (
        "failed",
        re.compile(r"error|abort|cancel|fail|insufficient|interrupt|time(?:d_)?out|unavailable|overload|rate_?limit"),
    ),
    ("limit", re.compile(r"length|max_?[a-z_]*tokens|token_?limit|output_?limit|truncat|repetition")),
)
"""Kind → pattern for the reason in lower case. The first match counts."""


def finish_kind(reason: str) -> Kind:
    """Return the kind of a finish reason."""
    return _finish_kind(reason[:_MAX_CHARACTERS])


@lru_cache(maxsize=64)
def _finish_kind(reason: str) -> Kind:
    word = reason.lower().replace("-", "_").replace(" ", "_")
    return next((kind for kind, pattern in _KINDS if pattern.search(word)), "unknown")
