"""`ProviderRegistry`: the list of all providers, with search by name and by the prefix of a model id.

A prefix, such as `openai/` in `openai/gpt-4.1`, selects the provider and is then removed from the id. An extra prefix,
such as `bedrock/` for LiteLLM, also selects the provider but stays in the id. `with_configured_providers` and `extend`
add the providers of the configuration file. `list_setup_variables` returns the environment variables that enable
providers.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import overload

from anthropic_proxy.routing.providers.configured import build_configured_provider, require_valid_provider_table
from anthropic_proxy.routing.providers.registry import Provider
from anthropic_proxy.settings import ConfigFile, ConfiguredProvider, ErrorList


class ProviderRegistry(Sequence[Provider]):
    """All providers in order of precedence. If several list the same model id, the first one serves it.

    A provider prefix in the requested id overrides this order.
    """

    def __init__(self, providers: Sequence[Provider]) -> None:
        self._rows = tuple(providers)
        self._by_name = {row.name: row for row in self._rows}
        self._by_prefix = self._by_name | {row.prefix: row for row in self._rows}
        self._by_extra_prefix = {
            prefix: row for row in self._rows for prefix in row.extra_prefixes if prefix not in self._by_prefix
        }
        self.local: Provider = next(row for row in self._rows if row.uses_installed_models)
        """Provider that is preferred if no provider has a key and its server replies: Ollama."""
        self.demo: Provider = next(row for row in self._rows if row.transport == "demo")
        """Provider that is preferred if no other one can be."""

    @overload
    def __getitem__(self, index: int) -> Provider: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Provider]: ...
    def __getitem__(self, index: int | slice) -> Provider | Sequence[Provider]:
        """Return the provider at an index, or the providers of a slice."""
        return self._rows[index]

    def __len__(self) -> int:
        """Return the number of providers."""
        return len(self._rows)

    def __iter__(self) -> Iterator[Provider]:
        """Yield the providers in order of precedence."""
        return iter(self._rows)

    def find(self, name: str) -> Provider:
        """Return the provider with `Provider.name` equal to `name`. Raises `KeyError` for an unknown name."""
        return self._by_name[name]

    def find_by_prefix(self, prefix: str) -> Provider | None:
        """Return the provider that has `prefix` as its name or as the prefix of its model ids. None: no provider.

        `prefix` must be in lower case and has no slash.
        """
        return self._by_prefix.get(prefix)

    def find_by_extra_prefix(self, prefix: str) -> Provider | None:
        """Return the provider with this extra prefix, such as `bedrock` for LiteLLM. None: no provider has it."""
        return self._by_extra_prefix.get(prefix)

    def list_setup_variables(self) -> tuple[str, ...]:
        """Return the names of the environment variables that enable providers, such as `OPENAI_API_KEY`.

        The demo and LiteLLM are left out, because the proxy does not offer them to users as a choice.
        """
        return tuple(variable for row in self._rows if row.offered_to_users and (variable := row.setup_variable))

    def with_configured_providers(
        self, tables: tuple[ConfiguredProvider, ...], file: ConfigFile, errors: ErrorList
    ) -> "ProviderRegistry":
        """Return a copy of this registry with the providers of all valid `tables` of the configuration file.

        `errors` receives messages about invalid tables.
        """
        valid = []
        for table in tables:
            with errors.collect():
                require_valid_provider_table(table, self._rows, file)
                valid.append(table)
        return self.extend(tuple(valid))

    def extend(self, tables: tuple[ConfiguredProvider, ...]) -> "ProviderRegistry":
        """Return a copy of this registry with the providers of `tables` of the configuration file.

        The tables must be valid, because they are not checked again. `with_configured_providers` checks them.
        """
        return _extend(self, tables) if tables else self


@lru_cache(maxsize=16)
def _extend(registry: ProviderRegistry, tables: tuple[ConfiguredProvider, ...]) -> ProviderRegistry:
    return ProviderRegistry((*registry, *(build_configured_provider(table, tuple(registry)) for table in tables)))
