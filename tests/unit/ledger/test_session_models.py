"""Models that people choose for their sessions: what is stored, read by each server, and known of a session."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.console.ledger.database import open_for_reading, open_for_writing
from anthropic_proxy.console.session_models.choices import SessionWish, list_own_sessions
from anthropic_proxy.console.session_models.stored_choices import (
    KEPT_SECONDS,
    ChoiceReader,
    read_choices,
    store_choices,
)
from anthropic_proxy.console.session_models.table import SessionModelTable
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client, SessionModel
from tests.support.ledger import new_database, new_receipt, store

NOW = 1_795_000_000.0
KEY = "local", "s1"
CHOSEN = SessionModel("openai/gpt-4o", "claude-opus-4-6")


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    with new_database(request.param, tmp_path) as settings:
        yield settings


def read(settings: Settings, now: float = NOW) -> dict[tuple[str, str], SessionModel]:
    with closing(open_for_reading(settings)) as connection:
        return {key: stored.chosen for key, stored in read_choices(connection, now).items()}


def test_a_choice_is_kept_replaced_and_ended(settings: Settings) -> None:
    store_choices(settings, {KEY: CHOSEN, ("key_1", "s1"): CHOSEN}, NOW)
    assert read(settings) == {KEY: CHOSEN, ("key_1", "s1"): CHOSEN}
    other = SessionModel("haiku", "claude-opus-4-6")
    store_choices(settings, {KEY: other}, NOW)
    store_choices(settings, {("key_1", "s1"): None}, NOW)
    assert read(settings) == {KEY: other}
    assert read(settings, NOW + KEPT_SECONDS) == {}


def test_a_session_that_is_used_keeps_its_choice(settings: Settings) -> None:
    times = [NOW]
    store_choices(settings, {KEY: CHOSEN, ("local", "s2"): CHOSEN}, NOW)
    reader = ChoiceReader(settings, lambda: times[-1])
    assert reader.read(()).keys() == {KEY, ("local", "s2")}
    times.append(NOW + KEPT_SECONDS - 60)
    reader.read({KEY})
    reader.close()
    assert read(settings, NOW + KEPT_SECONDS + 60) == {KEY: CHOSEN}
    store_choices(settings, {}, NOW + KEPT_SECONDS + 60)  # the next change deletes those that have ended
    with closing(open_for_reading(settings)) as connection:
        assert connection.query("SELECT session FROM session_models") == [("s1",)]


def test_a_server_that_cannot_read_keeps_the_choices_of_its_last_reading(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    reader = ChoiceReader(settings, lambda: NOW)
    assert reader.read(()) == {}  # there is no database yet, and none is created
    assert not (tmp_path / "data").exists()
    store_choices(settings, {KEY: CHOSEN}, NOW)
    assert reader.read(()).keys() == {KEY}
    file = tmp_path / "data" / "ledger.sqlite3"
    kept = file.read_bytes()
    reader.close()
    for wal in file.parent.glob("ledger.sqlite3-*"):
        wal.unlink()
    file.write_bytes(b"damaged" * 1_000)
    assert reader.read(()).keys() == {KEY}
    file.write_bytes(kept)
    reader.close()


def test_a_row_with_an_odd_value_concerns_no_other(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "data")
    store_choices(settings, {KEY: CHOSEN}, NOW)
    with closing(open_for_writing(settings)) as connection, connection.transaction():
        connection.execute("INSERT INTO session_models VALUES ('a', 'b', 'c', 'd', 'zzz')")
    assert read(settings) == {KEY: CHOSEN}


async def test_the_first_request_after_a_start_waits_for_the_choices(settings: Settings) -> None:
    store_choices(settings, {KEY: CHOSEN}, NOW)
    table = SessionModelTable(settings, lambda: NOW)
    assert not table.is_empty  # nobody knows yet
    found = await asyncio.gather(*(table.find(Client(), session) for session in ("s1", "s2")))
    assert found == [CHOSEN, None]
    assert await table.find(Client(name="ann", key_id="key_1"), "s1") is None
    assert not table.is_empty
    await table.stop()


async def test_a_server_without_a_choice_asks_nothing(tmp_path: Path) -> None:
    table = SessionModelTable(Settings(data_directory=tmp_path / "data"), lambda: NOW)
    assert await table.find(Client(), "s1") is None
    assert table.is_empty
    await table.stop()


def new_turn(number: int, **fields: Any) -> Any:
    usual = {
        "session": "s1",
        "project": "shop",
        "kind": "main",
        "requested_model": "claude-opus-4-6",
        "model": "gpt-4.1",
    }
    return new_receipt(number, **{**usual, "started_at": NOW - 1_000 + number, **fields})


async def test_the_last_turn_of_the_conversation_says_what_a_session_requests(settings: Settings) -> None:
    await store(
        settings,
        new_turn(1, requested_model="claude-sonnet-4-6"),
        new_turn(2, requested_model="claude-opus-4-6[1m]", input_tokens=70, cache_read_tokens=20, output_tokens=10),
        new_turn(3, agent="a1", kind="subagent", requested_model="claude-haiku-4-5"),
        new_turn(4, kind="auxiliary", requested_model="claude-haiku-4-5"),
        new_turn(5, session="s2", project=""),
        new_turn(6, session="s3", project="bank"),
        new_turn(7, session="s4", started_at=NOW - 7_200),
        new_turn(8, session="s5", client=Client(name="ann", key_id="key_1")),
    )
    store_choices(settings, {KEY: CHOSEN, ("key_1", "s2"): CHOSEN}, NOW)

    def find(*ids: str, project: str | None = None) -> list[str]:
        wish = SessionWish(sessions=ids, project=project)
        return [one.session for one in list_own_sessions(settings, Client(), wish, NOW)]

    assert find() == ["s3", "s2", "s1"]  # of the last hour, and of this client
    assert find(project="shop") == ["s2", "s1"]  # one that names no project may be of this
    assert find("s4") == ["s4"]
    assert find("s5") == find("%") == []
    (first,) = list_own_sessions(settings, Client(), SessionWish(sessions=("s1",)), NOW)
    assert (first.requested, first.tokens, first.chosen) == ("claude-opus-4-6", 100, "openai/gpt-4o")
    (second,) = list_own_sessions(settings, Client(), SessionWish(sessions=("s2",)), NOW)
    assert second.chosen == ""


ANN, BOB = "ann@example.org", "bob@example.org"
KEYS = {"key_ann": ANN, "key_bob": BOB, "key_laptop": "laptop", "key_ci": "ci"}
"""Id of a key → label. Ann's key `ci` belongs to bob now; a team admin has given out a new text of her key `laptop`."""
OWNERS = {"key_ann": ANN, "key_bob": BOB, "key_laptop": ANN, "key_ci": BOB}


@pytest.mark.parametrize(
    ("client", "names"),
    [
        (Client(ANN, role="member", key_id="key_ann", owner=ANN, sign_in="sign_1"), ["title of s2", "title of s1"]),
        # she reads the session of the key that she no longer has elsewhere, and chooses no model for it
        (Client(ANN, role="team admin", key_id="key_ann", owner=ANN, sign_in="sign_1"), ["title of s2", "title of s1"]),
        (Client(BOB, role="member", key_id="key_bob", owner=BOB, sign_in="sign_2"), ["title of s5", "shop s4"]),
        (Client("laptop", role="member", key_id="key_laptop", owner=ANN), ["shop s2"]),
        (Client("ci", role="member", key_id="key_ci", owner=BOB), ["shop s5"]),
        (Client("ci", role="member", key_id="key_ci", owner=BOB, has_foreign_texts=True), ["shop s4"]),
        (Client(), ["title of s6"]),
    ],
)
async def test_sessions_and_their_titles_are_those_that_the_client_has_sent(
    settings: Settings, client: Client, names: list[str]
) -> None:
    senders = {
        "s1": Client(ANN, role="member", key_id="key_ann", owner=ANN, team="build"),
        "s2": Client("laptop", role="member", key_id="key_laptop", owner=ANN, team="build"),
        "s3": Client("ci", role="member", key_id="key_ci", owner=ANN, team="build"),
        "s4": Client("ci", role="member", key_id="key_ci", owner=BOB, team="build", has_foreign_texts=True),
        "s5": Client("ci", role="member", key_id="key_ci", owner=BOB, team="build"),
        "s6": Client(),
    }
    turns = [
        new_turn(number, session=session, client=sender, request_id=f"req_{session}")
        for number, (session, sender) in enumerate(senders.items())
    ]
    await store(settings, *turns)
    with closing(open_for_writing(settings)) as connection, connection.transaction():
        for key_id, label in KEYS.items():
            statement = "INSERT INTO virtual_keys (id, label, owner, team, created_at) VALUES (?, ?, ?, 'build', 1)"
            connection.execute(statement, (key_id, label, OWNERS[key_id]))
        for session, sender in senders.items():
            statement = "INSERT INTO session_titles VALUES (?, ?, ?, 1, ?)"
            connection.execute(statement, (session, sender.name, f"req_{session}", f"title of {session}"))
    for wish in (SessionWish(), SessionWish(sessions=("s",)), SessionWish(project="shop")):
        assert [one.name for one in list_own_sessions(settings, client, wish, NOW)] == names
