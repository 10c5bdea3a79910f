"""Names of sessions for people. A session is a conversation of a client such as Claude Code.

A session has one name in all lists, pages and commands, whatever else is listed beside it.
"""

from collections.abc import Sequence

from sqlalchemy import Connection

from anthropic_proxy.console.ledger.request_queries import SessionRow, find_session_titles
from anthropic_proxy.engine.patterns import compile_anchored

_ID_CHARACTERS, _MAX_ID_CHARACTERS = 8, 36
_UUID = compile_anchored(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def find_names(connection: Connection, rows: Sequence[SessionRow]) -> dict[str, str]:
    """Return session id → the title that Claude Code has asked for, else its project and the beginning of its id."""
    titles = find_session_titles(connection, [row.session for row in rows])
    return {row.session: titles.get(row.session) or name_session(row.project, row.session) for row in rows}


def name_session(project: str, session: str) -> str:
    """Return a name without a text: `checkout-api 0f6c2a1e`, `Session nightly-17`."""
    whole = _UUID.fullmatch(session) is None  # programs that number their sessions begin the ids alike
    return f"{project or 'Session'} {session[: _MAX_ID_CHARACTERS if whole else _ID_CHARACTERS]}"
