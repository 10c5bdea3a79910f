"""What a person, the administrator of a team and an administrator may do with virtual keys."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest
from msgspec import structs

from anthropic_proxy.console.keys.acceptance import list_key_states
from anthropic_proxy.console.keys.administration import (
    MAX_CHANGES_PER_DAY,
    MAX_OWN_SECRETS_PER_DAY,
    KeyAdministration,
    KeyCommand,
    KeyOutcome,
)
from anthropic_proxy.console.keys.key_table import KeyTable
from anthropic_proxy.console.keys.queries import list_audit_entries, list_keys, list_keys_by_id, list_readable_keys
from anthropic_proxy.console.keys.rights import Rights, is_person
from anthropic_proxy.console.keys.sign_ins import list_sign_ins
from anthropic_proxy.console.keys.virtual_keys import VirtualKey
from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.units import to_microseconds
from anthropic_proxy.errors import ProxyError
from anthropic_proxy.gateway.permissions import Role
from anthropic_proxy.gateway.settings import OidcSettings, Settings, SignInGroup, SignInSettings
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules
from anthropic_proxy.secrets import Secret
from tests.support.ledger import NOON
from tests.support.virtual_keys import OWN_KEYS, Keys, User, admit

ANN = User(role="member", address="ann@example.com", team="build", max_keys=2)
LEAD = User(role="team admin", address="lead@example.com", team="build", max_keys=2)
ADMIN = User(role="admin", address="")


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    with closing(open_for_writing(Settings(data_directory=tmp_path))) as connection:
        yield connection


class Office:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.now = NOON

    def find_rights(self, user: User) -> Rights:
        """A user without an address has a key of the administrators."""
        actor = f"dashboard ({user.address})"
        return user.find_rights(self.connection, actor, lambda: self.now) if user.address else Rights(role=user.role)

    def execute(self, user: User, action: Any, target: str = "", **fields: Any) -> KeyOutcome:
        actor = f"dashboard ({user.address or 'admin key 1'})"
        administration = KeyAdministration(self.connection, actor, lambda: self.now, self.find_rights(user))
        return administration.execute(KeyCommand(action=action, target=target, fields=fields))

    def refuse(self, user: User, action: Any, target: str = "", **fields: Any) -> str:
        with pytest.raises(ProxyError) as raised:
            self.execute(user, action, target, **fields)
        return f"{raised.value.status} {raised.value.message}"

    def list_seen(self, user: User) -> list[str]:
        """Without the keys of the people themselves."""
        seen = list_readable_keys(self.connection, self.find_rights(user).resolve(self.connection))
        return sorted(key.label for key in seen if not is_person(key))


@pytest.fixture
def office(connection: Connection) -> Office:
    office = Office(connection)
    office.execute(ADMIN, "create", label="bot", owner="bots", team="site")
    office.execute(ADMIN, "create", label="ci", owner="ann@example.com", team="build", models=("claude-*",))
    office.execute(ADMIN, "create", label="ben", owner="ben@example.com", team="build")
    return office


def test_a_person_creates_keys_with_its_owner_team_and_rules(office: Office) -> None:
    created = office.execute(ANN, "create", label="laptop", models=("claude-haiku-*",))
    assert (created.key.owner, created.key.team, bool(created.text)) == ("ann@example.com", "build", True)
    person = next(key for key in list_keys(office.connection) if key.label == "ann@example.com")
    assert (created.key.person, person.team, person.hashes) == (person.id, "build", ())
    assert office.execute(ANN, "change", "laptop", label="tablet").key.label == "tablet"
    assert office.execute(ANN, "rotate", "tablet").text
    office.execute(ANN, "create", label="second")
    assert office.refuse(ANN, "create", label="third") == (
        "400 You have 2 active keys, and keys_per_person of [sign_in] allows 2. Revoke one first."
    )
    office.execute(ANN, "revoke", "tablet")
    assert office.execute(ANN, "create", label="third").key.label == "third"
    entries = [
        (one.actor, one.action)
        for one in list_audit_entries(office.connection)
        if one.actor == "dashboard (ann@example.com)"
    ]
    assert entries[::-1] == [
        ("dashboard (ann@example.com)", action)
        for action in (
            *("create key", "create key", "change key", "rotate key", "create key", "revoke key", "create key"),
        )
    ]


def test_a_person_gets_a_bounded_number_of_texts_each_day(office: Office) -> None:
    """Each text is a row that every instance keeps in memory, also after a rotation or a revocation."""
    office.execute(ANN, "create", label="laptop")
    for _ in range(MAX_OWN_SECRETS_PER_DAY - 2):
        office.execute(ANN, "rotate", "laptop", overlap_seconds=60)
    office.execute(ANN, "create", label="tablet")
    office.execute(ANN, "revoke", "tablet")
    refusal = "429 Your keys got 100 new secrets within a day, and more are not created. Try again tomorrow."
    assert office.refuse(ANN, "create", label="phone") == refusal
    assert office.refuse(ANN, "rotate", "laptop") == refusal
    assert office.execute(ADMIN, "rotate", "laptop").text
    office.now += 86_401
    assert office.execute(ANN, "rotate", "laptop").text


@pytest.mark.parametrize("fields", [{"label": "{}"}, {"models": ["{}"]}], ids=["label", "rules"])
def test_a_person_makes_a_bounded_number_of_changes_each_day(office: Office, fields: dict[str, Any]) -> None:
    """The audit log keeps each one, and the ledger each former label."""
    key = office.execute(ANN, "create", label="laptop").key
    office.execute(ANN, "revoke", office.execute(ANN, "create", label="phone").key.id)  # no change
    tablet = office.execute(ANN, "create", label="tablet").key
    for number in range(MAX_CHANGES_PER_DAY - 4):  # the first entry is that of the person
        office.execute(ANN, "change", key.id, **json.loads(json.dumps(fields).replace("{}", f"v{number}")))
    refusal = (
        "429 You have made 300 changes within a day, and more are not made. Keys can still be revoked. Try again "
        "tomorrow."
    )
    assert office.refuse(ANN, "change", key.id, models=("other",)) == refusal
    assert office.refuse(ANN, "rotate", key.id) == refusal
    assert office.refuse(ANN, "create", label="phone") == refusal
    assert office.execute(ADMIN, "change", key.id, models=("other",)).changes
    assert office.execute(ANN, "revoke", tablet.id).key.revoked_at is not None
    office.now += 86_401
    assert office.execute(ANN, "change", key.id, models=()).changes
    assert office.execute(ANN, "revoke", key.id).key.revoked_at is not None


def test_a_person_gets_no_more_than_its_group(office: Office) -> None:
    for fields, message in (
        ({"owner": "ben@example.com"}, "The owner is 'ben@example.com'. Keys that ann@example.com creates have"),
        ({"team": "site"}, "The team is 'site'. Keys that ann@example.com creates have 'build': leave it out."),
    ):
        assert message in office.refuse(ANN, "create", label="laptop", **fields)
    office.execute(ANN, "create", label="laptop")
    assert office.refuse(ANN, "change", "laptop", team="site") == (
        "400 The team is 'site'. Keys that ann@example.com creates have 'build': leave it out."
    )
    assert office.refuse(ANN, "change", "ci", models=()) == (
        "403 An administrator created the key 'ci' and changes its fields. Rotate or revoke it. Nothing was changed."
    )
    assert office.refuse(ANN, "rotate", "ann@example.com") == (
        "403 This is the key of your sign-in, which only an administrator changes. Nothing was changed."
    )
    assert office.refuse(ANN, "team", "build", concurrency=None) == (
        "403 The role member does not change limits of teams. Nothing was changed."
    )
    for action in ("change", "rotate", "revoke"):
        assert office.refuse(ANN, action, "ben") == (
            "404 There is no key 'ben'. List the keys:  anthropic-proxy keys list"
        )
    none = User(role="member", address="eve@example.com")
    assert office.refuse(none, "create", label="x") == (
        "403 An administrator creates keys, because keys_per_person of [sign_in] is 0."
    )
    viewer = User(role="viewer", address="vic@example.com", max_keys=1)
    assert office.refuse(viewer, "revoke", "ben") == (
        "403 The role viewer does not change the key 'ben'. Nothing was changed."
    )
    assert office.execute(ANN, "rotate", "ci").text
    assert {key.label: key.team for key in list_keys(office.connection)}["ben"] == "build"


def test_a_team_admin_manages_the_own_teams(office: Office) -> None:
    assert office.list_seen(LEAD) == ["ben", "ci"]
    assert office.list_seen(ANN) == ["ci"]
    assert office.list_seen(User(role="viewer", address="vic@example.com")) == ["ben", "bot", "ci"]
    office.execute(LEAD, "change", "ben", requests_per_minute=3)
    created = office.execute(LEAD, "create", label="new", owner="ben@example.com", team="build")
    assert (created.key.team, created.key.person) == ("build", "")
    for fields in ({"label": "x", "team": "site"}, {"label": "x"}):
        assert office.refuse(LEAD, "create", **fields) == (
            f"400 The team is {fields.get('team', '')!r}. You manage keys of your own teams, which are 'build'."
        )
    assert "You manage keys of your own teams" in office.refuse(LEAD, "change", "ben", team="site")
    assert office.refuse(LEAD, "change", "ben", cost_center="4711") == (
        "400 The cost center is '4711'. Only an administrator sets it: leave it out."
    )
    assert office.refuse(LEAD, "revoke", "bot") == (
        "404 There is no key 'bot'. List the keys:  anthropic-proxy keys list"
    )
    assert office.refuse(LEAD, "team", "build", concurrency=1) == (
        "403 The role team admin does not change limits of teams. Nothing was changed."
    )
    office.execute(ADMIN, "create", label="eve", owner="Eve@example.com", team="build")
    elsewhere = User(role="team admin", address="eve@example.com")  # the team of the own key
    assert office.list_seen(elsewhere) == ["ben", "ci", "eve", "new"]
    office.execute(ADMIN, "revoke", "eve")
    assert office.list_seen(elsewhere) == ["eve"]


@pytest.mark.parametrize("role", get_args(Role))
@pytest.mark.parametrize("address", ["ann@example.com", "nobody@example.com", ""])
@pytest.mark.parametrize("team", ["build", "site", ""])
def test_lists_have_the_keys_that_the_user_reads_one_by_one(
    office: Office, role: Role, address: str, team: str
) -> None:
    office.execute(ANN, "create", label="laptop")
    office.execute(ADMIN, "create", label="shared", owner="ann@example.com", team="other")
    with office.connection.transaction():  # an earlier version kept the spelling
        office.connection.execute("UPDATE virtual_keys SET owner = 'ANN@example.com' WHERE label = 'shared'")
    office.execute(ADMIN, "create", label="free")
    office.now += 1
    office.execute(ADMIN, "create", label="later", owner="bots", team="site")
    rights = office.find_rights(User(role=role, address=address, team=team)).resolve(office.connection)
    readable = [key for key in list_keys(office.connection) if rights.reads(key)]
    assert list_readable_keys(office.connection, rights) == readable
    pages, last = list[VirtualKey](), ""
    while page := list_readable_keys(office.connection, rights, after=last, limit=2):
        pages += page
        last = page[-1].id
    assert pages == readable
    of_team = [key for key in readable if key.team == "site"]
    assert list_readable_keys(office.connection, rights, team="site") == of_team


class CountingReader:
    """Counts the rows that the database returns."""

    def __init__(self, connection: Connection) -> None:
        self.is_postgres = connection.is_postgres
        self.rows = 0
        self._connection = connection

    def query(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        rows = self._connection.query(sql, values)
        self.rows += len(rows)
        return rows


def test_what_a_member_reads_does_not_grow_with_the_company(office: Office) -> None:
    settings = structs.replace(
        Settings(),
        oidc=OidcSettings(issuer="https://login.example.org", client_id="proxy"),
        sign_in=SignInSettings(secrets=(Secret("s" * 32),), groups=(SignInGroup(name="platform", team="core"),)),
    )
    office.execute(ANN, "create", label="laptop")
    seen = []
    for count in (5, 50):
        for number in range(count):
            key = admit(office.connection, f"p{count}-{number}@example.com", clock=lambda: NOON)
            _store_of_person(office.connection, key)
        reader = CountingReader(office.connection)
        rights = office.find_rights(ANN).resolve(reader)
        keys = list_readable_keys(reader, rights)
        states = list_key_states(reader, settings, keys, NOON)
        sign_ins = list_sign_ins(reader, NOON, rights.sign_ins_of)
        assert (len(keys), len(states), len(sign_ins)) == (3, 3, 0)
        seen.append(reader.rows)
        administration = KeyAdministration(office.connection, "test", lambda: NOON, settings=settings)
        assert [one.key_id for one in administration.find_sign_ins(key.label)] == [key.id]
    assert seen[0] == seen[1]


def _store_of_person(connection: Connection, key: VirtualKey) -> None:
    """Add a sign-in and a user of SCIM in a group."""
    user = f'{{"issuer":"{key.issuer}","client_id":"proxy","subject":"{key.subject}","email":"{key.label}"}}'
    moments = dict.fromkeys(("created_at", "refreshed_at", "checked_at"), to_microseconds(NOON))
    sign_in = {"id": f"sign_{key.id}", "key_id": key.id, "refresh_hash": key.id, "person": user, **moments}
    with connection.transaction():
        connection.insert_row("sign_ins", {**sign_in, "ends_at": to_microseconds(NOON + 100)})
        times = dict.fromkeys(("created_at", "changed_at"), 0)
        connection.insert_row(
            "scim_users", {"id": key.id, "user_name": key.label, "address": key.label, "key_id": key.id, **times}
        )
        connection.insert_row("scim_members", {"group_id": "1", "user_id": key.id})
        if not connection.query("SELECT 1 FROM scim_groups"):
            connection.insert_row("scim_groups", {"id": "1", "name": "platform", "name_key": "platform", **times})


@pytest.mark.parametrize("role", ["viewer", "team admin", "member"])
def test_only_an_administrator_changes_the_limits_of_teams(office: Office, role: Role) -> None:
    user = User(role=role, address="vic@example.com", team="build")
    assert office.refuse(user, "team", "build", concurrency=1) == (
        f"403 The role {role} does not change limits of teams. Nothing was changed."
    )
    assert office.execute(ADMIN, "team", "build", concurrency=1).team.rules.concurrency == 1


def test_a_team_admin_takes_no_key_of_another_owner(office: Office) -> None:
    """The owner of a key reads the texts that it sends."""
    for owner in ("lead@example.com", "ann@example.com", ""):
        assert office.refuse(LEAD, "change", "ben", owner=owner) == (
            f"400 The owner is {owner!r}. Only an administrator changes the owner 'ben@example.com' of a key. Create a "
            "new key for another person."
        )
    assert office.execute(LEAD, "change", "ben", owner="ben@example.com", label="ben-2").key.label == "ben-2"
    assert office.execute(ADMIN, "change", "ben-2", owner="eve@example.com").key.owner == "eve@example.com"


def test_an_owner_is_the_same_in_each_spelling(office: Office) -> None:
    """A person of another team, who has one key of an administrator in this one, and a service."""
    bob = admit(office.connection, "bob@example.com", team="sales", clock=lambda: NOON)
    service = admit(office.connection, "runner", subject="ci/Deploy", team="sales", clock=lambda: NOON)
    with office.connection.transaction():
        office.connection.execute("UPDATE virtual_keys SET label = 'ci/Deploy' WHERE id = ?", (service.id,))
    for owner in ("bob@example.com", "ci/Deploy"):
        office.execute(ADMIN, "create", label=f"shared {len(owner)}", owner=owner.upper(), team="build")
        for spelled in (owner, owner.upper(), owner.title()):
            refused = office.refuse(LEAD, "create", label="new", owner=spelled, team="build")
            assert refused == "400 The team is 'sales'. You manage keys of your own teams, which are 'build'."
            assert office.execute(ADMIN, "change", "ci", owner=spelled).key.owner == owner
    office.execute(ADMIN, "change", "ci", owner="Bots")
    assert office.execute(ADMIN, "change", "ci", owner="BOTS").key.owner == "bots"
    assert office.execute(ADMIN, "change", "bot", owner="Robots").key.owner == "Robots"
    assert office.execute(ADMIN, "change", "bot", owner="ROBOTS").key.owner == "ROBOTS"
    office.execute(ADMIN, "leave", bob.id)
    admit(office.connection, "bob@example.com", subject="2", team="sales", clock=lambda: NOON)
    assert office.refuse(LEAD, "create", label="new", owner="BOB@example.com", team="build") == (
        "400 The owner is 'BOB@example.com', an address of several people. Ask an administrator for a key of one of "
        "them."
    )


FIRST_SIGN_INS: dict[str, Callable[[Office], str]] = {
    "sign-in": lambda office: admit(office.connection, "anna@corp.com", team="build", clock=lambda: NOON).id,
    "revocation": lambda office: office.execute(ADMIN, "revoke", "ANNA@corp.com").key.id,
    "another address": lambda office: rename(office, "ann@example.com", "anna@corp.com"),
}


def rename(office: Office, before: str, after: str) -> str:
    admit(office.connection, before, subject="1", clock=lambda: NOON)
    return admit(office.connection, after, subject="1", clock=lambda: NOON).id


@pytest.mark.parametrize("stored", ["", "Anna@Corp.com"], ids=["now", "by an earlier version"])
@pytest.mark.parametrize("enter", FIRST_SIGN_INS.values(), ids=FIRST_SIGN_INS)
async def test_an_address_of_a_key_before_the_first_sign_in_is_that_of_the_person(
    office: Office, tmp_path: Path, enter: Callable[[Office], str], stored: str
) -> None:
    """One line of a bill, one payer, one end."""
    keys = [
        office.execute(ADMIN, "create", label=f"laptop {number}", owner=owner).key
        for number, owner in enumerate(("Anna@Corp.com", "ANNA@CORP.COM", "anna@corp.com"))
    ]
    assert {key.owner for key in keys} == {"anna@corp.com"}
    if stored:
        with office.connection.transaction():
            office.connection.execute("UPDATE virtual_keys SET owner = ? WHERE id = ?", (stored, keys[0].id))
    person = enter(office)
    found = list_keys_by_id(office.connection, [key.id for key in keys])
    assert {key.owner for key in found} == {"anna@corp.com"}
    table = KeyTable(Settings(data_directory=tmp_path), lambda text: None, clock=lambda: NOON)
    assert await table.refresh()
    payers = {table.build_client(key).payer for key in found}
    await table.stop()
    assert len(payers) == 1
    office.execute(ADMIN, "revoke", person)
    found = list_keys_by_id(office.connection, [key.id for key in keys])
    assert {key.find_status(NOON) for key in found} == {"revoked"}


def test_a_person_keeps_its_owner_and_label(office: Office) -> None:
    office.execute(ANN, "create", label="laptop")
    assert office.refuse(ADMIN, "change", "ann@example.com", owner="ada@example.com") == (
        "400 The owner is 'ada@example.com'. The key 'ann@example.com' is a person or a service, and keeps its owner "
        "'ann@example.com'."
    )
    assert office.refuse(ADMIN, "change", "ann@example.com", label="ann") == (
        "400 The label is 'ann'. The key 'ann@example.com' is a person or a service, and keeps its label "
        "'ann@example.com'."
    )
    assert office.execute(ADMIN, "change", "ann@example.com", owner="ann@example.com", concurrency=2).changes


def test_keys_follow_the_team_of_their_person(office: Office) -> None:
    office.execute(ANN, "create", label="laptop")
    office.execute(ADMIN, "person", "ann@example.com", team="site")
    teams = {key.label: key.team for key in list_keys(office.connection)}
    assert (teams["ann@example.com"], teams["laptop"], teams["ci"]) == ("site", "site", "build")


async def test_the_rules_and_the_end_of_the_person_apply_to_its_keys(tmp_path: Path) -> None:
    keys = Keys(Settings(data_directory=tmp_path, **OWN_KEYS))
    rules = Rules(models=("claude-haiku-*",), budgets=(Budget(1.0, "usd", "day"),), requests_per_minute=3)
    ann = User(role="member", address="ann@example.com", rules=rules, max_keys=2)
    office = Office(keys.connection)
    texts = [office.execute(ann, "create", label=label).text for label in ("laptop", "tablet")]
    await keys.table.refresh()
    denied = await keys.refuse(texts[0], 403, model="claude-opus-4-5")
    assert denied.message.startswith("The key 'ann@example.com' does not allow the model 'claude-opus-4-5'")
    for text in (*texts, texts[0]):
        await keys.finish(await keys.admit(text))
    limited = await keys.refuse(texts[1], 429)
    assert limited.message.startswith("The key 'ann@example.com' has reached its limit of 3 requests per minute.")
    office.execute(ADMIN, "revoke", "ann@example.com")
    await keys.table.refresh()
    assert await keys.reject(texts[0]) == (
        "The key 'laptop' is revoked. The administrator of the proxy creates another one:  "
        "anthropic-proxy keys create LABEL"
    )
    await keys.table.stop()
    keys.connection.close()


def test_nobody_takes_the_label_of_a_person_or_a_service(office: Office) -> None:
    for rights, label in ((ANN, "ben@example.com"), (LEAD, "ci/example/app")):
        assert office.refuse(rights, "create", label=label, team="build") == (
            f"400 The label is {label!r}. Labels with @ or / are those of persons and services."
        )
    office.execute(ANN, "create", label="laptop")
    assert "Labels with @ or /" in office.refuse(ANN, "change", "laptop", label="x@y")
    assert office.refuse(LEAD, "change", "ann@example.com", owner="lead@example.com") == (
        "403 The key 'ann@example.com' is a person or a service, which only an administrator changes. Nothing was "
        "changed."
    )
