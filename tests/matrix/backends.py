"""The backends that the matrix has a column for, each at its default model or, where that is retired, its successor."""

import functools
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, structs

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.gateway.settings import load_settings

ASKED = "claude-sonnet-4-5"


class Backend(Struct, frozen=True, eq=False):
    """A column. Equal only to itself, so that results can be cached by column."""

    title: str
    provider: str
    model: str = ""
    """As a user would set it, without prefix; empty: the provider's own default or its successor."""
    settings: Mapping[str, str] = {}
    facts: Mapping[str, Any] = {}
    """Fields of `ModelCapabilities` that the server itself reports."""

    @functools.cache  # noqa: B019  # its instances last as long as the process
    def target(self) -> Target:
        """Return the choice of the real router with these settings."""
        row = PROVIDERS.find(self.provider)
        environ = {**self.settings, "BIG_MODEL": f"{row.prefix}/{self._model()}"} if not row.serves_claude else {}
        if row.key_variable:
            environ[row.key_variable] = "matrix"
        if row.offered_to_users:
            environ["PREFERRED_PROVIDER"] = row.name
        settings = load_settings(environ, PROVIDERS, env_file=None)
        target = build_plan(RoutingQuery(ASKED), settings, Catalog()).targets[0]
        return structs.replace(target, capabilities=structs.replace(target.capabilities, **self.facts))

    def _model(self) -> str:
        row = PROVIDERS.find(self.provider)
        own = row.default_big_model or ""
        retired = row.retired_models.get(own)
        return self.model or (retired.successor if retired else own)


def _server(title: str, address: str, model: str) -> Backend:
    return Backend(title, "openai", model, {"OPENAI_BASE_URL": address})


_SHOWN = {"efforts": ("none", "low", "medium", "high", "max")}
"""Levels that Ollama reports of a model that thinks."""

BACKENDS = (
    Backend("OpenAI, Responses", "openai"),
    Backend("OpenAI, Chat", "openai", "gpt-4.1"),
    Backend("Gemini", "google"),
    Backend("Vertex AI", "vertex", settings={"VERTEX_PROJECT": "matrix", "VERTEX_LOCATION": "global"}),
    Backend("Ollama", "ollama", "qwen3:8b", facts=_SHOWN),
    Backend("Groq", "groq"),
    Backend("Moonshot", "moonshot"),
    Backend("xAI", "xai", "grok-4.5"),
    _server("local server", "http://localhost:8000/v1", "qwen3-coder"),
    _server("Azure", "https://matrix.openai.azure.com/openai/v1", "gpt-4.1"),
    _server("DeepSeek", "https://api.deepseek.com", "deepseek-flash"),
    _server("OpenRouter", "https://openrouter.ai/api/v1", "qwen/qwen3-coder"),
    _server("Mistral", "https://api.mistral.ai/v1", "mistral-medium-3-5"),
    _server("Z.ai", "https://api.z.ai/api/paas/v4", "glm-5.3"),
    Backend("LiteLLM", "litellm", "mistral/mistral-large-latest"),
    Backend("Anthropic", "anthropic"),
)
