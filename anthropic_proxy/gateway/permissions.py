"""Who may do what: the one table of roles and permissions, and the permission that each URL path needs.

Server, pages, API and changes of keys ask this table, and no other place compares roles. A path that `PLACES` does not
list needs the permission `open other paths`, so a new route is closed for keys until a row opens it.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

from anthropic_proxy.errors import PermissionDenied
from anthropic_proxy.gateway.error_catalog import PAGE as ERROR_CATALOG_PATH
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client

Role = Literal["owner", "admin", "team admin", "viewer", "member", "key", "monitor", "provisioner"]
"""Role of a client or a user.

`owner`: a key of `PROXY_API_KEY`, or a client on this machine if no key is required. `admin`: a key of `ADMIN_API_KEY`,
or a user of the identity provider. `team admin`, `viewer` and `member`: users of the identity provider. `key`: a
virtual key. `monitor`: a key of `MONITOR_API_KEY`. `provisioner`: one of `SCIM_TOKEN`.
"""
Permission = Literal[
    "use models",
    "read own requests",
    "read own limits",
    "read own usage",
    "choose own models",
    "open own pages",
    "read team requests",
    "read all requests",
    "read texts of others",
    "read the setup",
    "read all keys",
    "manage own keys",
    "manage team keys",
    "manage all keys",
    "provision people",
    "change settings",
    "run the doctor",
    "open other paths",
    "open public paths",
]
_USERS: frozenset[Role] = frozenset({"admin", "team admin", "viewer", "member"})
ROLES: Mapping[Permission, frozenset[Role]] = {
    "use models": frozenset({"owner", "team admin", "viewer", "member", "key"}),
    "read own requests": frozenset({"owner", *_USERS, "key", "monitor"}),
    "read own limits": frozenset({"owner", *_USERS, "key"}),
    "read own usage": frozenset({"owner", *_USERS, "monitor"}),
    "choose own models": frozenset({"owner", *_USERS, "key"}),
    "open own pages": frozenset({"owner", *_USERS}),
    "read team requests": frozenset({"team admin"}),
    "read all requests": frozenset({"owner", "admin", "viewer", "monitor"}),
    "read texts of others": frozenset({"owner", "admin"}),
    "read the setup": frozenset({"owner", "admin", "viewer"}),
    "read all keys": frozenset({"owner", "admin", "viewer"}),
    "manage own keys": _USERS,
    "manage team keys": frozenset({"admin", "team admin"}),
    "manage all keys": frozenset({"admin"}),
    "provision people": frozenset({"provisioner"}),
    "change settings": frozenset({"owner", "admin"}),
    "run the doctor": frozenset({"owner", "admin"}),
    "open other paths": frozenset({"owner", "admin"}),
    "open public paths": frozenset({"owner", *_USERS, "key", "monitor", "provisioner"}),
}
"""Permission → the roles that have it."""
PUBLIC_PATHS = frozenset(
    ("/", "/health", "/livez", "/readyz", "/version", "/api/hello", "/favicon.ico", "/tour", ERROR_CATALOG_PATH)
)
"""URL paths that the proxy serves without a key, for health probes. Their responses contain no secrets."""
PROBE_PATHS = frozenset(("/livez", "/readyz"))
"""URL paths that are served to each network, because load balancers and Kubernetes ask from their own."""
RECENT_REQUESTS_PATH = "/api/requests/recent"
"""URL path at which a virtual key finds its own requests, for the status line of its user."""


SESSION_MODELS_PATH = "/api/session-models"
"""URL path at which a client chooses the models of its own running sessions."""
REFUSALS_PATH = "/api/refusals"
"""URL path at which it is forgotten what refusals of a model have shown."""


class Place(NamedTuple):
    path: str
    """URL path. With `/*` at its end, it includes all paths below it."""
    permission: Permission
    methods: tuple[str, ...] = ()
    """HTTP methods. (): all."""


_READING = ("GET", "HEAD")
PLACES = (
    Place("/v1/*", "use models"),
    *(Place(path, "open public paths") for path in sorted(PUBLIC_PATHS)),
    Place(RECENT_REQUESTS_PATH, "read own requests", ("GET",)),
    Place("/managed/settings", "read own limits", ("GET",)),
    Place("/api/oauth/usage", "read own limits", ("GET",)),
    Place("/user/bootstrap", "read own limits", ("GET",)),
    Place(SESSION_MODELS_PATH, "choose own models"),
    Place("/api/requests/live", "read all requests", _READING),
    Place(REFUSALS_PATH, "run the doctor"),
    *(
        Place(path, "read own usage", _READING)
        for path in ("/api/usage", "/api/requests", "/api/requests/*", "/api/openapi.json")
    ),
    Place("/api/*", "read all requests", _READING),
    Place("/metrics", "read all requests", _READING),
    Place("/admin/keys/*", "manage own keys"),
    Place("/admin/sign-ins/*", "manage own keys"),
    Place("/admin/teams", "manage own keys", _READING),
    Place("/admin/openapi.json", "manage own keys"),
    Place("/admin/*", "manage all keys"),
    Place("/scim/*", "provision people"),
    *(
        Place(path, "open public paths")
        for path in (
            "/dashboard/sign-in",
            "/dashboard/sign-out",
            "/dashboard/oidc/*",
            "/dashboard/static/*",
            "/device",
            "/oauth/*",
            "/.well-known/*",
        )
    ),
    Place("/dashboard/providers", "read the setup"),
    Place("/dashboard/providers/doctor", "run the doctor"),
    Place("/dashboard/settings", "read the setup"),
    Place("/dashboard/settings/edit", "change settings"),
    Place("/dashboard/keys/edit", "manage own keys"),
    Place("/dashboard/keys/audit", "read all keys"),
    Place("/dashboard/*", "open own pages"),
)
"""The permission of each URL path. The first matching row applies."""


def may(role: Role, permission: Permission) -> bool:
    return role in ROLES[permission]


_ROWS = [(place.path.removesuffix("/*"), place.path.removesuffix("*"), place) for place in PLACES]
"""For each place: its path, what the paths below it begin with, and the place."""


def find_permission(method: str, path: str) -> Permission:
    for start, beginning, place in _ROWS:
        is_place = path == start or (beginning != start and path.startswith(beginning))
        if is_place and (not place.methods or method in place.methods):
            return place.permission
    return "open other paths"


def find_client_role(client: Client) -> Role:
    return "key" if client.role == "member" and not client.sign_in else client.role


def require_access(client: Client, method: str, path: str, settings: Settings) -> None:
    """Raise `PermissionDenied` if the client may not send a request with `method` to `path`."""
    role, permission = find_client_role(client), find_permission(method, path)
    if path.startswith("/admin/") and not settings.virtual_keys:
        permission = "open other paths"  # nothing is served there: the reply says so
    if role in ROLES[permission]:
        return
    if role == "monitor":
        raise PermissionDenied(
            "A key of MONITOR_API_KEY reads /metrics and /api/ with GET, nothing else.", code="key-role"
        )
    if role == "provisioner":
        raise PermissionDenied("One of SCIM_TOKEN is for the paths below /scim/v2/, nothing else.", code="key-role")
    if permission == "provision people":
        raise PermissionDenied(f"{path} needs one of SCIM_TOKEN.", code="key-role")
    if role == "key":
        raise PermissionDenied(
            f"The key {client.name!r} is for the API below /v1/, not for {path!r}.",
            remedy="Use one of PROXY_API_KEY or ADMIN_API_KEY there.",
            wish="access",
            code="key-role",
        )
    if role in ("team admin", "viewer", "member"):
        raise PermissionDenied(
            f"The role {role} does not include {method} {path}. Roles that do: "
            f"{', '.join(name for name in get_args(Role) if may(name, permission))}.",
            code="role",
        )
    if role == "admin":
        raise PermissionDenied(
            "ADMIN_API_KEY is for the administration, not for the Messages API. Create a key for requests:  "
            "anthropic-proxy keys create LABEL",
            code="key-role",
        )
    if not settings.admin_api_keys:
        raise PermissionDenied(
            "ADMIN_API_KEY is not set. Set it to a key of your choice, and use it for /admin.", code="admin-key"
        )
    raise PermissionDenied(f"{path} needs one of ADMIN_API_KEY. PROXY_API_KEY is not accepted there.", code="admin-key")


def may_open(role: Role, address: str) -> bool:
    """`address`: URL path of a page of the dashboard, with or without a query."""
    return may(role, find_permission("GET", address.partition("?")[0]))


def require_page(role: Role, path: str, section: str) -> None:
    """Raise `PermissionDenied` if the role does not include the page at `path`, which is one of `section`."""
    if not may_open(role, path):
        raise PermissionDenied(
            f"The role {role} does not include the page {section}. Open /dashboard, or ask an administrator for "
            "another role.",
            code="dashboard-role",
        )
