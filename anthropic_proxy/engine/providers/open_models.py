"""Open models at servers of no known vendor: `UNKNOWN`, the dialect for such a server, and rules by model name.

Many hosts serve the same weights, and what a model expects of its own earlier replies comes from its training, not from
the host. The fields for the effort differ by host; only gpt-oss has the same field everywhere.
"""

from typing import Any

from msgspec import structs

from anthropic_proxy.engine.providers import openai_chat as chat
from anthropic_proxy.engine.providers import openai_responses as responses
from anthropic_proxy.engine.providers.registry import WireConfig, build_model_rules
from anthropic_proxy.engine.wires import openai_chat
from anthropic_proxy.engine.wires.tool_call_repair import OPENED_THINKING_TAGS, TOOL_CALL_FORMATS

_OPENAI_NAMES = ("gpt-[1-9]*", "chatgpt-*", "o[1-9]*")
"""Patterns of OpenAI model ids, for unknown servers that forward to OpenAI."""
_MISTRAL_NAMES = ("*mistral*", "*ministral*", "*magistral*", "*devstral*", "*codestral*", "*mixtral*")
_UNOPENED_NAMES = ("*deepseek-r1*", "*qwq*", "*qwen3*-thinking-2507*")
"""Patterns of models with a prompt template that ends with `<think>`: replies contain only the closing `</think>`."""

_MISTRAL: dict[str, Any] = {"call_id_form": "nine", "requires_message_after_results": True}
_AS_FOR_OPENAI: dict[str, Any] = {
    "output_limit_field": "max_completion_tokens",
    "mid_conversation_system": "keep",
    "replayed_thinking_field": "",
    "thinking_tags": (),
    "text_call_formats": (),
    "repairs_tool_names": False,
    "buffers_tool_arguments": False,
    "sends_top_k": False,
}
_REPLAYED = {"replayed_thinking_field": "reasoning_content"}

UNKNOWN = openai_chat.Dialect(
    signature_tag="other",
    output_limit_field="max_tokens",
    mid_conversation_system="remind",
    thinking_tags=OPENED_THINKING_TAGS,
    text_call_formats=TOOL_CALL_FORMATS,
    repairs_tool_names=True,
)
"""Dialect for servers that are not listed. It uses only fields that every server accepts, such as `max_tokens`, and no
system message inside the conversation.

Tool calls and reasoning are also parsed from the reply text, because some servers do not parse them."""
UNKNOWN_RESPONSES = WireConfig(
    wire=responses.OPENAI_RESPONSES.wire,
    dialect=structs.replace(
        responses.OPENAI_RESPONSES.dialect,
        sends_user_id=False,
        sends_service_tier=False,
        session_field="",
        count_paths=(),
        prompt_settings=(),
    ),
    model_rules=responses.MODEL_RULES,
)
"""Configuration of the Responses API for servers other than OpenAI's."""
MISTRAL_RULES = build_model_rules(
    "mistral-common src/mistral_common/protocol/instruct/validator.py",
    "2026-11",
    *((name, _MISTRAL) for name in _MISTRAL_NAMES),
)
GPT_OSS_RULES = build_model_rules(
    "docs.fireworks.ai/guides/reasoning; docs.together.ai/docs/inference/chat/reasoning; llama.cpp README",
    "2026-11-23",
    ("*gpt-oss*", {"effort_form": "reasoning_effort", "reasoning_mode": "always"}),
)
"""Rule for the effort of gpt-oss. It has the levels low, medium and high, and always reasons."""
REPLAY_RULES = (
    *build_model_rules("platform.kimi.ai/docs/api/chat; kimi-cli kimi.py", "2026-11-23", ("*kimi*", _REPLAYED)),
    *build_model_rules(
        "api-docs.deepseek.com/guides/thinking_mode",
        "2026-11",
        *((f"*deepseek{name}", _REPLAYED) for name in ("[-.]v[4-9]*", "-flash*", "-pro", "-pro-*")),
    ),
    *build_model_rules(
        "platform.xiaomimimo.com/docs/en-US/usage-guide/passing-back-reasoning_content",
        "2026-11-23",
        ("*mimo-v*", _REPLAYED),
    ),
    *build_model_rules(
        "docs.z.ai/guides/capabilities/thinking-mode.md",
        "2026-11-23",
        *((f"*glm{name}", _REPLAYED) for name in ("-[4-9]*", "[4-9]*")),
    ),
    *build_model_rules("longcat.chat/platform/docs/zh/api/chat.html", "2026-11-25", ("*longcat*", _REPLAYED)),
    *build_model_rules("platform.minimax.io/docs, text-openai-api.md", "2026-11-23", ("*minimax*", _REPLAYED)),
    *build_model_rules(
        "docs.fireworks.ai/fine-tuning/thinking-history; models.dev providers/nebius, providers/deepinfra",
        "2026-11-23",
        ("*qwen3*", _REPLAYED),
        ("*qwen-3*", _REPLAYED),
        ("*gpt-oss*", _REPLAYED),
    ),
)
"""Rules for models that expect their own reasoning in later requests, above all between tool calls. Their hosts return
it as `reasoning_content` (models.dev, 2026-11-23), so it is sent back in this field."""
OPEN_MODEL_RULES = (
    *MISTRAL_RULES,
    *GPT_OSS_RULES,
    *build_model_rules(
        "developers.openai.com/api/docs/api-reference/chat",
        "2026-11",
        *((name, _AS_FOR_OPENAI) for name in _OPENAI_NAMES),
    ),
    *chat.OPENAI_CHAT.model_rules,
)
"""Rules for servers of no known vendor, which serve open models or forward to OpenAI."""
UNOPENED_RULES = build_model_rules(
    "the models' chat templates on huggingface.co",
    "2026-11",
    *((name, {"thinking_tags": (*OPENED_THINKING_TAGS, "unopened")}) for name in _UNOPENED_NAMES),
)
