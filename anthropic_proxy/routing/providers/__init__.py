"""The provider registry. The dialects contain the deviations of each provider from its wire."""

from anthropic_proxy.routing.providers import openai_chat
from anthropic_proxy.routing.providers.anthropic import ANTHROPIC
from anthropic_proxy.routing.providers.gemini import GOOGLE, VERTEX
from anthropic_proxy.routing.providers.litellm import LITELLM
from anthropic_proxy.routing.providers.ollama import OLLAMA
from anthropic_proxy.routing.providers.openai import OPENAI
from anthropic_proxy.routing.providers.registry import AnyWireConfig, Provider, ServerOverride

__all__ = ["PROVIDERS", "AnyWireConfig", "Provider", "ServerOverride", "find_provider", "list_setup_variables"]

PROVIDERS: tuple[Provider, ...] = (
    *(OPENAI, GOOGLE, VERTEX, OLLAMA),
    *openai_chat.PROVIDERS,
    *(ANTHROPIC, openai_chat.DEMO, LITELLM),
)
"""All providers. The order decides which one is preferred if several have a key."""

_BY_NAME = {row.name: row for row in PROVIDERS}


def find_provider(name: str) -> Provider:
    """Return the provider with this name. Raises `KeyError`: settings contain only registered names."""
    return _BY_NAME[name]


def list_setup_variables() -> tuple[str, ...]:
    """Return one setting per provider that enables it (a key, a project or a base URL), in registry order."""
    return tuple(variable for row in PROVIDERS if row.selectable and (variable := row.setup_variable))
