"""The rows of a company with many people, in a database of SQLite that a server has created."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.support.sign_in import ISSUER

TEAMS = 50
"""Maximum number of teams with rules."""
_START = 1_790_000_000_000_000
_FAR = 2_500_000_000_000_000
_CLIENT = "proxy"


def fill_company(directory: Path, count: int) -> None:
    """Store people with a device each, the latest one last, in the database in a directory. Each is a user of SCIM, and
    half of them are in a group.
    """
    (file,) = directory.rglob("*.sqlite3")
    width = len(str(count)) + 1
    numbers = [f"{number:0{width}d}" for number in range(1, count + 1)]
    group = "group of half the company"
    with closing(sqlite3.connect(file, timeout=30, isolation_level=None)) as database:
        database.execute("BEGIN")

        def store(table: str, *rows: dict[str, object]) -> None:
            columns = ", ".join(rows[0])
            marks = ", ".join("?" * len(rows[0]))
            database.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", [[*row.values()] for row in rows])

        people = []
        for place, number in enumerate(numbers):
            address = f"p{number}@example.org"
            identity = {"issuer": ISSUER, "client_id": _CLIENT, "subject": f"subject {number}"}
            person = json.dumps({**identity, "email": address})
            people.append((f"key_{number}", address, identity, person, _START + place, number))
        store(
            "virtual_keys",
            *(
                {"id": key, "label": address, "owner": address, "team": "build", "created_at": at, **identity}
                for key, address, identity, _, at, _ in people
            ),
        )
        store("people", *({"key_id": key, "person": person, "stated_at": at} for key, _, _, person, at, _ in people))
        times = ("created_at", "checked_at", "refreshed_at")
        store(
            "sign_ins",
            *(
                {
                    "id": f"sign_{number}",
                    "key_id": key,
                    "refresh_hash": f"hash {number}",
                    "person": person,
                    "device": "claude-code",
                    "ends_at": _FAR,
                    **dict.fromkeys(times, at),
                }
                for key, _, _, person, at, number in people
            ),
        )
        store(
            "scim_users",
            *(
                {
                    "id": f"user-{number}",
                    "user_name": address,
                    "address": address,
                    "key_id": key,
                    "body": json.dumps({"active": True, "userName": address}),
                    "is_active": 1,
                    "version": 1,
                    **dict.fromkeys(("created_at", "changed_at"), at),
                }
                for key, address, _, _, at, number in people
            ),
        )
        store(
            "scim_groups",
            {"id": "group", "name": group, "name_key": group, "version": 1, "created_at": 1, "changed_at": 1},
        )
        store("scim_members", *({"group_id": "group", "user_id": f"user-{number}"} for number in numbers[::2]))
        store("teams", *({"name": f"team {number}"} for number in numbers[:TEAMS]))
        store(
            "audit_log",
            *(
                {"at": at, "actor": "sign-in", "action": "create key", "object": f"{key} {address}", "changes": "{}"}
                for key, address, _, _, at, _ in people
            ),
        )
        database.execute("COMMIT")
