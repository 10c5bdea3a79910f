"""Permission to change virtual keys and teams in the dashboard.

`explain_key_refusal` explains why a user does not have this permission. A virtual key is a key that this proxy gives to
a client.
"""

from anthropic_proxy.dashboard.browser_sessions import Session
from anthropic_proxy.dashboard.permissions import find_client_role, may_change_keys
from anthropic_proxy.plugins import RouteRequest
from anthropic_proxy.settings import Settings

_DISABLED = "DASHBOARD_EDITING is false, so the dashboard changes no keys."
_UNSET = "Keys can be changed after a sign-in with a key of ADMIN_API_KEY, which is not set. Set it in .env."
_NOT_ALLOWED = "Keys can be changed after a sign-in with a key of ADMIN_API_KEY."


def explain_key_refusal(request: RouteRequest, session: Session | None, settings: Settings) -> str:
    """Return a text that explains why this user may not change virtual keys and teams.

    The text is empty if the user may change them. `session` is None if the browser is not signed in.
    """
    if not settings.dashboard_editing:
        return _DISABLED
    if may_change_keys(find_client_role(request.client) if session is None else session.role):
        return ""
    return _NOT_ALLOWED if settings.admin_api_keys else _UNSET
