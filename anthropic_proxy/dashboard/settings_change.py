"""Changes of settings in the file `.env` by the dashboard.

`list_editable_settings` returns the settings that users may change. `propose_change` checks a new value and returns it
as a `Proposal`, which `write_change` writes to `.env`. Users cannot change addresses of providers or settings for
access here, because a wrong address, for example, would send keys to another host.
"""

import asyncio
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from anthropic_proxy.dashboard.assets import digest
from anthropic_proxy.dashboard.browser_sessions import Session
from anthropic_proxy.dashboard.permissions import may_change_settings
from anthropic_proxy.errors import ConfigurationError, InvalidRequest
from anthropic_proxy.plugins import Gateway, RouteRequest
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


EDIT_PATH = "/dashboard/settings/edit"
_DISABLED = "DASHBOARD_EDITING is false, so the dashboard changes no settings."
_NOT_ALLOWED = "Settings can be changed in a browser on this machine, or after a sign-in with a key of PROXY_API_KEY."
_ROLE_READS = "{} has the role {}, which changes no settings."


def explain_settings_refusal(request: RouteRequest, session: Session | None, settings: Settings) -> str:
    """Return a text that explains why this user may not change settings.

    The text is empty if the user may change them. `session` is None if the browser is not signed in.
    """
    return resolve_refusal_text(request, session, settings, RefusalTexts(_DISABLED, _ROLE_READS, _NOT_ALLOWED))


class RefusalTexts(NamedTuple):
    """Texts for a user without the permission to change settings, one text for each reason of the refusal.

    Each text names the action that was refused. This can be a run of the doctor, which needs the same permission.
    """

    disabled: str
    """`DASHBOARD_EDITING` is false."""
    role: str
    """The role of the user does not permit it. Template with the name and the role of the user."""
    not_allowed: str
    """The browser is not signed in, and not on this machine."""


def resolve_refusal_text(
    request: RouteRequest, session: Session | None, settings: Settings, texts: RefusalTexts
) -> str:
    """Return the item of `texts` that explains why a user may not change settings.

    The result is empty if the user may change them. `session` is None if the browser is not signed in.
    """
    if not settings.dashboard_editing:
        return texts.disabled
    if session is not None:
        return "" if may_change_settings(session.role) else texts.role.format(session.client_name, session.role)
    return "" if is_trusted_local_request(request, settings) else texts.not_allowed


def is_trusted_local_request(request: RouteRequest, settings: Settings) -> bool:
    """Return True if a browser without a session may make changes, because it is on this machine.

    The result is False if the proxy requires a key. With `ALLOW_UNAUTHENTICATED`, it is False too, because the proxy
    then accepts clients from every address.
    """
    return request.client.address_trusted and not settings.allow_unauthenticated


def load_setting_form(settings: Settings, name: str) -> Mapping[str, Any]:
    """Return the template values of the form that changes one setting.

    Raises `InvalidRequest` if the setting does not exist, or cannot be changed in the dashboard.
    """
    row = list_editable_settings(settings).get(name)
    if row is None:
        raise InvalidRequest(f"{name[:60]!r} cannot be changed here. Edit .env, or the environment if it is set there.")
    value = "" if is_secret_variable(name) or row.source == "default" else row.value
    return {
        "row": row,
        "meaning": load_meanings().get(name, ""),
        "value": value,
        "is_secret": is_secret_variable(name),
        "proposal": None,
        "problem": "",
        "repeat": "",
        "saved": "",
    }


def submit_setting_form(settings: Settings, form: Mapping[str, str]) -> tuple[Mapping[str, Any], bool]:
    """Return the template values of a sent form with a preview, or write the change if the user has confirmed it.

    The second item of the result is True if the change was written.
    """
    name, value = form.get("name", ""), form.get("value", "")
    values = dict(load_setting_form(settings, name))
    try:
        proposal = propose_change(settings, name, value)
        entered = digest(f"{form.get('token', '')} {proposal.value}")
        if form.get("before") and proposal.is_secret:
            _require_same(entered, form.get("repeat", ""))
        if form.get("before"):
            write_change(proposal, form["before"])
            return {**values, "proposal": proposal}, True
    except InvalidRequest as error:
        return {**values, "value": "" if values["is_secret"] else value, "problem": error.message}, False
    shown = "" if proposal.is_secret else proposal.value
    repeat = entered if proposal.is_secret else ""
    return {**values, "value": shown, "proposal": proposal, "repeat": repeat}, False


def _require_same(entered: str, first: str) -> None:
    if entered != first:
        raise InvalidRequest("The two keys differ. Nothing was written. Enter the new key again.")


_POLLS, _POLL_SECONDS = 20, 0.1


async def reload_settings(gateway: Gateway) -> bool:
    """Read the settings files again, in all workers. Return False if this server can read them only at its start."""
    before = gateway.settings
    is_reloaded = await gateway.reload_settings()
    for _ in range(_POLLS if is_reloaded else 0):  # other workers reload by a message
        if gateway.settings is not before:
            break
        await asyncio.sleep(_POLL_SECONDS)
    return is_reloaded
