"""A virtual key is accepted until it ends. Every other key is rejected by the same steps, with its own message."""

import asyncio
import sqlite3
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from anthropic_proxy.console.keys.key_policy import KeyPolicy
from anthropic_proxy.console.keys.key_table import KeyTable
from anthropic_proxy.console.keys.queries import require_key
from anthropic_proxy.errors import AuthenticationFailed, ProxyError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client
from tests.support.ledger import NOON
from tests.support.virtual_keys import OWN_KEYS, Keys, change_team, revoke_key, rotate_key
from tests.support.waiting import WAIT_SECONDS

CREATES = "Its administrator creates one:  anthropic-proxy keys create LABEL"


def member(keys: Keys) -> Client:
    """Return the client of the key `ci`."""
    return Client(name="ci", role="member", key_id=require_key(keys.connection, "ci").id)


async def test_a_key_is_accepted_in_both_headers(keys: Keys) -> None:
    text = await keys.create("ci")
    expected = member(keys)
    assert await keys.policy.identify({"x-api-key": text}) == expected
    assert await keys.policy.identify({"authorization": f"Bearer {text}", "x-api-key": "sk-ant-own"}) == expected
    assert await keys.policy.identify({"x-api-key": f"{text} \t"}) == expected
    assert await keys.policy.identify({}) is None
    assert await keys.policy.identify({"x-api-key": "pk-two"}) is None
    assert await keys.policy.identify({"x-api-key": "admin-secret"}) == Client(name="admin key 1", role="admin")


async def test_a_rotated_key_has_two_texts_for_a_while(keys: Keys) -> None:
    old = await keys.create("ci")
    _, new = rotate_key(keys.administration, "ci", 60)
    await keys.table.refresh()
    for text in (old, new):
        assert await keys.policy.identify({"x-api-key": text}) == member(keys)
    keys.now += 60
    assert await keys.reject(old) == (
        "The key 'ci' was replaced at 2026-11-21T12:01:00Z. Use its new secret, or create another one:  "
        "anthropic-proxy keys rotate ci"
    )
    assert (await keys.policy.identify({"x-api-key": new})) is not None


async def test_each_rejection_has_its_reason_and_remedy(keys: Keys) -> None:
    revoked, expiring = await keys.create("gone"), await keys.create("old", expires_at=NOON + 60)
    revoke_key(keys.administration, "gone")
    await keys.table.refresh()
    keys.now += 60
    assert await keys.reject("sk-ant-api03-x") == (
        f"The key is not a key of this proxy, or it was not copied completely. {CREATES}"
    )
    assert await keys.reject(revoked[:-1]) == (
        f"The key is not a key of this proxy, or it was not copied completely. {CREATES}"
    )
    with pytest.raises(ProxyError) as raised:
        await keys.policy.identify({"x-api-key": "sk-ant-own", "authorization": f"Bearer {revoked}"})
    assert raised.value.message.startswith("The key 'gone' is revoked.")
    assert await keys.reject(revoked) == (
        "The key 'gone' is revoked. The administrator of the proxy creates another one:  "
        "anthropic-proxy keys create LABEL"
    )
    assert await keys.reject(expiring) == (
        "The key 'old' expired at 2026-11-21T12:01:00Z. The administrator of the proxy extends it:  "
        "anthropic-proxy keys change old --expires 30d"
    )


async def test_unknown_revoked_and_expired_keys_need_the_same_steps(keys: Keys) -> None:
    revoked, expired = await keys.create("gone"), await keys.create("old", expires_at=NOON + 60)
    revoke_key(keys.administration, "gone")
    await keys.table.refresh()
    keys.now += 60
    unknown = "".join(reversed(revoked))
    steps = {}
    for name, text in (("unknown", f"sk-ap-{unknown[:46]}"), ("revoked", revoked), ("expired", expired)):
        await _trace(keys.policy, text)  # caches
        steps[name] = await _trace(keys.policy, text)
    assert steps["unknown"] == steps["revoked"] == steps["expired"]
    assert len(steps["unknown"]) > 20


async def test_an_unavailable_database_is_reported_once_and_keys_stay(keys: Keys, sqlite: Settings) -> None:
    text = await keys.create("ci")
    expected = member(keys)
    keys.connection.close()
    assert sqlite.data_directory is not None
    (sqlite.data_directory / "ledger.sqlite3").unlink()
    for _ in range(2):
        assert not await keys.table.refresh()
    assert keys.warnings == [
        "The virtual keys cannot be read: unable to open database file. The keys of the last query stay in use."
    ]
    assert await keys.policy.identify({"x-api-key": text}) == expected


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_connection_that_the_server_has_ended_is_opened_again(database: Settings) -> None:
    keys = Keys(database)
    text = await keys.create("ci")
    keys.connection.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    revoke_key(keys.administration, "ci")
    assert await keys.table.refresh()
    assert keys.warnings == []
    assert (await keys.reject(text)).startswith("The key 'ci' is revoked.")
    await keys.table.stop()
    keys.connection.close()


NEWER_RULES = '{"budgets":[{"amount":1.0,"unit":"usd","period":"quarter"}]}'
NEWER_PROBLEM = (
    "cannot be read from the database: Invalid enum value 'quarter' - at `$.budgets[0].period`. A newer version of "
    "the proxy may have stored it."
)
REJECTED_AS_UNREADABLE = (
    "The key 'bad' is rejected, because its limits or those of its team cannot be read from the database. The log of "
    "the proxy has the reason. Its administrator repairs it, or creates another key:  anthropic-proxy keys create LABEL"
)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (f"UPDATE virtual_keys SET rules = '{NEWER_RULES}' WHERE label = 'bad'", f"The key 'bad' {NEWER_PROBLEM}"),
        (f"UPDATE teams SET rules = '{NEWER_RULES}' WHERE name = 'build'", f"The team 'build' {NEWER_PROBLEM}"),
        ("UPDATE virtual_keys SET rules = '{bad' WHERE label = 'bad'", "The key 'bad' cannot be read "),
        ("UPDATE virtual_keys SET created_at = 'x' WHERE label = 'bad'", "The key 'bad' cannot be read "),
        ("UPDATE virtual_keys SET expires_at = 1e300 WHERE label = 'bad'", "The key 'bad' cannot be read "),
        ("UPDATE virtual_keys SET owner = x'ff' WHERE label = 'bad'", "The key 'bad' cannot be read "),
        ("UPDATE key_hashes SET hint = x'ff' WHERE rowid = 1", "The key 'bad' cannot be read "),
        ("UPDATE virtual_keys SET owner = CAST(x'ff' AS TEXT) WHERE label = 'bad'", "The key 'bad' cannot be read "),
        (
            "UPDATE virtual_keys SET rules = CAST(x'7b22ff227d' AS TEXT) WHERE label = 'bad'",
            "The key 'bad' cannot be read ",
        ),
        ("UPDATE teams SET rules = CAST(x'ff' AS TEXT)", "The team 'build' cannot be read "),
    ],
)
async def test_a_row_that_cannot_be_read_rejects_its_key_only(keys: Keys, change: str, problem: str) -> None:
    change_team(keys.administration, "build", {"concurrency": 1})
    bad, good, revoked = [await keys.create(label, team="build" * (label == "bad")) for label in ("bad", "ci", "bob")]
    expected = member(keys)
    keys.connection.execute(change)
    revoke_key(keys.administration, "bob")
    for _ in range(2):
        assert await keys.table.refresh()
    assert await keys.reject(bad) == REJECTED_AS_UNREADABLE
    (warning,) = keys.warnings
    assert warning.startswith(problem), warning
    assert warning.endswith(" Until it is repaired, requests with it receive 401.")
    assert await keys.policy.identify({"x-api-key": good}) == expected
    assert (await keys.reject(revoked)).startswith("The key 'bob' is revoked.")
    assert revoke_key(keys.administration, "bad").find_status(NOON) == "revoked"
    assert await keys.table.refresh()
    assert (await keys.reject(bad)).startswith("The key 'bad' is revoked.")


async def test_a_repaired_row_is_read_without_another_change(keys: Keys) -> None:
    text = await keys.create("bad")
    keys.connection.execute("UPDATE virtual_keys SET rules = ?", (NEWER_RULES,))
    change_team(keys.administration, "build", {"concurrency": 1})
    assert await keys.table.refresh()
    assert await keys.reject(text) == REJECTED_AS_UNREADABLE
    keys.connection.execute("UPDATE virtual_keys SET rules = '{}'")
    assert await keys.table.refresh()
    assert await keys.policy.identify({"x-api-key": text}) is not None


async def test_the_keys_are_read_again_after_an_unexpected_failure(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> sqlite3.Connection:
        raise MemoryError("no memory")

    text = await keys.create("ci")
    await keys.table.stop()
    revoke_key(keys.administration, "ci")
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", fail)
        for _ in range(2):
            assert not await keys.table.refresh()
    assert keys.warnings == ["The virtual keys cannot be read: no memory. The keys of the last query stay in use."]
    assert await keys.policy.identify({"x-api-key": text}) is not None
    assert await keys.table.refresh()
    assert (await keys.reject(text)).startswith("The key 'ci' is revoked.")


async def test_a_slow_query_does_not_restore_a_key_that_was_revoked_meanwhile(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_slow, is_reading, may_continue, connect = (
        threading.Event(),
        threading.Event(),
        threading.Event(),
        sqlite3.connect,
    )

    def wait_once(sql: str) -> None:  # the keys are read then, and not stored
        if "FROM teams" in sql and is_slow.is_set() and not is_reading.is_set():
            is_reading.set()
            may_continue.wait(WAIT_SECONDS)

    def connect_and_observe(*place: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*place, **options)
        if "mode=rw" in str(place[0]):  # the connection of the table
            connection.set_trace_callback(wait_once)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_and_observe)
    text = await keys.create("ci")
    change_team(keys.administration, "build", {"concurrency": 1})
    is_slow.set()
    slow = asyncio.create_task(keys.table.refresh())
    assert await asyncio.to_thread(is_reading.wait, WAIT_SECONDS)
    revoke_key(keys.administration, "ci")
    latest = asyncio.create_task(keys.table.refresh())
    await asyncio.wait({latest}, timeout=0.3)
    may_continue.set()
    assert await asyncio.gather(slow, latest) == [True, True]
    assert (await keys.reject(text)).startswith("The key 'ci' is revoked.")


async def test_without_a_first_query_no_key_is_rejected(tmp_path: Path) -> None:
    warnings: list[str] = []
    (tmp_path / "data").write_text("a file in place of the directory")
    table = KeyTable(Settings(data_directory=tmp_path / "data"), warnings.append)
    assert not await table.refresh()
    (warning,) = warnings
    assert warning.startswith("The virtual keys cannot be read: ")
    assert warning.endswith(". Until they are read, requests with a virtual key receive 529.")
    policy = KeyPolicy(table, lambda: Settings(**OWN_KEYS))
    with pytest.raises(ProxyError) as raised:
        await policy.identify({"x-api-key": "sk-ap-x"})
    assert (raised.value.status, raised.value.retry_after, raised.value.message) == (
        529,
        2,
        "The proxy cannot check keys, because its database is not available. Try again in a moment.",
    )
    assert await policy.identify({"x-api-key": "pk-one"}) is None


async def _trace(policy: KeyPolicy, text: str) -> list[tuple[str, int]]:
    """Return the lines of Python that reject a key, in their order."""
    steps: list[tuple[str, int]] = []

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if event == "line" and "/anthropic_proxy/" in frame.f_code.co_filename:
            steps.append((frame.f_code.co_name, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        await policy.identify({"x-api-key": text})
    except AuthenticationFailed:
        return steps
    finally:
        sys.settrace(None)
    raise AssertionError("the key was accepted")


async def test_the_client_of_a_key_has_its_team_for_routes(keys: Keys) -> None:
    change_team(keys.administration, "research", {"concurrency": 5})
    key = await keys.create("ci", team="research")
    client = await keys.policy.identify({"x-api-key": key})
    assert client is not None
    assert client.team == "research"
    other = await keys.policy.identify({"x-api-key": await keys.create("own")})
    assert other is not None
    assert other.team == ""
