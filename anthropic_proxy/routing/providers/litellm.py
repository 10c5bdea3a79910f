"""How what LiteLLM takes, whoever is behind it, deviates from Chat Completions. The fields say why."""

from anthropic_proxy.routing.providers.rows import Speech
from anthropic_proxy.wire import openai_chat
from anthropic_proxy.wire.recover import TAGS, TEXT_CONVENTIONS

_MISTRAL_NAMES = ("*mistral*", "*ministral*", "*magistral*", "*devstral*", "*codestral*", "*mixtral*")
_LOCAL_PREFIXES = ("ollama/*", "ollama_chat/*", "hosted_vllm/*", "vllm/*", "lm_studio/*", "llamafile/*", "xinference/*")
"""Servers of small models, whoever runs them."""
_LOCAL = {
    "thinking_tags": TAGS,
    "text_calls": TEXT_CONVENTIONS,
    "mends_tool_names": True,
    "buffers_tool_arguments": True,
}
_DEEPSEEK = {
    "thinking_field": "reasoning_content",
    "thinking_replay": "every",
    "thinks": "unless_off",
    "forces_tools": "not_thinking",
}

LITELLM = Speech(
    wire=openai_chat,
    dialect=openai_chat.Dialect(
        carry_tag="litellm",
        limit_name="max_tokens",
        late_system="remind",
        effort="reasoning_effort",
        says_strict=False,
        image_urls=False,  # LiteLLM would load them itself for some providers, from wherever a client says
    ),
    model_rules=(
        *((name, {"call_ids": "nine", "bridges_results": True}) for name in _MISTRAL_NAMES),
        *((name, _LOCAL) for name in _LOCAL_PREFIXES),
        ("*claude*", {"carries_details": True}),
        ("deepseek/*", _DEEPSEEK),
        ("deepseek/deepseek-chat*", {"thinks": "never"}),
    ),
)
