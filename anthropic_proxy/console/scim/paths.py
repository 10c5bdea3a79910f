"""The URL paths of SCIM, with their methods."""

from collections.abc import Mapping, Sequence
from typing import Literal

Kind = Literal["User", "Group"]
BASE_PATH = "/scim/v2"
ENDPOINTS: Mapping[Kind, str] = {"User": "/Users", "Group": "/Groups"}
ALLOWED: Mapping[str, Sequence[str]] = {
    "": ("GET", "POST"),
    "id": ("GET", "PUT", "PATCH", "DELETE"),
    "read": ("GET",),
    "search": ("POST",),
}
"""Methods of a kind ("") and of one resource (`id`), of a description of the service (`read`), and of `search`."""
METHODS: Mapping[str, Sequence[str]] = {
    **{f"{BASE_PATH}{path}": ALLOWED[""] for path in ENDPOINTS.values()},
    **{f"{BASE_PATH}{path}/.search": ALLOWED["search"] for path in ENDPOINTS.values()},
    **{f"{BASE_PATH}{path}/{{id}}": ALLOWED["id"] for path in ENDPOINTS.values()},
    **{f"{BASE_PATH}/{name}": ALLOWED["read"] for name in ("ServiceProviderConfig", "Schemas", "ResourceTypes")},
    f"{BASE_PATH}/{{rest*}}": ("GET", "POST", "PUT", "PATCH", "DELETE"),
}
"""Path of a route → its methods."""
