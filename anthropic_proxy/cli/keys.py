"""Commands `keys …`: virtual keys that this proxy gives to its clients, with limits and budgets."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from cyclopts import Parameter
from msgspec import structs

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.commands import new_group
from anthropic_proxy.cli.ledger_access import changing_database, name_author, open_ledger_for_reading
from anthropic_proxy.cli.output import Column, Output, encode_printed_json, open_data_output
from anthropic_proxy.cli.remote_proxy import RemoteProxy, find_remote_proxy
from anthropic_proxy.console import formats
from anthropic_proxy.console.identity.offline_access import NO_REFRESH_TOKEN
from anthropic_proxy.console.keys.acceptance import list_key_states
from anthropic_proxy.console.keys.administration import (
    KeyAction,
    KeyCommand,
    KeyOutcome,
    decode_command,
    open_administration,
)
from anthropic_proxy.console.keys.descriptions import (
    describe_author_of_end,
    describe_changes,
    describe_creator,
    describe_exceptions,
    describe_rules,
    describe_unknown_routes,
    encode_audit_entry,
    encode_key,
    format_time,
)
from anthropic_proxy.console.keys.limits import build_key_scope, build_team_scope
from anthropic_proxy.console.keys.person_keys import PersonElsewhere
from anthropic_proxy.console.keys.queries import (
    Spending,
    build_ambiguity_error,
    find_team,
    list_audit_entries,
    list_keys,
    read_used_budgets,
    require_key,
)
from anthropic_proxy.console.keys.rights import HELD_FIELDS
from anthropic_proxy.console.keys.sign_ins import describe_refresh, encode_sign_in, list_sign_ins
from anthropic_proxy.console.keys.unpriced import find_unpriced
from anthropic_proxy.console.keys.virtual_keys import KeyState, Team, VirtualKey
from anthropic_proxy.console.ledger.connection import Reader
from anthropic_proxy.console.ledger.engines import EngineReader
from anthropic_proxy.console.ledger.export import write_csv
from anthropic_proxy.console.ledger.periods import find_times
from anthropic_proxy.console.ledger.users import find_address
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.engine.platforms.shells import quote_word
from anthropic_proxy.errors import ConfigurationError, InvalidRequest, UnknownModel
from anthropic_proxy.gateway.settings import Settings


@Parameter(name="*")
@dataclass
class RuleOptions:
    """Models, limits and budgets of a key or a team.

    An option that is not given changes nothing, and `none` removes a limit.
    """

    models: str | None = None
    """Allowed models, separated by commas: requested or used names, with patterns: claude-*,openai/gpt-4.1-mini."""
    providers: str | None = None
    """Prefixes of allowed providers, separated by commas: openai,gemini. Web searches and fetches by the proxy need
    brave, tavily, exa or web in the list."""
    routes: str | None = None
    """Names of allowed [[routes]] of anthropic-proxy.toml, separated by commas. Other requests are rejected."""
    rpm: str | None = None
    """Requests per minute."""
    tpm: str | None = None
    """Tokens per minute: input and output, without input read from a cache."""
    concurrency: str | None = None
    """Requests at the same time."""
    budget: list[str] | None = None
    """Amount per day, week or month, or in total: 50USD/month, 2000000tokens/day. For some models: '20USD/day for
    claude-opus-*'. To warn only: '40USD/month soft'. May be repeated."""


keys = new_group("keys")
"""Group of the commands `keys …`."""
_AUDIT_TITLES = ("id", "at", "actor", "action", "object", "changes")
_LABEL_COLUMNS = 9
_COST_CENTER = Column("Cost center")
_CREATOR = Column("Creator")
_EXCEPTIONS = Column("Exceptions")
_LAST_REFRESH = 4
"""Number of the column with the last refresh in the list of sign-ins."""


@keys.command
def create(
    label: str,
    *,
    owner: str = "",
    team: str = "",
    cost_center: str = "",
    expires: str = "never",
    rules: RuleOptions | None = None,
    as_json: bool = False,
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
    cost_center
        Cost center to which the requests of the key are booked.
    expires
        Time of expiry: 30d, 12h, never, or a date such as 2026-12-31. The key is valid until that day ends in UTC.
    as_json
        Print one JSON object, with the key, instead.
    """
    given = {"label": label, "owner": owner, "team": team, "cost_center": cost_center, "expires": expires}
    outcome, settings = _execute("create", "", given, rules)
    write_new_key(outcome, "created", settings, as_json=as_json)
    _warn_of_rules(settings, keys=[outcome.key])


@keys.command(name="list")
def list_(*, as_json: bool = False) -> None:
    """List all keys, the newest first. Only hashes are stored, so the keys themselves cannot be shown.

    Parameters
    ----------
    as_json
        Print one JSON array instead.
    """
    settings = load_command_settings()
    output = Output()
    if (remote := _find_remote(settings)) is not None:
        listed: Sequence[tuple[VirtualKey, KeyState]] = remote.list_keys()
    else:
        with open_ledger_for_reading(settings) as connection:
            stored = [] if connection is None else list_keys(EngineReader(connection))
            listed = [] if connection is None else _judge(EngineReader(connection), settings, stored)
    if as_json:
        output.write_json([encode_key(key, state) for key, state in listed])
        return
    if not listed and output.is_terminal:
        output.write_notice("There are no keys. Create one:  anthropic-proxy keys create LABEL")
        return
    shown: Sequence[tuple[Column, Callable[[VirtualKey, KeyState], str]]] = [
        (Column("Label"), lambda key, _: key.label),
        (Column("Key", is_optional=True), lambda key, _: key.hashes[0].hint if key.hashes else ""),
        (Column("Status"), lambda key, state: ", ".join(filter(None, (state.status, describe_author_of_end(key))))),
        (Column("Owner"), lambda key, _: key.owner),
        (Column("Team"), lambda key, _: key.team),
        (_COST_CENTER, lambda key, _: key.cost_center),
        (_CREATOR, describe_creator),
        (Column("Expires"), lambda key, _: format_time(key.expires_at) or "never"),
        (Column("Limits", wraps=True), lambda key, _: key.problem or describe_rules(key.rules)),
        (_EXCEPTIONS, lambda key, _: describe_exceptions(key)),
        (Column("Id", is_optional=True), lambda key, _: key.id),
    ]
    optional = (_COST_CENTER, _CREATOR, _EXCEPTIONS)
    shown = [(column, text) for column, text in shown if column not in optional or any(text(*row) for row in listed)]
    if output.is_terminal:  # room for the columns with values
        shown = [(column, text) for column, text in shown if any(text(*row) not in ("", "never") for row in listed)]
    columns = [column for column, _ in shown]
    rows = [[text(*row) for _, text in shown] for row in listed]
    output.write_table(columns, rows)
    if output.is_terminal:
        for _, state in listed:
            if state.status == "inactive":
                output.write_notice(state.reason, "!")
        output.write_notice(f"All facts of one key:  anthropic-proxy keys show {quote_word(listed[0][0].label)}")


@keys.command
def show(key: str, *, as_json: bool = False) -> None:
    """Show one key with its limits and the used amounts of its budgets.

    Parameters
    ----------
    key
        Label or id.
    as_json
        Print one JSON object instead.
    """
    settings = load_command_settings()
    if (remote := _find_remote(settings)) is not None:
        if as_json:
            Output().write_json(remote.request("GET", remote.place_key(key)))
        else:
            write_key(*remote.find_key(key))
        return
    with open_ledger_for_reading(settings) as connection:
        if connection is None:
            raise UnknownModel(
                "There are no keys. Create one:  anthropic-proxy keys create LABEL", code="virtual-key-unknown"
            )
        reader = EngineReader(connection)
        stored = require_key(reader, key)
        spending = read_used_budgets(reader, settings, build_key_scope(stored), time.time())
        ((_, state),) = _judge(reader, settings, [stored])
    write_key(stored, state, spending, as_json=as_json)


@keys.command
def change(
    key: str,
    *,
    label: str | None = None,
    owner: str | None = None,
    team: str | None = None,
    cost_center: str | None = None,
    expires: str | None = None,
    exceptions: str | None = None,
    rules: RuleOptions | None = None,
) -> None:
    """Change label, owner, team, cost center, expiry, models, routes, limits or budgets of a key.

    Running servers apply the change after at most 2 s. What is set for a person or a service is an exception, which
    stays: the table of its group or issuer does not change it any more.

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
    cost_center
        New cost center of later requests, or an empty text for none.
    expires
        Time of expiry: 30d, 12h, never, or a date such as 2026-12-31. The key is valid until that day ends in UTC.
    exceptions
        Fields of a person or a service that are exceptions, separated by commas, such as budget,team. One that is left
        out gets the value of the table again. none ends all exceptions.
    """
    given = {"label": label, "owner": owner, "team": team, "cost_center": cost_center}
    given |= {"expires": expires, "exceptions": exceptions}
    outcome, settings = _execute("change", key, given, rules)
    write_key(outcome.key, outcome.state)
    _warn_of_rules(settings, keys=[outcome.key])


@keys.command
def rotate(key: str, *, overlap: str = "0m", as_json: bool = False) -> None:
    """Replace the secret of a key, and print the new one.

    The key keeps its label and limits, and the used amounts of its budgets.

    Parameters
    ----------
    key
        Label or id.
    overlap
        Time for which the old secret stays valid: 30m, 24h, 7d. By default, it becomes invalid at once.
    as_json
        Print one JSON object, with the key, instead.
    """
    outcome, settings = _execute("rotate", key, {"overlap": overlap})
    write_new_key(outcome, "rotated", settings, as_json=as_json)


@keys.command
def revoke(key: str) -> None:
    """Revoke a key for ever. Running servers reject it after at most 2 s.

    With the e-mail address of a person, all access ends: sign-ins, the keys of the person, and the dashboard.

    Parameters
    ----------
    key
        Label or id of a key, or e-mail address of a person.
    """
    _write_done(_execute("revoke", key)[0])


@keys.command
def allow(key: str, *, new_person: bool = False) -> None:
    """Allow a revoked person or service again. The keys and sign-ins that the revocation ended stay ended.

    Parameters
    ----------
    key
        E-mail address of the person, label of the service, or id.
    new_person
        The address has been given to somebody else. The key stays as it is, and the next user with the address is
        another person, who reads nothing of the earlier one.
    """
    _write_done(_execute("leave" if new_person else "allow", key)[0])


@keys.command(name="move-people")
def move_people(*people: str, dry_run: bool = False) -> None:
    """Let people of an earlier identity provider or client go on at the present one (OIDC_ISSUER, OIDC_CLIENT_ID).

    The next user with the verified address of a person is this person, once. Without arguments, all people with access
    are moved. The addresses of the others are free: the next user with one of them is another person.

    Parameters
    ----------
    people
        E-mail addresses or ids of the people to move.
    dry_run
        List what would be done, and change nothing.
    """
    settings = load_command_settings()
    output = Output()
    if settings.oidc is None:
        raise ConfigurationError(
            "OIDC_ISSUER is not set, so there is no identity provider to which people could be moved.",
            code="identity-provider",
        )
    problems = list[str]()
    with changing_database(settings), open_administration(settings, name_author()) as administration:
        if people:
            commands = [KeyCommand(action="move", target=name) for name in people]
        else:
            commands, problems = _list_moves(administration.list_people_elsewhere(settings))
        for command in commands:
            try:
                outcome = administration.execute(command, dry_run=dry_run)
            except (InvalidRequest, UnknownModel) as error:
                problems.append(error.message)
            else:
                output.write_line(f"  {output.mark('✓')} {outcome.sentence}")
    for problem in problems:
        output.write_notice(problem, "✕")
    if not commands and not problems:
        output.write_notice(f"Everybody is of {settings.oidc.issuer} and the client {settings.oidc.client_id}.")
    if problems:
        sys.exit(1)


def _list_moves(elsewhere: Sequence[PersonElsewhere]) -> tuple[list[KeyCommand], list[str]]:
    """Return the commands, and why some people cannot be moved."""
    commands = list[KeyCommand]()
    problems = list[str]()
    by_address: dict[str, list[VirtualKey]] = {}
    for person in elsewhere:
        if person.has_access:
            by_address.setdefault(find_address(person.key.label), []).append(person.key)
        else:
            commands.append(KeyCommand(action="leave", target=person.key.id))
    for address, keys_of_address in by_address.items():
        if len(keys_of_address) > 1:
            problems.append(build_ambiguity_error(address, keys_of_address).message)
        else:
            commands.append(KeyCommand(action="move", target=keys_of_address[0].id))
    return commands, problems


@keys.command(name="sign-ins")
def sign_ins(*, as_json: bool = False) -> None:
    """List the devices on which persons have signed in from Claude Code, the latest first.

    Parameters
    ----------
    as_json
        Print one JSON array instead.
    """
    with open_ledger_for_reading(load_command_settings()) as connection:
        active = [] if connection is None else list_sign_ins(EngineReader(connection), time.time())
    output = Output()
    if as_json:
        output.write_json([encode_sign_in(sign_in) for sign_in in active])
        return
    if not active and output.is_terminal:
        output.write_notice("Nobody is signed in from Claude Code.")
        return
    columns = [Column("Person"), Column("Device"), Column("Address"), Column("Signed in"), Column("Last refresh")]
    columns += [Column("Ends"), Column("Id", is_optional=True)]
    times = [
        [str(format_time(at)) for at in (sign_in.created_at, sign_in.refreshed_at, sign_in.ends_at)]
        for sign_in in active
    ]
    rows = [
        [sign_in.user.unique_name, sign_in.device, sign_in.address, *at, sign_in.id]
        for sign_in, at in zip(active, times, strict=True)
    ]
    for row, note in zip(rows, map(describe_refresh, active), strict=True):
        row[_LAST_REFRESH] += f" ({note})" if note else ""
    output.write_table(columns, rows)
    if any(not sign_in.provider_token for sign_in in active):
        output.write_notice(NO_REFRESH_TOKEN, "!")


@keys.command(name="sign-out")
def sign_out(target: str) -> None:
    """End a sign-in, or all sign-ins of a person. Running servers reject the devices after at most 2 s.

    The person can sign in again, and the keys of the person stay valid. To end all access:
    anthropic-proxy keys revoke ADDRESS

    Parameters
    ----------
    target
        E-mail address of the person, or id of the sign-in or of the key.
    """
    _write_done(_execute("sign-out", target)[0])


@keys.command
def team(name: str, *, rules: RuleOptions | None = None) -> None:
    """Set common limits and budgets of all keys of a team. Without options, show them and the used amounts.

    Parameters
    ----------
    name
        Name of the team.
    """
    settings = _execute("team", name, rules=rules)[1] if rules and rules != RuleOptions() else load_command_settings()
    with open_ledger_for_reading(settings) as connection:
        reader = None if connection is None else EngineReader(connection)
        stored_team = (None if reader is None else find_team(reader, name)) or Team(name)
        spending = (
            [] if reader is None else read_used_budgets(reader, settings, build_team_scope(stored_team), time.time())
        )
    output = Output()
    limits = stored_team.problem or describe_rules(stored_team.rules) or "no limits"
    output.write_line(f"  {output.paint(stored_team.name, 'title')}  {limits}")
    for budget_use in spending:
        output.write_line(f"    {output.paint('used'.ljust(8), 'quiet')} {budget_use.describe()}")
    _warn_of_rules(settings, teams=[stored_team])


@keys.command
def audit(*, since: str = "90d", as_json: bool = False, as_csv: bool = False) -> None:
    """List the changes of keys, teams and settings, the latest first: time, actor, action, object and changed fields.

    Parameters
    ----------
    since
        Beginning: 24h, 7d, 90d, today, yesterday, a month such as 2026-11, or a date.
    as_json
        Print one JSON object per line instead.
    as_csv
        Print CSV instead.
    """
    if as_json and as_csv:
        raise ConfigurationError("--json and --csv exclude each other. Use one of them.", code="usage-period")
    beginning = find_times("--since", since, datetime.now(UTC))[0].timestamp()
    with open_ledger_for_reading(load_command_settings()) as connection:
        entries = [] if connection is None else list_audit_entries(EngineReader(connection), since=beginning)
    output = Output()
    rows = [encode_audit_entry(entry) for entry in entries]
    if as_json:
        data = open_data_output()
        for row in rows:
            data.write(encode_printed_json(row))
        return
    texts = [
        [str(row[title]) for title in _AUDIT_TITLES[:-1]] + [describe_changes(entry.changes)]
        for row, entry in zip(rows, entries, strict=True)
    ]
    if as_csv:
        write_csv(open_data_output(), _AUDIT_TITLES, texts)
        return
    if not entries and output.is_terminal:
        output.write_notice(f"No key, team or setting was changed (since {since}).")
        return
    if not output.is_terminal:
        columns = [Column(title) for title in ("Time", "Actor", "Action", "Object", "Changes")]
        output.write_table(columns, [row[1:] for row in texts])
        return
    for entry, (*_, changes) in zip(entries, texts, strict=True):
        at = formats.day_and_time(entry.at * MICROSECONDS)  # other output has the time in UTC
        output.write_line(f"  {output.paint(f'{at}  {entry.action}', 'title')}")
        for label, text in (("object", entry.target), ("actor", entry.actor), ("changes", changes)):
            if text:
                output.write_labeled(label, text, _LABEL_COLUMNS)


def _write_done(outcome: KeyOutcome) -> None:
    output = Output()
    output.write_line(f"  {output.mark('✓')} {outcome.sentence}")
    for notice in outcome.notices:
        output.write_notice(notice)


def _judge(reader: Reader, settings: Settings, virtual_keys: Sequence[VirtualKey]) -> list[tuple[VirtualKey, KeyState]]:
    return list(zip(virtual_keys, list_key_states(reader, settings, virtual_keys, time.time()), strict=True))


def _warn_of_rules(settings: Settings, *, keys: Sequence[VirtualKey] = (), teams: Sequence[Team] = ()) -> None:
    if _find_remote(settings) is not None:
        return
    routes = [
        name for rules in (*(key.rules for key in keys), *(team.rules for team in teams)) for name in rules.routes
    ]
    problems = find_unpriced(settings, keys, teams)
    for warning in (*describe_unknown_routes(routes, settings), *(problem.text for problem in problems)):
        Output().write_notice(warning, "!")


def _execute(
    action: KeyAction, target: str, given: Mapping[str, str | None] = {}, rules: RuleOptions | None = None
) -> tuple[KeyOutcome, Settings]:
    """Make a change of a key or team. The database is created or migrated if necessary. `given`: option → its text.
    None: the option is not given.
    """
    options = {**given, **(asdict(rules) if rules else {})}
    texts = {name: text for name, text in options.items() if text is not None}
    command = decode_command(action, target, texts, time.time(), prefix="--")
    settings = load_command_settings()
    if (remote := _find_remote(settings)) is not None:
        if action not in ("create", "change", "rotate", "revoke"):
            raise ConfigurationError(
                f"You are signed in at {remote.address}, where administrators change teams and end sign-ins. On the "
                "machine of a proxy with VIRTUAL_KEYS=true, this command changes its database.",
                code="remote-proxy",
            )
        if action == "create":  # the person has them
            fields = {name: value for name, value in command.fields.items() if value != "" or name not in HELD_FIELDS}
            command = structs.replace(command, fields=fields)
        return remote.execute(command), settings
    with changing_database(settings), open_administration(settings, name_author()) as administration:
        outcome = administration.execute(command)
        return structs.replace(outcome, state=administration.find_state(outcome.key, settings)), settings


def _find_remote(settings: Settings) -> RemoteProxy | None:
    """Return the proxy at which the user has signed in (`login`). None: there is none, or this machine has virtual keys
    itself.
    """
    return None if settings.virtual_keys else find_remote_proxy()


def write_new_key(outcome: KeyOutcome, completed_action: str, settings: Settings, *, as_json: bool) -> None:
    """Write the secret of a new or rotated virtual key to stdout, and notices to stderr.

    `completed_action` is `created` or `rotated`.
    """
    output = Output()
    key = outcome.key
    if as_json:
        output.write_json({**encode_key(key, outcome.state), "key": outcome.text})
    else:
        output.write_line(outcome.text)
    described = describe_rules(key.rules) or "no limits"
    output.write_notice(f"Key {key.label} is {completed_action} ({key.id}; {described}). It is shown only now.", "✓")
    for old in key.hashes[1:]:
        if old.expires_at is not None and old.expires_at > time.time():
            output.write_notice(f"The old secret {old.hint} is valid until {format_time(old.expires_at)}.")
    if not settings.virtual_keys and find_remote_proxy() is None:
        step = f"Set VIRTUAL_KEYS=true in {settings.variables_file} and {settings.start_again}."
        output.write_notice(f"The proxy does not accept it yet. {step}", "!")


def write_key(key: VirtualKey, state: KeyState, spending: Sequence[Spending] = (), *, as_json: bool = False) -> None:
    """Write a virtual key to stdout: its state, owner, limits and used amounts of budgets, but not its secret."""
    output = Output()
    if as_json:
        output.write_json({**encode_key(key, state), "spending": [budget_use.encode() for budget_use in spending]})
        return
    output.write_line(f"  {output.paint(key.label, 'title')}  {state.status}")
    facts = [("reason", state.reason), ("id", key.id), ("owner", key.owner), ("team", key.team)]
    facts += [("cost center", key.cost_center)]
    facts += [("subject", f"{key.subject} at {key.issuer}" if key.subject else "")]
    facts += [("creator", describe_creator(key, state))]
    facts += [("created", formats.long_time(key.created_at)), ("expires", formats.long_time(key.expires_at) or "never")]
    ended = (formats.long_time(key.revoked_at), describe_author_of_end(key))
    facts += [("revoked", ", ".join(filter(None, ended)))]
    for text_hash in key.hashes:
        end = "" if text_hash.expires_at is None else f"  until {formats.long_time(text_hash.expires_at)}"
        facts.append(("key", f"{text_hash.hint}  from {formats.long_time(text_hash.created_at)}{end}"))
    facts.append(("limits", key.problem or describe_rules(key.rules) or "none"))
    facts.append(("except", describe_exceptions(key)))
    facts += [("used", budget_use.describe()) for budget_use in spending]
    facts = [(title, value) for title, value in facts if value]
    width = max(8, *(len(title) for title, _ in facts))
    for title, value in facts:
        output.write_line(f"    {output.paint(title.ljust(width), 'quiet')} {value}")
