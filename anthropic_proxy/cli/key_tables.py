"""Output of the commands `keys …`: tables, facts about one key, and JSON or CSV.

Each function `write_*` writes the output of a command, such as `write_keys` for `keys list`. A virtual key is a key
that this proxy gives to a client.
"""

import sys
import time
from collections.abc import Sequence
from typing import Literal

import msgspec

from anthropic_proxy.access.descriptions import (
    describe_changes,
    describe_rules,
    encode_audit_entry,
    encode_key,
    format_time,
)
from anthropic_proxy.access.spending import Spending
from anthropic_proxy.access.virtual_keys import AuditEntry, Team, VirtualKey
from anthropic_proxy.cli.output import Column, Output
from anthropic_proxy.ledger.export import write_csv
from anthropic_proxy.settings import Settings

_AUDIT_TITLES = ("id", "at", "actor", "action", "object", "changes")


def write_new_key(key: VirtualKey, key_text: str, completed_action: str, settings: Settings, *, as_json: bool) -> None:
    """Write the text of a new or rotated virtual key to stdout, and notices to stderr.

    `completed_action` is `created` or `rotated`.
    """
    output = Output()
    if as_json:
        output.write_json({**encode_key(key, time.time()), "key": key_text})
    else:
        output.write_line(key_text)
    described = describe_rules(key.rules) or "no limits"
    output.write_notice(
        f"Key {key.label} is {completed_action} ({key.id}; {described}). It is shown only now.", "✓", "ok"
    )
    for old in key.hashes[1:]:
        if old.expires_at is not None and old.expires_at > time.time():
            output.write_notice(f"The old text {old.hint} is valid until {format_time(old.expires_at)}.")
    if not settings.virtual_keys:
        output.write_notice(
            "The proxy does not accept it yet. Set VIRTUAL_KEYS=true and start the proxy again.", "!", "warn"
        )


def write_keys(found: Sequence[VirtualKey], *, as_json: bool = False) -> None:
    """Write a table of the virtual keys `found` to stdout. `as_json`: write a JSON array instead."""
    output = Output()
    if as_json:
        output.write_json([encode_key(key, time.time()) for key in found])
        return
    if not found and output.is_terminal:
        output.write_notice("There are no keys. Create one:  anthropic-proxy keys create LABEL")
        return
    titles = ("Label", "Key", "Status", "Owner", "Team", "Expires", "Limits", "Id")
    now = time.time()
    rows = [
        [
            key.label,
            key.hashes[0].hint if key.hashes else "",
            key.find_status(now),
            key.owner,
            key.team,
            format_time(key.expires_at) or "never",
            describe_rules(key.rules),
            key.id,
        ]
        for key in found
    ]
    output.write_table([Column(title) for title in titles], rows)


def write_key(key: VirtualKey, spending: Sequence[Spending] = (), *, as_json: bool = False) -> None:
    """Write a virtual key to stdout: its state, owner, limits and used amounts of budgets, but not its secret."""
    output, now = Output(), time.time()
    if as_json:
        output.write_json({**encode_key(key, now), "spending": [each.encode() for each in spending]})
        return
    output.write_line(f"  {output.paint(key.label, 'title')}  {key.find_status(now)}")
    facts = [("id", key.id), ("owner", key.owner), ("team", key.team)]
    facts += [("created", format_time(key.created_at) or ""), ("expires", format_time(key.expires_at) or "never")]
    facts += [("revoked", format_time(key.revoked_at) or "")]
    for each in key.hashes:
        end = "" if each.expires_at is None else f"  until {format_time(each.expires_at)}"
        facts.append(("key", f"{each.hint}  from {format_time(each.created_at)}{end}"))
    facts.append(("limits", describe_rules(key.rules) or "none"))
    facts += [("used", each.describe()) for each in spending]
    for title, value in facts:
        if value:
            output.write_line(f"    {output.paint(title.ljust(8), 'quiet')} {value}")


def write_team(team: Team) -> None:
    """Write the limits of `team` to stdout."""
    output = Output()
    output.write_line(f"  {output.paint(team.name, 'title')}  {describe_rules(team.rules) or 'no limits'}")


def write_audit_entries(entries: Sequence[AuditEntry], table_format: Literal["json", "csv", "table"]) -> None:
    """Write `entries`, changes of keys and teams, to stdout: as a table, as CSV, or as one JSON object per line."""
    output = Output()
    rows = [encode_audit_entry(entry) for entry in entries]
    if table_format == "json":
        for row in rows:
            output.write_raw_text(msgspec.json.encode(row).decode() + "\n")
        return
    texts = [
        [str(row[title]) for title in _AUDIT_TITLES[:-1]] + [describe_changes(entry.changes)]
        for row, entry in zip(rows, entries, strict=True)
    ]
    if table_format == "csv":
        write_csv(sys.stdout, _AUDIT_TITLES, texts)
        return
    columns = [Column(title) for title in ("Time", "Actor", "Action", "Object", "Changes")]
    output.write_table(columns, [row[1:] for row in texts])
