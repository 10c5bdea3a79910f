"""Changes of settings in the file `.env` by the dashboard.

`list_editable_settings` returns the settings that users may change. `propose_change` checks a new value and returns it
as a `Proposal`, which `write_change` writes to `.env`. Users cannot change addresses of providers or settings for
access here, because a wrong address, for example, would send keys to another host.
"""

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec
from msgspec import Struct

from anthropic_proxy.dashboard.assets import digest
from anthropic_proxy.errors import ConfigurationError, InvalidRequest
from anthropic_proxy.routing.providers import PROVIDERS, find_registry
from anthropic_proxy.routing.settings_listing import SettingRow, list_settings
from anthropic_proxy.settings import CONFIG_FILE, ENV_FILE, Settings, copy_environment, is_fixed_variable, load_settings
from anthropic_proxy.settings.env_writer import (
    decode_env_text,
    locked_for_change,
    read_text,
    replace_file,
    update_env_text,
)
from anthropic_proxy.settings.masking import is_secret_variable, mask_setting

BACKUP_FILE = ".env.bak"
"""Name of the copy of `.env` that is written before each change."""
MAX_VALUE_CHARACTERS = 1_000
# No addresses of providers or rules of access, because keys could then be sent to another host.
_EDITABLE = re.compile(
    r"PREFERRED_PROVIDER|(?:BIG|MIDDLE|SMALL)_MODEL|(?:MODEL|FALLBACK|FIDELITY)_[A-Z]+|FIDELITY|CHECK_WINDOW|SERVE_DEMO"
    r"|MAX_UPSTREAM_CALLS|UPSTREAM(?:_[A-Z]+)*_TIMEOUT|OLLAMA_CONTEXT_LENGTH|OLLAMA_KEEP_ALIVE|LOG_LEVEL|LOG_FORMAT"
    r"|[A-Z]+_(?:WIRE|KNOWN_MODELS)"
)
"""Matches names of settings that may change. Settings with keys are allowed separately."""


class Proposal(Struct, frozen=True, kw_only=True):
    """Checked change of one setting, which is not written yet."""

    row: SettingRow
    value: str
    file: Path
    """Path of the file `.env`."""
    text: str
    """New content of the file `.env`, with the change."""
    before: str
    """Digest of the content of `.env` before the change. If the file has another digest later, the change is rejected.
    """
    difference: Sequence[tuple[str, str]]
    """Changed lines: sign (`+` or `-`) and text, with masked keys."""
    warnings: Sequence[str]
    """Warnings about the settings that appear only with the change."""

    @property
    def is_secret(self) -> bool:
        """True if the setting is a key. Its value is then never shown."""
        return is_secret_variable(self.row.name)

    @property
    def needs_restart(self) -> bool:
        """True if the change has an effect only after a restart of the server."""
        return is_fixed_variable(self.row.name)


def list_editable_settings(settings: Settings) -> dict[str, SettingRow]:
    """Return the settings that users may change in the dashboard, by name.

    A setting in the environment of the process is left out, because it would override the value in `.env`. The result
    is empty if the proxy reads no files.
    """
    if settings.env_file is None:
        return {}
    keys = {row.key_variable for row in find_registry(settings) if row.key_variable and row.offered_to_users}
    return {
        row.name: row
        for row in list_settings(settings)
        if (row.name in keys or _EDITABLE.fullmatch(row.name))
        and (row.source == "default" or row.source.startswith(f"{settings.env_file} line "))
    }


def propose_change(settings: Settings, name: str, value: str) -> Proposal:
    """Check a new value of the setting `name`, and return the change without writing it.

    Raises `InvalidRequest` for an invalid name or value.
    """
    row = list_editable_settings(settings).get(name)
    if row is None or settings.env_file is None:
        raise InvalidRequest(f"{name[:60]!r} cannot be changed here. Edit .env, or the environment if it is set there.")
    value = value.strip()
    if len(value) > MAX_VALUE_CHARACTERS or not value.isprintable():
        raise InvalidRequest(f"{name}: use one line of at most {MAX_VALUE_CHARACTERS} characters.")
    if "${" in value:
        raise InvalidRequest(
            f"{name}: a reference such as ${{NAME}} is not allowed here, because pages show its value."
        )
    file = Path(settings.env_file)
    try:
        before = read_text(file)
        text = update_env_text(before, name, value)
        warnings = _check(text, file)
    except ConfigurationError as error:
        raise InvalidRequest(error.message) from None
    return Proposal(
        row=row,
        value=value,
        file=file,
        text=text,
        before=digest(before),
        difference=_compare(name, before, text),
        warnings=[warning for warning in warnings if warning not in settings.warnings],
    )


def write_change(proposal: Proposal, expected_digest: str) -> None:
    """Write a checked change of a setting to `.env`, and keep the previous file as `BACKUP_FILE`.

    `expected_digest` is the digest of the file that the user saw in the preview. Raises `InvalidRequest` if the file
    has changed since then.
    """
    try:
        proposal.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked_for_change(proposal.file):
            before = read_text(proposal.file)
            if not proposal.before == digest(before) == expected_digest:
                raise InvalidRequest(
                    f"Another change of .env was written after this preview, so {proposal.row.name} was not written. "
                    "Check its value and show the change again."
                )
            if before:
                replace_file(proposal.file.with_name(BACKUP_FILE), before, has_keys=True)
            replace_file(proposal.file, proposal.text, has_keys=proposal.is_secret)
    except ConfigurationError as error:
        raise InvalidRequest(f"{error.message} Nothing was changed.") from None


def _check(text: str, file: Path) -> Sequence[str]:
    """Load the settings with `text` as content of `.env`, and return their warnings. `file`: its path.

    Raises `ConfigurationError` if the settings are invalid.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / ENV_FILE).write_text(text, encoding="utf-8", newline="")
        if (config_file := file.with_name(CONFIG_FILE)).exists():
            shutil.copyfile(config_file, folder / CONFIG_FILE)
        path = str(folder / ENV_FILE)
        try:
            found = load_settings(copy_environment(), PROVIDERS, env_file=path).warnings
        except ConfigurationError as error:
            raise ConfigurationError(" ".join(_shorten(message, folder) for message in error.messages)) from None
    return [_shorten(warning, folder) for warning in found]


def _shorten(message: str, folder: Path) -> str:
    return message.replace(f"{folder}/", "").replace(f"{folder}\\", "")


def _compare(name: str, before: str, after: str) -> list[tuple[str, str]]:
    """Return the removed and the added line of the setting `name` in `.env`, as pairs of sign and text.

    Other lines are not shown, because they may contain keys. `before`, `after`: content of the file.
    """
    if before == after:
        return []
    found = [(sign, decode_env_text(text).get(name)) for sign, text in (("-", before), ("+", after))]
    return [(sign, f"{name}={mask_setting(name, value)}") for sign, value in found if value is not None]


class _Meanings(Struct, frozen=True):
    """Content of the file `setting_meanings.json` of this package."""

    meanings: Mapping[str, str]


@cache
def load_meanings() -> Mapping[str, str]:
    """Return the text about each setting, by its name. Settings without a comment in `.env.example` are left out."""
    text = files("anthropic_proxy.dashboard").joinpath("setting_meanings.json").read_bytes()
    return msgspec.json.decode(text, type=_Meanings).meanings
