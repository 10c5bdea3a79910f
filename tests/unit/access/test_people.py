"""A person is an issuer and a subject. Whoever gets the address of somebody else is another person, and reads nothing
of the earlier one; whoever gets another address keeps everything.
"""

import threading
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import insert, select

from anthropic_proxy.console.gateway_protocol.grants import Grants
from anthropic_proxy.console.identity.people import OidcError, OidcUser, resolve_role
from anthropic_proxy.console.keys.access_tokens import TokenKeys
from anthropic_proxy.console.keys.administration import KeyCommand, KeyOutcome, open_administration
from anthropic_proxy.console.keys.ended_people import EndedPeople
from anthropic_proxy.console.keys.group_tables import apply_group_tables
from anthropic_proxy.console.keys.key_table import KeyTable
from anthropic_proxy.console.keys.limits import build_key_scope
from anthropic_proxy.console.keys.queries import (
    find_key,
    list_audit_entries,
    list_keys,
    list_readable_keys,
    read_used_budgets,
)
from anthropic_proxy.console.keys.rights import ADMINISTRATOR, Rights
from anthropic_proxy.console.keys.sign_ins import SignIn, list_sign_ins
from anthropic_proxy.console.keys.virtual_keys import VirtualKey
from anthropic_proxy.console.ledger.audit import changing
from anthropic_proxy.console.ledger.database import open_for_reading, open_for_writing
from anthropic_proxy.console.ledger.engines import EngineReader
from anthropic_proxy.console.ledger.read_access import restrict_reading
from anthropic_proxy.console.ledger.tables import contents, hourly, requests
from anthropic_proxy.console.ledger.users import list_people_ids
from anthropic_proxy.errors import ProxyError
from anthropic_proxy.gateway.permissions import Role
from anthropic_proxy.gateway.settings import OidcSettings, Settings, SignInGroup, SignInSettings
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules
from anthropic_proxy.plugins import Client, Cost
from anthropic_proxy.secrets import Secret
from tests.support.ledger import NOON, new_receipt, reading, store
from tests.support.sign_in import answer
from tests.support.waiting import WAIT_SECONDS, wait_for_async

ISSUER, CLIENT = "https://login.example.org", "proxy"
ANN, SECOND = "ann@example.org", "ann@example.org (2)"
GROUPS = (
    SignInGroup(name="ann@example.org", team="leads", role="admin"),
    SignInGroup(name="ann@example.org (2)", team="site", role="viewer"),
    SignInGroup(name="*", team="core", rules=Rules(budgets=(Budget(5, "usd", "day"),))),
)


class Company:
    """The database of a company. A test sets `now`, and the identity provider that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self.now = NOON
        self.issuer, self.client, self.groups = ISSUER, CLIENT, GROUPS[2:]
        self._settings = settings
        self.warnings: list[str] = []
        self.table = KeyTable(settings, self.warnings.append, lambda: self.settings, lambda: self.now)

    @property
    def settings(self) -> Settings:
        return structs.replace(
            self._settings,
            oidc=OidcSettings(issuer=self.issuer, client_id=self.client),
            sign_in=SignInSettings(secrets=(Secret("a" * 32),), groups=self.groups),
            dashboard_url="https://proxy.example.org",
            virtual_keys=True,
            admins_read_content=False,
        )

    @property
    def grants(self) -> Grants:
        sign_in = self.settings.sign_in
        assert sign_in is not None
        return Grants(self.settings, TokenKeys(sign_in), lambda: self.now)

    def sign_in(self, subject: str, email: str = ANN) -> SignIn:
        self.now += 1
        code, user_code = self.grants.create_code("claude-code", "192.0.2.1")
        waiting = self.grants.find_code("user_code", user_code)
        assert waiting is not None
        user = OidcUser(self.issuer, self.client, subject, email)
        self.grants.approve(self.grants.identify(waiting.code_hash, user, "token"))
        _, stored, _ = self.grants.redeem(code)
        assert stored is not None
        return stored

    def refuse_sign_in(self, subject: str, email: str = ANN) -> str:
        with pytest.raises(OidcError) as refused:
            self.sign_in(subject, email)
        return refused.value.message

    def execute(self, action: Any, target: str = "", rights: Rights = ADMINISTRATOR, **fields: Any) -> KeyOutcome:
        self.now += 1
        with open_administration(self.settings, "test", lambda: self.now, rights) as administration:
            return administration.execute(KeyCommand(action=action, target=target, fields=fields))

    def refuse(self, action: Any, target: str = "", rights: Rights = ADMINISTRATOR, **fields: Any) -> str:
        with pytest.raises(ProxyError) as refused:
            self.execute(action, target, rights, **fields)
        return refused.value.message

    def find_rights(self, person: str, role: Role = "member") -> Rights:
        with closing(open_for_reading(self.settings)) as connection:
            return Rights(role=role, person=person, team="core", max_keys=3).resolve(connection)

    def find_key(self, name: str) -> VirtualKey:
        with closing(open_for_reading(self.settings)) as connection:
            key = find_key(connection, name)
        assert key is not None
        return key

    def list_labels(self, rights: Rights = ADMINISTRATOR) -> list[str]:
        with closing(open_for_reading(self.settings)) as connection:
            return sorted(key.label for key in list_readable_keys(connection, rights))

    def list_changes(self, key_id: str) -> list[tuple[str, dict[str, Any]]]:
        """The first one first."""
        with closing(open_for_reading(self.settings)) as connection:
            entries = list_audit_entries(connection, key_id=key_id)
        return [(entry.action, dict(entry.changes)) for entry in entries][::-1]

    async def store_requests(self, *names: str) -> None:
        """Store a request with a text for each key. The id of the request is the label of the key."""
        keys = [self.find_key(name) for name in names]
        clients = [Client(key.label, role="member", key_id=key.id, owner=key.owner, team=key.team) for key in keys]
        receipts = [
            new_receipt(client=one, request_id=one.name, started_at=self.now, session=one.name) for one in clients
        ]
        await store(self.settings, *receipts, cost=Cost(1_000_000_000, None, "test"))
        with reading(self.settings) as engine, engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA query_only=OFF")
            for name in names:
                row = {"request_id": name, "kind": "request", "started_at": 2**60, "size": 1, "data": b"1"}
                connection.execute(insert(contents).values(row))
            connection.commit()

    def read(self, rights: Rights) -> tuple[list[str], list[str], list[str]]:
        """Return what somebody reads: the requests, the sums of keys, and the texts."""
        with reading(self.settings) as engine, engine.connect() as connection:
            restrict_reading(connection, rights.resolve(EngineReader(connection)), self.settings)
            columns = (requests.c.id, hourly.c.key_label, contents.c.request_id)
            found, sums, texts = (sorted(connection.execute(select(column).distinct()).scalars()) for column in columns)
        return found, sums, texts


@pytest.fixture
async def company(database: Settings) -> AsyncIterator[Company]:
    company = Company(database)
    yield company
    await company.table.stop()


async def test_a_user_with_the_address_of_somebody_else_is_another_person(company: Company) -> None:
    first = company.sign_in("1")
    company.execute("create", rights=company.find_rights(first.key_id), label="laptop")
    company.execute("create", label="ci", owner="Ann@Example.org", team="core")
    company.execute("create", label="team-ci", team="core")
    await company.store_requests(ANN, "laptop", "ci", "team-ci")
    second = company.sign_in("2")
    assert second.key_id != first.key_id
    assert company.find_key(second.key_id).label == company.find_key(second.key_id).owner == SECOND
    company.execute("create", rights=company.find_rights(second.key_id), label="tablet")
    mine, others = company.find_rights(second.key_id), company.find_rights(first.key_id)
    assert company.list_labels(mine) == [SECOND, "tablet"]
    assert company.read(mine) == ([], [], [])
    assert company.list_labels(others) == [ANN, "ci", "laptop"]
    assert company.read(others) == ([ANN, "ci", "laptop"],) * 3
    lead = company.find_rights(second.key_id, "team admin")
    assert company.read(lead) == ([ANN, "ci", "laptop", "team-ci"], [ANN, "ci", "laptop", "team-ci"], [])
    company.now += 1
    await company.store_requests(SECOND, "tablet")
    assert company.read(mine) == ([SECOND, "tablet"],) * 3
    assert company.read(others) == ([ANN, "ci", "laptop"],) * 3
    for target in ("laptop", "ci", first.key_id, first.id):
        for action in ("change", "rotate", "revoke", "sign-out"):
            assert company.refuse(action, target, mine).startswith("There is no ")
    assert company.execute("sign-out", ANN, mine).sentence == f"1 sign-in of {SECOND} is ended."
    with closing(open_for_reading(company.settings)) as connection:
        budgets = [
            read_used_budgets(connection, company.settings, build_key_scope(key), company.now)[0].used
            for key in map(company.find_key, (first.key_id, second.key_id))
        ]
        assert [one.id for one in list_sign_ins(connection, company.now)] == [first.id]
    assert budgets == [2_000_000_000, 2_000_000_000], "each counts the sign-ins and own keys of one person"


async def test_what_an_address_means_is_named_if_two_people_have_had_it(company: Company) -> None:
    people = EndedPeople(lambda: company.settings, lambda: company.now)
    first, second = company.sign_in("1").key_id, company.sign_in("2").key_id
    company.execute("create", label="ci", owner=first)
    assert company.find_key("ci").owner == ANN
    named = (
        f"2 keys have or had the address 'ann@example.org': {first} 'ann@example.org', since 2026-11-21T12:00:01Z; "
        f"{second} 'ann@example.org (2)', since 2026-11-21T12:00:02Z. Use the id of one of them."
    )
    for action in ("change", "rotate", "revoke", "allow", "leave", "move", "sign-out"):
        for target in (ANN, "Ann@example.org"):
            assert company.refuse(action, target) == named.replace("'ann@example.org':", f"'{target}':")
    for action, target in (("create", ""), ("change", "ci")):
        assert company.refuse(action, target, label="ci-2", owner=ANN) == named
    assert company.execute("create", label="ci-2", owner=SECOND).key.owner == SECOND
    company.execute("revoke", first)
    assert company.list_changes(company.find_key("ci-2").id)[-1][0] == "create key"
    assert [company.find_key(name).revoked_at is None for name in (first, "ci", second, "ci-2")] == [
        *(False, False, True, True)
    ]
    assert [await people.is_ended(person, NOON) for person in (first, second)] == [True, False]
    assert company.sign_in("2").key_id == second
    assert company.refuse_sign_in("1") == "The key 'ann@example.org' is revoked, so the person may not sign in."
    assert "'ann@example.org', since 2026-11-21T12:00:01Z, revoked at " in company.refuse("revoke", ANN)
    company.execute("revoke", SECOND)
    company.now += 1
    assert await people.is_ended(second, NOON)


async def test_a_person_keeps_everything_with_another_address(company: Company) -> None:
    before = company.sign_in("1")
    company.execute("create", rights=company.find_rights(before.key_id), label="laptop")
    company.execute("create", label="ci", owner=ANN, team="core")
    company.execute("change", "ci", label="deploy")
    await company.store_requests(ANN, "laptop", "deploy")
    user = OidcUser(ISSUER, CLIENT, "1", "ann.lee@example.org")
    renewed = company.grants.renew(before, answer(user, company.now))
    assert renewed is not None
    assert renewed.key_id == before.key_id
    assert company.list_changes(before.key_id)[2][1]["label"] == (ANN, "ann.lee@example.org")
    assert {company.find_key(name).owner for name in ("laptop", "deploy", "ann.lee@example.org")} == {
        "ann.lee@example.org"
    }
    assert company.find_key("laptop").creator == "ann.lee@example.org"
    assert company.find_key("deploy").owner_since is None
    company.now += 1
    await company.store_requests("ann.lee@example.org")
    other = company.sign_in("2")
    assert company.find_key(other.key_id).label == SECOND, "the ledger has requests of the first one"
    mine, second = company.find_rights(before.key_id), company.find_rights(other.key_id)
    assert mine.names == {ANN, "ann.lee@example.org"}
    assert company.read(mine) == (["ann.lee@example.org", ANN, "deploy", "laptop"],) * 3
    assert company.read(second) == ([], [], [])
    with closing(open_for_reading(company.settings)) as connection:
        (spending,) = read_used_budgets(
            connection, company.settings, build_key_scope(company.find_key(before.key_id)), company.now
        )
    assert spending.used == 3_000_000_000
    assert company.execute("sign-out", "ann.lee@example.org").sentence == "1 sign-in of ann.lee@example.org is ended."
    assert "2 keys have or had the address 'ann@example.org'" in company.refuse("revoke", ANN)
    company.sign_in("1")
    assert company.find_key(before.key_id).label == ANN, "an own label comes back"
    assert company.sign_in("2").key_id == other.key_id


@pytest.mark.parametrize("has_left", [False, True])
async def test_an_earlier_person_who_gets_the_address_of_a_later_one_is_the_second_one(
    company: Company, has_left: bool
) -> None:
    company.groups = GROUPS
    ben, ann = company.sign_in("ben", "ben@example.org"), company.sign_in("ann")
    await company.store_requests(ANN, "ben@example.org")
    if has_left:
        company.execute("revoke", ANN)
    for _ in range(2):  # the second one finds the new name
        renewed = company.sign_in("ben")
        assert (renewed.key_id, renewed.user.unique_name) == (ben.key_id, SECOND)
        assert resolve_role(company.settings, renewed.user) == "viewer"
        assert company.find_key(ben.key_id).team == "site"
    assert company.find_rights(ben.key_id).names == {"ben@example.org", SECOND}
    assert company.read(company.find_rights(ben.key_id)) == (["ben@example.org"],) * 3
    assert company.read(company.find_rights(ann.key_id)) == ([ANN],) * 3
    with closing(open_for_reading(company.settings)) as connection:
        assert list_people_ids(connection, ANN) == [ann.key_id, ben.key_id]


def test_an_address_has_one_spelling_and_a_new_account_is_a_new_person(company: Company) -> None:
    first = company.sign_in("1")
    assert company.sign_in("1").key_id == first.key_id
    recreated = company.sign_in("1-again")
    third = company.sign_in("one more")
    assert [company.find_key(one.key_id).label for one in (first, recreated, third)] == [
        ANN,
        SECOND,
        "ann@example.org (3)",
    ]
    assert company.sign_in("1").key_id == first.key_id


def test_the_name_of_a_person_has_at_most_100_characters(company: Company) -> None:
    address = f"{'x' * 84}@example.org"  # 96 characters
    assert [company.sign_in(subject, address).user.unique_name for subject in "12"] == [address, f"{address} (2)"]
    longer = f"x{address}"
    assert company.sign_in("3", longer).user.unique_name == longer
    assert company.refuse_sign_in("4", longer) == (
        f"The address {longer} is too long: the name '{longer} (2)' has 101 characters, and a name here has at most "
        "100."
    )


def test_a_name_is_given_once(company: Company) -> None:
    """A key with a text can have such a name too, but it is no owner before the person is known."""
    assert company.refuse("create", label="ci", owner=SECOND) == (
        "The owner is 'ann@example.org (2)', which is the name of no person. Use an address or a name."
    )
    company.execute("create", label=SECOND)
    company.execute("change", SECOND, label="other")
    first, second = company.sign_in("1"), company.sign_in("2")
    labels = [company.find_key(one.key_id).label for one in (first, second)]
    assert labels == [ANN, "ann@example.org (3)"]
    assert "Another key had the label 'ann@example.org (2)'" in company.refuse("create", label=SECOND)


def test_the_first_person_has_the_keys_that_were_given_to_the_address_before(company: Company) -> None:
    company.execute("create", label="ci", owner="Ann@example.org")
    company.execute("create", label=ANN, owner=ANN)
    company.execute("change", ANN, label="ann's key")
    first, second = company.sign_in("1"), company.sign_in("2")
    assert company.find_key(first.key_id).label == SECOND, "the ledger may have requests of the other key"
    assert company.list_labels(company.find_rights(first.key_id)) == ["ann's key", SECOND, "ci"]
    assert company.list_labels(company.find_rights(second.key_id)) == ["ann@example.org (3)"]


def test_a_revoked_address_waits_for_its_person(company: Company) -> None:
    waiting = company.execute("revoke", "Ann@example.org").key
    refused = "The key 'ann@example.org' is revoked, so the person may not sign in."
    assert [company.refuse_sign_in(subject) for subject in ("1", "2")] == [refused, refused]
    company.execute("allow", ANN)
    assert company.sign_in("2").key_id == waiting.id
    assert company.list_changes(waiting.id)[-2:][0] == (
        "change key",
        {
            "issuer": ("", ISSUER),
            "client_id": ("", CLIENT),
            "subject": ("", "2"),
            "team": ("", "core"),
            "budgets": ([], ["$5.00 per day"]),
        },
    )
    assert company.find_key(company.sign_in("1").key_id).label == SECOND, "an address is claimed once"


def test_an_address_that_belongs_to_somebody_else_now_gives_nothing_of_the_earlier_person(company: Company) -> None:
    company.execute("create", label="ci", owner=ANN)
    company.execute("revoke", ANN)
    done = company.execute("leave", ANN)
    assert done.sentence == "The next user with the address ann@example.org is another person than ann@example.org."
    other = company.sign_in("2")
    assert company.find_key(other.key_id).label == SECOND
    assert company.list_labels(company.find_rights(other.key_id)) == [SECOND]
    assert company.refuse("leave", "ci") == "The key 'ci' is no person."


CHANGES = [("https://new.example.org", CLIENT), (ISSUER, "another client")]


@pytest.mark.parametrize(("issuer", "client"), CHANGES)
def test_people_of_an_earlier_provider_go_on_after_they_are_moved(company: Company, issuer: str, client: str) -> None:
    """A provider may give each client other subjects, and another provider does."""
    before = company.sign_in("1")
    company.execute("create", rights=company.find_rights(before.key_id), label="laptop")
    company.issuer, company.client = issuer, client
    assert company.refuse_sign_in("pairwise 1") == (
        f"ann@example.org is known here from another identity provider or client ({ISSUER}, {CLIENT}). An "
        "administrator decides whether it is the same person:  anthropic-proxy keys move-people ann@example.org, or "
        "another one:  anthropic-proxy keys allow ann@example.org --new-person"
    )
    done = company.execute("move", ANN)
    assert done.sentence == "The next user with the address ann@example.org is ann@example.org."
    assert company.list_changes(before.key_id)[-1] == (
        "move person",
        {"issuer": (ISSUER, ""), "client_id": (CLIENT, ""), "subject": ("1", "")},
    )
    assert company.grants.find_active(before.id) is None
    assert company.sign_in("pairwise 1").key_id == before.key_id
    assert company.list_labels(company.find_rights(before.key_id)) == [ANN, "laptop"]
    assert company.find_key(company.sign_in("pairwise 2").key_id).label == SECOND, "once"
    assert company.refuse("move", "laptop") == "The key 'laptop' is no person."


async def test_a_move_ends_the_sessions_of_the_dashboard(company: Company) -> None:
    people = EndedPeople(lambda: company.settings, lambda: company.now)
    person = company.sign_in("1").key_id
    company.execute("move", person)
    company.now += 1
    assert await people.is_ended(person, NOON)
    assert not await people.is_ended(person, company.now)


def test_a_provider_that_gives_all_clients_one_subject_needs_no_move(company: Company) -> None:
    before = company.sign_in("1")
    company.client = "another client"
    assert company.sign_in("1").key_id == before.key_id
    company.issuer = "https://new.example.org"
    assert "is known here from another identity provider" in company.refuse_sign_in("1"), "a subject of another issuer"


def test_a_revoked_person_is_not_moved_and_two_waiting_ones_are_named(company: Company) -> None:
    first, second = company.sign_in("1").key_id, company.sign_in("2").key_id
    company.issuer = "https://new.example.org"
    company.execute("revoke", first)
    assert company.refuse("move", first) == (
        f"The key 'ann@example.org' is revoked. Allow the person first:  anthropic-proxy keys allow {first}"
    )
    company.execute("allow", first)
    company.execute("move", first)
    assert company.refuse("move", second).startswith("2 keys have or had the address 'ann@example.org'")
    assert company.sign_in("3").key_id == first


def test_an_address_that_several_people_wait_for_is_not_guessed(company: Company) -> None:
    """An instance of an earlier version, or an administrator of the database, can store such rows."""
    first, second = company.sign_in("1").key_id, company.sign_in("2").key_id
    with closing(open_for_writing(company.settings)) as connection:
        connection.execute("UPDATE virtual_keys SET issuer = '', client_id = '', subject = ''")
    assert company.refuse_sign_in("3") == (
        "ann@example.org may be 2 people of this proxy. An administrator ends this for all of them but one:  "
        "anthropic-proxy keys allow ID --new-person"
    )
    company.execute("leave", first)
    assert company.sign_in("3").key_id == second


def test_tables_and_roles_with_an_address_are_for_the_first_person(company: Company) -> None:
    company.groups = GROUPS
    signed_in = [company.sign_in(subject) for subject in ("1", "2", "3")]
    assert [company.find_key(one.key_id).team for one in signed_in] == ["leads", "site", "core"]
    assert [resolve_role(company.settings, one.user) for one in signed_in] == ["admin", "viewer", "member"]
    assert [one.user.unique_name for one in signed_in] == [ANN, SECOND, "ann@example.org (3)"]
    assert [one.user.email for one in signed_in] == [ANN] * 3


async def test_a_reload_applies_tables_to_each_person(company: Company) -> None:
    signed_in = [company.sign_in(subject) for subject in ("1", "2")]
    await company.table.refresh()
    company.groups = GROUPS
    laptop = company.execute("create", label="laptop").key
    await company.table.refresh()
    company.execute("revoke", "laptop")
    with closing(open_for_writing(company.settings)) as other, changing(other):
        await company.table.refresh()
        end = company.table.find_key_end(laptop.id)
        assert end is not None
        assert end.status == "revoked", "a revocation does not wait until all people have their tables"
    await wait_for_async(
        lambda: [company.find_key(one.key_id).team for one in signed_in], lambda teams: teams == ["leads", "site"]
    )
    assert company.warnings == []


def test_instances_apply_tables_in_short_transactions_and_each_person_once(company: Company) -> None:
    people = [company.sign_in(f"{number}", f"p{number}@example.org").key_id for number in range(60)]
    company.groups = (SignInGroup(name="*", team="site"),)
    barrier = threading.Barrier(3)
    looks = list[str]()

    def look(name: str) -> bool:
        """Another change of keys, between two transactions of one instance."""
        looks.append(name)
        company.execute("create", label=f"{name} {len(looks)}")
        return False

    def apply(name: str) -> None:
        barrier.wait(WAIT_SECONDS)
        apply_group_tables(company.settings, partial(look, name))

    threads = [threading.Thread(target=apply, args=(name,)) for name in ("one", "two", "three")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 2 <= len(looks) <= 6
    for key_id in people:
        assert company.find_key(key_id).team == "site"
        changed = [changes["team"] for action, changes in company.list_changes(key_id) if action == "change key"]
        assert changed == [("core", "site")]


async def test_a_sign_in_of_another_person_than_its_key_is_not_accepted(company: Company) -> None:
    first, second = company.sign_in("1"), company.sign_in("2")
    await company.table.refresh()
    assert company.table.find_sign_in(second.id) is not None
    with closing(open_for_writing(company.settings)) as connection, connection.transaction():
        connection.execute("UPDATE sign_ins SET key_id = ? WHERE id = ?", (first.key_id, second.id))
    company.execute("create", label="ci")  # instances read the keys again
    await company.table.refresh()
    assert company.table.find_sign_in(second.id) is None
    stolen = structs.replace(second, key_id=first.key_id)
    with pytest.raises(OidcError, match=r"^The sign-in is of a person who has been moved or replaced\."):
        company.grants.renew(stolen, answer(stolen.user, company.now))


def test_sign_ins_at_the_same_time_make_one_person(company: Company) -> None:
    """Two instances, and two devices of a user that has not signed in before."""
    failures = list[Exception]()

    def sign_in(subject: str) -> None:
        try:
            company.sign_in(subject)
        except Exception as error:  # noqa: BLE001  # shown below
            failures.append(error)

    threads = [threading.Thread(target=sign_in, args=(subject,)) for subject in ("1", "2") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with closing(open_for_reading(company.settings)) as connection:
        keys = list_keys(connection)
        people = {one.user.subject: one.key_id for one in list_sign_ins(connection, company.now)}
    assert sorted(key.label for key in keys) == [ANN, SECOND]
    assert {key.subject: key.id for key in keys} == people
