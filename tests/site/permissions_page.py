"""docs/reference/permissions.md: what each role may do, and which permission each URL path needs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.permissions import ROLES, Permission, Role, find_permission, may
from anthropic_proxy.gateway.plugin_packages import open_plugins
from anthropic_proxy.gateway.server.endpoints import ENDPOINTS
from anthropic_proxy.gateway.settings import load_settings
from tests.site.pages import DOCS

PAGE = DOCS / "reference/permissions.md"
ALL_FEATURES = {
    "VIRTUAL_KEYS": "true",
    "DATABASE_URL": "sqlite:////data/ledger.sqlite3",
    "OIDC_ISSUER": "https://login.example.org",
    "OIDC_CLIENT_ID": "anthropic-proxy",
    "DASHBOARD_URL": "https://proxy.example.org",
    "SIGN_IN_SECRET": "text-of-32-characters-for-the-paths",
}
"""Settings with which the server has all paths."""
_PAGE = """\
# Permissions

<!-- Written by `python3 scripts/fix.py` from anthropic_proxy/gateway/permissions.py: change that instead. -->

[Access by role](../guide/team.md#access-by-role) says what each role is, sees and changes, and
[Company](../guide/company.md#roles) how a person gets it. A path that this page does not list needs `open other paths`.

## Roles

{roles}

Who `manages` keys may not give them any owner: a `member` or `viewer` creates keys for itself, and a `team admin` for
itself, for owners of other keys of the own teams, or for nobody. The owner sees the key and its creator, and the audit
log has both. Only an `admin` changes the owner of an existing key, and ends or allows the access of people and
services; the new owner reads no texts that others sent. [Owners](../guide/team.md#owners) has the table.

## Paths

*Own* is what belongs to the [person](../guide/people.md#who-is-who), not to an address. Keys are for the API; pages
below `/dashboard` are for browsers with a session. A page or an API of the own requests
shows a `member` nothing of others. Batches, files and skills (`/v1/messages/batches`, `/v1/files`, `/v1/skills`)
belong to the API key of the provider: people, services and virtual keys get 403 there, also where the table has `yes`.

{paths}
"""


def written_page() -> str:
    roles = [(permission, "", *_marks(permission)) for permission in ROLES]
    paths = [
        (f"`{path}`", ", ".join(methods), *_marks(permission))
        for (path, permission), methods in _group(list_served_paths()).items()
    ]
    names = [f"`{role}`" for role in get_args(Role)]
    return _PAGE.format(
        roles=_table(["permission", *names], [(row[0], *row[2:]) for row in roles]),
        paths=_table(["path", "method", *names], paths),
    )


def list_served_paths() -> Mapping[str, Sequence[str]]:
    """Return each URL path that the server serves with all features → its methods. HEAD is like GET."""
    served: dict[str, list[str]] = {}
    for path, methods in ENDPOINTS.items():
        served.setdefault(path, []).extend(methods)
    served["/v1/models/{id}"] = ["GET"]
    served["/v1/messages/batches"] = served["/v1/files"] = ["GET", "POST"]
    served["/metrics"] = ["GET"]
    settings = load_settings(ALL_FEATURES, PROVIDERS, env_file=None)
    for plugin in open_plugins(settings):
        for route in plugin.routes:
            served.setdefault(route.path, []).extend(route.methods)
    return {path: [name for name in dict.fromkeys(methods) if name != "HEAD"] for path, methods in served.items()}


def _group(served: Mapping[str, Sequence[str]]) -> Mapping[tuple[str, Permission], list[str]]:
    grouped: dict[tuple[str, Permission], list[str]] = {}
    for path in sorted(served):
        for method in served[path]:
            grouped.setdefault((path, find_permission(method, path)), []).append(method)
    return grouped


def _marks(permission: Permission) -> Sequence[str]:
    return ["yes" if may(role, permission) else "–" for role in get_args(Role)]


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
