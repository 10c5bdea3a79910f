"""Lines of the log about client requests, and functions that make texts from clients safe for the log."""

import functools
import json
import math
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from operator import attrgetter

from msgspec import structs

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.platforms.program import name_program
from anthropic_proxy.errors import PACKAGE, join_with_and
from anthropic_proxy.gateway.telemetry.log.columns import SIGN_LETTERS, count_columns, pad, wrap_text
from anthropic_proxy.gateway.telemetry.outcomes import (
    INCIDENTS,
    INSPECTIONS,
    VERDICTS,
    classify_outcome,
    count_verdicts,
    describe_inspection,
    name_cause,
)
from anthropic_proxy.plugins import Receipt
from anthropic_proxy.secrets import redact_secrets

FIRST_COLUMN = 49
SECOND_COLUMN = 34
MAX_PATH_CHARACTERS = 120
MAX_INLINE_ERROR_CHARACTERS = 100
"""Maximum length of an error in the request line if the log is no terminal. A longer error has a line of its own."""
MIN_WRAP_COLUMNS = 20
INDENT = " " * 10

_TYPED = compile_later(rf"^(?:{PACKAGE} .*|--[a-z].*|[A-Z][A-Z0-9_]*=\S+|targets = \[.*\])")
_SUGGESTED = compile_later(r"^.+")
_INDEX = compile_later(r"\d+")
_PLAIN_SIGNS = str.maketrans(  # an exclamation mark is a sign only by itself
    {**SIGN_LETTERS, "!": "!", "→": "->", "…": "...", "–": "-", "↻": "re", "’": "'", "≥": ">="}
)
_WARNING_SIGN = compile_later(r"(?<!\S)!(?!\S)")

_CLIENT_FIELDS = (
    "path",
    "requested_model",
    "model",
    "route_reason",
    "error",
    "remedy",
    "user_agent",
    "session",
    "agent",
    "project",
    "agent_type",
    "prompt_id",
)
"""Fields of a receipt with text that a client may have chosen, from which API keys must be removed."""
_read_client_fields = attrgetter(*_CLIENT_FIELDS)

_LAYOUT = "\n\t\u200c\u200d"
"""Unprintable characters that ordinary text contains: line break, tab, zero-width non-joiner and joiner."""

COLORS = {"ok": "32", "warn": "33", "error": "1;31", "quiet": "2", "type": "36", "title": "1", "bar": "34"}
"""Role of a text → parameter of its terminal color."""
_OWN_COLOR = compile_later(rf"(\x1b\[(?:0|{'|'.join(COLORS.values())})m)")

Paint = Callable[[str, str], str]
"""Function that returns a text in the terminal color of a role: (text, role) → colored text."""


_KINDS = {
    "auto_mode_check": "  check of a tool call",
    "classifier": "  classifier",
    "image_description": "  description of a picture",
}
"""Kind of a request → its text behind the route. Other kinds have none."""
_MAX_NAMED_TOOLS = 3
_MAX_TOOL_CHARACTERS = 40


def escape_unprintable(text: str) -> str:
    # otherwise a client could add log lines, or reverse the direction of text on a terminal
    return text if text.isprintable() else "".join(map(_escape, text))


def escape_terminal_controls(text: str) -> str:
    """Line breaks, tabs and all kinds of spaces are kept."""
    if text.isprintable():
        return text
    return "".join(c if c in _LAYOUT or unicodedata.category(c) == "Zs" else _escape(c) for c in text)


def escape_all_but_colors(text: str) -> str:
    """Return a text for a terminal: as `escape_terminal_controls`, but with the colors that `Log.paint` writes."""
    if text.isprintable():
        return text
    parts = _OWN_COLOR.split(text)
    return "".join(part if place % 2 else escape_terminal_controls(part) for place, part in enumerate(parts))


def escape_unprintable_json(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def redact_receipt(receipt: Receipt, secrets: tuple[str, ...] = ()) -> Receipt:
    """Return the receipt with API keys masked in texts that clients may have chosen."""
    calls = [text for attempt in receipt.attempts for text in (attempt.model, attempt.error)]
    if receipt.checks or receipt.tool_times:
        calls += [text for check in receipt.checks for text in (check.tool, check.reason, check.rule)]
        calls += [name for name, _ in receipt.tool_times]
    masked = _without_keys((*_read_client_fields(receipt), *calls), secrets)
    if masked is None:
        return receipt
    left = iter(masked)
    fields = {name: next(left) for name in _CLIENT_FIELDS}
    attempts = [structs.replace(attempt, model=next(left), error=next(left)) for attempt in receipt.attempts]
    shown = [structs.replace(check, tool=next(left), reason=next(left), rule=next(left)) for check in receipt.checks]
    times = [(next(left), seconds) for _, seconds in receipt.tool_times]
    return structs.replace(receipt, attempts=attempts, checks=shown, tool_times=times, **fields)


@functools.lru_cache(maxsize=64)
def _without_keys(words: tuple[str, ...], secrets: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the words with API keys masked. None: the words contain no keys. Results are cached, because most requests
    have the same words.
    """
    masked = tuple(redact_secrets(word, secrets) for word in words)
    return None if masked == words else masked


def _escape(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def to_ascii_symbols(text: str) -> str:
    return _WARNING_SIGN.sub(SIGN_LETTERS["!"], text.translate(_PLAIN_SIGNS))


def paint_commands(text: str, paint: Paint) -> str:
    """Return `text` in which what the user may type has its color, and commands of the proxy are as the user can run
    them. It stands after two spaces, and is a command, an option, a setting with its value, or a suggested text.
    """
    first, *parts = text.split("  ")
    typed = [_SUGGESTED if before.endswith("Did you mean:") else _TYPED for before in (first, *parts)]
    parts = [
        pattern.sub(lambda typed_text: paint(name_program(typed_text[0]), "type"), part)
        for pattern, part in zip(typed, parts, strict=False)
    ]
    return "  ".join((name_program(first), *map(name_program, parts)))


QUARTER_HOUR = 900
"""Seconds. Each time zone has its midnight at a quarter of an hour."""


def format_local_time(seconds: float) -> str:
    """`HH:MM:SS`. `seconds`: since the epoch."""
    return _format_time_cached(int(seconds))


@functools.lru_cache(maxsize=4)
def _format_time_cached(seconds: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def format_local_day(seconds: float) -> str:
    """`Thu 26 Nov 2026`. `seconds`: since the epoch."""
    when = time.localtime(seconds)
    return f"{time.strftime('%a', when)} {when.tm_mday} {time.strftime('%b %Y', when)}"


@functools.lru_cache(maxsize=4)
def _iso_time_cached(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def format_utc_time(seconds: float) -> str:
    """`2026-11-20T21:04:32.120Z`. `seconds`: since the epoch."""
    return _iso_time_cached(int(seconds * 1000))


def format_request_lines(
    receipt: Receipt, paint: Paint | None, width: int | None = None, numbers: str = ""
) -> list[str]:
    """Time, method and path, status, incident, request id. An incident that is too long follows in further lines.
    `numbers` take the place of the incident if there is none.
    """
    path = receipt.path if len(receipt.path) <= MAX_PATH_CHARACTERS else receipt.path[: MAX_PATH_CHARACTERS - 1] + "…"
    clock = _format_time_cached(int(receipt.started_at))
    shown = receipt.status or "–"
    head = f"{receipt.method} {path if path.isprintable() else escape_unprintable(path)} "
    incident = _describe_incident(receipt, paint or _without_color)
    text = incident or numbers
    if paint is None and width is None and len(text) <= MAX_INLINE_ERROR_CHARACTERS:  # the usual case of a service
        start = f"{clock}  {head}{shown}"
        return [f"{start:<{FIRST_COLUMN - 2}}  {text:<{SECOND_COLUMN}}  {receipt.request_id}"]
    shown = str(shown)
    used = len(INDENT) + count_columns(head) + len(shown)
    gap = max(FIRST_COLUMN - used, 2)
    further = [INDENT + numbers] if numbers and text != numbers else []
    room = MAX_INLINE_ERROR_CHARACTERS if width is None else width - used - 2
    if count_columns(text) <= room:
        gap = gap if width is None else max(min(gap, width - used - count_columns(text)), 2)
    else:
        further += wrap_text(INDENT + text, None if width is None else max(width, len(INDENT) + MIN_WRAP_COLUMNS))
        text = ""
    paint = paint or _without_color
    role = "ok" if receipt.status < 400 else "warn"
    if receipt.status >= 500:
        role = "error"
    line = f"{paint(clock, 'quiet')}  {head}{paint(shown, role) if receipt.status else shown}"
    last = paint(receipt.request_id, "quiet")
    end = used + gap + max(count_columns(text), SECOND_COLUMN)
    if width is None or end + 2 + len(receipt.request_id) <= width:
        line += f"{' ' * gap}{pad(text, SECOND_COLUMN)}  {last}"
    elif text:
        line += f"{' ' * gap}{text}"
    return [line.rstrip(), *further]


def _without_color(text: str, _: str) -> str:
    return text


@functools.lru_cache(maxsize=256)
def _describe_sent(tool_count: int, message_count: int, is_stream: bool) -> str:
    tools = "tool" if tool_count == 1 else "tools"
    messages = "msg" if message_count == 1 else "msgs"
    return f"  {tool_count} {tools} {message_count} {messages}{' stream' if is_stream else ''}"


def format_exchange_lines(
    receipt: Receipt, paint: Paint | None, width: int | None = None, cost: str = "", *, has_ledger: bool
) -> list[str]:
    """Those of `format_request_lines`, and as the second line the models with what was sent, tokens and times.

    Tokens, times and the route that do not fit behind the models stand in the first line, or in a third one after an
    incident or if that is too short. The number of tools and messages is left out if it does not fit, and so is `cost`,
    the last of the numbers. After a failure or a retry, a last line has the command `explain` with the id if the first
    line has no room for the id.
    """
    requested = receipt.requested_model or "–"
    target = f"{receipt.prefix}/{receipt.model}" if receipt.model else ""
    first = "–" if receipt.first_token_seconds is None else _format_seconds(receipt.first_token_seconds)
    sent = _describe_sent(receipt.tool_count, receipt.message_count, receipt.stream)
    tokens = format_tokens(receipt.all_input_tokens, receipt.output_tokens)
    numbers = f"{tokens}  first {first} total {_format_seconds(receipt.duration_seconds)}"
    route = f"  route {receipt.route}" if receipt.route else ""
    route += _describe_kind(receipt)
    if paint is None and width is None:
        models = f"{requested} → {target}" if target else requested
        second = f"{INDENT}{models if models.isprintable() else escape_unprintable(models)}{sent}  {numbers}{route}"
        first_line, *further = format_request_lines(receipt, paint, width)
        if receipt.retry_after_seconds is not None:
            further += [INDENT + line for line in describe_remedies(receipt, has_ledger=False)]
        return [first_line, second, *further]
    requested = escape_unprintable(requested)
    target = escape_unprintable(target)
    painted = (paint or _without_color)(target, "type")
    models = f"{INDENT}{requested} → {painted}" if target else f"{INDENT}{requested}"
    needed = len(INDENT) + count_columns(f"{requested} → {target}" if target else requested)
    if target and width is not None and needed > width:
        indent = " " * min(len(INDENT), max(width - count_columns(target), 0))  # a terminal would divide the name
        models = f"{INDENT}{requested} →\n{indent}{painted}"
    room = math.inf if width is None else width - needed
    behind = f"  {numbers}"
    separate = ""
    if len(behind) > room:
        behind = ""
        separate = numbers
    if len(behind) + len(route) > room:
        separate = f"{separate}{route}".strip()
        route = ""
    if cost and behind and len(behind) + len(route) + 2 + len(cost) <= room:
        behind += f"  {cost}"
    sent = sent if len(sent) + len(behind) + len(route) <= room else ""
    first_line, *further = format_request_lines(receipt, paint, width, separate)
    has_ledger = has_ledger and width is not None and receipt.request_id not in first_line
    for line in describe_remedies(receipt, has_ledger=has_ledger):
        further += wrap_text(INDENT + paint_commands(line, paint or _without_color), width)
    return [first_line, f"{models}{sent}{behind}{route}", *further]


def describe_remedies(receipt: Receipt, *, has_ledger: bool) -> Iterator[str]:
    """Yield when a failed request may be repeated, if the provider told it, and the command `explain` with the id."""
    if receipt.retry_after_seconds is not None and receipt.provider:  # a limit of the proxy states it in its message
        yield f"Retry in {receipt.retry_after_seconds:,} s."
    if has_ledger and (receipt.failed_attempts or (receipt.outcome == "error" and receipt.model)):
        yield f"Why:  anthropic-proxy explain {receipt.request_id}"


def note_deduplication_key(note: FidelityNote, provider: str) -> tuple[str, str, str]:
    """Return a key that is equal for notes which differ only in the name of a tool or the index of a field."""
    # fields of tools contain tool names; the reason is the same for all of them
    field = note.reason if note.field.startswith("tools") else _INDEX.sub("0", note.field)
    return provider, field, note.handling


def format_note_line(note: FidelityNote, provider: str) -> str:
    """Return the log line about a changed or dropped request field, such as `✕ groq: top_k dropped: …`."""
    sign = "✕" if note.handling == "dropped" else "~"
    return f"{sign} {provider or 'here'}: {note.field} {note.handling}: {note.reason}"


def format_notes_line(notes: Iterable[FidelityNote], receipt: Receipt, *, has_ledger: bool) -> str:
    """Return one line with the names of all changed and dropped fields: that is normal and no fault of the user."""
    named: dict[bool, dict[str, None]] = {False: {}, True: {}}
    for note in notes:  # a client can have hundreds of tools
        named[note.handling == "dropped"]["tools" if note.field.startswith("tools") else note.field] = None
    target = f" for {receipt.prefix}/{receipt.model}" if receipt.model else ""
    parts = list[str]()
    for title, fields in (("Adapted", named[False]), ("Left out", named[True])):
        if fields:
            parts.append(f"{title}{'' if parts else target}: {join_with_and([*fields])}.")
    if has_ledger:
        parts.append(f"Why:  anthropic-proxy explain {receipt.request_id}")
    return " ".join(parts)


def _describe_incident(receipt: Receipt, paint: Paint) -> str:
    failed = f"↻ {escape_unprintable(', '.join(receipt.failed_attempts))}" if receipt.failed_attempts else ""
    if receipt.error:
        status = receipt.attempts[-1].status if receipt.attempts else 0
        sent_status = f" ({receipt.prefix} sent {status})" if 400 <= status != receipt.status else ""
        error = f"{paint('✕', 'error')} {paint_commands(escape_unprintable(receipt.error), paint)}{sent_status}"
        return f"{failed}; {error}" if failed else error
    outcome = classify_outcome(receipt)
    if outcome == "cancelled":
        return "– client left" if receipt.status else "– client left before the reply"
    remarks = [f"{failed}, then {receipt.prefix}"] if failed else []
    if outcome == "truncated":
        remarks.append(f"{paint('!', 'warn')} truncated ({escape_unprintable(receipt.outcome)})")
    elif outcome == "refused":
        remarks.append(f"{paint('!', 'warn')} refused")
    # calls that were flagged or have no verdict; the line of a check names its own; explanations are content
    for verdict in INCIDENTS if receipt.checks and not receipt.parent else ():
        if judged := [check for check in receipt.checks if check.verdict == verdict]:
            tag = VERDICTS[verdict]
            causes = ", ".join(dict.fromkeys(map(name_cause, judged)))
            tools = [*dict.fromkeys(escape_unprintable(check.tool[:_MAX_TOOL_CHARACTERS]) for check in judged)]
            named = ", ".join((*tools[:_MAX_NAMED_TOOLS], *(["…"] if len(tools) > _MAX_NAMED_TOOLS else [])))
            cause = f" ({causes})" if verdict == "unavailable" else ""
            remarks.append(f"{paint(tag.sign, tag.role)} {tag.text}: {named}{cause}")
    for record in receipt.inspections:
        if record.decision != "passed":
            kind = INSPECTIONS[record.decision]
            remarks.append(f"{paint(kind.sign, kind.role)} {escape_unprintable(describe_inspection(record))}")
    return "; ".join(remarks)


def _describe_kind(receipt: Receipt) -> str:
    """Return what stands behind the route: `  check of Bash: flagged`, `  1 flagged, 2 not flagged`."""
    if receipt.parent and receipt.checks:
        check = receipt.checks[0]
        return f"  check of {escape_unprintable(check.tool[:_MAX_TOOL_CHARACTERS])}: {VERDICTS[check.verdict].text}"
    counts = count_verdicts(receipt.checks)
    return _KINDS.get(receipt.kind, "") or (f"  {counts}" if counts else "")


def format_tokens(input_tokens: int, output_tokens: int) -> str:
    """`in 43.6k out 486`. `input_tokens`: all, also those of the cache."""
    return f"in {_count(input_tokens)} out {_count(output_tokens)}"


def _format_seconds(seconds: float) -> str:
    # the decimals depend on the value only, so that a shorter time never looks longer
    return f"{seconds:.2f}s" if seconds < 10 else f"{seconds:.1f}s"


def _count(tokens: int) -> str:
    return f"{tokens / 1000:.1f}k" if tokens >= 10_000 else str(tokens)
