"""Wire configs of providers with Chat Completions, with model rules."""

from anthropic_proxy.routing.providers.registry import WireConfig, rules_from
from anthropic_proxy.wire import openai_chat
from anthropic_proxy.wire.json_schema import SchemaRules

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
_GROQ_GPT_OSS = {
    "effort_form": "reasoning_effort",
    "reasoning_mode": "always",
    "thinking_request": "include_reasoning",
    "replayed_thinking_field": "reasoning",
    "json_output": "json_schema",
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
    "server_tool_settings": (("allowed_domains", "include_domains"), ("blocked_domains", "exclude_domains")),
}
_GROQ_QWEN = {
    "effort_form": "reasoning_effort",
    "effort_names": (("low", "default"), ("medium", "default"), ("high", "default")),
    "reasoning_mode": "unless_off",
    "thinking_request": "reasoning_format",
}
_GROQ_QWEN_WITH_LEVELS = {**_GROQ_QWEN, "effort_names": ()}
_KIMI_K2_THINKING = {
    "reasoning_mode": "always",
    "replayed_thinking_field": "reasoning_content",
    "thinking_replay_scope": "calls",
    "call_ids": "short",
}
_KIMI_THINKING = {
    "output_limit_field": "max_completion_tokens",
    "sampling_support": "never",
    "effort_form": "thinking",
    "reasoning_mode": "unless_off",
    "replayed_thinking_field": "reasoning_content",
    "thinking_replay_scope": "calls",
    "accepts_forced_tool": "not_thinking",
    "json_output": "json_schema",
}
_KIMI_K3 = {
    "effort_form": "reasoning_effort",
    "effort_names": (("medium", "high"), ("xhigh", "max")),
    "reasoning_mode": "always",
    "thinking_retention": "keep",
    "accepts_forced_tool": "any",
}

OPENAI = WireConfig(
    wire=openai_chat,
    dialect=openai_chat.Dialect(sends_user_id=True, sends_store=True, sends_service_tier=True),
    model_rules=rules_from(
        "developers.openai.com/api/docs/guides/reasoning",
        "2026-11",
        ("o[1-9]*", _O_SERIES),
        ("gpt-[5-9]*", _GPT_5),
        ("gpt-5.[4-9]*", {"forced_effort_with_tools": "none"}),
        ("gpt-[6-9]*", {"forced_effort_with_tools": "none"}),
        ("gpt-5*-chat*", _GPT_5_CHAT),
        ("gpt-6-astra*", {"accepts_tools": False}),
        ("gpt-6.1-sol*", {"accepts_tools": False}),
    ),
)

GROQ = WireConfig(
    wire=openai_chat,
    dialect=openai_chat.Dialect(
        signature_tag="groq", omits_null=True, json_output="json_object", json_output_alone=True
    ),
    model_rules=(
        *rules_from(
            "console.groq.com/docs/reasoning",
            "2026-11",
            ("openai/gpt-oss*", {**_GROQ_GPT_OSS, **_GROQ_OWN_TOOLS}),
            ("groq/compound*", _GROQ_COMPOUND),
            ("compound-beta*", _GROQ_COMPOUND),
            ("qwen/qwen[3-9]*", _GROQ_QWEN_WITH_LEVELS),
            ("qwen-qwq*", {"thinking_request": "reasoning_format", "reasoning_mode": "always"}),
            ("deepseek-r1*", {"thinking_request": "reasoning_format", "reasoning_mode": "always"}),
        ),
        # these two return 400: "`reasoning_effort` must be one of `none` or `default`"
        *rules_from(
            "console.groq.com/docs/api-reference; models.dev providers/groq/models/qwen/qwen3-32b.toml",
            "2026-11-20",
            ("qwen/qwen3-*", _GROQ_QWEN),
            ("qwen/qwen3.[0-6]-*", _GROQ_QWEN),
        ),
    ),
)

MOONSHOT = WireConfig(
    wire=openai_chat,
    dialect=openai_chat.Dialect(
        signature_tag="kimi",
        tool_name_pattern=r"[a-zA-Z][a-zA-Z0-9_-]*",
        output_limit_field="max_tokens",
        schema=SchemaRules(inlines_references=True, types_beside_choices=False),
        prefill="partial",
        image_urls=False,
        json_output="json_object",
    ),
    model_rules=rules_from(
        "platform.kimi.ai/docs/api/chat; vercel/ai packages/moonshotai",
        "2026-11-20",
        ("kimi-k2-*", {"call_ids": "counted"}),
        ("kimi-k2-thinking*", _KIMI_K2_THINKING),
        ("kimi-k2.[5-9]*", _KIMI_THINKING),
        ("kimi-k2.[6-9]*", {"thinking_retention": "keep"}),
        ("kimi-k2.7-code*", {"effort_form": "omit", "reasoning_mode": "always"}),
        ("kimi-k[3-9]*", {**_KIMI_THINKING, **_KIMI_K3}),
    ),
)

XAI = WireConfig(
    wire=openai_chat,
    dialect=openai_chat.Dialect(
        signature_tag="xai",
        sends_strict=False,
        image_types=("image/jpeg", "image/png"),
        session_header="x-grok-conv-id",
    ),
    model_rules=rules_from(
        "docs.x.ai/docs/guides/reasoning",
        "2026-11",
        ("grok-3-mini*", {"effort_form": "reasoning_effort", "reasoning_mode": "always"}),
        ("grok-4.3*", {"effort_form": "reasoning_effort", "reasoning_mode": "unless_off"}),
        ("grok-4.[5-9]*", {"effort_form": "reasoning_effort", "reasoning_mode": "always"}),
        ("grok-[5-9]*", {"effort_form": "reasoning_effort", "reasoning_mode": "always"}),
        ("grok-*-non-reasoning*", {"effort_form": "omit", "reasoning_mode": "never"}),
    ),
)

DEMO = WireConfig(wire=openai_chat, dialect=openai_chat.Dialect(signature_tag="demo"))
