"""How the providers of Chat Completions, and by pattern their models, deviate from it. The fields say why."""

from anthropic_proxy.routing.providers.rows import Speech
from anthropic_proxy.wire import openai_chat
from anthropic_proxy.wire.schema import SchemaRules

_O_SERIES = {
    "system_role": "developer",
    "sampling": "never",
    "effort": "reasoning_effort",
    "thinks": "always",
    "says_parallel": False,
}
_GPT_5 = {
    "system_role": "developer",
    "sampling": "not_thinking",
    "effort": "reasoning_effort",
    "effort_names": (("max", "xhigh"),),
    "thinks": "unless_off",
}
_GPT_5_CHAT = {
    "system_role": "system",
    "sampling": "always",
    "effort": "omit",
    "effort_with_tools": "",
    "thinks": "never",
}
_GROQ_GPT_OSS = {
    "effort": "reasoning_effort",
    "thinks": "always",
    "thinking_request": "include_reasoning",
    "thinking_field": "reasoning",
    "json_output": "json_schema",
}
_GROQ_OWN_TOOLS = {
    "server_tools": ("web_search", "code_execution"),
    "server_tools_alone": True,
    "server_tool_names": (("web_search", "browser_search"), ("code_execution", "code_interpreter")),
}
_GROQ_COMPOUND = {
    "server_tools": ("web_search", "web_fetch", "code_execution"),
    "server_tools_alone": True,
    "server_tool_names": (
        ("web_search", "web_search"),
        ("web_fetch", "visit_website"),
        ("code_execution", "code_interpreter"),
    ),
    "server_tool_form": "enabled",
    "server_tool_settings": (("allowed_domains", "include_domains"), ("blocked_domains", "exclude_domains")),
}
_GROQ_QWEN = {
    "effort": "reasoning_effort",
    "effort_names": (("low", "default"), ("medium", "default"), ("high", "default")),
    "thinks": "unless_off",
    "thinking_request": "reasoning_format",
}
_KIMI_K2_THINKING = {
    "thinks": "always",
    "thinking_field": "reasoning_content",
    "thinking_replay": "calls",
    "call_ids": "short",
}
_KIMI_THINKING = {
    "limit_name": "max_completion_tokens",
    "sampling": "never",
    "effort": "thinking",
    "thinks": "unless_off",
    "thinking_field": "reasoning_content",
    "thinking_replay": "calls",
    "forces_tools": "not_thinking",
    "json_output": "json_schema",
}
_KIMI_K3 = {
    "effort": "reasoning_effort",
    "effort_names": (("medium", "high"), ("xhigh", "max")),
    "thinks": "always",
    "thinking_keeps": "keep",
}

OPENAI = Speech(
    wire=openai_chat,
    dialect=openai_chat.Dialect(names_user=True, says_store=True, says_service_tier=True),
    model_rules=(
        ("o[1-9]*", _O_SERIES),
        ("gpt-[5-9]*", _GPT_5),
        ("gpt-5.[4-9]*", {"effort_with_tools": "none"}),
        ("gpt-[6-9]*", {"effort_with_tools": "none"}),
        ("gpt-5*-chat*", _GPT_5_CHAT),
        ("gpt-6-astra*", {"offers_tools": False}),
        ("gpt-6.1-sol*", {"offers_tools": False}),
    ),
)

GROQ = Speech(
    wire=openai_chat,
    dialect=openai_chat.Dialect(carry_tag="groq", omits_null=True, json_output="json_object", json_output_alone=True),
    model_rules=(
        ("openai/gpt-oss*", {**_GROQ_GPT_OSS, **_GROQ_OWN_TOOLS}),
        ("groq/compound*", _GROQ_COMPOUND),
        ("compound-beta*", _GROQ_COMPOUND),
        ("qwen/qwen3*", _GROQ_QWEN),
        ("qwen-qwq*", {"thinking_request": "reasoning_format", "thinks": "always"}),
        ("deepseek-r1*", {"thinking_request": "reasoning_format", "thinks": "always"}),
    ),
)

MOONSHOT = Speech(
    wire=openai_chat,
    dialect=openai_chat.Dialect(
        carry_tag="kimi",
        tool_name_pattern=r"[a-zA-Z][a-zA-Z0-9_-]*",
        limit_name="max_tokens",
        schema=SchemaRules(inlines_references=True, types_beside_choices=False),
        prefill="partial",
        image_urls=False,
        json_output="json_object",
    ),
    model_rules=(
        ("kimi-k2-*", {"call_ids": "counted"}),
        ("kimi-k2-thinking*", _KIMI_K2_THINKING),
        ("kimi-k2.[5-9]*", _KIMI_THINKING),
        ("kimi-k2.[6-9]*", {"thinking_keeps": "keep"}),
        ("kimi-k2.7-code*", {"effort": "omit", "thinks": "always"}),
        ("kimi-k[3-9]*", _KIMI_THINKING),
        ("kimi-k[3-9]*", _KIMI_K3),
    ),
)

XAI = Speech(
    wire=openai_chat,
    dialect=openai_chat.Dialect(
        carry_tag="xai",
        says_strict=False,
        image_types=("image/jpeg", "image/png"),
        session_header="x-grok-conv-id",
    ),
    model_rules=(
        ("grok-3-mini*", {"effort": "reasoning_effort", "thinks": "always"}),
        ("grok-4.3*", {"effort": "reasoning_effort", "thinks": "unless_off"}),
        ("grok-4.[5-9]*", {"effort": "reasoning_effort", "thinks": "always"}),
        ("grok-*-non-reasoning*", {"effort": "omit", "thinks": "never"}),
    ),
)

DEMO = Speech(wire=openai_chat, dialect=openai_chat.Dialect(carry_tag="demo"))
