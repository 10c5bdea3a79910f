"""An identity provider creates, changes and ends people and groups by SCIM, at servers that share a database."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx2 as httpx
import pytest
from scim2_client.engines.httpx2 import SyncSCIMClient
from scim2_tester import Status, check_server

from tests.support.fakes.oidc import FakeProvider, running_provider
from tests.support.server_process import Proxy, running_proxy
from tests.support.sign_in import Device, list_sign_in_settings, sign_in_to_dashboard
from tests.support.waiting import wait_for

TOKEN = "scim-canary0123456789abcdef0123456789"
ADMIN_KEY = "admin-canary0123456789abcdef01234567"
TABLES = """
[sign_in]
keys_per_person = 3

[sign_in.groups.platform]
team = "core"
role = "admin"

[sign_in.groups.leads]
team = "build"
role = "team admin"

[sign_in.groups.developers]
team = "build"
"""


class Fleet(NamedTuple):
    instances: Sequence[Proxy]
    provider: FakeProvider

    @property
    def scim(self) -> httpx.Client:
        return self.instances[0].client(headers={"authorization": f"Bearer {TOKEN}"})

    @property
    def admin(self) -> httpx.Client:
        return self.instances[1].client(headers={"x-api-key": ADMIN_KEY})

    def create(self, path: str, **fields: Any) -> dict[str, Any]:
        answer = self.scim.post(f"/scim/v2/{path}", json=fields)
        assert answer.status_code == 201, answer.text
        created: dict[str, Any] = answer.json()
        return created

    def patch(self, path: str, *operations: dict[str, Any]) -> int:
        body = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"], "Operations": list(operations)}
        return self.scim.patch(f"/scim/v2/{path}", json=body).status_code

    def find_developers(self) -> dict[str, Any]:
        listed = self.scim.get("/scim/v2/Groups", params={"filter": 'displayName eq "Developers"'}).json()
        found: dict[str, Any] = next(iter(listed["Resources"]), None) or self.create("Groups", displayName="developers")
        return found

    def sign_in(self, name: str) -> list[Device]:
        """Sign in as this person, and return the device, as a load balancer sends its requests to each instance."""
        self.provider.user = {"sub": f"id of {name}", "email": f"{name}@example.com", "email_verified": True}
        device = Device(self.instances[0])
        device.sign_in()
        copies = [Device(instance) for instance in self.instances]
        for copy in copies:
            copy.tokens = device.tokens
        return copies


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory: Path = tmp_path_factory.mktemp("scim")
    (directory / "anthropic-proxy.toml").write_text(TABLES, "utf-8")
    with ExitStack() as stack:
        provider = stack.enter_context(running_provider())
        provider.offers_refresh = True
        settings = {
            **list_sign_in_settings(provider),
            "ADMIN_API_KEY": ADMIN_KEY,
            "SCIM_TOKEN": TOKEN,
            "SERVE_DEMO": "true",
            "LOG_LEVEL": "warning",
            "DATABASE_URL": f"sqlite:///{directory}/ledger.sqlite3",
        }
        instances = [stack.enter_context(running_proxy(directory, settings))]
        provider.redirect_uri = f"{instances[0].url}/dashboard/oidc/callback"
        settings["DASHBOARD_URL"] = instances[0].url
        instances += [stack.enter_context(running_proxy(directory, settings)) for _ in range(3)]
        yield Fleet(instances, provider)
        assert provider.problems == []


def list_states(copies: Sequence[Device]) -> list[int]:
    return [copy.send().status_code for copy in copies]


def test_a_deactivated_person_has_no_access_at_all_instances_until_the_reactivation(fleet: Fleet) -> None:
    ann = fleet.create("Users", userName="ann@example.com", emails=[{"value": "ann@example.com", "primary": True}])
    add = {"op": "Add", "path": "members", "value": [{"value": ann["id"]}]}
    assert fleet.patch(f"Groups/{fleet.find_developers()['id']}", add) == 204
    copies = fleet.sign_in("ann")
    assert list_states(copies) == [200] * 4
    browser = sign_in_to_dashboard(fleet.instances[0])
    assert browser.get("/dashboard/requests").status_code == 200
    own = fleet.instances[2].client(headers={"authorization": f"Bearer {copies[0].tokens['access_token']}"})
    created = own.post("/admin/keys", json={"name": "laptop"}).json()["key"]

    # the form of Microsoft Entra ID
    assert fleet.patch(f"Users/{ann['id']}", {"op": "Replace", "path": "active", "value": "False"}) == 200
    wait_for(lambda: list_states(copies) == [401] * 4)
    wait_for(lambda: [copy.send(created).status_code for copy in copies] == [401] * 4)
    wait_for(lambda: browser.get("/dashboard/requests").status_code == 303)
    assert copies[3].refresh().status_code == 400
    listed = {row["name"]: row["status"] for row in fleet.admin.get("/admin/keys").json()["data"]}
    assert listed == {"ann@example.com": "revoked", "laptop": "revoked"}
    with pytest.raises(AssertionError, match=r"The identity provider has deactivated ann@example\.com \(SCIM\)\."):
        fleet.sign_in("ann")

    assert fleet.patch(f"Users/{ann['id']}", {"op": "replace", "value": {"active": True}}) == 200
    again = fleet.sign_in("ann")
    wait_for(lambda: list_states(again) == [200] * 4)
    assert [copy.send(created).status_code for copy in copies] == [401] * 4


def test_a_group_of_scim_decides_about_team_role_and_access(fleet: Fleet) -> None:
    bob = fleet.create("Users", userName="bob", emails=[{"value": "bob@example.com"}])
    platform = fleet.create("Groups", displayName="platform", members=[{"value": bob["id"]}])
    copies = fleet.sign_in("bob")
    wait_for(lambda: list_states(copies) == [200] * 4)
    browser = sign_in_to_dashboard(fleet.instances[0])
    wait_for(lambda: browser.get("/dashboard/settings").status_code == 200)
    rows = fleet.admin.get("/admin/keys").json()["data"]
    assert [row["team"] for row in rows if row["name"] == "bob@example.com"] == ["core"]

    group = fleet.find_developers()
    add = {"op": "Add", "path": "members", "value": [{"value": bob["id"]}]}
    assert fleet.patch(f"Groups/{group['id']}", add) == 204
    remove = {"op": "remove", "path": f'members[value eq "{bob["id"]}"]'}
    assert fleet.patch(f"Groups/{platform['id']}", remove) == 204
    rows = fleet.admin.get("/admin/keys").json()["data"]
    assert [row["team"] for row in rows if row["name"] == "bob@example.com"] == ["build"]
    wait_for(lambda: browser.get("/dashboard/settings").status_code == 403)

    assert fleet.patch(f"Groups/{group['id']}", remove) == 204
    wait_for(lambda: list_states(copies) == [403] * 4)
    assert fleet.patch(f"Groups/{group['id']}", add) == 204
    wait_for(lambda: list_states(copies) == [200] * 4)
    assert fleet.scim.delete(f"/scim/v2/Users/{bob['id']}").status_code == 204
    wait_for(lambda: list_states(copies) == [401] * 4)


@pytest.mark.parametrize("change", ["role", "team"])
def test_an_open_live_view_ends_when_its_reader_gets_other_rights(fleet: Fleet, change: str) -> None:
    """An earlier one of an administrator stays open: the other does not end with its minute."""
    address = f"lead-{change}@example.com"
    lead = fleet.create("Users", userName=address, emails=[{"value": address}])
    leads = fleet.create("Groups", displayName="leads", members=[{"value": lead["id"]}])
    device, *_ = fleet.sign_in(f"lead-{change}")
    browser = sign_in_to_dashboard(fleet.instances[0])
    before, after = (
        fleet.admin.post("/admin/keys", json={"name": f"{change}-{name}", "team": "build"}).json()["key"]
        for name in ("before", "after")
    )
    wait_for(lambda: device.send(after).status_code == 200)
    with (
        fleet.instances[0].client(headers={"x-api-key": ADMIN_KEY}).stream("GET", "/api/requests/live") as earlier,
        browser.stream("GET", "/dashboard/live") as stream,
        ThreadPoolExecutor(1) as threads,
    ):
        rows = threads.submit(lambda: "".join(stream.iter_text()))
        if change == "role":
            assert fleet.patch(f"Groups/{leads['id']}", {"op": "remove", "path": "members"}) == 204
        else:
            assert fleet.admin.post(f"/admin/keys/{address}", json={"team": "core"}).status_code == 200
        wait_for(lambda: device.send(before).status_code == 200 and rows.done())
        last = device.send(after).headers["request-id"]
        assert any(last in line for line in earlier.iter_lines())
    assert fleet.scim.delete(f"/scim/v2/Groups/{leads['id']}").status_code == 204
    assert f'"{change}-before"' in rows.result()


def test_the_token_of_scim_opens_nothing_else_and_no_other_key_opens_scim(fleet: Fleet) -> None:
    for path in ("/v1/models", "/admin/keys", "/api/requests", "/dashboard/keys", "/metrics"):
        assert fleet.scim.get(path).status_code in (401, 403), path
    assert fleet.admin.get("/scim/v2/Users").status_code == 403
    assert fleet.instances[0].client().get("/scim/v2/Users").status_code == 401


def test_a_client_that_builds_its_model_from_the_schemas_sends_all_attributes(fleet: Fleet) -> None:
    with fleet.instances[0].client(headers={"authorization": f"Bearer {TOKEN}"}) as http:
        http.base_url = f"{fleet.instances[0].url}/scim/v2"
        client = SyncSCIMClient(http)
        client.discover()
        user_model, group_model = client.get_resource_model("User"), client.get_resource_model("Group")
        assert user_model is not None
        assert group_model is not None
        fields: dict[str, Any] = {
            "userName": "dora",
            "externalId": "id of dora",
            "name": {"formatted": "Dr. Dora Ann Lee", "givenName": "Dora", "middleName": "Ann", "familyName": "Lee"},
            "displayName": "Dora",
            "emails": [{"value": "dora@example.com", "display": "Dora Lee"}],
            "active": True,
        }
        dropped = {
            "preferredLanguage": "de",
            "password": "secret-of-dora",
            "title": "Engineer",
            "profileUrl": "https://example.com/dora",
            "phoneNumbers": [{"value": "tel:+1-201-555-0123", "type": "work"}],
            "addresses": [{"formatted": "1 Main Street", "locality": "Springfield"}],
            "photos": [{"value": "https://example.com/dora.png", "type": "photo"}],
            "roles": [{"value": "developer"}],
        }
        created: Any = client.create(user_model.model_validate({**fields, **dropped}))
        user = fleet.scim.get(f"/scim/v2/Users/{created.id}").json()
        assert {name: user.get(name) for name in (*fields, *dropped)} == {**fields, **dict.fromkeys(dropped)}
        member = {"value": created.id, "display": "Dora", "type": "User", "$ref": user["meta"]["location"]}
        group: Any = client.create(group_model.model_validate({"displayName": "doras", "members": [member]}))
        assert fleet.scim.get(f"/scim/v2/Groups/{group.id}").json()["members"] == [
            {"value": created.id, "$ref": member["$ref"], "type": "User"}
        ]
        own = {"id": created.id, "meta": {"version": 'W/"version of the client"'}}
        client.replace(user_model.model_validate({**fields, **dropped, **own, "active": False}))
        rows = fleet.admin.get("/admin/keys").json()["data"]
        listed = {row["name"]: (row["status"], row["ended_by"]) for row in rows}
        assert listed["dora@example.com"] == ("revoked", "scim")
        client.delete(group_model, group.id)
        client.delete(user_model, created.id)


def test_the_checks_of_scim2_tester_find_no_failure(fleet: Fleet) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    with fleet.instances[0].client(headers=headers) as client:
        client.base_url = f"{fleet.instances[0].url}/scim/v2"
        results = check_server(SyncSCIMClient(client))
    failed = [
        f"{result.title} {result.resource_type}: {result.reason}"
        for result in results
        if result.status not in (Status.SUCCESS, Status.SKIPPED)
    ]
    assert failed == []
    assert len([result for result in results if result.status == Status.SUCCESS]) > 60
