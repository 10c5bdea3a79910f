"""Provider choices, key test and `.env` lines of the command `init`.

`list_provider_choices` returns the providers that the user can choose (`ProviderChoice`), and `check_key` tests the key
of a provider (`KeyTestResult`). `list_env_lines` returns the lines that `.env` needs for the provider. Of these,
`separate_existing_lines` returns those that the file lacks. A setting that already has another value becomes a
`SettingDifference`. `describe_tier_overrides` describes settings that send requests to another provider.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import date

from msgspec import Struct, structs

from anthropic_proxy.routing.backend_checks import find_google_project
from anthropic_proxy.routing.catalog import Catalog
from anthropic_proxy.routing.credentials import Credentials
from anthropic_proxy.routing.provider_models import query_chat_models
from anthropic_proxy.routing.providers import Provider, find_registry
from anthropic_proxy.routing.router import TierMapping, list_tier_mappings
from anthropic_proxy.services import open_services
from anthropic_proxy.settings import Secret, Settings
from anthropic_proxy.settings.masking import mask_setting

TEST_TIMEOUT_SECONDS = 10.0
"""Maximum time in seconds for the test of a key, which queries the provider for its models."""
PREFERRED_PROVIDER_VARIABLE = "PREFERRED_PROVIDER"


class ProviderChoice(Struct, frozen=True):
    """A provider that `init` offers, and the key, project or server that was detected for it."""

    provider: Provider
    found: str = ""
    """Detected key, project or server: `OPENAI_API_KEY in the environment`. "": nothing was detected; the user has to
    enter it."""


class KeyTestResult(Struct, frozen=True):
    """Result of a successful test of a key: the models that the provider lists, and the duration."""

    models: tuple[str, ...]
    seconds: float


class SettingDifference(Struct, frozen=True):
    """Setting in `.env` or in the environment with another value than the one that `init` would write.

    The present value is not changed.
    """

    name: str
    place: str
    """Source of the value that the proxy uses: `.env line 4`, `environment`."""
    current: str
    wanted: str


def list_provider_choices(settings: Settings) -> list[ProviderChoice]:
    """Return the providers that `init` offers. Those with a detected key, project or server are first.

    The local Ollama server is detected by a query for its installed models.
    """
    installed = asyncio.run(_query_ollama(settings))
    choices = [
        ProviderChoice(provider, _describe_found(provider, settings, installed))
        for provider in find_registry(settings)
        if provider.offered_to_users and not provider.is_configured
    ]
    return sorted(choices, key=lambda choice: not choice.found)


def list_env_lines(provider: Provider, values: Mapping[str, str], today: date | None = None) -> dict[str, str]:
    """Return the variables for `.env` that make `provider` the preferred provider, each with its value.

    `values` contains the variables for the key or project that the user has entered. If a default model of the provider
    is retired at the date `today`, its successor is set too.
    """
    lines = {PREFERRED_PROVIDER_VARIABLE: provider.name, **values}
    defaults = {"BIG_MODEL": provider.default_big_model, "SMALL_MODEL": provider.default_small_model}
    for variable, model in defaults.items():
        retired = provider.retired_models.get(model or "")
        if retired is not None and date.fromisoformat(retired.retired_on) <= (today or date.today()):
            lines[variable] = f"{provider.prefix}/{retired.successor}"
    return lines


def separate_existing_lines(
    lines: Mapping[str, str], file_settings: Settings, used_settings: Settings
) -> tuple[dict[str, str], list[SettingDifference]]:
    """Return the `lines` (variable → value) that `.env` lacks, and the settings with another value than in `lines`.

    `file_settings` are the settings in `.env`. `used_settings` are those that the proxy uses, where a variable of the
    environment may override `.env`.
    """
    added, differences = {}, []
    for name, value in lines.items():
        present = file_settings.raw_values.get(name)
        if present is None:
            added[name] = value
        elif present.reveal() != value:
            differences.append(
                SettingDifference(
                    name, file_settings.origins[name], mask_setting(name, present.reveal()), mask_setting(name, value)
                )
            )
        if (
            used_settings.origins.get(name) == "environment"
            and (used := used_settings.raw_values[name].reveal()) != value
        ):
            differences.append(
                SettingDifference(name, "environment", mask_setting(name, used), mask_setting(name, value))
            )
    return added, differences


def describe_tier_overrides(settings: Settings, provider: Provider) -> list[str]:
    """Return a text for each setting that sends requests for Claude models to another provider than `provider`."""
    tiers: dict[str, list[TierMapping]] = {}
    for row in list_tier_mappings(structs.replace(settings, preferred_provider=provider.name), Catalog()):
        variable = row.reason.partition(",")[0]
        if variable in settings.origins and not row.target.startswith(f"{provider.prefix}/"):
            tiers.setdefault(variable, []).append(row)
    texts = []
    for variable, rows in tiers.items():
        default = provider.default_small_model if rows[0].tier == "haiku" else provider.default_big_model
        value = mask_setting(variable, settings.raw_values[variable].reveal())
        texts.append(
            f"{settings.origins[variable]} sets {variable}={value}, which stays: {', '.join(row.tier for row in rows)} "
            f"requests are sent to {rows[0].target}. For {provider.prefix}, change it to  "
            f"{variable}={provider.prefix}/{default or '<model>'}"
        )
    return texts


def check_key(settings: Settings, provider: Provider, key: str, address: str = "") -> KeyTestResult:
    """Test an API key by a query for models, and return these models and the duration.

    `address` replaces the address of the provider in `settings`. Raises `UpstreamError` if the key is rejected or no
    server answers.
    """
    if address:
        settings = structs.replace(settings, base_urls={**settings.base_urls, provider.name: address})
    if key:
        keys = {**settings.keys, provider.name: (Secret(key, f"{provider.key_variable}, as entered"),)}
        settings = structs.replace(settings, keys=keys)
    return asyncio.run(_check_key(settings, provider))


async def _check_key(settings: Settings, provider: Provider) -> KeyTestResult:
    services = await open_services(settings)
    try:
        credential = Credentials(settings).next_credential(provider)
        send, started = services.transports[provider.transport], time.monotonic()
        models = await query_chat_models(provider, settings, send, credential, TEST_TIMEOUT_SECONDS)
        return KeyTestResult(tuple(model.id for model in models), time.monotonic() - started)
    finally:
        await services.close()


async def _query_ollama(settings: Settings) -> Sequence[str] | None:
    services = await open_services(settings)
    try:
        local = find_registry(settings).local
        await services.catalog.refresh_listing(local.name)
        return services.catalog.cached_model_ids(local.name)
    finally:
        await services.close()


def _describe_found(provider: Provider, settings: Settings, installed: Sequence[str] | None) -> str:
    """Return the key, project or server that was detected for `provider`, as text. "": nothing was detected.

    `installed`: models of a local server; None: no server.
    """
    if provider.uses_installed_models:
        address = settings.base_urls.get(provider.name, provider.base_url)
        return "" if installed is None else f"{len(installed)} models at {address}"
    if provider.key_source == "google":
        project = find_google_project(settings)
        return f"project {project}" if project else ""
    variable = provider.key_variable or ""
    origin = settings.origins.get(variable, "")
    return "" if not origin else f"{variable} in {'the environment' if origin == 'environment' else origin}"
