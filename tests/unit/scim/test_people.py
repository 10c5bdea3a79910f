"""A user of SCIM and the person who signs in are one person, and nobody else is."""

import asyncio
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from functools import partial
from typing import Any

import msgspec
import pytest
from msgspec import structs

from anthropic_proxy.console.gateway_protocol.grants import Grants
from anthropic_proxy.console.identity.people import OidcError, OidcUser
from anthropic_proxy.console.keys.acceptance import list_key_states
from anthropic_proxy.console.keys.access_tokens import TokenKeys
from anthropic_proxy.console.keys.administration import KeyCommand, open_administration
from anthropic_proxy.console.keys.descriptions import describe_creator, encode_key
from anthropic_proxy.console.keys.group_tables import apply_group_tables, apply_marked_tables, mark_people
from anthropic_proxy.console.keys.key_table import KeyTable
from anthropic_proxy.console.keys.queries import find_key, list_audit_entries, list_keys
from anthropic_proxy.console.keys.sign_ins import SignIn, list_sign_ins, read_end_reason
from anthropic_proxy.console.keys.virtual_keys import AuditEntry, KeyState, VirtualKey
from anthropic_proxy.console.ledger.connection import DatabaseError
from anthropic_proxy.console.ledger.database import open_for_reading, open_for_writing
from anthropic_proxy.console.scim.plugin import open_plugin
from anthropic_proxy.console.scim.schema import ENTERPRISE_SCHEMA
from anthropic_proxy.console.scim.store import MAX_PAGE_BYTES
from anthropic_proxy.console.units import to_microseconds
from anthropic_proxy.gateway.settings import OidcSettings, Settings, SignInGroup, SignInSettings
from anthropic_proxy.plugins import Client, RouteRequest
from anthropic_proxy.secrets import Secret
from tests.support.ledger import NOON
from tests.support.sign_in import answer
from tests.support.waiting import WAIT_SECONDS, wait_for_async

ISSUER, CLIENT, ANN = "https://login.example.org", "proxy", "ann@example.org"
GROUPS = (SignInGroup(name="platform", team="core"), SignInGroup(name="Id of Developers", team="build"))
OTHER_ACCOUNT = "ann@example.org is the address of another account of the identity provider here."


class Company:
    def __init__(self, settings: Settings) -> None:
        self.now = NOON
        sign_in = SignInSettings(secrets=(Secret("s" * 32),), groups=GROUPS)
        oidc = OidcSettings(issuer=ISSUER, client_id=CLIENT)
        self.settings = structs.replace(settings, oidc=oidc, sign_in=sign_in, virtual_keys=True)
        self._plugin = open_plugin(self.settings, lambda: self.now)

    async def send(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Any:
        """Return the status and the body."""
        path, _, query = path.partition("?")
        parameters = {name: [value] for name, _, value in (part.partition("=") for part in query.split("&") if part)}
        request = RouteRequest(
            method=method,
            path=f"/scim/v2{path}",
            query=parameters,
            body=b"" if body is None else msgspec.json.encode(body),
            headers=headers or {},
            client=Client(name="SCIM token 1", role="provisioner"),
        )
        response = await self._plugin.routes[0].respond(request)
        assert isinstance(response.body, bytes)
        return response.status, msgspec.json.decode(response.body) if response.body else None

    async def create(self, name: str, **fields: Any) -> str:
        status, created = await self.send("POST", "/Users", {"userName": name, **fields})
        assert status == 201, created
        return str(created["id"])

    async def create_group(self, name: str, *members: str, **fields: Any) -> str:
        body = {"displayName": name, "members": [{"value": member} for member in members], **fields}
        status, created = await self.send("POST", "/Groups", body)
        assert status == 201, created
        return str(created["id"])

    async def set_active(self, user: str, *, active: bool) -> None:
        operation = {"op": "replace", "path": "active", "value": active}
        status, _ = await self.send("PATCH", f"/Users/{user}", {"Operations": [operation]})
        assert status == 200

    def sign_in(self, subject: str, email: str = ANN, groups: tuple[str, ...] = (), *, cost_center: str = "") -> SignIn:
        sign_in = self.settings.sign_in
        assert sign_in is not None
        grants = Grants(self.settings, TokenKeys(sign_in), lambda: self.now)
        code, user_code = grants.create_code("claude-code", "192.0.2.1")
        waiting = grants.find_code("user_code", user_code)
        assert waiting is not None
        user = OidcUser(ISSUER, CLIENT, subject, email, groups, cost_center=cost_center)
        grants.approve(grants.identify(waiting.code_hash, user, "token"))
        _, stored, _ = grants.redeem(code)
        assert stored is not None
        return stored

    def refuse(self, subject: str, email: str = ANN, groups: tuple[str, ...] = ()) -> str:
        with pytest.raises(OidcError) as refused:
            self.sign_in(subject, email, groups)
        return refused.value.cause

    def add_users(self, number: int) -> list[str]:
        """Store users without an address, and return their ids in order."""
        rows = [
            {
                "id": f"{n:08d}-0000-4000-8000-000000000000",
                "user_name": f"p{n}",
                "body": f'{{"active":true,"userName":"p{n}"}}',
                **dict.fromkeys(("external_id", "address", "key_id", "cost_center"), ""),
                **dict.fromkeys(("is_active", "version"), 1),
                **dict.fromkeys(("created_at", "changed_at"), to_microseconds(NOON)),
            }
            for n in range(number)
        ]
        with closing(open_for_writing(self.settings)) as connection, connection.transaction():
            connection.insert("scim_users", [*rows[0]], [[*row.values()] for row in rows])
        return [str(row["id"]) for row in rows]

    def execute(self, action: Any, target: str) -> None:
        with open_administration(self.settings, "test", lambda: self.now) as administration:
            administration.execute(KeyCommand(action=action, target=target))

    def find_key(self, name: str) -> VirtualKey:
        with closing(open_for_reading(self.settings)) as connection:
            key = find_key(connection, name)
        assert key is not None
        return key

    def list_audit(self) -> list[AuditEntry]:
        with closing(open_for_reading(self.settings)) as connection:
            return [*list_audit_entries(connection)]

    def list_sign_ins(self) -> list[SignIn]:
        with closing(open_for_reading(self.settings)) as connection:
            return [*list_sign_ins(connection, self.now)]

    def read_end_reason(self, sign_in: SignIn) -> str:
        with closing(open_for_reading(self.settings)) as connection:
            return read_end_reason(connection, "id", sign_in.id)

    def list_members_of_entries(self) -> list[tuple[str, object]]:
        """Return the action of each entry about a group, or about the groups of a user, with its members or groups."""
        with closing(open_for_reading(self.settings)) as connection:
            entries = list_audit_entries(connection)[::-1]
        listed = [(entry.action, entry.changes.get("members", entry.changes.get("groups"))) for entry in entries]
        return [(action, links) for action, links in listed if links]

    def list_entries(self) -> list[tuple[str, str]]:
        with closing(open_for_reading(self.settings)) as connection:
            return [(entry.actor, entry.action) for entry in list_audit_entries(connection)][::-1]


@pytest.fixture
async def company(database: Settings) -> AsyncIterator[Company]:
    company = Company(database)
    yield company
    assert company._plugin.stop is not None
    await company._plugin.stop()


async def test_a_person_who_is_deactivated_before_the_first_sign_in_is_refused_until_the_reactivation(
    company: Company,
) -> None:
    user = await company.create(ANN, active=False)
    await company.create_group("platform", user)
    assert company.refuse("1") == "The identity provider has deactivated ann@example.org (SCIM)."
    await company.set_active(user, active=True)
    assert company.sign_in("1").key_id == company.find_key(ANN).id
    assert company.find_key(ANN).team == "core"
    await company.send("DELETE", f"/Users/{user}")
    assert company.find_key(ANN).find_status(NOON) == "revoked"
    await company.create_group("developers", await company.create("x", emails=[{"value": "Ann@Example.org"}]))
    assert company.find_key(ANN).find_status(NOON) == "active"


async def test_states_say_that_scim_has_the_person_and_has_ended_it(company: Company) -> None:
    user = await company.create(ANN)
    bob = KeyCommand(action="create", fields={"label": "bob"})
    with open_administration(company.settings, "test", lambda: NOON) as administration:
        administration.execute(bob)
    with closing(open_for_reading(company.settings)) as connection:
        keys = list_keys(connection)
        states = dict(
            zip([key.label for key in keys], list_key_states(connection, company.settings, keys, NOON), strict=True)
        )
        assert (states[ANN].source, states["bob"].source) == ("scim", "")
        ann = next(key for key in keys if key.label == ANN)
        assert encode_key(ann, states[ANN])["source"] == "scim"
        assert describe_creator(ann, states[ANN]) == "the identity provider (SCIM)"
    await company.set_active(user, active=False)
    with closing(open_for_reading(company.settings)) as connection:
        (state,) = list_key_states(connection, company.settings, [company.find_key(ANN)], NOON)
    assert state == KeyState(
        "revoked",
        "The key 'ann@example.org' is rejected, because the identity provider has deactivated its owner (SCIM). "
        "An administrator of the identity provider activates the owner again.",
        remedy="An administrator of the identity provider activates the owner again.",
        wish="access",
        source="scim",
    )


async def test_what_an_administrator_has_ended_stays_ended_and_what_it_allows_is_allowed(company: Company) -> None:
    user = await company.create(ANN)
    company.execute("revoke", ANN)
    await company.set_active(user, active=False)
    await company.set_active(user, active=True)
    assert company.find_key(ANN).find_status(NOON) == "revoked"
    company.execute("allow", ANN)
    await company.set_active(user, active=False)
    company.execute("revoke", ANN)  # also after SCIM
    await company.set_active(user, active=True)
    assert company.find_key(ANN).find_status(NOON) == "revoked"
    await company.set_active(user, active=False)
    company.execute("allow", ANN)  # the way back, when a provider ends everybody
    assert company.find_key(ANN).find_status(NOON) == "active"


async def test_another_account_with_the_address_is_refused_until_an_administrator_decides(company: Company) -> None:
    user = await company.create(ANN)
    await company.create_group("platform", user)
    first = company.sign_in("1").key_id
    assert company.refuse("2") == OTHER_ACCOUNT
    company.execute("revoke", first)
    company.execute("leave", first)
    second = company.sign_in("2").key_id
    assert second != first
    assert company.find_key(second).team == "core"
    await company.set_active(user, active=False)
    assert company.find_key(second).find_status(NOON) == "revoked"


async def test_a_person_who_had_another_address_before_is_the_user_of_its_new_one(company: Company) -> None:
    earlier = company.sign_in("1", "a.lee@example.org", ("platform",)).key_id
    user = await company.create(ANN)
    await company.create_group("developers", user, externalId="Id of Developers")
    assert company.sign_in("1", ANN, ("platform",)).key_id == earlier
    await company.set_active(user, active=False)
    assert company.find_key(earlier).find_status(NOON) == "revoked"


async def test_scim_decides_about_its_groups_and_the_claim_about_others(company: Company) -> None:
    user = await company.create(ANN)
    assert company.sign_in("1", groups=("platform",)).key_id
    group = await company.create_group("platform")
    assert "none of the groups of the user gives access" in company.refuse("1", groups=("platform",))
    await company.create_group("developers", user, externalId="Id of Developers")
    company.sign_in("1", groups=("platform",))
    assert company.find_key(ANN).team == "build"
    await company.send("DELETE", f"/Groups/{group}")
    company.sign_in("1", groups=("platform",))
    assert company.find_key(ANN).team == "core"
    # a person whom SCIM does not have keeps the groups of the claim
    await company.create_group("platform")
    company.sign_in("3", "eve@example.org", ("platform",))
    assert company.find_key("eve@example.org").team == "core"


@pytest.mark.parametrize("way", ["PATCH remove", "PATCH replace", "PUT", "DELETE", "rename"])
async def test_who_leaves_a_group_gets_the_table_of_the_next_one_at_once(company: Company, way: str) -> None:
    ann, bob = await company.create(ANN), await company.create("bob@example.org")
    group = await company.create_group("platform", ann, bob)
    await company.create_group("developers", ann, externalId="Id of Developers")
    company.sign_in("1")
    company.sign_in("2", "bob@example.org")
    assert [company.find_key(name).team for name in (ANN, "bob@example.org")] == ["core", "core"]
    rest = [{"value": bob}]
    requests: dict[str, tuple[str, object]] = {
        "PATCH remove": ("PATCH", {"Operations": [{"op": "remove", "path": f'members[value eq "{ann}"]'}]}),
        "PATCH replace": ("PATCH", {"Operations": [{"op": "replace", "path": "members", "value": rest}]}),
        "PUT": ("PUT", {"displayName": "platform", "members": rest}),
        "DELETE": ("DELETE", None),
        "rename": ("PATCH", {"Operations": [{"op": "replace", "path": "displayName", "value": "other"}]}),
    }
    method, body = requests[way]
    status, _ = await company.send(method, f"/Groups/{group}", body)
    assert status in (200, 204)
    assert company.find_key(ANN).team == "build"


async def move_by_scim(company: Company, sign_in: SignIn, group: str) -> None:
    assert (await company.send("DELETE", f"/Groups/{group}"))[0] == 204


async def move_by_refresh(company: Company, sign_in: SignIn, group: str) -> None:
    assert company.settings.sign_in is not None
    grants = Grants(company.settings, TokenKeys(company.settings.sign_in), lambda: company.now)
    moved = structs.replace(sign_in.user, groups=("Id of Developers",))
    grants.renew(sign_in, answer(moved, company.now))


async def move_by_administrator(company: Company, sign_in: SignIn, group: str) -> None:
    with open_administration(company.settings, "test", lambda: company.now) as administration:
        administration.execute(KeyCommand(action="change", target=ANN, fields={"team": "build"}))


@pytest.mark.parametrize("move", [move_by_scim, move_by_refresh, move_by_administrator])
async def test_tables_are_applied_with_what_is_stored_at_that_moment(
    company: Company, move: Callable[[Company, SignIn, str], Awaitable[None]]
) -> None:
    """A reload gives all people other fields, and a person is moved meanwhile."""
    group = ""
    groups = ("platform",)
    if move is move_by_scim:
        ann = await company.create(ANN)
        group = await company.create_group("platform", ann)
        await company.create_group("developers", ann, externalId="Id of Developers")
        groups = ()
    sign_in = company.sign_in("1", groups=groups)
    assert company.find_key(ANN).team == "core"
    assert company.settings.sign_in is not None
    tables = structs.replace(
        company.settings.sign_in, groups=(SignInGroup(name="platform", team="site"), company.settings.sign_in.groups[1])
    )
    changed = structs.replace(company.settings, sign_in=tables)
    loop = asyncio.get_running_loop()

    def look() -> bool:
        """The people who differ are known, and the first transaction begins."""
        asyncio.run_coroutine_threadsafe(move(company, sign_in, group), loop).result(WAIT_SECONDS)
        return False

    await asyncio.to_thread(apply_group_tables, changed, look)
    assert company.find_key(ANN).team == "build"


async def add_waiting_people(company: Company, number: int) -> list[str]:
    """Store people whose groups give another team than they have, marked as by an instance that has ended, and return
    their addresses.
    """
    names = [f"p{one:03}@example.org" for one in range(number)]
    users = [await company.create(name) for name in names]
    await company.create_group("platform", *users)
    keys = [company.sign_in(name, name).key_id for name in names]
    with closing(open_for_writing(company.settings)) as connection, connection.transaction():
        connection.execute("UPDATE virtual_keys SET team = ''")
        mark_people(connection, [*keys, *keys[:3], "key_gone"])
    return names


async def test_another_instance_applies_the_tables_that_one_has_left(company: Company) -> None:
    names = await add_waiting_people(company, 60)

    def list_teams() -> list[str]:
        return sorted(company.find_key(name).team for name in names)

    def list_marks() -> int:
        with closing(open_for_reading(company.settings)) as connection:
            return int(connection.query("SELECT count(*) FROM pending_tables")[0][0])

    stops = iter((False, True))
    await asyncio.to_thread(apply_marked_tables, company.settings, lambda: next(stops))
    assert list_teams().count("core") in (49, 50)
    assert list_marks() == 11
    warnings = list[str]()
    table = KeyTable(company.settings, warnings.append)
    assert await table.refresh()
    await wait_for_async(list_marks, lambda number: number == 0)
    assert list_teams() == ["core"] * 60
    changes = [each.target for each in company.list_audit() if each.actor == "settings ([sign_in.groups])"]
    assert len(changes) == len(set(changes)) == 60
    await table.stop()
    assert warnings == []


@pytest.mark.parametrize("is_marked", [True, False])
async def test_a_person_whose_row_cannot_be_changed_leaves_the_tables_of_all_others(
    company: Company, *, is_marked: bool
) -> None:
    names = await add_waiting_people(company, 12)
    bad = company.find_key(names[7])
    with closing(open_for_writing(company.settings)) as connection:
        connection.insert("virtual_keys", ("id", "label", "team", "created_at"), [("key_1", "other", "core", 0)])
        connection.execute(f"CREATE UNIQUE INDEX refuse ON virtual_keys (team) WHERE id IN ('key_1', '{bad.id}')")
        if not is_marked:
            connection.execute("DELETE FROM pending_tables")
    apply = apply_marked_tables if is_marked else apply_group_tables
    with pytest.raises(DatabaseError, match=r"(?i)unique"):
        await asyncio.to_thread(apply, company.settings)
    assert {name: company.find_key(name).team for name in names} == {**dict.fromkeys(names, "core"), names[7]: ""}
    with closing(open_for_writing(company.settings)) as connection:
        marks = [key_id for (key_id,) in connection.query("SELECT key_id FROM pending_tables")]
        assert marks == [bad.id] * is_marked
        connection.execute("DROP INDEX refuse")
    await asyncio.to_thread(apply, company.settings)
    assert company.find_key(names[7]).team == "core"


@pytest.mark.parametrize(("seconds", "is_taken"), [(5, True), (-1, False), (3_600, False)])
async def test_one_instance_applies_tables_at_a_time(company: Company, seconds: int, *, is_taken: bool) -> None:
    """Another one goes on after its end; a clock that is ahead keeps nobody waiting."""
    (name,) = await add_waiting_people(company, 1)
    with closing(open_for_writing(company.settings)) as connection, connection.transaction():
        row = {"name": "group tables", "value": "another", "expires_at": to_microseconds(NOON + seconds)}
        connection.insert_row("shared_values", row)
    stops = iter((False, True))
    await asyncio.to_thread(apply_marked_tables, company.settings, lambda: next(stops), lambda: NOON)
    assert company.find_key(name).team == ("" if is_taken else "core")


async def test_an_instance_that_stops_in_a_change_of_a_group_leaves_the_rest_to_others(company: Company) -> None:
    names = [f"p{one:03}@example.org" for one in range(120)]
    users = [await company.create(name) for name in names]
    for name in names:
        company.sign_in(name, name, ("Id of Developers",))
    table = KeyTable(company.settings, lambda text: None)
    assert await table.refresh()
    other = Company(company.settings)
    group = await other.create_group("platform")
    operation = {"op": "add", "path": "members", "value": [{"value": user} for user in users]}
    change = asyncio.create_task(other.send("PATCH", f"/Groups/{group}", {"Operations": [operation]}))
    await wait_for_async(lambda: [company.find_key(name).team for name in names], lambda teams: "core" in teams)
    assert other._plugin.stop is not None
    await other._plugin.stop()
    assert (await change)[0] == 204
    assert await table.refresh()
    await wait_for_async(lambda: {company.find_key(name).team for name in names}, lambda teams: teams == {"core"})
    await table.stop()


async def test_a_deactivation_ends_each_device_for_good(company: Company) -> None:
    user = await company.create(ANN)
    await company.create_group("platform", user)
    bob = await company.create("bob@example.org")
    await company.create_group("developers", bob, externalId="Id of Developers")
    devices = [company.sign_in("1"), company.sign_in("1")]
    other = company.sign_in("2", "bob@example.org")
    await company.set_active(user, active=False)
    assert [sign_in.id for sign_in in company.list_sign_ins()] == [other.id]
    for device in devices:
        assert company.read_end_reason(device) == "The identity provider has deactivated ann@example.org (SCIM)."
    await company.set_active(user, active=True)
    assert [sign_in.id for sign_in in company.list_sign_ins()] == [other.id]
    again = company.sign_in("1")
    assert {sign_in.id for sign_in in company.list_sign_ins()} == {again.id, other.id}
    assert again.id not in {device.id for device in devices}
    await company.send("DELETE", f"/Users/{user}")
    assert [sign_in.id for sign_in in company.list_sign_ins()] == [other.id]


async def test_scim_decides_about_a_cost_center_that_it_has_and_the_claim_about_others(company: Company) -> None:
    async def change(op: str, value: object = None) -> None:
        operation = {"op": op, "path": f"{ENTERPRISE_SCHEMA}:costCenter", "value": value}
        status, _ = await company.send("PATCH", f"/Users/{user}", {"Operations": [operation]})
        assert status == 200

    user = await company.create(ANN, **{ENTERPRISE_SCHEMA: {"costCenter": "4711"}})
    await company.create_group("platform", user)
    company.sign_in("1", cost_center="4000")
    assert company.find_key(ANN).cost_center == "4711"
    for sent, booked in (("4712", "4712"), ("x" * 65, "4000"), ("4713", "4713")):
        await change("replace", sent)
        assert company.find_key(ANN).cost_center == booked
    await change("remove")
    assert company.find_key(ANN).cost_center == "4000"
    status, found = await company.send("GET", f'/Users?filter={ENTERPRISE_SCHEMA}:costCenter eq "4712"')
    assert (status, found["totalResults"]) == (200, 0)


async def test_names_and_addresses_are_unique_and_a_waiting_person_follows_its_address(company: Company) -> None:
    user = await company.create("ann", emails=[{"value": ANN}])
    conflict = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"], "status": "409", "scimType": "uniqueness"}
    assert await company.send("POST", "/Users", {"userName": "ANN"}) == (
        409,
        {**conflict, "detail": "Another resource has the userName 'ANN'."},
    )
    assert await company.send("POST", "/Users", {"userName": ANN}) == (
        409,
        {**conflict, "detail": "Another resource has the address 'ann@example.org'."},
    )
    changed = {"userName": "ann", "emails": [{"value": "a.lee@example.org"}]}
    assert (await company.send("PUT", f"/Users/{user}", changed, {"if-match": 'W/"9"'}))[0] == 412
    assert (await company.send("PUT", f"/Users/{user}", changed, {"if-match": 'W/"1"'}))[0] == 200
    await company.create_group("platform", user)
    assert company.sign_in("1", "a.lee@example.org").key_id == company.find_key("a.lee@example.org").id


async def test_a_put_without_a_state_does_not_reactivate(company: Company) -> None:
    user = await company.create(ANN, active=False)
    _, put = await company.send("PUT", f"/Users/{user}", {"userName": ANN, "displayName": "<b>Ann</b>"})
    assert (put["active"], put["displayName"]) == (False, "<b>Ann</b>")
    assert company.find_key(ANN).find_status(NOON) == "revoked"


async def test_instances_that_change_a_group_or_create_a_user_at_the_same_time_lose_nothing(company: Company) -> None:
    people = [await company.create(f"{number}@example.org") for number in range(8)]
    group = await company.create_group("platform")
    other = Company(company.settings)
    add = []
    for one, user in zip([company, other] * 4, people, strict=True):
        operation = {"op": "add", "path": "members", "value": [{"value": user}]}
        add.append(one.send("PATCH", f"/Groups/{group}", {"Operations": [operation]}))
    assert {status for status, _ in await asyncio.gather(*add)} <= {200, 204}
    _, found = await other.send("GET", f"/Groups/{group}")
    assert {member["value"] for member in found["members"]} == {*people}
    created = await asyncio.gather(*(one.send("POST", "/Users", {"userName": ANN}) for one in [company, other] * 2))
    assert sorted(status for status, _ in created) == [201, 409, 409, 409]
    assert other._plugin.stop is not None
    await other._plugin.stop()


async def test_lists_have_pages_filters_and_only_the_wanted_attributes(company: Company) -> None:
    users = [await company.create(f"user{number}@example.org") for number in range(5)]
    group = await company.create_group("platform", *users)
    _, listed = await company.send("GET", "/Users?startIndex=2&count=2&attributes=userName")
    assert (listed["totalResults"], listed["startIndex"], listed["itemsPerPage"]) == (5, 2, 2)
    assert [sorted(row) for row in listed["Resources"]] == [["id", "schemas", "userName"]] * 2
    _, found = await company.send("GET", '/Users?filter=userName eq "USER3@example.org"')
    assert [row["id"] for row in found["Resources"]] == [users[3]]
    _, found = await company.send("GET", '/Users?filter=userName sw "user" and not (userName co "3")&count=0')
    assert (found["totalResults"], found["Resources"]) == (4, [])
    _, found = await company.send("GET", f'/Groups?filter=members[value eq "{users[0]}"]&excludedAttributes=members')
    assert [(row["id"], "members" in row) for row in found["Resources"]] == [(group, False)]
    refused = await company.send("GET", "/Users?filter=x")
    assert (refused[0], refused[1]["scimType"]) == (400, "invalidFilter")


async def test_a_page_ends_with_the_resource_that_fills_it_and_the_client_goes_on(company: Company) -> None:
    members = company.add_users(5_000)
    groups = [await company.create_group(f"group {number}", *members) for number in range(12)]
    seen = list[str]()
    while not seen or len(seen) < 12:
        _, page = await company.send("POST", "/Groups/.search", {"startIndex": len(seen) + 1, "count": 200})
        size = len(msgspec.json.encode(page))
        assert (page["totalResults"], page["startIndex"]) == (12, len(seen) + 1)
        assert page["itemsPerPage"] == len(page["Resources"]) > 0
        assert size < MAX_PAGE_BYTES + len(msgspec.json.encode(page["Resources"][0])) + 1_000
        assert all([one["value"] for one in row["members"]] == members for row in page["Resources"])
        seen += [row["id"] for row in page["Resources"]]
    assert sorted(seen) == sorted(groups)
    _, page = await company.send("GET", "/Groups?excludedAttributes=members")
    assert (page["itemsPerPage"], "members" in page["Resources"][0]) == (12, False)
    _, page = await company.send("GET", "/Groups?attributes=members.value&count=1")
    assert page["Resources"][0]["members"][-1] == {"value": members[-1]}


async def test_the_memory_for_a_page_of_groups_is_that_of_few_pages(company: Company) -> None:
    members = company.add_users(5_000)
    for number in range(30):
        await company.create_group(f"group {number}", *members)
    await company.send("GET", "/Groups?count=1")  # imports and caches are there
    tracemalloc.start()
    try:
        _, page = await company.send("GET", "/Groups")
        del page
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # the size of the body, of its parts, and what this test decodes: the objects of a page have five times its size
    assert peak < 12 * MAX_PAGE_BYTES


@pytest.mark.parametrize(("method", "path"), [("POST", "/Users"), ("PUT", "/Groups/x"), ("PATCH", "/Users/x")])
async def test_a_body_of_many_values_is_refused_before_it_is_decoded(company: Company, method: str, path: str) -> None:
    status, refused = await company.send(method, path, {"Operations": [0] * 260_000})
    detail = "The body has more than 250,000 list elements and object members."
    assert (status, refused["scimType"], refused["detail"]) == (400, "tooMany", detail)


@pytest.mark.parametrize("name", ["attributes", "excludedAttributes"])
async def test_many_names_of_attributes_are_refused(company: Company, name: str) -> None:
    user = await company.create(ANN)
    names = [f"x{number}" for number in range(201)]
    refusal = (400, "201 names of attributes; 200 are allowed.")
    status, refused = await company.send("POST", "/Users/.search", {name: names})
    assert (status, refused["detail"]) == refusal
    for method, path, body in (
        ("GET", f"/Users/{user}", None),
        ("PATCH", f"/Users/{user}", {"Operations": [{"op": "replace", "path": "active", "value": False}]}),
        ("POST", "/Users", {"userName": "ben"}),
    ):
        status, refused = await company.send(method, f"{path}?{name}={','.join(names)}", body)
        assert (status, refused["detail"]) == refusal
    _, listed = await company.send("GET", "/Users")
    assert [(row["userName"], row["active"]) for row in listed["Resources"]] == [(ANN, True)]  # nothing was changed


async def test_a_user_and_a_host_that_would_fill_pages_are_refused(company: Company) -> None:
    emails = [{"value": f"{number}{'x' * 900}", "display": "y" * 900} for number in range(100)]
    status, refused = await company.send("POST", "/Users", {"userName": ANN, "emails": emails})
    size = len(msgspec.json.encode({"active": True, "userName": ANN, "emails": emails}))
    assert (status, refused["detail"]) == (400, f"The user has {size:,} bytes of attributes; 32,768 are allowed.")
    status, refused = await company.send("GET", "/Users", headers={"host": "x" * 30_000})
    assert (status, refused["detail"]) == (400, "The header Host has 30,000 characters; 259 are allowed.")


@pytest.mark.parametrize(
    ("path", "text", "shown"),
    [
        ("/Users", " or ".join(['meta.created lt "2020-01-01"'] * 40), "40 comparisons with each of 20,000 users"),
        ("/Users", 'groups.display co "x"', "1 comparison with each of 20,000 users and 20,000 groups of them"),
        (
            "/Groups",
            " or ".join(['members.value sw "x"'] * 50),
            "50 comparisons with each of 1 group and 20,000 members of them",
        ),
    ],
)
async def test_a_filter_that_compares_too_much_is_refused_before(
    company: Company, path: str, text: str, shown: str
) -> None:
    members = company.add_users(20_000)
    await company.create_group("platform", *members)
    status, refused = await company.send("GET", f"{path}?filter={text}")
    assert (status, refused["scimType"]) == (400, "tooMany")
    assert refused["detail"].startswith(
        f"The filter compares too much: {shown}. Use fewer comparisons, or add one with "
    )
    if path == "/Users":  # with an equality that an index finds, the same filter is small
        status, found = await company.send("GET", f'/Users?filter=id eq "{members[3]}" and ({text})')
        assert (status, found["totalResults"]) == (200, 0)


async def test_members_and_groups_are_found_by_an_index(company: Company) -> None:
    members = company.add_users(20_000)
    small = await company.create_group("small", members[1], members[2])
    large = await company.create_group("large", *members)
    for text, found in {
        f'members eq "{members[1]}"': {small, large},
        f'members.value eq "{members[1].upper()}" and displayName sw "s"': {small},
        f'members[value eq "{members[3]}"]': {large},
        f'id eq "{small}" and members eq "{members[1]}"': {small},
        f'id eq "{small}" and members eq "{members[3]}"': set[str](),
        f'members[value eq "{members[1]}"] and not (members.value eq "{members[3]}")': {small},
    }.items():
        status, listed = await company.send("GET", f"/Groups?filter={text}&attributes=id")
        assert (status, {row["id"] for row in listed["Resources"]}) == (200, found), text
    status, listed = await company.send("GET", f'/Users?filter=groups eq "{small}"&attributes=id')
    assert (status, [row["id"] for row in listed["Resources"]]) == (200, members[1:3])


async def test_the_work_of_a_deactivation_does_not_grow_with_the_number_of_people(company: Company) -> None:
    calls = []
    for count in (5, 100):
        for number in range(count):
            await company.create(f"user{count}-{number}@example.org")
        key = company.find_key(f"user{count}-0@example.org")
        other = company.find_key(f"user{count}-1@example.org")
        with open_administration(company.settings, "test", lambda: company.now) as administration:
            with administration.changing():
                administration.set_provisioned_access(other, has_access=False)  # imports and caches are there
            with administration.changing():
                calls.append(_count_calls(partial(administration.set_provisioned_access, key, has_access=False)))
        assert company.find_key(key.id).find_status(NOON) == "revoked"
    assert calls[1] < 2 * calls[0]


def _count_calls(function: Callable[[], None]) -> int:
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


async def test_each_change_is_in_the_audit_log(company: Company) -> None:
    user = await company.create(ANN)
    await company.set_active(user, active=False)
    await company.send("DELETE", f"/Users/{user}")
    actor = "SCIM (SCIM token 1)"
    assert company.list_entries() == [
        (actor, "create key"),
        (actor, "create SCIM user"),
        (actor, "change SCIM user"),
        (actor, "revoke key"),
        (actor, "delete SCIM user"),
    ]


async def test_entries_name_each_person_who_got_or_lost_a_group(company: Company) -> None:
    ids = company.add_users(120)
    people = [f"{user_id} p{number}" for number, user_id in enumerate(ids)]
    group = await company.create_group("platform", *ids)
    await company.send("PATCH", f"/Groups/{group}", {"Operations": [{"op": "remove", "path": "members"}]})
    await company.send("PUT", f"/Groups/{group}", {"displayName": "platform", "members": [{"value": ids[7]}]})
    renamed = {"displayName": "developers", "members": [{"value": ids[7]}, {"value": ids[8]}]}
    await company.send("PUT", f"/Groups/{group}", renamed)
    await company.send("DELETE", f"/Users/{ids[7]}")
    await company.send("DELETE", f"/Groups/{group}")
    expected: list[tuple[str, object]] = [
        ("create SCIM group", ([], people[:100])),
        ("create SCIM group", ([], people[100:])),
        ("change SCIM group", (people[:100], [])),
        ("change SCIM group", (people[100:], [])),
        ("change SCIM group", ([], [people[7]])),
        ("change SCIM group", ([people[7]], [people[7], people[8]])),
        ("delete SCIM user", ([f"{group} developers"], [])),
        ("delete SCIM group", ([people[8]], [])),
    ]
    assert company.list_members_of_entries() == expected
