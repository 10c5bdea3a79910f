"""Reader of the `.env` of an earlier proxy between Claude Code and the API of OpenAI (their sources, read 2026-11).

There are two families. In the first, with its forks, variables select one of several providers. The second and its
forks send every model to OPENAI_BASE_URL, and their ANTHROPIC_API_KEY is the key of their clients.
"""

from collections.abc import Mapping

from anthropic_proxy.cli.importing.built_in import find_built_in_registry
from anthropic_proxy.cli.importing.plan import ImportPlan
from anthropic_proxy.cli.importing.rules import FieldRule, load_rules, read_fields
from anthropic_proxy.engine.options import TIERS
from anthropic_proxy.gateway.settings.table import list_variables
from anthropic_proxy.gateway.settings.values import remove_endpoint

_ONE_SERVER_VARIABLES = frozenset(
    {"MAX_TOKENS_LIMIT", "MIN_TOKENS_LIMIT", "REQUEST_TIMEOUT", "MAX_RETRIES", "AZURE_API_VERSION", "MIDDLE_MODEL"}
    | {"REASONING_EFFORT", "REASONING_MAX_TOKENS", "VERBOSITY"}
    | {f"ANTHROPIC_DEFAULT_{tier.upper()}_MODEL" for tier in TIERS}
)
"""Names of variables that only the family with one server has, so they identify its files."""
_OTHER_PROVIDER_VARIABLES = frozenset({"PREFERRED_PROVIDER", "GEMINI_API_KEY", "USE_VERTEX_AUTH", "OLLAMA_API_BASE"})
_RENAMED = {"OPENAI_API_BASE_URL": "OPENAI_BASE_URL", "OPENAI_API_BASE": "OPENAI_BASE_URL"}
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
_LEVEL = FieldRule(
    "LOG_LEVEL", setting="LOG_LEVEL", decode=lambda _plan, _path, text: text.lower().replace("critical", "error")
)
_MODEL_VARIABLES = {"BIG_MODEL": "gpt-4o", "MIDDLE_MODEL": "", "SMALL_MODEL": "gpt-4o-mini"}
"""Model variable of the family with one server → its default. "": the default is the value of BIG_MODEL."""
_TIER_DEFAULTS = {"haiku": "gpt-5-mini", "sonnet": "gpt-5", "opus": "gpt-5", "fable": "gpt-5"}
"""Claude tier (haiku, sonnet, …) → default model in nielspeter/claude-code-proxy, which has one variable for each tier.
"""


def has_provider_variable(variables: Mapping[str, str]) -> bool:
    """Return True if a variable is a key, an address or a model of a provider in one of the earlier proxies."""
    names = {_RENAMED.get(name, name) for name in variables}
    models = {*_MODEL_VARIABLES, *(f"ANTHROPIC_DEFAULT_{tier.upper()}_MODEL" for tier in TIERS), "PREFERRED_PROVIDER"}
    rows = find_built_in_registry()
    return bool(
        names & models or any({row.key_variable, row.base_url_variable, "USE_VERTEX_AUTH"} & names for row in rows)
    )


def read_env_file(variables: Mapping[str, str]) -> ImportPlan:
    """Return the settings of this proxy for `variables`, those of the file. API keys are copied."""
    plan = ImportPlan("an earlier proxy (.env)", has_variables=True)
    settings = {_RENAMED.get(name, name): value for name, value in variables.items() if value}
    addresses = {row.base_url_variable for row in find_built_in_registry()}
    settings = {name: remove_endpoint(value) if name in addresses else value for name, value in settings.items()}
    plan.origins |= {new: old for old, new in _RENAMED.items() if old in variables}
    names = {*settings}
    has_one_server = bool(_ONE_SERVER_VARIABLES & names)
    has_others = bool(_OTHER_PROVIDER_VARIABLES & names)
    if (
        has_one_server == has_others  # the variables do not tell which project read this file
        and "ANTHROPIC_API_KEY" in names
        and any(name.startswith("OPENAI_") for name in names)
    ):
        plan.add_note("ANTHROPIC_API_KEY", _CLIENT_KEY)
    is_of_one_server = has_one_server and not has_others
    if is_of_one_server:
        plan.source = "an earlier proxy with one server (.env)"
        _read_one_server(plan, settings)
    elif "OPENAI_API_KEY" in settings:
        settings.setdefault("PREFERRED_PROVIDER", "openai")
    url = settings.get("OPENAI_BASE_URL", "")
    version = settings.get("AZURE_API_VERSION", "")
    is_v1 = "/openai/v1" in url
    if url and (version or ".openai.azure.com" in url.lower()) and not is_v1 and "/openai/deployments/" not in url:
        plan.add_note("OPENAI_BASE_URL", _AZURE_ADDRESS)
    if is_of_one_server and version:
        del settings["AZURE_API_VERSION"]
        if url and "?" not in url and not is_v1:
            plan.variables["OPENAI_BASE_URL"] = f"{url}?api-version={version}"
        else:
            plan.add_note("AZURE_API_VERSION", _AZURE_VERSION)
    known = [FieldRule(name, setting=name) for name in list_variables(find_built_in_registry()) if name in settings]
    *rules, other = load_rules("env")["variables"]
    read_fields(plan, (_LEVEL, *rules, *known, other), settings)
    return plan


def _read_one_server(plan: ImportPlan, settings: dict[str, str]) -> None:
    """Move the variables that only the family with one server has from `settings` to `plan`."""
    if key := settings.pop("ANTHROPIC_API_KEY", ""):
        plan.variables["PROXY_API_KEY"] = key
        plan.origins["PROXY_API_KEY"] = "ANTHROPIC_API_KEY"
    plan.variables["PREFERRED_PROVIDER"] = "openai"
    by_tier = {tier: settings.pop(f"ANTHROPIC_DEFAULT_{tier.upper()}_MODEL", "") for tier in TIERS}
    if any(by_tier.values()):
        for tier, model in by_tier.items():
            plan.variables[f"MODEL_{tier.upper()}"] = f"openai/{model or _TIER_DEFAULTS[tier]}"
    else:
        big = settings.get("BIG_MODEL") or _MODEL_VARIABLES["BIG_MODEL"]
        for name, default in _MODEL_VARIABLES.items():
            if name not in settings and not default:
                plan.origins[name] = "BIG_MODEL"
            plan.variables[name] = f"openai/{settings.pop(name, '') or default or big}"
    if timeout := settings.pop("REQUEST_TIMEOUT", ""):
        plan.variables["UPSTREAM_TIMEOUT"] = timeout
        plan.origins["UPSTREAM_TIMEOUT"] = "REQUEST_TIMEOUT"
