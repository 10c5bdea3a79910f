"""Command `init`: asks for a provider, tests its key, and writes the settings into `.env`.

The user may also choose a server that the proxy does not know. It gets a table in `anthropic-proxy.toml` too.
"""

import asyncio
import re
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from getpass import getpass
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter
from msgspec import Struct, structs

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.completion import complete_providers
from anthropic_proxy.cli.importing.plan import FilesToWrite, ImportPlan, ServerTable, prepare_files
from anthropic_proxy.cli.local_proxy import find_proxy
from anthropic_proxy.cli.output import Output
from anthropic_proxy.console import formats
from anthropic_proxy.engine.options import ConfiguredProvider
from anthropic_proxy.engine.providers import PROVIDERS, Provider, find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.providers.provider_models import query_chat_models
from anthropic_proxy.engine.providers.servers import find_server_override
from anthropic_proxy.engine.providers.vendors import VENDORS
from anthropic_proxy.engine.routing.router import TierMapping, list_tier_mappings
from anthropic_proxy.errors import ConfigurationError, UpstreamError, find_similar_choice
from anthropic_proxy.gateway.readiness import find_google_project
from anthropic_proxy.gateway.services import open_services
from anthropic_proxy.gateway.settings import ENV_FILE, Settings, copy_environment, load_settings
from anthropic_proxy.gateway.settings.env_writer import append_variables, format_env_line
from anthropic_proxy.gateway.settings.place import require_settings_folder
from anthropic_proxy.gateway.settings.sources import FoundSetting
from anthropic_proxy.gateway.settings.values import decode_keys, decode_model, decode_url, mask_env_lines, mask_setting
from anthropic_proxy.secrets import Secret

OTHER_SERVER = "other"
"""Choice "another server" in the list of providers."""
OTHER_SERVER_TITLE = "another server with the API of OpenAI, such as vLLM, LM Studio or OpenRouter"
_MAX_ATTEMPTS = 3
"""Number of keys or servers that the user may enter before the command ends."""
_REJECTED_STATUSES = (401, 403)
"""HTTP statuses with which a provider rejects a key. After other failures the key may still be valid."""
_EXIT_FAILED = 1
"""Exit status 1: the key was rejected, or the user did not confirm the lines."""


def init(
    *,
    provider: Annotated[str | None, Parameter(completer=complete_providers)] = None,
    key_from_env: str | None = None,
    skip_test: Annotated[bool, Parameter(negative="")] = False,
    yes: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Parameters
    ----------
    provider
        Provider to use, such as openai; by default the command asks.
    key_from_env
        Environment variable with the key. By default the command finds the key, or asks for it.
    skip_test
        Do not send the key to the provider.
    yes
        Write the lines without confirmation.
    """
    if provider is not None:
        _find_choice([ProviderChoice(row) for row in find_registry(Settings()) if row.offered_to_users], provider)
    is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if not is_interactive and not (provider and yes):
        raise ConfigurationError(
            "There is no terminal for questions. Use options:  "
            "anthropic-proxy init --provider openai --key-from-env OPENAI_API_KEY --yes",
            code="init-without-terminal",
        )
    output = Output()
    try:
        sys.exit(_Setup(output, is_interactive, skip_test, yes).run(provider, key_from_env))
    except (EOFError, KeyboardInterrupt):
        output.write_line()
        output.write_notice("Cancelled. Nothing was written.")
        sys.exit(130)


class _Setup:
    """One run of the command.

    `is_interactive`: the user can be asked. `skip_test`: the key is not sent to the provider. `is_confirmed`: the
    lines are written without a question.
    """

    def __init__(self, output: Output, is_interactive: bool, skip_test: bool, is_confirmed: bool) -> None:
        self._output, self._is_interactive = output, is_interactive
        self._skip_test, self._is_confirmed = skip_test, is_confirmed
        self._environ: Mapping[str, str] = copy_environment()
        self._file = require_settings_folder(self._environ) / ENV_FILE
        self._settings: Settings = load_command_settings(of_running_proxy=False)
        self._in_file: Settings = load_settings({}, PROVIDERS, env_file=self._settings.env_file)

    def run(self, name: str | None, key_variable: str | None) -> int:
        """Ask for missing values, test them and write the lines. Return the exit status."""
        choices = list_provider_choices(self._settings)
        choice = self._ask_provider(choices) if name is None else _find_choice(choices, name)
        if choice is None:
            found = ask_server(self._output, self._settings)
            if found is None:
                return _EXIT_FAILED
            provider, files = found
            show_files(self._output, provider, files)
            if not self._is_written_now():
                return _EXIT_FAILED
            files.write()
            names = " and ".join(str(addition.path) for addition in files.additions if addition.added)
            self._output.write_line(f"  {self._output.paint('✓', 'ok')} Added the lines to {names}.")
            self._write_next_step()
            return 0
        values = self._find_values(choice, key_variable)
        return _EXIT_FAILED if values is None else self._write(choice.provider, list_env_lines(choice.provider, values))

    def _is_written_now(self) -> bool:
        if self._is_confirmed or input("  Write them? [Y/n] ").strip().lower() in ("", "y", "yes"):
            return True
        self._output.write_notice("Nothing was written.")
        return False

    def _ask_provider(self, choices: "Sequence[ProviderChoice]") -> "ProviderChoice | None":
        """Ask the user for a provider among `choices`. None: the user chooses another server."""
        self._output.write_line("  Which provider has the model?")
        width = max(len(choice.provider.prefix) for choice in choices)
        for number, choice in enumerate(choices, 1):
            found = f"  {self._output.paint('found:', 'ok')} {choice.found}" if choice.found else ""
            self._output.write_line(f"  {number:>3}  {choice.provider.prefix:<{width}}{found}".rstrip())
        self._output.write_line(f"  {len(choices) + 1:>3}  {OTHER_SERVER:<{width}}  {OTHER_SERVER_TITLE}")
        while True:
            answer = input("  Number or name [1]: ").strip() or "1"
            if answer.isdecimal() and 1 <= int(answer) <= len(choices):
                return choices[int(answer) - 1]
            if answer.lower() in (OTHER_SERVER, str(len(choices) + 1)):
                return None
            try:
                return _find_choice(choices, answer, "")
            except ConfigurationError as error:
                self._output.write_notice(error.message, "✕", "error")

    def _find_values(self, choice: "ProviderChoice", key_variable: str | None) -> dict[str, str] | None:
        """Return variable → value for the key or project of the chosen provider, from the user or the environment.

        `key_variable`: environment variable with the key; None: ask. None is returned if no value can be used.
        """
        provider = choice.provider
        if provider.key_source == "google":
            if choice.found:
                return {}
            if not self._is_interactive:
                raise ConfigurationError(
                    "Vertex AI has no project: set VERTEX_PROJECT in the environment.", code="init-without-terminal"
                )
            project = ""
            while not project:
                project = input("  VERTEX_PROJECT, the id of the Google Cloud project: ").strip()
            return {"VERTEX_PROJECT": project}
        if key_variable is not None:
            key = self._environ.get(key_variable, "").strip()
            if not key:
                raise ConfigurationError(
                    f"--key-from-env is {key_variable}, but this variable is not set.", code="init-without-terminal"
                )
            is_own = key_variable == provider.key_variable
            return self._accept(provider, key, {} if is_own else {str(provider.key_variable): key})
        if provider.uses_installed_models and not choice.found and self._is_interactive:
            variable = str(provider.base_url_variable)
            start = f"To start {provider.title} there:  {provider.prefix} serve"
            self._output.write_notice(f"No server answers at {provider.base_url}. {start}", "!", "warn")
            for _ in range(_MAX_ATTEMPTS):
                address = read_address(variable, input(f"  {variable}, its address: "))
                if not address:
                    self._output.write_notice(_NO_ADDRESS, "✕", "error")
                    continue
                values = self._accept(provider, "", {variable: address}, address)
                if values is not None:
                    return values
            return None
        if choice.found or provider.uses_installed_models:
            return self._accept(provider, "", {})
        if not self._is_interactive:
            raise ConfigurationError(
                f"{provider.prefix} has no key: {provider.key_variable} is not set. Set it in the environment, or name "
                "its variable with --key-from-env.",
                code="init-without-terminal",
            )
        return self._ask_key(provider)

    def _ask_key(self, provider: Provider) -> dict[str, str] | None:
        """Return variable → key. None: the provider accepts none of the entered keys."""
        variable = str(provider.key_variable)
        for _ in range(_MAX_ATTEMPTS):
            key = getpass(f"  {variable} (not shown): ").strip()
            if not key or not _is_valid_key(self._output, variable, key):
                continue
            values = self._accept(provider, key, {variable: key})
            if values is not None:
                return values
        return None

    def _accept(self, provider: Provider, key: str, values: dict[str, str], address: str = "") -> dict[str, str] | None:
        """Test a key or address of `provider` by a request, and print the result. Return `values` on success.

        None: the key was rejected, or no server answers. `key`, `address`: "": the key or address of the settings is
        tested.
        """
        if self._skip_test:
            return values
        try:
            accepted = check_key(self._settings, provider, key, address)
        except UpstreamError as error:
            message = error.message.rstrip(".")
            prefixed = message if message.startswith(provider.prefix) else f"{provider.prefix}: {message}"
            self._output.write_notice(f"{prefixed}.", "✕", "error")
            if error.status in _REJECTED_STATUSES:
                known = self._settings.keys.get(provider.name, ())
                if not key and known:
                    self._output.write_notice(f"The key is {known[0]}, {known[0].origin}. Replace it there.")
                return None
            if not self._is_interactive:
                text = "The settings were not tested. To write them without a test, add --skip-test."
                self._output.write_notice(text)
                return None
            answer = input("  The settings were not tested. Keep them? [y/N] ").strip().lower()
            return values if answer in ("y", "yes") else None
        check = self._output.paint("✓", "ok")
        self._output.write_line(f"  {check} accepted, {len(accepted.models)} models, {accepted.seconds:.1f} s")
        return values

    def _write(self, provider: Provider, lines: Mapping[str, str]) -> int:
        """Show `lines` (variable → value), ask for confirmation and add them to `.env`. Return the exit status."""
        added, differences = separate_existing_lines(lines, self._in_file, self._settings)
        for difference in differences:
            self._output.write_notice(
                f"{difference.place} sets {difference.name}={difference.current}, which stays. "
                f"For {provider.prefix}, change it to  {difference.name}={difference.wanted}",
                "!",
                "warn",
            )
        reported = {difference.name for difference in differences}
        for text in describe_tier_overrides(self._settings, provider):
            if not any(f" sets {name}=" in text for name in reported):
                self._output.write_notice(text, "!", "warn")
        if not added:
            self._output.write_line(f"  {self._file} needs no new line.")
            return 0
        self._output.write_line(f"  New lines of {self._file}:")
        for name, value in added.items():
            shown = mask_setting(name, value)
            line = format_env_line(name, value) if shown == value else f"{name}={shown}"
            self._output.write_line(f"    {self._output.paint(line, 'type')}")
        if not self._is_written_now():
            return _EXIT_FAILED
        if append_variables(self._file, added):
            text = f"Other users could read {self._file}. Now only its owner can, because it contains a key."
            self._output.write_notice(text, "!", "warn")
        count = formats.plural(len(added), "line")
        self._output.write_line(f"  {self._output.paint('✓', 'ok')} Added {count} to {self._file}.")
        self._write_next_step()
        return 0

    def _write_next_step(self) -> None:
        """Print the next command for the user. A running proxy has to read the new settings first."""
        running = find_proxy(self._settings)
        if running is not None:
            self._output.write_notice(f"A proxy runs at {running.address}. Restart it to use the new settings.")
        self._output.write_line(f"  Next:  {self._output.paint('anthropic-proxy code', 'type')}")


def _find_choice(choices: "Sequence[ProviderChoice]", name: str, option: str = "--provider ") -> "ProviderChoice":
    """Return the one of `choices` with the provider name or prefix `name`.

    Raises `ConfigurationError` with the nearest name. `option`: text before this name.
    """
    word = name.lower()
    for choice in choices:
        if word in (choice.provider.name, choice.provider.prefix):
            return choice
    known = [choice.provider.prefix for choice in choices]
    nearest = find_similar_choice(word, known)
    meant = f" Did you mean:  {option}{nearest}" if nearest else ""
    raise ConfigurationError(
        f'There is no provider "{name}". The providers are: {", ".join(known)}.{meant}', code="unknown-provider"
    )


TEST_TIMEOUT_SECONDS = 10.0
"""Maximum time in seconds for the test of a key, which queries the provider for its models."""


class ProviderChoice(Struct, frozen=True):
    """A provider that `init` offers, and the key, project or server that was detected for it."""

    provider: Provider
    found: str = ""
    """Detected key, project or server: `OPENAI_API_KEY in the environment`. "": nothing was detected; the user has to
    enter it."""


class KeyTestResult(Struct, frozen=True):
    models: tuple[str, ...]
    seconds: float


class SettingDifference(Struct, frozen=True):
    """Setting with another value than the one that `init` would write. The present value is not changed."""

    name: str
    place: str
    """`.env line 4`, `environment`."""
    current: str
    wanted: str


def list_provider_choices(settings: Settings) -> list[ProviderChoice]:
    """Return the providers that `init` offers. Those with a detected key, project or server are first.

    The local Ollama server is detected by a query for its installed models.
    """
    registry = find_registry(settings)

    async def query_ollama() -> Sequence[str] | None:
        services = await open_services(settings)
        try:
            await services.catalog.refresh_listing(registry.local.name)
            return services.catalog.cached_model_ids(registry.local.name)
        finally:
            await services.close()

    installed = asyncio.run(query_ollama())
    choices = [
        ProviderChoice(provider, _describe_found(provider, settings, installed))
        for provider in registry
        if provider.offered_to_users and not provider.is_configured
    ]
    return sorted(choices, key=lambda choice: not choice.found)


def list_env_lines(provider: Provider, values: Mapping[str, str], today: date | None = None) -> dict[str, str]:
    """Return the variables for `.env` that make `provider` the preferred provider, each with its value.

    `values` contains the variables for the key or project that the user has entered. If a default model of the provider
    is retired at the date `today`, its successor is set too.
    """
    lines = {"PREFERRED_PROVIDER": provider.name, **values}
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
    """Test an API key by a query for models.

    `address` replaces the address of the provider in `settings`. Raises `UpstreamError` if the key is rejected or no
    server answers.
    """
    if address:
        settings = structs.replace(settings, base_urls={**settings.base_urls, provider.name: address})
    if key:
        keys = {**settings.keys, provider.name: (Secret(key, f"{provider.key_variable}, as entered"),)}
        settings = structs.replace(settings, keys=keys)

    async def check() -> KeyTestResult:
        services = await open_services(settings)
        try:
            credential = Credentials(settings).next_credential(provider)
            send, started = provider.find_transport(services.transports), time.monotonic()
            models = await query_chat_models(provider, settings, send, credential, TEST_TIMEOUT_SECONDS)
            return KeyTestResult(tuple(model.id for model in models), time.monotonic() - started)
        finally:
            await services.close()

    return asyncio.run(check())


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


_NAME_OF_LOCAL_SERVER = "own"
_MAX_LISTED_MODELS = 8
_NO_ADDRESS = "This is no address of a server, such as http://localhost:8000/v1."


def ask_server(output: Output, settings: Settings) -> tuple[Provider, FilesToWrite] | None:
    """Ask the user for the address, key and model of a server, and send a test request to the server.

    Return the server as a provider, with the lines to add to `.env` and `anthropic-proxy.toml`. None: the test failed
    for each server that the user entered.
    """
    for _ in range(_MAX_ATTEMPTS):
        address = _ask_server_address(output)
        key = _ask_server_key(output)
        try:
            address, accepted = _find_models(settings, address, key)
        except UpstreamError as error:
            output.write_notice(f"{error.message.rstrip('.')}.", "✕", "error")
            continue
        count = formats.plural(len(accepted.models), "model")
        output.write_line(f"  {output.paint('✓', 'ok')} accepted, {count}, {accepted.seconds:.1f} s")
        model = ask_model(output, accepted.models)
        plan = ImportPlan("init")
        present = structs.replace(settings, base_urls={"openai": address})
        server = find_server_override(PROVIDERS.find("openai"), present)
        vendor = server if server is not None and server.key_variable else None
        name = _choose_name(vendor.name.replace("_", "-") if vendor else _name_host(address), settings)
        variable = vendor.key_variable if vendor else f"{name.upper().replace('-', '_')}_API_KEY"
        variable = variable if key else ""
        plan.servers[name] = ServerTable(base_url=address, key_variable=variable, models={model: {}})
        plan.variables = {"PREFERRED_PROVIDER": name, **({variable: key} if key else {})}
        files = prepare_files(plan, require_settings_folder(copy_environment()))
        return find_registry(files.settings).find(name), files
    return None


def show_files(output: Output, provider: Provider, files: FilesToWrite) -> None:
    """Print the lines that will be added to each file, and notices about settings that stay."""
    for addition in files.additions:
        if addition.added:
            output.write_line(f"  New lines of {addition.path}:")
        for line in mask_env_lines(addition.added).strip("\n").splitlines():
            output.write_line(f"    {output.paint(line, 'type')}")
        for name in addition.kept_names:
            output.write_notice(f"{addition.path} sets {name} to another value, which stays.", "!", "warn")
    for text in describe_tier_overrides(files.settings, provider):
        output.write_notice(text, "!", "warn")


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
            address = f"{'http' if _is_local(host) else 'https'}://{address}"
        return decode_url(FoundSetting(name, address, "environment", (address,)))
    except (ConfigurationError, ValueError):
        return ""


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_private
    except ValueError:
        return host == "localhost"


def _ask_server_address(output: Output) -> str:
    while True:
        address = input("  Its name, such as together, or its address, such as http://localhost:8000/v1: ").strip()
        named = next((vendor for vendor in VENDORS if address.lower() in (vendor.name, vendor.title.lower())), None)
        if named is not None:
            output.write_line(f"  {named.title}: {named.base_url}")
            return named.base_url
        if found := read_address("base_url", address):
            return found
        nearest = find_similar_choice(address.lower(), [vendor.name for vendor in VENDORS])
        meant = f" Did you mean:  {nearest}" if nearest else ""
        output.write_notice(f"{_NO_ADDRESS}{meant}", "✕", "error")


def _ask_server_key(output: Output) -> str:
    while True:
        key = getpass("  Its key (not shown; empty: none): ").strip()
        if not key or _is_valid_key(output, "key", key):
            return key


def _is_valid_key(output: Output, name: str, key: str) -> bool:
    try:
        decode_keys(FoundSetting(name, key, "environment", (key,)))
    except ConfigurationError:
        output.write_notice("A key has no spaces and no letters outside ASCII.", "✕", "error")
        return False
    return True


def _find_models(settings: Settings, address: str, key: str) -> tuple[str, KeyTestResult]:
    """Return two values: the base URL, with `/v1` added if the server needs it, and the models that the server lists.

    Raises `UpstreamError` if the server rejects the key, does not answer, or has no list.
    """
    table = ConfiguredProvider(
        name=urlsplit(address).netloc,
        base_url=address,
        wire="chat",
        has_key=bool(key),
    )
    present = structs.replace(settings, configured_providers=(table,), base_urls={table.name: address}, keys={})
    provider = find_registry(present).find(table.name)
    try:
        return address, check_key(present, provider, key)
    except UpstreamError as error:
        if urlsplit(address).path or error.status in (401, 403):
            raise
    return f"{address}/v1", check_key(present, provider, key, f"{address}/v1")


def ask_model(output: Output, listed: tuple[str, ...]) -> str:
    """Ask the user for a model of the server, by number or name. The default is the first of `listed`, its models.

    A model that the server does not list is used only if the user confirms it.
    """
    for number, name in enumerate(listed[:_MAX_LISTED_MODELS], 1):
        output.write_line(f"  {number:>3}  {name}")
    if (more := len(listed) - _MAX_LISTED_MODELS) > 0:
        output.write_line(f"       and {more} more")
    default = listed[0] if listed else ""
    while True:
        model = input(f"  Model, number or name [{default}]: " if default else "  Model: ").strip() or default
        if model in listed:
            return model
        if model.isdecimal() and 1 <= int(model) <= min(len(listed), _MAX_LISTED_MODELS):
            return listed[int(model) - 1]
        try:
            model = decode_model(FoundSetting("model", model, "environment", (model,)))
        except ConfigurationError:
            output.write_notice("A model name has no spaces.", "✕", "error")
            continue
        if not listed:
            return model
        nearest = find_similar_choice(model, listed)
        meant = f" Did you mean:  {nearest}" if nearest else ""
        output.write_notice(f'The server does not list "{model}".{meant}', "!", "warn")
        if input("  Use it all the same? [y/N] ").strip().lower() in ("y", "yes"):
            return model


def _name_host(address: str) -> str:
    """Return a name for the server at `address`: `openrouter` for openrouter.ai, `own` in a local network."""
    host = urlsplit(address).hostname or ""
    labels = host.split(".")
    try:
        ip_address(host)
    except ValueError:
        return _NAME_OF_LOCAL_SERVER if len(labels) == 1 else re.sub(r"[^a-z0-9-]", "-", labels[-2].lower())
    return _NAME_OF_LOCAL_SERVER


def _choose_name(name: str, settings: Settings) -> str:
    """Return `name`, with a number if a provider already has it."""
    registry = find_registry(settings)
    names = [name, *(f"{name}-{number}" for number in range(2, 100))]
    return next(each for each in names if registry.find_by_prefix(each) is None)
