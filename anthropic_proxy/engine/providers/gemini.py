"""Registry entries of the two providers with the Gemini API: `GOOGLE` (AI Studio) and `VERTEX` (Vertex AI).

A registry entry (`Provider`) has the addresses, keys, models and APIs of a provider. For an API, the dialect lists the
deviations of the provider. Model rules change the dialect for some models.
"""

from anthropic_proxy.engine.providers.clouds import VERTEX_CLAUDE
from anthropic_proxy.engine.providers.registry import Provider, WireConfig, build_model_rules, build_retired_models
from anthropic_proxy.engine.wires import gemini

_BEFORE_3 = {
    "sends_sampling": True,
    "requires_signatures": False,
    "sends_call_ids": False,
    "accepts_media_in_results": False,
    "accepts_schema_with_functions": False,
    "server_tools_exclusive": True,
    "searches_billed_per_reply": True,
}
_BEFORE_2_5 = {**_BEFORE_3, "thinking": "none", "accepts_file_urls": False}
_RULES = build_model_rules(
    "ai.google.dev/gemini-api/docs/models; docs.cloud.google.com/gemini-enterprise-agent-platform/models/guides",
    "2026-11-20",
    ("gemini-[4-9]*", {"always_stream": True, "accepts_continuation": True}),
    ("gemini-[1-9][0-9]*", {"always_stream": True, "accepts_continuation": True}),
    ("gemini-*-latest", {"always_stream": True, "accepts_continuation": True}),
    ("gemini-2.5*", {**_BEFORE_3, "thinking": "budget"}),
    ("gemini-2.5-pro*", {"max_budget_tokens": 32_768}),
    ("gemini-2.5-flash-lite*", {"min_budget_tokens": 512}),
    ("gemini-2.0*", _BEFORE_2_5),
    ("gemini-1.*", {**_BEFORE_2_5, "schema_form": "lowered"}),
    ("gemma-*", {**_BEFORE_3, "accepts_file_urls": False}),
    ("gemma-3*", {"thinking": "none"}),
)

_COUNT_PATHS = ("/models/{model}:countTokens",)
_AI_STUDIO_WIRE = WireConfig(wire=gemini.WIRE, dialect=gemini.Dialect(count_paths=_COUNT_PATHS), model_rules=_RULES)
_VERTEX_URLS = (
    ("global", "https://aiplatform.googleapis.com/v1"),
    ("us", "https://aiplatform.us.rep.googleapis.com/v1"),
    ("eu", "https://aiplatform.eu.rep.googleapis.com/v1"),
    ("*", "https://{location}-aiplatform.googleapis.com/v1"),
)
"""Pairs of `VERTEX_LOCATION` pattern and base URL. `us` and `eu` span several regions.

Source: "Locations" of the Vertex AI documentation, 2026-11.
"""
_VERTEX_WIRE = WireConfig(
    wire=gemini.WIRE,
    dialect=gemini.Dialect(
        signature_tag="vtx",
        search_with_functions="plain",
        accepts_excluded_domains=True,
        continuation_version="/v1beta1",
        count_paths=_COUNT_PATHS,
        counts_whole_request=False,
    ),
    model_rules=_RULES,
)
_NOW = (
    *("gemini-2.5-pro", "gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-3-flash-preview"),
    *("gemini-3.1-pro-preview", "gemini-3.1-flash-lite", "gemini-3.5-flash", "gemini-3.5-flash-lite"),
    *("gemini-3.6-flash", "gemini-3.7-flash", "gemini-3.8-flash", "gemini-4-argon"),
    *("gemini-4-carbon", "gemini-4-hydrogen", "gemini-4-neon"),
    *("gemini-flash-latest", "gemini-flash-lite-latest", "gemini-pro-latest"),
)
_RETIRED = {
    **build_retired_models(
        "ai.google.dev/gemini-api/docs/deprecations",
        "2026-11",
        ("2025-12-02", "gemini-3.1-pro-preview", ("gemini-2.5-pro-preview-03-25", "gemini-2.5-pro-preview-05-06")),
        ("2025-12-02", "gemini-3.1-pro-preview", ("gemini-2.5-pro-preview-06-05",)),
        ("2026-03-09", "gemini-3.1-pro-preview", ("gemini-3-pro-preview",)),
        ("2026-12-01", "gemini-3.8-flash", ("gemini-2.5-pro",)),
        ("2026-12-01", "gemini-3.5-flash-lite", ("gemini-2.5-flash",)),
    ),
    **build_retired_models(
        "firebase.google.com/docs/ai-logic",
        "2026-11",
        ("2026-06-01", "gemini-3.1-flash-lite", ("gemini-2.0-flash", "gemini-2.0-flash-001")),
        ("2026-06-01", "gemini-3.1-flash-lite", ("gemini-2.0-flash-lite", "gemini-2.0-flash-lite-001")),
    ),
}

GOOGLE = Provider(
    name="google",
    prefix="gemini",
    vertex_provider="vertex",
    title="Google Gemini",
    keys_url="https://aistudio.google.com/apikey",
    env_prefix="GEMINI",
    wires={"gemini": _AI_STUDIO_WIRE},
    base_url="https://generativelanguage.googleapis.com/v1beta",
    default_url_path="/v1beta",
    base_url_variable="GEMINI_BASE_URL",
    key_variable="GEMINI_API_KEY",
    key_header="x-goog-api-key",
    key_scheme="",
    default_big_model="gemini-2.5-pro-preview-03-25",
    default_small_model="gemini-2.0-flash",
    model_id_patterns=("gemini-*", "gemma-*"),
    unknown_model_provider="openai",
    known_models=("gemini-2.5-pro-preview-03-25", "gemini-2.0-flash", *_NOW),
    retired_models=_RETIRED,
    docs_url="https://ai.google.dev/api/generate-content",
)
"""Registry entry of Google AI Studio, with an API key."""

VERTEX = Provider(
    name="vertex",
    prefix="vertex_ai",
    title="Vertex AI",
    env_prefix="VERTEX",
    wires={"gemini": _VERTEX_WIRE, "messages": VERTEX_CLAUDE},
    wire_rules=(("claude-*", "messages"),),
    base_url="https://aiplatform.googleapis.com/v1",
    host_patterns=("aiplatform.googleapis.com", "*-aiplatform.googleapis.com", "aiplatform.*.rep.googleapis.com"),
    regional_urls=_VERTEX_URLS,
    default_url_path="/v1",
    project_url_path="/projects/{project}/locations/{location}/publishers/google",
    base_url_variable="VERTEX_BASE_URL",
    key_source="google",
    key_required="never",
    default_big_model="gemini-2.5-pro-preview-03-25",
    default_small_model="gemini-2.0-flash",
    model_id_patterns=("gemini-*", "gemma-*"),
    known_models=(
        *("gemini-2.5-pro-preview-03-25", "gemini-2.5-flash-preview-04-17", "gemini-2.0-flash"),
        *("gemini-1.5-flash-preview-0514", "gemini-1.5-pro-preview-0514"),
        *_NOW,
    ),
    retired_models={
        **_RETIRED,
        **build_retired_models(
            "docs.cloud.google.com/gemini-enterprise-agent-platform/models/model-versions",
            "2026-11",
            ("2026-10-16", "gemini-3.5-flash", ("gemini-2.5-pro",)),
            ("2026-10-16", "gemini-3.5-flash-lite", ("gemini-2.5-flash",)),
        ),
    },
    docs_url="https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference",
)
"""Registry entry of Vertex AI, with a Google Cloud project and access tokens."""
