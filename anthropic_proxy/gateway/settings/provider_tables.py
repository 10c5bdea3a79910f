"""Tables of the configuration file: `[providers.NAME]`, `[search]` and `[prices."MODEL"]`."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import structs

from anthropic_proxy.engine.options import (
    ConfiguredProvider,
    ModelTable,
    SearchService,
    suggest_key_variable,
    suggest_provider_name,
)
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.engine.providers.lookup import (
    ProviderRegistry,
    TableOrigin,
    find_known_model,
    find_origin,
    find_price_vendor,
    find_vendor,
    list_price_vendors,
    list_wires,
)
from anthropic_proxy.engine.providers.price_fields import PriceTable
from anthropic_proxy.engine.providers.registry import Provider
from anthropic_proxy.errors import ConfigurationError, find_similar_choice, join_with_and, join_with_or
from anthropic_proxy.gateway.settings import values
from anthropic_proxy.gateway.settings.config_file import ConfigFile, format_key_path
from anthropic_proxy.gateway.settings.file_format import OWN_FIELDS, KeyPath, KeyReference, ProviderTable
from anthropic_proxy.gateway.settings.files import format_toml_value
from anthropic_proxy.gateway.settings.key_references import resolve_keys
from anthropic_proxy.gateway.settings.sources import ErrorList, Sources
from anthropic_proxy.secrets import Secret

_SEARCH = ("search",)


def load_search_service(file: ConfigFile, sources: Sources, *, resolves_keys: bool) -> SearchService | None:
    if (table := file.tables.search) is None:
        return None
    with sources.errors.collect():
        required = "base_url" if table.service == "searxng" else "api_key"
        if getattr(table, required) is None:
            raise ConfigurationError(
                f"search.{required} is missing: {table.service} requires it. "
                f"Set it in {file.describe_origin_in_sentence(_SEARCH)}.",
                code="configuration-file",
            )
        base_url = None
        resolved = None
        if table.base_url is not None:
            base_url = values.decode_url(file.build_setting((*_SEARCH, "base_url"), table.base_url))
        sources.origins["service of [search]"] = file.describe_origin((*_SEARCH, "service"))
        if table.api_key is not None:
            sources.origins["api_key of [search]"] = file.describe_origin((*_SEARCH, "api_key"))
            resolved = resolve_keys(file, (*_SEARCH, "api_key"), table.api_key, sources, resolves_keys=resolves_keys)
        key = next(iter(resolved.keys), None) if resolved else None
        sources.given["search"] = Secret(f"{table} {key.reveal() if key else ''}")
        return SearchService(
            service=table.service,
            base_url=base_url,
            key=key,
            problem=resolved.problem if resolved else "",
            problem_details=resolved.problem_details if resolved else "",
        )
    return None


def list_ignored_table_warnings(search: SearchService | None, file: ConfigFile, sources: Sources) -> list[str]:
    if search is None or "SEARCH_URL" not in sources.origins:
        return []
    return [
        f"[search] ({file.describe_origin_in_sentence(_SEARCH)}) is ignored: "
        f"SEARCH_URL ({sources.origins['SEARCH_URL']}) has the same meaning and takes precedence."
    ]


_NAME = compile_anchored(r"[a-z0-9][a-z0-9_-]{0,62}")
_MESSAGES_ONLY = compile_anchored(
    r"https?://(?:[\w.-]+\.services\.ai\.azure\.com/anthropic(?:/v1)?|aws-external-anthropic\..*|claude\.googleapis\.com/.*)"
)
_OTHER_WIRE_NAMES = {"anthropic": "messages", "openai": "chat", "completions": "chat", "google": "gemini"}
"""Wrong wire name that a user may write → right name, for the suggestion in an error text."""


def find_extended_provider(file: ConfigFile, name: str, built_in: Sequence[Provider]) -> Provider | None:
    """Return the built-in provider whose calls the table `[providers.NAME]` changes. None: it defines its own."""
    table = file.find_value(("providers", name))
    if not isinstance(table, dict) or not table or OWN_FIELDS & table.keys():
        return None
    return next((row for row in built_in if name in (row.name, row.prefix)), None)


def load_provider_tables(
    file: ConfigFile, errors: ErrorList, built_in: ProviderRegistry
) -> tuple[ConfiguredProvider, ...]:
    """Only valid tables that define a provider. `errors` receives the messages about the others."""
    valid = []
    for name, table in file.tables.providers.items():
        if find_extended_provider(file, name, built_in) is None:
            with errors.collect():
                valid.append(_load_table(file, name, table, built_in))
    return tuple(valid)


def _load_table(file: ConfigFile, name: str, table: ProviderTable, built_in: ProviderRegistry) -> ConfiguredProvider:
    path = ("providers", name)
    existing = next((row for row in built_in if name in (row.name, row.prefix)), None)
    if existing is not None:
        table_fields = [field for field in file.find_value(path) if field in OWN_FIELDS]
        fields = f", whose table cannot have {join_with_or(table_fields)}" if table_fields else ""
        raise file.rejection(
            path,
            f"cannot be used: {name}/ is the prefix of a built-in provider, {existing.title}{fields}.",
            subject=f"[providers.{name}]",
            code="named-provider",
            hint=f"Use another name, for example [providers.my-{name}]",
        )
    errors = ErrorList()
    base_url = ""
    with errors.collect():
        if not _NAME.fullmatch(name):
            guess = suggest_provider_name(name)
            hint = f"Did you mean:  [providers.{guess}]" if guess else ""
            raise file.rejection(
                path,
                "cannot be the name of a provider: it is the prefix of model names. Use lower-case letters, digits, "
                "hyphens and underscores.",
                subject=f'"{name}"',
                code="named-provider",
                hint=hint,
            )
    with errors.collect():
        if table.base_url is None and (vendor := find_vendor(name, built_in)) is not None:
            key = table.api_key or KeyReference(env=vendor.key_variable)
            table = structs.replace(table, base_url=vendor.base_url, api_key=key)
        if table.base_url is None:
            raise ConfigurationError(
                f"{format_key_path((*path, 'base_url'))} is missing. Set it in "
                f"{file.describe_origin_in_sentence(path)}. Only a table with the name of a vendor, such as "
                "[providers.deepseek], needs none.",
                code="configuration-file",
            )
        base_url = values.decode_url(file.build_setting((*path, "base_url"), table.base_url))
    models = table.models if isinstance(table.models, dict) else dict.fromkeys(table.models, ModelTable())
    for model in models:
        with errors.collect():
            values.decode_model(file.build_setting((*path, "models"), model))
    provider = ConfiguredProvider(
        name=name,
        base_url=base_url,
        wire=table.wire,
        has_wire="wire" in file.find_value(path),
        has_key=table.api_key is not None,
        key_variable=suggest_key_variable(name) if table.api_key is None else table.api_key.env or "",
        has_key_command=table.api_key is not None and table.api_key.command is not None,
        models=models,
        dialect=table.dialect,
        json_text=msgspec.json.encode(table, enc_hook=str).decode(),
    )
    with errors.collect():
        if table.wire not in (names := list_wires(built_in)):
            suggestion = _OTHER_WIRE_NAMES.get(table.wire, "") or find_similar_choice(table.wire, names)
            raise file.invalid_value_error((*path, "wire"), table.wire, f"Use {join_with_or(names)}.", suggestion)
        if table.wire != "messages" and _MESSAGES_ONLY.fullmatch(base_url):
            text = 'This address has the Messages API only. Write  wire = "messages"  in the same table.'
            raise file.invalid_value_error((*path, "base_url"), base_url, text)
        origin = find_origin(provider, built_in)
        wires = {wire: config.wire.dialect_type for row in built_in for wire, config in row.wires.items()}
        dialects: dict[KeyPath, Mapping[str, object]] = {(*path, "dialect"): table.dialect}
        dialects |= {
            (*path, "models", pattern, "dialect"): model_table.dialect for pattern, model_table in models.items()
        }
        for keys, dialect in dialects.items():
            with errors.collect():
                _require_dialect(file, keys, dialect, table.wire, wires)
        for pattern, limits in models.items():
            with errors.collect():
                _require_consistent_limits(file, (*path, "models", pattern), limits)
            with errors.collect():
                _require_known_model(file, (*path, "models", pattern), limits.model_of, origin, built_in)
    errors.require_empty()
    return provider


def _require_dialect(
    file: ConfigFile, path: KeyPath, dialect: Mapping[str, object], wire: str, types: Mapping[str, type[Any]]
) -> None:
    errors = ErrorList()
    own_fields = dict(dialect)
    for name in dialect:
        wires = [other for other, dialect_type in types.items() if name in dialect_type.__struct_fields__]
        with errors.collect():
            if wires and wire not in wires:
                del own_fields[name]
                raise file.rejection(
                    (*path, name),
                    f"is a setting of the wire {join_with_and(wires)}, but this provider has the wire {wire}.",
                    code="named-provider",
                )
    with errors.collect():
        file.require_type(path, own_fields, types[wire])
    errors.require_empty()


def _require_known_model(
    file: ConfigFile, path: KeyPath, model_of: str | None, origin: TableOrigin, built_in: ProviderRegistry
) -> None:
    if model_of and find_known_model(model_of, origin, built_in) is None:
        raise file.invalid_value_error(
            (*path, "model_of"),
            model_of,
            "Use the id of a model that the proxy knows, such as gpt-5.6-sol or anthropic/claude-opus-5-5 "
            "(anthropic-proxy models lists them), or set the limits instead.",
            find_similar_choice(model_of, origin.row.known_models),
        )


def _require_consistent_limits(file: ConfigFile, path: KeyPath, model: ModelTable) -> None:
    errors = ErrorList()
    window = model.context_window
    for name, limit in (("max_input", model.max_input), ("max_output", model.max_output)):
        with errors.collect():
            if window is not None and limit is not None and limit > window:
                raise file.rejection(
                    (*path, name),
                    f"is {limit}, but context_window is {window}. Use at most the "
                    "context window, which holds input and output together.",
                    code="limit-above-context-window",
                )
    with errors.collect():
        if model.efforts is not None and model.default_effort and model.default_effort not in model.efforts:
            allowed = (
                f"Use {join_with_or(model.efforts)}, as in efforts." if model.efforts else "efforts lists no level."
            )
            raise file.invalid_value_error((*path, "default_effort"), model.default_effort, allowed)
    errors.require_empty()


def load_provider_fields(
    tables: Sequence[ConfiguredProvider], file: ConfigFile, sources: Sources, *, resolves_keys: bool
) -> dict[str, dict[str, Any]]:
    """Return field of `Settings` → name of a provider → value."""
    keys: dict[str, Any] = {}
    key_sources: dict[str, Any] = {}
    problems: dict[str, Any] = {}
    details: dict[str, Any] = {}
    for table in tables:
        path = ("providers", table.name)
        if file.tables.providers[table.name].base_url:  # else it is that of the vendor
            sources.origins[table.base_url_setting] = file.describe_origin((*path, "base_url"))
        sources.origins[table.format_setting_name("models")] = file.describe_origin((*path, "models"))
        for keys_below in table.collect_wire_and_model_values():
            if keys_below != ("wire",) or table.has_wire:
                origin = file.describe_origin((*path, *keys_below))
                sources.origins[table.format_setting_name(format_key_path(keys_below))] = origin
        if table.has_key:
            written = file.tables.providers[table.name].api_key
            reference = written or KeyReference(env=table.key_variable)
            place = (*path, "api_key") if written else path
            sources.origins[table.api_key_setting] = file.describe_origin(place)
            with sources.errors.collect():
                resolved = resolve_keys(file, place, reference, sources, resolves_keys=resolves_keys)
                if resolved.keys:
                    keys[table.name] = resolved.keys
                    if resolved.source is not None:
                        key_sources[table.name] = resolved.source
                elif resolved.problem:
                    problems[table.name] = resolved.problem
                    details[table.name] = resolved.problem_details
        revealed = [key.reveal() for key in keys.get(table.name, ())]
        sources.given[f"providers.{table.name}"] = Secret(f"{table.json_text} {revealed}")
    return {
        "keys": keys,
        "key_sources": key_sources,
        "key_problems": problems,
        "key_problem_details": details,
        "base_urls": {table.name: table.base_url for table in tables},
        "wires": {table.name: table.wire for table in tables if table.has_wire},
    }


def load_price_vendors(file: ConfigFile, built_in: ProviderRegistry, sources: Sources) -> Mapping[str, str]:
    """Return provider name → the vendor that the field `prices` of its table names."""
    vendors: dict[str, str] = {}
    for name, table in file.tables.providers.items():
        if table.prices is None:
            continue
        path = ("providers", name, "prices")
        with sources.errors.collect():
            if find_price_vendor(table.prices, built_in) is None:
                names = list_price_vendors(built_in)
                raise file.invalid_value_error(
                    path,
                    table.prices,
                    f"Use the name of a vendor with list prices: {join_with_or(names)}.",
                    find_similar_choice(table.prices, names),
                )
            row = find_extended_provider(file, name, built_in)
            provider = name if row is None else row.name
            vendors[provider] = table.prices
            sources.origins[format_vendor_setting(provider)] = file.describe_origin(path)
            sources.given[format_vendor_setting(provider)] = Secret(table.prices)
    return vendors


def format_vendor_setting(provider: str) -> str:
    """Return the name of the field `prices` of a provider in `Settings.origins` and in lists of settings."""
    return f"prices of [providers.{provider}]"


_PRICES = ("prices",)
_ID_WITH_PREFIX = compile_anchored(r"[^/\s]+/\S+|\*")


def load_prices(file: ConfigFile, sources: Sources) -> Mapping[str, PriceTable]:
    """Each invalid field is added to the errors of `sources`, and the place of each table to its origins."""
    tables = file.tables.prices
    for name, table in tables.items():
        path = (*_PRICES, name)
        with sources.errors.collect():
            if not _ID_WITH_PREFIX.fullmatch(name):
                raise file.rejection(
                    path,
                    f'has the model "{name}" without a prefix. Use the prefix of the provider and the model '
                    "id, or a pattern, in quotes.",
                    subject="[prices]",
                    code="price-without-prefix",
                    hint=f"Did you mean:  [prices.{format_toml_value(f'openai/{name}')}]",
                )
            for place, fields in [(path, table), *(((*path, "earlier"), past) for past in table.earlier)]:
                for field, used in fields.find_names_of_no_reply():
                    if field == "tiers":
                        raise file.rejection(
                            place,
                            f'has the normal service tier "{used}". Its prices are the fields of the table itself.',
                            subject=f'prices."{name}".tiers',
                            code="configuration-file",
                        )
                    raise file.rejection(
                        place,
                        f'has the factor of "{used}", which is no certain region. Its prices are the fields of '
                        "the table itself.",
                        subject=f'prices."{name}".regions',
                        code="configuration-file",
                    )
        sources.origins[format_price_setting(name)] = file.describe_origin(path)
    if tables:
        sources.given["prices"] = Secret(str(file.find_value(_PRICES)))
    return tables


def format_price_setting(pattern: str) -> str:
    """Heading of a table of prices, which is also its name in `Settings.origins` and in lists of settings."""
    return f"[prices.{format_toml_value(pattern)}]"
