"""The provider registry: URLs, keys, models and wires (APIs) of all providers. A dialect holds API deviations."""

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
"""All providers. If several have a key and no setting decides, the first one is preferred, Anthropic last."""

_BY_NAME = {row.name: row for row in PROVIDERS}


def find_provider(name: str) -> Provider:
    """Return the provider with `Provider.name` equal to `name`. Raises `KeyError` for an unknown name."""
    return _BY_NAME[name]


def list_setup_variables() -> tuple[str, ...]:
    """Return the variable that enables each provider with `offered_to_users` (`OPENAI_API_KEY`), in registry order."""
    return tuple(variable for row in PROVIDERS if row.offered_to_users and (variable := row.setup_variable))
