"""`VENDORS`: hosts of open models that `OPENAI_BASE_URL` can select, as data.

Each entry starts from the dialect for unknown servers and names what differs. The facts come from the documents in
`source`, and from clients that probed the hosts; none was tried with an account. Limits and efforts are in
`models.toml`, in the table with the name of the host.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import structs

from anthropic_proxy.engine.providers import anthropic as messages
from anthropic_proxy.engine.providers.open_models import (
    GPT_OSS_RULES,
    MISTRAL_RULES,
    REPLAY_RULES,
    UNKNOWN,
    UNKNOWN_RESPONSES,
)
from anthropic_proxy.engine.providers.registry import AnyWireConfig, ModelRule, ServerOverride, WireConfig
from anthropic_proxy.engine.wires import openai_chat

_READ = "2026-11-23"


def _build_vendor(  # one parameter for each fact of an entry
    name: str,
    title: str,
    base_url: str,
    *,
    url_patterns: Sequence[str],
    key_variable: str,
    docs_url: str,
    source: str,
    dialect: dict[str, Any] | None = None,
    rules: Sequence[tuple[str, dict[str, Any]]] = (),
    messages_suffixes: Sequence[tuple[str, str]] = (),
) -> ServerOverride:
    """Return the entry of a host. `rules` are pairs of model pattern and dialect fields.

    `messages_suffixes`: endings of the base URL, and what replaces them for the Messages API. Empty: `/v1` is removed.
    """
    wires: dict[str, AnyWireConfig] = {
        "chat": WireConfig(
            wire=openai_chat.WIRE,
            dialect=structs.replace(UNKNOWN, signature_tag=name, **(dialect or {})),
            model_rules=(
                *REPLAY_RULES,
                *MISTRAL_RULES,
                *GPT_OSS_RULES,
                *(ModelRule(pattern, fields, source, _READ) for pattern, fields in rules),
            ),
        ),
        "responses": UNKNOWN_RESPONSES,
    }
    if messages_suffixes:
        wires["messages"] = structs.replace(messages.CHAT_SERVERS, url_suffixes=messages_suffixes)
    return ServerOverride(
        name=name,
        title=title,
        base_url=base_url,
        url_patterns=url_patterns,
        wires=wires,
        models_table=name,
        key_variable=key_variable,
        docs_url=docs_url,
        source=source,
        read_date=_READ,
    )


_REPLAYED = {"replayed_thinking_field": "reasoning_content"}
_EFFORT = {"effort_form": "reasoning_effort"}

VENDORS = (
    _build_vendor(
        "fireworks",
        "Fireworks",
        "https://api.fireworks.ai/inference/v1",
        url_patterns=("api.fireworks.ai/*", "*.api.fireworks.ai/*"),
        key_variable="FIREWORKS_API_KEY",
        docs_url="https://docs.fireworks.ai/guides/reasoning",
        source="docs.fireworks.ai/guides/reasoning; api-evangelist/fireworks-ai fireworks-ai-chat-api-openapi.yml",
        dialect={**_EFFORT, **_REPLAYED, "sends_top_k": True, "session_field": "prompt_cache_key"},
    ),
    # Reasoning is sent back in the field in which the host returned it.
    _build_vendor(
        "together",
        "Together",
        "https://api.together.ai/v1",
        url_patterns=("api.together.ai/*", "api.together.xyz/*"),
        key_variable="TOGETHER_API_KEY",
        docs_url="https://docs.together.ai/docs/inference/chat/reasoning",
        source="docs.together.ai/docs/inference/chat/reasoning; docs.together.ai/docs/glm-5.3-quickstart",
        dialect={"sends_strict": False, "sends_parallel_tool_calls": False, "sends_top_k": True},
        rules=(
            ("*", {"replayed_thinking_field": "reasoning"}),
            ("*glm-5", {"effort_form": "reasoning_enabled"}),
            ("*glm-5.1*", {"effort_form": "reasoning_enabled"}),
            ("*kimi-k2.6*", {"effort_form": "reasoning_enabled"}),
            ("*qwen3.[56]*", {"effort_form": "reasoning_enabled"}),
            ("*glm-5.[2-9]*", _EFFORT),
            ("*glm-5.[3-9]*", _REPLAYED),
            ("*deepseek-v4-pro*", _EFFORT),
        ),
    ),
    _build_vendor(
        "cerebras",
        "Cerebras",
        "https://api.cerebras.ai/v1",
        url_patterns=("api.cerebras.ai/*",),
        key_variable="CEREBRAS_API_KEY",
        docs_url="https://inference-docs.cerebras.ai/capabilities/reasoning",
        source="inference-docs.cerebras.ai/capabilities/reasoning; harn 80-cerebras.toml; vercel/ai packages/cerebras",
        dialect={
            "output_limit_field": "max_completion_tokens",
            "reply_schema_exclusive": True,
            "sends_parallel_tool_calls": False,
            "session_field": "prompt_cache_key",
        },
        rules=(
            ("*gpt-oss*", {"replayed_thinking_field": "reasoning", "thinking_request_field": "reasoning_format"}),
            ("*qwen*", {"replayed_thinking_field": "", "thinking_request_field": "reasoning_format"}),
            ("*glm*", {**_EFFORT, "replayed_thinking_field": "", "thinking_request_field": "reasoning_format"}),
        ),
    ),
    _build_vendor(
        "deepinfra",
        "DeepInfra",
        "https://api.deepinfra.com/v1/openai",
        url_patterns=("api.deepinfra.com/*",),
        key_variable="DEEPINFRA_API_KEY",
        docs_url="https://deepinfra.com/docs",
        source="burin-labs/harn 36-deepinfra.toml (probed 2026-06 to 2026-10); models.dev providers/deepinfra",
        dialect={**_EFFORT, **_REPLAYED},
        rules=(
            ("*glm-5.2*", {"accepts_forced_tool": "never"}),
            ("*qwen3.[78]-max*", {"reply_schema_form": "json_object"}),
        ),
    ),
    _build_vendor(
        "dashscope",
        "Alibaba Cloud Model Studio",
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        url_patterns=("dashscope*.aliyuncs.com/*", "coding*.dashscope.aliyuncs.com/*", "*.maas.aliyuncs.com/*"),
        key_variable="DASHSCOPE_API_KEY",
        docs_url="https://www.alibabacloud.com/help/en/model-studio/deep-thinking",
        source="alibabacloud.com/help, deep-thinking; QwenLM/qwen-code dashscope.ts; vercel/ai packages/alibaba",
        dialect={"effort_form": "enable_thinking", **_REPLAYED},
        rules=(
            ("*qwen3.[5-9]*", {"thinking_retention_field": "preserve_thinking"}),
            ("*qwen3.8-max*", _EFFORT),
        ),
        # alibabacloud.com/help/en/model-studio/claude-code: only for Qwen models of a list
        messages_suffixes=(
            ("/apps/anthropic/v1", "/apps/anthropic"),
            ("/compatible-mode/v1", "/apps/anthropic"),
            ("/v1", "/apps/anthropic"),
        ),
    ),
    _build_vendor(
        "minimax",
        "MiniMax",
        "https://api.minimax.io/v1",
        url_patterns=("api.minimax.io/*", "api.minimaxi.com/*"),
        key_variable="MINIMAX_API_KEY",
        docs_url="https://platform.minimax.io/docs/api-reference/text-openai-api",
        source="platform.minimax.io/docs/api-reference/text-openai-api.md; java.agentscope.io, MiniMax",
        dialect={
            "output_limit_field": "max_completion_tokens",
            "thinking_request_field": "reasoning_split",
            "replays_reasoning_details": True,
            "accepts_forced_tool": "never",
            "reply_schema_form": "ask",
            "sends_strict": False,
            "sends_parallel_tool_calls": False,
        },
        rules=(("*", {"replayed_thinking_field": ""}),),
        # platform.minimax.io/docs/api-reference/text-anthropic-api
        messages_suffixes=(("/anthropic/v1", "/anthropic"), ("/v1", "/anthropic")),
    ),
)
"""Hosts of open models. The first match of `url_patterns` applies; they stand before the entries for any address."""
