"""Commands `keys …`: virtual keys that this proxy gives to its clients, with limits and budgets.

Each command has a function, such as `create` and `rotate` (replace the text of a key). `team` sets limits that
several keys share, and `audit` lists the changes.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from cyclopts import App as Commands
from cyclopts import Parameter

from anthropic_proxy.cli.command_settings import load_command_settings

if TYPE_CHECKING:
    from anthropic_proxy.access.administration import KeyAdministration
    from anthropic_proxy.access.rules import Rules
    from anthropic_proxy.access.spending import Spending
    from anthropic_proxy.access.virtual_keys import VirtualKey
    from anthropic_proxy.settings import Settings
from dataclasses import dataclass, fields
from typing import Any


@Parameter(name="*")
@dataclass
class RuleOptions:
    """Models, limits and budgets of a key or a team.

    An option that is not given changes nothing, and `none` removes a limit.
    """

    models: str | None = None
    """Allowed models, separated by commas: requested or used names, with patterns: claude-*,openai/gpt-4.1-mini."""
    providers: str | None = None
    """Prefixes of allowed providers, separated by commas: openai,gemini."""
    routes: str | None = None
    """Names of allowed [[routes]] of anthropic-proxy.toml, separated by commas. Other requests are rejected."""
    rpm: str | None = None
    """Requests per minute."""
    tpm: str | None = None
    """Tokens per minute: input and output, without input read from a cache."""
    concurrency: str | None = None
    """Requests at the same time."""
    budget: Annotated[list[str] | None, Parameter(negative="")] = None
    """Amount per day, per month or in total: 50USD/month, 2000000tokens/day. May be repeated."""

    def decode(self) -> dict[str, Any]:
        """Return the given options as fields of `Rules`. Raises `InvalidRequest` for an invalid value."""
        from anthropic_proxy.access.rules import decode_rule_texts  # noqa: PLC0415  # --help needs none of it

        given = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
        return decode_rule_texts(given, prefix="--")


keys = Commands(name="keys", help="Create, list, change, rotate and revoke virtual keys for clients.", help_epilogue="")
"""Group of the commands `keys …`."""
_AsJson = Annotated[bool, Parameter(name="--json", negative="")]


@keys.command
def create(
    label: str,
    *,
    owner: str = "",
    team: str = "",
    expires: str = "never",
    rules: RuleOptions | None = None,
    as_json: _AsJson = False,
) -> None:
    """Create a key and print it. It is shown once: the database stores only its hash.

    Parameters
    ----------
    label
        Unique name, which the log and the ledger contain.
    owner
        Person or program that uses the key.
    team
        Team of the key. All keys of a team share its limits and budgets:  keys team NAME.
    expires
        Time of expiry: 30d, 12h, never, or a date such as 2026-12-31. The key is valid until that day ends in UTC.
    as_json
        Print one JSON object, with the key, instead.
    """
    from anthropic_proxy.access.periods import decode_expiry  # noqa: PLC0415  # --help needs none of it
    from anthropic_proxy.access.rules import Rules  # noqa: PLC0415
    from anthropic_proxy.access.virtual_keys import VirtualKey  # noqa: PLC0415
    from anthropic_proxy.cli.key_tables import write_new_key  # noqa: PLC0415

    expiry = decode_expiry("--expires", expires, time.time())
    chosen = Rules(**(rules or RuleOptions()).decode())
    settings = load_command_settings()
    with _administering(settings) as administration:
        key = VirtualKey(id="", label=label, owner=owner, team=team, rules=chosen, expires_at=expiry)
        created, text = administration.create_key(key)
    write_new_key(created, text, "created", settings, as_json=as_json)
    _warn_of_unknown_routes(created.rules, settings)


@keys.command(name="list")
def list_(*, as_json: _AsJson = False) -> None:
    """List all keys, the newest first. Only hashes are stored, so the keys themselves cannot be shown.

    Parameters
    ----------
    as_json
        Print one JSON array instead.
    """
    from anthropic_proxy.access.queries import list_keys  # noqa: PLC0415  # --help needs none of it
    from anthropic_proxy.cli.key_tables import write_keys  # noqa: PLC0415
    from anthropic_proxy.cli.ledger_access import open_ledger_for_reading  # noqa: PLC0415

    with open_ledger_for_reading(load_command_settings()) as connection:
        found = [] if connection is None else list_keys(connection)
    write_keys(found, as_json=as_json)


@keys.command
def show(key: str, *, as_json: _AsJson = False) -> None:
    """Show one key with its limits and the used amounts of its budgets.

    Parameters
    ----------
    key
        Label or id.
    as_json
        Print one JSON object instead.
    """
    from anthropic_proxy.access.queries import require_key  # noqa: PLC0415  # --help needs none of it
    from anthropic_proxy.cli.key_tables import write_key  # noqa: PLC0415
    from anthropic_proxy.cli.ledger_access import open_ledger_for_reading  # noqa: PLC0415
    from anthropic_proxy.errors import UnknownModel  # noqa: PLC0415

    settings = load_command_settings()
    with open_ledger_for_reading(settings) as connection:
        if connection is None:
            raise UnknownModel("There are no keys. Create one:  anthropic-proxy keys create LABEL")
        found = require_key(connection, key)
    write_key(found, _read_spending(settings, found), as_json=as_json)


@keys.command
def change(
    key: str,
    *,
    label: str | None = None,
    owner: str | None = None,
    team: str | None = None,
    expires: str | None = None,
    rules: RuleOptions | None = None,
) -> None:
    """Change label, owner, team, expiry, models, routes, limits or budgets of a key.

    Running servers apply the change after at most 2 s.

    Parameters
    ----------
    key
        Label or id.
    label
        New label.
    owner
        New owner.
    team
        New team, or an empty text for a key without a team.
    expires
        Time of expiry: 30d, 12h, never, or a date such as 2026-12-31. The key is valid until that day ends in UTC.
    """
    from msgspec import UNSET  # noqa: PLC0415  # --help needs none of it

    from anthropic_proxy.access.administration import KeyChange  # noqa: PLC0415
    from anthropic_proxy.access.periods import decode_expiry  # noqa: PLC0415
    from anthropic_proxy.cli.key_tables import write_key  # noqa: PLC0415

    given = {"label": label, "owner": owner, "team": team}
    names = {name: value for name, value in given.items() if value is not None}
    expires_at = UNSET if expires is None else decode_expiry("--expires", expires, time.time())
    wanted = KeyChange(expires_at=expires_at, rules=(rules or RuleOptions()).decode(), **names)
    with _administering(settings := load_command_settings()) as administration:
        changed = administration.change_key(key, wanted)
    write_key(changed)
    _warn_of_unknown_routes(changed.rules, settings)


@keys.command
def rotate(key: str, *, overlap: str = "0m", as_json: _AsJson = False) -> None:
    """Replace the text (secret) of a key, and print the new text.

    The key keeps its label and limits, and the used amounts of its budgets.

    Parameters
    ----------
    key
        Label or id.
    overlap
        Time for which the old text stays valid: 30m, 24h, 7d. By default, the old text becomes invalid at once.
    as_json
        Print one JSON object, with the key, instead.
    """
    from anthropic_proxy.access.periods import decode_duration  # noqa: PLC0415  # --help needs none of it
    from anthropic_proxy.cli.key_tables import write_new_key  # noqa: PLC0415

    seconds, settings = decode_duration("--overlap", overlap), load_command_settings()
    with _administering(settings) as administration:
        rotated, text = administration.rotate_key(key, seconds)
    write_new_key(rotated, text, "rotated", settings, as_json=as_json)


@keys.command
def revoke(key: str) -> None:
    """Revoke a key for ever. Running servers reject it after at most 2 s.

    Parameters
    ----------
    key
        Label or id.
    """
    from anthropic_proxy.cli.output import Output  # noqa: PLC0415  # --help needs none of it

    with _administering(load_command_settings()) as administration:
        revoked = administration.revoke_key(key)
    output = Output()
    output.write_line(f"  {output.paint('✓', 'ok')} Key {revoked.label} is revoked.")


@keys.command
def team(name: str, *, rules: RuleOptions | None = None) -> None:
    """Set common limits and budgets of all keys of a team. Without options, show them.

    Parameters
    ----------
    name
        Name of the team.
    """
    from anthropic_proxy.access.queries import find_team  # noqa: PLC0415  # --help needs none of it
    from anthropic_proxy.access.virtual_keys import Team  # noqa: PLC0415
    from anthropic_proxy.cli.key_tables import write_team  # noqa: PLC0415
    from anthropic_proxy.cli.ledger_access import open_ledger_for_reading  # noqa: PLC0415

    settings = load_command_settings()
    if changes := (rules or RuleOptions()).decode():
        with _administering(settings) as administration:
            found = administration.change_team(name, changes)
    else:
        with open_ledger_for_reading(settings) as connection:
            found = (None if connection is None else find_team(connection, name)) or Team(name)
    write_team(found)
    _warn_of_unknown_routes(found.rules, settings)


@keys.command
def audit(
    *, since: str = "90d", as_json: _AsJson = False, as_csv: Annotated[bool, Parameter("--csv", negative="")] = False
) -> None:
    """List the changes of keys and teams, the latest first: time, actor, action, object and changed fields.

    Parameters
    ----------
    since
        Length of the listed period, which ends now: 24h, 7d, 90d.
    as_json
        Print one JSON object per line instead.
    as_csv
        Print CSV instead.
    """
    from anthropic_proxy.access.periods import decode_duration  # noqa: PLC0415  # --help needs none of it
    from anthropic_proxy.access.queries import list_audit_entries  # noqa: PLC0415
    from anthropic_proxy.cli.key_tables import write_audit_entries  # noqa: PLC0415
    from anthropic_proxy.cli.ledger_access import open_ledger_for_reading  # noqa: PLC0415
    from anthropic_proxy.errors import ConfigurationError  # noqa: PLC0415

    if as_json and as_csv:
        raise ConfigurationError("--json and --csv exclude each other. Use one of them.")
    beginning = time.time() - decode_duration("--since", since)
    with open_ledger_for_reading(load_command_settings()) as connection:
        entries = [] if connection is None else list_audit_entries(connection, since=beginning)
    write_audit_entries(entries, "json" if as_json else "csv" if as_csv else "table")


def _warn_of_unknown_routes(rules: "Rules", settings: "Settings") -> None:
    """Write a warning for each route in `rules` that the configuration file does not contain."""
    from anthropic_proxy.access.descriptions import describe_unknown_routes  # noqa: PLC0415  # --help needs none of it
    from anthropic_proxy.cli.output import Output  # noqa: PLC0415

    for warning in describe_unknown_routes(rules.routes, settings):
        Output().write_notice(warning, "!", "warn")


@contextmanager
def _administering(settings: "Settings") -> "Iterator[KeyAdministration]":
    """Return a context manager that opens the database for changes of keys.

    The database is created or migrated if necessary.
    """
    import getpass  # noqa: PLC0415  # --help needs none of it
    import platform  # noqa: PLC0415

    from anthropic_proxy.access.administration import open_administration  # noqa: PLC0415
    from anthropic_proxy.errors import ConfigurationError  # noqa: PLC0415
    from anthropic_proxy.ledger.database import (  # noqa: PLC0415
        describe_database_location,
        find_database_url,
    )
    from anthropic_proxy.ledger.failures import DATABASE_ERRORS, classify_database_error, describe_database_failure  # noqa: PLC0415

    place = describe_database_location(find_database_url(settings))
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    try:
        with open_administration(settings, f"command ({user}@{platform.node()})") as administration:
            yield administration
    except DATABASE_ERRORS as error:
        raise ConfigurationError(describe_database_failure(classify_database_error(error), place, error)) from None


def _read_spending(settings: "Settings", key: "VirtualKey") -> "Sequence[Spending]":
    """Return the used amounts of the budgets of `key`, from the store of limits that the server uses."""
    import asyncio  # noqa: PLC0415  # --help needs none of it

    from anthropic_proxy.access.limits import list_scopes  # noqa: PLC0415
    from anthropic_proxy.access.spending import read_spending  # noqa: PLC0415
    from anthropic_proxy.log import Log  # noqa: PLC0415
    from anthropic_proxy.stores import open_store  # noqa: PLC0415

    async def read() -> "Sequence[Spending]":
        store = open_store(settings, Log(form="plain").write_line)
        try:
            return await read_spending(store, list_scopes(key, None)[0], time.time())
        finally:
            await store.close()

    return asyncio.run(read()) if key.rules.budgets else ()
