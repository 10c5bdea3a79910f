"""Detection of the format of another project's configuration file.

`read_configuration` returns the settings in the file as an `ImportPlan`.
"""

import re
from collections.abc import Mapping
from typing import Any

from anthropic_proxy.cli.importing.litellm_config import LITELLM_SECTIONS, read_litellm_config
from anthropic_proxy.cli.importing.plan import ImportPlan, find_built_in_registry
from anthropic_proxy.cli.importing.router_config import read_router_config
from anthropic_proxy.engine.options import TIERS
from anthropic_proxy.errors import ConfigurationError, build_extra_install_command, join_with_or
from anthropic_proxy.gateway.settings.env_writer import decode_env_text, find_invalid_env_line
from anthropic_proxy.gateway.settings.load import list_variables

_MODEL_LIST = re.compile(r"^model_list:", re.MULTILINE)
_SUPPORTED = (
    "Supported are config.json of claude-code-router, config.yaml of LiteLLM's proxy, and .env of an earlier proxy."
)


def read_configuration(content: bytes, input_name: str) -> ImportPlan:
    """Return the settings of this proxy that correspond to `content`, the configuration file of another project.

    Raises `ConfigurationError` for an unknown format or type of value.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{input_name} is not UTF-8 text: byte {error.start} is invalid.") from None
    try:
        return _read(text, input_name)
    except (AttributeError, TypeError, KeyError, IndexError) as error:
        raise ConfigurationError(f"{input_name} has an unexpected structure. {_SUPPORTED}") from error
    except RecursionError:
        raise _reject(input_name, "it nests lists or objects too deeply") from None
    except ValueError:  # Python's limit of digits
        raise _reject(input_name, "a number has too many digits") from None


def _read(text: str, name: str) -> ImportPlan:
    if text.lstrip().startswith(("{", "//", "/*")):
        config = _decode_json(text)
        if isinstance(config, dict) and {"Providers", "providers", "Router", "router"} & {*config}:
            return read_router_config(config)
        raise _reject(name, "it is JSON without Providers and Router")
    if name.lower().endswith((".yaml", ".yml")) or _MODEL_LIST.search(text):
        config = _decode_yaml(text, name)
        if isinstance(config, dict) and LITELLM_SECTIONS & {*config}:
            return read_litellm_config(config)
        raise _reject(name, f"it is YAML without {join_with_or(sorted(LITELLM_SECTIONS))}")
    if line := find_invalid_env_line(text):
        raise _reject(name, f"it is no JSON or YAML, and line {line} does not set a variable")
    variables = decode_env_text(text)
    if not has_provider_variable(variables):
        raise _reject(name, "it sets no key, address or model of a provider, such as OPENAI_API_KEY or BIG_MODEL")
    return read_env_file(variables)


def _reject(name: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"{name} is no configuration of a supported proxy: {reason}. {_SUPPORTED}")


def _decode_json(text: str) -> Any:
    """Return the value of `text`, JSON that may have comments and trailing commas, as claude-code-router permits."""
    import json_repair  # noqa: PLC0415  # needed for this file alone

    return json_repair.loads(text)


def _decode_yaml(text: str, name: str) -> Any:
    try:
        import yaml  # type: ignore[import-untyped]  # noqa: PLC0415  # an extra
    except ImportError:
        raise ConfigurationError(
            f"{name} is YAML, which needs PyYAML. It is not installed:  {build_extra_install_command('import')}"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{name} is not valid YAML: {reason}. {_SUPPORTED}") from None


# The files were read 2026-11. The first project and its forks have variables for several providers.
# The second and its forks send every model to OPENAI_BASE_URL. Their ANTHROPIC_API_KEY is the key of their clients.
_ONE_SERVER_VARIABLES = frozenset(
    {"MAX_TOKENS_LIMIT", "MIN_TOKENS_LIMIT", "REQUEST_TIMEOUT", "MAX_RETRIES", "AZURE_API_VERSION", "MIDDLE_MODEL"}
    | {"REASONING_EFFORT", "REASONING_MAX_TOKENS", "VERBOSITY"}
    | {f"ANTHROPIC_DEFAULT_{tier.upper()}_MODEL" for tier in TIERS}
)
"""Names of variables that only the family with one server has, so they identify its files."""
_OTHER_PROVIDER_VARIABLES = frozenset({"PREFERRED_PROVIDER", "GEMINI_API_KEY", "USE_VERTEX_AUTH", "OLLAMA_API_BASE"})
_RENAMED = {"OPENAI_API_BASE_URL": "OPENAI_BASE_URL", "OPENAI_API_BASE": "OPENAI_BASE_URL"}
_REASONS = {
    "MAX_TOKENS_LIMIT": "the proxy uses the output limit of the model",
    "MIN_TOKENS_LIMIT": "the proxy sends the max_tokens of the client",
    "MAX_RETRIES": "the proxy retries once before the reply starts, then the client retries",
    "SUPPORTS_PROMPT_CACHE": "the proxy selects prompt caching by provider",
    "OPENAI_HEADERS": "the proxy sends no other headers",
    "PASSTHROUGH_MODE": "to send requests to Anthropic unchanged, set PREFERRED_PROVIDER=anthropic",
    "OPENROUTER_APP_NAME": "the proxy sends no other headers",
    "OPENROUTER_APP_URL": "the proxy sends no other headers",
    "REASONING_EFFORT": "the client sets the effort of each request",
    "OPENAI_API_VERSION": "add it to the address: OPENAI_BASE_URL=…?api-version=…",
}
_CLIENT_KEY = (
    "it is imported as the key of the provider Anthropic. If it is the key of your clients, rename it to PROXY_API_KEY"
)
_AZURE_ADDRESS = (
    "an address of Azure has the form https://RESOURCE.openai.azure.com/openai/v1 or "
    "https://RESOURCE.openai.azure.com/openai/deployments/NAME?api-version=2024-10-21. Change it to one of them"
)
_AZURE_VERSION = (
    "it is not imported. It belongs to an address in OPENAI_BASE_URL that has no version and does not end with "
    "/openai/v1"
)
_LOG_LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "critical": "error"}
_MODEL_VARIABLES = {"BIG_MODEL": "gpt-4o", "MIDDLE_MODEL": "", "SMALL_MODEL": "gpt-4o-mini"}
"""Model variable of the family with one server → its default. "": the default is the value of BIG_MODEL."""
_TIER_DEFAULTS = {"haiku": "gpt-5-mini", "sonnet": "gpt-5", "opus": "gpt-5", "fable": "gpt-5"}
"""Claude tier (haiku, sonnet, …) → default model in nielspeter/claude-code-proxy, which has one variable for each tier.
"""


def has_provider_variable(variables: Mapping[str, str]) -> bool:
    """Return True if a variable is a key, an address or a model of a provider in one of the earlier proxies."""
    found = {_RENAMED.get(name, name) for name in variables}
    models = {*_MODEL_VARIABLES, *(f"ANTHROPIC_DEFAULT_{tier.upper()}_MODEL" for tier in TIERS), "PREFERRED_PROVIDER"}
    rows = find_built_in_registry()
    return bool(
        found & models or any({row.key_variable, row.base_url_variable, "USE_VERTEX_AUTH"} & found for row in rows)
    )


def read_env_file(variables: Mapping[str, str]) -> ImportPlan:
    """Return the settings of this proxy that correspond to the `.env` of an earlier proxy. API keys are copied.

    `variables` contains the variables in this file.
    """
    plan = ImportPlan("an earlier proxy (.env)")
    found = {_RENAMED.get(name, name): value for name, value in variables.items() if value}
    names, url = {*found}, found.get("OPENAI_BASE_URL", "")
    has_one_server, has_others = bool(_ONE_SERVER_VARIABLES & names), bool(_OTHER_PROVIDER_VARIABLES & names)
    if (
        has_one_server == has_others  # the variables do not tell which project read this file
        and "ANTHROPIC_API_KEY" in names
        and any(each.startswith("OPENAI_") for each in names)
    ):
        plan.add_note("ANTHROPIC_API_KEY", _CLIENT_KEY)
    is_azure = "AZURE_API_VERSION" in names or ".openai.azure.com" in url.lower()
    if url and is_azure and not any(path in url for path in ("/openai/deployments/", "/openai/v1")):
        plan.add_note("OPENAI_BASE_URL", _AZURE_ADDRESS)
    if has_one_server and not has_others:
        _read_one_server(plan, found)
    elif "OPENAI_API_KEY" in found:
        found.setdefault("PREFERRED_PROVIDER", "openai")
    known = list_variables(find_built_in_registry())
    for name, value in found.items():
        if name == "LOG_LEVEL" and value.lower() in _LOG_LEVELS:
            plan.variables[name] = _LOG_LEVELS[value.lower()]
        elif name in known:
            plan.variables.setdefault(name, value)
        else:
            plan.add_note(name, _REASONS.get(name, "the proxy has no such setting"))
    return plan


def _read_one_server(plan: ImportPlan, found: dict[str, str]) -> None:
    """Add the variables of the family with one server to `plan`, and remove them from `found`.

    `found`: variables that are not imported yet.
    """
    plan.source = "an earlier proxy with one server (.env)"
    if key := found.pop("ANTHROPIC_API_KEY", ""):
        plan.variables["PROXY_API_KEY"] = key
    plan.variables["PREFERRED_PROVIDER"] = "openai"
    by_tier = {tier: found.pop(f"ANTHROPIC_DEFAULT_{tier.upper()}_MODEL", "") for tier in TIERS}
    if any(by_tier.values()):
        plan.variables |= {
            f"MODEL_{tier.upper()}": f"openai/{model or _TIER_DEFAULTS[tier]}" for tier, model in by_tier.items()
        }
    else:
        _set_models(plan, found)
    if timeout := found.pop("REQUEST_TIMEOUT", ""):
        plan.variables["UPSTREAM_TIMEOUT"] = timeout
    version, url = found.pop("AZURE_API_VERSION", ""), found.get("OPENAI_BASE_URL", "")
    if version and url and "?" not in url and "/openai/v1" not in url:
        plan.variables["OPENAI_BASE_URL"] = f"{url}?api-version={version}"
    elif version:
        plan.add_note("AZURE_API_VERSION", _AZURE_VERSION)


def _set_models(plan: ImportPlan, found: dict[str, str]) -> None:
    big = found.get("BIG_MODEL") or _MODEL_VARIABLES["BIG_MODEL"]
    for name, default in _MODEL_VARIABLES.items():
        plan.variables[name] = f"openai/{found.pop(name, '') or default or big}"
