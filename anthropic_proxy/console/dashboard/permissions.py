"""What a user may do in the dashboard, by the role of the session (`gateway/permissions.py`)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct
from sqlalchemy import Connection, select

from anthropic_proxy.console.keys.rights import Rights
from anthropic_proxy.console.ledger.tables import virtual_keys
from anthropic_proxy.gateway.permissions import Permission, Role, find_client_role, may, may_open
from anthropic_proxy.gateway.settings import Settings, SignInGroup
from anthropic_proxy.plugins import RouteRequest


class Session(Struct, frozen=True, kw_only=True):
    client_name: str
    """Name of the user: `key 1`, `admin key 1`, or that of the person (`OidcUser.unique_name`)."""
    form_token: str
    """Random text that each form of this session contains. Pages of other sites cannot read it, so they cannot send a
    valid form."""
    role: Role = "owner"
    person: str = ""
    """Id of the key of the person. "": the user signed in with a key, or there are no virtual keys."""
    group: SignInGroup | None = None
    """Table of the user's group. None: none."""


class NavigationEntry(NamedTuple):
    section: str
    path: str
    key: str


def name_user(request: RouteRequest, session: Session | None) -> str:
    """`session` None: the browser needs no sign-in."""
    return request.client.name if session is None else session.client_name


def find_client_id(request: RouteRequest, session: Session | None) -> str:
    """Return the `Client.id` of the requests that the user sends to models. `session`: see `name_user`."""
    return request.client.id if session is None else session.person or session.client_name


def find_client_of_label(connection: Connection, label: str) -> str:
    """Return the `Client.id` of the requests that the ledger stores with this label of a key. "": `label` is empty.

    The connection may be that of a member, which reads no SQL text, and of the keys those of the member.
    """
    statement = select(virtual_keys.c.id).where(virtual_keys.c.label == label)
    return (connection.execute(statement).scalar() or label) if label else ""


def name_actor(request: RouteRequest, session: Session | None) -> str:
    """Return the name of the user for the audit log. `session`: see `name_user`."""
    return f"dashboard ({name_user(request, session)})"


def find_role(request: RouteRequest, session: Session | None) -> Role:
    """`session` None: the browser needs no sign-in."""
    return find_client_role(request.client) if session is None else session.role


def find_rights(request: RouteRequest, session: Session | None, settings: Settings) -> Rights:
    """What the database has is not yet known."""
    if session is None or not session.person:
        return Rights(role=find_role(request, session))
    group = session.group or SignInGroup(name="")
    return Rights(
        role=session.role,
        person=session.person,
        team=group.team,
        max_keys=settings.keys_per_person,
        has_no_group=session.group is None and settings.sign_in is not None and bool(settings.sign_in.groups),
    )


NAVIGATION = (
    NavigationEntry("Overview", "/dashboard", "o"),
    NavigationEntry("Requests", "/dashboard/requests", "r"),
    NavigationEntry("Sessions", "/dashboard/sessions", "s"),
    NavigationEntry("Costs", "/dashboard/costs", "c"),
    NavigationEntry("Models", "/dashboard/models", "m"),
    NavigationEntry("Providers", "/dashboard/providers", "p"),
    NavigationEntry("Activity", "/dashboard/activity", "a"),
    NavigationEntry("Settings", "/dashboard/settings", "e"),
)
KEYS_SECTION = "Keys"
_KEYS_ENTRY = NavigationEntry(KEYS_SECTION, "/dashboard/keys", "k")
"""Page of a proxy with virtual keys."""


def list_navigation_entries(settings: Settings, role: Role) -> Sequence[NavigationEntry]:
    entries = (*NAVIGATION[:-1], _KEYS_ENTRY, NAVIGATION[-1]) if settings.virtual_keys else NAVIGATION
    return [entry for entry in entries if may_open(role, entry.path)]


_DENIALS: Mapping[Permission, tuple[str, str]] = {
    "change settings": ("changes no settings", "Settings can be changed"),
    "open own pages": ("chooses no models of sessions", "Models of sessions can be chosen"),
    "run the doctor": ("does not run the doctor", "The doctor can be run"),
    "manage own keys": ("changes no keys", "Keys can be changed"),
}
"""Permission → words for what its lack means, and beginning of the sentence about who has it."""


def explain_denial(permission: Permission, request: RouteRequest, session: Session | None, settings: Settings) -> str:
    """Return the reason for which this user may not use the forms of a permission. "": the user may use them."""
    lack, possible = _DENIALS[permission]
    role = find_role(request, session)
    if not settings.dashboard_editing:
        return f"DASHBOARD_EDITING is false, so the dashboard {lack}."
    if permission == "manage own keys":
        remedy = "" if settings.admin_api_keys else ", which is not set. Set it in .env"
        return "" if may(role, permission) else f"{possible} after a sign-in with a key of ADMIN_API_KEY{remedy}."
    if session is not None and not may(role, permission):
        return f"{session.client_name} has the role {role}, which {lack}."
    # with ALLOW_UNAUTHENTICATED, the proxy accepts clients from every address, so no address is trusted
    if session is None and (not request.client.address_trusted or settings.allow_unauthenticated):
        return f"{possible} in a browser on this machine, or after a sign-in with a key of PROXY_API_KEY."
    if permission == "run the doctor" and settings.data_directory is None:
        return (
            "Results of the doctor cannot be stored, because the environment names no directory for data. Set "
            "XDG_DATA_HOME or HOME."
        )
    return ""
