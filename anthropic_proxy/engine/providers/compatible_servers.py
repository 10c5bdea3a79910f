"""`OPENAI_SERVERS`: the servers that `OPENAI_BASE_URL` can select, and how they deviate from OpenAI's own API.

Values without a named source are from the API reference of the server, read 2026-11. docs/guide/providers.md, "Servers
with the Chat Completions API", has the settings of each server.
"""

from msgspec import structs

from anthropic_proxy.engine.providers import anthropic as messages
from anthropic_proxy.engine.providers import openai_chat as chat
from anthropic_proxy.engine.providers.open_models import (
    MISTRAL_RULES,
    OPEN_MODEL_RULES,
    REPLAY_RULES,
    UNKNOWN,
    UNKNOWN_RESPONSES,
    UNOPENED_RULES,
)
from anthropic_proxy.engine.providers.registry import (
    Provider,
    ServerOverride,
    WireConfig,
    build_model_rules,
    build_retired_models,
)
from anthropic_proxy.engine.providers.vendors import VENDORS
from anthropic_proxy.engine.wires import openai_chat

_MISTRAL_REASONS = {
    "effort_form": "reasoning_effort",
    "replayed_thinking_field": "content",
}
_MISTRAL_REASONING_RULES = build_model_rules(
    "docs.mistral.ai/inference/conversations/reasoning; vercel/ai packages/mistral",
    "2026-11-20",
    ("mistral-small-*", _MISTRAL_REASONS),
    ("mistral-medium-*", _MISTRAL_REASONS),
    ("mistral-large-[4-9]*", _MISTRAL_REASONS),
)
"""Rules for the reasoning of Mistral models, later ones included. Models without efforts receive no effort."""
_GLM_WITH_LEVELS = {"effort_form": "thinking_and_effort"}
_GLM_ALWAYS_THINKING = {
    **_GLM_WITH_LEVELS,
    "reasoning_mode": "always",
    "effort_names": (("minimal", "low"), ("medium", "high"), ("xhigh", "max")),
}
_GLM_RULES = build_model_rules(
    "docs.z.ai/api-reference/llm/chat-completion; pydantic-ai profiles/zai.py",
    "2026-11-20",
    ("glm-5.2*", _GLM_WITH_LEVELS),
    ("glm-5.[3-9]*", _GLM_ALWAYS_THINKING),
    ("glm-[6-9]*", _GLM_ALWAYS_THINKING),
    ("glm-[1-9][0-9]*", _GLM_ALWAYS_THINKING),
)
"""Rules for Z.ai models. The minimum effort of glm-5.3 is `low`, because only the coding plan can disable thinking."""
_CACHED_ON_REQUEST = build_model_rules(
    "openrouter.ai/docs/guides/best-practices/prompt-caching",
    "2026-11-20",
    *(
        (name, {"sends_cache_marks": True})
        for name in ("anthropic/*", "~anthropic/*", "qwen/*", "~qwen/*", "alibaba/*")
    ),
)
_AZURE_RESPONSES = structs.replace(
    UNKNOWN_RESPONSES, dialect=structs.replace(UNKNOWN_RESPONSES.dialect, session_field="prompt_cache_key")
)

_DEEPSEEK = openai_chat.Dialect(
    signature_tag="ds",
    output_limit_field="max_tokens",
    effort_form="thinking_and_effort",
    reasoning_mode="unless_off",
    replayed_thinking_field="reasoning_content",
    thinking_replay_scope="every",
    accepts_forced_tool="not_thinking",
    reply_schema_form="json_object",
    sends_strict=False,
    sends_parallel_tool_calls=False,
)
_OPENROUTER_SEARCH = (
    ("max_uses", "max_uses"),
    ("allowed_domains", "allowed_domains"),
    ("blocked_domains", "excluded_domains"),
    ("user_location", "user_location"),
)
"""Pairs of client option and OpenRouter option for web search.

Source: `pydantic/pydantic-ai`, cassette test_openrouter_web_search_tool_full_params, 2026-08.
"""
_DEEPSEEK_RULES = build_model_rules(
    "api-docs.deepseek.com/guides/thinking_mode",
    "2026-11",
    ("deepseek-chat*", {"effort_form": "omit", "reasoning_mode": "never"}),
)

# The first two names are rejected. The successor serves the others.
_DEEPSEEK_RETIRED = build_retired_models(
    "api-docs.deepseek.com/quick_start/pricing",
    "2026-11-20",
    ("2026-07-24", "deepseek-flash", ("deepseek-chat", "deepseek-reasoner")),
    ("2026-09-10", "deepseek-flash", ("deepseek-v4-flash", "deepseek-v4-flash-vision-exp")),
)


def _as_server(provider: Provider, *url_patterns: str) -> ServerOverride:
    """Return the server entry by which `OPENAI_BASE_URL` can select a provider of the registry, such as Groq."""
    return ServerOverride(
        name=provider.name,
        url_patterns=url_patterns,
        wires=provider.wires,
        models_table=provider.name,
        retired_models=provider.retired_models,
        title=provider.title,
    )


OPENAI_SERVERS = (
    ServerOverride(
        name="openai",
        url_patterns=("*.api.openai.com/*",),
        docs_url="https://platform.openai.com/docs/guides/your-data",
    ),
    ServerOverride(
        name="azure",
        url_patterns=("*.openai.azure.com/*", "*.cognitiveservices.azure.com/*", "*.services.ai.azure.com/*"),
        wires={
            "chat": WireConfig(
                wire=openai_chat.WIRE,
                dialect=openai_chat.Dialect(signature_tag="azure", session_field="prompt_cache_key"),
                model_rules=chat.OPENAI.model_rules,
            ),
            "responses": _AZURE_RESPONSES,
        },
        key_header="api-key",
        key_source="azure_openai",
        docs_url="https://learn.microsoft.com/azure/foundry/openai/api-version-lifecycle",
    ),
    ServerOverride(
        name="deepseek_beta",
        url_patterns=("api.deepseek.com/beta/*",),
        wires={
            "chat": WireConfig(
                wire=openai_chat.WIRE,
                dialect=structs.replace(_DEEPSEEK, prefill_form="prefix"),
                model_rules=_DEEPSEEK_RULES,
            ),
            "messages": messages.DEEPSEEK,
        },
        models_table="deepseek",
        retired_models=_DEEPSEEK_RETIRED,
        title="DeepSeek",
        docs_url="https://api-docs.deepseek.com/guides/chat_prefix_completion",
    ),
    ServerOverride(
        name="deepseek",
        url_patterns=("api.deepseek.com/*",),
        wires={
            "chat": WireConfig(wire=openai_chat.WIRE, dialect=_DEEPSEEK, model_rules=_DEEPSEEK_RULES),
            "messages": messages.DEEPSEEK,
        },
        models_table="deepseek",
        retired_models=_DEEPSEEK_RETIRED,
        title="DeepSeek",
        docs_url="https://api-docs.deepseek.com/guides/thinking_mode",
    ),
    ServerOverride(
        name="openrouter",
        url_patterns=("openrouter.ai/*",),
        wires={
            "chat": WireConfig(
                wire=openai_chat.WIRE,
                dialect=openai_chat.Dialect(
                    signature_tag="openrouter",
                    effort_form="reasoning",
                    replays_reasoning_details=True,
                    server_tools=("web_search",),
                    server_tool_names=(("web_search", "openrouter:web_search"),),
                    server_tool_setting_names=_OPENROUTER_SEARCH,
                    sends_top_k=True,
                    accepts_pdf_urls=True,
                    session_field="session_id",
                ),
                model_rules=(*MISTRAL_RULES, *_CACHED_ON_REQUEST),
            )
        },
        capabilities={"efforts": ("none", "minimal", "low", "medium", "high", "xhigh", "max")},
        accepts_pdf=True,
        docs_url="https://openrouter.ai/docs/use-cases/reasoning-tokens",
    ),
    ServerOverride(
        name="mistral",
        url_patterns=("api.mistral.ai/*", "codestral.mistral.ai/*"),
        wires={
            "chat": WireConfig(
                wire=openai_chat.WIRE,
                dialect=openai_chat.Dialect(
                    signature_tag="mistral",
                    session_field="prompt_cache_key",
                    output_limit_field="max_tokens",
                    mid_conversation_system="remind",
                    call_id_form="nine",
                    requires_message_after_results=True,
                    prefill_form="prefix",
                    sends_include_usage=False,
                    pdf_form="document_url",
                    accepts_pdf_urls=True,
                ),
                model_rules=_MISTRAL_REASONING_RULES,
            )
        },
        models_table="mistral",
        docs_url="https://docs.mistral.ai/api",
    ),
    ServerOverride(
        name="zai",
        url_patterns=("api.z.ai/*", "open.bigmodel.cn/*"),
        wires={
            "chat": WireConfig(
                wire=openai_chat.WIRE,
                dialect=openai_chat.Dialect(
                    signature_tag="zai",
                    output_limit_field="max_tokens",
                    effort_form="thinking",
                    reasoning_mode="unless_off",
                    thinking_retention_field="clear_thinking",
                    replayed_thinking_field="reasoning_content",
                    accepts_forced_tool="never",
                    reply_schema_form="json_object",
                    sends_strict=False,
                    sends_parallel_tool_calls=False,
                    sends_tool_stream=True,
                ),
                model_rules=_GLM_RULES,
            ),
            "messages": messages.ZAI,
        },
        models_table="zai",
        docs_url="https://docs.z.ai/api-reference/llm/chat-completion",
    ),
    ServerOverride(
        name="gemini",
        url_patterns=("generativelanguage.googleapis.com/*",),
        wires={
            "chat": WireConfig(
                wire=openai_chat.WIRE,
                dialect=openai_chat.Dialect(
                    signature_tag="gemchat",
                    effort_form="reasoning_effort",
                    sends_parallel_tool_calls=False,
                ),
            )
        },
        capabilities={"efforts": ("low", "medium", "high")},
        docs_url="https://ai.google.dev/gemini-api/docs/openai",
    ),
    _as_server(chat.GROQ, "api.groq.com/*"),
    _as_server(chat.MOONSHOT, "api.moonshot.ai/*", "api.moonshot.cn/*"),
    _as_server(chat.XAI, "api.x.ai/*"),
    *VENDORS,
    ServerOverride(
        name="local",
        url_patterns=(
            *("localhost/*", "localhost:*", "127.*", "[[]::1]*", "host.docker.internal*", "host.containers.internal*"),
            *("10.*", "192.168.*", "172.1[6-9].*", "172.2?.*", "172.3[01].*", "*.local/*", "*.local:*"),
        ),
        wires={
            "chat": WireConfig(
                wire=openai_chat.WIRE,
                dialect=structs.replace(
                    UNKNOWN,
                    signature_tag="local",
                    replayed_thinking_field="both",
                    buffers_tool_arguments=True,
                    sends_top_k=True,
                ),
                model_rules=(*UNOPENED_RULES, *OPEN_MODEL_RULES),
            ),
            "responses": UNKNOWN_RESPONSES,
        },
        docs_url="https://docs.vllm.ai/en/latest/serving/openai_compatible_server",
    ),
    ServerOverride(
        name="other",
        url_patterns=("*",),
        wires={
            "chat": WireConfig(wire=openai_chat.WIRE, dialect=UNKNOWN, model_rules=(*REPLAY_RULES, *OPEN_MODEL_RULES)),
            "responses": UNKNOWN_RESPONSES,
        },
    ),
)
"""Servers for `OPENAI_BASE_URL`. The first match of `url_patterns` applies. The last entry matches every URL."""
