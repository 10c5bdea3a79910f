"""Variables of published versions whose setting is now a field of `anthropic-proxy.toml`: `old_names.toml`.

The versions up to `LAST_READING` read such a variable as if the file had its value, and warn. A later version ignores
it with a warning, or does not start if its value kept a rule. So each setting has one home, and the modules of the
tables need not know that there was another one.
"""

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy import __version__
from anthropic_proxy.engine.options import format_origin_in_sentence
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.errors import ConfigurationError, join_with_and
from anthropic_proxy.gateway.settings.file_format import FileContents, KeyPath, list_alternatives
from anthropic_proxy.gateway.settings.place import CONFIG_FILE
from anthropic_proxy.gateway.settings.sources import FoundSetting, Sources

LAST_READING = (0, 1)
"""Last version, as major and minor number, that reads the old names."""
_RELEASE = compile_later(r"(\d*)\.?(\d*)")
"""Pattern of the major and the minor number, of which each may be missing."""
REWRITE_COMMAND = "anthropic-proxy config check --write"


def format_setting_name(path: KeyPath) -> str:
    """`mode of [auto_mode]`"""
    return f"{path[-1]} of [{'.'.join(path[:-1])}]"


class OldName(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    place: str
    """Field in the configuration file: `auto_mode.mode`."""
    guards: bool = False
    """True if a rule would be looser without the value."""
    separator: str = ","
    """Text between the items of a list."""

    @property
    def path(self) -> KeyPath:
        return tuple(self.place.split("."))

    @property
    def home(self) -> str:
        """`mode of [auto_mode] in anthropic-proxy.toml`"""
        return f"{format_setting_name(self.path)} in {CONFIG_FILE}"


OLD_NAMES: Mapping[str, OldName] = {
    name: msgspec.convert({"name": name, **table}, OldName)
    for name, table in tomllib.loads(Path(__file__).with_name("old_names.toml").read_text(encoding="utf-8")).items()
}
"""Variable → its entry, in the order of the file."""


class MovedSetting(Struct, frozen=True):
    """The value of an old name that is set, for the field of the configuration file."""

    old: OldName
    source: FoundSetting
    value: Any
    """Value as `tomllib` would return it. A text that is no value of the field stays a text, and is rejected there."""


def find_moved_settings(sources: Sources, version: str = __version__) -> Mapping[KeyPath, MovedSetting]:
    """Return place → value of each old name that is set. Warnings and errors are added to `sources`."""
    moved: dict[KeyPath, MovedSetting] = {}
    is_read = _read_release(version) <= LAST_READING
    variables = {name for name, _ in sources.list_variable_sources()}
    for old in OLD_NAMES.values():
        if old.name not in variables:
            continue
        is_list = isinstance(_find_type(old.path), _LISTS)
        setting = sources.find_setting(old.name, is_list=is_list)
        if setting is None:
            continue
        where = f"{old.name} ({format_origin_in_sentence(setting.origin)})"
        if is_read:
            value = _split(setting, old) if is_list else decode_field_text(old.path, setting.text)
            moved[old.path] = MovedSetting(old, setting, value)
        elif old.guards:
            with sources.errors.collect():
                raise ConfigurationError(
                    f"{where} is no longer read, and a rule of access would be looser without it. Set {old.home}, and "
                    f"remove {old.name}.",
                    code="old-setting",
                )
        else:
            sources.add_warning(f"{where} is no longer read. Set {old.home}, and remove {old.name}.")
    if moved:
        names = [
            f"{moved_setting.old.name} ({format_origin_in_sentence(moved_setting.source.origin)}) is now "
            f"{format_setting_name(path)}"
            for path, moved_setting in moved.items()
        ]
        sources.add_warning(
            f"Settings whose old names only this version still reads: {join_with_and(names)}. Their place is "
            f"{CONFIG_FILE}. To move them:  {REWRITE_COMMAND}"
        )
    return moved


def _read_release(version: str) -> tuple[int, int]:
    """Return major and minor number: `(0, 2)` for `0.2rc1`. A missing one is 0."""
    match = _RELEASE.match(version)
    assert match is not None  # the pattern also matches ""
    return int(match[1] or 0), int(match[2] or 0)


def insert_moved_settings(contents: dict[str, Any], moved: Mapping[KeyPath, MovedSetting], sources: Sources) -> None:
    """Add the values to the decoded configuration file. A field that has another value there is an error."""
    for path, setting in moved.items():
        table = contents.setdefault(path[0], {})
        if not isinstance(table, dict):  # rejected as the value of the table
            continue
        written = table.setdefault(path[1], setting.value)
        if written != setting.value:
            with sources.errors.collect():
                raise ConfigurationError(
                    f"{setting.old.name} and {setting.old.home} are "
                    f"the same setting and have different values. Remove {setting.old.name}, which is the old name."
                    f"{setting.source.location}",
                    code="old-setting",
                )


def _find_type(path: KeyPath) -> Any:
    struct: Any = FileContents
    for key in path[:-1]:
        struct = list_alternatives(_find_annotation(struct, key))[0].cls
    return list_alternatives(_find_annotation(struct, path[-1]))[0]


def _find_annotation(struct: type[Struct], name: str) -> Any:
    return next(field.type for field in msgspec.structs.fields(struct) if field.name == name)


def _split(setting: FoundSetting, old: OldName) -> Sequence[str]:
    return [item for text in setting.items for item in (text.split() if old.separator == " " else [text])]


def decode_field_text(path: KeyPath, text: str) -> Any:
    """Return the value of a field with one text, word or number, as `tomllib` would return it. A text that is no value
    of the field stays a text, and is rejected there.
    """
    return _DECODERS[type(_find_type(path))](text)


def _read_number(text: str) -> object:
    """TOML has infinite numbers and NaN, but no field has them as values."""
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        number = float(text)
        return number if math.isfinite(number) else text
    return text


_DECODERS: Mapping[type[msgspec.inspect.Type], Callable[[str], Any]] = {
    msgspec.inspect.StrType: str,
    msgspec.inspect.LiteralType: str.lower,
    msgspec.inspect.IntType: _read_number,
    msgspec.inspect.FloatType: _read_number,
}
_LISTS = (msgspec.inspect.ListType, msgspec.inspect.VarTupleType)
