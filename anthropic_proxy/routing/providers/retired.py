"""Models that providers have retired or renamed, or will on a day that they have told, and what they advise instead.

Only what is surely known, of the defaults and of what users of the lists may have set. Read 2026-11.
"""

from anthropic_proxy.routing.providers.rows import Retired

_OPENAI_2026_10 = ("gpt-4", "gpt-4-turbo", "o1", "o3-mini")
_OPENAI_2027_01 = ("gpt-4.1", "gpt-4.1-mini", "gpt-4o", "gpt-4o-mini")

OPENAI = {
    **dict.fromkeys(_OPENAI_2026_10, Retired(since="2026-10-23", successor="gpt-5.6-sol")),
    **dict.fromkeys(("gpt-3.5-turbo", "o4-mini"), Retired(since="2026-10-23", successor="gpt-5.6-terra")),
    **dict.fromkeys(("gpt-5", "o3"), Retired(since="2026-12-11", successor="gpt-5.6-sol")),
    **dict.fromkeys(_OPENAI_2027_01, Retired(since="2027-01-14", successor="gpt-6-luna")),
}
"""Source: developers.openai.com/api/docs/deprecations."""

GOOGLE = {
    "gemini-2.5-pro-preview-03-25": Retired(since="2025-12-02", successor="gemini-3.1-pro-preview"),
    "gemini-2.0-flash": Retired(since="2026-06-01", successor="gemini-3.1-flash-lite"),
    "gemini-2.5-pro": Retired(since="2026-12-01", successor="gemini-3.8-flash"),
    "gemini-2.5-flash": Retired(since="2026-12-01", successor="gemini-3.5-flash-lite"),
}
"""Source: ai.google.dev/gemini-api/docs/deprecations; of 2.0 firebase.google.com/docs/ai-logic."""

VERTEX = {
    **GOOGLE,
    "gemini-2.5-pro": Retired(since="2026-10-16", successor="gemini-3.5-flash"),
    "gemini-2.5-flash": Retired(since="2026-10-16", successor="gemini-3.5-flash-lite"),
}
"""Source: docs.cloud.google.com/gemini-enterprise-agent-platform/models/model-versions."""

GROQ = {
    "llama-3.3-70b-versatile": Retired(since="2026-08-16", successor="openai/gpt-oss-120b"),
    "llama-3.1-8b-instant": Retired(since="2026-08-16", successor="openai/gpt-oss-20b"),
    "meta-llama/llama-4-scout-17b-16e-instruct": Retired(since="2026-07-17", successor="openai/gpt-oss-120b"),
    "meta-llama/llama-4-maverick-17b-128e-instruct": Retired(since="2026-03-09", successor="openai/gpt-oss-120b"),
}
"""Source: console.groq.com/docs/deprecations. Customers with a contract may keep the first two."""

_KIMI_K2 = Retired(since="2026-05-25", successor="kimi-k2.6")
MOONSHOT = {
    **dict.fromkeys(("kimi-k2-base", "kimi-k2-instruct", "kimi-k2-0711-preview", "kimi-k2-0905-preview"), _KIMI_K2),
    **dict.fromkeys(("kimi-k2-turbo-preview", "kimi-k2-thinking", "kimi-k2-thinking-turbo"), _KIMI_K2),
    "kimi-k2.5": Retired(since="2026-08-31", successor="kimi-k2.6"),
}
"""Source: platform.kimi.ai/docs/models."""

XAI = {
    **dict.fromkeys(
        ("grok-3", "grok-3-beta", "grok-3-mini", "grok-3-mini-beta", "grok-code-fast-1"),
        Retired(since="2026-05-15", successor="grok-4.3"),
    ),
}
"""Source: docs.x.ai/developers/migration/may-15-retirement, and models/grok-4.3 on the names that lead there."""
