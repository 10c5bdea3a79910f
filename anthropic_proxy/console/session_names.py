"""Names of sessions for people. A session is a conversation of a client such as Claude Code."""

import re
from collections import Counter
from collections.abc import Sequence

from msgspec import Raw, Struct
from sqlalchemy import Connection

from anthropic_proxy.console import formats
from anthropic_proxy.console.ledger.request_queries import SessionRow, find_first_requests, read_several_contents
from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.patterns import compile_anchored

MAX_NAMED_SESSIONS = 50
"""Maximum number of sessions whose names are read from their texts."""
MAX_TITLE_CHARACTERS = 80
_ID_CHARACTERS = 8
_OF_CLIENT = compile_anchored(r"<\w+[-_]|<(\w+)>.*</\1>\Z", re.DOTALL)
"""Text of a client itself, in an element such as `<system-reminder>`. A text of a user may begin with `<div>`."""


class _Body(Struct):
    messages: Sequence[Raw] = ()


def find_names(connection: Connection, rows: Sequence[SessionRow], limit: int = MAX_NAMED_SESSIONS) -> dict[str, str]:
    """Return session id → the first words of its user if they are stored, else its project and start. Equal names have
    a part of the id. The texts of the first `limit` sessions are read.
    """
    firsts = find_first_requests(connection, [row.session for row in rows[:limit]])
    texts = read_several_contents(connection, [*firsts.values()], ("request",))
    names = {row.session: name_session(row) for row in rows}
    for session, request_id in firsts.items():
        if request_id in texts and (title := find_title(texts[request_id]["request"].data)):
            names[session] = title
    counts = Counter(names.values())
    return {
        session: f"{name} ({shorten_session_id(session)})" if counts[name] > 1 else name
        for session, name in names.items()
    }


def shorten_session_id(session: str) -> str:
    """Return the last characters of the id: programs that number their sessions begin the ids alike."""
    return session[-_ID_CHARACTERS:]


def name_session(row: SessionRow) -> str:
    """Return a name without a text of its user: `checkout-api, 21 Nov, 13:42`."""
    return f"{row.project or 'Session'}, {formats.day_and_time(row.started_at)}"


def find_title(data: bytes) -> str:
    """Return the first words of the user in a request. "": `data` is no complete request, or has no text."""
    try:
        for raw in decode_json(data, _Body).messages:
            message = decode_json(bytes(raw))
            content = message.get("content") or () if message["role"] == "user" else ()
            for block in [{"text": content}] if isinstance(content, str) else content:
                text = block.get("text", "").strip()
                if text and not _OF_CLIENT.match(text):
                    return formats.shorten(" ".join(text[: 4 * MAX_TITLE_CHARACTERS].split()), MAX_TITLE_CHARACTERS)
    except (InvalidJson, LookupError, TypeError, AttributeError, RecursionError):
        pass
    return ""
