"""Command `explain`: the route and translation of a request that is not sent, or the route of a stored request.

`dry_run_request` does all steps of a request except the call to the provider, and returns a `RequestDryRun`. Stored
requests are in the ledger, the database of requests.
"""

import asyncio
import json
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter
from msgspec import structs

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.explanation import Explanation, mask_credential
from anthropic_proxy.cli.ledger_access import require_stored_body, require_stored_request
from anthropic_proxy.cli.output import Output, describe_input, read_input
from anthropic_proxy.console.ledger.export import build_request_object
from anthropic_proxy.console.ledger.request_queries import list_failed_attempts, list_notes
from anthropic_proxy.console.ledger.tables import StoredRequest
from anthropic_proxy.console.ledger.units import MICROSECONDS
from anthropic_proxy.engine.exchange.dry_run import (
    COUNT_TOKENS_PATH,
    LOCAL_DRY_RUN_CLIENT,
    DryRun,
    DryRunClient,
    run_dry,
)
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, apply_edits, find_members
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.money import format_cost
from anthropic_proxy.gateway.server.request_body import MAX_BODY_BYTES
from anthropic_proxy.gateway.services import new_transports, open_services
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable

EXIT_REJECTED = 1
"""Exit status 1: the request failed, or the proxy would reject it."""
_ID_START = "req_"
"""Prefix of the ids of requests, by which an id is distinguished from a file name."""


def explain(
    file: Path | None = None,
    /,
    *,
    last: Annotated[bool, Parameter(negative="")] = False,
    model: str | None = None,
    body: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Parameters
    ----------
    file
        File with the JSON body of a request, `-` for standard input, or the id of a stored request: `req_…`. A body
        with neither max_tokens nor stream is a request to `/v1/messages/count_tokens`.
    last
        Explain the last stored request.
    model
        Model to request instead of the model in the body.
    body
        Print the upstream request instead: method, URL, headers with masked keys, and the exact bytes of the body.
    as_json
        Print one JSON object with route, changes and upstream request instead.
    """
    name = None if file is None else str(file)
    if file is None or name is None or last or (name.startswith(_ID_START) and not file.exists()):
        _require_stored(name, last)
        if not body and model is None:
            sys.exit(_explain_stored(name, as_json))
        content, name = _read_stored(name, "--body" if body else "--model")
    else:
        content = read_input(file, MAX_BODY_BYTES)
    sys.exit(_explain_body(content, name, model, body=body, as_json=as_json))


def _explain_body(content: bytes, name: str, model: str | None, *, body: bool, as_json: bool) -> int:
    """Print the explanation of the request body `content`, and return the exit status.

    `name`: name of the input for messages. `model`: model to request; None: the model in the body. `body`: print the
    upstream request instead.
    """
    explanation = _build(content, name, model)  # imports its modules itself, because --help needs none of them
    if as_json:
        explanation.write_json()
    elif body and explanation.has_upstream_request:
        explanation.write_upstream_request()
    else:
        words = ["anthropic-proxy", "explain", name, *(["--model", model] if model else []), "--body"]
        explanation.write_summary(shlex.join(words))
    if (error := explanation.error) is not None:
        _write_error(f"{error.status} {error.error_type}: {error.message}")
        return EXIT_REJECTED
    return 0


def _require_stored(file: str | None, last: bool) -> None:
    """Raise `ConfigurationError` if the arguments name no request, or both a file and the last stored request."""
    if file is None and not last:
        raise ConfigurationError(
            "FILE is missing. Use the name of a file, the id of a stored request, or --last. "
            "More:  anthropic-proxy explain --help"
        )
    if file is not None and last:
        raise ConfigurationError(f"--last and {file} exclude each other. Use one of them.")


def _read_stored(request_id: str | None, option: str) -> tuple[bytes, str]:
    """Return body and id of a stored request.

    `request_id`: None: the last stored request. `option`: command-line option that needs the body, for error messages.
    """
    settings = load_command_settings()
    row = require_stored_request(settings, request_id)
    remedy = " Explain a file with the request body:  anthropic-proxy explain FILE"
    return require_stored_body(settings, row, option, remedy), row.id


def _explain_stored(request_id: str | None, as_json: bool) -> int:
    """Print the explanation of a stored request, and return the exit status.

    `request_id`: None: the last stored request.
    """
    row = require_stored_request(load_command_settings(), request_id)
    explanation = StoredExplanation(row)
    if as_json:
        explanation.write_json()
    else:
        explanation.write_summary()
    return EXIT_REJECTED if row.outcome == "error" else 0


def _build(content: bytes, name: str, model: str | None) -> "Explanation":
    """Return the explanation of the request body `content`, after a dry run.

    `model`: model to request; None: the model in the body. `name`: name of the input for messages.
    """
    settings = load_command_settings()
    fields, result, head = dry_run_request(settings, content, describe_input(Path(name)), model)
    return Explanation(settings, fields, result, head)


class RequestDryRun(NamedTuple):
    """Result of a dry run, in which a client request passes all steps except the call to the provider."""

    body: dict[str, Any]
    """Fields of the client request."""
    result: "DryRun"
    head: bytes
    """Request line and headers of the upstream request, with a masked credential. b"": there is no HTTP request."""


def dry_run_request(
    settings: "Settings",
    content: bytes,
    input_name: str,
    model: str | None,
    *,
    sender: "DryRunClient | None" = None,
    clock: Callable[[], float] | None = None,
) -> RequestDryRun:
    """Do all steps of a client request except the call to the provider, and return the result.

    `content` is the request body, and `input_name` is its name in error messages. `model` replaces the model in the
    body. `sender` is the simulated client, by default one on this machine.
    """
    fields = _decode(content, input_name)
    if model is not None:
        content, fields = replace_field(content, "model", model), {**fields, "model": model}
    path = "/v1/messages" if "max_tokens" in fields or "stream" in fields else COUNT_TOKENS_PATH
    return RequestDryRun(fields, *asyncio.run(_run(settings, content, path, sender or LOCAL_DRY_RUN_CLIENT, clock)))


async def _run(
    settings: "Settings", body: bytes, path: str, sender: "DryRunClient", clock: Callable[[], float] | None
) -> "tuple[DryRun, bytes]":
    """Return the result of a dry run, and the head of the upstream request with a masked credential.

    A dry run does all steps except the call to the provider. `sender`: client of the request. `clock`: returns the time
    of the request; None: the present.
    """
    transports = new_transports(settings)
    log = Log(form="plain", level="error", secrets=settings.reveal_all_secrets())
    services = await open_services(settings, transports=transports, log=log)
    try:
        timed = services if clock is None else structs.replace(services, clock=clock)
        result = await run_dry(timed, body, path, sender=sender)
        sent = result.recorded
        if sent is None or sent.transport != "http":
            return result, b""
        credential = mask_credential(sent.credential)
        return result, transports.encode_http_head(sent.base_url, sent.request, credential)
    finally:
        await services.close()
        log.flush()


def _decode(content: bytes, name: str) -> dict[str, Any]:
    """Return the fields of `content`, a JSON object.

    For invalid JSON, print the position of the error and exit with status 1. `name`: name of the input.
    """
    try:
        fields = json.loads(content)
    except json.JSONDecodeError as error:
        _write_error(f"{name} is not valid JSON: {error.msg}, line {error.lineno}, column {error.colno}.")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        _write_error(f"{name} is not valid UTF-8: byte 0x{content[error.start]:02x}, line {line}, column {column}.")
    except RecursionError:
        _write_error(f"{name} is not valid JSON: its values are nested too deeply.")
    except ValueError:  # the limit of Python for the digits of an integer
        _write_error(f"{name} contains an integer of more than {sys.get_int_max_str_digits():,} digits.")
    else:
        if isinstance(fields, dict):
            return fields
        _write_error(f"{name} contains no JSON object. Use the body of a request to /v1/messages.")
    sys.exit(EXIT_REJECTED)


def replace_field(content: bytes, name: str, new: str | bool) -> bytes:
    """Return the JSON object `content` with the new value `new` for the field `name`. All other bytes stay the same."""
    value = json.dumps(new).encode()
    members = find_members(content)
    for member in members:
        if member.key == name:
            return apply_edits(content, [Edit(member.value, member.end, value)])
    start = content.index(b"{") + 1
    return apply_edits(content, [Edit(start, start, b'"%b":%b%b' % (name.encode(), value, b"," if members else b""))])


def _write_error(message: str) -> None:
    sys.stdout.flush()
    log = Log(form="plain")
    log.write_line(f"✕ {message}", level="error")
    log.flush()


_LABEL_COLUMNS = 15
_SIGNS = {"kept": ("✓", "ok"), "approximated": ("~", "warn"), "emulated": ("~", "warn"), "dropped": ("✕", "error")}
"""Handling of a request field (kept, approximated, …) → sign before the row, and its color role."""


class StoredExplanation:
    """Explanation of one stored request. `row` is the request as stored in the ledger, the database of requests."""

    def __init__(self, row: StoredRequest) -> None:
        self._row = row
        self._output = Output()

    def write_summary(self) -> None:
        """Write the route with its attempts, the result, and the changed fields."""
        output, row = self._output, self._row
        requested = output.paint(escape_unprintable(row.requested_model or row.path), "title")
        target = f" → {output.paint(escape_unprintable(_name_target(row)), 'type')}" if row.model else ""
        output.write_line(f"  {requested}{target}")
        for label, text in self._list_facts():
            self._write_labeled(label, text)
        notes = list_notes(row)
        if notes:
            output.write_line()
        width = max((len(note.field) for note in notes), default=0)
        for note in notes:
            sign, role = _SIGNS[note.handling]
            text = escape_unprintable(f"{note.field:<{width}}  {note.reason}")
            output.write_line(f"  {output.paint(sign, role)} {text}")

    def write_json(self) -> None:
        """Write one JSON object with all columns of the request. Costs are in US dollars; null: unknown."""
        self._output.write_json(build_request_object(self._row))

    def _list_facts(self) -> Iterator[tuple[str, str]]:
        """Yield label and text of each line of the summary, such as the model and the cost."""
        row = self._row
        started = datetime.fromtimestamp(row.started_at / MICROSECONDS, UTC).astimezone()
        yield "request", f"{row.id}, {started:%Y-%m-%d %H:%M:%S}"
        if row.route_reason:
            yield "rule", row.route_reason
        failed = list_failed_attempts(row)
        for number, attempt in enumerate(failed, 1):
            yield f"attempt {number}", f"{attempt}, retried"
        if row.model:
            status = f"status {row.status}" if row.status else "no status, the client disconnected"
            yield f"attempt {len(failed) + 1}", f"{_name_target(row)}: {status}, {row.outcome}"
        if row.error_type:
            yield "error", f"{row.status} {row.error_type}: {row.error}"
        if row.input_tokens or row.cache_read_tokens or row.cache_write_tokens or row.output_tokens:
            yield "tokens", _describe_tokens(row)
            yield "cost", _describe_cost(row)
        if row.first_token is not None:
            first, total = row.first_token / MICROSECONDS, row.duration / MICROSECONDS
            yield "time", f"{first:.2f} s to the first token, {total:.1f} s in total"
        if row.session:
            yield "session", row.session
        if row.project:
            yield "project", row.project

    def _write_labeled(self, label: str, text: str) -> None:
        output, text = self._output, escape_unprintable(text)
        width = output.width
        lines = (
            [text] if width is None else textwrap.wrap(text, max(width - _LABEL_COLUMNS, 30), break_on_hyphens=False)
        )
        for number, line in enumerate(lines):
            name = "" if number else label
            output.write_line(f"    {output.paint(f'{name:<{_LABEL_COLUMNS - 4}}', 'quiet')}{line}")


def _name_target(row: StoredRequest) -> str:
    return f"{row.prefix or row.provider}/{row.model}"


def _describe_tokens(row: StoredRequest) -> str:
    incoming = row.all_input_tokens
    cached = f" ({row.cache_read_tokens / incoming:.0%} cached)" if row.cache_read_tokens else ""
    thinking = f" ({row.thinking_tokens:,} of thinking)" if row.thinking_tokens else ""
    return f"{incoming:,} in{cached}, {row.output_tokens:,} out{thinking}"


def _describe_cost(row: StoredRequest) -> str:
    """Return text about the request `row`: its cost, the source of the price, and the cost at the requested model."""
    if row.cost is None:
        reason = row.price_source or f"no price for {_name_target(row)}"
        text = f"unknown: {reason}. Set it in anthropic-proxy.toml, [prices]"
    else:
        text = f"{format_cost(row.cost)} ({row.price_source})" if row.cost else "free"
    if row.requested_cost and row.requested_cost != row.cost:
        text += f"; at the price of {row.requested_model}: {format_cost(row.requested_cost)}"
    return text
