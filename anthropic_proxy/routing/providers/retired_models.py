"""Retired and renamed models, with the announced date and the successor that the provider recommends.

Covers the default models and models that users may have configured.
"""

from collections.abc import Mapping

from anthropic_proxy.routing.providers.registry import RetiredModel


def _retire(source: str, read: str, *days: tuple[str, str, tuple[str, ...]]) -> Mapping[str, RetiredModel]:
    """Return model → retirement, from models grouped by date and successor."""
    return {
        model: RetiredModel(since=since, successor=successor, source=source, read=read)
        for since, successor, models in days
        for model in models
    }


OPENAI = _retire(
    "developers.openai.com/api/docs/deprecations",
    "2026-11",
    ("2026-10-23", "gpt-5.6-sol", ("gpt-4", "gpt-4-turbo", "o1", "o3-mini")),
    ("2026-10-23", "gpt-5.6-terra", ("gpt-3.5-turbo", "o4-mini")),
    ("2026-12-11", "gpt-5.6-sol", ("gpt-5", "o3")),
    ("2027-01-14", "gpt-6-luna", ("gpt-4.1", "gpt-4.1-mini", "gpt-4o", "gpt-4o-mini")),
)

GOOGLE = {
    **_retire(
        "ai.google.dev/gemini-api/docs/deprecations",
        "2026-11",
        ("2025-12-02", "gemini-3.1-pro-preview", ("gemini-2.5-pro-preview-03-25",)),
        ("2026-12-01", "gemini-3.8-flash", ("gemini-2.5-pro",)),
        ("2026-12-01", "gemini-3.5-flash-lite", ("gemini-2.5-flash",)),
    ),
    **_retire(
        "firebase.google.com/docs/ai-logic",
        "2026-11",
        ("2026-06-01", "gemini-3.1-flash-lite", ("gemini-2.0-flash",)),
    ),
}

VERTEX = {
    **GOOGLE,
    **_retire(
        "docs.cloud.google.com/gemini-enterprise-agent-platform/models/model-versions",
        "2026-11",
        ("2026-10-16", "gemini-3.5-flash", ("gemini-2.5-pro",)),
        ("2026-10-16", "gemini-3.5-flash-lite", ("gemini-2.5-flash",)),
    ),
}

# The first two remain available to customers with a contract.
GROQ = _retire(
    "console.groq.com/docs/deprecations",
    "2026-11",
    ("2026-08-16", "openai/gpt-oss-120b", ("llama-3.3-70b-versatile",)),
    ("2026-08-16", "openai/gpt-oss-20b", ("llama-3.1-8b-instant",)),
    ("2026-07-17", "openai/gpt-oss-120b", ("meta-llama/llama-4-scout-17b-16e-instruct",)),
    ("2026-03-09", "openai/gpt-oss-120b", ("meta-llama/llama-4-maverick-17b-128e-instruct",)),
)

# The K2 series ends with 2026. Accounts registered since 2026-10-31 cannot use it.
MOONSHOT = _retire(
    "platform.kimi.ai/docs/models; dev.to/aihubmix, Kimi K3.1 Pro migration guide",
    "2026-11-20",
    ("2026-05-25", "kimi-k3", ("kimi-k2-base", "kimi-k2-instruct", "kimi-k2-0711-preview", "kimi-k2-0905-preview")),
    ("2026-05-25", "kimi-k3", ("kimi-k2-turbo-preview", "kimi-k2-thinking", "kimi-k2-thinking-turbo")),
    ("2026-08-31", "kimi-k3", ("kimi-k2.5",)),
    ("2026-12-31", "kimi-k3", ("kimi-k2.6", "kimi-k2.7-code", "kimi-k2.7-code-highspeed")),
)

XAI = _retire(
    "docs.x.ai/developers/migration/may-15-retirement",
    "2026-11",
    ("2026-05-15", "grok-4.3", ("grok-3", "grok-3-beta", "grok-3-mini", "grok-3-mini-beta", "grok-code-fast-1")),
)

# The first two names are rejected. The successor serves the others.
DEEPSEEK = _retire(
    "api-docs.deepseek.com/quick_start/pricing",
    "2026-11-20",
    ("2026-07-24", "deepseek-flash", ("deepseek-chat", "deepseek-reasoner")),
    ("2026-09-10", "deepseek-flash", ("deepseek-v4-flash", "deepseek-v4-flash-vision-exp")),
)
