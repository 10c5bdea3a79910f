"""The administration creates, changes, rotates and revokes keys for clients with an admin key only."""

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from anthropic_proxy.app import App
from anthropic_proxy.console.keys.api import build_document
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings
from tests.support.calls import counting_calls
from tests.support.company import fill_company
from tests.support.virtual_keys import Response, running_app, send
from tests.support.waiting import wait_for_async

ADMIN = "admin-0123456789"
ASKED = {"model": "demo/demo", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with running_app(tmp_path, ADMIN_API_KEY=ADMIN, PROXY_API_KEY="pk-0123456789") as app:
        yield app


async def administer(app: App, method: str, path: str, body: object = None) -> Response:
    return await send(app, method, path, body, x_api_key=ADMIN)


def conforms(response: Response, name: str) -> None:
    """Validate a response against a schema of the document."""
    document = build_document()
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.validate(response.json, schema)


async def test_calls_that_wait_for_the_database_hold_nothing_else(app: App, tmp_path: Path) -> None:
    """Another program holds the lock of the database."""
    with closing(_open_file(tmp_path)) as other:
        other.execute("BEGIN IMMEDIATE")
        bodies = [{"name": f"ci-{number}"} for number in range(67)]
        calls = [asyncio.create_task(administer(app, "POST", "/admin/keys", body)) for body in bodies]
        refused = [call async for call in _list_ended(calls, 5)]
        assert {call.status for call in refused} == {529}
        large = {**ASKED, "messages": [{"role": "user", "content": "word " * 200_000}]}
        for method, path, body in (
            ("GET", "/metrics", None),
            ("GET", "/dashboard/keys", None),
            ("POST", "/v1/messages", large),
        ):
            assert (await send(app, method, path, body, x_api_key="pk-0123456789")).status == 200
        assert not all(call.done() for call in calls)
        other.execute("ROLLBACK")
        await asyncio.gather(*calls)


def _open_file(folder: Path) -> sqlite3.Connection:
    (file,) = folder.rglob("ledger.sqlite3")
    return sqlite3.connect(file, isolation_level=None)


async def _list_ended(calls: list["asyncio.Task[Response]"], count: int) -> AsyncIterator[Response]:
    """Yield the responses of the calls that end first."""
    await wait_for_async(lambda: sum(call.done() for call in calls), lambda done: done >= count)
    for call in calls:
        if call.done():
            yield call.result()


async def test_a_key_is_used_as_soon_as_it_is_created_and_rejected_as_soon_as_it_is_revoked(app: App) -> None:
    fields = {"name": "ci", "team": "build", "requests_per_minute": 9, "expires_at": "2099-01-01T00:00:00Z"}
    budget = {"amount": 5, "unit": "tokens", "period": "day", "models": "", "soft": False}
    created = await administer(app, "POST", "/admin/keys", {**fields, "budgets": [budget]})
    assert created.status == 200
    conforms(created, "VirtualKey")
    key, id_ = created.json["key"], created.json["id"]
    assert (created.json["status"], created.json["expires_at"]) == ("active", "2099-01-01T00:00:00Z")
    replied = await send(app, "POST", "/v1/messages", ASKED, x_api_key=key)
    used = replied.json["usage"]["input_tokens"] + replied.json["usage"]["output_tokens"]
    shown = await administer(app, "GET", f"/admin/keys/{id_}")
    assert (shown.json["id"], shown.json["spending"]) == (
        id_,
        [{**budget, "used": used, "forecast": None}],
    )
    changed = await administer(app, "POST", f"/admin/keys/{id_}", {"owner": "ada", "requests_per_minute": None})
    assert (changed.json["owner"], changed.json["requests_per_minute"], changed.json["team"]) == ("ada", None, "build")
    assert changed.json["budgets"] == [budget]
    rotated = await administer(app, "POST", f"/admin/keys/{id_}/rotate", {"overlap_seconds": 60})
    assert rotated.json["key"] != key
    assert (await send(app, "GET", "/v1/models", x_api_key=rotated.json["key"])).status == 200
    assert (await administer(app, "POST", f"/admin/keys/{id_}/revoke")).json["status"] == "revoked"
    for text in (key, rotated.json["key"]):
        assert (await send(app, "GET", "/v1/models", x_api_key=text)).status == 401
    listed = await administer(app, "GET", "/admin/keys?status=revoked&team=build")
    assert [row["id"] for row in listed.json["data"]] == [id_]
    assert "key" not in listed.json["data"][0]
    audited = await administer(app, "GET", "/admin/audit?limit=2")
    assert [row["action"] for row in audited.json["data"]] == ["revoke key", "rotate key"]
    assert {row["actor"] for row in audited.json["data"]} == {"API (admin key 1)"}
    assert audited.json["has_more"]
    older = await administer(app, "GET", f"/admin/audit?after_id={audited.json['last_id']}")
    assert [row["action"] for row in older.json["data"]] == ["change key", "create key"]


async def test_keys_are_listed_by_status_and_team(app: App) -> None:
    created = [
        await administer(app, "POST", "/admin/keys", {"name": name, "team": team})
        for name, team in (("a", "build"), ("b", "build"), ("c", "ops"))
    ]
    await administer(app, "POST", f"/admin/keys/{created[0].json['id']}/revoke")

    async def list_names(query: str) -> set[str]:
        return {row["name"] for row in (await administer(app, "GET", f"/admin/keys{query}")).json["data"]}

    assert await list_names("") == {"a", "b", "c"}
    assert await list_names("?status=active") == {"b", "c"}
    assert await list_names("?team=build") == {"a", "b"}
    assert await list_names("?status=active&team=build") == {"b"}
    assert await list_names("?status=revoked&team=ops") == set()
    first = (await administer(app, "GET", "/admin/keys?status=active&limit=1")).json
    second = (await administer(app, "GET", f"/admin/keys?status=active&limit=1&after_id={first['last_id']}")).json
    names = [row["name"] for page in (first, second) for row in page["data"]]
    assert (names, first["has_more"], second["has_more"]) == (["c", "b"], True, False)
    refused = await administer(app, "GET", f"/admin/keys?team=build&after_id={created[2].json['id']}")
    assert refused.json["error"]["message"].startswith("after_id: 'key_")


LISTS = {
    "/admin/keys": ["key_03", "key_02", "key_01"],
    "/admin/keys?status=active": ["key_03", "key_02", "key_01"],
    "/admin/keys?status=expired": [],
    "/admin/keys?team=build": ["key_03", "key_02", "key_01"],
    "/admin/sign-ins": ["sign_03", "sign_02", "sign_01"],
    "/admin/teams": ["team 01", "team 02", "team 03"],
    "/admin/audit": [3, 2, 1],
}


@pytest.mark.parametrize(("path", "expected"), LISTS.items(), ids=LISTS)
async def test_each_list_has_pages(app: App, tmp_path: Path, path: str, expected: list[object]) -> None:
    fill_company(tmp_path, 3)
    listed, after, joint = list[object](), "", "&" if "?" in path else "?"
    name = "name" if path == "/admin/teams" else "id"
    for number in range(1, 4):
        page = (await administer(app, "GET", f"{path}{joint}limit=1{after}")).json
        ids = [row[name] for row in page["data"]]
        has_row = number <= len(expected)
        listed += ids
        position = ids[0] if ids else None
        assert {**page, "data": ids} == {
            "data": expected[number - 1 : number],
            "has_more": number < len(expected),
            "first_id": position,
            "last_id": position,
        }
        after = f"&after_id={position}" if has_row else ""
    assert listed == expected
    assert (await administer(app, "GET", f"{path}{joint}limit=1001")).status == 400


async def test_the_work_of_a_list_does_not_grow_with_the_company(tmp_path: Path) -> None:
    calls = dict[str, list[int]]()
    for number in (300, 1_200):
        directory = tmp_path / str(number)
        directory.mkdir()
        async with running_app(directory, ADMIN_API_KEY=ADMIN) as app:
            fill_company(directory, number)
            for path in LISTS:
                await administer(app, "GET", path)  # imports and caches are there
                with counting_calls() as counted:
                    answer = await administer(app, "GET", path)
                assert answer.status == 200
                calls.setdefault(path, []).append(counted[0])
    grown = {path: counts for path, counts in calls.items() if counts[1] > 1.2 * counts[0]}
    assert grown.keys() == {"/admin/keys?status=expired"}, "it looks for keys in a state that none has"


@pytest.mark.parametrize("path", ["/admin/keys", "/admin/sign-ins", "/admin/audit"])
async def test_a_position_that_is_not_in_the_list_is_named(app: App, path: str) -> None:
    refused = await administer(app, "GET", f"{path}?after_id=nobody")
    assert (refused.status, refused.message) == (400, "after_id: 'nobody' is not an id of this list.")


async def test_token_counts_have_a_limit_of_their_own_and_lists_of_models_none(app: App) -> None:
    limits = {"requests_per_minute": 1, "concurrency": 1, "models": ["demo/*"]}
    budget = {"amount": 1_000_000, "unit": "tokens", "period": "total"}
    created = await administer(app, "POST", "/admin/keys", {"name": "ci", **limits, "budgets": [budget]})
    key, counted = created.json["key"], {"model": "demo/demo", "messages": ASKED["messages"]}
    for _ in range(3):
        assert (await send(app, "GET", "/v1/models", x_api_key=key)).status == 200
        assert (await send(app, "GET", "/v1/models/demo/demo", x_api_key=key)).status == 200
    for path, body, most in (("/count_tokens", counted, "100 token counts"), ("", ASKED, "1 request")):
        for _ in range(int(most.partition(" ")[0])):
            served = await send(app, "POST", f"/v1/messages{path}", body, x_api_key=key)
            assert served.status == 200
        refused = await send(app, "POST", f"/v1/messages{path}", body, x_api_key=key)
        assert (refused.status, re.sub(r"\d+ s\b", "N s", refused.message)) == (
            429,
            f"The key 'ci' has reached its limit of {most} per minute. Try again in N s. Ask an "
            "administrator of the proxy for more.",
        )


async def test_a_key_is_limited_to_a_route(tmp_path: Path) -> None:
    route = '[[routes]]\nname = "small"\nwhen = { tier = "haiku" }\ntargets = ["demo/demo"]\n'
    (tmp_path / CONFIG_FILE).write_text(route, encoding="utf-8")
    async with running_app(tmp_path, ADMIN_API_KEY=ADMIN) as app:
        created = await administer(app, "POST", "/admin/keys", {"name": "ci", "routes": ["small"]})
        conforms(created, "VirtualKey")
        key = created.json["key"]
        replied = await send(app, "POST", "/v1/messages", {**ASKED, "model": "claude-haiku-4-5"}, x_api_key=key)
        assert (replied.status, replied.headers["x-proxy-route"]) == (200, "small")
        refused = await send(app, "POST", "/v1/messages", ASKED, x_api_key=key)
        assert (refused.status, refused.json["error"]["type"], refused.message) == (
            403,
            "permission_error",
            "The key 'ci' allows only requests of certain routes, and no route matches this one. Allowed: small. "
            "Ask an administrator of the proxy for other routes.",
        )


async def test_a_team_is_changed(app: App) -> None:
    changed = await administer(app, "POST", "/admin/teams/build", {"concurrency": 3})
    conforms(changed, "Team")
    assert (await administer(app, "GET", "/admin/teams")).json["data"] == [{**changed.json, "spending": []}]


async def test_teams_have_the_used_amounts_of_their_budgets(app: App) -> None:
    budgets = [{"amount": 1_000_000, "unit": "tokens", "period": "month"}]
    await administer(app, "POST", "/admin/teams/build", {"budgets": budgets})
    await administer(app, "POST", "/admin/teams/docs", {"concurrency": 2})
    created = await administer(app, "POST", "/admin/keys", {"name": "ci", "team": "build"})
    reply = await send(app, "POST", "/v1/messages", ASKED, x_api_key=created.json["key"])
    usage = reply.json["usage"]
    used = {
        **budgets[0],
        "used": usage["input_tokens"] + usage["output_tokens"],
        "models": "",
        "soft": False,
        "forecast": None,
    }

    async def list_spending() -> list[list[Any]]:
        listed = await administer(app, "GET", "/admin/teams")
        return [[row["name"], row["spending"]] for row in listed.json["data"]]

    await wait_for_async(list_spending, [["build", [used]], ["docs", []]].__eq__)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/admin/keys", {}, 400, "name: Field required. Use a unique label for the key."),
        (
            *("POST", "/admin/keys", {"name": "x", "rpm": 3}, 400),
            "The body is not valid: Object contains unknown field `rpm`. The fields are in /admin/openapi.json.",
        ),
        (
            *("POST", "/admin/keys", {"name": "x", "expires_at": "2099-01-01T00:00:00"}, 400),
            "expires_at has no time zone. Use a time such as 2026-12-31T00:00:00Z, or null.",
        ),
        (
            *("POST", "/admin/keys", {"name": "x", "expires_at": "1970-01-01T00:00:00Z"}, 400),
            "The expiry is in the past. Use a later time, or revoke the key.",
        ),
        ("GET", "/admin/keys/none", None, 404, "There is no key 'none'. List the keys:  anthropic-proxy keys list"),
        ("GET", "/admin/keys?limit=0", None, 400, "limit is '0'. Use a whole number from 1 to 1,000."),
        (
            "GET",
            "/admin/keys?status=old",
            None,
            400,
            "status is 'old'. Use active, inactive, expired, revoked or unreadable.",
        ),
        ("GET", "/admin/audit?after_id=x", None, 400, "after_id: 'x' is not an id of this list."),
        (
            *("GET", "/admin/audit?page=2", None, 400),
            "'page' is not a parameter of /admin/audit. Use limit, after_id.",
        ),
    ],
)
async def test_an_invalid_request_is_named(
    app: App, method: str, path: str, body: object, status: int, message: str
) -> None:
    response = await administer(app, method, path, body)
    assert (response.status, response.message) == (status, message)


async def test_other_keys_have_no_access(app: App) -> None:
    denied = await send(app, "GET", "/admin/keys", x_api_key="pk-0123456789")
    assert (denied.status, denied.message) == (
        403,
        "/admin/keys needs one of ADMIN_API_KEY. PROXY_API_KEY is not accepted there.",
    )
    assert (await send(app, "GET", "/admin/keys")).status == 401


async def test_without_an_admin_key_there_is_no_administration(tmp_path: Path) -> None:
    async with running_app(tmp_path, PROXY_API_KEY="pk-0123456789") as app:
        denied = await send(app, "GET", "/admin/keys", x_api_key="pk-0123456789")
        assert (denied.status, denied.message) == (
            403,
            "ADMIN_API_KEY is not set. Set it to a key of your choice, and use it for /admin.",
        )


@pytest.mark.parametrize(
    ("statements", "condition"),
    [
        (["UPDATE alembic_version SET version_num = 'newer'"], "has the tables of a newer version of the proxy"),
        (["BEGIN EXCLUSIVE"], "is locked by another program"),
        (["PRAGMA writable_schema=ON", "UPDATE sqlite_master SET sql = 'damaged'"], "is damaged"),
    ],
)
async def test_a_database_that_cannot_be_changed_is_reported_with_its_condition(
    app: App, tmp_path: Path, statements: Sequence[str], condition: str
) -> None:
    assert (await administer(app, "POST", "/admin/keys", {"name": "ci"})).status == 200
    with closing(sqlite3.connect(tmp_path / "anthropic-proxy/ledger.sqlite3", isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)
        denied = await administer(app, "POST", "/admin/keys/ci/revoke")
    assert (denied.status, denied.message) == (
        529,
        f"The proxy cannot check keys, because its database {condition}. Try again in a moment.",
    )


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/admin/keys/\0", "id"),
        ("POST", "/admin/keys/\0", "id"),
        ("POST", "/admin/keys/\0/rotate", "id"),
        ("POST", "/admin/keys/\0/revoke", "id"),
        ("POST", "/admin/teams/\0", "name"),
        ("GET", "/admin/keys?team=%00", "team"),
    ],
)
async def test_a_null_character_is_rejected(app: App, method: str, path: str, name: str) -> None:
    response = await administer(app, method, path, {} if method == "POST" else None)
    assert (response.status, response.message) == (400, f"{name}: the value contains a character that no text has.")


async def test_an_unreadable_team_and_key_have_the_reason(tmp_path: Path) -> None:
    async with running_app(tmp_path, ADMIN_API_KEY=ADMIN) as app:
        await administer(app, "POST", "/admin/teams/build", {"concurrency": 1})
        await administer(app, "POST", "/admin/keys", {"name": "ci"})
        connection = open_for_writing(Settings(data_directory=tmp_path / "anthropic-proxy"))
        for table in ("teams", "virtual_keys"):
            connection.execute(f"UPDATE {table} SET rules = '[]'")
        connection.close()
        for path, owner in (("/admin/teams", "team 'build'"), ("/admin/keys", "key 'ci'")):
            (listed,) = (await administer(app, "GET", path)).json["data"]
            assert listed["problem"] == (
                f"The {owner} cannot be read from the database: Expected `object`, got `array`. A newer version of the "
                "proxy may have stored it."
            )
