"""Page of the audit log, which lists each change of virtual keys and teams with time, author, and old and new values.

`build_audit_page` returns the values for the template of the page. `list_shown_entries` returns the changes that the
page lists. A virtual key is a key that this proxy gives to a client.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from anthropic_proxy.access.queries import list_audit_entries
from anthropic_proxy.access.virtual_keys import AuditEntry
from anthropic_proxy.dashboard.keys import build_change_row
from anthropic_proxy.dashboard.page_context import PageContext
from anthropic_proxy.errors import InvalidRequest

MAX_ROWS = 50
"""Maximum number of changes on one page of the audit log."""


def build_audit_page(context: PageContext) -> Mapping[str, Any]:
    """Return the values for the template of the page with the audit log.

    `context`: parameters of the URL, state of the proxy, and connection to the database.
    """
    query = context.query
    found = list_shown_entries(context, MAX_ROWS + 1)
    if query.after:
        shown, has_newer, has_older = found[-MAX_ROWS:], len(found) > MAX_ROWS, True
    else:
        shown, has_newer, has_older = found[:MAX_ROWS], bool(query.before), len(found) > MAX_ROWS
    verdict = "Each change of a key or a team, the latest first. It contains no text of a key."
    return {
        "title": "Audit log",
        "verdict": verdict if shown else "No change of a key or a team is recorded.",
        "rows": [build_change_row(entry) for entry in shown],
        "newer": query.link(after=str(shown[0].id), before="") if has_newer and shown else "",
        "older": query.link(before=str(shown[-1].id), after="") if has_older and shown else "",
    }


def list_shown_entries(context: PageContext, limit: int = MAX_ROWS) -> Sequence[AuditEntry]:
    """Return the changes of keys and teams on one page of the audit log, the latest first.

    Raises `InvalidRequest` for an invalid URL parameter.
    """
    query = context.query
    before, after = (_read_id(name, text) for name, text in (("before", query.before), ("after", query.after)))
    return list_audit_entries(context.connection, before_id=before, after_id=after, limit=limit)


def _read_id(name: str, text: str) -> int | None:
    if text and not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InvalidRequest(f"{name}: {text[:40]!r} is not an id of this list.")
    return int(text) if text else None
