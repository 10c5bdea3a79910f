"""Command `explain`: the route and translation of a request that is not sent, or the route of a stored request."""

import asyncio
import json
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter
from msgspec import structs

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.explanation import LABEL_COLUMNS, SIGNS, Explanation, mask_credential
from anthropic_proxy.cli.ledger_access import require_stored_body, require_stored_request
from anthropic_proxy.cli.output import Output, describe_input, read_input
from anthropic_proxy.console.ledger.export import build_request_object
from anthropic_proxy.console.ledger.records import StoredRequest
from anthropic_proxy.console.ledger.request_queries import list_failed_attempts, list_notes
from anthropic_proxy.console.ledger.units import MICROSECONDS
from anthropic_proxy.engine.exchange.dry_run import (
    COUNT_TOKENS_PATH,
    LOCAL_DRY_RUN_CLIENT,
    DryRun,
    DryRunClient,
    run_dry,
)
from anthropic_proxy.engine.upstream.transports import Transports
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, apply_edits, find_members
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.money import format_cost
from anthropic_proxy.gateway.server.request_body import MAX_BODY_BYTES
from anthropic_proxy.gateway.services import open_services
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
    if file is None and not last:
        raise ConfigurationError(
            "FILE is missing. Use the name of a file, the id of a stored request, or --last. "
            "More:  anthropic-proxy explain --help",
            code="explain-source",
        )
    if file is not None and last:
        raise ConfigurationError(f"--last and {file} exclude each other. Use one of them.", code="explain-source")
    if file is not None and (file.exists() or not str(file).startswith(_ID_START)):
        name, content = str(file), read_input(file, MAX_BODY_BYTES)
        settings = load_command_settings()
    else:
        settings = load_command_settings()
        row = require_stored_request(settings, None if file is None else str(file))
        if not body and model is None:
            if as_json:
                Output().write_json(build_request_object(row))
            else:
                _write_stored_summary(row)
            sys.exit(EXIT_REJECTED if row.outcome == "error" else 0)
        remedy = " Explain a file with the request body:  anthropic-proxy explain FILE"
        name, content = row.id, require_stored_body(settings, row, "--body" if body else "--model", remedy)

    fields, result, head = dry_run_request(settings, content, describe_input(Path(name)), model)
    explanation = Explanation(settings, fields, result, head)
    if as_json:
        explanation.write_json()
    elif body and explanation.has_upstream_request:
        explanation.write_upstream_request()
    else:
        words = ["anthropic-proxy", "explain", name, *(["--model", model] if model else []), "--body"]
        explanation.write_summary(shlex.join(words))
    if (error := explanation.error) is not None:
        _write_error(f"{error.status} {error.error_type}: {error.message}")
        sys.exit(EXIT_REJECTED)


def _write_stored_summary(row: StoredRequest) -> None:
    """Write the route of a request in the ledger with its attempts, the result, and the changed fields."""
    output, name = Output(), f"{row.prefix or row.provider}/{row.model}"
    requested = output.paint(escape_unprintable(row.requested_model or row.path), "title")
    target = f" → {output.paint(escape_unprintable(name), 'type')}" if row.model else ""
    output.write_line(f"  {requested}{target}")

    def write(label: str, text: str) -> None:
        output.write_labeled(label, text, LABEL_COLUMNS, breaks_words=True)

    started = datetime.fromtimestamp(row.started_at / MICROSECONDS, UTC).astimezone()
    write("request", f"{row.id}, {started:%Y-%m-%d %H:%M:%S}")
    if row.route_reason:
        write("rule", row.route_reason)
    failed = list_failed_attempts(row)
    for number, attempt in enumerate(failed, 1):
        write(f"attempt {number}", f"{attempt}, retried")
    if row.model:
        status = f"status {row.status}" if row.status else "no status, the client disconnected"
        write(f"attempt {len(failed) + 1}", f"{name}: {status}, {row.outcome}")
    if row.error_type:
        write("error", f"{row.status} {row.error_type}: {row.error}")
    if row.input_tokens or row.cache_read_tokens or row.cache_write_tokens or row.output_tokens:
        incoming = row.all_input_tokens
        cached = f" ({row.cache_read_tokens / incoming:.0%} cached)" if row.cache_read_tokens else ""
        thinking = f" ({row.thinking_tokens:,} of thinking)" if row.thinking_tokens else ""
        write("tokens", f"{incoming:,} in{cached}, {row.output_tokens:,} out{thinking}")
        if row.cost is None:
            cost = f"unknown: {row.price_source or f'no price for {name}'}. Set it in anthropic-proxy.toml, [prices]"
        else:
            cost = f"{format_cost(row.cost)} ({row.price_source})" if row.cost else "free"
        if row.requested_cost and row.requested_cost != row.cost:
            cost += f"; at the price of {row.requested_model}: {format_cost(row.requested_cost)}"
        write("cost", cost)
    if row.first_token is not None:
        first, total = row.first_token / MICROSECONDS, row.duration / MICROSECONDS
        write("time", f"{first:.2f} s to the first token, {total:.1f} s in total")
    if row.session:
        write("session", row.session)
    if row.project:
        write("project", row.project)

    notes = list_notes(row)
    if notes:
        output.write_line()
    width = max((len(note.field) for note in notes), default=0)
    for note in notes:
        sign, role = SIGNS[note.handling]
        text = escape_unprintable(f"{note.field:<{width}}  {note.reason}")
        output.write_line(f"  {output.paint(sign, role)} {text}")


class RequestDryRun(NamedTuple):
    """Result of all steps of a client request except the call to the provider."""

    body: dict[str, Any]
    """Fields of the client request."""
    result: DryRun
    head: bytes
    """Request line and headers of the upstream request, with a masked credential. b"": there is no HTTP request."""


def dry_run_request(
    settings: Settings,
    content: bytes,
    input_name: str,
    model: str | None,
    *,
    sender: DryRunClient | None = None,
    clock: Callable[[], float] | None = None,
) -> RequestDryRun:
    """Do all steps of a client request except the call to the provider.

    `input_name` names the body `content` in messages. `model` replaces its model. `sender` is the simulated client, by
    default one on this machine. `clock` returns the time of the request.
    """
    fields = _decode(content, input_name)
    if model is not None:
        content, fields = replace_field(content, "model", model), {**fields, "model": model}
    path = "/v1/messages" if "max_tokens" in fields or "stream" in fields else COUNT_TOKENS_PATH

    async def run() -> tuple[DryRun, bytes]:
        transports = Transports(settings)
        log = Log(form="plain", level="error", secrets=settings.reveal_all_secrets())
        services = await open_services(settings, transports=transports, log=log)
        try:
            timed = services if clock is None else structs.replace(services, clock=clock)
            result = await run_dry(timed, content, path, sender=sender or LOCAL_DRY_RUN_CLIENT)
            sent = result.recorded
            options = settings.call_options.get(result.receipt.provider or "")
            if sent is not None and options is not None:
                masked = {name: str(secret) for name, secret in options.secret_headers.items()}
                request = structs.replace(sent.request, headers={**sent.request.headers, **masked})
                sent = result.recorded = structs.replace(sent, request=request)
            if sent is None or sent.transport != "http":
                return result, b""
            return result, transports.encode_http_head(sent.base_url, sent.request, mask_credential(sent.credential))
        finally:
            await services.close()
            log.flush()

    return RequestDryRun(fields, *asyncio.run(run()))


def _decode(content: bytes, name: str) -> dict[str, Any]:
    """For anything but a JSON object, print the position of the error and exit with status 1."""
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
