"""Command `init`: asks for a provider, its key and two models, tests them, and writes the settings files.

A provider of this proxy gets variables in `.env`. A vendor with the API of OpenAI, or another server with it, gets a
table in `anthropic-proxy.toml` too. A proxy that runs with these files reloads them.
"""

import asyncio
import math
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from ipaddress import ip_address
from itertools import takewhile
from typing import Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter
from msgspec import Struct, structs

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.completion import complete_providers
from anthropic_proxy.cli.importing.plan import (
    ImportPlan,
    ServerTable,
    list_route_rows,
    prepare_files,
    write_mapping_rows,
)
from anthropic_proxy.cli.local_proxy import reload_proxies
from anthropic_proxy.cli.models import ModelFacts, describe_models, find_model_price
from anthropic_proxy.cli.output import Output
from anthropic_proxy.cli.questions import Option, Questions, open_questions
from anthropic_proxy.console import formats
from anthropic_proxy.console.ledger.units import to_microseconds
from anthropic_proxy.engine.options import ConfiguredProvider, ModelTable, suggest_key_variable
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.platforms.shells import quote_word
from anthropic_proxy.engine.providers import PROVIDERS, Provider, find_registry
from anthropic_proxy.engine.providers.catalog import MIN_SESSION_TOKENS, TAGS_TIMEOUT_SECONDS, Catalog
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.providers.hosts import find_host_at, find_netloc
from anthropic_proxy.engine.providers.lookup import find_known_model, find_origin
from anthropic_proxy.engine.providers.provider_models import has_model_list, is_key_accepted, query_chat_models
from anthropic_proxy.engine.providers.registry import Host
from anthropic_proxy.engine.routing.model_listing import TierMapping, list_tier_mappings
from anthropic_proxy.engine.routing.problems import describe_unknown_prefix, has_plain_model_names
from anthropic_proxy.engine.routing.replacements import find_retirement
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.errors import (
    ConfigurationError,
    ProxyError,
    UpstreamError,
    find_similar_choice,
    find_similar_choices,
    join_with_and,
    suggest_name,
)
from anthropic_proxy.gateway.money import format_price
from anthropic_proxy.gateway.prices.price_list import has_price_package
from anthropic_proxy.gateway.readiness import find_google_project
from anthropic_proxy.gateway.services import open_services
from anthropic_proxy.gateway.settings import CONFIG_FILE, ENV_FILE, Settings, copy_environment, load_settings
from anthropic_proxy.gateway.settings.place import require_settings_folder
from anthropic_proxy.gateway.settings.sources import FoundSetting, Sources
from anthropic_proxy.gateway.settings.table import list_provider_settings
from anthropic_proxy.gateway.settings.values import (
    AZURE_RESOURCE,
    decode_keys,
    decode_model,
    decode_url,
    mask_env_lines,
    mask_setting,
    remove_endpoint,
)
from anthropic_proxy.gateway.telemetry.log.columns import count_columns, pad
from anthropic_proxy.secrets import Secret, redact_secrets

_AZURE, _EXAMPLE_MODEL = "azure", "gpt-5.6-sol"
OTHER_SERVER = "other"
"""Choice "another server" in the list of providers."""
MOST_USED = ("openai", "gemini", "anthropic", "openrouter", "deepseek", "ollama", OTHER_SERVER)
"""Names of the candidates that the list of providers shows at first, below those that were found."""
_PRICE_UNIT = "$ per million tokens"
_LISTED_MODELS = 4
"""Number of models that the list of a server shows at first."""
_SEARCH_SECONDS = 1.0
"""Maximum time in seconds for the search for a server on this machine."""
TEST_TIMEOUT_SECONDS = 10.0
"""Maximum time in seconds for the test of a key, which queries the provider for its models."""
_REJECTED_STATUSES = (401, 403)
"""HTTP statuses with which a provider rejects a key. After other failures the key may still be valid."""
_EXIT_FAILED = 1
"""Exit status 1: the key was rejected, or the user did not confirm the lines."""
_AGAIN, _OTHER, _UNTESTED = "again", "other", "keep"
"""Choices after a failed test."""
_OTHER_MODEL = "another"
"""Choice "another model" in the list of models."""
_SIMILAR_MODELS = 3
"""Number of listed models that are offered in place of a typed name."""
_ADDRESS, _KEY_OPTION = "--base-url ADDRESS", "--key-from-env VARIABLE"
"""Options in place of an answer."""
_NO_ADDRESS = "This is no address of a server, such as http://localhost:8000/v1."
_MAX_TEXT = 200
"""Number of characters of a provider's error text that are shown."""
_MAX_MODELS = 600
"""Number of characters of a list of models in an error message."""
_SMALL = compile_later(r"(?:^|[^a-z])(?:mini|flash|lite|small|nano|haiku|air|fast|turbo)(?:[^a-z]|$)")
"""Words by which vendors name the small models of a family."""
_MIN_FAMILY_CHARACTERS = 3
"""Number of characters with which the names of two models of a family begin alike."""


def init(
    *,
    provider: Annotated[str | None, Parameter(completer=complete_providers)] = None,
    key_from_env: str | None = None,
    base_url: str | None = None,
    big_model: str | None = None,
    small_model: str | None = None,
    model_of: list[str] | None = None,
    skip_test: bool = False,
    yes: bool = False,
) -> None:
    """Parameters
    ----------
    provider
        Provider to use, such as openai, or other for a server of yours; by default the command asks.
    key_from_env
        Environment variable with the key. By default the command finds the key, or asks for it.
    base_url
        Address of the server, for --provider other, and for a provider at another address than its own.
    big_model
        Model for sonnet, opus and fable; by default the command asks.
    small_model
        Model for haiku; by default the command asks. With --yes: a small model of the same family, else the big model.
    model_of
        Model behind a deployment of Azure, such as team-large=gpt-5.6-sol; once for each deployment.
    skip_test
        Do not send the key to the provider.
    yes
        Ask nothing, and write the lines without confirmation.
    """
    if provider is not None:  # a mistyped name is an error also without a terminal
        _find_candidate(list_candidates(Settings(), {}), provider)
    elif yes or base_url is not None:
        raise ConfigurationError(
            "--provider is missing. Use openai, deepseek or another provider, or other for a "
            "server of yours, with --base-url.",
            code="init-without-terminal",
        )
    address = "" if base_url is None else read_address("--base-url", base_url)
    if base_url is not None and not address:
        raise ConfigurationError(
            f'--base-url is "{base_url}". Use the address of a server, such as http://localhost:8000/v1.',
            code="init-without-terminal",
        )
    output = Output()
    questions = None if yes else open_questions(output)
    deployments = _read_deployments(provider, model_of or [])
    setup = _Setup(output, questions, skip_test, address, (big_model, small_model), deployments=deployments)
    try:
        sys.exit(setup.run(provider, key_from_env))
    except (EOFError, KeyboardInterrupt):
        setup.report_cancelled()
    sys.exit(130)


def _read_deployments(provider: str | None, given: Sequence[str]) -> dict[str, str]:
    """Return deployment → model for the texts of the option `--model-of`."""
    found = {}
    for text in given:
        deployment, _, model = text.partition("=")
        if not (deployment and model) or provider != _AZURE:
            raise ConfigurationError(
                f'--model-of is "{text}". Use the name of a deployment of Azure and that of its model, with '
                f"--provider {_AZURE}:  --model-of team-large={_EXAMPLE_MODEL}",
                code="init-without-terminal",
            )
        found[deployment] = model
    return found


def _no_key(name: str, variable: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} has no key: {variable} is not set. Set it in the environment, or name its variable with "
        "--key-from-env.",
        code="init-without-terminal",
    )


class ProviderChoice(Struct, frozen=True):
    """A provider or server that the user can choose."""

    name: str
    """Word that the user can type: `gemini`, `together`, `other`."""
    title: str
    provider: Provider | None = None
    """None: a server that needs a table in the configuration file."""
    vendor: Host | None = None
    """Entry of the vendor of such a server. None: another server."""
    found: str = ""
    """Detected key, project or server: `OPENAI_API_KEY in the environment`. "": nothing was detected; the user has to
    enter it."""
    keys_url: str = ""
    models: tuple[str, str] = ("", "")
    """Proposed big and small model. "": those of the provider."""
    address: str = ""
    """Address that the user has typed in place of a provider. "": none."""


class ChosenProvider(Struct, frozen=True):
    """The chosen provider or server, with what the user has entered for it."""

    provider: Provider
    settings: Settings
    """Settings with the entered key and address."""
    variables: dict[str, str]
    """Variables for `.env` with key, project or address."""
    table: ServerTable | None = None
    """Table for `anthropic-proxy.toml`, whose name is that of the provider. None: it needs none."""
    models: Sequence[ModelFacts] | None = None
    """Models that the server has listed. None: not tested."""
    proposed_models: tuple[str, str] = ("", "")
    """Proposed big and small model. "": those of the provider."""
    has_deployments: bool = False
    """True if models have names of the user's own, and the table says which model is behind each."""


class SettingDifference(Struct, frozen=True):
    """Setting with another value than the one that `init` would write."""

    name: str
    place: str
    """`.env line 4`, `environment`."""
    current: str
    wanted: str


class _Setup:
    """One run of the command. `questions`: None: the user is not asked. The other arguments are options."""

    def __init__(
        self,
        output: Output,
        questions: Questions | None,
        skips_test: bool,
        address: str,
        chosen_models: tuple[str | None, str | None],
        *,
        deployments: Mapping[str, str],
    ) -> None:
        self._output, self._questions, self._skips_test = output, questions, skips_test
        self._address, self._chosen_models, self._deployments = address, chosen_models, deployments
        self._environ: Mapping[str, str] = copy_environment()
        self._folder = require_settings_folder(self._environ)
        self._settings: Settings = load_command_settings(of_running_proxy=False)
        self._preferred = self._settings.preferred_provider
        self._is_written = False
        self._running_variables: Collection[str] = ()
        """Variables that a running proxy has after it has read the new settings."""
        self._is_key_rejected = False
        """True if a provider has rejected the key that was tested last."""

    def report_cancelled(self) -> None:
        if not self._is_written:
            self._output.write_notice("Cancelled. Nothing was written.")

    def run(self, name: str | None, key_variable: str | None) -> int:
        """Ask for missing values, test them and write the lines. Return the exit status."""
        candidates = list_candidates(self._settings, asyncio.run(_find_local_servers(self._settings)))
        candidate = None if name is None else _find_candidate(candidates, name)
        while True:
            if candidate is None:
                assert self._questions is not None
                present = [one.name for one in candidates if one.provider and one.provider.name == self._preferred]
                candidates.sort(key=lambda one: one.name not in present)
                listed = [one for one in candidates if one.found or one.name in (*present, *MOST_USED)]
                options = [
                    Option(one.name, one.title, _describe_candidate(one), one.name == OTHER_SERVER)
                    for one in candidates
                ]
                question = "Which provider has the models?"
                chosen = self._questions.select(
                    question,
                    options,
                    "".join(present),
                    len(listed),
                    instead="--provider NAME",
                    accepts=lambda text: bool(read_address("base_url", text)),
                )
                other = ProviderChoice(OTHER_SERVER, chosen, address=read_address("base_url", chosen))
                candidate = next((one for one in candidates if one.name == chosen), other)
            backend = self._connect(candidate, key_variable)
            if backend is not None:
                return self._write(backend, self._choose_models(backend))
            if self._questions is None:
                return _EXIT_FAILED
            candidate, key_variable = None, None

    def _connect(self, candidate: ProviderChoice, key_variable: str | None) -> ChosenProvider | None:
        """Ask for the key or address of a provider, and test it. None: it cannot be used, and another one may be."""
        if candidate.provider is None:
            return self._connect_server(candidate, key_variable)
        provider, asks, address = candidate.provider, self._questions, self._address
        if address and not provider.base_url_variable:
            raise ConfigurationError(
                f"{provider.prefix} has no setting for its address, so --base-url cannot be used with it. For another "
                "server:  --provider other",
                code="init-without-terminal",
            )
        if provider.key_source != "settings":
            return self._connect_cloud(candidate, provider, key_variable)
        variable = str(provider.key_variable)
        own = {str(provider.base_url_variable): address} if address else {}
        if key := self._read_key(key_variable):
            variables = own if key_variable == variable else {**own, variable: key}
            return self._test(ChosenProvider(provider, self._enter(provider, key, address), variables))
        if candidate.found or (provider.uses_installed_models and (asks is None or address)):
            backend = self._test(ChosenProvider(provider, self._enter(provider, "", address), own))
            if backend is not None or asks is None or provider.uses_installed_models:
                return backend
        if asks is None:
            raise _no_key(provider.prefix, variable)
        if provider.uses_installed_models:
            address_variable = str(provider.base_url_variable)
            start = f"To start {provider.title} there:  {provider.prefix} serve"
            tried = self._settings.base_urls.get(provider.name, provider.base_url)
            self._output.write_notice(f"No server answers at {tried}. {start}", "!", "warn")
            while text := asks.ask(f"{address_variable}, its address (empty: another provider)", instead=_ADDRESS):
                if not (address := read_address(address_variable, text)):
                    self._output.write_notice(_NO_ADDRESS, "✕", "error")
                    continue
                settings = self._enter(provider, "", address)
                backend = self._test(ChosenProvider(provider, settings, {address_variable: address}))
                if backend is not None:
                    return backend
            return None
        while key := self._ask_key(candidate, variable):
            backend = self._test(ChosenProvider(provider, self._enter(provider, key, address), {**own, variable: key}))
            if backend is not None:
                return backend
        return None

    def _connect_cloud(
        self, candidate: ProviderChoice, provider: Provider, key_variable: str | None
    ) -> ChosenProvider | None:
        """Ask for what a cloud needs: region, project or resource, and a key unless its own credentials are found."""
        asks, source = self._questions, provider.key_source
        place_variable, question, known = {
            "google": ("VERTEX_PROJECT", "Id of the Google Cloud project", find_google_project(self._settings)),
            "aws": ("AWS_REGION", "Region of Amazon Bedrock, such as us-east-1", self._settings.aws_region),
        }.get(
            source, ("ANTHROPIC_FOUNDRY_RESOURCE", "Name of the resource in Foundry", self._settings.foundry_resource)
        )
        address_variable, variable = provider.base_url_variable, provider.key_variable
        variables = {address_variable: self._address} if self._address and address_variable else {}
        if not known and not (variables and source == "azure"):
            if asks is None:
                raise ConfigurationError(
                    f"{provider.title} is not set up: set {place_variable} in the environment.",
                    code="init-without-terminal",
                )
            text = f"{question} ({place_variable}; empty: another provider)"
            while place := asks.ask(text, instead=f"the variable {place_variable}"):
                try:
                    self._load_with({place_variable: place})
                except ConfigurationError as error:
                    self._output.write_notice(error.message, "✕", "error")
                else:
                    break
            else:
                return None
            variables[place_variable] = place
        if variable:
            key = self._read_key(key_variable)
            if not key and asks is not None and not self._settings.keys.get(provider.name):
                key = asks.ask_secret(
                    f"API key, saved as {variable} (empty: {_CREDENTIALS[source]})", instead=_KEY_OPTION
                )
            if key and key_variable != variable:
                variables[variable] = key
        elif key_variable is not None:
            raise ConfigurationError(
                f"{provider.title} has no API keys, so --key-from-env cannot be used with it.",
                code="init-without-terminal",
            )
        if source == "google" and any(candidate.models) and "VERTEX_LOCATION" not in self._settings.origins:
            variables["VERTEX_LOCATION"] = "global"  # Google serves its newest models only there
        entered = self._load_with(variables)
        backend = ChosenProvider(provider, entered, variables, proposed_models=candidate.models)
        if entered.keys.get(provider.name):
            return backend
        return self._test_token(backend, source)

    def _test_token(self, backend: ChosenProvider, source: str) -> ChosenProvider | None:
        """Query a cloud's own credentials for a token. None: there is none, and the user does not keep the settings."""
        if self._skips_test:
            return backend
        while True:
            try:
                seconds = asyncio.run(_acquire_token(backend))
            except ProxyError as error:
                self._output.write_notice(error.message, "✕", "error")
                if (chosen := self._choose_after_failure()) != _AGAIN:
                    return backend if chosen == _UNTESTED else None
            else:
                break
        duration = formats.seconds(to_microseconds(seconds))
        self._output.write_line(f"  {self._output.paint('✓', 'ok')} {_CREDENTIALS[source]} found, {duration}")
        return backend

    def _choose_after_failure(self) -> str:
        """Return what to do after a test that failed for another reason than a rejected key: `_AGAIN`, …"""
        if self._questions is None:
            self._output.write_notice("The settings were not tested. To write them without a test, add --skip-test.")
            return _OTHER
        if not self._questions.has_person:  # a pipe has one line for it, yes or no
            question = "Keep the settings without a test?"
            return _UNTESTED if self._questions.confirm(question, default=False, instead="--skip-test") else _OTHER
        options = [
            Option(_AGAIN, "Try again"),
            Option(_OTHER, "Enter something else"),
            Option(_UNTESTED, "Keep the settings without a test"),
        ]
        return self._questions.select("What next?", options, instead="--skip-test")

    def _load_with(self, variables: Mapping[str, str]) -> Settings:
        return load_settings({**self._environ, **variables}, PROVIDERS, env_file=self._settings.env_file)

    def _read_key(self, key_variable: str | None) -> str:
        """Return the key of the option `--key-from-env`. "": the option is not used."""
        if key_variable is None:
            return ""
        if key := self._environ.get(key_variable, "").strip():
            return key
        raise ConfigurationError(
            f"--key-from-env is {key_variable}, but this variable is not set.", code="init-without-terminal"
        )

    def _connect_server(self, candidate: ProviderChoice, key_variable: str | None) -> ChosenProvider | None:
        """The same for a server that gets a table in the configuration file."""
        if candidate.vendor is not None and candidate.vendor.key_source == "azure_openai":
            return self._connect_azure(candidate.vendor, key_variable)
        asks, vendor, given = self._questions, candidate.vendor, self._read_key(key_variable)
        is_found = bool(candidate.found) and not given
        is_local, is_elsewhere = vendor is not None and vendor.has_local_url, False
        while True:
            proposed = vendor.base_url if vendor is not None else candidate.address
            address = self._address or ("" if is_elsewhere else proposed)
            while not address:
                if asks is None:
                    raise ConfigurationError(
                        "--base-url is missing. Use the address of the server, such as http://localhost:8000/v1.",
                        code="init-without-terminal",
                    )
                question = "Its address, such as localhost:8000 (empty: another provider)"
                text = asks.ask(question, instead=_ADDRESS)
                if not text:
                    return None
                if not (address := read_address("base_url", text)):
                    self._output.write_notice(_NO_ADDRESS, "✕", "error")
            host = vendor or find_host_at(PROVIDERS.find("openai"), address)
            known = host if host is not None and host.key_variable else None
            has_path, versioned = bool(urlsplit(address).path), f"{address}/v1"
            addresses = (address,) if has_path else (versioned,) if self._skips_test else (address, versioned)
            present_names = {one.base_url: one.name for one in self._settings.configured_providers}
            named = next((present_names[each] for each in addresses if each in present_names), "")
            stem = known.name.replace("_", "-") if known else named or name_host(address)
            variable = self._choose_key_variable(stem, addresses, known.key_variable if known else "")
            if candidate.name == OTHER_SERVER and asks is not None:  # the user did not choose the name
                names = [_choose_name(stem, each, self._settings) for each in addresses]
                name = next((one for one in names if one in present_names.values()), names[0])
                self._output.write_line(f"  Its name here:  {self._output.paint(name, 'type')}")
            is_first = True
            while is_first or self._is_key_rejected:
                if given and is_first:
                    key, is_found = given, key_variable == variable
                elif is_found or asks is None or (is_local and is_first):  # most local servers require no key
                    present_key = self._find_present_key(variable)
                    key, is_found = present_key.text if present_key else "", True
                else:
                    key = self._ask_key(candidate, variable)
                if vendor is not None and not key and not (is_local and is_first):
                    if asks is None:
                        raise _no_key(candidate.name, variable)
                    return None
                if not key and not is_first:  # rejected without a key too: ask for another address
                    break
                for base_url in addresses:
                    backend = self._describe_server(stem, base_url, variable, key, is_found)
                    tested = self._test(backend, reports_missing_path=has_path or base_url != address)
                    if tested is not None:
                        return tested
                    if self._is_key_rejected:
                        break
                if asks is None:
                    return None
                is_first = is_found = False
            if self._address:
                return None
            is_elsewhere = is_local or bool(candidate.address)

    def _choose_key_variable(self, stem: str, addresses: Sequence[str], default: str) -> str:
        """Return the variable that the table of one of these addresses names for its key, or else `default`.

        With the `default` "", it is a variable that no other table of this stem has.
        """
        names = [_choose_name(stem, address, self._settings) for address in addresses]
        tables = [one for one in self._settings.configured_providers if one.name in names]
        named = next((one.key_variable for one in tables if one.has_key), "")
        return named or default or suggest_key_variable(tables[0].name if tables else names[0])

    def _find_present_key(self, variable: str) -> FoundSetting | None:
        return Sources(self._environ, self._settings.env_file).find_setting(variable, is_list=True)

    def _describe_server(self, stem: str, base_url: str, variable: str, key: str, is_found: bool) -> ChosenProvider:
        """`is_found`: the variable of the key is set already."""
        name = _choose_name(stem, base_url, self._settings)
        table = ConfiguredProvider(name=name, base_url=base_url, wire="chat", has_key=bool(key), key_variable=variable)
        present = self._find_present_key(variable) if is_found else None
        origin = f"{variable}, as entered" if present is None else _describe_key(variable, present.origin)
        keys = {name: (Secret(key, origin),)} if key else {}
        settings = structs.replace(
            self._settings,
            configured_providers=(*(one for one in self._settings.configured_providers if one.name != name), table),
            base_urls={**self._settings.base_urls, name: base_url},
            keys={**self._settings.keys, **keys},
        )
        return ChosenProvider(
            find_registry(settings).find(name),
            settings,
            {variable: key} if key and not is_found else {},
            ServerTable(base_url=base_url, key_variable=variable if key else ""),
        )

    def _connect_azure(self, vendor: Host, key_variable: str | None) -> ChosenProvider | None:
        """The same for a resource of Azure OpenAI. Its models are deployments, which have names of their own."""
        asks, variable, address = self._questions, vendor.key_variable, self._address
        while not address:
            if asks is None:
                raise ConfigurationError(
                    "--base-url is missing. Use the address of the resource, such as "
                    "https://my-resource.openai.azure.com/openai/v1.",
                    code="init-without-terminal",
                )
            question = "Name of the resource, or its address (empty: another provider)"
            text = asks.ask(question, instead=_ADDRESS)
            if not text:
                return None
            named = f"https://{text}.openai.azure.com/openai/v1" if AZURE_RESOURCE.fullmatch(text) else text
            if not (address := read_address("base_url", named)):
                self._output.write_notice(_NO_ADDRESS, "✕", "error")
        parts = urlsplit(address)
        if not parts.path or "/openai/deployments/" in parts.path:  # the address of one deployment is not enough
            address = f"{parts.scheme}://{parts.netloc}/openai/v1"
        given = self._read_key(key_variable)
        variable = self._choose_key_variable(vendor.name, (address,), variable)
        known, is_first = self._environ.get(variable, ""), True
        while is_first or self._is_key_rejected:
            key = given or known if is_first else ""
            if not key and asks is not None:
                question = f"API key, saved as {variable} (empty: {_CREDENTIALS[vendor.key_source]})"
                key = asks.ask_secret(question, instead=_KEY_OPTION)
            described = self._describe_server(vendor.name, address, variable, key, key == known)
            backend = structs.replace(described, has_deployments=True)
            if not key:
                return self._test_token(backend, vendor.key_source)
            if (tested := self._test(backend)) is not None:
                return structs.replace(tested, models=None)  # Azure lists the models that could be deployed
            if asks is None:
                return None
            is_first = False
        return None

    def _ask_key(self, candidate: ProviderChoice, variable: str) -> str:
        """Return a key. "": the user enters none, to choose another provider, or because the server needs none."""
        assert self._questions is not None
        if candidate.keys_url:
            self._output.write_line(f"  Create a key:  {self._output.paint(candidate.keys_url, 'type')}")
        is_local = candidate.vendor is not None and candidate.vendor.has_local_url
        empty = "it needs none" if is_local or candidate.name == OTHER_SERVER else "another provider"
        question = f"API key, saved as {variable} (empty: {empty})"
        while key := self._questions.ask_secret(question, instead=_KEY_OPTION):
            try:
                decode_keys(FoundSetting(variable, key, "environment", (key,)))
            except ConfigurationError:
                self._output.write_notice("A key has no spaces and no letters outside ASCII.", "✕", "error")
            else:
                return key
        return ""

    def _enter(self, provider: Provider, key: str, address: str = "") -> Settings:
        """Return the settings with a key or address that the user has entered."""
        settings = self._settings
        if address:
            settings = structs.replace(settings, base_urls={**settings.base_urls, provider.name: address})
        if key:
            keys = {**settings.keys, provider.name: (Secret(key, f"{provider.key_variable}, as entered"),)}
            settings = structs.replace(settings, keys=keys)
        return settings

    def _test(self, backend: ChosenProvider, *, reports_missing_path: bool = True) -> ChosenProvider | None:
        """Query the server for its models, print the result, and return `backend` with them.

        None: the key was rejected, or the server did not answer and the user does not keep the settings. Without
        `reports_missing_path`, a server that does not have the model list at this address is not reported.
        """
        provider, output = find_registry(backend.settings).find(backend.provider.name), self._output
        backend = structs.replace(backend, provider=provider)
        self._is_key_rejected = False
        if self._skips_test or not has_model_list(provider):
            return backend
        while True:
            try:
                models, seconds, is_accepted = query_models(backend)
                break
            except UpstreamError as error:
                failure = error
            if not reports_missing_path and failure.status not in _REJECTED_STATUSES:
                return None
            if (chosen := self._report_failure(backend, failure)) != _AGAIN:
                return backend if chosen == _UNTESTED else None
        check, tested = output.paint("✓", "ok"), structs.replace(backend, models=models)
        retired = len(models) - len(find_offered_models(tested))
        left_out = f", {retired} retired {'one is' if retired == 1 else 'ones are'} left out" if retired else ""
        duration = formats.seconds(to_microseconds(seconds))
        host = find_netloc(backend.settings.base_urls.get(provider.name, provider.base_url))
        count = formats.plural(len(models), "model")
        result = f"accepted by {host}" if is_accepted else f"{host} answers"
        output.write_line(f"  {check} {result}, {count}, {duration}{left_out}")
        if backend.settings.keys.get(provider.name) and not is_accepted:
            output.write_line("    The first message checks the key: this server has not said whether it accepts it.")
        return tested

    def _report_failure(self, backend: ChosenProvider, error: UpstreamError) -> str:
        """Print why a test failed, and return what to do: `_AGAIN`, `_OTHER` or `_UNTESTED`."""
        provider, output, keys = backend.provider, self._output, backend.settings.keys.get(backend.provider.name, ())
        self._is_key_rejected = error.status in _REJECTED_STATUSES
        if self._is_key_rejected and not keys and self._questions is not None:
            output.write_notice(f"{provider.prefix} requires a key.", "!", "warn")
            return _OTHER
        message = error.message.rstrip(".")
        prefixed = message if message.startswith(provider.prefix) else f"{provider.prefix}: {message}"
        text = " ".join(redact_secrets(error.provider_text, [key.reveal() for key in keys]).split())
        said = f' It says: "{formats.shorten(text, _MAX_TEXT)}"' if text else ""
        output.write_notice(f"{prefixed}.{said}", "✕", "error")
        if not self._is_key_rejected:
            return self._choose_after_failure()
        if not backend.variables and keys:
            output.write_notice(f"The key is {keys[0]}, {keys[0].origin}. Replace it there.")
        return _OTHER

    def _choose_models(self, backend: ChosenProvider) -> dict[str, str]:
        """Return the variables for the big and the small model."""
        provider = backend.provider
        offered = find_offered_models(backend)
        defaults = find_default_models(backend, offered)
        listed = [name for name, fact in offered.items() if backend.models and not _is_too_small(fact)]
        found: dict[str, str] = {}
        accepted = self._accept_models(backend, offered, defaults)
        unknown: dict[str, str] = {}
        if backend.table is not None:
            self._add_deployments(backend, backend.table)
        for position, (variable, question) in enumerate(_MODEL_QUESTIONS.items()):
            option, default = self._chosen_models[position], defaults[position]
            flag = f"--{variable.lower().replace('_', '-')}"
            present = self._find_present_model(backend, variable)
            if backend.models and default not in offered:
                default = ""
            if not default and (big := found.get("BIG_MODEL", "").partition("/")[2]):
                default = find_small_model(big, listed) or big
            if option is not None:
                found[variable] = _add_prefix(option, backend, offered, f"{flag} is", f"{flag} ")
                if backend.models and not backend.has_deployments:
                    self._report_unlisted(found[variable], backend, [*offered])
            elif (agreed := accepted[position]) is not None:
                found[variable] = f"{provider.prefix}/{agreed}"
            elif self._questions is not None and not provider.serves_claude:
                usable = {name: offered[name] for name in listed}
                default = present or default or next(iter(sort_models(backend, usable, "", date.today())), "")
                found[variable] = self._ask_model(question, flag, backend, default)
            elif (
                backend.table is not None
                or any(backend.proposed_models)
                or (backend.models and not provider.serves_claude)
            ):
                default = present or default
                if not default and len(listed) != 1:
                    names = formats.shorten(", ".join(listed), _MAX_MODELS)
                    known = f" {provider.prefix} has: {names}." if names else ""
                    raise ConfigurationError(
                        f"--big-model is missing, the model for sonnet, opus and fable.{known}",
                        code="init-without-terminal",
                    )
                found[variable] = f"{provider.prefix}/{default or listed[0]}"
            if variable in found:
                self._report_retirement(backend, found[variable].partition("/")[2])
            if backend.table is not None and backend.has_deployments:
                deployment = found[variable].partition("/")[2]
                if not self._find_model_of(backend, backend.table, deployment, position):
                    unknown[deployment] = f"--model-of {deployment}={_EXAMPLE_MODEL}"
        if unknown:
            names, field = join_with_and([*unknown]), self._output.paint(f'model_of = "{_EXAMPLE_MODEL}"', "type")
            self._output.write_notice(
                f"Limits and prices of {names} are unknown: add  {field}  in {CONFIG_FILE}. "
                f"The option for it:  {self._output.paint(' '.join(unknown.values()), 'type')}",
                "!",
                "warn",
            )
        if self._questions is None:  # without a list of models, a default that is still served needs no line
            found = {**list_env_lines(provider, {}, backend.settings), **found}
            del found["PREFERRED_PROVIDER"]
        return found

    def _report_unlisted(self, model: str, backend: ChosenProvider, offered: Sequence[str]) -> None:
        """Report a model of the provider that its server does not list, which a server may serve nevertheless."""
        prefix, _, name = model.partition("/")
        if _is_unlisted(model, backend, offered):
            nearest = find_similar_choice(name, offered)
            has = (
                f" Did you mean:  {nearest}"
                if nearest
                else f" It has: {formats.shorten(', '.join(offered), _MAX_TEXT)}."
            )
            self._output.write_notice(f"{prefix} does not list {name}.{has}", "!", "warn")

    def _find_present_model(self, backend: ChosenProvider, variable: str) -> str:
        """Return the model of the provider that a setting has, without prefix. "": none, or a retired one."""
        present, prefix = self._settings.raw_values.get(variable), f"{backend.provider.prefix}/"
        model = "" if present is None or not present.reveal().startswith(prefix) else present.reveal()[len(prefix) :]
        day = _find_retirement_date(backend, model)
        return "" if day is not None and day <= date.today() else model

    def _accept_models(
        self, backend: ChosenProvider, offered: Mapping[str, ModelFacts], defaults: tuple[str, str]
    ) -> tuple[str | None, str | None]:
        """Return the big and the small model if there is no choice, or if the user accepts the proposed ones.

        None: the user chooses them in lists.
        """
        asks, output = self._questions, self._output
        if asks is None or not backend.models or any(self._chosen_models) or backend.provider.serves_claude:
            return None, None
        names = [*dict.fromkeys(defaults)]
        if len(offered) == 1:
            names = [*offered]
        elif (
            not asks.has_person
            or not all(name in offered for name in names)
            or any(self._find_present_model(backend, variable) for variable in _MODEL_QUESTIONS)
        ):  # the lists propose the present ones
            return None, None
        labels = ["sonnet, opus, fable, haiku"] if len(names) == 1 else ["sonnet, opus, fable", "haiku"]
        width = max(map(len, labels)), max(map(count_columns, names))
        rows = [f"  {label:<{width[0]}}  → {pad(name, width[1])}  " for label, name in zip(labels, names, strict=True)]
        facts = [describe_facts(offered[name], date.today()) for name in names]
        is_wide = output.width and any(
            count_columns(row + fact) > output.width for row, fact in zip(rows, facts, strict=True)
        )
        for row, fact in zip(rows, facts, strict=True):
            lines = [row, f"{'':{width[0] + len('    → ')}}{fact.strip()}"] if is_wide else [row + fact]
            for line in lines:
                output.write_line(line.rstrip())
        unit = f" ({_PRICE_UNIT})" if any(_has_price(offered[name]) for name in names) else ""
        if len(offered) > 1 and not asks.confirm(f"Use these models?{unit}", default=True, instead="--yes"):
            return None, None
        return names[0], names[-1]

    def _add_deployments(self, backend: ChosenProvider, table: ServerTable) -> None:
        """Add the models of the option `--model-of` to a table."""
        described = {one.name: one for one in backend.settings.configured_providers}[backend.provider.name]
        origin = find_origin(described, PROVIDERS)
        for name, model in self._deployments.items():
            if find_known_model(model, origin, PROVIDERS) is None:
                raise ConfigurationError(
                    f'--model-of is "{name}={model}". Use the id of a model that the proxy knows, such as '
                    f"{_EXAMPLE_MODEL} (anthropic-proxy models lists them).",
                    code="init-without-terminal",
                )
            table.models[name] = {"model_of": model}

    def _report_retirement(self, backend: ChosenProvider, model: str) -> None:
        retirement = find_retirement(backend.provider, model)
        if retirement is not None and retirement.applies_on(date.today()):
            successor = f". Its successor:  {retirement.successor}" if retirement.successor else ""
            self._output.write_notice(f"{model} is retired since {retirement.retired_on}{successor}", "!", "warn")

    def _find_model_of(self, backend: ChosenProvider, table: ServerTable, deployment: str, position: int) -> bool:
        """Ask for the model behind a deployment, unless its name is that of a model. `position`: 0 is the big one.

        False: the model is unknown, and the user is not asked.
        """
        openai, today = PROVIDERS.find("openai"), date.today()
        if deployment in openai.known_models or deployment in table.models:
            return True
        if self._questions is None:
            return False
        dates = {name: _find_retirement_date(backend, name) for name in reversed(openai.known_models)}
        offered = [name for name, day in dates.items() if day is None or day > today]
        options = [Option(name, note=_describe_retirement(dates[name], today)) for name in offered]
        options.append(Option(_OTHER_MODEL, "another model", "not in the list"))
        default = str((openai.default_big_model, openai.default_small_model)[position])
        question, flag = f"Model behind {deployment}", f"--model-of {deployment}={_EXAMPLE_MODEL}"
        if (model := self._questions.select(question, options, default, instead=flag)) != _OTHER_MODEL:
            table.models[deployment] = {"model_of": model}
        return True

    def _ask_model(self, question: str, flag: str, backend: ChosenProvider, default: str) -> str:
        """Return the name of a model with its prefix. `flag`: the option with the same value."""
        asks, prefix = self._questions, f"{backend.provider.prefix}/"
        assert asks is not None
        if listed := find_offered_models(backend):
            if any(map(_has_price, listed.values())):
                question += f" ({_PRICE_UNIT})"
            options = [
                Option(name, note=describe_facts(fact, date.today()))
                for name, fact in sort_models(backend, listed, default, date.today()).items()
            ]
            options.append(Option(_OTHER_MODEL, "another model", "not in the list", True))
            few = 0 if len(options) <= _LISTED_MODELS + 1 else _LISTED_MODELS
            model = asks.select(question, options, default, few, instead=f"{flag} NAME", accepts=_is_model_name)
            if model in listed:
                return f"{prefix}{model}"
            model = "" if model == _OTHER_MODEL else model
        else:
            model = ""
        while True:
            text = f"Name of the model, without {prefix}" if listed else f"{question}: its name without {prefix}"
            model = model or asks.ask(text, "" if listed else default, instead=f"{flag} NAME")
            if not _is_model_name(model):
                self._output.write_notice("A model name is not empty and has no spaces.", "✕", "error")
                model = ""
                continue
            try:
                name = _add_prefix(model, backend, listed, "The model is", "")
            except ConfigurationError as error:
                self._output.write_notice(error.message, "✕", "error")
                model = ""
                continue
            if not backend.models or backend.has_deployments or not _is_unlisted(name, backend, listed):
                return name
            if not asks.has_person:  # the next line answers another question
                self._report_unlisted(name, backend, [*listed])
                return name
            typed, number = name.removeprefix(prefix), formats.plural(len(listed), "listed model")
            options = [Option(each) for each in find_similar_choices(typed, listed, _SIMILAR_MODELS)]
            options.append(Option(_OTHER_MODEL, "another name"))
            options.append(Option(typed, note="use it nevertheless"))
            question = f"{typed} is not one of the {number}. Which one do you mean?"
            chosen = asks.select(question, options, instead=f"{flag} NAME")
            if chosen == typed:
                return name
            model = "" if chosen == _OTHER_MODEL else chosen

    def _write(self, backend: ChosenProvider, models: Mapping[str, str]) -> int:
        """Show the new lines, ask for confirmation and write them. Return the exit status."""
        provider, output, asks = backend.provider, self._output, self._questions
        lines = {"PREFERRED_PROVIDER": provider.name, **self._list_exported(provider), **backend.variables, **models}
        differences = find_differences(lines, self._environ, self._settings.env_file)
        changeable = [one for one in differences if one.place != "environment"]
        replaced: Sequence[str] = ()
        staying = []
        if asks is not None:
            replaced = [one.name for one in changeable]
            for one in changeable:
                output.write_notice(f"{one.place}: {one.name}={one.current} → {one.wanted}", "!", "warn")
        for one in differences:
            if one.name not in replaced or one.place == "environment":
                staying.append(one.current)
                output.write_notice(
                    f"{one.place} sets {one.name}={one.current}, which stays. "
                    f"For {provider.prefix}, change it to  {one.name}={one.wanted}",
                    "!",
                    "warn",
                )
        plan = ImportPlan("init")
        plan.variables = lines
        if backend.table is not None:
            names = dict.fromkeys((*(model.partition("/")[2] for model in models.values()), *backend.table.models))
            plan.servers[provider.name] = structs.replace(
                backend.table, models={name: backend.table.models.get(name, {}) for name in names}
            )
        files = prepare_files(plan, self._folder, replaced)
        self._report_present_table(backend, files.settings)
        for text in describe_tier_overrides(backend.settings, provider):
            if not any(f" sets {one.name}=" in text for one in differences):  # reported or replaced
                output.write_notice(text, "!", "warn")
        self._report_routes(files.settings)
        if not any(change.added for change in files.changes):
            output.write_line(f"  {self._folder / ENV_FILE} needs no new line.")
            self._reload()
            self._report_exported_key(backend)
            self._write_next_commands(backend, models, staying)
            return 0
        for change in files.changes:
            if change.added:
                kind = "New and changed" if replaced and change.path.name == ENV_FILE else "New"
                output.write_line(f"  {kind} lines of {change.path}:")
            for line in mask_env_lines(change.added).strip("\n").splitlines():
                output.write_line(f"    {output.paint(line, 'type')}".rstrip())
        instead = "--yes, which changes no line" if replaced else "--yes"
        if asks is not None and not asks.confirm("Write them?", default=True, instead=instead):
            output.write_notice("Nothing was written.")
            return _EXIT_FAILED
        files.write(output)
        self._is_written = True
        output.write_line(f"  {output.paint('✓', 'ok')} {'Wrote' if replaced else 'Added'} the lines.")
        self._reload()
        self._report_exported_key(backend)
        self._write_next_commands(backend, models, staying)
        return 0

    def _report_routes(self, written: Settings) -> None:
        """Name the routes, which choose other models than the written ones. `written`: with the new lines."""
        if not (routes := written.routes):
            return
        count = formats.plural(len(routes), "route")
        verb, pronoun = ("comes", "it") if len(routes) == 1 else ("come", "them")
        self._output.write_line(f"  {self._output.paint('!', 'warn')} {count} {verb} before these models:")
        write_mapping_rows(self._output, list_route_rows(written), "    ")
        numbers = list(dict.fromkeys(route.origin.rpartition(" ")[2] for route in routes))  # one line may have several
        places = f"{'line' if len(numbers) == 1 else 'lines'} {join_with_and(numbers)}"
        tables = "its table [[routes]]" if len(routes) == 1 else "their tables [[routes]]"
        if len(numbers) < len(routes):
            tables = "the list routes"
        text = f"To remove {pronoun}, delete {tables} in {shorten_home(self._folder / CONFIG_FILE)}, {places}."
        self._output.write_line(f"    {self._output.paint(text, 'quiet')}")

    def _list_exported(self, provider: Provider) -> dict[str, str]:
        """Return what only the environment of this shell says of the provider, apart from secrets: its address, its
        region. Otherwise a proxy that another shell starts would call another server than the tested one.
        """
        sources = Sources(self._environ, None)
        found = [each.find_text(sources) for each in list_provider_settings(provider)]
        return {one.variable: one.text for one in found if one and mask_setting(one.variable, one.text) == one.text}

    def _report_present_table(self, backend: ChosenProvider, written: Settings) -> None:
        """Report what a table of the configuration file lacks that stays as it is. `written`: with the new lines."""
        if backend.table is None:
            return
        variable, missing = backend.table.key_variable, list[str]()
        table = next((one for one in written.configured_providers if one.name == backend.provider.name), None)
        if table is None:
            return
        if variable and not (table.has_key and table.key_variable == variable):
            other = "another api_key" if table.has_key else "no api_key"
            missing.append(f'has {other}, and stays. For {table.name}, write there  api_key = {{ env = "{variable}" }}')
        for name, model in self._deployments.items():
            if table.models.get(name, ModelTable()).model_of != model:
                wanted = f'[providers.{table.name}.models."{name}"]  model_of = "{model}"'
                missing.append(f"has another model for {name}, and stays. Write there  {wanted}")
        for text in missing:
            self._output.write_notice(
                f"[providers.{table.name}] of {shorten_home(self._folder / CONFIG_FILE)} {text}", "!", "warn"
            )

    def _write_next_commands(self, backend: ChosenProvider, models: Mapping[str, str], staying: Sequence[str]) -> None:
        """`staying`: values of settings that stay as they are, such as a model that replies already."""
        today = date.today()
        rows = [("  Next:", "anthropic-proxy code", "in the folder of your project")]
        names = [name.partition("/")[2] for name in models.values()]
        listed = find_offered_models(backend) if backend.models and names else {}
        usable = {name: one for name, one in listed.items() if not (_is_too_small(one) or _retires_soon(one, today))}
        targets = {name: _find_target(backend, name) for name in usable}
        usable = {name: one for name, one in usable.items() if targets[name].capabilities.tools}
        # another server than the vendor's may have only the API of the chosen models
        if usable and backend.provider.name in backend.settings.base_urls:
            wires = {_find_target(backend, name).wire for name in names}
            usable = {name: one for name, one in usable.items() if targets[name].wire in wires}
        used = {*names, *(value.removeprefix(f"{backend.provider.prefix}/") for value in staying)}
        if other := next((name for name in sort_models(backend, usable, "", today) if name not in used), ""):
            command = f"anthropic-proxy code --model {quote_word(f'{backend.provider.prefix}/{other}')}"
            rows.append(("  Or:", command, "for another model"))
        if not has_price_package():
            is_free = names and all(name in listed and listed[name].is_free for name in names)
            extras, purpose = ("dashboard", "charts") if is_free else ("dashboard prices", "costs and charts")
            rows.append(("  Then:", f"anthropic-proxy add {extras}", f"for {purpose}"))
        for lead, command, purpose in rows:
            self._output.write_step(f"{lead:<8}", command, purpose)

    def _reload(self) -> None:
        """Let a running proxy read the new settings, or tell the user why it does not."""
        self._running_variables = reload_proxies(self._output, self._settings, self._folder / ENV_FILE)

    def _report_exported_key(self, backend: ChosenProvider) -> None:
        """Name a key that only the environment of this shell has, because a new shell starts the proxy without it."""
        variable = backend.table.key_variable if backend.table else backend.provider.key_variable or ""
        exported, saved = (
            variable and sources.find_setting(variable, is_list=True)
            for sources in (Sources(self._environ, None), Sources({}, self._settings.env_file))
        )
        if exported and not saved and variable not in self._running_variables:
            self._output.write_notice(
                f"{variable} stays in the environment. Set it in each shell that starts the proxy, or write the key to "
                f"{shorten_home(self._folder / ENV_FILE)}.",
                "!",
                "warn",
            )


_CREDENTIALS = {
    "google": "Application Default Credentials",
    "aws": "the credentials of AWS",
    "azure": "Microsoft Entra ID",
    "azure_openai": "Microsoft Entra ID",
}
"""Source of a provider's credentials → its name in texts."""
_CLOUDS = {
    "google": "a project of Google Cloud",
    "aws": "API key, or the credentials of AWS",
    "azure": "API key, or Microsoft Entra ID",
    "azure_openai": "API key, or Microsoft Entra ID",
}
"""Source of a provider's credentials → what the user needs."""
_CLAUDE_MODELS = {
    "vertex_ai": ("claude-opus-5-5", "claude-haiku-5-5"),
    "bedrock": ("global.anthropic.claude-opus-5-5", "global.anthropic.claude-haiku-5-5"),
    "foundry": ("claude-opus-5-5", "claude-haiku-5-5"),
}
"""Prefix of a cloud → the proposed models of Claude.

Sources: docs.aws.amazon.com/bedrock/latest/userguide/model-card-anthropic-claude-opus-5-5 and -haiku-5-5 (launched on
2026-09-22 and 2026-10-07, end not before a year later); @ai-sdk/amazon-bedrock 4.0.192 (ids at Bedrock and Vertex AI);
lib/google_cloud of anthropic 2.10.0; platform.claude.com/docs/en/build-with-claude/claude-in-microsoft-foundry; read
2026-11-25. Amazon ends Haiku 4.5 from 2026-10-01 on."""


async def _acquire_token(backend: ChosenProvider) -> float:
    """Return the duration in seconds. Raises `ProxyError` if the cloud gives no token."""
    services = await open_services(backend.settings)
    try:
        started = time.monotonic()
        await services.credentials.next_token_and_url(backend.provider, "")
        return time.monotonic() - started
    finally:
        await services.close()


NOTICE_DAYS = 180
"""A model that retires within this number of days is marked, listed last and not proposed."""
_SUCCESSOR_SHARE = 0.25
"""Share of the price of a model below which its successor is too small to be proposed in its place."""
_DATED = compile_later(r"-(?:\d{4}-\d{2}-\d{2}|\d{8}|\d{4})$")
"""End of the name of a dated copy, such as gpt-5.5-2026-04-23."""
_MODEL_QUESTIONS = {
    "BIG_MODEL": "Big model, for sonnet, opus and fable",
    "SMALL_MODEL": "Small model, for haiku",
}


async def _choose_installed_models(settings: Settings) -> list[str]:
    """Return the big and the small model that the proxy uses if no setting names one, as its server lists them."""
    services = await open_services(settings)
    try:
        local, catalog = find_registry(settings).local, services.catalog
        await catalog.refresh_listing(local.name, TAGS_TIMEOUT_SECONDS)
        listed = catalog.cached_model_ids(local.name) or ()
        defaults = local.default_big_model or "", local.default_small_model or ""
        chosen = [
            catalog.choose_installed_model(local.name, default, prefers_small=position == 1)
            for position, default in enumerate(defaults)
        ]
        return [f"{model}:latest" if f"{model}:latest" in listed else model for model in chosen]
    finally:
        await services.close()


async def _find_local_servers(settings: Settings) -> dict[str, int]:
    """Query the usual ports of model servers on this machine. Return name of a provider or vendor → number of models.

    No key is sent. A server that does not list models is not a model server.
    """
    vendors = [server for server in PROVIDERS.find("openai").hosts if server.has_local_url]
    names = {vendor.name for vendor in vendors}
    tables = [
        ConfiguredProvider(name=one.name, base_url=one.base_url, wire="chat", has_key=False, key_variable="")
        for one in vendors
    ]
    others = [one for one in settings.configured_providers if one.name not in names]
    searched = structs.replace(
        settings,
        configured_providers=(*others, *tables),
        base_urls={**settings.base_urls, **{one.name: one.base_url for one in vendors}},
        keys={name: keys for name, keys in settings.keys.items() if name not in names},
    )
    registry, services = find_registry(searched), await open_services(searched)
    local = registry.local.name

    async def count_models(name: str) -> int | None:
        if name == local:
            await services.catalog.refresh_listing(local)
            installed = services.catalog.cached_model_ids(local)
            return None if installed is None else len(installed)
        send = services.transports[name]
        try:
            return len(await query_chat_models(registry.find(name), searched, send, None, _SEARCH_SECONDS)) or None
        except UpstreamError:
            return None

    try:
        counts = await asyncio.gather(*map(count_models, searched_names := [local, *names]))
    finally:
        await services.close()
    return {name: number for name, number in zip(searched_names, counts, strict=True) if number is not None}


def _describe_key(variable: str, origin: str) -> str:
    """`OPENAI_API_KEY in the environment`, `OPENAI_API_KEY in .env line 4`. "": it is not set."""
    return origin and f"{variable} in {'the environment' if origin == 'environment' else origin}"


def list_candidates(settings: Settings, local_servers: Mapping[str, int]) -> list[ProviderChoice]:
    """Return all providers that the user can choose: first those with a detected key, project or server, then the most
    used ones.

    `local_servers`: name of a provider or vendor whose server on this machine answers → number of its models.
    """
    found = []
    for provider in find_registry(settings):
        if not (provider.offered_to_users or provider.prefix in _CLAUDE_MODELS) or provider.is_configured:
            continue
        variable = provider.key_variable or ""
        origin = settings.origins.get(variable, "")
        detected = _describe_key(variable, origin)
        if provider.uses_installed_models:
            address = settings.base_urls.get(provider.name, provider.base_url)
            detected = _describe_local_server(local_servers.get(provider.name), address)
        elif provider.key_source == "google":
            project = find_google_project(settings)
            detected = f"project {project}" if project else ""
        elif provider.key_source == "azure" and settings.foundry_resource and not detected:
            detected = f"resource {settings.foundry_resource}"
        if provider.offered_to_users:
            found.append(ProviderChoice(provider.prefix, provider.title, provider, None, detected, provider.keys_url))
        if models := _CLAUDE_MODELS.get(provider.prefix):
            name = f"{provider.prefix}_claude" if provider.offered_to_users else provider.prefix
            found.append(ProviderChoice(name, f"Claude: {provider.title}", provider, None, detected, models=models))
    exported, saved = Sources(copy_environment(), None), Sources(copy_environment(), settings.env_file)
    servers = PROVIDERS.find("openai").hosts
    vendors = [server for server in servers if server.base_url or server.key_source == "azure_openai"]
    for vendor in sorted(vendors, key=lambda one: one.title.lower()):
        # with the resource of Azure, a new key is asked for
        sources = exported if vendor.key_source == "azure_openai" else saved
        key = sources.find_setting(vendor.key_variable, is_list=True)
        detected = _describe_key(vendor.key_variable, key.origin if key else "")
        detected = detected or _describe_local_server(local_servers.get(vendor.name), vendor.base_url)
        found.append(ProviderChoice(vendor.name, vendor.title, None, vendor, detected, vendor.keys_url))
    found.append(ProviderChoice(OTHER_SERVER, "Another server"))
    own_servers = [one.name for one in found if one.name == OTHER_SERVER or (one.vendor and one.vendor.has_local_url)]
    clouds = [one.name for one in found if any(one.models)]

    def rank(one: ProviderChoice) -> tuple[bool, int, int]:
        is_own, is_cloud = one.name in own_servers, one.name in clouds
        use = MOST_USED.index(one.name) if one.name in MOST_USED else len(MOST_USED)
        return not one.found, use, 1 if is_own else 2 if is_cloud else 0 if one.provider is not None else 3

    return sorted(found, key=rank)


def _describe_local_server(models: int | None, address: str) -> str:
    """Return the text for a server with a number of models. None: there is no server."""
    place = address.removeprefix("http://").removesuffix("/v1")
    return "" if models is None else f"{formats.plural(models, 'model')} at {place}"


def _describe_candidate(candidate: ProviderChoice) -> str:
    if candidate.found:
        return f"found: {candidate.found}"
    if candidate.name == OTHER_SERVER:
        return "any OpenAI-compatible address"
    entry = candidate.provider or candidate.vendor
    return _CLOUDS.get(entry.key_source, "") if entry is not None else ""


def _find_candidate(candidates: Sequence[ProviderChoice], name: str) -> ProviderChoice:
    """Return the candidate that the user calls `name`. Raises `ConfigurationError` with the nearest name."""
    word = name.lower()
    for candidate in candidates:
        names = [candidate.name, candidate.title.lower()]
        if word in (*names, *([candidate.provider.name] if candidate.provider else [])):
            return candidate
    remedy = suggest_name("provider", name, [candidate.name for candidate in candidates], lead="--provider ")
    raise ConfigurationError(f'There is no provider "{name}". {remedy}', code="unknown-provider")


def query_models(backend: ChosenProvider) -> tuple[Sequence[ModelFacts], float, bool]:
    """Return the models that a server lists, the duration of the query in seconds, and True if it accepted the key.

    Raises `UpstreamError` if the server rejects the key, or does not answer.
    """

    async def query() -> tuple[Sequence[ModelFacts], float, bool]:
        provider, settings = backend.provider, backend.settings
        services = await open_services(settings)
        try:
            credential = Credentials(settings).next_credential(provider)
            send, started = services.transports[provider.name], time.monotonic()
            listed = await query_chat_models(provider, settings, send, credential, TEST_TIMEOUT_SECONDS)
            listed = [model for model in listed if _is_model_name(model.id)]
            seconds = time.monotonic() - started
            is_accepted = credential is not None and await is_key_accepted(
                provider, settings, send, credential, TEST_TIMEOUT_SECONDS
            )
            if provider.uses_installed_models:  # each model is described by a query of its own
                catalog, name = services.catalog, provider.name
                await asyncio.gather(*(catalog.fetch_capabilities(name, model.id) for model in listed))
            return describe_models(services, provider, listed), seconds, is_accepted
        finally:
            await services.close()

    return asyncio.run(query())


def sort_models(
    backend: ChosenProvider, models: Mapping[str, ModelFacts], default: str, today: date
) -> dict[str, ModelFacts]:
    """Return `models` with `default` first, then those with room for a session whose price is nearest to its price.

    Without a price, models of the same size follow, first the newest ones that are known. Models that retire within
    `NOTICE_DAYS` and dated copies are last.
    """
    newest, price = [*reversed(backend.provider.known_models)], _find_output_price(backend, models, default)

    def is_small(name: str) -> bool:
        return _SMALL.search(name.lower()) is not None

    def rank(name: str) -> tuple[bool, bool, bool, bool, float, bool, int]:
        facts, stem = models[name], _DATED.sub("", name)
        distance = math.inf if facts.price is None or price is None else abs(facts.price.output - price)
        return (
            name != default,
            _is_too_small(facts),
            _retires_soon(facts, today),
            stem != name and not models.keys().isdisjoint((stem, f"{stem}-latest")),
            distance,
            is_small(name) != is_small(default),
            newest.index(name) if name in newest else len(newest),
        )

    return {name: models[name] for name in sorted(models, key=rank)}


def _find_output_price(backend: ChosenProvider, models: Mapping[str, ModelFacts], name: str) -> float | None:
    if name in models:
        price = models[name].price
    else:
        price = find_model_price(backend.settings, f"{backend.provider.prefix}/{name}") if name else None
    return None if price is None else price.output


def _retires_soon(facts: ModelFacts, today: date) -> bool:
    return facts.retires_on is not None and (facts.retires_on - today).days <= NOTICE_DAYS


def describe_facts(facts: ModelFacts, today: date) -> str:
    """Return input limit, price and retirement of a model as text in columns: `1.0 M context    $2.00 in    $8.00 out`.

    A retirement is stated within `NOTICE_DAYS`. A model without limit and price has an empty text.
    """
    price = facts.price
    window = "" if price is None else "unknown"
    if facts.max_input is not None:
        window = f"{formats.short_count(facts.max_input)} context"
    if price is None:
        amounts = ""
    elif facts.is_free:
        amounts = "free of charge"
    else:
        amounts = f"{format_price(price.input):>6} in {format_price(price.output):>7} out"
    text = f"{window:>14}  {'too small for Claude Code' if _is_too_small(facts) else amounts}".rstrip()
    retirement = _describe_retirement(facts.retires_on, today)
    return f"{text}  {retirement}" if retirement else text


def _has_price(facts: ModelFacts) -> bool:
    return facts.price is not None and bool(facts.price.output)


def _is_too_small(facts: ModelFacts) -> bool:
    return facts.max_input is not None and facts.max_input < MIN_SESSION_TOKENS


def _is_model_name(text: str) -> bool:
    try:
        decode_model(FoundSetting("model", text, "environment", (text,)))
    except ConfigurationError:
        return False
    return True


def find_offered_models(backend: ChosenProvider, today: date | None = None) -> dict[str, ModelFacts]:
    """Return the models to choose from, by their names without prefix: those that are not retired at `today`.

    They are the models that the server lists, or those that the proxy knows.
    """
    prefix = f"{backend.provider.prefix}/"
    found = {fact.model.removeprefix(prefix): fact for fact in backend.models or ()}
    if backend.models is None and not any(backend.proposed_models):
        names = backend.provider.known_models
        found = {name: ModelFacts(name, retires_on=_find_retirement_date(backend, name)) for name in names}
    today = today or date.today()
    return {name: fact for name, fact in found.items() if fact.retires_on is None or fact.retires_on > today}


def _find_target(backend: ChosenProvider, model: str) -> Target:
    query = RoutingQuery(f"{backend.provider.prefix}/{model}")
    return build_plan(query, backend.settings, Catalog()).targets[0]


def _find_retirement_date(backend: ChosenProvider, model: str) -> date | None:
    retirement = find_retirement(backend.provider, model)
    return None if retirement is None else date.fromisoformat(retirement.retired_on)


def _describe_retirement(day: date | None, today: date) -> str:
    return f"retires {day}" if day is not None and (day - today).days <= NOTICE_DAYS else ""


def _is_unlisted(model: str, backend: ChosenProvider, offered: Collection[str]) -> bool:
    """`model`: name with prefix. One of another provider is not in this list anyway."""
    prefix, _, name = model.partition("/")
    return prefix == backend.provider.prefix and name not in offered and f"{name}:latest" not in offered


def _add_prefix(name: str, backend: ChosenProvider, offered: Collection[str], subject: str, lead: str) -> str:
    """Return a model name with the prefix of its provider, which is another one if the name has that prefix.

    Raises `ConfigurationError`, which begins with `subject`, if the name has the prefix of no provider. If models of
    the chosen provider may have a slash in their names, each name is one of its own.
    """
    provider, settings = backend.provider, backend.settings
    if name not in offered and (
        problem := describe_unknown_prefix(name, provider, settings, subject=subject, lead=lead)
    ):
        raise ConfigurationError(problem, code="invalid-setting")
    is_of_other = "/" in name and name not in offered and has_plain_model_names(provider, settings)
    return name if is_of_other or name.startswith(f"{provider.prefix}/") else f"{provider.prefix}/{name}"


def list_env_lines(
    provider: Provider, values: Mapping[str, str], settings: Settings, today: date | None = None
) -> dict[str, str]:
    """Return the variables for `.env` that make `provider` the preferred provider, each with its value.

    `values` contains the variables for the key or project that the user has entered. If a default model of the provider
    is retired at the date `today`, its successor is set too. `settings` can name another server than the vendor's,
    which does not retire the model.
    """
    lines = {"PREFERRED_PROVIDER": provider.name, **values}
    defaults = {"BIG_MODEL": provider.default_big_model, "SMALL_MODEL": provider.default_small_model}
    for variable, model in defaults.items():
        retired = find_retirement(provider, model or "")
        if retired is not None and retired.applies_on(today or date.today()):
            lines[variable] = f"{provider.prefix}/{retired.successor}"
    return lines


def find_default_models(
    backend: ChosenProvider, offered: Mapping[str, ModelFacts], today: date | None = None
) -> tuple[str, str]:
    """Return the proposed big and small model, without prefix. "": none.

    They are the defaults of the provider, or others for those that are retired or soon will be. Of an Ollama server,
    they are those that the proxy uses without a setting. `offered`: from `find_offered_models`.
    """
    provider = backend.provider
    if provider.uses_installed_models:
        big, small = asyncio.run(_choose_installed_models(backend.settings))
        return big, small
    if any(backend.proposed_models):
        return backend.proposed_models
    defaults = (provider.default_big_model or "", provider.default_small_model or "")
    if backend.models:
        big, small = (_replace_retiring(backend, offered, name, today or date.today()) for name in defaults)
        return big, small
    successors = list_env_lines(provider, {}, backend.settings)
    return tuple(
        successors.get(variable, default).removeprefix(f"{provider.prefix}/")
        for variable, default in zip(_MODEL_QUESTIONS, defaults, strict=True)
    )  # type: ignore[return-value]


def _replace_retiring(backend: ChosenProvider, offered: Mapping[str, ModelFacts], default: str, today: date) -> str:
    """Return `default`, or if it is retired or soon will be: a listed model that stays, and that the proxy knows.

    It is the successor that the vendor names, unless that one is much smaller, or the model with the nearest price.
    """
    retirement = find_retirement(backend.provider, default)
    facts = offered.get(default, ModelFacts(default, retires_on=_find_retirement_date(backend, default)))
    if not _retires_soon(facts, today):
        return default
    lasting = {name: fact for name, fact in offered.items() if not _retires_soon(fact, today)}
    successor, price = retirement.successor if retirement else "", _find_output_price(backend, offered, default)
    if successor in lasting:
        cost = _find_output_price(backend, offered, successor)
        if price is None or cost is None or cost >= price * _SUCCESSOR_SHARE:
            return successor
    known = [name for name in lasting if name in backend.provider.known_models]
    usable = {name: lasting[name] for name in known if price is None or lasting[name].price is not None}
    nearest = next(iter(sort_models(backend, usable, default, today)), "")
    return nearest or (default if default in offered else successor)


def find_small_model(big: str, listed: Sequence[str]) -> str:
    """Return the small model of the family of `big`, by its name: `gpt-4.1-mini` for `gpt-4.1`. "": there is none."""
    small = [name for name in listed if _SMALL.search(name.lower())]
    pairs = [zip(name.lower(), big.lower(), strict=False) for name in small]
    lengths = [sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], each)) for each in pairs]
    longest = max(lengths, default=0)
    return small[lengths.index(longest)] if longest >= _MIN_FAMILY_CHARACTERS else ""


def find_differences(
    lines: Mapping[str, str], environ: Mapping[str, str], env_file: str | None
) -> list[SettingDifference]:
    """Return the variables with another value than in `lines` (variable → value), also those that are no setting.

    A variable of the environment overrides `.env`, so both are compared.
    """
    differences = []
    for name, value in lines.items():
        for sources in (Sources({}, env_file), Sources(environ, None)):
            present = sources.find_setting(name, is_list=True)
            if present is not None and present.text != value:
                current, wanted = mask_setting(name, present.text), mask_setting(name, value)
                differences.append(SettingDifference(name, present.origin, current, wanted))
    return differences


def describe_tier_overrides(settings: Settings, provider: Provider) -> list[str]:
    """Return a text for each setting that sends requests for Claude models to another provider than `provider`."""
    tiers: dict[str, list[TierMapping]] = {}
    for row in list_tier_mappings(structs.replace(settings, preferred_provider=provider.name), Catalog()):
        variable = row.setting.name if row.setting is not None else ""
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


def read_address(name: str, text: str) -> str:
    """Return the address of a server that the user has entered for the setting `name`. "": it is no address.

    A host without a scheme, such as `localhost:8000`, gets `http://` for this machine and for a private address, and
    `https://` for others, because a key is sent there. A single word is no address.
    """
    address = text.strip()
    try:
        if "://" not in address:
            host = urlsplit(f"//{address}").hostname or ""
            if host != "localhost" and "." not in host and ":" not in address:
                return ""
            try:
                is_local = not ip_address(host).is_global  # `is_private` leaves out the addresses of Tailscale
            except ValueError:
                is_local = host == "localhost"
            address = f"{'http' if is_local else 'https'}://{address}"
        address = remove_endpoint(address)
        return decode_url(FoundSetting(name, address, "environment", (address,)))
    except (ConfigurationError, ValueError):
        return ""


_NOT_IN_NAMES = compile_later(r"[^a-z0-9-]")


def name_host(address: str) -> str:
    """Return a name for the server at `address`: `openrouter` for openrouter.ai, `gpu-box` for the host gpu-box."""
    host = urlsplit(address).hostname or ""
    try:
        return "remote" if ip_address(host).is_global else "local"
    except ValueError:
        name = host.split(".")[-2:][0].lower()
        return "local" if name == "localhost" else _NOT_IN_NAMES.sub("-", name)


def _choose_name(name: str, base_url: str, settings: Settings) -> str:
    """Return `name`, with a number if a provider with another address already has it."""
    registry = find_registry(settings)
    for each in (name, *(f"{name}-{number}" for number in range(2, 100))):
        present = registry.find_by_prefix(each)
        if present is None or (present.is_configured and present.base_url == base_url):
            return each
    raise AssertionError(name)
