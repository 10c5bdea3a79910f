"""Provider registry: base URLs, keys, models and APIs of all providers that the proxy can call.

`PROVIDERS` contains the built-in providers, each as a `Provider`. `find_registry` adds the providers that the
configuration file defines.

A wire has the code for an API and names no provider. An entry here is data: it names wires, and lists in their dialects
what differs at one provider. Modules with entries are named after the provider (`openai.py`, `ollama.py`, `litellm.py`)
or after the API that several have:

- `openai_chat.py`: all other providers with Chat Completions, and the chat dialect of OpenAI.
- `openai_responses.py`: the configurations of the Responses API, for OpenAI and xAI.
- `anthropic.py`, `clouds.py`, `gemini.py`: Anthropic and Claude at clouds, and Google.

A `Provider` is a host itself, and has further `hosts`, which a base URL setting can select. Most belong to
`OPENAI_BASE_URL`: they are tables of `vendors.toml` if they host open models, else rows in `openai.py`.
`open_models.py` is for all others: the dialect for an unknown address, and rules by model name. `find_registry`
resolves the settings once: `Provider.host` is the host that is called.
"""

from anthropic_proxy.engine.options import EngineOptions
from anthropic_proxy.engine.providers import openai_chat
from anthropic_proxy.engine.providers.anthropic import ANTHROPIC
from anthropic_proxy.engine.providers.clouds import BEDROCK, FOUNDRY
from anthropic_proxy.engine.providers.gemini import GOOGLE, VERTEX
from anthropic_proxy.engine.providers.litellm import LITELLM
from anthropic_proxy.engine.providers.lookup import ProviderRegistry
from anthropic_proxy.engine.providers.ollama import OLLAMA
from anthropic_proxy.engine.providers.openai import OPENAI
from anthropic_proxy.engine.providers.registry import AnyWireConfig, Host, Provider

__all__ = ["PROVIDERS", "AnyWireConfig", "Host", "Provider", "ProviderRegistry", "find_registry"]

PROVIDERS = ProviderRegistry(
    (
        *(OPENAI, GOOGLE, VERTEX, OLLAMA),
        *openai_chat.PROVIDERS,
        *(ANTHROPIC, BEDROCK, FOUNDRY, openai_chat.DEMO, LITELLM),
    )
)
"""All built-in providers. If several have a key and no setting decides, the first one is preferred, Anthropic last."""


def find_registry(settings: EngineOptions) -> ProviderRegistry:
    """Return the registry for these settings: the built-in providers, each with the host that is called, then those of
    the configuration file.
    """
    return PROVIDERS.resolve(settings.configured_providers, settings.base_urls)
