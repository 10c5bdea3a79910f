"""The changes of `.env` and `anthropic-proxy.toml` for a plan."""

import json
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from anthropic_proxy.cli.importing.plan import ImportPlan, is_reference
from anthropic_proxy.cli.output import Output
from anthropic_proxy.engine.platforms.files import MAX_CONFIG_BYTES
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import CONFIG_FILE, ENV_FILE, Settings, load_settings
from anthropic_proxy.gateway.settings.files import (
    MAX_ENV_BYTES,
    append_env_line,
    decode_env_text,
    decode_toml,
    format_env_line,
    format_toml_value,
    read_text,
    update_env_text,
    write_file,
)
from anthropic_proxy.gateway.settings.sources import Sources
from anthropic_proxy.gateway.settings.values import is_secret_variable, mask_setting, redact_and_shorten
from anthropic_proxy.secrets import redact_key_patterns

_MARK = "\ufeff"
"""Byte order mark, with which some editors begin a file."""


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


def prepare_files(plan: ImportPlan, folder: Path, replaced_names: Collection[str] = ()) -> FilesToWrite:
    """Return the changes of `.env` and `anthropic-proxy.toml` in `folder` for the settings in `plan`.

    New lines are added. Of the lines that set another value, those of `replaced_names` change, and others stay. Raises
    `ConfigurationError` if the proxy could not start with the result.
    """
    env = _change_env(plan, folder / ENV_FILE, replaced_names)
    config = _change_config(plan, folder / CONFIG_FILE)
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
    present = decode_env_text(before.removeprefix(_MARK))
    in_file = Sources({}, str(file))
    added: dict[str, str] = {}
    kept = []
    for name, value in plan.variables.items():
        if present.get(name) == value:
            continue
        is_key = is_secret_variable(name)
        if is_key and is_reference(value):
            line = f"{name}={value}"
        else:
            line = format_env_line(name, value, allows_reference=is_key)
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
        (f"[providers.{name}]", table.encode_toml(name), providers.get(name)) for name, table in plan.servers.items()
    ]
    tables += [(route.label, route.encode_toml(), routes.get(route.name)) for route in plan.routes]
    kept = []
    new: dict[str, str] = {}
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
    if plan.describing_model and "images" not in configured:
        new["[images]"] = f"[images]\nmodel = {format_toml_value(plan.describing_model)}\n"
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


def _list_fields(table: Mapping[str, object], names: Sequence[str]) -> str:
    """`base_url = "https://example.com/v1", no models`"""
    texts = {name: json.dumps(table[name], ensure_ascii=False, default=str) for name in names if name in table}
    shown = {name: redact_and_shorten(redact_key_patterns(text)) for name, text in texts.items()}
    return ", ".join(f"{name} = {shown[name]}" if name in shown else f"no {name}" for name in names)


def _can_be_added(text: str, table: str) -> bool:
    try:
        decode_toml(f"{text}\n{table}", "The text")
    except ConfigurationError:
        return False
    return True
