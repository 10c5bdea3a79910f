"""Wire config of LiteLLM, with rules by model prefix."""

from anthropic_proxy.routing.providers.registry import WireConfig, rules_from
from anthropic_proxy.wire import openai_chat
from anthropic_proxy.wire.tool_call_repair import TAGS, TOOL_CALL_FORMATS

_MISTRAL_NAMES = ("*mistral*", "*ministral*", "*magistral*", "*devstral*", "*codestral*", "*mixtral*")
_LOCAL_PREFIXES = ("ollama/*", "ollama_chat/*", "hosted_vllm/*", "vllm/*", "lm_studio/*", "llamafile/*", "xinference/*")
"""Prefixes of servers for local models."""
_LOCAL = {
    "thinking_tags": TAGS,
    "text_call_formats": TOOL_CALL_FORMATS,
    "repairs_tool_names": True,
    "buffers_tool_arguments": True,
}
_DEEPSEEK = {
    "replayed_thinking_field": "reasoning_content",
    "thinking_replay_scope": "every",
    "reasoning_mode": "unless_off",
    "accepts_forced_tool": "not_thinking",
}

LITELLM = WireConfig(
    wire=openai_chat,
    dialect=openai_chat.Dialect(
        signature_tag="litellm",
        output_limit_field="max_tokens",
        mid_conversation_system="remind",
        effort_form="reasoning_effort",
        sends_strict=False,
        image_urls=False,  # LiteLLM itself fetches them for some providers, from any URL of a client
    ),
    model_rules=rules_from(
        "docs.litellm.ai/docs/providers",
        "2026-11",
        *((name, {"call_ids": "nine", "requires_message_after_results": True}) for name in _MISTRAL_NAMES),
        *((name, _LOCAL) for name in _LOCAL_PREFIXES),
        ("*claude*", {"replays_reasoning_details": True}),
        ("deepseek/*", _DEEPSEEK),
        ("deepseek/deepseek-chat*", {"reasoning_mode": "never"}),
    ),
)
