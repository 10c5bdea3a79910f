"""How Google's two doors, and by pattern the models behind them, speak Gemini. The fields say why."""

from anthropic_proxy.routing.providers.rows import Speech
from anthropic_proxy.wire import gemini

_BEFORE_3 = {
    "says_sampling": True,
    "needs_signatures": False,
    "says_call_ids": False,
    "results_hold_media": False,
    "json_with_functions": False,
    "server_tools_alone": True,
}
_BEFORE_2_5 = {**_BEFORE_3, "thinking": "none", "file_urls": False}
_RULES = (
    ("gemini-4*", {"streams_always": True, "continues": True}),
    ("gemini-2.5*", {**_BEFORE_3, "thinking": "budget"}),
    ("gemini-2.5-pro*", {"most_budget": 32_768}),
    ("gemini-2.5-flash-lite*", {"least_budget": 512}),
    ("gemini-2.0*", _BEFORE_2_5),
    ("gemini-1*", {**_BEFORE_2_5, "schema_style": "lowered"}),
    ("gemma-*", {**_BEFORE_3, "file_urls": False}),
    ("gemma-3*", {"thinking": "none"}),
)

AI_STUDIO = Speech(wire=gemini, dialect=gemini.Dialect(), model_rules=_RULES)
VERTEX_URLS = (
    ("global", "https://aiplatform.googleapis.com/v1"),
    ("us", "https://aiplatform.us.rep.googleapis.com/v1"),
    ("eu", "https://aiplatform.eu.rep.googleapis.com/v1"),
    ("*", "https://{location}-aiplatform.googleapis.com/v1"),
)
"""Locations → where they are served ("Locations", 2026-11): us and eu span several regions."""
VERTEX = Speech(
    wire=gemini,
    dialect=gemini.Dialect(
        carry_tag="vtx", search_with_functions="plain", search_exclusions=True, continuation_version="/v1beta1"
    ),
    model_rules=_RULES,
)
