"""The provider registry. The dialects contain the deviations of each provider from its wire."""

from anthropic_proxy.routing import known_models
from anthropic_proxy.routing.providers import anthropic as messages
from anthropic_proxy.routing.providers import gemini, litellm, ollama
from anthropic_proxy.routing.providers import openai_chat as chat
from anthropic_proxy.routing.providers import openai_responses as responses
from anthropic_proxy.routing.providers import retired_models as retired
from anthropic_proxy.routing.providers.compatible_servers import OPENAI_SERVERS
from anthropic_proxy.routing.providers.registry import Provider, ServerOverride, WireConfig

__all__ = ["PROVIDERS", "Provider", "ServerOverride", "WireConfig", "find_provider", "list_setup_variables"]

PROVIDERS: tuple[Provider, ...] = (
    Provider(
        name="openai",
        prefix="openai",
        title="OpenAI",
        env_prefix="OPENAI",
        wires={"chat": chat.OPENAI, "responses": responses.OPENAI, "messages": messages.COMPATIBLE},
        servers=OPENAI_SERVERS,
        wire_rules=responses.OPENAI_RULES,
        base_url="https://api.openai.com/v1",
        base_url_variable="OPENAI_BASE_URL",
        key_variable="OPENAI_API_KEY",
        key_required="own_address",
        big_model="gpt-4.1",
        small_model="gpt-4.1-mini",
        known_models=known_models.OPENAI,
        retired_models=retired.OPENAI,
        docs="https://platform.openai.com/docs/api-reference/chat",
    ),
    Provider(
        name="google",
        prefix="gemini",
        title="Google Gemini",
        env_prefix="GEMINI",
        wires={"gemini": gemini.AI_STUDIO},
        base_url="https://generativelanguage.googleapis.com/v1beta",
        url_version="/v1beta",
        base_url_variable="GEMINI_BASE_URL",
        key_variable="GEMINI_API_KEY",
        key_header="x-goog-api-key",
        key_scheme="",
        big_model="gemini-2.5-pro-preview-03-25",
        small_model="gemini-2.0-flash",
        model_patterns=("gemini-*", "gemma-*"),
        unknown_models_to_openai=True,
        known_models=known_models.GEMINI,
        retired_models=retired.GOOGLE,
        docs="https://ai.google.dev/api/generate-content",
    ),
    Provider(
        name="vertex",
        prefix="vertex_ai",
        title="Vertex AI",
        env_prefix="VERTEX",
        wires={"gemini": gemini.VERTEX},
        base_url="https://aiplatform.googleapis.com/v1",
        regional_urls=gemini.VERTEX_URLS,
        url_version="/v1",
        url_resource="/projects/{project}/locations/{location}/publishers/google",
        base_url_variable="VERTEX_BASE_URL",
        key_source="google",
        key_required="never",
        big_model="gemini-2.5-pro-preview-03-25",
        small_model="gemini-2.0-flash",
        model_patterns=("gemini-*", "gemma-*"),
        known_models=known_models.VERTEX,
        retired_models=retired.VERTEX,
        docs="https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference",
    ),
    Provider(
        name="ollama",
        prefix="ollama",
        title="Ollama",
        env_prefix="OLLAMA",
        wires={"ollama": ollama.OLLAMA, "messages": messages.OLLAMA},
        base_url="http://localhost:11434",
        base_url_variable="OLLAMA_API_BASE",
        key_variable="OLLAMA_API_KEY",
        key_required="never",
        big_model="llama3",
        small_model="llama3:8b",
        uses_installed_models=True,
        unknown_models_to_openai=True,
        known_models=known_models.OLLAMA,
        docs="https://github.com/ollama/ollama/blob/main/docs/api.md",
    ),
    Provider(
        name="groq",
        prefix="groq",
        title="Groq",
        env_prefix="GROQ",
        wires={"chat": chat.GROQ},
        base_url="https://api.groq.com/openai/v1",
        base_url_variable="GROQ_BASE_URL",
        key_variable="GROQ_API_KEY",
        big_model="llama-3.3-70b-versatile",
        small_model="llama-3.1-8b-instant",
        known_models=known_models.GROQ,
        retired_models=retired.GROQ,
        refused_models=dict.fromkeys(known_models.GROQ_AUDIO, "turns sound into text"),
        docs="https://console.groq.com/docs/api-reference",
    ),
    Provider(
        name="moonshot",
        prefix="moonshot",
        title="Moonshot",
        env_prefix="MOONSHOT",
        wires={"chat": chat.MOONSHOT, "messages": messages.MOONSHOT},
        base_url="https://api.moonshot.ai/v1",
        base_url_variable="MOONSHOT_BASE_URL",
        key_variable="MOONSHOT_API_KEY",
        big_model="kimi-k2-instruct",
        small_model="kimi-k2-base",
        known_models=known_models.MOONSHOT,
        retired_models=retired.MOONSHOT,
        docs="https://platform.moonshot.ai/docs/api/chat",
    ),
    Provider(
        name="xai",
        prefix="xai",
        title="xAI",
        env_prefix="XAI",
        wires={"chat": chat.XAI, "responses": responses.XAI},
        base_url="https://api.x.ai/v1",
        base_url_variable="XAI_BASE_URL",
        key_variable="XAI_API_KEY",
        big_model="grok-3",
        small_model="grok-3-mini-beta",
        known_models=known_models.XAI,
        retired_models=retired.XAI,
        docs="https://docs.x.ai/docs/api-reference",
    ),
    Provider(
        name="anthropic",
        prefix="anthropic",
        title="Anthropic",
        env_prefix="ANTHROPIC",
        wires={"messages": messages.ANTHROPIC},
        base_url="https://api.anthropic.com",
        base_url_variable="ANTHROPIC_UPSTREAM_URL",
        key_variable="ANTHROPIC_API_KEY",
        key_header="x-api-key",
        key_scheme="",
        accepts_client_credential=True,
        serves_claude=True,
        known_models=known_models.ANTHROPIC,
        docs="https://docs.anthropic.com/en/api/messages",
    ),
    Provider(
        name="demo",
        prefix="demo",
        title="the built-in demo",
        wires={"chat": chat.DEMO},
        base_url="demo:",
        key_required="never",
        selectable=False,
        big_model="demo",
        small_model="demo",
        known_models=("demo",),
        transport="demo",
    ),
    Provider(
        name="litellm",
        prefix="litellm",
        extra_prefixes=known_models.LITELLM_PREFIXES,
        title="LiteLLM",
        wires={"chat": litellm.LITELLM},
        base_url="litellm:",
        key_required="never",
        selectable=False,
        transport="litellm",
        docs="https://docs.litellm.ai/docs/providers",
    ),
)

_BY_NAME = {row.name: row for row in PROVIDERS}


def find_provider(name: str) -> Provider:
    """Return the provider with this name. Raises `KeyError`: settings contain only registered names."""
    return _BY_NAME[name]


def list_setup_variables() -> tuple[str, ...]:
    """Return one setting per provider that enables it, the most common first."""
    return tuple(variable for row in PROVIDERS if row.selectable and (variable := row.setup_variable))
