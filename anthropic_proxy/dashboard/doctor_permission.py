"""Permission to run the doctor in the dashboard. It sends test requests to the providers, which cost money.

`explain_doctor_refusal` returns the reason for which a user may not run it.
"""

from anthropic_proxy.dashboard.browser_sessions import Session
from anthropic_proxy.dashboard.settings_change import RefusalTexts, resolve_refusal_text
from anthropic_proxy.plugins import RouteRequest
from anthropic_proxy.settings import Settings

_REFUSALS = RefusalTexts(
    disabled="DASHBOARD_EDITING is false, so the dashboard does not run the doctor.",
    role="{} has the role {}, which does not run the doctor.",
    not_allowed="The doctor can be run in a browser on this machine, or after a sign-in with a key of PROXY_API_KEY.",
)
_NO_DIRECTORY = (
    "Results of the doctor cannot be stored, because the environment names no directory for data. Set XDG_DATA_HOME or "
    "HOME."
)


def explain_doctor_refusal(request: RouteRequest, session: Session | None, settings: Settings) -> str:
    """Return the reason for which a user may not run the doctor. "": the user may run it.

    Only users with the permission to change settings may run the doctor. A data directory for the results is also
    necessary. `session` is None if the browser is not signed in.
    """
    if reason := resolve_refusal_text(request, session, settings, _REFUSALS):
        return reason
    return _NO_DIRECTORY if settings.data_directory is None else ""
