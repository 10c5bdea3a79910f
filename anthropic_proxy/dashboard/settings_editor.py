"""Form of the page Settings in which a user changes one setting, after a preview.

`load_setting_form` returns the values for the form. `submit_setting_form` returns the values with a preview, or writes
the change after the user has confirmed it. `explain_settings_refusal` explains why a user may not change settings. A
run of the doctor needs the same permission. `resolve_refusal_text` returns one of the `RefusalTexts` of the caller.
Without a sign-in, the browser must be on this machine, and the proxy must require no key. `is_trusted_local_request`
checks this.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from anthropic_proxy.dashboard.assets import digest
from anthropic_proxy.dashboard.browser_sessions import Session
from anthropic_proxy.dashboard.permissions import may_change_settings
from anthropic_proxy.dashboard.settings_change import (
    list_editable_settings,
    load_meanings,
    propose_change,
    write_change,
)
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.plugins import RouteRequest
from anthropic_proxy.settings import Settings
from anthropic_proxy.settings.masking import is_secret_variable

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
