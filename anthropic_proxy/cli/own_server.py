"""Questions of the command `init` about a server that the proxy does not know.

`ask_server` asks for address, key and model. `show_files` prints the lines that would be added to `.env` and
`anthropic-proxy.toml`.
"""

import re
from getpass import getpass
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import structs

from anthropic_proxy.cli.importing.plan import ImportPlan, ServerTable
from anthropic_proxy.cli.importing.writing import FilesToWrite, prepare_files
from anthropic_proxy.cli.setup_plan import KeyTestResult, check_key, describe_tier_overrides
from anthropic_proxy.errors import ConfigurationError, UpstreamError
from anthropic_proxy.routing.providers import Provider, find_registry
from anthropic_proxy.settings import ConfiguredProvider, Settings, copy_environment
from anthropic_proxy.settings.masking import mask_env_lines
from anthropic_proxy.settings.place import require_settings_folder
from anthropic_proxy.settings.sources import FoundSetting
from anthropic_proxy.settings.values import decode_keys, decode_model, decode_url

if TYPE_CHECKING:
    from anthropic_proxy.cli.output import Output

OTHER_SERVER = "other"
"""Name of the choice "another server" in the list of providers of `init`."""
OTHER_SERVER_TITLE = "another server with the API of OpenAI, such as vLLM, LM Studio or OpenRouter"
"""Text of the choice "another server" in the list of providers."""
_NAME_OF_LOCAL_SERVER = "own"
_MAX_ATTEMPTS = 3
_MAX_LISTED_MODELS = 8


def ask_server(output: "Output", settings: Settings) -> tuple[Provider, FilesToWrite] | None:
    """Ask the user for the address, key and model of a server, and send a test request to the server.

    Return the server as a provider, with the lines to add to `.env` and `anthropic-proxy.toml`. None: the test failed
    for each server that the user entered.
    """
    for _ in range(_MAX_ATTEMPTS):
        address = _ask_address(output)
        key = _ask_key(output)
        try:
            address, accepted = _find_models(settings, address, key)
        except UpstreamError as error:
            output.write_notice(f"{error.message.rstrip('.')}.", "✕", "error")
            continue
        count = f"{len(accepted.models)} model{'' if len(accepted.models) == 1 else 's'}"
        output.write_line(f"  {output.paint('✓', 'ok')} accepted, {count}, {accepted.seconds:.1f} s")
        model = _ask_model(output, accepted.models)
        plan = ImportPlan("init")
        name = _choose_name(address, settings)
        variable = f"{name.upper().replace('-', '_')}_API_KEY" if key else ""
        plan.servers[name] = ServerTable(base_url=address, key_variable=variable, models={model: {}})
        plan.variables = {"PREFERRED_PROVIDER": name, **({variable: key} if key else {})}
        files = prepare_files(plan, require_settings_folder(copy_environment()))
        return find_registry(files.settings).find(name), files
    return None


def show_files(output: "Output", provider: Provider, files: FilesToWrite) -> None:
    """Print the lines that will be added to each file, with masked keys.

    Notices name the settings for which a file already has another value, because this value is not changed. Further
    notices describe settings that send requests to another provider.
    """
    for addition in files.additions:
        if addition.added:
            output.write_line(f"  New lines of {addition.path}:")
        for line in mask_env_lines(addition.added).strip("\n").splitlines():
            output.write_line(f"    {output.paint(line, 'type')}")
        for name in addition.kept_names:
            output.write_notice(f"{addition.path} sets {name} to another value, which stays.", "!", "warn")
    for text in describe_tier_overrides(files.settings, provider):
        output.write_notice(text, "!", "warn")


def _ask_address(output: "Output") -> str:
    while True:
        address = input("  Its address, such as http://localhost:8000/v1: ").strip()
        try:
            return decode_url(FoundSetting("base_url", address, "environment", (address,)))
        except ConfigurationError:
            output.write_notice("An address begins with http:// or https://.", "✕", "error")


def _ask_key(output: "Output") -> str:
    while True:
        key = getpass("  Its key (not shown; empty: none): ").strip()
        try:
            if key:
                decode_keys(FoundSetting("key", key, "environment", (key,)))
        except ConfigurationError:
            output.write_notice("A key has no spaces and no letters outside ASCII.", "✕", "error")
            continue
        return key


def _find_models(settings: Settings, address: str, key: str) -> tuple[str, KeyTestResult]:
    """Return two values: the base URL, with `/v1` added if the server needs it, and the models that the server lists.

    Raises `UpstreamError` if the server rejects the key, does not answer, or has no list.
    """
    table = _build_table(address)
    present = structs.replace(settings, configured_providers=(table,), base_urls={table.name: address}, keys={})
    provider = find_registry(present).find(table.name)
    try:
        return address, check_key(present, provider, key)
    except UpstreamError as error:
        if urlsplit(address).path or error.status in (401, 403):
            raise
    return f"{address}/v1", check_key(present, provider, key, f"{address}/v1")


def _build_table(address: str) -> ConfiguredProvider:
    return ConfiguredProvider(
        name=urlsplit(address).netloc,
        base_url=address,
        wire="chat",
        has_key=False,
        known_models=(),
        models=(),
        dialect={},
        json_text="",
    )


def _ask_model(output: "Output", listed: tuple[str, ...]) -> str:
    """Ask the user for a model of the server. The default is the first of `listed`, the models of the server."""
    shown = ", ".join(listed[:_MAX_LISTED_MODELS])
    more = len(listed) - _MAX_LISTED_MODELS
    if listed:
        output.write_line(f"  Its models: {shown}{f' and {more} more' if more > 0 else ''}")
    default = listed[0] if listed else ""
    while True:
        model = input(f"  Model{f' [{default}]' if default else ''}: ").strip() or default
        try:
            return decode_model(FoundSetting("model", model, "environment", (model,)))
        except ConfigurationError:
            output.write_notice("A model name has no spaces.", "✕", "error")


def _choose_name(address: str, settings: Settings) -> str:
    """Return an unused name for the server at `address`: `openrouter` for openrouter.ai, `own` in a local network."""
    host = urlsplit(address).hostname or ""
    labels = host.split(".")
    try:
        ip_address(host)
        name = _NAME_OF_LOCAL_SERVER
    except ValueError:
        name = _NAME_OF_LOCAL_SERVER if len(labels) == 1 else re.sub(r"[^a-z0-9-]", "-", labels[-2].lower())
    registry = find_registry(settings)
    names = [name, *(f"{name}-{number}" for number in range(2, 100))]
    return next(each for each in names if registry.find_by_prefix(each) is None)
