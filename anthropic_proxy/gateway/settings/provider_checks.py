"""Checks of the tables `[providers.NAME]` of the configuration file against the built-in providers."""

from collections.abc import Mapping, Sequence

from anthropic_proxy.engine.options.providers import ConfiguredProvider
from anthropic_proxy.engine.providers.lookup import ProviderRegistry, find_origin, is_template
from anthropic_proxy.engine.providers.registry import Provider
from anthropic_proxy.engine.wires.contract import BaseDialect
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings.config_file import ConfigFile, format_key_path
from anthropic_proxy.gateway.settings.error_list import ErrorList

_OTHER_WIRE_NAMES = {"anthropic": "messages", "openai": "chat", "completions": "chat", "google": "gemini"}
"""Wrong wire name that a user may write → right name, for the suggestion in an error text."""


def add_configured_providers(
    built_in: ProviderRegistry, tables: tuple[ConfiguredProvider, ...], file: ConfigFile, errors: ErrorList
) -> ProviderRegistry:
    """Return the built-in providers, followed by those of the valid tables. `errors` gets those of the others."""
    valid = []
    for table in tables:
        with errors.collect():
            _require_valid_table(table, built_in, file)
            valid.append(table)
    return built_in.extend(tuple(valid))


def _require_valid_table(table: ConfiguredProvider, built_in: Sequence[Provider], file: ConfigFile) -> None:
    """Raise `ConfigurationError` if a table `[providers.NAME]` of the configuration file is invalid."""
    errors = ErrorList()
    with errors.collect():
        _require_free_name(table, built_in, file)
    with errors.collect():
        _require_wire(table, built_in, file)
        dialect_type = find_origin(table, built_in).config.wire.dialect_type
        _check_dialects(table, dialect_type, built_in, file)
    errors.require_empty()


def _require_free_name(table: ConfiguredProvider, built_in: Sequence[Provider], file: ConfigFile) -> None:
    existing = next((row for row in built_in if table.name in (row.name, row.prefix)), None)
    if existing is not None:
        raise ConfigurationError(
            f"[providers.{table.name}] cannot be used: {table.name}/ is the prefix of a built-in provider, "
            f"{existing.title}. It is in {file.describe_origin_in_sentence(('providers', table.name))}. "
            f"Use another name, for example [providers.my-{table.name}]"
        )


def _require_wire(table: ConfiguredProvider, built_in: Sequence[Provider], file: ConfigFile) -> None:
    names = dict.fromkeys(name for row in built_in if is_template(row) for name in row.wires)
    if table.wire not in names:
        path = ("providers", table.name, "wire")
        raise file.invalid_choice_error(path, table.wire, list(names), _OTHER_WIRE_NAMES.get(table.wire, ""))


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
                        f"It is in {file.describe_origin_in_sentence((*place, name))}."
                    )
        with errors.collect():
            file.require_valid_value(place, own, dialect_type)
    errors.require_empty()
