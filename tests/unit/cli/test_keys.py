"""`keys` creates a key, lists it without its secret, and shows each change in the audit log."""

import csv
import io
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from anthropic_proxy.console.keys.administration import KeyAdministration, KeyCommand
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.secrets import Secret
from tests.support.clocks import RECORDED_AT, start_at_recorded_time
from tests.support.command_line import run_command
from tests.support.sign_in import store_sign_in
from tests.support.virtual_keys import User

SETTINGS = {"VIRTUAL_KEYS": "true"}


def test_a_key_is_printed_once(tmp_path: Path) -> None:
    words = ("create", "ci", "--team", "build", "--rpm", "60", "--budget", "50USD/month", "--models", "claude-*")
    done = run_command("keys", *words, directory=tmp_path, settings={})
    key = done.stdout.strip()
    assert done.returncode == 0
    assert key.startswith("sk-ap-")
    assert len(key) == 52
    created, warned = done.stderr.splitlines()
    assert created.startswith("  ✓ Key ci is created (key_")
    assert created.endswith("; 60 requests/min, $50.00 per month, models claude-*). It is shown only now.")
    assert warned == "  ! The proxy does not accept it yet. Set VIRTUAL_KEYS=true in .env and start the proxy again."
    listed = run_command("keys", "list", directory=tmp_path, settings=SETTINGS).stdout
    titles, row = (line.split("\t") for line in listed.splitlines())
    assert titles == ["Label", "Key", "Status", "Owner", "Team", "Expires", "Limits", "Id"]
    assert row[:7] == [
        *("ci", f"sk-ap-…{key[-4:]}", "active", "", "build", "never"),
        "60 requests/min, $50.00 per month, models claude-*",
    ]
    exported = run_command("keys", "audit", "--csv", directory=tmp_path, settings=SETTINGS).stdout
    (entry,) = csv.DictReader(io.StringIO(exported))
    assert (entry["action"], entry["object"]) == ("create key", f"{row[7]} ci")
    assert entry["changes"] == (
        "label: ci; team: build; models: claude-*; requests_per_minute: 60; budgets: $50.00 per month"
    )
    assert key[6:20] not in listed + exported


def test_routes_of_a_team_are_checked(tmp_path: Path) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text('[[routes]]\nname = "small"\ntargets = ["demo/demo"]\n', "utf-8")
    done = run_command("keys", "team", "build", "--routes", "small, night", directory=tmp_path, settings=SETTINGS)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "  build  routes small night\n",
        "  ! anthropic-proxy.toml has no route 'night', so no request matches it.\n",
    )


@pytest.mark.parametrize("since", ["30m", "3600s", "24h", "1d", "1w", "today", f"{RECORDED_AT:%Y-%m}"])
def test_usage_and_the_audit_log_accept_the_same_times(since: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, **start_at_recorded_time(), "TZ": "UTC"}
    run_command("keys", "team", "build", "--budget", "10USD/month", directory=tmp_path, settings=settings)
    listed = run_command("keys", "audit", "--json", "--since", since, directory=tmp_path, settings=settings)
    assert (listed.returncode, json.loads(listed.stdout)["action"]) == (0, "change team")
    used = run_command("usage", "--json", "--since", since, directory=tmp_path, settings=settings)
    assert (used.returncode, used.stderr) == (0, "")


def test_an_unknown_time_of_the_audit_log_is_named_with_the_allowed_forms(tmp_path: Path) -> None:
    done = run_command("keys", "audit", "--since", "999999w", directory=tmp_path, settings=SETTINGS)
    assert (done.returncode, done.stderr) == (
        2,
        '✕ --since is "999999w". Use 30m, 24h, 7d, 4w, today, yesterday, a month such as 2026-11, or a date such as '
        "2026-11-01.\n",
    )


def test_an_overlap_that_has_no_end_on_the_calendar_is_refused(tmp_path: Path) -> None:
    run_command("keys", "create", "ci", directory=tmp_path, settings=SETTINGS)
    done = run_command("keys", "rotate", "ci", "--overlap", "500000w", directory=tmp_path, settings=SETTINGS)
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        '✕ --overlap is "500000w". Use a duration such as 30m, 12h, 30d or 4w.\n',
    )


def test_a_team_is_shown_with_the_used_amounts_of_its_budgets(tmp_path: Path) -> None:
    words = ("keys", "team", "build")
    changed = run_command(*words, "--budget", "10USD/month", directory=tmp_path, settings=SETTINGS)
    shown = run_command(*words, directory=tmp_path, settings=SETTINGS)
    expected = "  build  $10.00 per month\n    used     $0.00 of $10.00 per month\n"
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, expected, "")
    assert changed.stdout == expected


def test_a_rotation_is_printed_as_json_and_wrong_options_are_named(tmp_path: Path) -> None:
    first = json.loads(run_command("keys", "create", "ci", "--json", directory=tmp_path, settings=SETTINGS).stdout)
    rotated = run_command("keys", "rotate", "ci", "--overlap", "1h", "--json", directory=tmp_path, settings=SETTINGS)
    second = json.loads(rotated.stdout)
    assert first["id"] == second["id"]
    assert first["key"] != second["key"]
    assert f"The old secret sk-ap-…{first['key'][-4:]} is valid until " in rotated.stderr
    done = run_command("keys", "change", "ci", "--rpm", "many", directory=tmp_path, settings=SETTINGS)
    assert (done.returncode, done.stderr) == (
        2,
        '✕ --rpm is "many". Use a whole number above 0, or none: no limit.\n',
    )


def test_changes_as_json_have_no_control_characters(tmp_path: Path) -> None:
    run_command("keys", "create", "ci", directory=tmp_path, settings=SETTINGS)
    (file,) = tmp_path.rglob("ledger.sqlite3")
    actor = "\x1b[1m \x7f \x9b31m \u202e"
    with closing(sqlite3.connect(file)) as database:
        database.execute("UPDATE audit_log SET actor = ?", (actor,))
        database.commit()
    (line,) = run_command("keys", "audit", "--json", directory=tmp_path, settings=SETTINGS).stdout.splitlines()
    assert line.isprintable()
    assert json.loads(line)["actor"] == actor


def test_a_text_that_is_no_utf8_makes_its_key_unreadable_only(tmp_path: Path) -> None:
    for label in ("bad", "good"):
        run_command("keys", "create", label, directory=tmp_path, settings=SETTINGS)
    (file,) = tmp_path.rglob("ledger.sqlite3")
    with closing(sqlite3.connect(file)) as database:
        database.execute("UPDATE virtual_keys SET owner = CAST(x'ff' AS TEXT) WHERE label = 'bad'")
        database.commit()
    listed = run_command("keys", "list", directory=tmp_path, settings=SETTINGS)
    rows = [line.split("\t") for line in listed.stdout.splitlines()[1:]]
    assert {row[0]: row[2] for row in rows} == {"bad": "unreadable", "good": "active"}
    revoked = run_command("keys", "revoke", "bad", directory=tmp_path, settings=SETTINGS)
    assert (revoked.returncode, revoked.stdout) == (0, "  ✓ Key bad is revoked.\n"), revoked


def test_signed_in_devices_are_listed_and_signed_out(tmp_path: Path) -> None:
    settings = {**SETTINGS, "DATABASE_URL": f"sqlite:///{tmp_path}/ledger.sqlite3"}
    first, second = (store_sign_in(settings["DATABASE_URL"]) for _ in range(2))
    listed = run_command("keys", "sign-ins", directory=tmp_path, settings=settings).stdout
    titles, *rows = (line.split("\t") for line in listed.splitlines())
    assert titles == ["Person", "Device", "Address", "Signed in", "Last refresh", "Ends", "Id"]
    assert [row[:3] for row in rows] == [["ann@example.org", "claude-code/2.1.332", "192.0.2.1"]] * 2
    assert sorted(row[6] for row in rows) == sorted([first.id, second.id])
    assert all(row[4].endswith("Z (provider not asked)") for row in rows)
    done = run_command("keys", "sign-out", first.id, directory=tmp_path, settings=settings)
    assert (done.returncode, done.stdout) == (0, "  ✓ 1 sign-in of ann@example.org is ended.\n")
    printed = run_command("keys", "sign-ins", "--json", directory=tmp_path, settings=settings).stdout
    (left,) = json.loads(printed)
    assert (left["id"], left["type"], left["email"], left["key_id"]) == (
        *(second.id, "sign_in", "ann@example.org"),
        second.key_id,
    )
    assert store_sign_in(settings["DATABASE_URL"], "bea@example.org").user.email == "bea@example.org"
    done = run_command("keys", "sign-out", "Ann@example.org", directory=tmp_path, settings=settings)
    assert (done.returncode, done.stdout) == (0, "  ✓ 1 sign-in of ann@example.org is ended.\n")
    done = run_command("keys", "sign-out", "ann@example.org", directory=tmp_path, settings=settings)
    assert (done.returncode, done.stderr) == (
        2,
        "✕ There is no sign-in of 'ann@example.org'. List the sign-ins:  anthropic-proxy keys sign-ins\n",
    )
    done = run_command("keys", "rotate", "ann@example.org", directory=tmp_path, settings=settings)
    assert (done.returncode, done.stderr) == (
        2,
        "✕ The key 'ann@example.org' is a person or a service, so it has no secret. To end all its access:  "
        "anthropic-proxy keys revoke ann@example.org\n",
    )
    exported = run_command("keys", "audit", "--csv", directory=tmp_path, settings=settings).stdout
    actions = [row["action"] for row in csv.DictReader(io.StringIO(exported))]
    assert actions == ["sign out", "sign in", "create key", "sign out", "sign in", "sign in", "create key"]


def test_the_keys_of_a_person_without_access_are_shown_with_the_reason(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/ledger.sqlite3"
    settings = {
        **SETTINGS,
        "DATABASE_URL": database,
        "SIGN_IN_SECRET": "a" * 32,
        "OIDC_ISSUER": "https://login.example.org",
        "OIDC_CLIENT_ID": "proxy",
        "DASHBOARD_URL": "https://proxy.example.org",
    }
    store_sign_in(database)
    with closing(open_for_writing(Settings(database_url=Secret(database)))) as opened:
        rights = User(role="member", address="ann@example.org", max_keys=2).find_rights(opened)
        administration = KeyAdministration(opened, "test", rights=rights)
        administration.execute(KeyCommand(action="create", fields={"label": "laptop"}))
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as connection:
        connection.execute("UPDATE sign_ins SET ends_at = 1795046400000000 - 172800000000")
        connection.commit()
    reason = (
        "The key 'laptop' is rejected, because the access of its owner has ended at 2026-11-17T00:00:00Z. The owner "
        "signs in again from Claude Code."
    )
    listed = run_command("keys", "list", directory=tmp_path, settings=settings).stdout
    rows = [line.split("\t") for line in listed.splitlines()[1:]]
    assert {row[0]: row[2] for row in rows} == {"laptop": "inactive", "ann@example.org": "inactive"}
    printed = json.loads(run_command("keys", "list", "--json", directory=tmp_path, settings=settings).stdout)
    found = {one["name"]: (one["status"], one["status_reason"]) for one in printed}
    assert found["laptop"] == ("inactive", reason)
    shown = run_command("keys", "show", "laptop", directory=tmp_path, settings=settings).stdout
    assert shown.splitlines()[:2] == ["  laptop  inactive", f"    reason   {reason}"]
    done = run_command("keys", "revoke", "ann@example.org", directory=tmp_path, settings=settings)
    assert (done.stdout, done.stderr) == (
        "  ✓ Key ann@example.org is revoked.\n",
        "  All sign-ins of the person, 1 key of this owner and the sessions of the dashboard are ended, and the person "
        "cannot sign in.\n"
        "  To allow it again:  anthropic-proxy keys allow ann@example.org\n",
    )
    done = run_command("keys", "allow", "ann@example.org", directory=tmp_path, settings=settings)
    assert done.stdout == "  ✓ Key ann@example.org is allowed.\n"


def test_exceptions_of_a_person_are_made_listed_and_ended(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/ledger.sqlite3"
    settings = {**SETTINGS, "DATABASE_URL": database}
    store_sign_in(database)

    def run(*words: str) -> str:
        return run_command("keys", *words, directory=tmp_path, settings=settings).stdout

    assert "except" not in run("show", "ann@example.org").casefold() + run("list").casefold()
    shown = run("change", "ann@example.org", "--rpm", "9", "--team", "core")
    (line,) = (line.strip() for line in shown.splitlines() if line.startswith("    except"))
    origin = re.fullmatch(r"except   team, rpm \(by (command \(.+@.+\), 20\d\d-.+Z)\)", line)
    assert origin is not None, line
    assert run("list").splitlines()[0].split("\t")[-2:] == ["Exceptions", "Id"]
    assert run("list").splitlines()[1].split("\t")[-2] == f"team, rpm (by {origin[1]})"
    shown = run("change", "ann@example.org", "--exceptions", "none")
    assert "except" not in shown
    assert "9 requests/min" in shown, "no table sets it"
