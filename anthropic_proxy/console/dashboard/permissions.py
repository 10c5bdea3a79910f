"""Who may do what in the dashboard.

An `admin` (a key of `ADMIN_API_KEY`) may do everything. An `owner` (a key of `PROXY_API_KEY`, or a client on this
machine if no key is required) may do all but change virtual keys and teams. A `viewer` only reads, and a `member` only
reads requests of own virtual keys. The settings give a role to each user of an identity provider.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from anthropic_proxy.errors import PermissionDenied
from anthropic_proxy.gateway.settings import OidcSettings, Settings
from anthropic_proxy.plugins import RouteRequest

Role = Literal["admin", "owner", "viewer", "member"]
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


RETRY = "Sign in again."
CHECK_CLIENT = "An administrator should compare OIDC_CLIENT_ID and OIDC_CLIENT_SECRET with the identity provider."
CHECK_ISSUER = "An administrator should check OIDC_ISSUER."


class OidcError(Exception):
    """Exception: a sign-in with the identity provider failed or was rejected. Its message is shown to the user. It has
    the cause and usually a remedy, but no tokens.
    """

    def __init__(self, message: str, *, status: int = 403) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        """HTTP status of the page: 403; 502 for a failure of the provider."""


class OidcUser(Struct, frozen=True, omit_defaults=True):
    issuer: str
    """Value of `OIDC_ISSUER` at the sign-in. The session ends if the setting has another value."""
    client_id: str
    subject: str
    email: str
    groups: tuple[str, ...] = ()
    """Groups of the user that the settings name, from the claim with the roles."""


def require_accepted_user(settings: OidcSettings, claims: Mapping[str, Any]) -> OidcUser:
    """Raises `OidcError` if the user has no accepted e-mail address or no role."""
    email = claims.get(settings.email_claim)
    if not isinstance(email, str) or email.count("@") != 1 or not (email.isascii() and email.isprintable()):
        raise OidcError(
            f"The identity provider sent no e-mail address (claim {settings.email_claim!r}). An administrator should "
            "allow the scope email for the client, or set OIDC_EMAIL_CLAIM."
        )
    if settings.email_claim == "email" and claims.get("email_verified") not in (True, "true"):
        raise OidcError(
            f"The identity provider has not verified the address {email}. Confirm it there, then try again. If the "
            "provider sends no claim email_verified, an administrator should set OIDC_EMAIL_CLAIM to a claim that "
            "users cannot change."
        )
    used = {*settings.admins, *settings.viewers, *settings.members}
    groups = tuple(name for name in find_claim_texts(claims, settings.role_claim) if name in used and "@" not in name)
    user = OidcUser(settings.issuer, settings.client_id, str(claims["sub"]), email.lower(), groups)
    if not _has_domain(settings, user.email):
        raise OidcError(f"The domain of {email} is not accepted. OIDC_DOMAINS lists the accepted ones.")
    if resolve_role(settings, user) is None:
        raise OidcError(f"{email} has no role. An administrator should add the user or a group to OIDC_MEMBERS.")
    return user


def resolve_role(settings: OidcSettings, user: OidcUser) -> Role | None:
    """Return the role that the present settings give to `user`. None: the user may not sign in."""
    if (user.issuer, user.client_id) != (settings.issuer, settings.client_id) or not _has_domain(settings, user.email):
        return None
    if _is_listed(settings.admins, user):
        return "admin"
    if _is_listed(settings.viewers, user):
        return "viewer"
    return "member" if not settings.members or _is_listed(settings.members, user) else None


def find_claim_texts(claims: Mapping[str, Any], claim_path: str) -> Sequence[str]:
    """Dots in `claim_path` separate the names of nested objects. The list is empty if the claim is missing or has no
    text.
    """
    value: Any = claims.get(claim_path)
    if value is None:
        value = claims
        for name in claim_path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, str):
        return (value,)
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else ()


def _has_domain(settings: OidcSettings, email: str) -> bool:
    return not settings.domains or email.rpartition("@")[2] in settings.domains


def _is_listed(entries: Sequence[str], user: OidcUser) -> bool:
    """Upper and lower case of addresses are equal."""
    return any(entry.lower() == user.email if "@" in entry else entry in user.groups for entry in entries)
