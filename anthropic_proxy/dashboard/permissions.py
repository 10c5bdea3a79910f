"""Roles of the users of the dashboard, and the pages and changes that each role permits.

An `admin` may change settings, virtual keys and teams. An `owner` may change settings. A `viewer` only reads, and a
`member` only reads requests of own virtual keys. A key of `ADMIN_API_KEY` has the role `admin`. A key of
`PROXY_API_KEY`, or a client on this machine if no key is required, has the role `owner`. The settings give roles to
users of an identity provider. Functions `may_*` return True if a role permits an action.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from anthropic_proxy.plugins import Client

Role = Literal["admin", "owner", "viewer", "member"]
"""Role of a user of the dashboard."""

MEMBER_SECTIONS = ("Overview", "Requests", "Sessions", "Models")
"""Names of the pages that a member may open."""


class NavigationEntry(NamedTuple):
    """Link to a page in the navigation."""

    section: str
    """Name of the page and of its section: `Settings`."""
    path: str
    """URL path of the page."""
    keyboard_key: str
    """Key that opens the page after `g`: `e`."""


def find_client_role(client: Client) -> Role:
    """Return the role of a client that is not signed in, but sent a key in a header or is on this machine."""
    # an owner has sent a key of PROXY_API_KEY, or is on this machine while no key is required
    return "admin" if client.role == "admin" else "owner"


def may_open(role: Role, section: str) -> bool:
    """Return True if a user with `role` may read the pages of a section of the navigation, such as `Settings`."""
    return role != "member" or section in MEMBER_SECTIONS


def may_change_settings(role: Role) -> bool:
    """Return True if a user with `role` may change settings in the dashboard."""
    return role in ("admin", "owner")


def may_change_keys(role: Role) -> bool:
    """Return True if a user with `role` may change virtual keys and teams. The API below `/admin` has the same rule."""
    return role == "admin"


def reads_own_requests_only(role: Role) -> bool:
    """Return True if a user with `role` may read only the requests of the user's own virtual keys."""
    return role == "member"


def select_navigation_entries(role: Role, navigation: Sequence[NavigationEntry]) -> Sequence[NavigationEntry]:
    """Return the entries of `navigation` that a user with `role` may open."""
    return [entry for entry in navigation if may_open(role, entry[0])]
