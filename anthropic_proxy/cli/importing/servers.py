"""Model servers of the other configuration: built-in providers, or tables of `anthropic-proxy.toml`."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from msgspec import Struct, field, structs

from anthropic_proxy.cli.importing.built_in import OLLAMA_PORT, find_built_in_provider, find_built_in_registry
from anthropic_proxy.cli.importing.plan import ImportPlan, find_referenced_variable
from anthropic_proxy.cli.importing.tables import ServerTable, format_call_field, format_key_field
from anthropic_proxy.engine.options import suggest_key_variable, suggest_provider_name
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.providers import PROVIDERS, Provider
from anthropic_proxy.engine.providers.lookup import find_vendor
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import CONFIG_FILE, ENV_FILE, load_settings
from anthropic_proxy.gateway.settings.files import nesting_error
from anthropic_proxy.gateway.settings.sources import is_placeholder
from anthropic_proxy.gateway.settings.values import is_variable_name

_UNUSED_KEY = compile_anchored(
    r"(?i).?|any(?:thing)?|dummy|empty|fake|key|lm-?studio|local|no-?key|none|not-?needed|null|ollama"
    r"|sk-no-key-required|test|unused"
)
"""Matches the key of a server that checks none, and an empty one."""
_CALL_FIELDS = ("headers", "body")
_CallFields = defaultdict[tuple[str, str], dict[str, object]]
"""Kind of a call field and its name in lower case → its present spellings with their values."""
_LETTER = compile_later(r"[A-Za-z0-9]")
_KEY_IN_FILE = "this file must not contain keys"
"""Part of an error of the settings about a text that may be a key."""
_PLACE = compile_later(rf" It is in {re.escape(CONFIG_FILE)}, line \d+\.")
"""Sentence of such an error about a line, which the file does not have yet."""


class ImportedServer(Struct, kw_only=True):
    """One model server in the configuration of the other project."""

    name: str
    """Name in the other configuration."""
    is_named_by_user: bool = False
    base_url: str
    key: str = ""
    """API key, or a reference to a variable: `$KEY`, `${KEY}`, `os.environ/KEY`. "": no key."""
    key_setting: str = ""
    """Setting of the other configuration with the key, for notes."""
    wire: str = "chat"
    headers: Mapping[str, object] = field(default_factory=dict)
    body: Mapping[str, object] = field(default_factory=dict)
    models: Mapping[str, dict[str, int]] = field(default_factory=dict)


class ServerTables:
    """Adds the model servers of the other configuration to the plan, each with a name of its own."""

    def __init__(self, plan: ImportPlan) -> None:
        self.plan = plan
        self._table_names: dict[tuple[str, str], dict[str, str]] = {}
        """First choice of a name and address of a server → its keys with the names of their tables."""
        self._call_fields = defaultdict[str, _CallFields](lambda: defaultdict(dict))
        self._table_numbers = defaultdict[str, int](lambda: 1)
        """First choice of a name → the last number that was tried instead. 1: none."""
        self._accounts: dict[str, tuple[str, str]] = {}
        """Name of a built-in provider or of a table → address and key of its server in the other configuration."""

    def add(self, server: ImportedServer) -> str:
        """Add a model server of the other configuration, and return the prefix of its model ids in this proxy.

        A server of an unknown provider gets a table in `anthropic-proxy.toml`. So does a built-in provider with a
        second key, because the other configuration selects the key with the model.
        """
        provider = find_built_in_provider(server.base_url)
        key = server.key if _needs_key(server) else ""
        own_address = server.base_url if urlsplit(server.base_url).port == OLLAMA_PORT else ""
        if provider is not None and self._is_same_account(provider.name, own_address, key):
            self._use_built_in(provider, server)
            return provider.prefix
        name = self._name_table(provider, server, key)
        if provider is None:
            wire = server.wire
        else:  # newer models of OpenAI accept tools with reasoning on the Responses API only
            wire = "responses" if provider.name == "openai" else next(iter(provider.wires))
        address = server.base_url.removesuffix("/v1") if wire == "ollama" else server.base_url
        table = self.plan.servers.setdefault(name, ServerTable(base_url=address, wire=wire))
        for model, limits in server.models.items():
            table.models.setdefault(model, {}).update(limits)
        self._add_key(name, table, server)
        self._add_call_fields(name, server)
        return name

    def _use_built_in(self, provider: Provider, server: ImportedServer) -> None:
        """Set the variables of a built-in provider."""
        for model, limits in server.models.items():
            if limits:
                listed = ", ".join(f"{name} = {value}" for name, value in limits.items())
                text = f"limits of a built-in provider come from its list, so this is not imported: {listed}"
                self.plan.add_note(f"{server.name}, {model}", text)
        url = urlsplit(server.base_url)
        if provider.uses_installed_models:
            if url.hostname not in ("localhost", "127.0.0.1"):
                self.plan.variables["OLLAMA_API_BASE"] = f"{url.scheme}://{url.netloc}"
        elif provider.key_variable and not _UNUSED_KEY.fullmatch(server.key):
            self.plan.set_secret_reference(provider.key_variable, server.key, server.key_setting)
        self._add_call_fields(provider.prefix, server)

    def _name_table(self, provider: Provider | None, server: ImportedServer, key: str) -> str:
        """Return the name of the table of a server, with a note if the user has chosen another one.

        `provider`: the built-in provider with the same host.
        """
        wanted = suggest_provider_name(server.name) or "server"
        first = wanted
        reason = "has another address or key"
        if wanted in {word for row in find_built_in_registry() for word in (row.name, row.prefix)}:
            first = f"{wanted}-server" if provider is None else f"{wanted}-2"
            reason = "is the name of a provider of this proxy" if provider is None else "has another key"
        name = self._choose_table_name(wanted, first, server.base_url, key)
        if server.is_named_by_user and name != wanted:
            self.plan.add_note(server.name, f"its name here is {name}, as in {name}/MODEL, because {wanted} {reason}")
        return name

    def _choose_table_name(self, stem: str, first: str, address: str, key: str) -> str:
        """Return the name of the table of a server and key: `first`, or else `stem` with the next number."""
        names = self._table_names.setdefault((first, address), {})
        if not key and names:
            return next(iter(names.values()))
        name = names.get(key) or names.pop("", "") or first
        while not self._is_same_account(name, address, key):
            self._table_numbers[first] += 1
            name = f"{stem}-{self._table_numbers[first]}"
        names[key] = name
        return name

    def _is_same_account(self, name: str, address: str, key: str) -> bool:
        """Return True if `name` stands for no other server and key yet. It then stands for these."""
        known_address, known_key = self._accounts.get(name, (address, key))
        if known_address != address or (known_key and key and known_key != key):
            return False
        self._accounts[name] = (address, known_key or key)
        return True

    def _add_key(self, name: str, table: ServerTable, server: ImportedServer) -> None:
        """Let `[providers.NAME]` name the variable of its key, unless it needs none."""
        if table.key_variable:
            return
        variable = suggest_key_variable(name)
        reference = find_referenced_variable(server.key)
        vendor = find_vendor(name, find_built_in_registry())
        host = urlsplit(server.base_url).hostname
        if vendor is not None and not server.key and urlsplit(vendor.base_url).hostname == host:
            variable = vendor.key_variable or variable  # it may be exported already
        if _needs_key(server) and is_variable_name(reference):
            table.key_variable = reference
        elif _needs_key(server):  # .env can refer to a variable whose name a table cannot have
            table.key_variable = variable
            if not _UNUSED_KEY.fullmatch(server.key):
                self.plan.set_secret_reference(variable, server.key, server.key_setting)
        elif server.key and not is_placeholder(server.key):
            text = f'"{server.key}" is not imported, because servers of your own network rarely check a key. If this '
            text += f"one does, write {variable}={server.key} to {ENV_FILE}, and in [providers.{name}]"
            self.plan.add_note(server.key_setting, text, format_key_field(variable))

    def _add_call_fields(self, name: str, server: ImportedServer) -> None:
        """Add the headers and body fields of `server` to `[providers.NAME]`, with a note about each that is refused."""
        fields = [(kind, *row) for kind in _CALL_FIELDS for row in getattr(server, kind).items()]
        if not fields:
            return
        present = self._call_fields[name]
        accepts_all = not self._find_field_problem(name, fields)
        for kind, key, value in fields:
            if accepts_all or not (problem := self._find_field_problem(name, [(kind, key, value)])):
                table = self.plan.servers.setdefault(name, ServerTable())
                getattr(table, kind)[key] = value
                present[kind, key.lower()][key] = value
            else:
                reason = f"{kind}.{key} is not imported. {problem}"
                line = ""
                if isinstance(value, str) and _KEY_IN_FILE in problem:
                    variable = suggest_key_variable(name, key if _LETTER.search(key) else kind)
                    reason = (
                        f"{kind}.{key} is not imported, because it may be a key. Write {variable}=… to {ENV_FILE}, and "
                        f"in [providers.{name}]"
                    )
                    line = format_call_field(kind, key, {"env": variable})
                self.plan.add_note(f"Providers.{server.name}", reason, line, is_error=True)

    def _find_field_problem(self, name: str, fields: Sequence[tuple[str, str, object]]) -> str:
        """Return the problem of new call fields beside those with an equal name. "": they can be added.

        The rest of the table is left out, so that the work is proportional to the new fields.
        """
        table = self.plan.servers.get(name, ServerTable())
        present = self._call_fields[name]
        alone = structs.replace(table, headers={}, body={}, models={})
        for kind, key, value in fields:
            getattr(alone, kind).update({**present[kind, key.lower()], key: value})
        return _find_table_problem(name, alone)


def _needs_key(server: ImportedServer) -> bool:
    """Return False for a local server without a key, or with only a placeholder such as `dummy`."""
    if find_referenced_variable(server.key) or not (is_placeholder(server.key) or _UNUSED_KEY.fullmatch(server.key)):
        return True
    host = urlsplit(server.base_url).hostname or ""
    try:
        is_local = ip_address(host).is_private
    except ValueError:
        is_local = "." not in host or host.endswith((".local", ".internal", ".localhost", ".lan"))
    return not is_local


def _find_table_problem(name: str, table: ServerTable) -> str:
    """Return the sentences of the settings about `[providers.NAME]`. "": it can be written."""
    try:
        if _has_null(table.body):
            return f"It contains null, which {CONFIG_FILE} cannot have"
        load_settings({}, PROVIDERS, config_draft=table.encode_toml(name))
    except RecursionError:  # the number of levels depends on the version of Python
        return nesting_error(CONFIG_FILE).messages[0].rstrip(".")
    except ConfigurationError as error:
        return _PLACE.sub("", error.messages[0]).rstrip(".")
    return ""


def _has_null(value: object) -> bool:
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is None or any(map(_has_null, members))
