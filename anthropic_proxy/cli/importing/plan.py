"""`ImportPlan`: the settings that `import` or `init` will write, and notes about settings that are not imported.

A server whose provider the proxy knows needs variables in `.env` only. Any other server gets a table in
`anthropic-proxy.toml`. Secrets of the other configuration are not copied there, only the names of their variables.
"""

import json
import re
import tomllib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date
from functools import cache, partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, field, structs

from anthropic_proxy.cli.output import Output
from anthropic_proxy.engine.options import TIERS, ConfiguredProvider, suggest_key_variable, suggest_provider_name
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.platforms.files import MAX_CONFIG_BYTES
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.providers import PROVIDERS, Provider, ProviderRegistry, find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.lookup import find_vendor
from anthropic_proxy.engine.routing.choices import ModelChoice, choose_model, find_preferred_provider
from anthropic_proxy.engine.routing.replacements import find_successor_id, join_equal_targets
from anthropic_proxy.errors import ConfigurationError, find_similar_choice, join_with_and, join_with_or
from anthropic_proxy.gateway.settings import CONFIG_FILE, ENV_FILE, Settings, load_settings
from anthropic_proxy.gateway.settings.files import (
    MAX_ENV_BYTES,
    append_env_line,
    decode_env_text,
    decode_toml,
    format_env_line,
    format_toml_key,
    format_toml_value,
    nesting_error,
    read_text,
    update_env_text,
    write_file,
)
from anthropic_proxy.gateway.settings.sources import FoundSetting, Sources, is_placeholder
from anthropic_proxy.gateway.settings.table import MODEL_VARIABLES, list_all_settings
from anthropic_proxy.gateway.settings.values import (
    decode_integer,
    decode_keys,
    decode_url,
    is_secret_variable,
    is_variable_name,
    mask_setting,
    redact_and_shorten,
    remove_endpoint,
)
from anthropic_proxy.gateway.telemetry.log.columns import count_columns, pad
from anthropic_proxy.secrets import redact_key_patterns

UNKNOWN_ENTRY = "import does not know this entry, so it is not imported"
"""Note about an entry of the other configuration that no reader knows."""
_REFERENCE = compile_anchored(r"(?:os\.environ/|\$\{|\$(?![0-9]))(\w+)\}?", re.ASCII)
_INVALID_IN_ROUTE_NAME = compile_later(r"[^A-Za-z0-9 ._-]+")
_MAX_ROUTE_NAME = 63
_UNUSED_KEY = compile_anchored(
    r"(?i).?|any(?:thing)?|dummy|empty|fake|key|lm-?studio|local|no-?key|none|not-?needed|null|ollama"
    r"|sk-no-key-required|test|unused"
)
"""Matches the key of a server that checks none, and an empty one."""
_OLLAMA_PORT = 11434
_MARK = "\ufeff"
"""Byte order mark, with which some editors begin a file."""
_Part = TypeVar("_Part")
Scalar = str | int | float | bool | None
_TYPE_NAMES = {
    "array": "a list",
    "object": "an object",
    "str": "a text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
}
"""Name of a type in messages of msgspec → its description."""
_PATH_ITEM = compile_later(r"\.(\w+)|\[(\d+)\]")
_CALL_FIELDS = ("headers", "body")
_CallFields = defaultdict[tuple[str, str], dict[str, object]]
"""Kind of a call field and its name in lower case → its present spellings with their values."""
_MAX_SUGGESTIONS = 10
_REMOVED = object()
"""Stands for a part of a configuration that has another type."""
_MAX_SHOWN_CHARACTERS = 60
_LETTER = compile_later(r"[A-Za-z0-9]")
_KEY_IN_FILE = "this file must not contain keys"
"""Part of an error of the settings about a text that may be a key."""
_PLACE = compile_later(rf" It is in {re.escape(CONFIG_FILE)}, line \d+\.")
"""Sentence of such an error about a line, which the file does not have yet."""


def decode_address(found: FoundSetting) -> str:
    """Return the base URL of a server for its base URL, or for the URL of an endpoint."""
    try:
        return decode_url(structs.replace(found, text=remove_endpoint(found.text)))
    except ConfigurationError:
        return decode_url(found)  # its error has the whole text


decode_tokens = partial(decode_integer, minimum=1, maximum=100_000_000, unit="tokens")


class ServerTable(Struct, kw_only=True):
    """Table `[providers.NAME]` of `anthropic-proxy.toml`, which describes a server that the proxy can call."""

    base_url: str = ""
    """"": the table only has headers and body fields for a built-in provider."""
    key_variable: str = ""
    """Name of the variable that contains the key. "": the server needs no key."""
    wire: str = "chat"
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    models: dict[str, dict[str, int | str]] = field(default_factory=dict)
    """Model id → fields of the model, such as `max_output` or `model_of`."""

    def encode_toml(self, name: str) -> str:
        """`name`: NAME in the heading `[providers.NAME]`."""
        lines = [f"[providers.{name}]"]
        if self.base_url:
            lines.append(f"base_url = {format_toml_value(self.base_url)}")
        if self.key_variable:
            lines.append(format_key_field(self.key_variable))
        if self.wire != "chat":
            lines.append(f"wire = {format_toml_value(self.wire)}")
        lines += [format_call_field("headers", header, value) for header, value in self.headers.items()]
        lines += [format_call_field("body", key, value) for key, value in self.body.items()]
        if not any(self.models.values()):
            if self.models:
                lines.append(f"models = {format_toml_value([*self.models])}")
            return "\n".join(lines) + "\n"
        for model, fields in self.models.items():
            lines += ["", f"[providers.{name}.models.{format_toml_value(model)}]"]
            lines += [f"{key} = {format_toml_value(value)}" for key, value in fields.items()]
        return "\n".join(lines) + "\n"


def format_key_field(variable: str) -> str:
    """Return the line of `[providers.NAME]` that takes its key from a variable."""
    return f"api_key = {format_toml_value({'env': variable})}"


def format_call_field(kind: str, name: str, value: object) -> str:
    """Return a line of `[providers.NAME]`: `body.provider = { order = ["groq"] }`. `kind`: `headers` or `body`."""
    return f"{kind}.{format_toml_key(name)} = {format_toml_value(value)}"


class ImportedKey(Struct, frozen=True):
    """API key in the other configuration."""

    value: str
    setting: str
    """Place of the key there: `Providers.openrouter.api_key`."""


class ImportedRoute(Struct, kw_only=True):
    """Table `[[routes]]` of `anthropic-proxy.toml`: the models for requests with certain properties."""

    name: str
    when: Mapping[str, object]
    """Name of a condition → its value: a text, a number, a Boolean, or a list of texts."""
    targets: Sequence[str]
    balance: str = "order"
    weights: Sequence[float] = ()

    @property
    def label(self) -> str:
        return f'[[routes]] "{self.name}"'

    def encode_toml(self) -> str:
        lines = ["[[routes]]", f"name = {format_toml_value(self.name)}", f"when = {format_toml_value(self.when)}"]
        lines.append(f"targets = {format_toml_value(self.targets)}")
        if self.balance != "order":
            lines.append(f"balance = {format_toml_value(self.balance)}")
        if len(set(self.weights)) > 1:
            lines.append(f"weights = {list(self.weights)}")
        return "\n".join(lines) + "\n"


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


class ImportNote(Struct, frozen=True):
    """What became of an entry of the other configuration that has no equal setting here."""

    setting: str
    reason: str
    line: str = ""
    """What the user can paste."""
    is_harmless: bool = False
    """True if nothing changes for the user without the entry."""
    is_error: bool = False
    """True if the entry cannot be used, so that the user has to correct it. Such a note is always shown."""


class ImportPlan:
    """`source`: name of the other project. `has_variables`: its file is like `.env`, so that keys are copied too."""

    def __init__(self, source: str, *, has_variables: bool = False) -> None:
        self.source, self.has_variables = source, has_variables
        self.variables: dict[str, str] = {}
        """Name of a variable in `.env` → value to write."""
        self.servers: dict[str, ServerTable] = {}
        """Name of a table in `anthropic-proxy.toml` → its contents."""
        self.routes: list[ImportedRoute] = []
        """Routes in the order in which their conditions are checked."""
        self.origins: dict[str, str] = {}
        """Variable → setting of the other configuration with its value, if that has another name."""
        self.secrets: dict[str, ImportedKey] = {}
        """Name of a variable → key in the other configuration, which is written only if the user agrees."""
        self._table_names: dict[tuple[str, str], dict[str, str]] = {}
        """First choice of a name and address of a server → its keys with the names of their tables."""
        self._call_fields = defaultdict[str, _CallFields](lambda: defaultdict(dict))
        self._suggestions = 0
        self._route_size = 0
        """Bytes of the targets of all routes."""
        self._route_names: set[str] = set()
        self._route_numbers = defaultdict[str, int](lambda: 1)
        self._table_numbers = defaultdict[str, int](lambda: 1)
        """First choice of a name → the last number that was tried instead. 1: none."""
        self._notes: dict[ImportNote, None] = {}
        self._accounts: dict[str, tuple[str, str]] = {}
        """Name of a built-in provider or of a table → address and key of its server in the other configuration."""

    def add_note(
        self, setting: str, reason: str, line: str = "", *, is_harmless: bool = False, is_error: bool = False
    ) -> None:
        """The same note is added only once."""
        self._notes[ImportNote(setting, reason, line, is_harmless, is_error)] = None

    @property
    def notes(self) -> list[ImportNote]:
        """Rows: setting in the other configuration, what happens to it, and a line to paste ("": none)."""
        return [*self._notes]

    def decode_part(self, value: Any, kind: type[_Part], place: str = "") -> _Part:
        """Return `value`, a part of the other configuration, as `kind`, without fields and items of another type.

        Each of them gets a note with its value. `place`: path of the part. "": the whole file.
        """
        kept = self._keep_part(value, kind, place, ())
        return kind() if kept is _REMOVED else msgspec.convert(kept, kind, strict=False)

    def _keep_part(self, value: Any, kind: type[object], place: str, steps: tuple[int | str, ...]) -> Any:
        """Return the value at `steps` without what has another type. `_REMOVED`: it has another type itself.

        Only the members of a value with a wrong one are decoded by themselves, each as the only one of its parents, so
        that the work is proportional to the size.
        """
        if (problem := _find_type_problem(value, kind, steps)) is None:
            return value
        if isinstance(value, dict | list) and problem.depth > len(steps):
            is_list = isinstance(value, list)
            members = enumerate(value) if isinstance(value, list) else value.items()
            decoded = [(key, self._keep_part(member, kind, place, (*steps, key))) for key, member in members]
            kept = {key: member for key, member in decoded if member is not _REMOVED}
            value = [*kept.values()] if is_list else kept
            if (problem := _find_type_problem(value, kind, steps)) is None:
                return value
        if problem.depth < len(steps):  # the name in its parent has another type
            return value
        field = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
        field = f"{place}{field}" if place else field.removeprefix(".")
        reason = "has a name that is no text" if problem.is_name else _describe_wrong(field, value)
        self.add_note(field, f"it is not imported, because it {reason}. Use {problem.allowed}", is_error=True)
        return _REMOVED

    def suggest_model(self, model: str, listed: Mapping[str, None]) -> str:
        """Return the model of `listed` most similar to `model`. "": there is none, or many were suggested already.

        A comparison with a long list takes tenths of a second.
        """
        self._suggestions += 1
        return find_similar_choice(model, listed) if self._suggestions <= _MAX_SUGGESTIONS else ""

    def decode_scalar(self, value: Any, place: str) -> str:
        """Return a value as text. "": it is empty or false, or no text, number or Boolean, and gets a note."""
        if isinstance(value, list | dict):
            problem = f"it is not imported, because it {_describe_wrong(place, value)}"
            self.add_note(place, f"{problem}. Use true or false, a number or a text", is_error=True)
            return ""
        return str(value or "")

    def accepts(
        self, setting: str, field: str, value: str, decode: Callable[[FoundSetting], object], instead: str = ""
    ) -> bool:
        """Return True if `decode` accepts `value`, that of a field of `setting`. If not, add a note with its error.

        `instead`: sentence about the value that is used.
        """
        items = tuple(item for text in value.split(",") if (item := text.strip()))
        try:
            decode(FoundSetting(field, value, "", items, folder="/"))
        except ConfigurationError as error:
            reason = f"it is not imported, because its {error.messages[0].rstrip('.')}"
            self.add_note(setting, f"{reason}. {instead}" if instead else reason, is_error=True)
            return False
        return True

    def leave_out_unusable_values(self, present_tables: Sequence[ConfiguredProvider]) -> None:
        """Remove the variables and keys whose value the proxy would ignore or reject, with a note about each.

        Without its address, a provider would be called at its own: its key, its models and its choice go with it.
        So do those of a table that stays with another address. `present_tables`: those of `anthropic-proxy.toml`.
        """
        moved: dict[str, str] = {}
        for present in present_tables:
            table = self.servers.get(present.name)
            if table is not None and table.base_url and table.base_url.rstrip("/") != present.base_url:
                moved[present.name] = table.key_variable
        self._leave_out_models(moved)
        for name, key in [*self.secrets.items()]:
            if not self.accepts(key.setting, "value", key.value, decode_keys):
                self._leave_out(name)
        values = self.variables | {name: key.value for name, key in self.secrets.items()}
        for name, value in values.items():
            if is_secret_variable(name) and is_placeholder(value) and not _REFERENCE.fullmatch(value):
                shown = redact_and_shorten(redact_key_patterns(value))
                reason = f'"{shown}" is a placeholder, so it is not imported. Set {name} to a key of your own'
                is_of_clients = name == "PROXY_API_KEY"  # the command lists the missing keys of providers
                self._leave_out(name, reason, is_harmless=not is_of_clients, is_error=is_of_clients)
            elif "${" in value and not is_secret_variable(name):  # it would show the value of a key to a server
                reason = "it refers to another variable, and only keys may, so it is not imported. Write its value"
                self._leave_out(name, reason, is_error=True)
        given = Sources(values, None)
        own = [name for name, table in self.servers.items() if table.base_url]
        tables = (*(present.name for present in present_tables), *own)
        for setting in list_all_settings(tuple(find_built_in_registry()), tables):
            for name in setting.names:
                found = given.find_setting(name) if name in values else None  # a reference is none
                if found and not self.accepts(self.origins.get(name, name), "value", found.text, setting.decode):
                    self._leave_out(name)
                    self._leave_out_provider(name, values)

    def _leave_out_provider(self, address: str, values: Mapping[str, str]) -> None:
        """Remove what belongs to a provider without the variable `address`."""
        row = next((each for each in find_built_in_registry() if each.base_url_variable == address), None)
        if row is None:
            return
        names = [row.key_variable or ""]
        if values.get("PREFERRED_PROVIDER") in (row.name, row.prefix):
            prefixes = {each.prefix for each in find_built_in_registry()} - {row.prefix}
            models = [each for each in MODEL_VARIABLES if each in values]
            names.append("PREFERRED_PROVIDER")
            names += [each for each in models if values[each].partition("/")[0] not in prefixes]
        for name in names:
            reason = f"it is not imported, because it belongs to {self.origins.get(address, address)}"
            self._leave_out(name, reason, is_error=True)

    def replace_retired_models(self, folder: Path, today: date) -> dict[str, list[ModelChoice]]:
        """Write the successors of the models that were retired on `today` or earlier.

        A setting that the files in `folder` have already with the retired model stays, and so does one with another
        value. Return name of a setting → its retired models.
        """
        files = prepare_files(self, folder)
        changed = {name for change in files.changes for name in change.added_settings}
        changed.update(each.name for change in files.changes for each in change.kept)
        successors = _Successors(files.settings, today)
        variables, servers, routes = self.variables.copy(), self.servers.copy(), self.routes.copy()
        for variable, value in variables.items():
            if variable in changed:
                self.variables[variable] = successors.replace_in_variable(variable, value)
        self.routes = [successors.replace_in_route(each) if each.label in changed else each for each in routes]
        for name, table in servers.items():
            if f"[providers.{name}]" in changed:
                self.servers[name] = successors.replace_in_table(name, table)
        kept_names = {each.name for change in prepare_files(self, folder).changes for each in change.kept}
        self.variables |= {name: value for name, value in variables.items() if name in kept_names}
        self.servers |= {name: table for name, table in servers.items() if f"[providers.{name}]" in kept_names}
        pairs = zip(self.routes, routes, strict=True)
        self.routes = [old if old.label in kept_names else new for new, old in pairs]
        return {name: choices for name, choices in successors.retired.items() if name not in kept_names}

    def _leave_out_models(self, moved: Mapping[str, str]) -> None:
        """Remove the keys, the routes and the variables that name a model of a table with another address.

        `moved`: NAME of such a `[providers.NAME]` → variable of its key.
        """

        def find_reason(targets: Sequence[str]) -> str:
            name = next((name for target in targets if (name := target.partition("/")[0]) in moved), "")
            return f"it is not imported, because [providers.{name}] has another address" if name else ""

        for variable, value in [*self.variables.items()]:
            is_model = variable in (*MODEL_VARIABLES, "PREFERRED_PROVIDER") or variable.startswith("FALLBACK_")
            if is_model and (reason := find_reason(value.split(","))):
                self._leave_out(variable, reason, is_error=True)
        kept = []
        for route in self.routes:
            if reason := find_reason(route.targets):
                self.add_note(f'the route "{route.name}"', reason, is_error=True)
            else:
                kept.append(route)
        self.routes = kept
        for name, key_variable in moved.items():
            self._leave_out(key_variable, find_reason([name]), is_error=True)

    def _leave_out(self, name: str, reason: str = "", *, is_harmless: bool = False, is_error: bool = False) -> None:
        """Remove a variable or key, if the plan has it. `reason`: text of a note."""
        if name in self.variables or name in self.secrets:
            self.variables.pop(name, None)
            self.secrets.pop(name, None)
            if reason:
                self.add_note(self.origins.get(name, name), reason, is_harmless=is_harmless, is_error=is_error)

    def add_secret(self, variable: str, value: str, setting: str) -> None:
        """`setting`: place of the key in the other configuration."""
        self.origins[variable] = setting
        self.secrets[variable] = ImportedKey(value, setting)

    def copy_secrets(self, names: Collection[str]) -> None:
        self.variables |= {name: self.secrets[name].value for name in names}
        self.secrets = {name: key for name, key in self.secrets.items() if name not in names}

    def settle_known_keys(self, given: Sources) -> None:
        """Drop the keys that the environment has, and compare those that `.env` has with its lines later."""
        known = [name for name in self.secrets if given.find_setting(name, is_list=True) is not None]
        self.copy_secrets([name for name in known if name in given.file])
        for name in known:
            self.secrets.pop(name, None)

    def keep_preferred_provider(self, given: Sources) -> None:
        """Do not choose a provider if a model that is set stays: without a prefix, it would go to that provider."""
        chosen = self.variables.get("PREFERRED_PROVIDER")
        if chosen is None or given.find_setting("PREFERRED_PROVIDER") is not None:
            return
        found = {name: given.find_setting(name) for name in MODEL_VARIABLES}
        kept = [name for name, each in found.items() if each and each.text != self.variables.get(name)]
        if kept:
            del self.variables["PREFERRED_PROVIDER"]
            verb = "stays as it is" if len(kept) == 1 else "stay as they are"
            self.add_note("PREFERRED_PROVIDER", f"{chosen} is not written, because {join_with_and(kept)} {verb}")

    def add_route(
        self,
        name: str,
        when: Mapping[str, object],
        targets: Sequence[str],
        *,
        balance: str = "order",
        weights: Sequence[int] = (),
    ) -> None:
        """The name is changed if it is invalid or used."""
        valid = _INVALID_IN_ROUTE_NAME.sub("-", name)[:_MAX_ROUTE_NAME].strip(" ._-") or "route"
        self._route_size += sum(len(target.encode()) for target in targets)
        if self._route_size > MAX_CONFIG_BYTES:
            raise ConfigurationError(
                f"{CONFIG_FILE} would have more than {MAX_CONFIG_BYTES:,} bytes, because the routes have too many "
                "targets.",
                code="configuration-file",
            )
        stem = valid[: _MAX_ROUTE_NAME - 6]
        unique = valid
        while unique in self._route_names:
            self._route_numbers[stem] += 1
            unique = f"{stem}-{self._route_numbers[stem]}"
        self._route_names.add(unique)
        self.routes.append(ImportedRoute(name=unique, when=when, targets=targets, balance=balance, weights=weights))

    def add_server(self, server: ImportedServer) -> str:
        """Add a model server of the other configuration, and return the prefix of its model ids in this proxy.

        A server of an unknown provider gets a table in `anthropic-proxy.toml`. So does a built-in provider with a
        second key, because the other configuration selects the key with the model.
        """
        provider = find_built_in_provider(server.base_url)
        key = server.key if _needs_key(server) else ""
        own_address = server.base_url if urlsplit(server.base_url).port == _OLLAMA_PORT else ""
        if provider is not None and self._is_same_account(provider.name, own_address, key):
            url = urlsplit(server.base_url)
            for model, limits in server.models.items():
                if limits:
                    listed = ", ".join(f"{name} = {value}" for name, value in limits.items())
                    text = f"limits of a built-in provider come from its list, so this is not imported: {listed}"
                    self.add_note(f"{server.name}, {model}", text)
            if provider.uses_installed_models:
                if url.hostname not in ("localhost", "127.0.0.1"):
                    self.variables["OLLAMA_API_BASE"] = f"{url.scheme}://{url.netloc}"
            elif provider.key_variable and not _UNUSED_KEY.fullmatch(server.key):
                self.set_secret_reference(provider.key_variable, server.key, server.key_setting)
            self._add_call_fields(provider.prefix, server)
            return provider.prefix
        if provider is None:
            wire = server.wire
        else:  # newer models of OpenAI accept tools with reasoning on the Responses API only
            wire = "responses" if provider.name == "openai" else next(iter(provider.wires))
        valid, reason = suggest_provider_name(server.name) or "server", "has another address or key"
        first = valid
        if valid in {word for row in find_built_in_registry() for word in (row.name, row.prefix)}:
            first = f"{valid}-server" if provider is None else f"{valid}-2"
            reason = "is the name of a provider of this proxy" if provider is None else "has another key"
        name = self._choose_table_name(valid, first, server.base_url, key)
        if server.is_named_by_user and name != valid:
            self.add_note(server.name, f"its name here is {name}, as in {name}/MODEL, because {valid} {reason}")
        address = server.base_url.removesuffix("/v1") if wire == "ollama" else server.base_url
        table = self.servers.setdefault(name, ServerTable(base_url=address, wire=wire))
        for model, limits in server.models.items():
            table.models.setdefault(model, {}).update(limits)
        self._add_key(name, table, server)
        self._add_call_fields(name, server)
        return name

    def _add_key(self, name: str, table: ServerTable, server: ImportedServer) -> None:
        """Let `[providers.NAME]` name the variable of its key, unless it needs none."""
        if table.key_variable:
            return
        variable, reference = suggest_key_variable(name), find_referenced_variable(server.key)
        vendor, host = find_vendor(name, find_built_in_registry()), urlsplit(server.base_url).hostname
        if vendor is not None and not server.key and urlsplit(vendor.base_url).hostname == host:
            variable = vendor.key_variable or variable  # it may be exported already
        if _needs_key(server) and is_variable_name(reference):
            table.key_variable = reference
        elif _needs_key(server):  # .env can refer to a variable whose name a table cannot have
            table.key_variable = variable
            if not _UNUSED_KEY.fullmatch(server.key):
                self.set_secret_reference(variable, server.key, server.key_setting)
        elif server.key and not is_placeholder(server.key):
            text = f'"{server.key}" is not imported, because servers of your own network rarely check a key. If this '
            text += f"one does, write {variable}={server.key} to {ENV_FILE}, and in [providers.{name}]"
            self.add_note(server.key_setting, text, format_key_field(variable))

    def _add_call_fields(self, name: str, server: ImportedServer) -> None:
        """Add the headers and body fields of `server` to `[providers.NAME]`, with a note about each that is refused."""
        fields = [(kind, *row) for kind in _CALL_FIELDS for row in getattr(server, kind).items()]
        if not fields:
            return
        present = self._call_fields[name]
        accepts_all = not self._find_field_problem(name, fields)
        for kind, key, value in fields:
            if accepts_all or not (problem := self._find_field_problem(name, [(kind, key, value)])):
                table = self.servers.setdefault(name, ServerTable())
                getattr(table, kind)[key] = value
                present[kind, key.lower()][key] = value
            else:
                reason, line = f"{kind}.{key} is not imported. {problem}", ""
                if isinstance(value, str) and _KEY_IN_FILE in problem:
                    variable = suggest_key_variable(name, key if _LETTER.search(key) else kind)
                    reason = (
                        f"{kind}.{key} is not imported, because it may be a key. Write {variable}=… to {ENV_FILE}, and "
                        f"in [providers.{name}]"
                    )
                    line = format_call_field(kind, key, {"env": variable})
                self.add_note(f"Providers.{server.name}", reason, line, is_error=True)

    def _find_field_problem(self, name: str, fields: Sequence[tuple[str, str, object]]) -> str:
        """Return the problem of new call fields beside those with an equal name. "": they can be added.

        The rest of the table is left out, so that the work is proportional to the new fields.
        """
        table, present = self.servers.get(name, ServerTable()), self._call_fields[name]
        alone = structs.replace(table, headers={}, body={}, models={})
        for kind, key, value in fields:
            getattr(alone, kind).update({**present[kind, key.lower()], key: value})
        return _find_table_problem(name, alone)

    def set_secret_reference(self, variable: str, value: str, setting: str) -> None:
        """Set `variable` of `.env` to `${KEY}` if `value` is a reference to the variable KEY, such as `$KEY`.

        If `value` is a secret, it is written only if the user agrees. `setting`: its place in the other configuration.
        """
        reference = find_referenced_variable(value)
        if reference and reference != variable:
            self.variables[variable] = f"${{{reference}}}"
        elif value and not reference:
            self.add_secret(variable, value, setting)

    def set_tier_models(self, targets: Mapping[str, str], fallbacks: Mapping[str, Sequence[str]] | None = None) -> None:
        """Set the models of the Claude tiers (haiku, sonnet, opus, fable), and the preferred provider.

        `targets` maps a tier to a model id with prefix, and `fallbacks` maps a tier to its fallback models. The
        preferred provider is that of the model for sonnet, or of the first target if sonnet has none.
        """
        for tier, models in (fallbacks or {}).items():
            if models:
                self.variables[f"FALLBACK_{tier.upper()}"] = ",".join(dict.fromkeys(models))
        large = {tier: targets[tier] for tier in TIERS if tier in targets and tier != "haiku"}
        is_of_claude = any(target.startswith("anthropic/") for target in targets.values())
        if is_of_claude or len(targets) < len(TIERS) or large["opus"] != large["fable"]:
            self.variables |= {f"MODEL_{tier.upper()}": target for tier, target in targets.items()}
        else:
            middle = {} if large["sonnet"] == large["opus"] else {"MIDDLE_MODEL": large["sonnet"]}
            self.variables |= {"BIG_MODEL": large["opus"], **middle, "SMALL_MODEL": targets["haiku"]}
        if preferred := large.get("sonnet") or next(iter(targets.values()), ""):
            prefix = preferred.partition("/")[0]
            known = [*self.servers, *(name for row in find_built_in_registry() for name in (row.name, row.prefix))]
            self.variables["PREFERRED_PROVIDER"] = prefix if prefix in known else "litellm"

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


class _TypeProblem(Struct, frozen=True):
    """Why a value cannot be decoded."""

    depth: int
    """Number of names and indices that lead to the value."""
    allowed: str
    is_name: bool
    """True if the value is an object with a name that is no text."""


def _find_type_problem(value: object, kind: type[object], steps: Sequence[int | str]) -> _TypeProblem | None:
    """Return the first problem of `value`, which `steps` lead to in a value of `kind`."""
    for step in reversed(steps):
        value = [value] if isinstance(step, int) else {step: value}
    try:
        msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        expected, _, path = str(error).partition(" - at ")
        names = [_TYPE_NAMES[name] for name in expected.split("`")[1].split(" | ") if name in _TYPE_NAMES]
        allowed = join_with_or(list(dict.fromkeys(names))) + (" of 0 or more" if " >= 0" in expected else "")
        return _TypeProblem(len(_PATH_ITEM.findall(path)), allowed, path.startswith("`key`"))
    return None


def _describe_wrong(field: str, wrong: object) -> str:
    """Return the text about the value of a field that has another type."""
    if "key" in field.lower():  # the value may be a secret
        return "has a value that is not shown"
    if isinstance(wrong, list | dict):
        return "is a list" if isinstance(wrong, list) else "is an object"
    shown = redact_key_patterns(json.dumps(wrong, ensure_ascii=False, default=str))
    cut = shown if len(shown) <= _MAX_SHOWN_CHARACTERS else f"{shown[:_MAX_SHOWN_CHARACTERS]}…"
    return f"is {cut}"


class _Successors:
    """Replaces the models that are retired at a date. `settings`: with the new lines."""

    def __init__(self, settings: Settings, today: date) -> None:
        self._settings, self._today, self._catalog = settings, today, Catalog()
        self._registry = find_registry(settings)
        self._preferred = find_preferred_provider(settings, self._catalog)
        self.retired: dict[str, list[ModelChoice]] = {}
        """Name of a setting → its retired models."""

    def _replace(self, label: str, choice: ModelChoice, text: str) -> str:
        successor = find_successor_id(choice, self._settings, self._today)
        if successor:
            self.retired.setdefault(label, []).append(choice)
        return successor or text

    def _replace_name(self, label: str, name: str) -> str:
        choice = choose_model(name, self._preferred, self._settings, self._catalog, allow_other_provider=True)
        return self._replace(label, choice, name)

    def replace_in_variable(self, variable: str, value: str) -> str:
        if variable in MODEL_VARIABLES:
            return self._replace_name(variable, value)
        if not variable.startswith("FALLBACK_"):
            return value
        return ",".join(dict.fromkeys(self._replace_name(variable, name.strip()) for name in value.split(",")))

    def replace_in_route(self, route: ImportedRoute) -> ImportedRoute:
        names = [self._replace_name(route.label, target) for target in route.targets]
        targets, weights = join_equal_targets(names, route.weights)
        if len(targets) == 1:
            return structs.replace(route, targets=targets, balance="order", weights=[])
        return structs.replace(route, targets=targets, weights=weights)

    def replace_in_table(self, name: str, table: ServerTable) -> ServerTable:
        provider = self._registry.find_by_prefix(name)
        if provider is None:
            return table
        in_use: dict[str, dict[str, int | str]] = {}
        for model, fields in table.models.items():
            choice = ModelChoice(provider=provider, model=model, reason="")
            kept = self._replace(f"[providers.{name}]", choice, f"{name}/{model}").removeprefix(f"{name}/")
            others = in_use.get(kept, {})
            in_use[kept] = {**others, **fields} if kept == model else {**fields, **others}
        return structs.replace(table, models=in_use)


@cache
def find_built_in_registry() -> ProviderRegistry:
    """Return the providers that the proxy knows, which need no table in the configuration file."""
    return find_registry(load_settings({}, PROVIDERS, env_file=None))


def find_referenced_variable(text: str) -> str:
    """Return KEY for `$KEY`, `${KEY}` and `os.environ/KEY`. "": the text is no reference."""
    found = _REFERENCE.fullmatch(text.strip())
    return found[1] if found else ""


def find_built_in_provider(base_url: str) -> Provider | None:
    """Return the built-in provider with the same host as `base_url`. None: no built-in provider has this host.

    If `base_url`, a valid URL, has Ollama's port, the result is Ollama for any host.
    """
    url = urlsplit(base_url)
    if url.port == _OLLAMA_PORT:
        return next(row for row in find_built_in_registry() if row.uses_installed_models)
    servers = [row for row in find_built_in_registry() if row.base_url and not row.uses_installed_models]
    return next((row for row in servers if urlsplit(row.base_url).hostname == url.hostname), None)


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


class KeptValue(Struct, frozen=True):
    """A setting that a file already sets to another value. Keys in both texts are masked."""

    name: str
    """`BIG_MODEL`, `[providers.vllm]`"""
    present: str
    wanted: str


class FileChange(Struct, kw_only=True):
    """Change of one settings file."""

    path: Path
    before: str
    after: str
    added: str
    """New lines, for the user. "": the file does not change."""
    added_settings: Sequence[str]
    """Names of the variables or tables in `added`: `BIG_MODEL`, `[providers.vllm]`."""
    kept: list[KeptValue]
    has_keys: bool = False
    """True if one of the new lines has a key."""


class FilesToWrite(Struct):
    """Changes of `.env` and `anthropic-proxy.toml`, and the settings that a proxy would read afterwards."""

    changes: Sequence[FileChange]
    settings: Settings

    def write(self, output: Output) -> None:
        """Write the files. Tell the user which of them others can no longer read, because they have keys.

        Raises `ConfigurationError` if a file cannot be written, or was changed in the meantime.
        """
        for change in self.changes:
            if change.added and write_file(change.path, change.before, change.after, has_keys=change.has_keys):
                file = shorten_home(change.path)
                text = f"Other users could read {file}. Now only its owner can, because it contains a key."
                output.write_notice(text, "!")


def _list_fields(table: Mapping[str, object], names: Sequence[str]) -> str:
    """`base_url = "https://example.com/v1", no models`"""
    texts = {name: json.dumps(table[name], ensure_ascii=False, default=str) for name in names if name in table}
    shown = {name: redact_and_shorten(redact_key_patterns(text)) for name, text in texts.items()}
    return ", ".join(f"{name} = {shown[name]}" if name in shown else f"no {name}" for name in names)


def _can_be_added(text: str, table: str) -> bool:
    try:
        tomllib.loads(f"{text}\n{table}")
    except tomllib.TOMLDecodeError:
        return False
    return True


def prepare_files(plan: ImportPlan, folder: Path, replaced_names: Collection[str] = ()) -> FilesToWrite:
    """Return the changes of `.env` and `anthropic-proxy.toml` in `folder` for the settings in `plan`.

    New lines are added. Of the lines that set another value, those of `replaced_names` change, and others stay. Raises
    `ConfigurationError` if the proxy could not start with the result.
    """
    env, config = _change_env(plan, folder / ENV_FILE, replaced_names), _change_config(plan, folder / CONFIG_FILE)
    for change, maximum in ((env, MAX_ENV_BYTES), (config, MAX_CONFIG_BYTES)):
        if change.added and (size := len(change.after.encode())) > maximum:
            raise ConfigurationError(
                f"{shorten_home(change.path)} would have {size:,} bytes, and the maximum is {maximum:,}.",
                code="configuration-file",
            )
    settings = load_settings({}, PROVIDERS, env_file=str(env.path), env_draft=env.after, config_draft=config.after)
    return FilesToWrite((env, config), settings)


def _change_env(plan: ImportPlan, file: Path, replaced_names: Collection[str]) -> FileChange:
    before = changed = read_text(file)
    present, in_file = decode_env_text(before.removeprefix(_MARK)), Sources({}, str(file))
    added: dict[str, str] = {}
    kept = []
    for name, value in plan.variables.items():
        if present.get(name) == value:
            continue
        is_key = is_secret_variable(name)
        is_reference = is_key and _REFERENCE.fullmatch(value)
        line = f"{name}={value}" if is_reference else format_env_line(name, value, allows_reference=is_key)
        is_set = in_file.find_setting(name, is_list=True) is not None  # a placeholder is none
        if is_set and name not in replaced_names:
            kept.append(KeptValue(name, mask_setting(name, present[name]), mask_setting(name, value)))
        else:
            changed = update_env_text(changed, name, line) if is_set else append_env_line(changed, line)
            added[name] = line
    return FileChange(
        path=file,
        before=before,
        after=changed,
        added="".join(f"{line}\n" for line in added.values()),
        added_settings=[*added],
        kept=kept,
        has_keys=any(map(is_secret_variable, added)),
    )


def _change_config(plan: ImportPlan, file: Path) -> FileChange:
    before = read_text(file)
    configured = decode_toml(before, file.name)
    providers = configured.get("providers", {})
    routes = {route.get("name"): route for route in configured.get("routes", [])}
    tables = [
        (f"[providers.{name}]", each.encode_toml(name), providers.get(name)) for name, each in plan.servers.items()
    ]
    tables += [(each.label, each.encode_toml(), routes.get(each.name)) for each in plan.routes]
    kept, new = [], dict[str, str]()
    extended = set[str]()
    for label, table, old in tables:
        kind, heading = ("routes", "[[routes]]") if label.startswith("[[") else ("providers", "[providers.NAME]")
        if old is None:
            new[label] = table
            is_first = kind not in extended
            extended.add(kind)
            if is_first and kind in configured and not _can_be_added(before, table):
                raise ConfigurationError(
                    f'{label} cannot be added to {file}, because "{kind}" is written in one line there. Write '
                    f"{heading} in its place, with a line for each field.",
                    code="configuration-file",
                )
            continue
        contents = tomllib.loads(table)[kind]
        wanted = contents[0] if kind == "routes" else next(iter(contents.values()))
        if names := [key for key in {**old, **wanted} if old.get(key) != wanted.get(key)]:
            kept.append(KeptValue(label, _list_fields(old, names), _list_fields(wanted, names)))
    new_tables = "\n".join(new.values())
    end = "\r\n" if "\r\n" in before else "\n"
    gap = end if new_tables and before and not before.endswith("\n") else ""
    return FileChange(
        path=file,
        before=before,
        after=f"{before}{gap}{new_tables.replace(chr(10), end)}",
        added=new_tables,
        added_settings=[*new],
        kept=kept,
    )


def list_route_rows(settings: Settings) -> list[tuple[str, str]]:
    """Return the name of each route, such as `route thinking`, with its models."""
    rows = []
    for route in settings.routes:
        first, *others = route.targets
        then = f", {'then ' if route.balance == 'order' else ''}{', '.join(others)}" if others else ""
        above = f" (input above {limit:,} tokens)" if (limit := route.when.input_above) is not None else ""
        rows.append((f"route {route.name}", f"{first}{then}{above}"))
    return rows


def write_mapping_rows(output: Output, rows: Sequence[tuple[str, str]], lead: str = "  ") -> None:
    """Write names with their models, each in two lines if the terminal is too narrow."""
    width = max(count_columns(name) for name, _ in rows)
    lines = [f"{lead}{pad(name, width)}  → {target}" for name, target in rows]
    if output.width and max(map(count_columns, lines)) > output.width:
        lines = [line for name, target in rows for line in (f"{lead}{name}", f"{lead}  → {target}")]
    for line in lines:
        output.write_line(line)
