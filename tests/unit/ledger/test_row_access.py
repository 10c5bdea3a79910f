"""Connections that are limited to the requests of some virtual keys: no query returns a row of another key."""

from typing import Any

import pytest
from sqlalchemy import insert, literal_column, select, text

from anthropic_proxy.ledger.queries import (
    collect_latencies,
    count_errors,
    count_facets,
    list_errors,
    measure_model_performance,
    read_ledger_extent,
    sum_models,
    sum_periods,
)
from anthropic_proxy.ledger.read_access import RestrictedQueryError, find_key_labels, limit_search_range, restrict_rows
from anthropic_proxy.ledger.request_queries import (
    RequestSelection,
    find_stored_request,
    list_session_requests,
    list_sessions,
    list_stored_requests,
    sum_session,
)
from anthropic_proxy.ledger.tables import contents, requests, virtual_keys
from anthropic_proxy.ledger.units import MICROSECONDS
from anthropic_proxy.plugins import Client
from anthropic_proxy.settings import Settings
from tests.support.ledger import NOON, new_receipt, reading, running_ledger

ALL = RequestSelection(start=int(NOON - 86_400) * MICROSECONDS, end=int(NOON + 86_400) * MICROSECONDS)
SEARCH = RequestSelection(start=ALL.start, end=ALL.end, text="m")
SHORT = RequestSelection(start=int(NOON - 60) * MICROSECONDS, end=int(NOON + 60) * MICROSECONDS)
OWN, FOREIGN = "req_own", "req_foreign"


@pytest.fixture
async def shared(database: Settings) -> Settings:
    """A ledger with one request of each of two owners. Both fail once in the same session."""
    with running_ledger(database) as ledger:
        for request_id, label in ((OWN, "laptop"), (FOREIGN, "build")):
            shown: dict[str, Any] = {"session": f"session of {label}", "project": f"project of {label}"}
            shown |= {"model": f"model of {label}", "error": f"error of {label}", "outcome": "error", "status": 429}
            client = Client(name=label, role="member")
            await ledger.record(
                new_receipt(client=client, error_type="rate_limit_error", **shown, request_id=request_id)
            )
        ledger.wait_written(2)
    with reading(database) as engine, engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA query_only=OFF")
        owners = {"laptop": "Ann@Example.com", "tablet": "ann@example.com", "build": "ben@example.com"}
        for label, owner in owners.items():
            connection.execute(insert(virtual_keys).values(id=label, label=label, owner=owner, created_at=1))
        for request_id in (OWN, FOREIGN):
            row = {"request_id": request_id, "kind": "request", "started_at": 1, "size": 1, "data": b"1"}
            connection.execute(insert(contents).values(row))
        connection.commit()
    return database


async def test_no_query_returns_a_row_of_another_key(shared: Settings) -> None:
    with reading(shared) as engine, engine.connect() as connection:
        assert find_key_labels(connection, "ANN@example.com") == ["laptop", "tablet"]
        assert find_key_labels(connection, "") == []
        before = repr(_query_everything(connection))
        restrict_rows(connection, ["laptop", "tablet"])
        found = repr(_query_everything(connection))
        assert find_stored_request(connection, FOREIGN) is None
        assert list(connection.execute(select(contents.c.request_id)).scalars()) == [OWN]
        assert read_ledger_extent(connection).requests == 1
    assert OWN in before
    assert "build" in before
    assert OWN in found
    assert "build" not in found
    assert FOREIGN not in found


async def test_without_keys_there_are_no_rows(shared: Settings) -> None:
    with reading(shared) as engine, engine.connect() as connection:
        restrict_rows(connection, [])
        found = repr(_query_everything(connection))
    assert "laptop" not in found
    assert "build" not in found


async def test_queries_that_cannot_be_limited_are_not_sent(shared: Settings) -> None:
    with reading(shared) as engine, engine.connect() as connection:
        restrict_rows(connection, ["laptop"])
        with pytest.raises(RestrictedQueryError, match="the table virtual_keys"):
            connection.execute(select(virtual_keys.c.label))
        hidden = literal_column("(SELECT count(*) FROM requests)")
        renamed = requests.alias()
        for query in (
            text("SELECT * FROM requests"),
            select(renamed.c.id),
            select(hidden),
            select(literal_column("id")).select_from(text("requests")),
            select(requests.c.id).where(text("1 = 1")),
            select(requests.c.id).where(requests.c.id.in_(select(renamed.c.id))),
        ):
            with pytest.raises(RestrictedQueryError):
                connection.execute(query)


def _query_everything(connection: Any) -> list[Any]:
    """Return the results of all queries of the dashboard."""
    results: list[Any] = [
        find_stored_request(connection, OWN),
        sum_session(connection, "session of build"),
        list_session_requests(connection, "session of build"),
    ]
    for chosen in (ALL, SEARCH, SHORT):
        results += [
            list_stored_requests(connection, chosen, 10),
            list_sessions(connection, chosen, 10),
            list_errors(connection, count_errors(connection, chosen, 3_600)),
            sum_models(connection, chosen),
            measure_model_performance(connection, chosen, 3_600),
            sum_periods(connection, chosen, 3_600, "project"),
            collect_latencies(connection, chosen, 3_600, ("key_label",)),
            count_facets(connection, chosen, ("key_label", "project", "model"), 10),
            limit_search_range(connection, chosen, max_requests=1),
        ]
    return results
