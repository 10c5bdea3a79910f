"""The table of all settings: one entry for each variable of the environment or of `.env`.

What users read about a setting comes from this table: `.env.example`, the reference page, `config show`, and the page
Settings of the dashboard. `load.py` reads and decodes the settings in the order of the table. Settings are tables of
`settings.toml`, apart from those that each provider has. To add one, add a table there, with the fields of `Setting`,
and a field to `Settings` (`fields.py`), whose default is that of the setting.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from anthropic_proxy.engine.providers.registry import Provider
from anthropic_proxy.errors import join_with_or
from anthropic_proxy.gateway.settings import values
from anthropic_proxy.gateway.settings.fields import Settings
from anthropic_proxy.gateway.settings.old_names import OLD_NAMES
from anthropic_proxy.gateway.settings.sources import FoundSetting, Sources

_FILE = Path(__file__).with_name("settings.toml")


class Setting(Struct, frozen=True):
    name: str
    """Variable, such as `BIG_MODEL`."""
    field: str
    """Field of `Settings`, or a field and a key of it: `big_model`, `keys.openai`, `timeouts.idle_seconds`."""
    decode: Callable[[FoundSetting], Any]
    """Function that returns the value, or raises `ConfigurationError` with the allowed values. Its result None counts
    as not set. In `settings.toml`: `decode = "port"` for `values.decode_port`, `choices` for a word of a list, or
    `range` for a whole number, with its unit."""
    help: str
    """What the setting does, for users who see it without its neighbors. By default the text of the setting before it
    in `settings.toml`."""
    example: str = ""
    """Value in `.env.example`. "": the default."""
    aliases: Sequence[str] = ()
    """Other names of the variable, which have less precedence."""
    client_names: Sequence[str] = ()
    """Names of the variable in Claude Code and in Anthropic's SDKs. They count only if it is set nowhere, also not in
    `.env`, because they may be in the environment for these programs."""
    default: str = ""
    """Text of the default. "": that of the field of `Settings`."""
    is_list: bool = False
    """True if the value is a list, separated by commas."""
    is_secret: bool = False
    """True if the value is a secret or may contain one, such as the password in an address of a database."""
    reloadable: bool = True
    """False if a change takes effect at the next start of the server only."""
    editable: bool = False
    """True if the page Settings may change it. No addresses and no rules of access, because keys could then be sent to
    another host."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases, *self.client_names)

    def find_text(self, sources: Sources) -> FoundSetting | None:
        return sources.find_setting(self.name, *self.aliases, client_names=self.client_names, is_list=self.is_list)

    def find_default(self) -> str:
        """The text of the default as a user would set it: `true`, `25`. "": there is none, or it depends on others."""
        if self.default:
            return self.default
        value: Any = Settings()
        for name in self.field.split("."):
            value = getattr(value, name, None)
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float):
            return f"{value:g}"
        return str(value) if isinstance(value, str | int) else ""


class SettingGroup(Struct, frozen=True):
    title: str
    intro: str
    """Text for `.env.example` and the reference page."""
    settings: Sequence[Setting]
    selects_models: bool = False
    """True if the settings select models, their providers, addresses, keys or APIs."""


def _load_settings() -> Mapping[str, Sequence[Setting]]:
    """Return section of `settings.toml` → its settings."""
    sections: dict[str, list[Setting]] = {}
    text = ""
    for section, tables in tomllib.loads(_FILE.read_text(encoding="utf-8")).items():
        for name, table in tables.items():
            text = " ".join(table.pop("help", text).split())
            decode: Callable[[FoundSetting], Any]
            if words := table.pop("choices", None):
                decode = values.choice(*words)
            elif limits := table.pop("range", None):
                decode = partial(values.decode_integer, minimum=limits[0], maximum=limits[1], unit=limits[2])
            else:
                decode = getattr(values, f"decode_{table.pop('decode')}")
            sections.setdefault(section, []).append(Setting(name=name, decode=decode, help=text, **table))
    return sections


_SETTINGS = _load_settings()
MODEL_VARIABLES = tuple(setting.name for setting in _SETTINGS["models"] if not setting.name.startswith("FALLBACK_"))
"""Settings with one model each."""
_KEY_NOTES: Mapping[str, str] = {
    "anthropic": "Only to send work to Anthropic itself.",
    "ollama": "Only for https://ollama.com itself, or a server of yours that requires a key.",
    "bedrock": "Without a key, requests are signed with the credentials of AWS (extra bedrock): a profile, single "
    "sign-on, a role, or AWS_ACCESS_KEY_ID and the like here.",
    "foundry": "Without a key, tokens of Microsoft Entra ID are used (extra azure).",
}
_PREFERRED_NOTE = (
    "gemini and vertex_ai are other names of google and vertex. demo is built in, litellm an extra that requires "
    "BIG_MODEL and SMALL_MODEL, and so do bedrock and foundry. Default: the first with a key (vertex: a project), "
    "otherwise Ollama if it responds, otherwise the demo."
)


@lru_cache(maxsize=16)
def list_setting_groups(providers: Sequence[Provider], table_names: tuple[str, ...] = ()) -> tuple[SettingGroup, ...]:
    """`table_names` are the names of the tables `[providers.NAME]`, which `PREFERRED_PROVIDER` may name."""
    built_in = [row for row in providers if not row.is_configured]
    keys: list[Setting] = []
    clouds: list[Setting] = []
    models: list[Setting] = []
    addresses: list[Setting] = []
    for row in built_in:
        if row.key_variable:
            keys.append(
                Setting(
                    row.key_variable,
                    f"keys.{row.name}",
                    values.decode_keys,
                    f"API key of {row.title}. Several keys, separated by commas, are used in rotation. "
                    f"{_KEY_NOTES.get(row.name, '')}".rstrip(),
                    f"your-{row.name}-key",
                    is_list=True,
                    is_secret=True,
                    editable=row.offered_to_users,
                )
            )
        clouds += _SETTINGS.get(row.name, ())
        if not row.env_prefix:
            continue
        names = dict.fromkeys((row.base_url_variable or f"{row.env_prefix}_BASE_URL", f"{row.env_prefix}_BASE_URL"))
        names.pop("ANTHROPIC_BASE_URL", None)  # Claude Code sets it to the proxy, which would call itself
        name, *aliases = names
        addresses += [
            Setting(
                name,
                f"base_urls.{row.name}",
                values.decode_url,
                f"Address of {row.title}, or of a gateway, mirror or compatible server."
                + (" With another address, the key is optional." if row.key_required == "own_address" else ""),
                aliases=aliases,
                client_names=(f"ANTHROPIC_{row.env_prefix}_BASE_URL",) if row.key_source in ("aws", "azure") else (),
                default=row.base_url,
            ),
            Setting(
                f"{row.env_prefix}_WIRE",
                f"wires.{row.name}",
                partial(values.decode_wire, wires=tuple(row.wires)),
                f"API by which {row.title} is called: {join_with_or(['auto', *row.wires])}."
                + (" auto selects by model." if len(row.wires) > 1 else "")
                + (
                    " messages: the server's own Messages API, forwarded unchanged."
                    if "messages" in row.wires and len(row.wires) > 1
                    else ""
                ),
                default="auto",
                editable=True,
            ),
        ]
        models.append(
            Setting(
                f"{row.env_prefix}_KNOWN_MODELS",
                f"extra_models.{row.name}",
                values.decode_models,
                f"More models of {row.title} that can be requested without its prefix, separated by commas.",
                "my-model",
                is_list=True,
                editable=True,
            )
        )
    listed = [row.name for row in built_in if row.offered_to_users]
    preferred = Setting(
        "PREFERRED_PROVIDER",
        "preferred_provider",
        partial(values.decode_provider, providers=tuple(providers), table_names=table_names),
        f"Provider of all models without a prefix: {join_with_or(listed)}. {_PREFERRED_NOTE}" if listed else "",
        listed[0] if listed else "",
        editable=True,
    )
    litellm = "LiteLLM's providers (mistral/…, cohere/…) have LiteLLM's own variables, such as MISTRAL_API_KEY."
    proxies = (
        "HTTP proxies are those of the environment: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY. SOCKS is refused."
    )
    return (
        SettingGroup("Provider", litellm, (preferred, *keys, *clouds), selects_models=True),
        SettingGroup("Models", "", (*_SETTINGS["models"], *models), selects_models=True),
        SettingGroup("Addresses and APIs of providers", proxies, addresses, selects_models=True),
        SettingGroup("Timeouts and number of calls", "", _SETTINGS["calls"]),
        SettingGroup("Requests", "", _SETTINGS["requests"]),
        SettingGroup("Access", "", _SETTINGS["access"]),
        SettingGroup("Dashboard", "", _SETTINGS["dashboard"]),
        SettingGroup("Sign-in from Claude Code", "", _SETTINGS["sign_in"]),
        SettingGroup("Shutdown, log and plugins", "", _SETTINGS["process"]),
        SettingGroup("Traces (OpenTelemetry, extra otel)", "", _SETTINGS["traces"]),
        SettingGroup("Usage ledger and prices", "", _SETTINGS["ledger"]),
        SettingGroup("Several instances", "", _SETTINGS["instances"]),
    )


def list_all_settings(providers: Sequence[Provider], table_names: tuple[str, ...] = ()) -> list[Setting]:
    return [setting for group in list_setting_groups(providers, table_names) for setting in group.settings]


def list_provider_settings(provider: Provider) -> list[Setting]:
    """Return the settings that only `provider` has, apart from its keys: address, API, models, region and the like."""
    of_section = _SETTINGS.get(provider.name, ())
    named = [setting for setting in list_all_settings((provider,)) if setting.field.endswith(f".{provider.name}")]
    return [*of_section, *(setting for setting in named if not setting.field.startswith("keys."))]


def list_variables(providers: Sequence[Provider]) -> tuple[str, ...]:
    """Return the names of all variables, with aliases, in the order of the table."""
    return tuple(name for setting in list_all_settings(providers) for name in setting.names)


def list_known_variables(providers: Sequence[Provider]) -> tuple[str, ...]:
    """Return the names of all variables that the proxy reads: those of `list_variables`, and old names."""
    return (*list_variables(providers), *OLD_NAMES)


def list_secret_variables(providers: Sequence[Provider]) -> tuple[str, ...]:
    """Return the names of the variables whose values are secrets or may contain one, with aliases, in their order."""
    return tuple(name for setting in list_all_settings(providers) if setting.is_secret for name in setting.names)


def list_backend_variables(providers: Sequence[Provider]) -> frozenset[str]:
    """Variables that select models, their providers, addresses, keys and APIs, with aliases.

    If one changes, results of the command `doctor` may no longer apply.
    """
    groups = [group for group in list_setting_groups(providers) if group.selects_models]
    return frozenset(name for group in groups for setting in group.settings for name in setting.names)


_FIXED_FIELDS = {
    "update_days of [price_list]": "price_update_days",
    "url of [price_list]": "price_update_url",
}
"""Field of the configuration file whose change takes effect at the next start → field of `Settings`."""


@cache
def _fixed_settings() -> Mapping[str, Setting]:
    return {name: setting for setting in list_all_settings(()) if not setting.reloadable for name in setting.names}


def is_fixed_variable(name: str) -> bool:
    """Return True if a change takes effect at the next start of the server."""
    return name in _fixed_settings() or name in _FIXED_FIELDS or name.startswith("OTEL_")


def list_fixed_fields() -> Sequence[str]:
    """Fields of `Settings` that a reload does not change."""
    variables = [setting.field for setting in _fixed_settings().values() if "." not in setting.field]
    return [*variables, *_FIXED_FIELDS.values()]
