"""`ConfigFile`: the configuration file `anthropic-proxy.toml` beside `.env`, with errors that name file and line.

Theory of operation. The file is decoded once, to the structs of `file_format.py`. `msgspec` stops at the first value of
a wrong type and does not name it, so `require_type` walks through the values beside their types and reports all of
them, in words for users. Tables with such errors are left out. Then the modules of the tables check what types cannot
express, so that one run reports the errors of all tables. `tomllib` has no line numbers: `find_key_lines` finds the
lines that begin a table or set a key.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, inspect, structs

from anthropic_proxy.engine.options import NAME, format_origin_in_sentence, suggest_key_variable
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.providers.price_fields import PriceTable
from anthropic_proxy.errors import ConfigurationError, find_similar_choice, join_with_or
from anthropic_proxy.gateway.settings.file_format import (
    AlertTable,
    AutoModeTable,
    CollectorTable,
    FileContents,
    ImagesTable,
    KeyPath,
    PriceListTable,
    ProviderTable,
    SearchTable,
    SiemTable,
    SignInTable,
    TokenIssuerTable,
    list_alternatives,
)
from anthropic_proxy.gateway.settings.files import decode_toml, read_settings_file
from anthropic_proxy.gateway.settings.old_names import MovedSetting, insert_moved_settings
from anthropic_proxy.gateway.settings.place import CONFIG_FILE
from anthropic_proxy.gateway.settings.sources import ErrorList, FoundSetting, Sources
from anthropic_proxy.gateway.settings.values import invalid_setting_error, redact_and_shorten

_MAX_LISTED_NAMES = 15
SCHEMA_FILE = Path(__file__).with_name("anthropic-proxy.schema.json")
"""JSON Schema of the configuration file, in the package."""
_REFERENCED_VARIABLE = compile_anchored(r"\$\{?([A-Za-z_]\w*)\}?")
StructT = TypeVar("StructT", bound=Struct)
_ITEM_INDEX = compile_later(r"\[\d+\]$")
"""Pattern of the index at the end of a key that names one item of a list: `[0]` in `routes[0]`."""
_REFERENCES = frozenset(("api_key", "secret"))
"""Fields with a `KeyReference`, whose values are not shown."""


class ConfigFile:
    """Empty if the file is missing. The errors of an unreadable or invalid file are added to those of `sources`.

    `draft`: a text that is decoded instead of the content of the file. If there is only a draft, errors name no place.
    `moved`: values of old variables, which count as values of the file.
    """

    def __init__(
        self,
        path: str | None,
        sources: Sources,
        draft: str | None = None,
        moved: Mapping[KeyPath, MovedSetting] | None = None,
    ) -> None:
        self.path = path or CONFIG_FILE
        self._shown_path = shorten_home(self.path)
        self._has_file = path is not None
        self.warnings: list[str] = []
        """Warnings about a folder with the name of the file and about unused routes, for the user."""
        self.contents: Mapping[str, Any] = {}
        """The values as in the file."""
        self.tables = FileContents()
        """The decoded file, without tables that have a value of a wrong type, and without lists of tables
        (`list_tables`)."""
        self._moved = moved or {}
        self._text = ""
        self._lines: Mapping[KeyPath, int] | None = None
        self.is_readable = False
        """False: its settings are unknown, because it cannot be read or is no TOML."""
        with sources.errors.collect():
            if path is not None or draft is not None:
                self._text = read_settings_file(self.path, self.warnings, draft=draft)
            contents = decode_toml(self._text, self._shown_path) if self._text else {}
            self.is_readable = True
            insert_moved_settings(contents, self._moved, sources)
            self.contents = contents
            if contents:
                managed = self.contents.get("managed_settings")
                self.tables = FileContents(
                    providers=self._decode_tables("providers", ProviderTable),
                    search=self._decode_table("search", SearchTable),
                    auto_mode=self._decode_table("auto_mode", AutoModeTable),
                    images=self._decode_table("images", ImagesTable),
                    alerts=self._decode_table("alerts", AlertTable),
                    collectors=self._decode_tables("collectors", CollectorTable),
                    siem=self._decode_tables("siem", SiemTable),
                    token_issuers=self._decode_tables("token_issuers", TokenIssuerTable),
                    sign_in=self._decode_table("sign_in", SignInTable),
                    prices=self._decode_tables("prices", PriceTable),
                    price_list=self._decode_table("price_list", PriceListTable),
                    managed_settings=managed or {} if has_type(managed, dict[str, dict[str, object]]) else {},
                )
                self.require_type((), self.contents, FileContents)

    def _decode_table(self, name: str, kind: type[StructT]) -> StructT | None:
        table = self.contents.get(name)
        return msgspec.convert(table, kind) if has_type(table, kind) else None

    def _decode_tables(self, name: str, kind: type[StructT]) -> dict[str, StructT]:
        tables = self.find_value((name,))
        items = tables.items() if isinstance(tables, dict) else ()
        return {key: msgspec.convert(table, kind) for key, table in items if has_type(table, kind)}

    def list_tables(self, name: str, kind: type[StructT]) -> Iterator[tuple[KeyPath, StructT]]:
        """Yield the place and each table of a list, such as `[[routes]]`, without those with a value of a wrong
        type.
        """
        tables = self.find_value((name,))
        for index, table in enumerate(tables if isinstance(tables, list) else ()):
            if has_type(table, kind):
                yield (f"{name}[{index}]",), msgspec.convert(table, kind)

    def find_item(self, path: KeyPath) -> Mapping[str, Any]:
        """Return the values of a table in a list, such as `("routes[0]",)`."""
        name, _, index = path[-1].rstrip("]").rpartition("[")
        item: Mapping[str, Any] = self.find_value((*path[:-1], name))[int(index)]
        return item

    def describe_origin(self, path: KeyPath) -> str:
        """`~/anthropic-proxy.toml line 4`. If the file does not have the key, the line of its table is returned."""
        if (moved := self._find_moved(path)) is not None:
            return moved.source.origin
        if self._lines is None:
            self._lines = find_key_lines(self._text)
        keys = tuple(_ITEM_INDEX.sub("", key) for key in path)
        for length in range(len(path), 0, -1):
            if (line := self._lines.get(path[:length]) or self._lines.get(keys[:length])) is not None:
                return f"{self._shown_path} line {line}"
        return self._shown_path

    def describe_source(self, path: KeyPath) -> str:
        """As `describe_origin`, but a value from the environment names its variable: `environment (AUTO_MODE)`."""
        moved = self._find_moved(path)
        is_variable = moved is not None and moved.source.origin == "environment"
        return f"environment ({moved.old.name})" if moved and is_variable else self.describe_origin(path)

    def _find_moved(self, path: KeyPath) -> MovedSetting | None:
        """Return the variable from which the value, or the list with the item, at `path` comes."""
        return self._moved.get(tuple(_ITEM_INDEX.sub("", key) for key in path))

    def describe_origin_in_sentence(self, path: KeyPath) -> str:
        """`anthropic-proxy.toml, line 4`"""
        return format_origin_in_sentence(self.describe_origin(path))

    def locate(self, path: KeyPath) -> str:
        """` It is in anthropic-proxy.toml, line 4.`, with the space before. "": the contents come from no file."""
        return f" It is in {self.describe_origin_in_sentence(path)}." if self._has_file else ""

    def build_setting(self, path: KeyPath, text: str) -> FoundSetting:
        if (moved := self._find_moved(path)) is not None:
            return structs.replace(moved.source, text=text)
        origin = self.describe_origin(path) if self._has_file else ""
        return FoundSetting(format_key_path(path), text, origin, (text,), toml_key=path[-1])

    def rejection(
        self, path: KeyPath, text: str, *, code: str, subject: str = "", hint: str = ""
    ) -> ConfigurationError:
        """Return the error for the field at `path`: `routes[0].targets is empty. … It is in …, line 4.`

        `text` continues the name of the field, or `subject`. `hint`: sentence after the place.
        """
        message = f"{subject or format_key_path(path)} {text}{self.locate(path)}"
        return ConfigurationError(f"{message} {hint}" if hint else message, code=code)

    def invalid_value_error(
        self, path: KeyPath, value: object, allowed: str, suggestion: str = ""
    ) -> ConfigurationError:
        """Return the error for a value in the configuration file.

        `allowed` is a sentence about the allowed values. `suggestion` is a similar valid text; "": none.
        """
        is_plain = isinstance(value, str | float)  # JSON has no infinite numbers
        text = str(value) if is_plain else msgspec.json.encode(value, enc_hook=str).decode()
        return invalid_setting_error(self.build_setting(path, text), allowed, suggestion)

    def require_name(self, path: KeyPath, name: str) -> None:
        """Raises `ConfigurationError` if the field `name` of the table at `path` has another form than a name."""
        if not NAME.fullmatch(name):
            allowed = "Use at most 63 letters, digits, spaces, dots, hyphens and underscores of ASCII."
            raise self.invalid_value_error((*path, "name"), name, allowed)

    def find_value(self, path: KeyPath) -> Any:
        value: Any = self.contents
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def require_type(self, path: KeyPath, value: object, expected: Any) -> None:
        """Raise `ConfigurationError` with a message for each part of `value` that does not have the type `expected`."""
        if path and path[-1] in _REFERENCES:
            self._require_reference(path, value)
        errors = ErrorList()
        for kind in list_alternatives(expected):
            if isinstance(value, dict) and isinstance(kind, inspect.StructType):
                self._require_fields(path, value, kind.cls)
                return
            items: Mapping[KeyPath, object] = {}
            of: inspect.Type = kind
            if isinstance(value, dict) and isinstance(kind, inspect.DictType):
                items = {(*path, key): item for key, item in value.items()}
                of = kind.value_type
            elif isinstance(value, list) and isinstance(kind, inspect.ListType):
                items = {(*path[:-1], f"{path[-1]}[{index}]"): item for index, item in enumerate(value)}
                of = kind.item_type
            if items and isinstance(of, inspect.StructType):
                for place, item in items.items():
                    with errors.collect():
                        self.require_type(place, item, of.cls)
                errors.require_empty()
                return
        if has_type(value, expected):
            return
        allowed = f"Use {join_with_or([_describe_type(kind) for kind in list_alternatives(expected)])}."
        if not _REFERENCES.isdisjoint(path):
            raise self.rejection(
                path, f"is invalid. {allowed} Its value is not shown, because it may be a key.", code="key-in-file"
            )
        words = [word for kind in list_alternatives(expected) for word in getattr(kind, "values", ())]
        raise self.invalid_value_error(
            path, value, allowed, find_similar_choice(value, words) if isinstance(value, str) else ""
        )

    def _require_reference(self, path: KeyPath, value: object) -> None:
        """Raise `ConfigurationError` if `value` is a key itself, or not exactly one reference to a key."""
        if isinstance(value, str):
            reference = _REFERENCED_VARIABLE.fullmatch(value)
            name = str(self.find_value(("search", "service")) or "search") if path[0] == "search" else path[-2]
            name = _ITEM_INDEX.sub("", name)
            suggested = suggest_key_variable(name) if path[-1] == "api_key" else "_".join(path).upper()
            variable = reference[1] if reference else suggested
            move = "" if reference else f"Put the key into .env as {variable}=… and write"
            raise self.rejection(
                path,
                "is a text, but this file must not contain keys.",
                code="key-in-file",
                hint=f'{move or "Write"}  {path[-1]} = {{ env = "{variable}" }}',
            )
        places = {"env", "file", "command"}
        if isinstance(value, dict) and (not value.keys() - {"refresh"} or len(value.keys() & places) > 1):
            raise self.rejection(
                path, f"has {len(value)} fields. Use one of env, file and command.", code="key-in-file"
            )

    def _require_fields(self, path: KeyPath, table: Mapping[str, object], struct_type: type[Struct]) -> None:
        fields = _list_fields(struct_type)
        errors = ErrorList()
        unknown = []
        for key, value in table.items():
            place = (*path, key)
            with errors.collect():
                if key in fields:
                    self.require_type(place, value, fields[key].type)
                    continue
                unknown.append(key)
                hint = f"The allowed names are in {SCHEMA_FILE}"
                if similar := find_similar_choice(key, list(fields)):
                    hint = f"Did you mean:  {similar}"
                elif len(fields) <= _MAX_LISTED_NAMES:
                    hint = f"Allowed here: {', '.join(sorted(fields))}."
                raise self.rejection(place, "is not a setting.", code="configuration-file", hint=hint)
        for name, field in fields.items():
            if field.required and name not in table and not find_similar_choice(name, unknown):
                with errors.collect():
                    raise self.missing_error((*path, name))
        errors.require_empty()

    def missing_error(self, path: KeyPath) -> ConfigurationError:
        return ConfigurationError(
            f"{format_key_path(path)} is missing. Set it in {self.describe_origin_in_sentence(path[:-1])}.",
            code="configuration-file",
        )


@cache
def _list_fields(struct_type: type[Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    """Return name → field. Cached, because it takes 0.5 ms, and each table of a file needs it."""
    return {field.name: field for field in msgspec.structs.fields(struct_type)}


def resolve_config_file_path(env_file: str | None) -> str | None:
    """The file may not exist. None only if `env_file` is None, because the proxy then reads no files."""
    return None if env_file is None else os.path.join(os.path.dirname(env_file), CONFIG_FILE)


def format_key_path(path: KeyPath) -> str:
    """`providers.vllm.models."qwen3-*".accepts_images`"""
    bare = (_ITEM_INDEX.sub("", key).replace("-", "_").isidentifier() for key in path)
    return ".".join(key if is_bare else f'"{redact_and_shorten(key)}"' for key, is_bare in zip(path, bare, strict=True))


def has_type(value: object, expected: Any) -> bool:
    try:
        msgspec.convert(value, expected)
    except msgspec.ValidationError:
        return False
    return True


def _describe_type(kind: inspect.Type) -> str:
    match kind:
        case inspect.LiteralType(values=values):
            return join_with_or([f'"{value}"' for value in values])
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType(ge=minimum, le=maximum) if minimum is not None and maximum is not None:
            return f"a whole number from {minimum} to {maximum}"
        case inspect.IntType():
            return "a whole number"
        case inspect.FloatType(gt=minimum, le=maximum) if minimum is not None and maximum is not None:
            return f"a number above {minimum:g} and up to {maximum:,g}"
        case inspect.FloatType():
            return "a number of at least 0"
        case inspect.DateType():
            return "a date without quotes, such as 2026-10-31"
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return f"a list, each item {_describe_type(item)}"
        case inspect.TupleType(item_types=items):
            return f"a list of {len(items)} items: {', '.join(map(_describe_type, items))}"
        case inspect.StructType(fields=fields) if len(fields) <= _MAX_LISTED_NAMES:
            return f"a table with {', '.join(sorted(field.name for field in fields))}"
        case inspect.DictType(value_type=inspect.StrType()):
            return "a table of texts in quotes"
        case inspect.DictType(value_type=inspect.FloatType()):
            return "a table of numbers of at least 0"
        case inspect.DictType() | inspect.StructType():
            return "a table"
        case _:
            return "a text in quotes"


_KEY = r"""(?:[\w-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_KEYS = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_STATEMENT = compile_anchored(rf"[ \t]*(?:(\[\[?)[ \t]*({_KEYS})[ \t]*\]|({_KEYS})[ \t]*=)")
"""Matches the beginning of a line with the header of a table, or with an assignment."""


def find_key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line number, from 1, of each table header and key in a valid TOML text.

    The path of a table in a list contains its index: `routes[0]`. Keys in an inline table are missing. A line of a text
    of several lines counts too if it looks like a statement.
    """
    lines: dict[KeyPath, int] = {}
    counts: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for number, line in enumerate(text.split("\n"), 1):
        if (statement := _STATEMENT.match(line)) is None:
            continue
        brackets, header, assigned = statement.groups()
        keys: KeyPath = ()
        value: Any = tomllib.loads(f"{header or assigned} = 0")
        while isinstance(value, dict):
            ((key, value),) = value.items()
            keys = (*keys, key)
        if brackets:
            if brackets == "[[":
                counts[keys] = counts.get(keys, 0) + 1
            table = tuple(
                f"{key}[{count - 1}]" if (count := counts.get(keys[: end + 1])) else key for end, key in enumerate(keys)
            )
            for length in range(1, len(table) + 1):
                lines.setdefault(keys[:length], number)
                lines.setdefault(table[:length], number)
            continue
        for length in range(1, len(keys) + 1):
            lines.setdefault((*table, *keys[:length]), number)
    return lines
