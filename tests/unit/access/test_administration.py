"""Keys are created, changed, rotated and revoked on each database, and each change is in the audit log."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from msgspec import structs

from anthropic_proxy.console.formats import long_time
from anthropic_proxy.console.keys.administration import (
    KeyAction,
    KeyAdministration,
    KeyCommand,
    decode_command,
    find_digest,
)
from anthropic_proxy.console.keys.descriptions import has_valid_checksum, hash_key
from anthropic_proxy.console.keys.queries import find_key, list_audit_entries, list_keys, list_teams
from anthropic_proxy.console.keys.virtual_keys import VirtualKey
from anthropic_proxy.console.ledger.database import open_for_reading, open_for_writing
from anthropic_proxy.errors import InvalidRequest, UnknownModel
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules
from tests.support.ledger import NOON
from tests.support.virtual_keys import change_key, change_team, create_key, revoke_key, rotate_key

RULES = Rules(models=("claude-*",), requests_per_minute=60, budgets=(Budget(50, "usd", "month"),))


@pytest.fixture
def administration(database: Settings) -> Iterator[KeyAdministration]:
    connection = open_for_writing(database)
    yield KeyAdministration(connection, "command (ada@host)", lambda: NOON)
    connection.close()


def new_key(label: str = "ci", **fields: object) -> VirtualKey:
    return structs.replace(VirtualKey(id="", label=label, team="build", rules=RULES), **fields)


def test_a_label_that_another_key_had_is_not_used_again(administration: KeyAdministration) -> None:
    create_key(administration, new_key("laptop"))
    other, _ = create_key(administration, new_key("desk"))
    change_key(administration, "laptop", label="old laptop")
    message = r"Another key had the label 'laptop', and the ledger has its requests\. Use another label\."
    with pytest.raises(InvalidRequest, match=message):
        create_key(administration, new_key("laptop"))
    with pytest.raises(InvalidRequest, match=message):
        change_key(administration, other.id, label="laptop")
    assert change_key(administration, "old laptop", label="laptop").label == "laptop"


def test_a_key_lives_from_its_creation_to_its_revocation(database: Settings, administration: KeyAdministration) -> None:
    key, first = create_key(administration, new_key())
    assert (key.label, key.rules, key.find_status(NOON), has_valid_checksum(first.encode())) == (
        "ci",
        structs.replace(RULES, budgets=(Budget(50, "usd", "month", since=NOON),)),
        "active",
        True,
    )
    changed = change_key(administration, "ci", owner="ada", requests_per_minute=None)
    assert (changed.owner, changed.rules.requests_per_minute, changed.rules.models) == ("ada", None, ("claude-*",))
    rotated, second = rotate_key(administration, key.id, overlap_seconds=3600)
    assert {each.hash: each.expires_at for each in rotated.hashes} == {
        hash_key(first.encode()): NOON + 3600,
        hash_key(second.encode()): None,
    }
    assert revoke_key(administration, "ci").find_status(NOON) == "revoked"
    revoke_key(administration, "ci")  # has no effect
    with closing(open_for_reading(database)) as connection:
        assert [each.label for each in list_keys(connection)] == ["ci"]
        assert find_key(connection, "other") is None
        entries = list_audit_entries(connection)
    assert [(each.action, each.actor, each.at, each.target) for each in entries] == [
        (action, "command (ada@host)", NOON, f"{key.id} ci")
        for action in ("revoke key", "rotate key", "change key", "create key")
    ]
    assert entries[2].changes == {"owner": ("", "ada"), "requests_per_minute": (60, None)}
    assert entries[3].changes == {
        "label": ("", "ci"),
        "team": ("", "build"),
        "models": ([], ["claude-*"]),
        "requests_per_minute": (None, 60),
        "budgets": ([], ["$50.00 per month"]),
    }


def test_no_table_contains_a_key(database: Settings, administration: KeyAdministration) -> None:
    _, first = create_key(administration, new_key())
    _, second = rotate_key(administration, "ci")
    with closing(open_for_reading(database)) as connection:
        tables = ("virtual_keys", "key_hashes", "teams", "audit_log")
        stored = [connection.query(f"SELECT * FROM {name}") for name in tables]
    for text in (first, second):
        secret = text.removeprefix("sk-ap-")[:-4]
        assert not any(secret[start : start + 8] in repr(stored) for start in range(len(secret) - 7))


def test_a_team_has_rules_until_they_are_empty(database: Settings, administration: KeyAdministration) -> None:
    change_team(administration, "build", {"tokens_per_minute": 1000})
    team = change_team(administration, "build", {"concurrency": 4})
    with closing(open_for_reading(database)) as connection:
        assert list_teams(connection) == [team]
    change_team(administration, "build", {"tokens_per_minute": None, "concurrency": None})
    with closing(open_for_reading(database)) as connection:
        assert list_teams(connection) == []
        assert [each.action for each in list_audit_entries(connection)] == ["delete team", "change team", "change team"]


def test_a_team_has_a_name_that_an_address_can_contain(administration: KeyAdministration) -> None:
    with pytest.raises(InvalidRequest) as raised:
        change_team(administration, "web/ui", {"concurrency": 3})
    assert raised.value.message == (
        "The name of the team 'web/ui' contains /. Use another character, because addresses below /admin/teams "
        "contain the name."
    )


def test_a_change_of_a_key_that_another_administrator_changed_is_rejected(administration: KeyAdministration) -> None:
    examined, _ = create_key(administration, new_key())
    team = change_team(administration, "build", {"concurrency": 3})
    change_key(administration, "ci", owner="ada")
    change_team(administration, "build", {"concurrency": 4})
    for action, target, fields, seen in (
        ("change", "ci", {"owner": "grace"}, examined),
        ("rotate", "ci", {}, examined),
        ("team", "build", {"concurrency": 5}, team),
    ):
        command = KeyCommand(action=action, target=target, fields=fields, expected_digest=find_digest(seen))
        with pytest.raises(InvalidRequest) as raised:
            administration.execute(command)
        assert raised.value.message == (
            "The values have changed since the preview. Nothing was changed. Open the form again."
        )
    present = administration.require_key("ci")
    assert (present.owner, len(present.hashes)) == ("ada", 1)
    command = KeyCommand(action="change", target="ci", fields={"owner": "grace"}, expected_digest=find_digest(present))
    administration.execute(command)
    assert administration.find_team("build").rules.concurrency == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label": "taken"}, "A key with the label 'taken' exists. Use another label, or rotate that key."),
        ({"label": "key 1"}, "The label is 'key 1'. Use another one: local, admin, doctor and key 1 have a meaning."),
        (
            {"label": "monitor key 1"},
            "The label is 'monitor key 1'. Use another one: local, admin, doctor and key 1 have a meaning.",
        ),
        ({"label": "doctor"}, "The label is 'doctor'. Use another one: local, admin, doctor and key 1 have a meaning."),
        (
            {"owner": "a\nb"},
            r"The owner is 'a\nb'. Use at most 64 printable characters without spaces at its ends.",
        ),
        ({"expires_at": 253_402_300_800.0}, "The expiry is after 9999-12-30. Use an earlier time, or none."),
        (
            {"rules": Rules(budgets=(Budget(10_000_000, "usd", "day"),))},
            "budgets has the amount 10,000,000. Use a number above 0 up to 9,000,000.",
        ),
        ({"expires_at": NOON}, "The expiry is in the past. Use a later time, or revoke the key."),
        (
            {"rules": Rules(concurrency=0)},
            "concurrency is 0. Use a whole number from 1 to 1,000,000,000,000, or null: no limit.",
        ),
        (
            {"rules": Rules(budgets=(Budget(5, "usd", "day"), Budget(6, "usd", "day")))},
            "budgets has two amounts in usd/day. Use one of them.",
        ),
        (
            {"rules": Rules(budgets=tuple(Budget(5, "usd", "day", models="*", soft=True) for _ in range(2)))},
            "budgets has two amounts in usd/day for * soft. Use one of them.",
        ),
        (
            {"rules": Rules(budgets=(Budget(5, "usd", "day", models="gpt-*, o3"),))},
            "budgets has the models 'gpt-*, o3'. Use one name or pattern, such as claude-opus-*.",
        ),
        (
            {"rules": Rules(budgets=tuple(Budget(5, "usd", "day", models=f"m{n}") for n in range(21)))},
            "budgets has 21 entries. Use at most 20.",
        ),
        ({"rules": Rules(models=("a b",))}, "models contains 'a b'. Use names or patterns such as claude-*."),
        ({"rules": Rules(providers=("",))}, "providers contains ''. Use prefixes such as openai."),
        (
            {"rules": Rules(routes=("a*",))},
            "routes contains 'a*'. Use names of [[routes]] in anthropic-proxy.toml.",
        ),
    ],
)
def test_an_invalid_key_is_not_stored(sqlite: Settings, fields: dict[str, object], message: str) -> None:
    connection = open_for_writing(sqlite)
    administration = KeyAdministration(connection, "test", lambda: NOON)
    create_key(administration, new_key("taken"))
    with pytest.raises(InvalidRequest) as raised:
        create_key(administration, new_key(**{"label": "new", **fields}))
    assert raised.value.message == message
    with pytest.raises(UnknownModel) as unknown:
        revoke_key(administration, "new")
    assert unknown.value.message == "There is no key 'new'. List the keys:  anthropic-proxy keys list"
    connection.close()


def test_a_key_or_team_that_cannot_be_read_is_not_changed(
    database: Settings, administration: KeyAdministration
) -> None:
    change_team(administration, "build", {"concurrency": 1})
    create_key(administration, new_key(rules=Rules(concurrency=2)))
    connection = open_for_writing(database)
    connection.execute('UPDATE virtual_keys SET rules = \'{"concurrency":"x"}\'')
    connection.execute('UPDATE teams SET rules = \'{"concurrency":"x"}\'')
    reason = (
        "cannot be read from the database: Expected `int | null`, got `str` - at `$.concurrency`. A newer version of "
        "the proxy may have stored it. Nothing was changed."
    )
    changes: tuple[Callable[[], object], ...] = (
        lambda: change_key(administration, "ci", owner="me"),
        lambda: rotate_key(administration, "ci"),
    )
    for change in changes:
        with pytest.raises(InvalidRequest) as raised:
            change()
        assert raised.value.message == f"The key 'ci' {reason} Revoke it, or update this version."
    with pytest.raises(InvalidRequest) as raised:
        change_team(administration, "build", {"requests_per_minute": 1})
    assert raised.value.message == f"The team 'build' {reason} Give its keys another team, or update this version."
    assert [key.find_status(0) for key in list_keys(connection)] == ["unreadable"]
    revoke_key(administration, "ci")
    assert [key.find_status(time.time()) for key in list_keys(connection)] == ["revoked"]
    connection.execute("UPDATE audit_log SET changes = '{bad'")
    assert {str(entry.changes) for entry in list_audit_entries(connection)} == {"{'unreadable': (None, '{bad')}"}
    connection.close()


@pytest.mark.parametrize(
    ("action", "target", "given", "changes", "sentence"),
    [
        (
            "create",
            "",
            {"label": "new", "rpm": "5"},
            {"label": ("", "new"), "requests_per_minute": (None, 5)},
            "Key new is created.",
        ),
        (
            "change",
            "ci",
            {"owner": "ada", "rpm": "none"},
            {"owner": ("", "ada"), "requests_per_minute": (60, None)},
            "Key ci is changed.",
        ),
        (
            "rotate",
            "ci",
            {"overlap": "1h"},
            {"secret": (f"HINT, valid until {long_time(NOON + 3_600)}", "a new secret, shown after the confirmation")},
            f"Key ci has a new secret. The old one is valid until {long_time(NOON + 3_600)}.",
        ),
        ("revoke", "ci", {}, {"status": ("active", "revoked")}, "Key ci is revoked."),
        ("team", "build", {"concurrency": "4"}, {"concurrency": (None, 4)}, "Team build is changed."),
    ],
)
def test_a_command_is_previewed_without_a_trace_and_then_executed(
    database: Settings,
    administration: KeyAdministration,
    action: KeyAction,
    target: str,
    given: dict[str, str],
    changes: dict[str, tuple[object, object]],
    sentence: str,
) -> None:
    key, _ = create_key(administration, new_key())
    command = decode_command(action, target, given, NOON)
    with closing(open_for_reading(database)) as connection:
        before = (list_keys(connection), list_teams(connection), list_audit_entries(connection))
        preview = administration.execute(command, dry_run=True)
        assert (list_keys(connection), list_teams(connection), list_audit_entries(connection)) == before
    if "secret" in changes:
        old, new = changes["secret"]
        changes = {"secret": (str(old).replace("HINT", key.hashes[0].hint), new)}
    assert (preview.changes, preview.text) == (changes, "")
    done = administration.execute(command)
    with closing(open_for_reading(database)) as connection:
        recorded = list_audit_entries(connection)[0].changes
    assert recorded == done.changes
    assert done.sentence == preview.sentence == sentence
    assert (done.changes == preview.changes) is (action != "rotate")
    assert bool(done.text) is (action in ("create", "rotate"))


def test_a_preview_refuses_what_the_change_would_refuse(administration: KeyAdministration) -> None:
    create_key(administration, new_key())
    for overlap, message in (
        ("31d", "The overlap is 2.6784e+06 seconds. Use 0 to 2,592,000 (30 days)."),
        ("0m", "The key 'ci' is revoked. Create a new key."),
    ):
        with pytest.raises(InvalidRequest) as raised:
            administration.execute(decode_command("rotate", "ci", {"overlap": overlap}, NOON), dry_run=True)
        assert raised.value.message == message
        revoke_key(administration, "ci")
