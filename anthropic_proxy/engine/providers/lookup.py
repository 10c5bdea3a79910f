"""`ProviderRegistry`: the list of all providers, with search by name and by the prefix of a model id.

A prefix, such as `openai/` in `openai/gpt-4.1`, selects the provider and is then removed from the id. An extra prefix,
such as `bedrock/` for LiteLLM, stays in the id.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct, structs

from anthropic_proxy.engine.options import ConfiguredProvider, convert_model_pattern
from anthropic_proxy.engine.providers.hosts import (
    UNKNOWN_HOSTS,
    complete_host,
    find_host_at,
    is_own_server,
    resolve_host,
)
from anthropic_proxy.engine.providers.model_facts import ModelCapabilities, cached_with_facts, find_table_capabilities
from anthropic_proxy.engine.providers.registry import (
    AnyWireConfig,
    Host,
    ModelRule,
    Provider,
    WireConfig,
    decode_dialect_fields,
)
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.errors import ConfigurationError, join_with_or


class ProviderRegistry(tuple[Provider, ...]):
    """All providers in order of precedence. If several list the same model id, the first one serves it."""

    def __init__(self, _: Iterable[Provider]) -> None:
        self._by_name = {row.name: row for row in self}
        self._by_prefix = self._by_name | {row.prefix: row for row in self}
        self._by_extra_prefix = {
            prefix: row
            for row in self
            for prefix in row.extra_prefixes
            if prefix not in self._by_prefix or self._by_prefix[prefix].prefix_patterns
        }
        self.local: Provider = next(row for row in self if row.uses_installed_models)
        """Provider that is preferred if no provider has a key and its server replies: Ollama."""
        self.demo: Provider = next(row for row in self if row.transport == "demo")
        """Provider that is preferred if no other one can be."""

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
        return tuple(variable for row in self if row.offered_to_users and (variable := row.setup_variable))

    def resolve(self, tables: tuple[ConfiguredProvider, ...], base_urls: Mapping[str, str] = {}) -> "ProviderRegistry":
        """Return the registry for the settings of a user: each provider with the host that its base URL selects, and
        the providers of the configuration file.

        `base_urls`: name of a provider → its base URL setting.
        """
        return _resolve(self, tables, tuple(base_urls.items())) if tables or base_urls else self


@cached_with_facts(16)
def _resolve(
    registry: ProviderRegistry, tables: tuple[ConfiguredProvider, ...], base_urls: tuple[tuple[str, str], ...]
) -> ProviderRegistry:
    given, built_in = dict(base_urls), tuple(registry)
    selected = [
        structs.replace(row, selected_host=host)
        if row.name in given and (host := resolve_host(row, given[row.name])) is not row
        else row
        for row in built_in
    ]
    return ProviderRegistry((*selected, *(build_configured_provider(table, built_in) for table in tables)))


class TableOrigin(Struct, frozen=True):
    """Registry entries from which a provider of the configuration file inherits fields."""

    row: Provider
    """Built-in provider from which the fields are inherited that neither the file nor `host` sets."""
    host: Host
    """Host at the base URL, with the fields of `row` where it states none: `row` itself, or one of its hosts."""
    wires: Mapping[str, AnyWireConfig]
    """The APIs that the host is known to have itself."""
    is_vendor: bool
    """True if the base URL belongs to a known vendor. Its servers require a key."""
    config: AnyWireConfig
    """Configuration for `wire` of the table."""

    @property
    def models_table(self) -> str:
        return self.config.models_table or self.host.models_table or self.row.name


_LIMITS = [
    name
    for name in ModelCapabilities.__struct_fields__
    if not name.startswith("rejects_") and not name.endswith("_from_error")
]
"""Fields of `ModelCapabilities` that `models.toml` sets."""


_OPEN_MODELS = "open_models"
"""Name of the table in `models.toml` with the limits of open models at no server."""


class KnownModel(Struct, frozen=True):
    """The model that `model_of` names."""

    name: str
    """Its id without a prefix."""
    capabilities: ModelCapabilities
    row: Provider | None
    """The built-in provider that has it. None: a vendor without an entry of its own."""


def find_known_model(model_of: str, origin: TableOrigin, built_in: Sequence[Provider]) -> KnownModel | None:
    """Return the model among those of the host, of the provider that a prefix names, of open models, or of any
    provider. None: unknown.
    """
    table = origin.models_table
    capabilities = find_table_capabilities(table, model_of)
    if capabilities.known:
        return KnownModel(model_of.removeprefix(f"{table}/"), capabilities, origin.row)
    prefix, slash, name = model_of.partition("/")
    row = next((row for row in built_in if row.prefix == prefix.lower()), None)
    capabilities = find_table_capabilities((row.models_table or row.name) if row else prefix.lower(), name)
    if slash and capabilities.known:
        return KnownModel(name, capabilities, row)
    for table, row in _list_makers(built_in):  # a cloud deploys models of many vendors
        if (capabilities := find_table_capabilities(table, model_of)).known:
            return KnownModel(model_of, capabilities, row)
    return None


def _list_makers(built_in: Sequence[Provider]) -> Iterator[tuple[str, Provider | None]]:
    yield _OPEN_MODELS, None
    yield from ((row.models_table or row.name, row) for row in built_in)
    yield from ((vendor.models_table, None) for vendor in list_vendors(built_in))


def list_wires(built_in: Sequence[Provider]) -> list[str]:
    """Return the names of the wires that a configured provider can have."""
    return list(dict.fromkeys(name for row in built_in if is_template(row) for name in row.wires))


def require_known_wire(table: ConfiguredProvider, built_in: Sequence[Provider]) -> None:
    """Raise `ConfigurationError` if the wire of a provider, or a field of its dialects, does not exist."""
    if table.wire not in (wires := list_wires(built_in)):
        text = f'The wire of {table.name} is "{table.wire}". Use {join_with_or(wires)}.'
        raise ConfigurationError(text, code="engine-provider")
    origin = find_origin(table, built_in)
    for pattern, model in table.models.items():
        if model.model_of and find_known_model(model.model_of, origin, built_in) is None:
            raise ConfigurationError(
                f'The model_of of {table.name}/{pattern} is "{model.model_of}". Use the id of a model that the '
                "proxy knows, such as gpt-5.6-sol.",
                code="engine-provider",
            )
    for name in (*table.dialect, *(name for model in table.models.values() for name in model.dialect)):
        if name not in origin.config.wire.dialect_type.__struct_fields__:
            text = f'The dialect of {table.name} has the field "{name}", which does not exist.'
            raise ConfigurationError(text, code="engine-provider")


def build_configured_provider(table: ConfiguredProvider, built_in: Sequence[Provider]) -> Provider:
    """Return the entry of a provider of the configuration file. Other fields are those of a similar one."""
    origin = find_origin(table, built_in)
    row, host = origin.row, origin.host
    serves_installed = row.uses_installed_models and table.wire == "ollama"
    models = _resolve_models(table, origin, built_in)
    wires = dict.fromkeys((table.wire, *(wire for _, wire in models["wire_rules"])))
    defaults = table.known_models or ("" if serves_installed else None,)
    return Provider(
        name=table.name,
        prefix=table.name,
        title=host.title if origin.is_vendor else table.name,
        base_url=table.base_url,
        host_patterns=row.host_patterns,
        price_url=row.price_url,
        base_url_variable=table.base_url_setting,
        reference_url=row.base_url,
        key_variable=table.api_key_setting,
        key_required="always" if origin.is_vendor else "never",
        key_source="settings" if table.has_key else host.key_source,
        key_header=host.key_header,
        key_path=host.key_path,
        key_scheme=host.key_scheme,
        wires={wire: _build_config(table, host.wires[wire], origin, built_in) for wire in wires},
        default_big_model=defaults[0],
        default_small_model=defaults[-1],
        known_models=table.known_models,
        uses_installed_models=serves_installed,
        default_url_path=host.default_url_path,
        project_url_path=row.project_url_path,
        retired_models=host.retired_models if origin.is_vendor else {},
        models_table=origin.models_table,
        unknown_model_capabilities=host.unknown_model_capabilities,
        **models,
        is_configured=True,
        docs_url=host.docs_url,
    )


def _resolve_models(table: ConfiguredProvider, origin: TableOrigin, built_in: Sequence[Provider]) -> dict[str, Any]:
    """Return what the tables `[providers.NAME.models]` say, as fields of `Provider`."""
    row, host = origin.row, origin.host
    of_host = {name: value for _, fields in host.capability_rules for name, value in fields.items()}
    rules: list[tuple[str, Mapping[str, Any]]] = list(host.capability_rules)
    # An address with a deployment of Azure has Chat Completions.
    leaves_wire_to_models = not (table.has_wire or table.dialect or "/deployments/" in table.base_url)
    rules_of_row: list[tuple[str, str]] = []  # pairs of model pattern and API at the address of a vendor
    if origin.is_vendor and host.models_table in ("", row.name) and leaves_wire_to_models:
        rules_of_row = [(wire_pattern, wire) for wire_pattern, wire in row.wire_rules if wire in origin.wires]
    wire_rules: list[tuple[str, str]] = []
    known_names: list[tuple[str, str]] = []
    for name, model in table.models.items():
        pattern = convert_model_pattern(name)
        wire = table.wire
        if known_model := find_known_model(model.model_of, origin, built_in) if model.model_of else None:
            known_names.append((pattern, known_model.name))
            if not model.dialect:
                choices = rules_of_row
                if not origin.is_vendor and known_model.row is not None and leaves_wire_to_models:
                    # the rules of the provider that has the model, because a gateway may stand in front of it
                    own = [*known_model.row.wire_rules, ("*", next(iter(known_model.row.wires)))]
                    choices = [(wire_pattern, wire) for wire_pattern, wire in own if wire in row.wires]
                known_name = known_model.name.lower()
                found = (wire for wire_pattern, wire in choices if fnmatchcase(known_name, wire_pattern))
                wire = next(found, table.wire)
            limits = {name: getattr(known_model.capabilities, name) for name in _LIMITS}
            rules.append((pattern, {**limits, **of_host}))
        if model.model_of or model.dialect:
            wire_rules.append((pattern, wire))
        if model.capabilities:
            known = dict.fromkeys(("known", "features_known"), True) if "context_window" in model.capabilities else {}
            images = {} if model.accepts_images is None else {"rejects_images": not model.accepts_images}
            rules.append((pattern, {**model.capabilities, **known, **images}))
    # a later table overrides an earlier one
    wire_rules = [*reversed(wire_rules), *rules_of_row]
    return {"capability_rules": rules, "wire_rules": wire_rules, "known_names": known_names}


def find_origin(table: ConfiguredProvider, built_in: Sequence[Provider]) -> TableOrigin:
    """Return the entries to inherit from: the built-in provider with the same address, else a host."""
    url = urlsplit(table.base_url)
    with_wire = [row for row in built_in if table.wire in row.wires]
    for row in with_wire:
        if any(fnmatchcase(url.hostname or "", pattern) for pattern in row.host_patterns):
            return _build_origin(table, row, find_host_at(row, table.base_url), is_vendor=True)
    candidates = [row for row in with_wire if is_template(row)]
    for row in candidates:
        if urlsplit(row.base_url).netloc == url.netloc:
            return _build_origin(table, row, None, is_vendor=row.key_required != "never")
    hosts = [(row, host) for row in candidates if (host := row.hosts.find_at(table.base_url)) is not None]
    if not hosts:
        return _build_origin(table, candidates[0], None, is_vendor=False)
    row, host = min(hosts, key=lambda found: found[1].name in UNKNOWN_HOSTS)  # these have any address
    return _build_origin(table, row, host, is_vendor=host.name not in UNKNOWN_HOSTS)


def _build_origin(table: ConfiguredProvider, row: Provider, host: Host | None, *, is_vendor: bool) -> TableOrigin:
    complete = row if host is None else complete_host(host, row)
    wires = (host.wires if host is not None else {}) or row.wires
    return TableOrigin(row, complete, wires, is_vendor, complete.wires[table.wire])


def find_vendor(name: str, built_in: Sequence[Provider]) -> Host | None:
    """Return the vendor with this name, in which `-` and `_` are equal."""
    found = (row.hosts.find_named(name.replace("-", "_")) for row in built_in if is_template(row))
    return next((host for host in found if host is not None and _is_vendor(host)), None)


def find_price_vendor(name: str, built_in: Sequence[Provider]) -> Host | None:
    """Return the built-in provider or vendor with this name, if its models have list prices."""
    row = next((row for row in built_in if name in (row.name, row.prefix)), None)
    if row is not None:
        return row if row.transport == "http" and not row.uses_installed_models else None
    vendor = find_vendor(name, built_in)
    return vendor if vendor is not None and not vendor.unpriced else None


def list_price_vendors(built_in: Sequence[Provider]) -> list[str]:
    """Return the names with which `find_price_vendor` finds a vendor."""
    names = [*(row.prefix for row in built_in), *(vendor.name for vendor in list_vendors(built_in))]
    return [name for name in names if find_price_vendor(name, built_in) is not None]


def find_vendor_of_litellm(prefix: str, built_in: Sequence[Provider]) -> Host | None:
    """Return the vendor that LiteLLM calls for model ids with this prefix."""
    return next((each for each in list_vendors(built_in) if prefix in (each.name, each.litellm_prefix)), None)


def list_vendors(built_in: Sequence[Provider]) -> list[Host]:
    """Return the hosts with an address of their own and a key, for which a table needs only its name."""
    hosts = (host for row in built_in if is_template(row) for host in row.hosts)
    return [host for host in hosts if _is_vendor(host)]


def _is_vendor(host: Host) -> bool:
    return bool(host.base_url and host.key_variable and not host.has_local_url)


def is_template(row: Provider) -> bool:
    """Return True if a configured provider can inherit from this provider: HTTP calls, with an API key."""
    return row.transport == "http" and row.key_source == "settings"


def _build_config(
    table: ConfiguredProvider, config: AnyWireConfig, origin: TableOrigin, built_in: Sequence[Provider]
) -> AnyWireConfig:
    dialect: BaseDialect = config.dialect
    if "signature_tag" in dialect.__struct_fields__:  # no server can use the reasoning of another one
        dialect = structs.replace(dialect, signature_tag=f"file-{table.name}")
    rules = []
    models = [(convert_model_pattern(name), model) for name, model in table.models.items()]
    for pattern, model in models:
        if known_model := find_known_model(model.model_of, origin, built_in) if model.model_of else None:
            values = {name: getattr(dialect, name) for name in dialect.__struct_fields__}
            for rule in config.model_rules:  # instead of those that match the names in the table
                values |= rule.dialect_fields if rule.matches_model(known_model.name) else {}
            rules.append(ModelRule(pattern, values, f"[providers.{table.name}]", ""))
    own = [("*", table.dialect), *((pattern, model.dialect) for pattern, model in models)]
    for pattern, fields in own if config.wire is origin.config.wire else ():
        if fields:
            values = decode_dialect_fields(fields, config.wire.dialect_type)
            rules.append(ModelRule(pattern, values, f"[providers.{table.name}]", ""))
    return WireConfig(
        wire=config.wire,
        dialect=dialect,
        model_rules=(*config.model_rules, *rules),
        setting_overrides=config.setting_overrides,
        url_suffixes=config.url_suffixes,
    )


_LARGER_WINDOW = 81_920
"""Context window, in tokens, that is proposed for a model of an own server with a smaller one."""


def describe_larger_window(
    provider: Provider, providers: ProviderRegistry, list_owner: str = ""
) -> tuple[str, str] | None:
    """Return what gives a model of an own server a larger context window, and where to write it. None: the window is
    that of its vendor.
    """
    if provider.uses_installed_models:
        return f"OLLAMA_CONTEXT_LENGTH={_LARGER_WINDOW}", "in the environment of ollama serve"
    if not is_own_server(provider):
        return None
    programs = [host for host in providers.find("openai").hosts if host.window_option]
    named = [host for host in programs if list_owner and host.list_owner == list_owner]
    # `init` names the table of a server after its program
    named = named or [host for host in programs if host.name == provider.name.replace("-", "_")] or programs
    options = [f"{host.window_option.format(tokens=_LARGER_WINDOW)} ({host.title})" for host in named]
    return ", ".join(options), "where the server starts"
