"""Requests of an identity provider by SCIM, at a company with many people and large groups."""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.attacks.buyer import ADMIN_KEY, KEY_SETTINGS, Attempts
from tests.attacks.lab import Attack, Row
from tests.faults.client import Answer
from tests.support.company import fill_company

_TOKEN = "scim-token-of-an-attack-0123456789abcdef"
_USERS = 20_000
_GROUPS = 60
_MEMBERS = 10_000
_TERMS = " or ".join(['meta.created lt "2020-01-01T00:00:00Z"'] * 50)
_MEMBER_TERMS = " or ".join(['members.value co "x"'] * 50)
_PATH_TERMS = " or ".join(['value co "x"'] * 50)
_READING = (
    "/Groups",
    "/Groups?count=200&attributes=members.value",
    "/Groups?filter=displayName%20sw%20%22group%22",
    f"/Groups?filter={quote(_MEMBER_TERMS)}",
    "/Users",
    f"/Users?filter={quote(_TERMS)}",
    "/Users?filter=groups.display%20pr",
    "/Users?filter=displayName%20co%20%22x%22",
    f"/Users?attributes={','.join(['userName'] * 1_500)}",
    f"/Groups?excludedAttributes={','.join(f'x{number}' for number in range(2_500))}",
)
_SEARCHES: Mapping[str, dict[str, Any]] = {
    "names": {"attributes": ["userName"] * 250_000},
    "pages": {"startIndex": 1, "count": 200},
}
_OPERATIONS: Mapping[str, list[dict[str, Any]]] = {
    "members in 20 operations": [{"op": "add", "path": "members", "value": ["a"] * 49_000}] * 20,
    "paths of 50 comparisons": [{"op": "remove", "path": f"members[{_PATH_TERMS}]"}] * 1_000,
    "keys of one value": [{"op": "add", "value": {f"urn:x:{number}": 1 for number in range(200_000)}}],
    "keys of one member": [{"op": "add", "path": "members", "value": {f"x{number}": 1 for number in range(240_000)}}],
    "one long path": [{"op": "remove", "path": "members[" + "(" * 3_000_000}],
}


def _provision(attack: Attack) -> list[Answer]:
    attempts = Attempts()
    client = attack.proxy.client(headers={"authorization": f"Bearer {_TOKEN}"}, timeout=120)
    assert client.get("/scim/v2/Users").status_code == 200  # which creates the database
    group = _fill(attack.proxy.log_file.parent)
    for path in _READING:
        answer = client.get(f"/scim/v2{path}")
        is_held = answer.status_code in (200, 400) and len(answer.content) < 16 << 20
        attempts.check(path[:80], is_held, (answer.status_code, len(answer.content), answer.text[:300]))
    for name, body in _SEARCHES.items():
        answer = client.post("/scim/v2/Groups/.search", json=body)
        is_held = answer.status_code in (200, 400) and len(answer.content) < 16 << 20
        attempts.check(f"search by {name}", is_held, (answer.status_code, len(answer.content), answer.text[:300]))
    for name, operations in _OPERATIONS.items():
        data = json.dumps({"Operations": operations}, separators=(",", ":")).encode()
        answer = client.patch(f"/scim/v2/Groups/{group}", content=data)
        attempts.check(name, answer.status_code in (204, 400), (answer.status_code, answer.text[:300]))
    return attempts.finish(attack)


def _fill(directory: Path) -> str:
    """Store people and groups, and return the id of a group."""
    users = [f"{number:08d}-0000-4000-8000-000000000000" for number in range(_USERS)]
    groups = [f"{number:08d}-1111-4000-8000-000000000000" for number in range(_GROUPS)]
    (file,) = directory.rglob("keys.sqlite3")
    with closing(sqlite3.connect(file, timeout=30)) as connection, connection:
        bodies = [json.dumps({"active": True, "userName": f"p{number}"}) for number in range(_USERS)]
        connection.executemany(
            "INSERT INTO scim_users (id, user_name, body, version, created_at, changed_at) VALUES (?, ?, ?, 1, 1, 1)",
            [(user, f"p{number}", body) for number, (user, body) in enumerate(zip(users, bodies, strict=True))],
        )
        connection.executemany(
            "INSERT INTO scim_groups (id, name, name_key, version, created_at, changed_at) VALUES (?, ?, ?, 1, 1, 1)",
            [(group, f"group {number}", f"group {number}") for number, group in enumerate(groups)],
        )
        members = ((group, user) for group in groups for user in users[:_MEMBERS])
        connection.executemany("INSERT INTO scim_members VALUES (?, ?)", members)
    return groups[0]


_PEOPLE = 30_000
_LISTS = (
    "/admin/keys",
    "/admin/keys?limit=1000",
    *(f"/admin/keys?status={status}" for status in ("active", "inactive", "expired", "revoked", "unreadable")),
    "/admin/keys?team=build",
    "/admin/sign-ins",
    "/admin/sign-ins?limit=1000",
    "/admin/teams",
    "/admin/audit",
    "/dashboard/keys",
    "/dashboard/keys?by=expired",
    "/dashboard/keys?q=p29",
    "/dashboard/keys/audit",
)


def _list(attack: Attack) -> list[Answer]:
    """Look at all lists, while keys are created."""
    attempts = Attempts()
    client = attack.proxy.client(headers={"x-api-key": ADMIN_KEY}, timeout=120)
    assert client.get("/admin/keys").status_code == 200  # which creates the database
    fill_company(attack.proxy.log_file.parent, _PEOPLE)
    for number, path in enumerate(_LISTS):
        created = client.post("/admin/keys", json={"name": f"key-{number}"})
        attempts.check(f"create before {path}", created.status_code == 200, (created.status_code, created.text[:300]))
        answer = client.get(path)
        is_held = answer.status_code == 200 and len(answer.content) < 1 << 20
        attempts.check(path, is_held, (answer.status_code, len(answer.content), answer.text[:300]))
    return attempts.finish(attack)


PROVISIONING: tuple[Row, ...] = (
    Row(
        name="provisioning: lists of administrators at a company of 30,000 people",
        run=_list,
        settings=KEY_SETTINGS,
        input_mib=8,  # the keys, which the server keeps in memory
    ),
    Row(
        name="provisioning: lists, filters and changes at a company of large groups",
        run=_provision,
        settings={**KEY_SETTINGS, "SCIM_TOKEN": _TOKEN},
        input_mib=4,
    ),
)
