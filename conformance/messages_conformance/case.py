"""A case: one exchange as a folder, which is sent again to any server.

`request.json` is the body of the client's request. `case.toml` has a `title`. What the client got stands in
`expected_events.sse` for a stream, `expected_message.json` for a message, or `expected_error.json` for an error, as a
table with `status` and `body`. All but the request can be missing.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from messages_conformance.client import Exchange, Server
from messages_conformance.events import EventReader, decode, join_message
from messages_conformance.forms import find_form_faults
from messages_conformance.grammar import CALL_TYPES, EventGrammar
from messages_conformance.rows import VERSIONS, SuiteError
from messages_conformance.shown import Screen
from messages_conformance.steps import build_messages_request
from messages_conformance.trial import Options

MAX_FILE_BYTES = 64 * 1024 * 1024
"""Maximum size of a file of a case."""
REQUEST_FILE = "request.json"
CASE_FILE = "case.toml"
EVENTS_FILE = "expected_events.sse"
MESSAGE_FILE = "expected_message.json"
ERROR_FILE = "expected_error.json"


@dataclass(frozen=True)
class Reply:
    """What is compared of a reply: its form, not its texts, because no two replies of a model have the same."""

    outcome: str
    """`200 stream`, `200 message`, or status and type of an error."""
    blocks: str
    """Types of the content blocks, calls with the name of their tool."""
    stop_reason: str
    violations: tuple[str, ...]
    """What is against the rules of the API."""


@dataclass(frozen=True)
class Case:
    folder: Path
    title: str
    provider: str
    """Name of the provider in the proxy that has written the case. "": unknown."""
    model: str
    """Its model. "": unknown."""
    request: Mapping[str, Any]
    reply: Reply | None
    """What the client got. None: the case does not say it."""


def read_case(folder: Path) -> Case:
    """Raises `SuiteError`."""
    request = _read_object(folder / REQUEST_FILE)
    fields: Mapping[str, Any] = {}
    if (content := _read(folder / CASE_FILE)) is not None:
        try:
            fields = tomllib.loads(content.decode())
        except ValueError as error:
            raise SuiteError(f"{folder / CASE_FILE} is no TOML: {error}") from error
    texts = {name: str(fields.get(name) or "") for name in ("title", "provider", "model")}
    return Case(folder, request=request, reply=_read_reply(folder), **texts)


def run_case(case: Case, options: Options) -> Reply:
    """Send the request of a case, for the model of the options, and return what came."""
    body = {**case.request, **({"model": options.model} if options.model else {})}
    request = build_messages_request(body, options, options.version or VERSIONS[0])
    exchange = Server(options.url, timeout=options.timeout).send(request)
    if exchange.failure and not exchange.status:
        raise SuiteError(Screen(options).clean(f"{options.url}: {exchange.failure}"))
    return _describe_exchange(exchange)


def write_comparison(case: Case, reply: Reply) -> str:
    """Return both replies side by side, and what is wrong in the one of this server."""
    rows = [("", "in the case", "here")]
    for label, name in (("outcome", "outcome"), ("blocks", "blocks"), ("stop reason", "stop_reason")):
        rows.append((label, str(getattr(case.reply, name, "?")) or "-", str(getattr(reply, name)) or "-"))
    rows.append(("rules", _count_violations(case.reply), _count_violations(reply)))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{label:<{widths[0]}}  {there:<{widths[1]}}  {here}".rstrip() for label, there, here in rows]
    return "\n".join([case.title or case.folder.name, *lines, *(f"✕ {text}" for text in reply.violations)])


def _count_violations(reply: Reply | None) -> str:
    if reply is None:
        return "?"
    return f"{len(reply.violations)} violated" if reply.violations else "kept"


def _read_reply(folder: Path) -> Reply | None:
    if (content := _read(folder / EVENTS_FILE)) is not None:
        return _describe_stream(200, content)
    if (folder / MESSAGE_FILE).exists():
        return _describe_message(200, _read_object(folder / MESSAGE_FILE))
    if (folder / ERROR_FILE).exists():
        error = _read_object(folder / ERROR_FILE)
        status = error.get("status")
        return _describe_message(status if isinstance(status, int) else 0, error.get("body"))
    return None


def _describe_exchange(exchange: Exchange) -> Reply:
    if exchange.is_stream:
        reply = _describe_stream(exchange.status, exchange.body)
    else:
        reply = _describe_message(exchange.status, exchange.json)
    failures = (exchange.failure,) if exchange.failure else ()
    return Reply(reply.outcome, reply.blocks, reply.stop_reason, (*failures, *reply.violations))


def _describe_stream(status: int, content: bytes) -> Reply:
    grammar = EventGrammar()
    grammar.feed_bytes(content)
    violations = tuple(f"{violation.rule}: {violation}" for violation in grammar.finish())
    reader = EventReader()
    reader.feed(0, content)
    message = join_message(reader.events)
    failed = "".join(f", then {_name_error(event.data)}" for event in reader.events if event.type == "error")
    if not violations and not failed:
        violations = tuple(_check_message(message or {}))
    return Reply(f"{status} stream{failed}", *_describe_content(message), violations)


def _describe_message(status: int, body: Any) -> Reply:
    is_message = isinstance(body, dict) and body.get("type") == "message"
    if status == 200 and is_message:
        return Reply("200 message", *_describe_content(body), tuple(_check_message(body)))
    if status == 200:
        return Reply("200", "", "", ("message: the body of a reply with the status 200 is no message",))
    kind = _name_error(body)
    faults = find_form_faults("error", body) if kind else ["the body is no error of the Messages API"]
    return Reply(f"{status} {kind}".rstrip(), "", "", tuple(f"error: {fault}" for fault in faults))


def _name_error(body: Any) -> str:
    """Return the type of an error. "": it is none."""
    error = body.get("error") if isinstance(body, dict) and body.get("type") == "error" else None
    kind = error.get("type") if isinstance(error, dict) else None
    return kind if isinstance(kind, str) else ""


def _check_message(message: Mapping[str, Any]) -> Iterator[str]:
    for fault in find_form_faults("message", message):
        yield f"message: {fault}"
    if not isinstance(message.get("stop_reason"), str):
        yield "message: a complete message has a stop_reason"


def _describe_content(message: Mapping[str, Any] | None) -> tuple[str, str]:
    content = message.get("content") if message else None
    blocks: Sequence[Any] = content if isinstance(content, list) else ()
    reason = message.get("stop_reason") if message else None
    return ", ".join(map(_describe_block, blocks)), reason if isinstance(reason, str) else ""


def _describe_block(block: Any) -> str:
    kind = str(block.get("type")) if isinstance(block, dict) else type(block).__name__
    return f"{kind} {block.get('name')}" if kind in CALL_TYPES else kind


def _read(file: Path) -> bytes | None:
    """Return the content of a file. None: it does not exist."""
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SuiteError(f"{file} cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise SuiteError(f"{file} has more than {MAX_FILE_BYTES:,} bytes")
    return content


def _read_object(file: Path) -> Mapping[str, Any]:
    content = _read(file)
    if content is None:
        raise SuiteError(f"{file} does not exist")
    value = decode(content.decode("utf-8", "replace"))
    if not isinstance(value, dict):
        raise SuiteError(f"{file} has no JSON object")
    return value
