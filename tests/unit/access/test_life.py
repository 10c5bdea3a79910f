"""The life of keys and people: lists state what a request with a key would get, one act ends all access of a person,
and no change of an owner gives texts to somebody.
"""

from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.console.gateway_protocol.grants import Grants
from anthropic_proxy.console.identity.people import OidcError, OidcUser, UserRefused
from anthropic_proxy.console.keys.acceptance import list_key_states
from anthropic_proxy.console.keys.access_tokens import TokenKeys
from anthropic_proxy.console.keys.administration import KeyCommand, KeyOutcome, open_administration
from anthropic_proxy.console.keys.ended_people import EndedPeople
from anthropic_proxy.console.keys.key_policy import KeyPolicy
from anthropic_proxy.console.keys.key_table import KeysUnavailable, KeyTable
from anthropic_proxy.console.keys.queries import find_key, list_audit_entries, list_keys
from anthropic_proxy.console.keys.rights import ADMINISTRATOR
from anthropic_proxy.console.keys.sign_ins import SignIn, list_sign_ins
from anthropic_proxy.console.keys.virtual_keys import KeyState
from anthropic_proxy.console.ledger.database import open_for_reading, open_for_writing
from anthropic_proxy.console.units import DAY_SECONDS
from anthropic_proxy.errors import AuthenticationFailed, ProxyError
from anthropic_proxy.gateway.permissions import Role
from anthropic_proxy.gateway.settings import OidcSettings, Settings, SignInGroup, SignInSettings
from anthropic_proxy.secrets import Secret
from tests.support.ledger import NOON
from tests.support.sign_in import answer
from tests.support.virtual_keys import User

URL, ISSUER = "https://proxy.example.org", "https://login.example.org"
ANN, LEAD = "ann@example.org", "lead@example.org"
MEMBER = User(role="member", address=ANN, team="core", max_keys=3)
TEAM_ADMIN = User(role="team admin", address=LEAD, team="core")


class Company:
    """The database of a company with one instance. `now` is set by a test."""

    def __init__(self, settings: Settings) -> None:
        self.now = NOON
        groups = (SignInGroup(name="build", team="core"), SignInGroup(name="leads", team="core", role="team admin"))
        sign_in = SignInSettings(secrets=(Secret("a" * 32),), groups=groups)
        oidc = OidcSettings(issuer=ISSUER, client_id="proxy")
        self.settings = structs.replace(
            settings, oidc=oidc, sign_in=sign_in, dashboard_url=URL, virtual_keys=True, keys_per_person=3
        )
        self.grants = Grants(self.settings, TokenKeys(sign_in), lambda: self.now)
        self.table = KeyTable(self.settings, lambda text: None, clock=lambda: self.now)
        self.policy = KeyPolicy(self.table, lambda: self.settings, lambda: self.now)
        self.people = EndedPeople(lambda: self.settings, lambda: self.now)

    def sign_in(self, email: str, *groups: str) -> SignIn:
        code, user_code = self.grants.create_code("claude-code", "192.0.2.1")
        waiting = self.grants.find_code("user_code", user_code)
        assert waiting is not None
        self.grants.approve(
            self.grants.identify(
                waiting.code_hash, OidcUser(ISSUER, "proxy", email, email, groups or ("build",)), "token"
            )
        )
        _, stored, _ = self.grants.redeem(code)
        assert stored is not None
        return stored

    def execute(self, action: Any, target: str = "", user: User | None = None, **fields: Any) -> KeyOutcome:
        """`user` None: an administrator."""
        actor, rights = "command", ADMINISTRATOR
        if user is not None:
            actor = user.address
            with closing(open_for_writing(self.settings)) as connection:
                rights = user.find_rights(connection, actor, lambda: self.now)
        with open_administration(self.settings, actor, lambda: self.now, rights) as administration:
            return administration.execute(KeyCommand(action=action, target=target, fields=fields))

    def refuse(self, action: Any, target: str = "", user: User | None = None, **fields: Any) -> str:
        with pytest.raises(ProxyError) as raised:
            self.execute(action, target, user, **fields)
        return f"{raised.value.status} {raised.value.message}"

    def list_seen_sign_ins(self, user: User) -> list[str]:
        """Return the people whose sign-ins the user sees in the lists."""
        with closing(open_for_writing(self.settings)) as connection:
            rights = user.find_rights(connection, user.address, lambda: self.now).resolve(connection)
            listed = list_sign_ins(connection, self.now, rights.sign_ins_of)
        return sorted(each.user.email for each in listed)

    async def present(self, text: str) -> str:
        """Return the error of a request with the text of a key. "": it is accepted."""
        await self.table.refresh()
        try:
            await self.policy.identify({"x-api-key": text})
        except AuthenticationFailed as error:
            return error.message
        return ""

    async def is_ended(self, name: str, since: float) -> bool:
        with closing(open_for_reading(self.settings)) as connection:
            key = find_key(connection, name)
        return key is not None and await self.people.is_ended(key.id, since)

    def list_states(self) -> dict[str, KeyState]:
        with closing(open_for_reading(self.settings)) as connection:
            keys = list_keys(connection)
            states = list_key_states(connection, self.settings, keys, self.now)
        shown = [structs.replace(state, remedy="", wish="") for state in states]
        return {key.label: state for key, state in zip(keys, shown, strict=True)}

    def list_changes(self, target: str) -> list[tuple[str, dict[str, Any]]]:
        with closing(open_for_reading(self.settings)) as connection:
            entries = list_audit_entries(connection)
        return [(one.action, dict(one.changes)) for one in entries if one.target.endswith(f" {target}")]


@pytest.fixture
async def company(database: Settings) -> AsyncIterator[Company]:
    company = Company(database)
    yield company
    await company.table.stop()


async def test_lists_have_the_reason_for_which_a_request_is_rejected(company: Company) -> None:
    """Each reason is that of the request, word for word."""
    sign_in = company.sign_in(ANN)
    texts = {label: company.execute("create", user=MEMBER, label=label).text for label in ("laptop", "old", "gone")}
    texts |= {"ci": company.execute("create", label="ci", team="core").text}
    assert company.list_states() == dict.fromkeys((ANN, *texts), KeyState("active"))
    company.execute("change", "old", user=MEMBER, expires_at=NOON + 59)
    company.execute("revoke", "gone")
    company.now += 60
    company.grants.end(sign_in.key_id, sign_in.user, UserRefused("The user left the group."))
    states = company.list_states()
    assert {label: state.status for label, state in states.items()} == {
        ANN: "inactive",
        "laptop": "inactive",
        "old": "expired",
        "gone": "revoked",
        "ci": "active",
    }
    for label, text in texts.items():
        assert await company.present(text) == states[label].reason
    assert states["laptop"].reason == (
        "The key 'laptop' is rejected, because the access of its owner has ended at 2026-11-21T12:01:00Z. The owner "
        "signs in again from Claude Code."
    )
    assert states[ANN].reason == states["laptop"].reason.replace("laptop", ANN)
    company.now += 1
    company.sign_in(ANN)
    assert (company.list_states()["laptop"], await company.present(texts["laptop"])) == (KeyState("active"), "")


async def test_a_key_without_a_sign_in_of_its_person_lasts_as_long_as_one(company: Company) -> None:
    text = company.execute("create", user=MEMBER, label="laptop").text
    company.now += 30 * DAY_SECONDS
    reason = await company.present(text)
    assert company.list_states()["laptop"] == KeyState("inactive", reason)
    assert "has ended at 2026-12-21T12:00:00Z" in reason


@pytest.mark.parametrize("days", [29, 31])
async def test_a_new_text_of_a_key_lasts_as_long_as_a_new_key(company: Company, days: int) -> None:
    """A person that only uses the dashboard rotates the key before or after its end."""
    company.execute("create", user=MEMBER, label="laptop")
    company.now += days * DAY_SECONDS
    text = company.execute("rotate", "laptop", user=MEMBER).text
    company.now += 30 * DAY_SECONDS - 1
    assert (await company.present(text), company.list_states()["laptop"]) == ("", KeyState("active"))
    company.now += 1
    assert "has ended at" in await company.present(text)


@pytest.mark.parametrize(("first_hours", "second_hours", "ends"), [(48, 0, (0, 0)), (48, 2, (2, 2)), (2, 48, (2, 48))])
async def test_a_further_rotation_ends_earlier_texts_sooner_and_never_later(
    company: Company, first_hours: int, second_hours: int, ends: tuple[int, int]
) -> None:
    first = company.execute("create", label="ci").text
    second, third = (
        company.execute("rotate", "ci", overlap_seconds=hours * 3_600.0).text for hours in (first_hours, second_hours)
    )
    for text, end in zip((first, second), ends, strict=True):
        company.now = NOON + end * 3_600 - 1
        if end:
            assert await company.present(text) == ""
        company.now += 1
        assert (await company.present(text)).startswith("The key 'ci' was replaced at ")
    assert await company.present(third) == ""


async def test_the_expiry_of_a_person_is_the_reason_for_its_keys(company: Company) -> None:
    company.sign_in(ANN)
    text = company.execute("create", user=MEMBER, label="laptop").text
    company.execute("change", ANN, expires_at=NOON + 60)
    company.now += 60
    reason = await company.present(text)
    assert reason == (
        "The key 'laptop' is rejected, because the access of 'ann@example.org' expired at 2026-11-21T12:01:00Z. The "
        "administrator of the proxy extends it:  anthropic-proxy keys change ann@example.org --expires 30d"
    )
    states = company.list_states()
    assert states["laptop"] == KeyState("expired", reason)
    assert states[ANN] == KeyState("expired", "The key 'ann@example.org' is expired, so the person may not sign in.")


async def test_an_unreadable_team_is_the_reason_for_its_keys_and_people(company: Company) -> None:
    company.sign_in(ANN)
    text = company.execute("create", user=MEMBER, label="laptop").text
    company.execute("team", "core", concurrency=3)
    with closing(open_for_writing(company.settings)) as connection, connection.transaction():
        connection.execute("UPDATE teams SET rules = '{'")
    reason = await company.present(text)
    assert company.list_states()["laptop"] == KeyState("unreadable", reason)
    assert company.list_states()[ANN].status == "unreadable"


async def test_a_success_of_one_device_ends_an_earlier_refusal_of_another_one(company: Company) -> None:
    sign_in = company.settings.sign_in
    assert sign_in is not None
    refused, renewed = company.sign_in(ANN), company.sign_in(ANN)
    text = company.execute("create", user=MEMBER, label="laptop").text
    company.now += 60
    company.grants.mark_refused(refused, OidcError("no"))
    company.now += 60
    company.grants.renew(renewed, answer(renewed.user, company.now))
    company.now += sign_in.token_seconds
    assert await company.present(text) == ""
    assert company.list_states()["laptop"].status == "active"
    company.grants.mark_refused(renewed, OidcError("no"))
    company.now += sign_in.token_seconds
    assert await company.present(text) == (
        "The key 'laptop' is rejected, because the access of its owner has ended at 2026-11-21T14:02:00Z. The owner "
        "signs in again from Claude Code."
    )


def test_a_sign_out_names_the_keys_that_stay_valid(company: Company) -> None:
    company.sign_in(ANN)
    one = company.sign_in(ANN)
    assert company.execute("sign-out", one.id).notices == ()
    company.execute("create", user=MEMBER, label="laptop")
    company.execute("create", label="ann-ci", owner="Ann@example.org")
    company.execute("create", user=MEMBER, label="gone")
    company.execute("revoke", "gone", MEMBER)
    company.now += 1
    company.sign_in(ANN)
    done = company.execute("sign-out", ANN)
    assert done.sentence == "2 sign-ins of ann@example.org are ended."
    assert sorted(key.label for key in done.valid_keys) == ["ann-ci", "laptop"]
    assert list(done.notices) == [
        f"The keys of ann@example.org stay valid: {', '.join(key.label for key in done.valid_keys)}. End one:  "
        "anthropic-proxy keys revoke LABEL",
        "To end all access of the person:  anthropic-proxy keys revoke ann@example.org",
    ]
    company.sign_in(ANN)
    company.execute("revoke", "ann-ci")
    assert list(company.execute("sign-out", ANN, MEMBER).notices) == [
        "The key of ann@example.org stays valid: laptop. End one:  anthropic-proxy keys revoke LABEL"
    ]


@pytest.mark.parametrize("role", ["viewer", "team admin", "member"])
def test_nobody_but_the_person_and_an_administrator_ends_a_sign_in(company: Company, role: Role) -> None:
    other = User(role=role, address=LEAD, team="core")
    device = company.sign_in(ANN)
    company.sign_in(LEAD, "leads")
    assert company.list_seen_sign_ins(other) == ([ANN, LEAD] if role == "viewer" else [LEAD])
    for target in (ANN, device.id, device.key_id):
        assert company.refuse("sign-out", target, other) == (
            f"404 There is no sign-in of {target!r}. List the sign-ins:  anthropic-proxy keys sign-ins"
        )
    assert company.execute("sign-out", LEAD, other).sentence == f"1 sign-in of {LEAD} is ended."
    assert company.execute("sign-out", device.id, MEMBER).sentence == f"1 sign-in of {ANN} is ended."


async def test_one_act_ends_all_access_of_a_person_until_it_is_allowed_again(company: Company) -> None:
    company.sign_in(ANN)
    own = company.execute("create", user=MEMBER, label="laptop").text
    given = company.execute("create", label="ann-ci", owner="Ann@Example.org", team="core").text
    other = company.execute("create", label="ci", owner="ben@example.org", team="core").text
    assert not await company.is_ended(ANN, NOON)
    company.now += 10
    done = company.execute("revoke", ANN)
    assert [done.sentence, *done.notices] == [
        "Key ann@example.org is revoked.",
        "All sign-ins of the person, 2 keys of this owner and the sessions of the dashboard are ended, and the person "
        "cannot sign in.",
        "To allow it again:  anthropic-proxy keys allow ann@example.org",
    ]
    for label, text in (("laptop", own), ("ann-ci", given)):
        assert await company.present(text) == (
            f"The key {label!r} is revoked. The administrator of the proxy creates another one:  anthropic-proxy keys "
            "create LABEL"
        )
        assert company.list_changes(label)[0] == (
            "revoke key",
            {"status": ("active", "revoked"), "reason": (None, "ann@example.org is revoked")},
        )
    assert await company.present(other) == ""
    assert await company.is_ended(ANN, NOON)
    assert await company.is_ended(ANN, company.now + 5), "a new session"
    refused = "^The key 'ann@example.org' is revoked, so the person may not sign in.$"
    with pytest.raises(Exception, match=refused):
        company.sign_in(ANN)
    assert company.list_states()[ANN].reason == refused.strip("^$")
    company.now += 10
    assert company.execute("allow", ANN).sentence == "Key ann@example.org is allowed."
    company.now += 2
    assert await company.is_ended(ANN, NOON), "a session from before the revocation"
    assert not await company.is_ended(ANN, company.now)
    assert company.sign_in(ANN)
    assert "is revoked" in await company.present(own)
    assert [action for action, _ in company.list_changes(ANN)][:3] == ["sign in", "allow key", "revoke key"]


async def test_all_instances_of_a_database_refuse_a_revoked_person(company: Company) -> None:
    instances = [company, *(Company(company.settings) for _ in range(3))]
    company.sign_in(ANN)
    text = company.execute("create", user=MEMBER, label="laptop").text
    assert [await one.present(text) for one in instances] == [""] * 4
    assert [await one.is_ended(ANN, NOON) for one in instances] == [False] * 4
    instances[3].execute("revoke", ANN)
    for one in instances:
        one.now += 1
    assert {await one.present(text) for one in instances} == {company.list_states()["laptop"].reason}
    assert [await one.is_ended(ANN, NOON) for one in instances] == [True] * 4
    for one in instances[1:]:
        await one.table.stop()


def test_a_device_that_was_approved_before_a_revocation_gets_no_sign_in(company: Company) -> None:
    code, user_code = company.grants.create_code("claude-code", "192.0.2.1")
    waiting = company.grants.find_code("user_code", user_code)
    assert waiting is not None
    company.grants.approve(
        company.grants.identify(waiting.code_hash, OidcUser(ISSUER, "proxy", ANN, ANN, ("build",)), "token")
    )
    company.execute("revoke", ANN)
    company.execute("allow", ANN)
    assert company.grants.redeem(code) == (None, None, "")


async def test_a_person_that_only_uses_the_dashboard_can_be_revoked(company: Company) -> None:
    company.execute("revoke", "Eve@example.org")
    assert company.list_states() == {
        "eve@example.org": KeyState("revoked", "The key 'eve@example.org' is revoked, so the person may not sign in.")
    }
    assert await company.is_ended("eve@example.org", company.now + 1)
    for target in ("eve", "ci/eve@example.org", "eve@example@org"):
        assert company.refuse("revoke", target).startswith("404 There is no key")
    assert company.refuse("revoke", "ben@example.org", TEAM_ADMIN).startswith("404 There is no key")


def test_only_an_administrator_ends_and_allows_people(company: Company) -> None:
    company.sign_in(ANN)
    for action in ("revoke", "allow"):
        assert company.refuse(action, ANN, TEAM_ADMIN) == (
            "403 The key 'ann@example.org' is a person or a service, which only an administrator changes. Nothing was "
            "changed."
        )
        assert company.refuse(action, ANN, MEMBER) == (
            "403 This is the key of your sign-in, which only an administrator changes. Nothing was changed."
        )
    company.execute("create", label="ci", team="core")
    company.execute("revoke", "ci")
    for user in (None, TEAM_ADMIN):
        assert company.refuse("allow", "ci", user) == (
            "400 The key 'ci' is no person and no service. Only these can be allowed again: create another key."
        )


async def test_a_revocation_of_an_earlier_version_ends_what_it_left(company: Company) -> None:
    """That version revoked the person alone, and rejected its keys for this reason."""
    company.sign_in(ANN)
    text = company.execute("create", user=MEMBER, label="laptop").text
    with closing(open_for_writing(company.settings)) as connection, connection.transaction():
        connection.execute("UPDATE virtual_keys SET revoked_at = 1 WHERE label = ?", (ANN,))
    company.execute("create", label="another")  # instances read the keys again
    reason = await company.present(text)
    assert company.list_states()["laptop"] == KeyState("revoked", reason)
    company.execute("allow", ANN)
    assert await company.present(text) == reason


async def test_without_the_database_the_last_result_counts_for_sessions(company: Company) -> None:
    person = company.execute("revoke", ANN).key.id
    assert await company.people.is_ended(person, NOON)
    company.now += 10
    company.settings = structs.replace(company.settings, database_url=Secret("sqlite:////nowhere/at/all.sqlite3"))
    assert await company.people.is_ended(person, NOON), "the last result counts"
    with pytest.raises(KeysUnavailable):
        await EndedPeople(lambda: company.settings, lambda: company.now).is_ended(person, NOON)


async def test_a_clock_that_was_set_back_keeps_no_session(company: Company) -> None:
    company.sign_in(ANN)
    company.now += DAY_SECONDS
    assert not await company.is_ended(ANN, NOON)
    company.now = NOON + 60
    company.execute("revoke", ANN)
    assert await company.is_ended(ANN, NOON)


async def test_a_new_owner_reads_texts_only_of_those_who_got_the_key_from_then_on(company: Company) -> None:
    """The old text may be in use by others, whom the change of the owner does not tell anything."""
    old = company.execute("create", label="ci", owner=ANN, team="core").text

    async def find_client(text: str) -> tuple[str, bool]:
        await company.table.refresh()
        client = await company.policy.identify({"x-api-key": text})
        assert client is not None
        return client.owner, client.has_foreign_texts

    assert await find_client(old) == (ANN, False)
    company.now += 10
    company.execute("change", "ci", owner="Ann@example.org")
    assert await find_client(old) == (ANN, False)
    company.execute("change", "ci", owner="boss@example.org")
    assert await find_client(old) == ("boss@example.org", True)
    company.now += 10
    new = company.execute("rotate", "ci", overlap_seconds=3_600).text
    assert await find_client(old) == ("boss@example.org", True)
    assert await find_client(new) == ("boss@example.org", False)
    company.now += 10
    company.execute("change", "ci", owner=ANN)
    assert [await find_client(text) for text in (old, new)] == [(ANN, True)] * 2


async def test_all_keys_of_a_person_have_one_turn_and_a_text_of_others_has_its_own(company: Company) -> None:
    person = company.sign_in(ANN).key_id
    keys = {
        "ann-laptop": company.execute("create", label="ann-laptop", owner=ANN, person=person, team="core"),
        "ann-ci": company.execute("create", label="ann-ci", owner="Ann@example.org", team="core"),
        "bots": company.execute("create", label="bots", owner="bots", team="core"),
        "team": company.execute("create", label="team", team="core"),
    }
    company.now += 10
    company.execute("change", "bots", owner=ANN)
    await company.table.refresh()
    clients = {name: await company.policy.identify({"x-api-key": made.text}) for name, made in keys.items()}
    assert {name: client.payer for name, client in clients.items() if client is not None} == {
        "ann-laptop": f"person {person}",
        "ann-ci": f"person {person}",
        "bots": f"key {keys['bots'].key.id}",
        "team": f"key {keys['team'].key.id}",
    }


def test_a_team_admin_creates_keys_for_members_or_nobody(company: Company) -> None:
    company.sign_in(ANN)
    company.execute("create", label="bot", owner="bots", team="core")
    company.execute("create", label="eve-ci", owner="eve@example.org", team="site")
    for owner in ("eve@example.org", "nobody@example.org", "ghosts"):
        assert company.refuse("create", user=TEAM_ADMIN, label="x", owner=owner, team="core") == (
            f"400 The owner is {owner!r}, who has no key in the team 'core'. Use a member of the team, or leave the "
            "owner out."
        )
    for owner in ("", "bots"):
        key = company.execute("create", user=TEAM_ADMIN, label=f"for-{owner}", owner=owner, team="core").key
        assert (key.owner, key.person, key.creator) == (owner, "", LEAD)
    key = company.execute("create", user=TEAM_ADMIN, label="ann-ci", owner="Ann@example.org", team="core").key
    assert (key.owner, key.person != "", key.creator) == (ANN, True, LEAD)
    assert company.list_changes("ann-ci")[0][1]["owner"] == ("", ANN)
    assert company.refuse("change", "ann-ci", MEMBER, models=()) == (
        "403 lead@example.org created the key 'ann-ci' and changes its fields. Rotate or revoke it. Nothing was "
        "changed."
    )
    assert company.execute("rotate", "ann-ci", MEMBER).text
    for number in range(3):
        company.execute("create", user=MEMBER, label=f"own {number}")
    company.execute("person", "sue@example.org", team="site")
    assert company.refuse("create", user=TEAM_ADMIN, label="x", owner="sue@example.org") == (
        "400 The team is 'site'. You manage keys of your own teams, which are 'core'."
    )


async def test_personal_keys_end_with_their_person_and_team_keys_show_their_creator(company: Company) -> None:
    ann, lead = company.sign_in(ANN), company.sign_in(LEAD, "leads")
    texts = {
        label: company.execute("create", user=TEAM_ADMIN, label=label, owner=owner, team="core").text
        for label, owner in (("deploy", ""), ("lead-pc", LEAD), ("ann-ci", ANN))
    }
    states = company.list_states()
    assert (states["deploy"], states["lead-pc"]) == (KeyState("active", "", "active"), KeyState("active"))
    company.now += 1
    company.grants.end(ann.key_id, ann.user, UserRefused("The user left the group."))
    assert [bool(await company.present(texts[label])) for label in texts] == [False, False, True]
    user = structs.replace(lead.user, groups=("build",))
    assert company.grants.renew(lead, answer(user, company.now))
    assert company.list_states()["deploy"] == KeyState("active", "", "no team admin")
    company.now += 1
    company.grants.end(lead.key_id, lead.user, UserRefused("The user left the group."))
    assert company.list_states()["deploy"] == KeyState("active", "", "inactive")
    company.execute("revoke", LEAD)
    assert company.list_states()["deploy"] == KeyState("active", "", "revoked")
    assert [bool(await company.present(texts[label])) for label in texts] == [False, True, True]
