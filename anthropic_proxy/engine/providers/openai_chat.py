"""Registry entries of the providers with the API Chat Completions, and of the built-in demo.

A registry entry (`Provider`) has the addresses, keys, models and APIs of a provider. The dialect of a configuration
(`WireConfig`) lists the points in which the provider deviates from the API. Model rules change the dialect for some
models.
"""

from anthropic_proxy.engine.providers import anthropic as messages
from anthropic_proxy.engine.providers import openai_responses as responses
from anthropic_proxy.engine.providers.registry import Provider, WireConfig, build_model_rules, build_retired_models
from anthropic_proxy.engine.wires import openai_chat
from anthropic_proxy.engine.wires.json_schema import SchemaRules

_O_SERIES = {
    "system_role": "developer",
    "sampling_support": "never",
    "effort_form": "reasoning_effort",
    "reasoning_mode": "always",
    "sends_parallel_tool_calls": False,
}
_GPT_5 = {
    "system_role": "developer",
    "sampling_support": "not_thinking",
    "effort_form": "reasoning_effort",
    "effort_names": (("max", "xhigh"),),
    "reasoning_mode": "unless_off",
}
_GPT_5_CHAT = {
    "system_role": "system",
    "sampling_support": "always",
    "effort_form": "omit",
    "forced_effort_with_tools": "",
    "reasoning_mode": "never",
}
_GPT_6_WITHOUT_REASONING = {"accepts_tools": True, "forced_effort_with_tools": "none"}
_GROQ_GPT_OSS = {
    "effort_form": "reasoning_effort",
    "reasoning_mode": "always",
    "thinking_request_field": "include_reasoning",
    "replayed_thinking_field": "reasoning",
    "reply_schema_form": "json_schema",
}
_GROQ_OWN_TOOLS = {
    "server_tools": ("web_search", "code_execution"),
    "server_tools_exclusive": True,
    "server_tool_names": (("web_search", "browser_search"), ("code_execution", "code_interpreter")),
}
_GROQ_COMPOUND = {
    "server_tools": ("web_search", "web_fetch", "code_execution"),
    "server_tools_exclusive": True,
    "server_tool_names": (
        ("web_search", "web_search"),
        ("web_fetch", "visit_website"),
        ("code_execution", "code_interpreter"),
    ),
    "server_tool_form": "enabled",
    "server_tool_setting_names": (("allowed_domains", "include_domains"), ("blocked_domains", "exclude_domains")),
}
_GROQ_QWEN = {
    "effort_form": "reasoning_effort",
    "effort_names": (("low", "default"), ("medium", "default"), ("high", "default")),
    "reasoning_mode": "unless_off",
    "thinking_request_field": "reasoning_format",
}
_GROQ_QWEN_WITH_LEVELS = {**_GROQ_QWEN, "effort_names": ()}
_KIMI_K2_THINKING = {
    "reasoning_mode": "always",
    "replayed_thinking_field": "reasoning_content",
    "thinking_replay_scope": "calls",
    "call_id_form": "short",
}
_KIMI_THINKING = {
    "output_limit_field": "max_completion_tokens",
    "sampling_support": "never",
    "effort_form": "thinking",
    "reasoning_mode": "unless_off",
    "replayed_thinking_field": "reasoning_content",
    "thinking_replay_scope": "calls",
    "accepts_forced_tool": "not_thinking",
    "reply_schema_form": "json_schema",
}
_KIMI_K3 = {
    "effort_form": "reasoning_effort",
    "effort_names": (("medium", "high"), ("xhigh", "max")),
    "reasoning_mode": "always",
    "thinking_retention_field": "keep",
    "accepts_forced_tool": "any",
}

OPENAI_CHAT = WireConfig(
    wire=openai_chat.WIRE,
    dialect=openai_chat.Dialect(
        sends_user_id=True,
        sends_store=True,
        sends_service_tier=True,
        session_field="prompt_cache_key",
        prompt_settings=("reasoning_effort", "response_format"),
    ),
    model_rules=build_model_rules(
        "developers.openai.com/api/docs/guides/reasoning",
        "2026-11",
        ("o[1-9]*", _O_SERIES),
        ("gpt-[!a-z34]*", _GPT_5),
        ("gpt-5.[4-9]*", {"forced_effort_with_tools": "none"}),
        ("gpt-5*-chat*", _GPT_5_CHAT),
        ("gpt-[!a-z345]*", {"accepts_tools": False}),
        ("gpt-6-sol*", _GPT_6_WITHOUT_REASONING),
        ("gpt-6-luna*", _GPT_6_WITHOUT_REASONING),
    ),
)
"""Configuration of the API Chat Completions, for calls to OpenAI and to servers with the same API."""

_GROQ_AUDIO = ("whisper-large-v3", "whisper-large-v3-turbo", "distil-whisper-large-v3-en")
_GROQ_CHAT = WireConfig(
    wire=openai_chat.WIRE,
    dialect=openai_chat.Dialect(
        signature_tag="groq", omits_null_content=True, reply_schema_form="json_object", reply_schema_exclusive=True
    ),
    model_rules=(
        *build_model_rules(
            "console.groq.com/docs/reasoning",
            "2026-11",
            ("openai/gpt-oss*", {**_GROQ_GPT_OSS, **_GROQ_OWN_TOOLS}),
            ("groq/compound*", _GROQ_COMPOUND),
            ("compound-beta*", _GROQ_COMPOUND),
            ("qwen/qwen[3-9]*", _GROQ_QWEN_WITH_LEVELS),
            ("qwen-qwq*", {"thinking_request_field": "reasoning_format", "reasoning_mode": "always"}),
            ("deepseek-r1*", {"thinking_request_field": "reasoning_format", "reasoning_mode": "always"}),
        ),
        # these two return 400: "`reasoning_effort` must be one of `none` or `default`"
        *build_model_rules(
            "console.groq.com/docs/api-reference; models.dev providers/groq/models/qwen/qwen3-32b.toml",
            "2026-11-20",
            ("qwen/qwen3-*", _GROQ_QWEN),
            ("qwen/qwen3.[0-6]-*", _GROQ_QWEN),
        ),
    ),
)
GROQ = Provider(
    name="groq",
    prefix="groq",
    title="Groq",
    keys_url="https://console.groq.com/keys",
    env_prefix="GROQ",
    wires={"chat": _GROQ_CHAT},
    base_url="https://api.groq.com/openai/v1",
    base_url_variable="GROQ_BASE_URL",
    key_variable="GROQ_API_KEY",
    default_big_model="llama-3.3-70b-versatile",
    default_small_model="llama-3.1-8b-instant",
    known_models=(
        *("llama-3.3-70b-versatile", "llama-3.1-8b-instant", "llama3-70b-8192", "llama3-8b-8192", "gemma2-9b-it"),
        *("whisper-large-v3", "whisper-large-v3-turbo", "distil-whisper-large-v3-en", "llama-guard-3-8b"),
        *("meta-llama/llama-4-scout-17b-16e-instruct", "meta-llama/llama-4-maverick-17b-128e-instruct"),
        *("qwen-qwq-32b", "qwen-2.5-coder-32b", "qwen-2.5-32b", "deepseek-r1-distill-qwen-32b"),
        *("deepseek-r1-distill-llama-70b", "mistral-saba-24b", "llama-3.2-1b-preview", "llama-3.2-3b-preview"),
        *("llama-3.2-11b-vision-preview", "llama-3.2-90b-vision-preview", "llama-3.3-70b-specdec"),
        *("openai/gpt-oss-120b", "openai/gpt-oss-20b", "qwen/qwen3.8-27b", "qwen/qwen3.6-27b"),
    ),
    # The first two remain available to customers with a contract.
    retired_models=build_retired_models(
        "console.groq.com/docs/deprecations",
        "2026-11",
        ("2026-08-16", "openai/gpt-oss-120b", ("llama-3.3-70b-versatile",)),
        ("2026-08-16", "openai/gpt-oss-20b", ("llama-3.1-8b-instant",)),
        ("2026-07-17", "openai/gpt-oss-120b", ("meta-llama/llama-4-scout-17b-16e-instruct",)),
        ("2026-03-09", "openai/gpt-oss-120b", ("meta-llama/llama-4-maverick-17b-128e-instruct",)),
    ),
    non_chat_models=dict.fromkeys(_GROQ_AUDIO, "transcribes audio"),
    docs_url="https://console.groq.com/docs/api-reference",
)
"""Registry entry of Groq, a provider with the API Chat Completions."""

_MOONSHOT_CHAT = WireConfig(
    wire=openai_chat.WIRE,
    dialect=openai_chat.Dialect(
        signature_tag="kimi",
        session_field="prompt_cache_key",
        tool_name_pattern=r"[a-zA-Z][a-zA-Z0-9_-]*",
        output_limit_field="max_tokens",
        schema_rules=SchemaRules(inlines_references=True, allows_type_beside_alternatives=False),
        prefill_form="partial",
        accepts_image_urls=False,
        reply_schema_form="json_object",
    ),
    model_rules=build_model_rules(
        "platform.kimi.ai/docs/api/chat; vercel/ai packages/moonshotai",
        "2026-11-20",
        ("kimi-k2-*", {"call_id_form": "counted"}),
        ("kimi-k2-thinking*", _KIMI_K2_THINKING),
        ("kimi-k2.[5-9]*", _KIMI_THINKING),
        ("kimi-k2.[6-9]*", {"thinking_retention_field": "keep"}),
        ("kimi-k2.7-code*", {"effort_form": "omit", "reasoning_mode": "always"}),
        ("kimi-k[3-9]*", {**_KIMI_THINKING, **_KIMI_K3}),
        ("kimi-k[1-9][0-9]*", {**_KIMI_THINKING, **_KIMI_K3}),
    ),
)
MOONSHOT = Provider(
    name="moonshot",
    prefix="moonshot",
    title="Moonshot",
    keys_url="https://platform.moonshot.ai",
    env_prefix="MOONSHOT",
    wires={"chat": _MOONSHOT_CHAT, "messages": messages.MOONSHOT},
    base_url="https://api.moonshot.ai/v1",
    other_hosts=("api.moonshot.cn",),
    base_url_variable="MOONSHOT_BASE_URL",
    key_variable="MOONSHOT_API_KEY",
    default_big_model="kimi-k2-instruct",
    default_small_model="kimi-k2-base",
    known_models=(
        *("kimi-k2-base", "kimi-k2-instruct"),
        *("kimi-k2.5", "kimi-k2.6", "kimi-k2.7-code", "kimi-k2.7-code-highspeed", "kimi-k3", "kimi-k3.1-pro"),
    ),
    # The K2 series ends with 2026. Accounts registered since 2026-10-31 cannot use it.
    retired_models=build_retired_models(
        "platform.kimi.ai/docs/models; dev.to/aihubmix, Kimi K3.1 Pro migration guide",
        "2026-11-20",
        ("2026-05-25", "kimi-k3", ("kimi-k2-base", "kimi-k2-instruct", "kimi-k2-0711-preview", "kimi-k2-0905-preview")),
        ("2026-05-25", "kimi-k3", ("kimi-k2-turbo-preview", "kimi-k2-thinking", "kimi-k2-thinking-turbo")),
        ("2026-08-31", "kimi-k3", ("kimi-k2.5",)),
        ("2026-12-31", "kimi-k3", ("kimi-k2.6", "kimi-k2.7-code", "kimi-k2.7-code-highspeed")),
    ),
    docs_url="https://platform.moonshot.ai/docs/api/chat",
)
"""Registry entry of Moonshot, the vendor of Kimi."""

_XAI_CHAT = WireConfig(
    wire=openai_chat.WIRE,
    dialect=openai_chat.Dialect(
        signature_tag="xai",
        sends_strict=False,
        image_types=("image/jpeg", "image/png"),
        session_header="x-grok-conv-id",
    ),
    model_rules=build_model_rules(
        "docs.x.ai/docs/guides/reasoning",
        "2026-11",
        ("grok-4", {"reasoning_mode": "always"}),
        ("grok-4-*", {"reasoning_mode": "always"}),
        ("grok-*-reasoning*", {"reasoning_mode": "always"}),
        ("grok-3-mini*", {"effort_form": "reasoning_effort", "reasoning_mode": "always"}),
        ("grok-4.3*", {"effort_form": "reasoning_effort", "reasoning_mode": "unless_off"}),
        ("grok-4.[5-9]*", {"effort_form": "reasoning_effort", "reasoning_mode": "always"}),
        ("grok-[5-9]*", {"effort_form": "reasoning_effort", "reasoning_mode": "always"}),
        ("grok-[1-9][0-9]*", {"effort_form": "reasoning_effort", "reasoning_mode": "always"}),
        ("grok-*-non-reasoning*", {"effort_form": "omit", "reasoning_mode": "never"}),
    ),
)
XAI = Provider(
    name="xai",
    prefix="xai",
    title="xAI",
    keys_url="https://console.x.ai",
    env_prefix="XAI",
    wires={"chat": _XAI_CHAT, "responses": responses.XAI},
    base_url="https://api.x.ai/v1",
    other_hosts=("*.api.x.ai",),  # docs.x.ai/developers/regions
    base_url_variable="XAI_BASE_URL",
    key_variable="XAI_API_KEY",
    default_big_model="grok-3",
    default_small_model="grok-3-mini-beta",
    known_models=(
        *("grok-3", "grok-3-beta", "grok-3-mini-beta", "grok-2-vision-latest", "grok-2", "grok-1"),
        *("grok-3-mini", "grok-4.3", "grok-4.5", "grok-4.6", "grok-4.7", "grok-build-0.1", "grok-code-fast-1"),
    ),
    retired_models=build_retired_models(
        "docs.x.ai/developers/migration/may-15-retirement",
        "2026-11",
        ("2026-05-15", "grok-4.3", ("grok-3", "grok-3-beta", "grok-3-mini", "grok-3-mini-beta", "grok-code-fast-1")),
        ("2026-05-15", "grok-4.3", ("grok-4-0709", "grok-4-fast-reasoning", "grok-4-fast-non-reasoning")),
        ("2026-05-15", "grok-4.3", ("grok-4-1-fast-reasoning", "grok-4-1-fast-non-reasoning")),
    ),
    docs_url="https://docs.x.ai/docs/api-reference",
)
"""Registry entry of xAI, the vendor of Grok."""

DEMO = Provider(
    docs_url="",
    name="demo",
    prefix="demo",
    title="the built-in demo",
    wires={"chat": WireConfig(wire=openai_chat.WIRE, dialect=openai_chat.Dialect(signature_tag="demo"))},
    base_url="demo:",
    key_required="never",
    offered_to_users=False,
    default_big_model="demo",
    default_small_model="demo",
    known_models=("demo",),
    transport="demo",
)
"""Registry entry of the built-in demo, which replies by fixed rules."""

PROVIDERS = (
    GROQ,
    MOONSHOT,
    XAI,
)
"""Built-in providers of this module that a user enables by an API key. If several have a key, the first one is
preferred."""
