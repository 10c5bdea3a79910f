"""The tables `[sign_in.groups.NAME]`, applied to the persons that have signed in before.

A refresh sets team and rules of a person by the table of its group. After a change of the settings, nobody waits for
the next refresh: each instance applies the tables itself, and the first one changes the rows.
"""

from collections.abc import Collection
from contextlib import suppress

from msgspec import structs

from anthropic_proxy.console.identity.people import find_group
from anthropic_proxy.console.keys.administration import NAME_FIELDS, KeyCommand, open_administration
from anthropic_proxy.console.keys.queries import find_key, list_keys
from anthropic_proxy.console.keys.scim_people import find_scim_facts
from anthropic_proxy.console.keys.sign_ins import list_people
from anthropic_proxy.console.keys.table_rules import list_person_fields
from anthropic_proxy.console.keys.virtual_keys import VirtualKey
from anthropic_proxy.console.ledger.connection import Reader
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.settings import Settings


def apply_group_tables(settings: Settings, connection: Reader, only: Collection[str] | None = None) -> None:
    """Give each person the team and the rules of its table, and the cost center. If there are tables, a person without
    one keeps its own, because the next settings may have the table again. `only`: ids of the keys of people. None: all.
    """
    if settings.sign_in is None:
        return
    people = list_people(connection)
    scim = find_scim_facts(connection, settings)
    named = None if only is None else [find_key(connection, key_id) for key_id in only]
    for key in [] if not people else list_keys(connection) if named is None else named:
        user = None if key is None or key.id not in people else scim.describe(key.id, people[key.id])
        if key is None or user is None or (key.issuer, key.subject) != (user.issuer, user.subject):
            continue
        if settings.sign_in.groups and find_group(settings, user) is None:
            continue
        fields = list_person_fields(settings, user)
        if all(_is_equal(key, name, value) for name, value in fields.items() if name not in key.exceptions):
            continue
        with (
            open_administration(settings, "settings ([sign_in.groups])") as administration,
            suppress(InvalidRequest),  # the key is revoked or cannot be read, so it is refused anyway
        ):
            administration.execute(KeyCommand(action="person", target=key.label, fields=fields))


def _is_equal(key: VirtualKey, name: str, value: object) -> bool:
    if name == "budgets":  # the stored ones have the time at which they were set
        return tuple(structs.replace(budget, since=0.0) for budget in key.rules.budgets) == value
    return bool(getattr(key if name in NAME_FIELDS else key.rules, name) == value)
