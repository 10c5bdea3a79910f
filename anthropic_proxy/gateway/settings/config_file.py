"""`ConfigFile`: the configuration file `anthropic-proxy.toml` beside `.env`, with checks that report file and line."""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from anthropic_proxy.errors import ConfigurationError, find_similar_choice, join_with_or
from anthropic_proxy.gateway.settings import type_checks
from anthropic_proxy.gateway.settings.file_format import ModelTable
from anthropic_proxy.gateway.settings.place import CONFIG_FILE
from anthropic_proxy.gateway.settings.sources import ErrorList, FoundSetting
from anthropic_proxy.gateway.settings.text_file import decode_toml, read_settings_file
from anthropic_proxy.gateway.settings.values import invalid_setting_error, redact_and_shorten

_MAX_LISTED_NAMES = 12
SCHEMA_FILE = Path(__file__).with_name("anthropic-proxy.schema.json")
"""JSON Schema of the configuration file, in the package."""
_REFERENCED_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)\}?")
KeyPath = tuple[str, ...]
"""Keys from the top of the file to a value: `("providers", "vllm", "base_url")`."""
_ITEM_INDEX = re.compile(r"\[\d+\]$")
"""Pattern of the index at the end of a key that names one item of a list: `[0]` in `routes[0]`."""
StructT = TypeVar("StructT", bound=Struct)


class ConfigFile:
    """Empty if the file is missing. The error of an unreadable or invalid file is added to `errors`."""

    def __init__(self, path: str | None, errors: ErrorList) -> None:
        self.path = path or CONFIG_FILE
        self.warnings: list[str] = []
        """Warnings about a folder with the name of the file and about unused routes, for the user."""
        self.contents: Mapping[str, object] = {}
        self._text = ""
        self._lines: Mapping[KeyPath, int] | None = None
        with errors.collect():
            self._text = "" if path is None else read_settings_file(path, self.warnings)
            if self._text:
                self.contents = decode_toml(self._text, self.path)

    def describe_origin(self, path: KeyPath) -> str:
        """`anthropic-proxy.toml line 4`. If the file does not have the key, the line of its table is returned."""
        if self._lines is None:
            self._lines = find_key_lines(self._text)
        keys = tuple(_ITEM_INDEX.sub("", key) for key in path)
        for length in range(len(path), 0, -1):
            if (line := self._lines.get(path[:length]) or self._lines.get(keys[:length])) is not None:
                return f"{self.path} line {line}"
        return self.path

    def describe_origin_in_sentence(self, path: KeyPath) -> str:
        """`anthropic-proxy.toml, line 4`"""
        return self.describe_origin(path).replace(" line ", ", line ")

    def build_setting(self, path: KeyPath, text: str) -> FoundSetting:
        return FoundSetting(format_key_path(path), text, self.describe_origin(path), (text,), toml_key=path[-1])

    def invalid_value_error(
        self, path: KeyPath, value: object, allowed: str, suggestion: str = ""
    ) -> ConfigurationError:
        """`allowed` is a sentence about the allowed values. `suggestion` is a similar valid text; "": none."""
        text = value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
        return invalid_setting_error(self.build_setting(path, text), allowed, suggestion)

    def invalid_choice_error(
        self, path: KeyPath, value: str, choices: Sequence[str], suggestion: str = ""
    ) -> ConfigurationError:
        """If `suggestion` is "", the error suggests the choice that is most similar to `value`, if one is similar."""
        return self.invalid_value_error(
            path, value, f"Use {join_with_or(choices)}.", suggestion or find_similar_choice(value, choices)
        )

    def decode_table(self, path: KeyPath, struct_type: type[StructT]) -> StructT:
        value = self.find_value(path)
        self.require_valid_value(path, value, struct_type)
        return msgspec.convert(value, struct_type)

    def find_value(self, path: KeyPath) -> object:
        value: object = self.contents
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def require_valid_value(self, path: KeyPath, value: object, expected: Any) -> None:
        """Raise `ConfigurationError` with a message for each part of `value` that does not have the type `expected`."""
        if path and path[-1] == "api_key":
            place = f"It is in {self.describe_origin_in_sentence(path)}."
            if isinstance(value, str):
                reference = _REFERENCED_VARIABLE.fullmatch(value)
                name = str(self.find_value(("search", "service")) or "search") if path[0] == "search" else path[-2]
                variable = reference[1] if reference else f"{name.upper().replace('-', '_')}_API_KEY"
                move = "" if reference else f"Put the key into .env as {variable}=… and write"
                raise ConfigurationError(
                    f"{format_key_path(path)} is a text, but this file must not contain keys. {place} "
                    f'{move or "Write"}  api_key = {{ env = "{variable}" }}',
                    code="key-in-file",
                )
            places = {"env", "file", "command"}
            if isinstance(value, dict) and (not value.keys() - {"refresh"} or len(value.keys() & places) > 1):
                raise ConfigurationError(
                    f"{format_key_path(path)} has {len(value)} fields. Use one of env, file and command. {place}",
                    code="key-in-file",
                )
        kind = type_checks.find_table_type(expected) if isinstance(value, dict) else None
        if isinstance(value, dict) and isinstance(kind, type_checks.StructType):
            self._check_fields(path, value, kind.cls)
        elif isinstance(value, dict) and isinstance(kind, type_checks.DictType):
            errors = ErrorList()
            for key, item in value.items():
                with errors.collect():
                    self.require_valid_value((*path, key), item, type_checks.find_value_struct(kind))
            errors.require_empty()
        elif isinstance(value, list) and (item_type := type_checks.find_item_struct(expected)) is not None:
            errors = ErrorList()
            for index, item in enumerate(value):
                with errors.collect():
                    if not type_checks.has_type(item, item_type):
                        self.require_valid_value((*path[:-1], f"{path[-1]}[{index}]"), item, item_type)
            errors.require_empty()
        elif not type_checks.has_type(value, expected):
            if "api_key" in path:
                raise ConfigurationError(
                    f"{format_key_path(path)} is invalid. Use {type_checks.describe_type(expected)}. Its value is not "
                    f"shown, because it may be a key. It is in {self.describe_origin_in_sentence(path)}.",
                    code="key-in-file",
                )
            words = type_checks.list_allowed_texts(expected)
            similar = find_similar_choice(value, words) if isinstance(value, str) else ""
            raise self.invalid_value_error(path, value, f"Use {type_checks.describe_type(expected)}.", similar)

    def _check_fields(self, path: KeyPath, table: Mapping[str, object], struct_type: type[Struct]) -> None:
        fields = {field.name: field for field in msgspec.structs.fields(struct_type)}
        errors, unknown = ErrorList(), []
        for key, value in table.items():
            with errors.collect():
                if key not in fields:
                    unknown.append(key)
                    place = (*path, key)
                    hint = f"The allowed names are in {SCHEMA_FILE}"
                    if similar := find_similar_choice(key, list(fields)):
                        hint = f"Did you mean {similar}"
                    elif len(fields) <= _MAX_LISTED_NAMES:
                        hint = f"Allowed here: {', '.join(sorted(fields))}."
                    raise ConfigurationError(
                        f"{format_key_path(place)} is not a setting. "
                        f"It is in {self.describe_origin_in_sentence(place)}. {hint}",
                        code="configuration-file",
                    )
                self.require_valid_value((*path, key), value, fields[key].type)
        missing = [name for name, field in fields.items() if field.required and name not in table]
        for name in missing:
            with errors.collect():
                if not find_similar_choice(name, unknown):  # else it is reported as misspelled
                    raise ConfigurationError(
                        f"{format_key_path((*path, name))} is missing. "
                        f"Set it in {self.describe_origin_in_sentence(path)}.",
                        code="configuration-file",
                    )
        if struct_type is ModelTable and not errors:
            self._require_consistent_limits(path, table)
        errors.require_empty()

    def _require_consistent_limits(self, path: KeyPath, table: Mapping[str, object]) -> None:
        model, errors = msgspec.convert(table, ModelTable), ErrorList()
        window = model.context_window
        for name, limit in (("max_input", model.max_input), ("max_output", model.max_output)):
            with errors.collect():
                if window is not None and limit is not None and limit > window:
                    raise ConfigurationError(
                        f"{format_key_path((*path, name))} is {limit}, but context_window is {window}. Use at most the "
                        "context window, which holds input and output together. "
                        f"Set in {self.describe_origin_in_sentence((*path, name))}.",
                        code="limit-above-context-window",
                    )
        with errors.collect():
            if model.efforts is not None and model.default_effort and model.default_effort not in model.efforts:
                allowed = (
                    f"Use {join_with_or(model.efforts)}, as in efforts." if model.efforts else "efforts lists no level."
                )
                raise self.invalid_value_error((*path, "default_effort"), model.default_effort, allowed)
        errors.require_empty()


def resolve_config_file_path(env_file: str | None) -> str | None:
    """The file may not exist. None only if `env_file` is None, because the proxy then reads no files."""
    return None if env_file is None else os.path.join(os.path.dirname(env_file), CONFIG_FILE)


def format_key_path(path: KeyPath) -> str:
    """`providers.vllm.models."qwen3-*".accepts_images`"""
    bare = (_ITEM_INDEX.sub("", key).replace("-", "_").isidentifier() for key in path)
    return ".".join(key if is_bare else f'"{redact_and_shorten(key)}"' for key, is_bare in zip(path, bare, strict=True))


_MIN_PARSED_CHARACTERS = 1 << 20


def find_key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Return the line number, from 1, of each table header and key in a valid TOML text.

    The path of a table in a list contains its index: `routes[0]`. The keys behind very long statements are missing,
    because each further line of a statement parses it again.
    """
    lines: dict[tuple[str, ...], int] = {}
    counts: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, statement in _split_statements(text):
        parsed = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            path = _header_path(parsed)
            if statement.lstrip().startswith("[["):
                counts[path] = counts.get(path, 0) + 1
            table = tuple(
                f"{key}[{count - 1}]" if (count := counts.get(path[: end + 1])) else key for end, key in enumerate(path)
            )
            for length in range(1, len(table) + 1):
                lines.setdefault(path[:length], number)
                lines.setdefault(table[:length], number)
            continue
        # a key in an inline table gets the first line of the statement
        for path in _key_paths(parsed):
            lines.setdefault(table + path, number)
    return lines


def _split_statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each statement (table header or assignment) of a TOML text."""
    pending: list[str] = []
    left = _MIN_PARSED_CHARACTERS + 2 * len(text)
    for number, line in enumerate(text.split("\n"), 1):
        pending.append(line)
        statement = "\n".join(pending)
        if not pending[0].strip() or pending[0].lstrip().startswith("#"):
            pending.clear()
            continue
        left -= len(statement)
        if left < 0:
            return
        try:
            tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # the statement continues on the next line
        yield number - len(pending) + 1, statement
        pending.clear()


def _key_paths(parsed: Mapping[str, object]) -> Iterator[tuple[str, ...]]:
    for key, value in parsed.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *path) for path in _key_paths(value))


def _header_path(parsed: Mapping[str, object]) -> tuple[str, ...]:
    """Return the keys of a parsed table header: (`providers`, `vllm`) for `{"providers": {"vllm": {}}}`."""
    path: tuple[str, ...] = ()
    value: object = parsed
    while value and isinstance(value, dict):
        key, value = next(iter(value.items()))
        path = (*path, key)
        value = value[-1] if isinstance(value, list) else value
    return path
