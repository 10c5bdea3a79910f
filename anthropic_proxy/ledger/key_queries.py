"""Query of the ledger for the last request of each virtual key, a key that this proxy gives to a client."""

from collections.abc import Mapping

from sqlalchemy import Connection, func, select

from anthropic_proxy.ledger.request_queries import value_condition
from anthropic_proxy.ledger.tables import requests, virtual_keys


def find_last_key_uses(connection: Connection, label: str = "") -> Mapping[str, int]:
    """Return the time of the last stored request of each virtual key, by label of the key.

    Times are microseconds since the epoch. Keys without requests are missing.
    """
    latest = select(func.max(requests.c.started_at)).where(value_condition("key_label", virtual_keys.c.label))
    query = select(virtual_keys.c.label, latest.scalar_subquery())
    rows = connection.execute(query.where(virtual_keys.c.label == label) if label else query).all()
    return {label: started_at for label, started_at in rows if started_at is not None}
