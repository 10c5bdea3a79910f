"""Providers as a table of rows. What one does otherwise than its wire's vendor is a field of the row's dialect."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from anthropic_proxy.routing import known_models
from anthropic_proxy.wire import openai_chat
from anthropic_proxy.wire.contract import Wire
from anthropic_proxy.wire.schema import SchemaRules


class Speech(Struct, frozen=True, kw_only=True):
    """One language that a provider understands, and how."""

    wire: Wire
    dialect: Any
    """The wire's `Dialect` for all models of this provider."""
    model_rules: Sequence[tuple[str, Mapping[str, Any]]] = ()
    """Pattern of model ids (`fnmatch`) → dialect fields that differ; every rule that matches counts, in order."""


class Provider(Struct, frozen=True, kw_only=True):
    """One company or server that we call."""

    name: str
    """As `PREFERRED_PROVIDER` says it: `google`."""
    prefix: str
    """As a model id says it, without the slash: `gemini`."""
    other_prefixes: Collection[str] = ()
    """Prefixes that are its own too and stay part of the name."""
    title: str
    """As people call it: `Google Gemini`."""
    speeches: Mapping[str, Speech]
    """Wire name (`chat`, `responses`, `gemini`, `ollama`, `messages`) → how this provider speaks it; empty: not yet."""
    wire_rules: Sequence[tuple[str, str]] = ()
    """Pattern of model ids → wire name; the first that matches; none: the first of `speeches`."""
    base_url: str
    stem: str = ""
    """How its variables begin: `GEMINI` of `GEMINI_BASE_URL`, `GEMINI_KNOWN_MODELS`; empty: it has none."""
    base_url_variable: str | None = None
    key_variable: str | None = None
    key_header: str = "authorization"
    key_scheme: str = "Bearer "
    key_needed: Literal["always", "own_address", "never"] = "always"
    """`own_address`: only at the row's own address; a server of the user's may ask for none."""
    choosable: bool = True
    """Whether messages name it among the providers to prefer."""
    big_model: str | None = None
    """What sonnet, opus and fable map to, without prefix; None: untouched, or the user's own."""
    small_model: str | None = None
    keeps_tiers: bool = False
    """Whether it serves Claude models itself, so that ids stay as they are and BIG_MODEL, SMALL_MODEL say nothing."""
    runs_what_is_pulled: bool = False
    """Whether its defaults hold only if the user has them; else the largest and the smallest that there are."""
    families: Sequence[str] = ()
    """Patterns of names that are its own though they stand in no list."""
    lends_strangers: bool = False
    """Whether a BIG_MODEL or SMALL_MODEL that nobody knows goes to OpenAI if its key is set, as users are used to."""
    known_models: Sequence[str] = ()
    refused_models: Mapping[str, str] = {}
    """Known models that cannot chat → why (`turns sound into text`)."""
    way: Literal["http", "demo", "litellm"] = "http"
    docs: str = ""


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

PROVIDERS: tuple[Provider, ...] = (
    Provider(
        name="openai",
        prefix="openai",
        title="OpenAI",
        stem="OPENAI",
        speeches={
            "chat": Speech(
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
        },
        base_url="https://api.openai.com/v1",
        base_url_variable="OPENAI_BASE_URL",
        key_variable="OPENAI_API_KEY",
        key_needed="own_address",
        big_model="gpt-4.1",
        small_model="gpt-4.1-mini",
        known_models=known_models.OPENAI,
        docs="https://platform.openai.com/docs/api-reference/chat",
    ),
    Provider(
        name="google",
        prefix="gemini",
        title="Google Gemini",
        stem="GEMINI",
        speeches={},
        base_url="https://generativelanguage.googleapis.com/v1beta",
        base_url_variable="GEMINI_BASE_URL",
        key_variable="GEMINI_API_KEY",
        key_header="x-goog-api-key",
        key_scheme="",
        big_model="gemini-2.5-pro-preview-03-25",
        small_model="gemini-2.0-flash",
        families=("gemini-*", "gemma-*"),
        lends_strangers=True,
        known_models=known_models.GEMINI,
        docs="https://ai.google.dev/api/generate-content",
    ),
    Provider(
        name="vertex",
        prefix="vertex_ai",
        title="Vertex AI",
        stem="VERTEX",
        speeches={},
        base_url="https://aiplatform.googleapis.com/v1",
        base_url_variable="VERTEX_BASE_URL",
        key_needed="never",
        big_model="gemini-2.5-pro-preview-03-25",
        small_model="gemini-2.0-flash",
        families=("gemini-*", "gemma-*"),
        known_models=known_models.VERTEX,
        docs="https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference",
    ),
    Provider(
        name="ollama",
        prefix="ollama",
        title="Ollama",
        stem="OLLAMA",
        speeches={},
        base_url="http://localhost:11434",
        base_url_variable="OLLAMA_API_BASE",
        key_needed="never",
        big_model="llama3",
        small_model="llama3:8b",
        runs_what_is_pulled=True,
        lends_strangers=True,
        known_models=known_models.OLLAMA,
        docs="https://github.com/ollama/ollama/blob/main/docs/api.md",
    ),
    Provider(
        name="groq",
        prefix="groq",
        title="Groq",
        stem="GROQ",
        speeches={
            "chat": Speech(
                wire=openai_chat,
                dialect=openai_chat.Dialect(
                    carry_tag="groq", omits_null=True, json_output="json_object", json_output_alone=True
                ),
                model_rules=(
                    ("openai/gpt-oss*", _GROQ_GPT_OSS),
                    ("qwen/qwen3*", _GROQ_QWEN),
                    ("qwen-qwq*", {"thinking_request": "reasoning_format", "thinks": "always"}),
                    ("deepseek-r1*", {"thinking_request": "reasoning_format", "thinks": "always"}),
                ),
            )
        },
        base_url="https://api.groq.com/openai/v1",
        base_url_variable="GROQ_BASE_URL",
        key_variable="GROQ_API_KEY",
        big_model="llama-3.3-70b-versatile",
        small_model="llama-3.1-8b-instant",
        known_models=known_models.GROQ,
        refused_models=dict.fromkeys(known_models.GROQ_AUDIO, "turns sound into text"),
        docs="https://console.groq.com/docs/api-reference",
    ),
    Provider(
        name="moonshot",
        prefix="moonshot",
        title="Moonshot",
        stem="MOONSHOT",
        speeches={
            "chat": Speech(
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
        },
        base_url="https://api.moonshot.ai/v1",
        base_url_variable="MOONSHOT_BASE_URL",
        key_variable="MOONSHOT_API_KEY",
        big_model="kimi-k2-instruct",
        small_model="kimi-k2-base",
        known_models=known_models.MOONSHOT,
        docs="https://platform.moonshot.ai/docs/api/chat",
    ),
    Provider(
        name="xai",
        prefix="xai",
        title="xAI",
        stem="XAI",
        speeches={
            "chat": Speech(
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
        },
        base_url="https://api.x.ai/v1",
        base_url_variable="XAI_BASE_URL",
        key_variable="XAI_API_KEY",
        big_model="grok-3",
        small_model="grok-3-mini-beta",
        known_models=known_models.XAI,
        docs="https://docs.x.ai/docs/api-reference",
    ),
    Provider(
        name="anthropic",
        prefix="anthropic",
        title="Anthropic",
        stem="ANTHROPIC",
        speeches={},
        base_url="https://api.anthropic.com",
        base_url_variable="ANTHROPIC_UPSTREAM_URL",
        key_variable="ANTHROPIC_API_KEY",
        key_header="x-api-key",
        key_scheme="",
        keeps_tiers=True,
        known_models=known_models.ANTHROPIC,
        docs="https://docs.anthropic.com/en/api/messages",
    ),
    Provider(
        name="demo",
        prefix="demo",
        title="the built-in demo",
        speeches={"chat": Speech(wire=openai_chat, dialect=openai_chat.Dialect(carry_tag="demo"))},
        base_url="demo:",
        key_needed="never",
        choosable=False,
        big_model="demo",
        small_model="demo",
        known_models=("demo",),
        way="demo",
    ),
    Provider(
        name="litellm",
        prefix="litellm",
        other_prefixes=known_models.LITELLM_PREFIXES,
        title="LiteLLM",
        speeches={},
        base_url="litellm:",
        key_needed="never",
        choosable=False,
        way="litellm",
        docs="https://docs.litellm.ai/docs/providers",
    ),
)

_BY_NAME = {row.name: row for row in PROVIDERS}


def find_provider(name: str) -> Provider:
    """Return the row with this name; raises `KeyError` if there is none, because settings know no other names."""
    return _BY_NAME[name]
