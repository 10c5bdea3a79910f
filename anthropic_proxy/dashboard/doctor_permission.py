"""Permission to run the doctor in the dashboard. It sends test requests to the providers, which cost money.

`explain_doctor_refusal` returns the reason for which a user may not run it.
"""

from anthropic_proxy.dashboard.browser_sessions import Session
from anthropic_proxy.dashboard.permissions import may_change_settings
from anthropic_proxy.dashboard.settings_editor import is_on_this_machine
from anthropic_proxy.plugins import RouteRequest
from anthropic_proxy.settings import Settings

_DISABLED = "DASHBOARD_EDITING is false, so the dashboard does not run the doctor."
_NO_DIRECTORY = (
    "Results of the doctor cannot be stored, because the environment names no directory for data. Set XDG_DATA_HOME or "
    "HOME."
)
_NOT_ALLOWED = "The doctor can be run in a browser on this machine, or after a sign-in with a key of PROXY_API_KEY."
_ROLE_READS = "{} has the role {}, which does not run the doctor."


def explain_doctor_refusal(request: RouteRequest, session: Session | None, settings: Settings) -> str:
    """Return the reason for which a user may not run the doctor. "": the user may run it.

    The rules are those of settings. `session`: None: the browser is not signed in.
    """
    if not settings.dashboard_editing:
        return _DISABLED
    if session is not None and not may_change_settings(session.role):
        return _ROLE_READS.format(session.client_name, session.role)
    if session is None and not is_on_this_machine(request, settings):
        return _NOT_ALLOWED
    return _NO_DIRECTORY if settings.data_directory is None else ""
