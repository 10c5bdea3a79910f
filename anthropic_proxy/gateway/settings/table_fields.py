"""Plain fields of the configuration file: those of tables such as `[auto_mode]` with a text, a number, or a list of
texts. They are shown, compared and listed like the variables of `.env`.
"""

import json
from collections.abc import Sequence
from functools import cache

from msgspec import Struct, inspect, structs

from anthropic_proxy.gateway.settings.config_file import SCHEMA_FILE, ConfigFile
from anthropic_proxy.gateway.settings.file_format import (
    AutoModeTable,
    ImagesTable,
    KeyPath,
    PriceListTable,
    SignInTable,
    list_alternatives,
)
from anthropic_proxy.gateway.settings.files import format_toml_value
from anthropic_proxy.gateway.settings.old_names import format_setting_name
from anthropic_proxy.gateway.settings.sources import Sources
from anthropic_proxy.secrets import Secret

_TABLES: dict[str, type[Struct]] = {
    "auto_mode": AutoModeTable,
    "images": ImagesTable,
    "sign_in": SignInTable,
    "price_list": PriceListTable,
}
_EDITABLE_TABLES = frozenset({"auto_mode", "images"})
"""Tables whose fields with one value the page Settings changes: without addresses, and without rules of access."""
_LISTS = (inspect.ListType, inspect.VarTupleType)
_PLAIN = (
    inspect.StrType,
    inspect.LiteralType,
    inspect.IntType,
    inspect.FloatType,
    *_LISTS,
)


class TableField(Struct, frozen=True):
    path: KeyPath
    default: str
    """Text of the default. "": none, or it depends on other settings."""
    is_list: bool

    @property
    def is_editable(self) -> bool:
        """True if the page Settings may change it."""
        return self.path[0] in _EDITABLE_TABLES and not self.is_list

    @property
    def name(self) -> str:
        """`mode of [auto_mode]`: in messages, and as a key of `Settings.origins` and `Settings.raw_values`."""
        return format_setting_name(self.path)


def list_table_fields() -> Sequence[TableField]:
    return [field for table in _TABLES for field in _list_fields(table)]


@cache
def _list_fields(table: str) -> Sequence[TableField]:
    return [
        TableField(
            (table, field.name),
            format_field_value(field.default),
            isinstance(list_alternatives(field.type)[0], _LISTS),
        )
        for field in structs.fields(_TABLES[table])
        if all(isinstance(kind, _PLAIN) for kind in list_alternatives(field.type))
    ]


def format_field_value(value: object) -> str:
    """`check`, `12`, `platform-team, ann@example.org`; "" for no value. Different values have different texts: an item
    with a comma or a quotation mark is quoted, as in TOML.
    """
    if isinstance(value, list | tuple):
        return ", ".join(map(_format_item, value))
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value) if isinstance(value, str | int) else ""


def _format_item(item: object) -> str:
    text = str(item)
    is_plain = text == text.strip() != "" and "," not in text and '"' not in text
    return text if is_plain else format_toml_value(text)


def record_plain_fields(file: ConfigFile, sources: Sources) -> None:
    """Add text and origin of each field that the file has, to show it and to find its changes."""
    for field in (field for table in _TABLES if file.find_value((table,)) for field in _list_fields(table)):
        value = file.find_value(field.path)
        if value is not None:
            sources.given[field.name] = Secret(format_field_value(value))
            sources.origins[field.name] = file.describe_source(field.path)


def find_table_field(name: str) -> TableField | None:
    """`name`: `mode of [auto_mode]`"""
    return next((field for field in list_table_fields() if field.name == name), None)


@cache
def read_field_help() -> dict[str, str]:
    """Return the name of each plain field → what it does."""
    definitions = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))["definitions"]
    return {
        field.name: definitions[_TABLES[field.path[0]].__name__]["properties"][field.path[1]]["description"]
        for field in list_table_fields()
    }
