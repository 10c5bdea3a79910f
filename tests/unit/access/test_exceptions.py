"""Exceptions of persons and services: what an administrator sets for one of them lasts above the tables of groups and
issuers, is shown with its origin, and ends when the administrator or the revocation ends it.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.console.gateway_protocol.grants import Grants
from anthropic_proxy.console.keys.access_tokens import TokenKeys
from anthropic_proxy.console.keys.administration import KeyCommand, decode_command, open_administration
from anthropic_proxy.console.keys.descriptions import describe_exceptions
from anthropic_proxy.console.keys.group_tables import apply_group_tables
from anthropic_proxy.console.keys.queries import list_audit_entries, require_key
from anthropic_proxy.console.keys.rights import Rights
from anthropic_proxy.console.keys.sign_ins import SignIn
from anthropic_proxy.console.keys.table_rules import list_table_fields
from anthropic_proxy.console.keys.virtual_keys import VirtualKey
from anthropic_proxy.console.ledger.database import open_for_reading
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.settings import OidcSettings, Settings, SignInGroup, SignInSettings, TokenIssuer
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules
from anthropic_proxy.secrets import Secret
from tests.support.ledger import NOON
from tests.support.sign_in import SECRET, answer, store_sign_in

PERSON = "ann@example.org"
DEVELOPERS = SignInGroup(
    name="*", team="build", rules=Rules(models=("claude-*",), budgets=(Budget(20, "usd", "day"),), concurrency=4)
)
CI = TokenIssuer(name="ci", issuer="https://ci.example.org", audiences=frozenset({"a"}), rules=Rules(concurrency=2))


class Company:
    """A person that has signed in, a service, and an administrator."""

    def __init__(self, settings: Settings) -> None:
        self.now = NOON
        self.settings = structs.replace(
            settings,
            oidc=OidcSettings(issuer="https://login.example.org", client_id="proxy", cost_center_claim="cost_center"),
            sign_in=SignInSettings(secrets=(Secret(SECRET),), groups=(DEVELOPERS,)),
            token_issuers=(CI,),
        )
        self.sign_in()
        self.use_token()

    def sign_in(self) -> SignIn:
        url = self.settings.database_url
        path = f"sqlite:///{self.settings.data_directory}/ledger.sqlite3"
        self.device = store_sign_in(path if url is None else url.reveal(), clock=lambda: self.now)
        return self.refresh()

    def refresh(self) -> SignIn:
        """The device of the person refreshes its token."""
        sign_in = self.settings.sign_in
        assert sign_in is not None
        grants = Grants(self.settings, TokenKeys(sign_in), lambda: self.now)
        renewed = grants.renew(self.device, answer(self.device.user, self.now))
        assert renewed is not None
        return renewed

    def state(self, **facts: Any) -> None:
        """The identity provider states these facts at the next refresh of the device."""
        self.device = structs.replace(self.device, user=structs.replace(self.device.user, **facts))
        self.refresh()

    def use_token(self) -> None:
        """The service sends a token that the proxy has not seen."""
        (issuer,) = self.settings.token_issuers
        with open_administration(self.settings, "token issuer (ci)", lambda: self.now) as administration:
            fields = {"owner": "app", **list_table_fields(issuer)}
            administration.execute(KeyCommand(action="person", target="ci/app", fields=fields))

    def change_group(self, **fields: Any) -> None:
        """Change the table of the group, and reload."""
        sign_in = self.settings.sign_in
        assert sign_in is not None
        group = structs.replace(sign_in.groups[0], **fields)
        self.settings = structs.replace(self.settings, sign_in=structs.replace(sign_in, groups=(group,)))
        apply_group_tables(self.settings)

    def run(self, action: Any, name: str = PERSON, **options: str) -> VirtualKey:
        """Run a command of an administrator."""
        command = decode_command(action, name, options, self.now, prefix="--")
        with open_administration(self.settings, "command (ada@host)", lambda: self.now) as administration:
            return administration.execute(command).key

    def find(self, name: str = PERSON) -> VirtualKey:
        with closing(open_for_reading(self.settings)) as connection:
            return require_key(connection, name)

    def list_changes(self) -> list[dict[str, tuple[object, object]]]:
        with closing(open_for_reading(self.settings)) as connection:
            return [entry.changes for entry in list_audit_entries(connection) if entry.actor == "command (ada@host)"]


@pytest.fixture
def company(database: Settings) -> Iterator[Company]:
    return Company(database)


def show(key: VirtualKey) -> tuple[str, object, object, list[tuple[float, str]]]:
    return (
        key.team,
        key.rules.models,
        key.rules.concurrency,
        [(one.amount, one.period) for one in key.rules.budgets],
    )


def test_what_is_set_for_a_person_lasts_and_the_table_sets_the_rest(company: Company) -> None:
    assert show(company.find()) == ("build", ("claude-*",), 4, [(20, "day")])
    company.run("change", budget="200USD/month")
    company.refresh()
    assert show(company.find()) == ("build", ("claude-*",), 4, [(200, "month")])
    company.change_group(team="core", rules=Rules(models=("*",), budgets=(Budget(1, "usd", "day"),)))
    assert show(company.find()) == ("core", ("*",), None, [(200, "month")])
    company.refresh()
    assert show(company.find()) == ("core", ("*",), None, [(200, "month")])
    assert describe_exceptions(company.find()) == "budget (by command (ada@host), 2026-11-21T12:00:00Z)"


def test_an_exception_that_is_as_the_table_lasts_too(company: Company) -> None:
    company.run("change", concurrency="4", team="build")
    company.change_group(team="core", rules=Rules())
    assert show(company.find()) == ("build", (), 4, [])


def test_an_exception_that_ends_gives_the_field_back_to_the_table(company: Company) -> None:
    company.run("change", budget="none", team="core")
    company.now += 60
    company.run("change", concurrency="none")
    assert show(company.find()) == ("core", ("claude-*",), None, [])
    assert describe_exceptions(company.find()) == (
        "team, budget (by command (ada@host), 2026-11-21T12:00:00Z); "
        "concurrency (by command (ada@host), 2026-11-21T12:01:00Z)"
    )
    key = company.run("change", exceptions="concurrency")
    assert show(key) == ("build", ("claude-*",), None, [(20, "day")])
    assert describe_exceptions(key) == "concurrency (by command (ada@host), 2026-11-21T12:01:00Z)"
    assert company.list_changes()[0] == {
        "team": ("core", "build"),
        "budgets": ([], ["$20.00 per day"]),
        "exceptions": (["team", "concurrency", "budgets"], ["concurrency"]),
    }
    assert show(company.run("change", exceptions="none")) == ("build", ("claude-*",), 4, [(20, "day")])
    assert company.find().exceptions == {}


def test_a_field_becomes_an_exception_at_its_present_value(company: Company) -> None:
    company.run("change", exceptions="models,budget")
    company.change_group(rules=Rules())
    assert show(company.find()) == ("build", ("claude-*",), None, [(20, "day")])


def test_an_exception_of_a_time_without_tables_lasts(company: Company) -> None:
    sign_in = company.settings.sign_in
    assert sign_in is not None
    company.settings = structs.replace(company.settings, sign_in=structs.replace(sign_in, groups=()))
    company.run("change", budget="7USD/day", models="none")
    company.settings = structs.replace(company.settings, sign_in=sign_in)
    company.refresh()
    assert show(company.find()) == ("build", (), 4, [(7, "day")])


def test_the_cost_center_is_that_of_the_claim_else_of_the_table_and_an_exception_is_above_both(
    company: Company,
) -> None:
    company.change_group(cost_center="4000")
    assert company.find().cost_center == "4000"
    company.state(cost_center="4711")
    assert company.find().cost_center == "4711"
    company.run("change", cost_center="9")
    company.state(cost_center="4712")
    assert company.find().cost_center == "9"
    assert company.run("change", exceptions="none").cost_center == "4712"
    company.state(cost_center="")
    assert company.find().cost_center == "4000"


def test_the_claim_sets_the_cost_center_without_tables_too(company: Company) -> None:
    sign_in = company.settings.sign_in
    assert sign_in is not None
    company.settings = structs.replace(company.settings, sign_in=structs.replace(sign_in, groups=()))
    company.state(cost_center="4711")
    assert company.find().cost_center == "4711"
    own = KeyCommand(action="create", fields={"label": "laptop"})
    rights = Rights(role="member", person=company.find().id, max_keys=2)
    with open_administration(company.settings, "API", lambda: company.now, rights) as administration:
        assert administration.execute(own).key.cost_center == "4711"
        with pytest.raises(InvalidRequest) as refused:
            administration.execute(structs.replace(own, fields={"label": "ci", "cost_center": "4712"}))
    assert refused.value.message == (
        "The cost center is '4712'. Keys that ann@example.org creates have '4711': leave it out."
    )
    company.state(cost_center="4713")
    assert company.find("laptop").cost_center == "4713"


def test_exceptions_end_with_the_person(company: Company) -> None:
    company.run("change", budget="200USD/month")
    company.run("revoke")
    assert company.list_changes()[0]["exceptions"] == (["budgets"], [])
    company.run("allow")
    company.sign_in()
    assert show(company.find()) == ("build", ("claude-*",), 4, [(20, "day")])


def test_a_service_has_exceptions_too(company: Company) -> None:
    company.run("change", "ci/app", concurrency="9")
    company.use_token()
    assert company.find("ci/app").rules.concurrency == 9
    company.run("change", "ci/app", exceptions="none")
    assert company.find("ci/app").rules.concurrency == 2


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        (
            PERSON,
            "budget,label",
            '--exceptions has "label". Use none, or team, cost-center, models, providers, routes, rpm, tpm, '
            "concurrency and budget.",
        ),
        ("laptop", "budget", "The key 'laptop' is no person and no service, so it has no exceptions."),
    ],
)
def test_exceptions_that_cannot_be_are_refused(company: Company, name: str, text: str, reason: str) -> None:
    with open_administration(company.settings, "test") as administration:
        administration.execute(KeyCommand(action="create", fields={"label": "laptop"}))
    with pytest.raises(InvalidRequest) as refused:
        company.run("change", name, exceptions=text)
    assert refused.value.message == reason
