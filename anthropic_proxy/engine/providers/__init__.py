"""Provider registry: base URLs, keys, models and APIs of all providers that the proxy can call.

`PROVIDERS` contains the built-in providers, each as a `Provider`. `find_registry` adds the providers that the
configuration file defines.

A wire has the code for an API and names no provider. A provider is data, a table of `vendors.toml` (`vendors.py`): it
names APIs, and lists in their dialects what differs. A `Provider` is a host itself, and has further `hosts`, which a
base URL setting can select. Most belong to `OPENAI_BASE_URL`. `find_registry` resolves the settings once:
`Provider.host` is the host that is called.
"""

from anthropic_proxy.engine.options import EngineOptions
from anthropic_proxy.engine.providers.lookup import ProviderRegistry
from anthropic_proxy.engine.providers.registry import AnyWireConfig, Host, Provider
from anthropic_proxy.engine.providers.vendors import build_providers

__all__ = ["PROVIDERS", "AnyWireConfig", "Host", "Provider", "ProviderRegistry", "find_registry"]

PROVIDERS = ProviderRegistry(tuple(build_providers()))
"""All built-in providers. If several have a key and no setting decides, the first one is preferred, Anthropic last."""


def find_registry(settings: EngineOptions) -> ProviderRegistry:
    """Return the registry for these settings: the built-in providers, each with the host that is called, then those of
    the configuration file.
    """
    return PROVIDERS.resolve(settings.configured_providers, settings.base_urls)
