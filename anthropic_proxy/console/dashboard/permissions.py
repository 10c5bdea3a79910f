"""Who may do what in the dashboard.

An `admin` (a key of `ADMIN_API_KEY`) may do everything. An `owner` (a key of `PROXY_API_KEY`, or a client on this
machine if no key is required) may do all but change virtual keys and teams. A `viewer` only reads, and a `member` only
reads requests of own virtual keys. The settings give a role to each user of an identity provider.
"""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

from anthropic_proxy.console.identity.people import Role
from anthropic_proxy.errors import PermissionDenied
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import RouteRequest

MEMBER_SECTIONS = ("Overview", "Requests", "Sessions", "Costs", "Models")


class Session(Struct, frozen=True, kw_only=True):
    client_name: str
    """Name of the user: `key 1`, `admin key 1`, or the e-mail address at the identity provider."""
    form_token: str
    """Random text that each form of this session contains. Pages of other sites cannot read it, so they cannot send a
    valid form."""
    role: Role = "owner"
    email: str = ""
    """E-mail address of the user. "": the user signed in with a key."""


class NavigationEntry(NamedTuple):
    section: str
    path: str
    key: str


def find_role(request: RouteRequest, session: Session | None) -> Role:
    """`session` None: the browser needs no sign-in."""
    if session is not None:
        return session.role
    # an owner has sent a key of PROXY_API_KEY, or is on this machine while no key is required
    return "admin" if request.client.role == "admin" else "owner"


def may_open(role: Role, section: str) -> bool:
    return role != "member" or section in MEMBER_SECTIONS


def require_section(role: Role, section: str) -> None:
    """Raises `PermissionDenied` if the role does not include the pages of a section."""
    if not may_open(role, section):
        raise PermissionDenied(
            f"The role {role} does not include the page {section}. Open /dashboard, or ask an administrator for "
            "another role.",
            code="dashboard-role",
        )


NAVIGATION = (
    NavigationEntry("Overview", "/dashboard", "o"),
    NavigationEntry("Requests", "/dashboard/requests", "r"),
    NavigationEntry("Sessions", "/dashboard/sessions", "s"),
    NavigationEntry("Costs", "/dashboard/costs", "c"),
    NavigationEntry("Models", "/dashboard/models", "m"),
    NavigationEntry("Providers", "/dashboard/providers", "p"),
    NavigationEntry("Settings", "/dashboard/settings", "e"),
)
KEYS_ENTRY = NavigationEntry("Keys", "/dashboard/keys", "k")


def list_navigation_entries(settings: Settings, role: Role) -> Sequence[NavigationEntry]:
    entries = (*NAVIGATION[:-1], KEYS_ENTRY, NAVIGATION[-1]) if settings.virtual_keys else NAVIGATION
    return [entry for entry in entries if may_open(role, entry.section)]


def reads_own_requests_only(role: Role) -> bool:
    return role == "member"


def explain_settings_denial(request: RouteRequest, session: Session | None, settings: Settings) -> str:
    """Return the reason for which this user may not change settings. "": the user may change them."""
    return _explain_denial(
        request,
        session,
        settings,
        disabled="DASHBOARD_EDITING is false, so the dashboard changes no settings.",
        of_role="{} has the role {}, which changes no settings.",
        of_address=(
            "Settings can be changed in a browser on this machine, or after a sign-in with a key of PROXY_API_KEY."
        ),
    )


def explain_doctor_denial(request: RouteRequest, session: Session | None, settings: Settings) -> str:
    """Return the reason for which this user may not run the doctor. "": the user may run it. The test requests of the
    doctor cost money, so a run needs the permission to change settings.
    """
    reason = _explain_denial(
        request,
        session,
        settings,
        disabled="DASHBOARD_EDITING is false, so the dashboard does not run the doctor.",
        of_role="{} has the role {}, which does not run the doctor.",
        of_address=(
            "The doctor can be run in a browser on this machine, or after a sign-in with a key of PROXY_API_KEY."
        ),
    )
    if reason or settings.data_directory is not None:
        return reason
    return (
        "Results of the doctor cannot be stored, because the environment names no directory for data. Set "
        "XDG_DATA_HOME or HOME."
    )


def _explain_denial(
    request: RouteRequest, session: Session | None, settings: Settings, *, disabled: str, of_role: str, of_address: str
) -> str:
    if not settings.dashboard_editing:
        return disabled
    if session is not None:
        may_change = session.role in ("admin", "owner")
        return "" if may_change else of_role.format(session.client_name, session.role)
    # with ALLOW_UNAUTHENTICATED, the proxy accepts clients from every address, so no address is trusted
    return "" if request.client.address_trusted and not settings.allow_unauthenticated else of_address


def explain_key_denial(request: RouteRequest, session: Session | None, settings: Settings) -> str:
    if not settings.dashboard_editing:
        return "DASHBOARD_EDITING is false, so the dashboard changes no keys."
    if find_role(request, session) == "admin":  # the API below /admin has the same rule
        return ""
    if settings.admin_api_keys:
        return "Keys can be changed after a sign-in with a key of ADMIN_API_KEY."
    return "Keys can be changed after a sign-in with a key of ADMIN_API_KEY, which is not set. Set it in .env."
