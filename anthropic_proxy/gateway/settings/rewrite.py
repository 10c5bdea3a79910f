"""Change of the settings files to the new places of settings, for `config check --write`.

The lines of old names leave `.env`, and their values go to the fields of `anthropic-proxy.toml`. All other lines stay
as they are: comments, order, line ends and a byte order mark. Both files are then read as the server reads them, and
must mean what they meant before. The configuration file is replaced first: in between, both files have the same values,
which is no error.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from msgspec import Struct

from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.platforms.files import may_keep_owner
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.providers.lookup import ProviderRegistry
from anthropic_proxy.errors import ConfigurationError, join_with_and
from anthropic_proxy.gateway.settings.fields import Settings
from anthropic_proxy.gateway.settings.file_format import KeyPath
from anthropic_proxy.gateway.settings.files import (
    BYTE_ORDER_MARK,
    decode_toml,
    locked_for_change,
    parse_env_text,
    read_text,
    replace_file,
)
from anthropic_proxy.gateway.settings.load import find_changed_variables, load_settings
from anthropic_proxy.gateway.settings.old_names import (
    OLD_NAMES,
    MovedSetting,
    OldName,
    find_moved_settings,
    format_setting_name,
)
from anthropic_proxy.gateway.settings.place import CONFIG_FILE
from anthropic_proxy.gateway.settings.sources import Sources
from anthropic_proxy.gateway.settings.toml_edit import change_toml_field, describe_unknown_form

_COPY = "before-move"
"""End of the name of a copy: not `bak`, which the page Settings of the dashboard overwrites."""
_MAX_COPIES = 1_000
_COMMENT_AFTER_VALUE = compile_later(
    r"""^[^=]+=[ \t]*+
    (?:'(?:\\.|[^'\\])*+'[ \t]++|"(?:\\.|[^"\\])*+"[ \t]++|(?!['"])(?:[^\n\#]|(?<![ \t])\#)*+(?<=[ \t]))
    (\#[^\r\n]*)""",
    re.DOTALL | re.VERBOSE,
)
"""Pattern of an assignment of `.env` with a comment behind the value, which is the group."""


class Rewrite(Struct, frozen=True):
    env_file: Path
    config_file: Path
    before: tuple[str, str]
    """Texts of the two files."""
    after: tuple[str, str]
    moved: Sequence[OldName]
    """Old names that leave `.env`."""
    in_environment: Sequence[OldName]
    """Old names that the environment has, which no file can change."""


def plan_rewrite(environ: Mapping[str, str], providers: ProviderRegistry, env_file: str) -> Rewrite:
    """Raises `ConfigurationError` if a file cannot be changed, with the reason, and if the settings are invalid as they
    are.
    """
    env = Path(env_file)
    config = Path(env_file).with_name(CONFIG_FILE)
    env_text = read_text(env)
    config_text = read_text(config)
    before = load_settings(environ, providers, env_file=env_file)
    moved = find_moved_settings(Sources(environ, env_file))
    contents = decode_toml(config_text, str(config))
    written = config_text
    for path, setting in _order_for_insertion(moved):
        if setting.source.origin == "environment":
            continue
        _require_plain(env_text, setting, env)
        if path[-1] not in contents.get(path[0], {}):
            changed_config = change_toml_field(written, path, setting.value)
            if changed_config is None:
                raise ConfigurationError(describe_unknown_form(config, path), code="old-setting")
            written = changed_config
    done = [setting.old for setting in moved.values() if setting.source.origin != "environment"]
    in_environment = [setting.old for setting in moved.values() if setting.source.origin == "environment"]
    changed = _remove_lines(env_text, {old.name for old in done})
    after = load_settings(environ, providers, env_file=env_file, env_draft=changed, config_draft=written)
    _require_same_meaning(before, after)
    return Rewrite(env, config, (env_text, config_text), (changed, written), done, in_environment)


def _order_for_insertion(moved: Mapping[KeyPath, MovedSetting]) -> Iterator[tuple[KeyPath, MovedSetting]]:
    """Yield the fields of each table in reverse, because each is inserted at the beginning of its table."""
    for table in dict.fromkeys(path[0] for path in moved):
        yield from reversed([(path, setting) for path, setting in moved.items() if path[0] == table])


def _require_same_meaning(before: Settings, after: Settings) -> None:
    different = [name for name in find_changed_variables(before, after) if name not in OLD_NAMES]
    if different:
        raise ConfigurationError(
            f"Nothing was written, because {join_with_and(different)} would change. Move the settings yourself.",
            code="old-setting",
        )


def _require_plain(env_text: str, setting: MovedSetting, env: Path) -> None:
    """Raises `ConfigurationError` if a line refers to another variable, for which TOML has no form."""
    for binding in parse_env_text(env_text.removeprefix(BYTE_ORDER_MARK)):
        if binding.key == setting.old.name and "${" in (binding.value or ""):
            raise ConfigurationError(
                f"{setting.old.name} in {env} refers to another variable, and {CONFIG_FILE} has no such references. "
                f"Set {format_setting_name(setting.old.path)} there yourself, and remove {setting.old.name}.",
                code="old-setting",
            )


def _remove_lines(text: str, names: set[str]) -> str:
    """Remove all assignments of `names`. A comment at the end of such a line stays, as a line of its own."""
    if not names:
        return text
    mark = BYTE_ORDER_MARK if text.startswith(BYTE_ORDER_MARK) else ""
    kept = []
    for binding in parse_env_text(text[len(mark) :]):
        line = binding.original.string
        if binding.key not in names:
            kept.append(line)
            continue
        beginning = line[: len(line) - len(line.lstrip())]
        comment = _COMMENT_AFTER_VALUE.match(line)
        end = "\r\n" if line.endswith("\r\n") else "\n"
        kept.append(f"{beginning}{comment[1].rstrip()}{end}" if comment else beginning)
    return mark + "".join(kept)


def write_rewrite(rewrite: Rewrite) -> Sequence[Path]:
    """Replace the files that change, each after a copy beside it. Return the copies. Raises `ConfigurationError`."""
    pairs = zip((rewrite.config_file, rewrite.env_file), reversed(rewrite.before), reversed(rewrite.after), strict=True)
    changes = [(file, before, after) for file, before, after in pairs if before != after]
    copies: list[Path] = []
    with locked_for_change(rewrite.env_file):
        for file, before, _ in changes:
            _require_writable(file)
            if read_text(file) != before:
                raise ConfigurationError(
                    f"{file} was changed by another program in the meantime. Try again.", code="init-without-terminal"
                )
        try:
            for file, before, _ in changes:
                if before:
                    copies.append(_copy(file))
        except ConfigurationError:
            for copy in copies:
                copy.unlink(missing_ok=True)
            raise
        for file, _, after in changes:
            replace_file(file, after, has_keys=False)
    return copies


def _require_writable(file: Path) -> None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {describe_os_error(error)}.", code="env-file") from None
    reason = ""
    if not status.st_mode & 0o222 or not os.access(file, os.W_OK):
        reason = "it is read-only"
    elif not may_keep_owner(status):
        reason = "it belongs to another user, who must run the command"
    if reason:
        raise ConfigurationError(f"{file} was not changed: {reason}.", code="init-without-terminal")


def _copy(file: Path) -> Path:
    """Copy a file beside the file itself, not beside a link to it, under the first free name."""
    target = file.resolve()
    for number in range(_MAX_COPIES):
        copy = target.with_name(f"{target.name}.{_COPY}{number or ''}")
        try:
            _create_copy(target, copy)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigurationError(
                f"{copy} cannot be written: {describe_os_error(error)}.", code="init-without-terminal"
            ) from None
        return copy
    raise ConfigurationError(
        f"{target.parent} has {_MAX_COPIES} copies of {target.name}. Delete some of them.", code="init-without-terminal"
    )


def _create_copy(target: Path, copy: Path) -> None:
    """Other users can read the copy only if they can read the file, and not before it has the same owner.

    Raises `OSError`, and leaves no part of a copy then.
    """
    # not the mode of the process, and through no link
    stream = open(copy, "xb", opener=partial(os.open, mode=0o600))  # noqa: SIM115  # an existing file is not removed
    try:
        with stream:
            stream.write(target.read_bytes())
        if hasattr(os, "chown"):
            try:
                os.chown(copy, target.stat().st_uid, target.stat().st_gid)
            except PermissionError:  # as for the file itself: another owner, or a group of others. The copy is private.
                return
        shutil.copystat(target, copy)
    except OSError:
        copy.unlink(missing_ok=True)
        raise
