"""A database of the last version in which an e-mail address was a person (schema 0023), with people who are signed in.

The rows are those that this version stored: a person with own keys; two people who had one address one after the other;
a person with a new address; one who only uses the dashboard; a revoked address, and a revoked person.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from typing import Any

import msgspec
import pytest
from msgspec import structs

from anthropic_proxy.console.gateway_protocol.grants import Grants
from anthropic_proxy.console.identity.people import OidcError, OidcUser
from anthropic_proxy.console.keys.access_tokens import TokenKeys
from anthropic_proxy.console.keys.key_table import KeyTable
from anthropic_proxy.console.keys.queries import find_counted_labels, list_audit_entries, list_keys
from anthropic_proxy.console.keys.sign_ins import list_people, list_sign_ins
from anthropic_proxy.console.keys.virtual_keys import VirtualKey
from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.database import open_for_reading, open_for_writing
from anthropic_proxy.gateway.settings import OidcSettings, Settings, SignInGroup, SignInSettings
from anthropic_proxy.secrets import Secret
from tests.support.ledger import NOON, create_earlier_schema, plain_connection
from tests.support.sign_in import answer

ISSUER, CLIENT = "https://login.example.org", "proxy"
START = 1_795_262_410_000_000
END = START + 30 * 86_400_000_000
KEYS: list[tuple[str, str, str, str]] = [
    ("key_ann", "ann@example.org", "ann@example.org", ""),
    ("key_laptop", "ann-laptop", "ann@example.org", "key_ann"),
    ("key_ci", "ann-ci", "Ann@example.org", ""),
    ("key_cem", "cem@example.org", "cem@example.org", ""),
    ("key_dan", "dan@example.org", "dan@example.org", ""),
    ("key_dan_new", "dan.new@example.org", "dan.new@example.org", ""),
    ("key_eve", "eve@example.org", "eve@example.org", ""),
    ("key_eve_pc", "eve-pc", "eve@example.org", "key_eve"),
    ("key_fay", "fay@example.org", "fay@example.org", ""),
    ("key_gus", "gus@example.org", "gus@example.org", ""),
    ("key_new_name", "new-name", "", ""),
    ("key_hal", "hal@example.org", "hal@example.org", ""),
    ("key_bot", "ci/bot", "bot", ""),
]
REVOKED = {"key_fay": START + 50_000_000, "key_gus": START + 61_000_000}
WITH_TEXT = ("key_laptop", "key_ci", "key_eve_pc", "key_new_name")
SIGN_INS: list[tuple[str, str, str, str, int, int | None, dict[str, str]]] = [
    ("sign_ann", "key_ann", "sub-ann", "ann@example.org", 0, None, {}),
    ("sign_cem_1", "key_cem", "sub-cem-1", "cem@example.org", 10, None, {}),
    ("sign_cem_2", "key_cem", "sub-cem-2", "cem@example.org", 20, None, {}),
    ("sign_dan_1", "key_dan_new", "sub-dan", "dan.new@example.org", 50, None, {}),
    ("sign_dan_2", "key_dan", "sub-dan", "dan@example.org", 40, None, {}),
    ("sign_gus", "key_gus", "sub-gus", "gus@example.org", 60, 61, {}),
    ("sign_hal_1", "key_hal", "sub-hal-old", "hal@example.org", 5, None, {"issuer": "https://old.example.org"}),
    ("sign_hal_2", "key_hal", "sub-hal", "hal@example.org", 70, None, {}),
]
RENAMED = '{"label":["old-name","new-name"]}'


def store_rows(connection: Connection) -> None:
    for number, (key_id, label, owner, person) in enumerate(KEYS):
        revoked_at = REVOKED.get(key_id)
        row: dict[str, object] = {"id": key_id, "label": label, "owner": owner, "team": "build", "rules": "{}"}
        row |= {"created_at": START + number, "revoked_at": revoked_at, "sessions_from": revoked_at, "person": person}
        connection.insert_row("virtual_keys", row)
        if key_id in WITH_TEXT:
            connection.insert_row("key_hashes", {"hash": key_id, "key_id": key_id, "created_at": START})
    for sign_in, key_id, subject, email, seconds, ended, others in SIGN_INS:
        user = {"issuer": ISSUER, "client_id": CLIENT, "subject": subject, "email": email, "groups": ["build"]}
        at = START + seconds * 1_000_000
        row = {"id": sign_in, "key_id": key_id, "refresh_hash": sign_in, "device": "claude-code/2.1.332"}
        row |= {"person": msgspec.json.encode({**user, **others}).decode(), "provider_token": "token"}
        row |= {"created_at": at, "checked_at": at, "refreshed_at": at, "ends_at": END}
        connection.insert_row("sign_ins", {**row, "ended_at": ended and START + ended * 1_000_000})
    log = {"at": START, "actor": "command (ada@host)", "action": "change key", "object": "key_new_name old-name"}
    connection.insert_row("audit_log", {**log, "changes": RENAMED})
    connection.insert_row("audit_log", {**log, "changes": '{"team":["","build"]}'})


class Company:
    def __init__(self, settings: Settings) -> None:
        sign_in = SignInSettings(secrets=(Secret("a" * 32),), groups=(SignInGroup(name="build", team="build"),))
        oidc = OidcSettings(issuer=ISSUER, client_id=CLIENT)
        self.settings = structs.replace(settings, oidc=oidc, sign_in=sign_in, virtual_keys=True)
        self.now = NOON + 1_000
        self.grants = Grants(self.settings, TokenKeys(sign_in), lambda: self.now)
        self.table = KeyTable(self.settings, lambda text: None, clock=lambda: self.now)

    def list_keys(self) -> Mapping[str, VirtualKey]:
        with closing(open_for_reading(self.settings)) as connection:
            return {key.id: key for key in list_keys(connection)}

    def list_active(self) -> Mapping[str, str]:
        """Return the id of each sign-in that has not ended → the key of its person."""
        with closing(open_for_reading(self.settings)) as connection:
            return {one.id: one.key_id for one in list_sign_ins(connection, self.now)}

    def sign_in(self, subject: str, email: str) -> str:
        """Return the id of the key."""
        code, user_code = self.grants.create_code("claude-code", "192.0.2.1")
        waiting = self.grants.find_code("user_code", user_code)
        assert waiting is not None
        user = OidcUser(ISSUER, CLIENT, subject, email, ("build",))
        self.grants.approve(self.grants.identify(waiting.code_hash, user, "token"))
        _, sign_in, _ = self.grants.redeem(code)
        assert sign_in is not None
        return sign_in.key_id


@pytest.fixture
async def company(database: Settings) -> AsyncIterator[Company]:
    with plain_connection(database) as connection:
        create_earlier_schema(connection, "0023")
        with connection.transaction():
            store_rows(connection)
    open_for_writing(database).close()
    company = Company(database)
    yield company
    await company.table.stop()


async def test_people_with_a_sign_in_are_bound_to_it_and_need_not_sign_in_again(company: Company) -> None:
    keys = company.list_keys()
    bound = {key.id: key.subject for key in keys.values() if key.subject}
    assert bound == {
        "key_ann": "sub-ann",
        "key_cem": "sub-cem-1",
        "key_dan_new": "sub-dan",
        "key_gus": "sub-gus",
        "key_hal": "sub-hal",
    }
    assert {key.issuer for key in keys.values() if key.subject} == {ISSUER}
    assert [key.id for key in keys.values() if key.left_at is not None] == ["key_dan"]
    assert company.list_active() == {
        "sign_ann": "key_ann",
        "sign_cem_1": "key_cem",
        "sign_dan_1": "key_dan_new",
        "sign_dan_2": "key_dan_new",
        "sign_hal_2": "key_hal",
    }
    await company.table.refresh()
    accepted = {number: company.table.find_sign_in(number) for number in company.list_active()}
    assert {number: entry and entry.client.name for number, entry in accepted.items()} == {
        "sign_ann": "ann@example.org",
        "sign_cem_1": "cem@example.org",
        "sign_dan_1": "dan.new@example.org",
        "sign_dan_2": "dan.new@example.org",
        "sign_hal_2": "hal@example.org",
    }


def test_the_latest_answer_about_each_person_counts_after_the_migration(company: Company) -> None:
    with closing(open_for_reading(company.settings)) as connection:
        people = list_people(connection)
    assert {key_id: (user.subject, user.email) for key_id, user in people.items()} == {
        "key_ann": ("sub-ann", "ann@example.org"),
        "key_cem": ("sub-cem-1", "cem@example.org"),
        "key_dan_new": ("sub-dan", "dan.new@example.org"),
        "key_gus": ("sub-gus", "gus@example.org"),
        "key_hal": ("sub-hal", "hal@example.org"),
    }


def test_a_refresh_after_the_migration_goes_on(company: Company) -> None:
    sign_in = company.grants.find_active("sign_dan_2")
    assert sign_in is not None
    user = OidcUser(ISSUER, CLIENT, "sub-dan", "dan.new@example.org", ("build",))
    renewed = company.grants.renew(sign_in, answer(user, company.now))
    assert renewed is not None
    assert renewed.key_id == "key_dan_new"


def test_who_signs_in_again_is_the_same_person_or_another_one(company: Company) -> None:
    keys = company.list_keys()
    assert company.sign_in("sub-ann", "ann@example.org") == "key_ann"
    assert company.sign_in("sub-dan", "dan@example.org") == "key_dan_new"
    for subject, email in (("sub-new", "ann@example.org"), ("sub-cem-2", "cem@example.org"), ("x", "dan@example.org")):
        assert company.sign_in(subject, email) not in keys
    assert company.sign_in("sub-eve", "eve@example.org") == "key_eve", "the first one with the verified address"
    assert company.sign_in("sub-eve-2", "eve@example.org") not in keys
    for subject, email in (("sub-fay", "fay@example.org"), ("sub-gus", "gus@example.org")):
        with pytest.raises(OidcError, match=r"is revoked, so the person may not sign in\.$"):
            company.sign_in(subject, email)
    assert company.sign_in("sub-gus-2", "gus@example.org") not in keys


def test_the_migration_is_in_the_audit_log(company: Company) -> None:
    with closing(open_for_reading(company.settings)) as connection:
        entries = list_audit_entries(connection)
        labels = find_counted_labels(connection, ["key_new_name"])
    shown = [(one.action, one.target, dict(one.changes)) for one in entries[::-1] if one.actor == "migration"]

    def bind(subject: str) -> dict[str, Any]:
        return {"issuer": ("", ISSUER), "client_id": ("", CLIENT), "subject": ("", subject)}

    changes = {target: change for action, target, change in shown if action == "change key"}
    moved = changes.pop("key_dan dan@example.org")
    assert [*moved] == ["left_at"]
    assert changes == {
        "key_ann ann@example.org": bind("sub-ann"),
        "key_cem cem@example.org": bind("sub-cem-1"),
        "key_dan_new dan.new@example.org": bind("sub-dan"),
        "key_gus gus@example.org": bind("sub-gus"),
        "key_hal hal@example.org": bind("sub-hal"),
    }
    reason = (None, "The sign-in is of another user than the one to whom the person is bound.")
    assert [(target, change) for action, target, change in shown if action == "sign out"] == [
        ("key_cem cem@example.org", {"sign_ins": (["sign_cem_2"], []), "reason": reason}),
        ("key_hal hal@example.org", {"sign_ins": (["sign_hal_1"], []), "reason": reason}),
    ]
    assert labels == {"key_new_name": ["new-name", "old-name"]}
