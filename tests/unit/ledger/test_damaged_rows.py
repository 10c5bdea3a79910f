"""A damaged row of `requests` is shown with what can be read, and hides no other row."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import ColumnElement

from anthropic_proxy.console.dashboard.tables import COLUMNS
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.engines import find_database_problems
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.records import StoredRequest
from anthropic_proxy.console.ledger.request_queries import (
    SortOrder,
    list_sorted_requests,
    list_stored_requests,
    stream_stored_requests,
)
from anthropic_proxy.gateway.settings import Settings
from tests.support.command_line import run_command
from tests.support.ledger import new_receipt, reading, store
from tests.support.virtual_keys import running_app, send

ADMIN = {"ADMIN_API_KEY": "admin-0123456789"}
DAMAGED = f"req_{2:024d}"


async def store_and_damage(settings: Settings, **columns: Any) -> None:
    """Store three requests, and change columns of the second one. Bytes become a text."""
    failed = {"outcome": "error", "error_type": "api_error", "status": 500}
    await store(settings, *(new_receipt(number, session="s", **failed) for number in (1, 2, 3)))
    connection = open_for_writing(settings)
    texts = {name for name, value in columns.items() if isinstance(value, bytes)}
    changes = ", ".join(f"{name} = cast(? AS TEXT)" if name in texts else f"{name} = ?" for name in columns)
    connection.execute(f"UPDATE requests SET {changes} WHERE id = ?", (*columns.values(), DAMAGED))
    connection.close()


def read_requests(settings: Settings) -> tuple[list[StoredRequest], list[str]]:
    """Return the stored requests, the oldest first, and the warnings about them."""
    warnings: list[str] = []
    with reading(settings) as engine, engine.connect() as connection:
        connection.execution_options(warn=warnings.append)
        return list_stored_requests(connection, RequestSelection(), 10)[::-1], warnings


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("failed_attempts", "[1]"),
        ("notes", '[{"handling":"other","field":"x","reason":""}]'),
        ("adaptations", "{}"),
        ("attempt_times", "[["),
        ("reply_blocks", "null"),
        ("checks", '[{"call":"toolu_1","tool":"Bash","verdict":"allowed"}]'),
        ("tool_times", '[["Bash","long"]]'),
    ],
)
async def test_a_damaged_list_is_empty(database: Settings, column: str, text: str) -> None:
    await store_and_damage(database, **{column: text})
    (first, damaged, last), warnings = read_requests(database)
    assert warnings == [f"The stored request {DAMAGED} cannot be read completely: {column}."]
    assert (getattr(damaged, column), damaged.input_tokens, damaged.model) == ("", 100, "small")
    assert (first.id, last.id) == (f"req_{1:024d}", f"req_{3:024d}")
    with reading(database) as engine, engine.connect() as connection:
        assert list(find_database_problems(connection)) == warnings


async def test_a_text_in_columns_of_numbers_is_zero_or_unknown(sqlite: Settings) -> None:
    numbers = [
        name
        for name, value in zip(StoredRequest.__struct_fields__, StoredRequest.__struct_defaults__, strict=True)
        if not isinstance(value, (str, bool)) and name != "started_at"
    ]
    await store_and_damage(sqlite, **dict.fromkeys(numbers, "many"))
    (_, damaged, _), warnings = read_requests(sqlite)
    assert warnings == [f"The stored request {DAMAGED} cannot be read completely: {', '.join(numbers)}."]
    assert {getattr(damaged, name) for name in numbers} == {0, None}
    with reading(sqlite) as engine, engine.connect() as connection:
        for column in COLUMNS:
            if isinstance(column.sort, ColumnElement):
                order = SortOrder(column.sort)
                assert len(list_sorted_requests(connection, RequestSelection(), order, 10)) == 3, column.name


@pytest.mark.parametrize("name", sorted({*StoredRequest.__struct_fields__} - {"stream"}))  # any value is a boolean
@pytest.mark.sample(4)
async def test_a_text_that_is_no_utf8_concerns_its_row_only(sqlite: Settings, name: str) -> None:
    await store_and_damage(sqlite, **{name: b"\xffa"})
    with reading(sqlite) as engine, engine.connect() as connected:
        problems = list(find_database_problems(connected))
        stored = {request.id: request for request in stream_stored_requests(connected)}
    request_id = str(b"\xffa") if name == "id" else DAMAGED
    assert problems[0] == f"The stored request {request_id} cannot be read completely: {name}."
    assert stored.keys() == {request_id, f"req_{1:024d}", f"req_{3:024d}"}
    if name != "id":
        defaults = {field.name: field.default for field in structs.fields(StoredRequest)}
        assert getattr(stored[DAMAGED], name) == defaults[name]


async def test_commands_api_and_pages_show_all_rows(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path / "anthropic-proxy")
    await store_and_damage(
        settings, failed_attempts="{", attempt_times="{", duration="long", status="x", error=b"\xffa"
    )
    connection = open_for_writing(settings)
    connection.execute("UPDATE requests SET started_at = 'x' WHERE id = ?", (f"req_{3:024d}",))
    connection.close()
    admin, seconds = {"x_api_key": ADMIN["ADMIN_API_KEY"]}, "since=2026-11-20&until=2026-11-23"
    dates = "from=2026-11-21T00:00Z&to=2026-11-22T00:00Z"
    async with running_app(tmp_path, **ADMIN) as app:
        listed = await send(app, "GET", f"/api/requests?{seconds}", **admin)
        assert [(row["id"], row["duration_seconds"]) for row in listed.json["requests"]] == [
            (DAMAGED, 0.0),
            (f"req_{1:024d}", 1.5),
        ]
        for number in (2, 3):
            assert (await send(app, "GET", f"/api/requests/req_{number:024d}", **admin)).status == 200
        exported = await send(app, "GET", f"/api/requests?format=csv&{seconds}", **admin)
        assert len(list(csv.DictReader(io.StringIO(exported.body.decode())))) == 2
        for path in (
            *(
                "",
                "/requests",
                "/requests?sort=total",
                "/requests?format=csv",
                "/sessions",
                "/session?session=s",
                "/costs",
            ),
            *(f"/requests/req_{number:024d}" for number in (1, 2, 3)),
            *("/costs", "/models", "/providers", "/keys"),
        ):
            shown = await send(app, "GET", f"/dashboard{path}{'&' if '?' in path else '?'}{dates}", **admin)
            assert shown.status == 200, (path, shown.body[-2_000:])
    variables = {"XDG_DATA_HOME": str(tmp_path)}
    for words, status, lines in (
        (("logs", "--no-follow"), 0, 2),
        (("logs", "--no-follow", "--json"), 0, 2),
        (("explain", DAMAGED), 1, 5),  # the status of a failed request
        (("db", "export"), 0, 4),
    ):
        done = run_command(*words, directory=tmp_path, settings=variables)
        assert (done.returncode, done.stdout.count("\n") >= lines) == (status, True), done
        assert "Traceback" not in done.stderr
    checked = run_command("db", "check", directory=tmp_path, settings=variables)
    assert checked.returncode == 1
    unread = {DAMAGED: "failed_attempts, status, error, duration, attempt_times", f"req_{3:024d}": "started_at"}
    assert checked.stderr.splitlines()[:2] == [
        f"  ✕ The stored request {request_id} cannot be read completely: {names}."
        for request_id, names in unread.items()
    ]
