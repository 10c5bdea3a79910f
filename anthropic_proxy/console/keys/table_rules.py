"""Team and rules that tables of the configuration file give to persons (`[sign_in.groups.NAME]`) and to services
(`[token_issuers.NAME]`).

A field of such a key has one owner. It is the table, which sets the field at each sign-in, refresh and reload, unless
an administrator has set the field for this person or service: `VirtualKey.exceptions` names these fields.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from anthropic_proxy.console.identity.people import OidcUser, find_group
from anthropic_proxy.console.keys.scim_people import find_scim_facts
from anthropic_proxy.console.keys.sign_ins import find_person_facts
from anthropic_proxy.console.keys.virtual_keys import VirtualKey
from anthropic_proxy.console.ledger.connection import Reader
from anthropic_proxy.gateway.settings import Settings, SignInGroup, TokenIssuer


def list_table_fields(table: SignInGroup | TokenIssuer) -> dict[str, Any]:
    """Return the fields of a `KeyCommand` that a table sets."""
    return {"team": table.team, "cost_center": table.cost_center, **structs.asdict(table.rules)}


def list_person_fields(settings: Settings, user: OidcUser) -> dict[str, Any]:
    """Return the fields of a `KeyCommand` that the table of its group gives to a person. The identity provider may
    state the cost center. Without a table, administrators set all other fields.
    """
    group = find_group(settings, user)
    fields = {} if group is None else list_table_fields(group)
    return {**fields, "cost_center": user.cost_center or fields.get("cost_center", "")}


def find_table_fields(connection: Reader, settings: Settings, key: VirtualKey) -> Mapping[str, Any]:
    """Return what the present settings give to a person or a service."""
    if (facts := find_person_facts(connection, key.id)) is not None:
        return list_person_fields(
            settings, find_scim_facts(connection, settings, [key.id]).describe(key.id, facts.user)
        )
    name, separator, _ = key.label.partition("/")
    issuer = next((table for table in settings.token_issuers if table.name == name), None) if separator else None
    return {} if issuer is None else list_table_fields(issuer)
