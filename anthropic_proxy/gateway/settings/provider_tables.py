"""Tables of the configuration file other than routes: `[providers.NAME]`, `[search]` and `[prices."MODEL"]`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from anthropic_proxy.engine.options import ConfiguredModel, ConfiguredProvider, SearchService
from anthropic_proxy.engine.providers.lookup import ProviderRegistry, find_known_model, find_origin, list_wires
from anthropic_proxy.engine.providers.registry import Provider
from anthropic_proxy.engine.wires.contract import BaseDialect
from anthropic_proxy.errors import ConfigurationError, find_similar_choice
from anthropic_proxy.gateway.settings import type_checks, values
from anthropic_proxy.gateway.settings.config_file import ConfigFile, format_key_path
from anthropic_proxy.gateway.settings.file_format import (
    OWN_FIELDS,
    ConfiguredPrice,
    FileContents,
    ModelTable,
    PriceTable,
    ProviderTable,
    SearchTable,
)
from anthropic_proxy.gateway.settings.key_references import resolve_keys
from anthropic_proxy.gateway.settings.sources import ErrorList, Sources
from anthropic_proxy.patterns import compile_later
from anthropic_proxy.secrets import Secret

_NORMAL = frozenset({"", "auto", "default", "on_demand", "standard", "unspecified"})
"""Names that providers report for their normal service tier: OpenAI `default`, Groq `on_demand`, Anthropic and Google
`standard`. A server that repeats a requested `auto` does not state its tier."""
_SERVICE_TIERS_NAME = compile_later(r"[a-z][a-z0-9_-]{0,23}")
"""Pattern of the name of a tier. It becomes part of a stored text, so it has no control characters and no space."""
_OTHER = "other"


def normalize_service_tier(name: str) -> str:
    """Return the name of a service tier in lower case.

    "" for the normal tier, such as `standard` or `default`. `other` for a text that is not a valid name.
    """
    if name in _NORMAL:
        return ""
    lower = name.strip().lower()
    if lower in _NORMAL:
        return ""
    return lower if _SERVICE_TIERS_NAME.fullmatch(lower) else _OTHER


_SEARCH_TABLE_PATH = ("search",)


def load_search_service(file: ConfigFile, sources: Sources, *, resolves_keys: bool) -> SearchService | None:
    with sources.errors.collect():
        if file.find_value(_SEARCH_TABLE_PATH) is not None:
            table = file.decode_table(_SEARCH_TABLE_PATH, SearchTable)
            required = "base_url" if table.service == "searxng" else "api_key"
            if file.find_value((*_SEARCH_TABLE_PATH, required)) is None:
                raise ConfigurationError(
                    f"search.{required} is missing: {table.service} requires it. "
                    f"Set it in {file.describe_origin_in_sentence(_SEARCH_TABLE_PATH)}.",
                    code="configuration-file",
                )
            base_url = None
            if table.base_url is not None:
                base_url = values.decode_url(file.build_setting((*_SEARCH_TABLE_PATH, "base_url"), table.base_url))
            key, resolved = None, None
            if table.api_key is not None:
                resolved = resolve_keys(file, (*_SEARCH_TABLE_PATH, "api_key"), sources, resolves_keys=resolves_keys)
                key = next(iter(resolved.keys), None)
            for field in ("service", "api_key"):
                if file.find_value((*_SEARCH_TABLE_PATH, field)) is not None:
                    sources.origins[f"{field} of [search]"] = file.describe_origin((*_SEARCH_TABLE_PATH, field))
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
        f"[search] ({file.describe_origin_in_sentence(_SEARCH_TABLE_PATH)}) is ignored: "
        f"SEARCH_URL ({sources.origins['SEARCH_URL']}) has the same meaning and takes precedence."
    ]


_NAME = compile_later(r"[a-z0-9][a-z0-9_-]{0,62}")
_PATTERN_CHARACTERS = compile_later(r"[*?\[]")


def load_provider_tables(
    file: ConfigFile, errors: ErrorList, built_in: Sequence[Provider] = ()
) -> tuple[ConfiguredProvider, ...]:
    """Providers with an invalid name, and invalid fields of the others, are left out, and tables with the call options
    of a provider in `built_in`.

    `errors` receives a message for each of them.
    """
    names, valid = list_provider_table_names(file), []
    contents = file.contents
    for name in names:
        if find_extended_provider(file, name, built_in) is not None:
            # such a table has no address
            tables = contents["providers"]
            assert isinstance(tables, dict)
            contents = {**contents, "providers": {**tables, name: {"base_url": "", **tables[name]}}}
            continue
        with errors.collect():
            if not _NAME.fullmatch(name):
                guess = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:63]
                hint = f" Did you mean [providers.{guess}]" if guess else ""
                raise ConfigurationError(
                    f'"{name}" cannot be the name of a provider: it is the prefix of model names. Use lower-case '
                    "letters, digits, hyphens and underscores. "
                    f"It is in {file.describe_origin_in_sentence(('providers', name))}.{hint}",
                    code="named-provider",
                )
            valid.append(name)
    with errors.collect():
        file.require_valid_value((), contents, FileContents)
    return tuple(_load_table(file, name, errors) for name in valid)


def find_extended_provider(file: ConfigFile, name: str, built_in: Sequence[Provider]) -> Provider | None:
    """Return the built-in provider whose calls the table `[providers.NAME]` changes. None: it defines its own."""
    table = file.find_value(("providers", name))
    if not isinstance(table, dict) or not table or OWN_FIELDS & table.keys():
        return None
    return next((row for row in built_in if name in (row.name, row.prefix)), None)


def list_provider_table_names(file: ConfigFile) -> Sequence[str]:
    """Also of tables with invalid fields."""
    tables = file.find_value(("providers",))
    return list(tables) if isinstance(tables, dict) else []


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
        sources.origins[table.base_url_setting] = file.describe_origin((*path, "base_url"))
        sources.origins[table.format_setting_name("models")] = file.describe_origin((*path, "models"))
        for keys_below in table.collect_wire_and_model_values():
            if keys_below != ("wire",) or file.find_value((*path, "wire")) is not None:
                origin = file.describe_origin((*path, *keys_below))
                sources.origins[table.format_setting_name(format_key_path(keys_below))] = origin
        if table.has_key:
            sources.origins[table.api_key_setting] = file.describe_origin((*path, "api_key"))
            with sources.errors.collect():
                resolved = resolve_keys(file, (*path, "api_key"), sources, resolves_keys=resolves_keys)
                if resolved.keys:
                    keys[table.name] = resolved.keys
                    if resolved.source is not None:
                        key_sources[table.name] = resolved.source
                elif resolved.problem:
                    problems[table.name], details[table.name] = resolved.problem, resolved.problem_details
        revealed = [key.reveal() for key in keys.get(table.name, ())]
        sources.given[f"providers.{table.name}"] = Secret(f"{table.json_text} {revealed}")
    base_urls = {table.name: table.base_url for table in tables}
    wires = {table.name: table.wire for table in tables if table.fixes_wire}
    return {
        "keys": keys,
        "key_sources": key_sources,
        "key_problems": problems,
        "key_problem_details": details,
        "base_urls": base_urls,
        "wires": wires,
    }


def _load_table(file: ConfigFile, name: str, errors: ErrorList) -> ConfiguredProvider:
    path, base_url = ("providers", name), ""
    kept = type_checks.drop_invalid_fields(file.find_value(path), ProviderTable)
    fields = kept if isinstance(kept, dict) else {}
    table = msgspec.convert({"base_url": "", **fields}, ProviderTable)
    with errors.collect():
        if "base_url" in fields:
            base_url = values.decode_url(file.build_setting((*path, "base_url"), table.base_url))
    models = table.models if isinstance(table.models, dict) else dict.fromkeys(table.models, ModelTable())
    for model in models:
        with errors.collect():
            values.decode_model(file.build_setting((*path, "models"), model))
    return ConfiguredProvider(
        name=name,
        base_url=base_url,
        wire=table.wire,
        has_wire="wire" in fields,
        has_key=table.api_key is not None,
        has_key_command=table.api_key is not None and table.api_key.command is not None,
        known_models=tuple(model for model in models if not _PATTERN_CHARACTERS.search(model)),
        models=tuple(
            ConfiguredModel(
                pattern=pattern,
                model_of=model_table.model_of or "",
                capabilities={
                    field: value
                    for field in ModelTable.__struct_fields__
                    if field not in ("model_of", "dialect") and (value := getattr(model_table, field)) is not None
                },
                dialect=model_table.dialect,
            )
            for pattern, model_table in models.items()
        ),
        dialect=table.dialect,
        json_text=msgspec.json.encode(table, enc_hook=str).decode(),
    )


_PATH = ("prices",)
_ID_WITH_PREFIX = compile_later(r"[^/\s]+/\S+|\*")


def load_prices(file: ConfigFile, sources: Sources) -> tuple[ConfiguredPrice, ...]:
    """Each invalid field is added to the errors of `sources`."""
    tables = file.find_value(_PATH)
    found = []
    for name in tables if isinstance(tables, dict) else ():
        with sources.errors.collect():
            path = (*_PATH, name)
            table = file.decode_table(path, PriceTable)
            if not _ID_WITH_PREFIX.fullmatch(name):
                raise ConfigurationError(
                    f'[prices] has the model "{name}" without a prefix. Use the prefix of the provider and the model '
                    f"id, or a pattern, in quotes. It is in {file.describe_origin_in_sentence(path)}. "
                    f'Did you mean [prices."openai/{name}"]',
                    code="price-without-prefix",
                )
            for place, fields in [(path, table), *(((*path, "earlier"), past) for past in table.earlier)]:
                for tier in fields.tiers:
                    if not normalize_service_tier(tier):
                        raise ConfigurationError(
                            f'prices."{name}".tiers has the normal service tier "{tier}". Its prices are the fields '
                            f"of the table itself. It is in {file.describe_origin_in_sentence(place)}.",
                            code="configuration-file",
                        )
            origin = file.describe_origin(path)
            sources.origins[f'[prices."{name}"]'] = origin
            found.append(ConfiguredPrice(pattern=name, table=table, origin=origin))
    if found:
        sources.given["prices"] = Secret(str(tables))
    return tuple(found)


_OTHER_WIRE_NAMES = {"anthropic": "messages", "openai": "chat", "completions": "chat", "google": "gemini"}
"""Wrong wire name that a user may write → right name, for the suggestion in an error text."""


def add_configured_providers(
    built_in: ProviderRegistry, tables: tuple[ConfiguredProvider, ...], file: ConfigFile, errors: ErrorList
) -> ProviderRegistry:
    """The valid tables follow the built-in providers. `errors` gets those of the others."""
    valid = []
    for table in tables:
        with errors.collect():
            _require_valid_table(table, built_in, file)
            valid.append(table)
    return built_in.extend(tuple(valid))


def _require_valid_table(table: ConfiguredProvider, built_in: Sequence[Provider], file: ConfigFile) -> None:
    errors = ErrorList()
    with errors.collect():
        existing = next((row for row in built_in if table.name in (row.name, row.prefix)), None)
        if existing is not None:
            raise ConfigurationError(
                f"[providers.{table.name}] cannot be used: {table.name}/ is the prefix of a built-in provider, "
                f"{existing.title}. It is in {file.describe_origin_in_sentence(('providers', table.name))}. "
                f"Use another name, for example [providers.my-{table.name}]",
                code="named-provider",
            )
    with errors.collect():
        if table.wire not in (names := list_wires(built_in)):
            path = ("providers", table.name, "wire")
            raise file.invalid_choice_error(path, table.wire, names, _OTHER_WIRE_NAMES.get(table.wire, ""))
        origin = find_origin(table, built_in)
        _check_dialects(table, origin.config.wire.dialect_type, built_in, file)
        for model in table.models:
            with errors.collect():
                if model.model_of and find_known_model(model.model_of, origin, built_in) is None:
                    raise file.invalid_value_error(
                        ("providers", table.name, "models", model.pattern, "model_of"),
                        model.model_of,
                        "Use the id of a model that the proxy knows, such as gpt-5.6-sol or anthropic/claude-opus-5-5 "
                        "(anthropic-proxy models lists them), or set the limits instead.",
                        find_similar_choice(model.model_of, origin.row.known_models),
                    )
    errors.require_empty()


def _check_dialects(
    table: ConfiguredProvider, dialect_type: type[BaseDialect], built_in: Sequence[Provider], file: ConfigFile
) -> None:
    path = ("providers", table.name)
    dialects: dict[tuple[str, ...], Mapping[str, object]] = {(*path, "dialect"): table.dialect}
    dialects |= {(*path, "models", model.pattern, "dialect"): model.dialect for model in table.models}
    other_types = {wire: config.wire.dialect_type for row in built_in for wire, config in row.wires.items()}
    errors = ErrorList()
    for place, fields in dialects.items():
        own = dict(fields)
        for name in fields:
            wires = [wire for wire, other in other_types.items() if name in other.__struct_fields__]
            with errors.collect():
                if wires and table.wire not in wires:
                    del own[name]
                    raise ConfigurationError(
                        f"{format_key_path((*place, name))} is a setting of the wire {' and '.join(wires)}, but this "
                        f"provider has the wire {table.wire}. "
                        f"It is in {file.describe_origin_in_sentence((*place, name))}.",
                        code="named-provider",
                    )
        with errors.collect():
            file.require_valid_value(place, own, dialect_type)
    errors.require_empty()
