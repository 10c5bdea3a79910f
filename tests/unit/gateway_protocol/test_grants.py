"""Device codes and sign-ins are stored, approved, redeemed, renewed and ended on each database."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial

import pytest
from msgspec import structs

from anthropic_proxy.console.gateway_protocol.grants import (
    CLAIM_SECONDS,
    CODE_SECONDS,
    MAX_DEVICES,
    MAX_WAITING_DEVICES,
    MAX_WAITING_OF_NETWORK,
    Grants,
    normalize_user_code,
)
from anthropic_proxy.console.identity.oidc_client import ProviderReply
from anthropic_proxy.console.identity.people import OidcError, OidcUser, UserRefused, require_role
from anthropic_proxy.console.keys.access_tokens import TokenKeys
from anthropic_proxy.console.keys.administration import KeyCommand, open_administration
from anthropic_proxy.console.keys.admission import admit_person
from anthropic_proxy.console.keys.key_table import KeyTable
from anthropic_proxy.console.keys.queries import list_audit_entries, list_keys
from anthropic_proxy.console.keys.sign_ins import SignIn, encode_user, list_access_ends, list_sign_ins
from anthropic_proxy.console.ledger.database import open_for_reading, open_for_writing
from anthropic_proxy.console.ledger.retention import Retention
from anthropic_proxy.console.units import DAY_SECONDS
from anthropic_proxy.gateway.settings import OidcSettings, Settings, SignInGroup, SignInSettings
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules
from anthropic_proxy.secrets import Secret
from tests.support.ledger import NOON
from tests.support.sign_in import answer
from tests.support.waiting import WAIT_SECONDS

ISSUER, CLIENT = "https://login.example.org", "proxy"
ANN = OidcUser(ISSUER, CLIENT, "1", "ann@example.org", ("build",), "Ann")
BUILD = SignInGroup(name="build", team="build", rules=Rules(models=("claude-*",)))
CORE = SignInGroup(name="core", team="core", rules=Rules(budgets=(Budget(5, "usd", "day"),)))


class Database:
    """Grants with a clock that a test sets."""

    def __init__(self, settings: Settings) -> None:
        self.now = NOON
        self.settings = structs.replace(
            settings,
            oidc=OidcSettings(issuer=ISSUER, client_id=CLIENT),
            sign_in=SignInSettings(secrets=(Secret("a" * 32),), groups=(BUILD, CORE)),
        )

    @property
    def grants(self) -> Grants:
        sign_in = self.settings.sign_in
        assert sign_in is not None
        return Grants(self.settings, TokenKeys(sign_in), lambda: self.now)

    def rotate(self, *secrets: str) -> None:
        """Set other secrets."""
        sign_in = self.settings.sign_in
        assert sign_in is not None
        changed = structs.replace(sign_in, secrets=tuple(map(Secret, secrets)))
        self.settings = structs.replace(self.settings, sign_in=changed)

    def change_days(self, days: int) -> None:
        sign_in = self.settings.sign_in
        assert sign_in is not None
        self.settings = structs.replace(self.settings, sign_in=structs.replace(sign_in, days=days))

    def sign_in(self, user: OidcUser = ANN, provider_token: str = "token-of-the-provider") -> tuple[SignIn, str]:
        code, user_code = self.grants.create_code("claude-code/2.1.332", "192.0.2.1")
        waiting = self.grants.find_code("user_code", user_code)
        assert waiting is not None
        self.grants.approve(self.grants.identify(waiting.code_hash, user, provider_token))
        _, sign_in, refresh_token = self.grants.redeem(code)
        assert sign_in is not None
        return sign_in, refresh_token

    def list_actions(self) -> list[tuple[str, str]]:
        """Author and action of each change, the first one first."""
        with closing(open_for_reading(self.settings)) as connection:
            return [(entry.actor, entry.action) for entry in list_audit_entries(connection)][::-1]

    def find_person(self) -> tuple[str, str, Rules]:
        with closing(open_for_reading(self.settings)) as connection:
            (key,) = list_keys(connection)
            return key.label, key.team, key.rules


@pytest.fixture
def stored(database: Settings) -> Database:
    return Database(database)


def test_a_code_is_approved_once_and_redeemed_once(stored: Database) -> None:
    code, user_code = stored.grants.create_code("claude-code/2.1.332", "192.0.2.1")
    waiting = stored.grants.find_code("user_code", user_code)
    assert waiting is not None
    assert (waiting.device, waiting.address, waiting.state) == ("claude-code/2.1.332", "192.0.2.1", "pending")
    pending, none, _ = stored.grants.redeem(code)
    assert (pending, none) == (waiting, None)
    stored.grants.approve(stored.grants.identify(waiting.code_hash, ANN, ""))
    with pytest.raises(
        OidcError, match=r"^The device waits no longer: its code has expired, was used, or was denied\."
    ):
        stored.grants.approve(stored.grants.identify(waiting.code_hash, ANN, ""))
    _, sign_in, refresh_token = stored.grants.redeem(code)
    assert sign_in is not None
    assert (sign_in.user, sign_in.ends_at) == (ANN, NOON + 12 * 3_600)
    assert stored.grants.find_sign_in(refresh_token) == sign_in
    assert stored.grants.redeem(code) == (None, None, "")
    assert stored.find_person() == ("ann@example.org", "build", BUILD.rules)
    assert stored.list_actions() == [
        ("sign-in (ann@example.org)", "create key"),
        ("sign-in (ann@example.org)", "sign in"),
    ]


def test_instances_that_redeem_a_code_at_the_same_time_give_one_sign_in(stored: Database) -> None:
    code, user_code = stored.grants.create_code("claude-code", "192.0.2.1")
    waiting = stored.grants.find_code("user_code", user_code)
    assert waiting is not None
    stored.grants.approve(stored.grants.identify(waiting.code_hash, ANN, ""))
    barrier, found = threading.Barrier(4), list[SignIn | None]()

    def redeem() -> None:
        barrier.wait(WAIT_SECONDS)
        found.append(stored.grants.redeem(code)[1])

    threads = [threading.Thread(target=redeem) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sign_in is None for sign_in in found].count(False) == 1
    assert len(found) == 4


def test_a_code_expires(stored: Database) -> None:
    code, user_code = stored.grants.create_code("claude-code", "192.0.2.1")
    waiting = stored.grants.find_code("user_code", user_code)
    assert waiting is not None
    stored.now += CODE_SECONDS
    assert stored.grants.find_code("user_code", user_code) is None
    assert stored.grants.redeem(code) == (None, None, "")
    with pytest.raises(OidcError):
        stored.grants.approve(stored.grants.identify(waiting.code_hash, ANN, ""))


@pytest.mark.parametrize(("reason", "state"), [("", "denied"), ("no group", "refused")])
def test_a_rejected_code_gives_no_sign_in(stored: Database, reason: str, state: str) -> None:
    code, user_code = stored.grants.create_code("claude-code", "192.0.2.1")
    waiting = stored.grants.find_code("user_code", user_code)
    assert waiting is not None
    stored.grants.reject(waiting.code_hash, reason)
    rejected, sign_in, _ = stored.grants.redeem(code)
    assert rejected is not None
    assert (rejected.state, rejected.reason, sign_in) == (state, reason, None)
    assert stored.grants.redeem(code) == (None, None, "")


def test_a_renewal_stores_person_rules_and_the_next_token_of_the_provider(stored: Database) -> None:
    sign_in, refresh_token = stored.sign_in()
    assert sign_in.ends_at == NOON + 30 * DAY_SECONDS
    assert "token-of-the-provider" not in sign_in.provider_token
    before = stored.list_actions()
    stored.now += 3_600
    claim, other = stored.grants.claim(sign_in), stored.grants.claim(sign_in)
    assert (claim.is_own, other.is_own) == (True, False)
    assert claim.sign_in == structs.replace(sign_in, claimed_until=stored.now + CLAIM_SECONDS)
    assert stored.grants.decrypt(sign_in) == "token-of-the-provider"
    kept = stored.grants.keep_token(claim.sign_in, "next token")
    renewed = stored.grants.renew(kept, answer(ANN, stored.now))
    assert renewed is not None
    assert (renewed.refreshed_at, renewed.checked_at, renewed.ends_at) == (stored.now, stored.now, sign_in.ends_at)
    assert stored.list_actions() == before, "nothing has changed about the person"
    answered = stored.grants.claim(sign_in)
    assert (answered.is_own, answered.sign_in) == (False, renewed), "a client that has waited here gets this answer"
    assert stored.grants.claim(renewed).is_own
    moved = structs.replace(ANN, groups=("core",))
    claimed = stored.grants.find_active(sign_in.id)
    assert claimed is not None
    kept = stored.grants.keep_token(claimed, "last token")
    assert stored.grants.find_active(sign_in.id) == kept, "the token is stored before the provider describes the person"
    renewed = stored.grants.renew(kept, answer(moved, stored.now))
    label, team, rules = stored.find_person()
    assert (label, team, rules) == (
        "ann@example.org",
        "core",
        structs.replace(CORE.rules, budgets=(Budget(5, "usd", "day", since=stored.now),)),
    )
    assert stored.list_actions()[len(before) :] == [
        ("sign-in (ann@example.org)", "change key"),
        ("sign-in (ann@example.org)", "change sign-in"),
    ]
    found = stored.grants.find_sign_in(refresh_token)
    assert found == renewed
    assert found is not None
    assert stored.grants.decrypt(found) == "last token"


MOVED = structs.replace(ANN, email="ann.lee@example.org", groups=("core",))


def move_by_device(stored: Database) -> None:
    stored.sign_in(MOVED)


def move_by_dashboard(stored: Database) -> None:
    with open_administration(stored.settings, "dashboard", lambda: stored.now) as administration:
        admit_person(administration, stored.settings, MOVED, require_role, stated_at=stored.now)


def refresh_without_question(stored: Database, old: SignIn, asked_at: float) -> object:
    return stored.grants.renew(old, None)


def refresh_with_an_answer_without_facts(stored: Database, old: SignIn, asked_at: float) -> object:
    return stored.grants.renew(old, ProviderReply({"sub": "1"}, "next token", stored.now))


def refresh_with_a_late_answer(stored: Database, old: SignIn, asked_at: float) -> object:
    return stored.grants.renew(old, answer(ANN, asked_at))


def refresh_with_a_part(stored: Database, old: SignIn, asked_at: float) -> object:
    claims = {"sub": "1", "groups": ["core"]}
    return stored.grants.renew(old, ProviderReply(claims, "next token", stored.now))


MOVES = [move_by_device, move_by_dashboard]
LATER = [
    refresh_without_question,
    refresh_with_an_answer_without_facts,
    refresh_with_a_late_answer,
    refresh_with_a_part,
]


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("later", LATER)
def test_the_newest_answer_of_the_provider_counts_for_all_devices(
    stored: Database, move: Callable[[Database], None], later: Callable[[Database, SignIn, float], object]
) -> None:
    """A person is moved to another group, and another device of it refreshes its token afterwards."""
    old, refresh_token = stored.sign_in()
    code, user_code = stored.grants.create_code("claude-code", "192.0.2.1")
    waiting = stored.grants.find_code("user_code", user_code)
    assert waiting is not None
    identified = stored.grants.identify(waiting.code_hash, ANN, "")
    asked_at = stored.now + 30
    stored.now += 60
    move(stored)
    budgets = (Budget(5, "usd", "day", since=stored.now),)
    moved = ("ann.lee@example.org", "core", structs.replace(CORE.rules, budgets=budgets))
    assert stored.find_person() == moved
    stored.now += 60
    renewed = later(stored, old, asked_at)
    assert stored.find_person() == moved
    assert stored.grants.find_sign_in(refresh_token) == renewed
    assert isinstance(renewed, SignIn)
    assert renewed.user == MOVED
    stored.grants.approve(identified)
    assert stored.find_person() == moved, "the device has waited for its approval meanwhile"
    _, approved, _ = stored.grants.redeem(code)
    assert approved is not None
    assert stored.grants.find_active(approved.id) == structs.replace(approved, user=MOVED)
    back = stored.grants.renew(old, answer(ANN, stored.now))
    assert back is not None
    assert stored.find_person()[:2] == ("ann@example.org", "build"), "a newer answer counts"


@pytest.mark.parametrize("is_asked", [True, False])
def test_only_facts_of_the_present_answer_refuse_the_whole_person(stored: Database, is_asked: bool) -> None:
    sign_in, _ = stored.sign_in()
    assert stored.settings.sign_in is not None
    of_core = structs.replace(stored.settings.sign_in, groups=(CORE,))
    stored.settings = structs.replace(stored.settings, sign_in=of_core)
    with pytest.raises(OidcError) as refused:
        stored.grants.renew(sign_in, answer(ANN, stored.now) if is_asked else None)
    assert isinstance(refused.value, UserRefused) == is_asked
    assert refused.value.message == (
        "ann@example.org may not use Claude Code, because none of the groups of the user gives access. An "
        "administrator should add the user to a group with a table [sign_in.groups.NAME] (core), or add a table."
    )


def test_a_person_with_a_new_address_is_the_same_key(stored: Database) -> None:
    sign_in, refresh_token = stored.sign_in()
    renamed = structs.replace(ANN, email="ann.lee@example.org")
    renewed = stored.grants.renew(sign_in, answer(renamed, stored.now))
    assert stored.grants.find_sign_in(refresh_token) == renewed
    assert renewed is not None
    assert renewed.key_id == sign_in.key_id
    assert stored.find_person()[0] == "ann.lee@example.org"


def test_a_claim_ends_by_itself_or_by_its_release(stored: Database) -> None:
    sign_in, _ = stored.sign_in()
    first, other = stored.grants.claim(sign_in), stored.grants.claim(sign_in)
    assert (first.is_own, other.is_own) == (True, False)
    assert first.sign_in is not None
    stored.grants.release(first.sign_in)
    second = stored.grants.claim(sign_in)
    assert second.is_own
    stored.now += CLAIM_SECONDS
    assert not stored.grants.claim(sign_in).is_own
    stored.now += 1
    third = stored.grants.claim(sign_in).sign_in
    assert second.sign_in is not None
    assert third is not None
    stored.grants.release(second.sign_in)
    stored.grants.mark_refused(second.sign_in, OidcError("late"))
    stored.grants.renew(second.sign_in, answer(ANN, stored.now))
    assert not stored.grants.claim(sign_in).is_own, "another instance asks, and ends its claim itself"
    renewed = stored.grants.renew(third, answer(ANN, stored.now))
    assert renewed is not None
    assert stored.grants.claim(renewed).is_own


def test_a_token_of_the_provider_replaces_the_one_that_was_used_and_no_other(stored: Database) -> None:
    sign_in, refresh_token = stored.sign_in()
    kept = stored.grants.keep_token(sign_in, "second token")
    stored.grants.keep_token(sign_in, "late token")
    found = stored.grants.find_sign_in(refresh_token)
    assert found == kept
    assert stored.grants.decrypt(kept) == "second token"
    stored.grants.end(sign_in.id, ANN)
    stored.grants.keep_token(kept, "third token")
    with closing(open_for_reading(stored.settings)) as connection:
        assert connection.query("SELECT provider_token FROM sign_ins") == [("",)]


def end_by_administrator(stored: Database, sign_in: SignIn) -> None:
    with open_administration(stored.settings, "command (ada@host)", lambda: stored.now) as administration:
        administration.execute(KeyCommand(action="sign-out", target="Ann@example.org"))


def revoke_key(stored: Database, sign_in: SignIn) -> None:
    with open_administration(stored.settings, "command (ada@host)", lambda: stored.now) as administration:
        administration.execute(KeyCommand(action="revoke", target="ann@example.org"))


def wait(stored: Database, sign_in: SignIn) -> None:
    stored.now = sign_in.ends_at


ENDS: list[Callable[[Database, SignIn], object]] = [
    end_by_administrator,
    revoke_key,
    wait,
    lambda stored, sign_in: stored.grants.end(sign_in.id, ANN, UserRefused("no access any more")),
]


@pytest.mark.parametrize("end", ENDS)
def test_an_ended_sign_in_is_not_renewed(stored: Database, end: Callable[[Database, SignIn], object]) -> None:
    sign_in, refresh_token = stored.sign_in()
    end(stored, sign_in)
    assert stored.grants.find_sign_in(refresh_token) is None
    assert stored.grants.find_active(sign_in.id) is None
    assert stored.grants.claim(sign_in).sign_in is None
    with closing(open_for_reading(stored.settings)) as connection:
        assert list_sign_ins(connection, stored.now) == []


def test_a_person_without_group_or_with_a_revoked_key_may_not_sign_in(stored: Database) -> None:
    sign_in, _ = stored.sign_in()
    with pytest.raises(UserRefused, match=r"^ann@example\.org may not use Claude Code, because none of the groups"):
        stored.grants.renew(sign_in, answer(structs.replace(ANN, groups=()), stored.now))
    revoke_key(stored, sign_in)
    with pytest.raises(UserRefused, match=r"^The key 'ann@example\.org' is revoked, so the person may not sign in\.$"):
        stored.sign_in()


def test_a_key_with_a_text_is_not_the_key_of_a_person(stored: Database) -> None:
    with open_administration(stored.settings, "command (ada@host)") as administration:
        administration.execute(KeyCommand(action="create", fields={"label": "ann@example.org"}))
    with pytest.raises(UserRefused) as refused:
        stored.sign_in()
    assert refused.value.message == (
        "The key 'ann@example.org' has a secret, so it is not the key of a signed-in person. An administrator should "
        "give it another label:  anthropic-proxy keys change ann@example.org --label LABEL"
    )


def test_a_person_does_not_get_the_key_of_a_service(stored: Database) -> None:
    """A slash is allowed in an address, and separates the issuer from the owner in the label of a service."""
    with open_administration(stored.settings, "token issuer (ci)") as administration:
        service = KeyCommand(action="person", target="ci/eve@example.org", fields={"owner": "eve@example.org"})
        administration.execute(service)
    with pytest.raises(UserRefused) as refused:
        stored.sign_in(structs.replace(ANN, subject="2", email="ci/eve@example.org"))
    assert refused.value.message == (
        "The address 'ci/eve@example.org' contains /, as the label of a service does, so the person may not sign in."
    )


def test_a_refusal_that_may_pass_limits_the_access_until_a_refresh_succeeds(stored: Database) -> None:
    sign_in, refresh_token = stored.sign_in()

    def find_end() -> float:
        with closing(open_for_reading(stored.settings)) as connection:
            return list_access_ends(connection, 3_600)[sign_in.key_id]

    assert find_end() == sign_in.ends_at
    stored.now += 60
    answers = []
    for reason in ("first", "second"):
        claimed = stored.grants.claim(sign_in).sign_in
        assert claimed is not None
        answers.append(stored.grants.mark_refused(claimed, OidcError(reason)))
        stored.now += 60
    assert answers == [True, False]
    assert find_end() == NOON + 60 + 3_600
    marked = stored.grants.find_sign_in(refresh_token)
    assert marked == structs.replace(sign_in, refused_at=NOON + 60, end_reason="second")
    assert marked is not None
    assert stored.grants.renew(marked, answer(ANN, stored.now)) == stored.grants.find_sign_in(refresh_token)
    assert find_end() == sign_in.ends_at
    assert stored.list_actions()[2:] == [
        ("sign-in (ann@example.org)", "refuse sign-in"),
        ("sign-in (ann@example.org)", "change sign-in"),
    ]
    stored.grants.end(sign_in.id, ANN)
    assert not stored.grants.mark_refused(marked, OidcError("late")), "the sign-in has ended meanwhile"


@pytest.mark.parametrize("is_certain", [False, True])
def test_another_device_keeps_the_access_only_if_it_asks_after_the_refusal(stored: Database, is_certain: bool) -> None:
    first, _ = stored.sign_in()
    second, _ = stored.sign_in()
    stored.now += 60

    def list_ends() -> Mapping[str, float]:
        with closing(open_for_reading(stored.settings)) as connection:
            return list_access_ends(connection, 3_600)

    if is_certain:
        stored.grants.end(first.id, ANN, OidcError("no access"))
    else:
        stored.grants.mark_refused(first, OidcError("refused"))
    assert list_ends() == {first.key_id: stored.now + 3_600}
    stored.now += 7_200
    assert stored.grants.renew(second, answer(ANN, stored.now)) is not None
    assert list_ends() == {first.key_id: second.ends_at}


def test_a_device_for_which_the_provider_is_not_asked_proves_no_access(stored: Database) -> None:
    """The provider has given it no refresh token, and refuses that of another device."""
    first, _ = stored.sign_in()
    second, refresh_token = stored.sign_in(provider_token="")
    stored.now += 60
    stored.grants.mark_refused(first, OidcError("refused"))
    refused_at = stored.now
    stored.now += 60
    renewed = stored.grants.renew(second, None)
    assert renewed == structs.replace(second, refreshed_at=stored.now)
    assert stored.grants.find_sign_in(refresh_token) == renewed
    with closing(open_for_reading(stored.settings)) as connection:
        assert list_access_ends(connection, 3_600) == {first.key_id: refused_at + 3_600}


@pytest.mark.parametrize("is_refused", [True, False])
def test_the_last_refusal_of_a_device_counts_and_its_sign_out_is_no_answer(stored: Database, is_refused: bool) -> None:
    """Another device has asked with success after the first refusal, and is offline since."""
    first, _ = stored.sign_in()
    second, _ = stored.sign_in()
    stored.grants.mark_refused(first, OidcError("refused"))
    stored.now += DAY_SECONDS
    assert stored.grants.renew(second, answer(ANN, stored.now)) is not None
    stored.now += 2 * DAY_SECONDS
    stored.grants.end(first.id, ANN, OidcError("refused again") if is_refused else None)
    with closing(open_for_reading(stored.settings)) as connection:
        end = list_access_ends(connection, 3_600)[first.key_id]
    assert end == (stored.now + 3_600 if is_refused else second.ends_at)


def test_a_refusal_after_the_success_of_another_device_counts_before_it_ends_the_first_one(stored: Database) -> None:
    """The first device was refused before, and asks no more after its second refusal."""
    first, _ = stored.sign_in()
    second, _ = stored.sign_in()
    stored.grants.mark_refused(first, OidcError("refused"))
    stored.now += 60
    assert stored.grants.renew(second, answer(ANN, stored.now)) is not None
    for _ in range(2):
        stored.now += 60
        stored.grants.mark_refused(first, OidcError("refused"))
    with closing(open_for_reading(stored.settings)) as connection:
        assert list_access_ends(connection, 3_600) == {first.key_id: NOON + 120 + 3_600}


def refuse_first(stored: Database, first: SignIn, second: SignIn) -> None:
    claimed = stored.grants.find_active(first.id)
    assert claimed is not None
    stored.grants.mark_refused(claimed, OidcError("refused"))


def end_first(stored: Database, first: SignIn, second: SignIn) -> None:
    stored.grants.end(first.id, ANN, OidcError("no access"))


def renew_first(stored: Database, first: SignIn, second: SignIn) -> None:
    claimed = stored.grants.find_active(first.id)
    assert claimed is not None
    assert stored.grants.renew(claimed, answer(ANN, stored.now)) is not None


def renew_second(stored: Database, first: SignIn, second: SignIn) -> None:
    renew_first(stored, second, first)


def refuse_second(stored: Database, first: SignIn, second: SignIn) -> None:
    refuse_first(stored, second, first)


@pytest.mark.parametrize(
    "answers",
    [
        (refuse_first, renew_second, renew_second),
        (refuse_first, renew_first),
        (end_first, renew_second),
        (refuse_first, renew_second, refuse_first, renew_second),
        (refuse_first, refuse_second, renew_first, renew_second),
    ],
    ids=lambda answers: ", ".join(answer.__name__ for answer in answers),
)
async def test_a_running_table_has_what_each_answer_of_the_provider_has_changed(
    stored: Database, answers: Sequence[Callable[[Database, SignIn, SignIn], None]]
) -> None:
    """Each worker and instance has such a table, and decides by it who is accepted."""
    first, second = stored.sign_in()[0], stored.sign_in()[0]

    def open_table() -> KeyTable:
        return KeyTable(stored.settings, lambda text: None, clock=lambda: stored.now)

    async def read(table: KeyTable) -> tuple[object, object, object]:
        assert await table.refresh()
        end = table.find_key_end(first.key_id)
        assert end is not None
        return end.at, table.find_sign_in(first.id), table.find_sign_in(second.id)

    running = open_table()
    await read(running)
    for give in answers:
        stored.now += 60
        give(stored, first, second)
        new = open_table()
        assert await read(running) == await read(new), give.__name__
        await new.stop()
    await running.stop()


def test_the_end_of_an_expired_sign_in_is_no_refusal(stored: Database) -> None:
    """The sign-in was refused once and has expired. Its person has been moved to another identity provider since."""
    first, _ = stored.sign_in()
    stored.grants.mark_refused(first, OidcError("refused"))
    stored.now = first.ends_at + DAY_SECONDS
    second, _ = stored.sign_in()
    stored.now += 60
    with open_administration(stored.settings, "test", lambda: stored.now) as administration:
        administration.execute(KeyCommand(action="move", target=first.key_id))
    with closing(open_for_reading(stored.settings)) as connection:
        assert list_access_ends(connection, 3_600) == {first.key_id: second.ends_at}


def test_own_keys_stay_valid_after_the_sign_out_of_the_device_that_cleared_a_refusal(stored: Database) -> None:
    """The ledger deletes rows of devices that have signed out."""
    stored.change_days(365)
    first, _ = stored.sign_in()
    second, _ = stored.sign_in()
    stored.now += 60
    stored.grants.mark_refused(first, OidcError("refused"))
    stored.now += 60
    assert stored.grants.renew(second, answer(ANN, stored.now)) is not None
    stored.grants.end(second.id, ANN)
    for days in (1, 40, 300):
        with closing(open_for_writing(stored.settings)) as connection:
            Retention(stored.settings, partial(float, NOON + days * DAY_SECONDS)).delete_expired(connection)
            assert list_access_ends(connection, 3_600) == {second.key_id: second.ends_at}


def test_own_keys_stay_ended_after_the_refusal_of_the_person(stored: Database) -> None:
    """The ledger deletes old rows meanwhile."""
    stored.change_days(365)
    sign_in, _ = stored.sign_in()
    stored.grants.end(sign_in.key_id, ANN, UserRefused("The user has no group."))
    for days in (1, 31, 360):
        with closing(open_for_writing(stored.settings)) as connection:
            Retention(stored.settings, partial(float, NOON + days * DAY_SECONDS)).delete_expired(connection)
            assert list_access_ends(connection, 3_600)[sign_in.key_id] == NOON


class Waiting:
    """Codes of many devices. They are inserted at once, because each code of the proxy needs a transaction."""

    def __init__(self, stored: Database) -> None:
        self.stored = stored
        self.number = 0

    def add(self, addresses: Iterable[str], state: str = "pending") -> None:
        rows = []
        for address in addresses:
            self.number += 1
            times = (int((NOON - 60) * 1e6) + self.number, int((NOON + 60) * 1e6))
            rows.append((f"hash {self.number}", f"code {self.number}", state, address, *times))
        with closing(open_for_writing(self.stored.settings)) as connection, connection.transaction():
            columns = ("code_hash", "user_code", "state", "address", "created_at", "expires_at")
            connection.insert("device_codes", columns, rows)

    def count(self, start: str) -> int:
        with closing(open_for_reading(self.stored.settings)) as connection:
            rows = connection.query("SELECT count(*) FROM device_codes WHERE address LIKE ?", (f"{start}%",))
        return int(rows[0][0])

    def has(self, number: int) -> bool:
        with closing(open_for_reading(self.stored.settings)) as connection:
            return bool(connection.query("SELECT 1 FROM device_codes WHERE code_hash = ?", (f"hash {number}",)))


@pytest.fixture
def waiting(stored: Database) -> Waiting:
    return Waiting(stored)


COMPANY = "192.0.2.1"
FLOODS = {
    "ten addresses": lambda number: f"198.51.100.{number % 10}",
    "the networks of a site": lambda number: f"2001:db8:7:{number:x}::1",
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_the_oldest_code_of_the_greediest_site_gives_way(waiting: Waiting, flood: Callable[[int], str]) -> None:
    waiting.add([COMPANY] * 300)
    waiting.add(flood(number) for number in range(MAX_WAITING_DEVICES - 300))
    for address in (COMPANY, "203.0.113.9"):
        code, user_code = waiting.stored.grants.create_code("claude-code", address)
        found = waiting.stored.grants.find_code("user_code", user_code)
        assert found is not None
        assert waiting.stored.grants.redeem(code)[0] == found
    assert (waiting.count(COMPANY), waiting.count("203.0.113.9")) == (301, 1)
    assert waiting.count("") == MAX_WAITING_DEVICES
    assert [waiting.has(number) for number in (1, 300, 301, 303)] == [True, True, False, True]


@pytest.mark.parametrize(
    ("first", "second"), [(COMPANY, COMPANY), ("2001:db8::1", "2001:db8::2:3"), (f"::ffff:{COMPANY}", COMPANY)]
)
def test_one_address_or_network_has_a_tenth_of_all_codes(waiting: Waiting, first: str, second: str) -> None:
    waiting.add(["203.0.113.9", *[first] * MAX_WAITING_OF_NETWORK])
    waiting.stored.grants.create_code("claude-code", second)
    assert [waiting.has(number) for number in (1, 2, 3)] == [True, False, True]
    waiting.stored.grants.create_code("claude-code", "203.0.113.9")
    assert waiting.count("") == MAX_WAITING_OF_NETWORK + 2, "others lose nothing"


def test_only_codes_that_wait_give_way(waiting: Waiting) -> None:
    waiting.add([COMPANY], "approved")
    waiting.add([COMPANY] * MAX_WAITING_OF_NETWORK)
    waiting.stored.grants.create_code("claude-code", COMPANY)
    assert [waiting.has(number) for number in (1, 2, 3)] == [True, False, True]
    waiting.stored.now += 61
    waiting.stored.grants.create_code("claude-code", COMPANY)
    assert waiting.has(3), "expired codes do not count, and the ledger deletes them"


def test_a_person_has_a_hundred_devices_and_the_one_refreshed_longest_ago_gives_way(stored: Database) -> None:
    first, _ = stored.sign_in()
    second, _ = stored.sign_in()
    other, _ = stored.sign_in(structs.replace(ANN, subject="2", email="ben@example.org"))
    columns = ("id", "key_id", "refresh_hash", "person", "created_at", "checked_at", "refreshed_at", "ends_at")
    at, end = int((NOON + 1) * 1e6), int((NOON + 3_600) * 1e6)
    rows = [
        (f"sign_{number}", first.key_id, f"hash {number}", encode_user(ANN), at, at, at, end)
        for number in range(MAX_DEVICES - 2)
    ]
    with closing(open_for_writing(stored.settings)) as connection, connection.transaction():
        connection.insert("sign_ins", columns, rows)
    stored.now += 2
    assert stored.grants.renew(first, answer(ANN, stored.now)) is not None
    stored.now += 1
    newest, _ = stored.sign_in()
    active = [stored.grants.find_active(each.id) is not None for each in (first, second, newest, other)]
    assert active == [True, False, True, True]
    with closing(open_for_reading(stored.settings)) as connection:
        assert len(list_sign_ins(connection, stored.now)) == MAX_DEVICES + 1
        assert list_audit_entries(connection)[0].changes["sign_ins"] == ([second.id], [])


def test_a_rotation_of_the_secret_keeps_tokens_readable(stored: Database) -> None:
    sign_in, refresh_token = stored.sign_in()
    stored.rotate("b" * 32, "a" * 32)
    assert stored.grants.find_sign_in(refresh_token) == sign_in
    assert stored.grants.decrypt(sign_in) == "token-of-the-provider"
    renewed = stored.grants.keep_token(sign_in, "next token")
    stored.rotate("b" * 32)
    assert stored.grants.decrypt(renewed) == "next token"
    assert stored.grants.decrypt(sign_in) is None
    assert stored.grants.decrypt(structs.replace(renewed, user=structs.replace(ANN, subject="2"))) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("BCDF-GHJK", "BCDF-GHJK"),
        ("bcdfghjk", "BCDF-GHJK"),
        (" bcdf ghjk ", "BCDF-GHJK"),
        ("b-c-d-f-g-h-j-k", "BCDF-GHJK"),
        ("ABCD-FGHJ", ""),
        ("BCDF-GHJ", ""),
        ("BCDF-GHJKL", ""),
        ("", ""),
        ("\u00df\u00df\u00df\u00df", ""),
    ],
)
def test_user_codes_are_read_in_the_forms_that_people_type(text: str, expected: str) -> None:
    assert normalize_user_code(text) == expected
