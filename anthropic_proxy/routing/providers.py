"""Providers as a table of rows. What one does otherwise than its wire's vendor is a field of the row's dialect."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from anthropic_proxy.routing import dialects, known_models
from anthropic_proxy.wire import openai_chat
from anthropic_proxy.wire.contract import Wire


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


PROVIDERS: tuple[Provider, ...] = (
    Provider(
        name="openai",
        prefix="openai",
        title="OpenAI",
        stem="OPENAI",
        speeches={"chat": Speech(wire=openai_chat, dialect=dialects.OPENAI, model_rules=dialects.OPENAI_RULES)},
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
        speeches={"chat": Speech(wire=openai_chat, dialect=dialects.GROQ, model_rules=dialects.GROQ_RULES)},
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
        speeches={"chat": Speech(wire=openai_chat, dialect=dialects.MOONSHOT, model_rules=dialects.MOONSHOT_RULES)},
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
        speeches={"chat": Speech(wire=openai_chat, dialect=dialects.XAI, model_rules=dialects.XAI_RULES)},
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
