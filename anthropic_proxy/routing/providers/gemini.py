"""Wire configs of the Gemini API in AI Studio and Vertex AI, with model rules."""

from anthropic_proxy.routing.providers.registry import WireConfig, rules_from
from anthropic_proxy.wire import gemini

_BEFORE_3 = {
    "sends_sampling": True,
    "requires_signatures": False,
    "sends_call_ids": False,
    "accepts_media_in_results": False,
    "accepts_schema_with_functions": False,
    "server_tools_exclusive": True,
}
_BEFORE_2_5 = {**_BEFORE_3, "thinking": "none", "file_urls": False}
_RULES = rules_from(
    "ai.google.dev/gemini-api/docs/models; docs.cloud.google.com/gemini-enterprise-agent-platform/models/guides",
    "2026-11-20",
    ("gemini-[4-9]*", {"always_stream": True, "accepts_continuation": True}),
    ("gemini-*-latest", {"always_stream": True, "accepts_continuation": True}),
    ("gemini-2.5*", {**_BEFORE_3, "thinking": "budget"}),
    ("gemini-2.5-pro*", {"max_budget_tokens": 32_768}),
    ("gemini-2.5-flash-lite*", {"min_budget_tokens": 512}),
    ("gemini-2.0*", _BEFORE_2_5),
    ("gemini-1.*", {**_BEFORE_2_5, "schema_form": "lowered"}),
    ("gemma-*", {**_BEFORE_3, "file_urls": False}),
    ("gemma-3*", {"thinking": "none"}),
)

AI_STUDIO = WireConfig(wire=gemini, dialect=gemini.Dialect(), model_rules=_RULES)
VERTEX_URLS = (
    ("global", "https://aiplatform.googleapis.com/v1"),
    ("us", "https://aiplatform.us.rep.googleapis.com/v1"),
    ("eu", "https://aiplatform.eu.rep.googleapis.com/v1"),
    ("*", "https://{location}-aiplatform.googleapis.com/v1"),
)
"""Location pattern → base URL. `us` and `eu` span several regions. Source: "Locations", 2026-11."""
VERTEX = WireConfig(
    wire=gemini,
    dialect=gemini.Dialect(
        signature_tag="vtx",
        search_with_functions="plain",
        accepts_excluded_domains=True,
        continuation_version="/v1beta1",
    ),
    model_rules=_RULES,
)
