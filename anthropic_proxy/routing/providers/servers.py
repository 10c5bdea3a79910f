"""Servers that people put in OpenAI's place with `OPENAI_BASE_URL`, by address, and how each deviates.

docs/compatibility.md, "Servers that speak Chat Completions", says what a user has to set for each. Sources that are not
named are the servers' own API references, read 2026-11.
"""

from typing import Any

from msgspec import structs

from anthropic_proxy.routing.providers import chat, messages, responses
from anthropic_proxy.routing.providers.rows import Server, Speech
from anthropic_proxy.wire import openai_chat
from anthropic_proxy.wire.recover import TAGS, TEXT_CONVENTIONS

_OPENAI_NAMES = ("gpt-[3-9]*", "chatgpt-*", "o[1-9]*")
"""Models that are OpenAI's own wherever they are served: a gateway leads to them."""
_MISTRAL_NAMES = ("*mistral*", "*ministral*", "*magistral*", "*devstral*", "*codestral*", "*mixtral*")
_UNOPENED_NAMES = ("*deepseek-r1*", "*qwq*", "*qwen3*-thinking-2507*")
"""Models whose template says `<think>` itself, so that a server without a parser gives only `</think>`."""

_MISTRAL: dict[str, Any] = {"call_ids": "nine", "bridges_results": True}
_AS_FOR_OPENAI: dict[str, Any] = {
    "limit_name": "max_completion_tokens",
    "late_system": "keep",
    "thinking_field": "",
    "thinking_tags": (),
    "text_calls": (),
    "mends_tool_names": False,
    "buffers_tool_arguments": False,
}

_UNKNOWN = openai_chat.Dialect(
    carry_tag="other",
    limit_name="max_tokens",
    late_system="remind",
    thinking_tags=TAGS,
    text_calls=TEXT_CONVENTIONS,
    mends_tool_names=True,
)
"""What nobody refuses: the oldest name of the limit, no system message in the middle, nothing that only OpenAI has.

And what a server of any model may get wrong that does not know how the model writes calls and reasoning.
"""
_UNKNOWN_RULES = (
    *((name, _MISTRAL) for name in _MISTRAL_NAMES),
    *((name, _AS_FOR_OPENAI) for name in _OPENAI_NAMES),
    *chat.OPENAI.model_rules,
)
_RESPONSES = Speech(
    wire=responses.OPENAI.wire,
    dialect=structs.replace(responses.OPENAI.dialect, names_user=False, says_service_tier=False),
    model_rules=responses.OPENAI.model_rules,
)

_DEEPSEEK = openai_chat.Dialect(
    carry_tag="ds",
    limit_name="max_tokens",
    effort="thinking_and_effort",
    thinks="unless_off",
    thinking_field="reasoning_content",
    thinking_replay="every",
    forces_tools="not_thinking",
    json_output="json_object",
    says_strict=False,
)
_OPENROUTER_SEARCH = (
    ("max_uses", "max_uses"),
    ("allowed_domains", "allowed_domains"),
    ("blocked_domains", "excluded_domains"),
    ("user_location", "user_location"),
)
"""Recorded by the project `pydantic/pydantic-ai`, cassette test_openrouter_web_search_tool_full_params, 2026-08."""
_DEEPSEEK_RULES = (("deepseek-chat*", {"effort": "omit", "thinks": "never"}),)
_DEEPSEEK_FACTS = {"efforts": ("none", "minimal", "low", "medium", "high", "xhigh", "max")}

OPENAI_SERVERS = (
    Server(name="openai", addresses=("*.api.openai.com/*",), docs="https://platform.openai.com/docs/guides/your-data"),
    Server(
        name="azure",
        addresses=("*.openai.azure.com/*", "*.cognitiveservices.azure.com/*", "*.services.ai.azure.com/*"),
        speeches={
            "chat": Speech(
                wire=openai_chat, dialect=openai_chat.Dialect(carry_tag="azure"), model_rules=chat.OPENAI.model_rules
            ),
            "responses": _RESPONSES,
        },
        key_header="api-key",
        docs="https://learn.microsoft.com/azure/foundry/openai/api-version-lifecycle",
    ),
    Server(
        name="deepseek_beta",
        addresses=("api.deepseek.com/beta/*",),
        speeches={
            "chat": Speech(
                wire=openai_chat,
                dialect=structs.replace(_DEEPSEEK, prefill="prefix"),
                model_rules=_DEEPSEEK_RULES,
            )
        },
        facts=_DEEPSEEK_FACTS,
        docs="https://api-docs.deepseek.com/guides/chat_prefix_completion",
    ),
    Server(
        name="deepseek",
        addresses=("api.deepseek.com/*",),
        speeches={
            "chat": Speech(wire=openai_chat, dialect=_DEEPSEEK, model_rules=_DEEPSEEK_RULES),
            "messages": messages.DEEPSEEK,
        },
        facts=_DEEPSEEK_FACTS,
        docs="https://api-docs.deepseek.com/guides/thinking_mode",
    ),
    Server(
        name="openrouter",
        addresses=("openrouter.ai/*",),
        speeches={
            "chat": Speech(
                wire=openai_chat,
                dialect=openai_chat.Dialect(
                    carry_tag="openrouter",
                    effort="reasoning",
                    carries_details=True,
                    server_tools=("web_search",),
                    server_tool_names=(("web_search", "openrouter:web_search"),),
                    server_tool_settings=_OPENROUTER_SEARCH,
                ),
                model_rules=tuple((name, _MISTRAL) for name in _MISTRAL_NAMES),
            )
        },
        facts={"efforts": ("none", "minimal", "low", "medium", "high", "xhigh")},
        docs="https://openrouter.ai/docs/use-cases/reasoning-tokens",
    ),
    Server(
        name="mistral",
        addresses=("api.mistral.ai/*", "codestral.mistral.ai/*"),
        speeches={
            "chat": Speech(
                wire=openai_chat,
                dialect=openai_chat.Dialect(
                    carry_tag="mistral",
                    limit_name="max_tokens",
                    late_system="remind",
                    call_ids="nine",
                    bridges_results=True,
                    prefill="prefix",
                    says_usage=False,
                ),
            )
        },
        docs="https://docs.mistral.ai/api",
    ),
    Server(
        name="zai",
        addresses=("api.z.ai/*", "open.bigmodel.cn/*"),
        speeches={
            "chat": Speech(
                wire=openai_chat,
                dialect=openai_chat.Dialect(
                    carry_tag="zai",
                    limit_name="max_tokens",
                    effort="thinking",
                    thinks="unless_off",
                    thinking_keeps="clear_thinking",
                    thinking_field="reasoning_content",
                    forces_tools="never",
                    json_output="json_object",
                    says_strict=False,
                ),
            )
        },
        facts={"efforts": ("none", "medium")},
        docs="https://docs.z.ai/api-reference/llm/chat-completion",
    ),
    Server(
        name="gemini",
        addresses=("generativelanguage.googleapis.com/*",),
        speeches={
            "chat": Speech(
                wire=openai_chat,
                dialect=openai_chat.Dialect(
                    carry_tag="gemchat",
                    effort="reasoning_effort",
                    says_parallel=False,
                    carries_call_signatures=True,
                ),
            )
        },
        facts={"efforts": ("low", "medium", "high")},
        docs="https://ai.google.dev/gemini-api/docs/openai",
    ),
    Server(name="groq", addresses=("api.groq.com/*",), speeches={"chat": chat.GROQ}),
    Server(
        name="moonshot",
        addresses=("api.moonshot.ai/*", "api.moonshot.cn/*"),
        speeches={"chat": chat.MOONSHOT, "messages": messages.MOONSHOT},
    ),
    Server(name="xai", addresses=("api.x.ai/*",), speeches={"chat": chat.XAI, "responses": responses.XAI}),
    Server(
        name="local",
        addresses=(
            *("localhost/*", "localhost:*", "127.*", "[[]::1]*", "host.docker.internal*", "host.containers.internal*"),
            *("10.*", "192.168.*", "172.1[6-9].*", "172.2?.*", "172.3[01].*", "*.local/*", "*.local:*"),
        ),
        speeches={
            "chat": Speech(
                wire=openai_chat,
                dialect=structs.replace(
                    _UNKNOWN, carry_tag="local", thinking_field="reasoning_content", buffers_tool_arguments=True
                ),
                model_rules=(
                    *((name, {"thinking_tags": (*TAGS, "unopened")}) for name in _UNOPENED_NAMES),
                    *_UNKNOWN_RULES,
                ),
            ),
            "responses": _RESPONSES,
        },
        docs="https://docs.vllm.ai/en/latest/serving/openai_compatible_server",
    ),
    Server(
        name="other",
        addresses=("*",),
        speeches={
            "chat": Speech(wire=openai_chat, dialect=_UNKNOWN, model_rules=_UNKNOWN_RULES),
            "responses": _RESPONSES,
        },
    ),
)
"""The first that matches counts; the last one is every server that nobody described."""
