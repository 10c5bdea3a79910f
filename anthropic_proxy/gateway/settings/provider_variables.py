"""Facts about providers that are needed to read the settings: their names, their variables and their default models.

`ProviderVariables` has these facts about one provider. `BuiltInProviders` is the list of the built-in providers, and
its method `with_configured_providers` adds those of the configuration file.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from anthropic_proxy.gateway.settings.config_file import ConfigFile
from anthropic_proxy.gateway.settings.error_list import ErrorList
from anthropic_proxy.gateway.settings.file_format import ConfiguredProvider


class ProviderVariables(Struct, frozen=True, kw_only=True):
    """Facts about a provider that are needed to read the settings: its names, its variables and its default models.

    The subclass `Provider` in `engine.providers` adds the facts that are needed for calls to the provider.
    """

    name: str
    """Name of the provider, as key of the mappings in `Settings`: `google`."""
    prefix: str
    """Prefix of model ids, without the slash: `gemini` in `gemini/gemini-pro-latest`. Also a `PREFERRED_PROVIDER`."""
    extra_prefixes: Collection[str] = ()
    """Further prefixes that select the provider and stay in the model id: `bedrock` of `bedrock/…` for LiteLLM.

    Key variables of companies with one of the prefixes are never reported as misspelled.
    """
    env_prefix: str = ""
    """Beginning of the provider's variables: `GEMINI` of `GEMINI_WIRE`, `GEMINI_KNOWN_MODELS`. "": no variables."""
    base_url_variable: str | None = None
    """Variable of the base URL. It takes precedence over `<env_prefix>_BASE_URL`. None: only the latter exists."""
    key_variable: str | None = None
    """Variable of the API keys: `GEMINI_API_KEY`. None: the provider has no key setting."""
    offered_to_users: bool = True
    """True if error texts list the provider as a choice for a setting. False: demo and LiteLLM."""
    wires: Mapping[str, object]
    """Names of the supported wires (APIs) as keys: `chat`, `responses`. `<env_prefix>_WIRE` accepts the same names."""
    default_big_model: str | None = None
    """Default model for sonnet, opus and fable, without prefix. None: no default."""
    default_small_model: str | None = None
    """Default model for haiku, without prefix. None: no default."""
    serves_claude: bool = False
    """True if the provider serves Claude models. Requested Claude ids then stay unchanged, and BIG_MODEL and
    SMALL_MODEL are ignored."""

    @property
    def has_default_models(self) -> bool:
        """True if every Claude tier has a model of the provider, even if BIG_MODEL and SMALL_MODEL are not set."""
        return self.serves_claude or (self.default_big_model is not None and self.default_small_model is not None)


class BuiltInProviders(Protocol):
    """Interface of the list of built-in providers, which `engine.providers` implements.

    `with_configured_providers` adds the providers of the configuration file.
    """

    def with_configured_providers(
        self, tables: tuple[ConfiguredProvider, ...], file: ConfigFile, errors: ErrorList
    ) -> Sequence[ProviderVariables]:
        """Return the built-in providers, followed by the valid ones of the configuration file.

        `errors` receives one message for each invalid name or field.
        """
        ...
