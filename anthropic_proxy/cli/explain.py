"""Command `explain`: the route and translation of a request that is not sent, or the route of a stored request."""

import asyncio
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import structs

from anthropic_proxy.cli.changes import Change, find_body_changes, list_changes, list_unchanged_fields
from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.ledger_access import (
    is_request_number,
    open_ledger_for_reading,
    require_stored_body,
    require_stored_request,
)
from anthropic_proxy.cli.output import Output, describe_input, read_input, write_errors
from anthropic_proxy.console import formats
from anthropic_proxy.console.client_models import explain_tool_search
from anthropic_proxy.console.ledger.costs import ModelCosts
from anthropic_proxy.console.ledger.export import build_request_object
from anthropic_proxy.console.ledger.records import (
    StoredRequest,
    decode_attempt_times,
    decode_checks,
    decode_inspections,
    decode_model_usage,
    describe_part,
)
from anthropic_proxy.console.ledger.request_queries import (
    find_check_requests,
    list_failed_attempts,
    list_fallbacks,
    list_notes,
    list_request_ids,
    sum_sessions,
)
from anthropic_proxy.console.session_names import find_names
from anthropic_proxy.console.units import to_microseconds
from anthropic_proxy.engine.exchange.dry_run import (
    ACCESS_TOKEN,
    CLIENT_CREDENTIAL,
    COUNT_TOKENS_PATH,
    LOCAL_DRY_RUN_CLIENT,
    MISSING_KEY,
    DryRun,
    DryRunClient,
    run_dry,
)
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.routing.routes import RouteCheck
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.engine.upstream.http.url import join_url
from anthropic_proxy.engine.upstream.transports import Transports
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, edit, find_members
from anthropic_proxy.engine.wires.upstream_http import Credential
from anthropic_proxy.errors import ConfigurationError, ProxyError
from anthropic_proxy.gateway.error_catalog import find_cause, find_remedy
from anthropic_proxy.gateway.money import format_cost
from anthropic_proxy.gateway.server.auth import MAX_REQUEST_BYTES
from anthropic_proxy.gateway.services import open_services
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.gateway.telemetry.log.columns import count_columns, pad, wrap_words
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable
from anthropic_proxy.gateway.telemetry.outcomes import describe_cause, describe_check, describe_inspection
from anthropic_proxy.secrets import Secret, redact_secrets

EXIT_REJECTED = 1
"""Exit status 1: the request failed, or the proxy would reject it."""
_BARE_FILE = compile_later(r"(?<![\w./\\-])(?:\.env|anthropic-proxy\.toml)(?=,? line \d)")
"""Name of a settings file without its folder."""
_ID_STARTS = ("req_", "msgbatch_")
"""Prefixes of the ids of requests and of batches, by which an id is distinguished from a file name."""


def explain(
    file: Path | None = None,
    /,
    *,
    last: bool = False,
    model: str | None = None,
    body: bool = False,
    as_json: bool = False,
) -> None:
    """Parameters
    ----------
    file
        A stored request: 2 for the second last one with a model in `logs`, or the id `req_…`, which `logs` shows after
        a failure or retry, and always if the terminal is wide. Or a file with the JSON body of a request, `-` for
        standard input; a body with neither max_tokens nor stream is a request to `/v1/messages/count_tokens`.
        Without FILE, the last stored request is explained.
    last
        Explain the last stored request, as without FILE.
    model
        Model to request instead of the model in the body.
    body
        Print the upstream request instead: method, URL, headers with masked keys, and the exact bytes of the body.
    as_json
        Print one JSON object with route, changes and upstream request instead.
    """
    if file is not None and last:
        raise ConfigurationError(f"--last and {file} exclude each other. Use one of them.", code="explain-source")
    is_stored = file is None or str(file).startswith(_ID_STARTS) or is_request_number(str(file))
    if file is not None and (file.exists() or not is_stored):
        name = str(file)
        content = read_input(file, MAX_REQUEST_BYTES)
        settings = load_command_settings()
    else:
        settings = load_command_settings()
        row = require_stored_request(settings, "1" if file is None else str(file))
        if not body and model is None:
            if as_json:
                Output().write_json(build_request_object(row))
            else:
                _write_stored_summary(row, settings)
            sys.exit(EXIT_REJECTED if row.outcome == "error" else 0)
        remedy = " Explain a file with the request body:  anthropic-proxy explain FILE"
        name = row.id
        content = require_stored_body(settings, row, "--body" if body else "--model", remedy)

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


def _write_stored_summary(row: StoredRequest, settings: Settings) -> None:
    """Write the route of a request in the ledger with its attempts, the result, and the changed fields."""
    output = Output()
    requested = output.paint(escape_unprintable(row.requested_model or row.path), "title")
    target = f" → {output.paint(escape_unprintable(_name_model(row)), 'type')}" if row.model else ""
    output.write_line(f"  {requested}{target}")
    rule = row.route_reason
    time = ""
    if os.path.isabs(file := settings.env_file or ""):  # a server that was started in their folder names no folder
        folder = Path(file).parent
        rule = _BARE_FILE.sub(lambda file_name: shorten_home(folder / file_name[0]), rule)
    if row.first_token is not None:
        time = f"{formats.seconds(row.first_token)} to the first token, {formats.seconds(row.duration)} in total"
    rows = (
        ("request", f"{row.id}, {formats.full_time(row.started_at)}"),
        ("rule", rule),
        *_list_results(row, settings),
        ("time", time),
        ("learned", ", ".join(json.loads(row.adaptations or "[]"))),
        *_describe_session(row, settings),
        ("project", row.project),
        ("tools", f"{row.tool_count:,}" if row.tool_count else ""),
    )
    for label, text in rows:
        if text:
            output.write_labeled(label, text, LABEL_COLUMNS)

    notes = list_notes(row)
    if notes:
        output.write_line()
    width = max((count_columns(note.field) for note in notes), default=0)
    for note in notes:
        reason = note.reason
        if note.after:
            change = " → ".join(map(formats.digits_in_groups, (note.before, note.after)))
            reason = ", ".join(filter(None, (change, note.explanation)))
        text = escape_unprintable(f"{pad(note.field, width)}  {reason}")
        output.write_line(f"  {output.mark(SIGNS[note.handling])} {text}")


def _name_model(row: StoredRequest) -> str:
    return f"{row.prefix or row.provider}/{row.model}"


def _list_results(row: StoredRequest, settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the attempts, the error for the client with its remedy, tokens and cost."""
    failed = list_failed_attempts(row)
    times = decode_attempt_times(row.attempt_times)
    has_all_times = len(times) > len(failed)  # a target without credentials was not called
    for number, (attempt, is_fallback) in enumerate(zip(failed, list_fallbacks(row), strict=True), 1):
        reason = times[number - 1].error if has_all_times else ""
        followed = "followed by the fallback" if is_fallback else "retried"
        yield f"attempt {number}", f"{attempt}, {followed}{reason and '; '}{reason}"
    if row.model:
        sent = times[-1].status if times else row.status
        status = f"status {sent}" if sent else "no response" if row.error_type else "no status, the client disconnected"
        yield f"attempt {len(failed) + 1}", f"{_name_model(row)}: {status}, {row.outcome}"
    if row.error_type:
        yield "error", f"{row.error_type}, {row.status} for the client: {find_cause(row.error, row.remedy)}"
        key = ModelCosts(settings).find_key_setting(row.provider)
        remedy = find_remedy(
            row.error_code, key, row.requested_model, row.prefix, row.remedy, fallbacks=settings.fallbacks
        )
        yield "remedy", remedy.text if remedy else ""
    incoming = row.all_input_tokens
    if not incoming and not row.output_tokens:
        return
    cached = f" ({formats.percent(row.cache_read_tokens, incoming)} cached)" if row.cache_read_tokens else ""
    thinking = f" ({row.thinking_tokens:,} of thinking)" if row.thinking_tokens else ""
    estimated = ", partly estimated" if row.outcome_class == "cancelled" else ""
    yield "tokens", f"{incoming:,} in{cached}, {row.output_tokens:,} out{thinking}{estimated}"
    for part in decode_model_usage(row.model_usage):
        tokens = f"{part.all_input_tokens:,} in, {part.output_tokens:,} out"
        yield "model", f"{describe_part(part)}: {tokens}, {format_cost(part.cost)}"
    if row.cost is None:
        reason = row.price_source or f"no price for {_name_model(row)}"
        cost = f"unknown: {reason}. Set it in anthropic-proxy.toml, [prices]"
    else:
        cost = f"{format_cost(row.cost)} ({row.price_source})" if row.cost else "free"
    if row.requested_cost and row.requested_cost != row.cost:
        cost += f"; at the price of {row.requested_model}: {format_cost(row.requested_cost)}"
    yield "cost", cost


def _describe_session(row: StoredRequest, settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the checks of tool calls, and the session with the name that `usage --by session` has."""
    session = row.session
    checks = decode_checks(row.checks)
    check_requests = dict[str, StoredRequest]()
    with open_ledger_for_reading(settings) as connection:
        if connection is not None:
            check_requests = find_check_requests(connection, checks)
            if session:
                session = find_names(connection, sum_sessions(connection, [session])).get(session, session)
    if row.parent:
        what, place = describe_cause(row.kind)
        yield what, f"{place} {row.parent}"
    for number, check in enumerate(checks, 1):
        texts = [f"{check.tool}: {describe_check(check)}"]
        for request_id in list_request_ids(check):
            if (request := check_requests.get(request_id)) is not None and request_id != row.id:
                tokens = f"{request.all_input_tokens:,} in, {request.output_tokens:,} out"
                times = f"{format_cost(request.cost)}, {formats.seconds(request.duration)}"
                texts.append(f"{_name_model(request)}, {tokens}, {times}, {request_id}")
            elif request_id != row.id:
                texts.append(request_id)
        yield f"call {number}", "; ".join(texts)
    for record in decode_inspections(row.inspections):
        yield "inspector", f"{describe_inspection(record)} ({formats.seconds(to_microseconds(record.seconds))})"
    yield "session", session or ""


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
        content = replace_field(content, "model", model)
        fields = {**fields, "model": model}
    path = "/v1/messages" if "max_tokens" in fields or "stream" in fields else COUNT_TOKENS_PATH

    async def run() -> tuple[DryRun, bytes]:
        transports = Transports(settings)
        log = Log(form="plain", level="error", secrets=settings.reveal_all_secrets())
        options = {name: call_options.mask_secrets() for name, call_options in settings.call_options.items()}
        masked = structs.replace(settings, call_options=options)
        services = await open_services(masked, transports=transports, log=log)
        try:
            timed = services if clock is None else structs.replace(services, clock=clock)
            result = await run_dry(timed, content, path, sender=sender or LOCAL_DRY_RUN_CLIENT)
            sent = result.recorded
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

    def find_edits(text: bytes) -> list[Edit]:
        members = find_members(text)
        edits = [Edit(member.value, member.end, value) for member in members if member.key == name]
        start = text.index(b"{") + 1
        return edits or [Edit(start, start, b'"%b":%b%b' % (name.encode(), value, b"," if members else b""))]

    return edit(content, find_edits)


def _write_error(message: str) -> None:
    sys.stdout.flush()
    write_errors([message])


MAX_SHOWN_CHECKS = 5
"""Maximum number of non-matching routes in the summary. The command `routes explain` shows all of them."""
LABEL_COLUMNS = 11
_MAX_FIELD_COLUMNS = 32
_MAX_FIELD_END = 12
SIGNS = {"kept": "✓", "approximated": "~", "emulated": "~", "dropped": "✕"}
"""Handling of a request field (kept, approximated, …) → sign before the row."""
_TRANSPORTS = {"demo": "the built-in demo, in this process", "litellm": "the Python library LiteLLM, in this process"}
_SECRET_HEADERS = ("authorization", "proxy-authorization")
"""Names of headers that may contain a secret from a URL, in addition to the header with the credential."""


def mask_credential(credential: Credential | None) -> Credential | None:
    """Return `credential` with its secret masked except for the last four characters.

    A placeholder is returned unchanged. It replaces a secret that a dry run does not have, such as an access token.
    """
    if credential is None or credential.value in (CLIENT_CREDENTIAL, ACCESS_TOKEN, MISSING_KEY):
        return credential
    scheme = credential.value.removesuffix(credential.secret)
    return structs.replace(credential, value=f"{scheme}{Secret(credential.secret)}")


class Explanation:
    """Explanation of one client request that was processed without the call to the provider.

    `head` contains the upstream request line and headers, if there is an HTTP request.
    """

    def __init__(self, settings: Settings, body: Mapping[str, Any], result: DryRun, head: bytes) -> None:
        self._settings = settings
        self._body = body
        self._result = result
        self._output = Output()
        masked = mask_credential(result.recorded.credential) if result.recorded is not None else None
        sent = result.recorded
        used = self._used_target()
        self._headers: list[tuple[str, str]] = []
        if head:
            pairs = [line.partition(": ") for line in head.decode("utf-8", "replace").split("\r\n")[1:] if line]
            shown = masked.value if masked is not None else None
            for name, _, value in pairs:
                is_secret = name in _SECRET_HEADERS and value != shown
                self._headers.append((name, f"{value.partition(' ')[0]} …" if is_secret else value))
        elif sent is not None:
            self._headers = list(sent.request.headers.items())
        changes: Sequence[FidelityNote] = ()
        if used is not None and sent is not None:
            changes = find_body_changes(body, sent.request.body, result.renamed_tools, is_relayed=used.is_relayed)
        self._changes = list_changes(body, result.receipt.notes, result.renamed_tools, changes)

    @property
    def error(self) -> ProxyError | None:
        """Error with which the proxy would reject the request. None: it would accept the request."""
        return self._result.error

    @property
    def has_upstream_request(self) -> bool:
        """True if the proxy would send a request to a provider. False: it rejects the request, or replies by itself."""
        return self._result.recorded is not None

    def write_summary(self, upstream_request_command: str) -> None:
        """`upstream_request_command`: command that prints the upstream request, if there is one."""
        self._write_route()
        result = self._result
        output = self._output
        if result.error is not None:
            return
        for skipped in result.skipped:
            self._write_labeled("not run", f"{skipped}. A real request runs it first and contains its result.")
        if result.estimated_tokens is not None:
            self._write_labeled("reply", f"{result.estimated_tokens:,} input tokens, estimated by the proxy")
            return
        tools = self._body.get("tools")
        target = self._used_target()
        window = target.capabilities.effective_max_input if target is not None else 0
        if isinstance(tools, list) and tools and window:
            self._write_labeled("tools", explain_tool_search(tools, window))
        output.write_line()
        count = len(list_unchanged_fields(self._body, self._changes))
        output.write_line(f"  {output.mark('✓')} {formats.plural(count, 'field')} unchanged")
        rows = []
        for change in self._changes:
            row = Change(*map(escape_unprintable, structs.astuple(change)))
            if output.width is not None and len(row.field) > _MAX_FIELD_COLUMNS:  # its middle is left out
                begin = row.field[: _MAX_FIELD_COLUMNS - _MAX_FIELD_END - 1]
                end = row.field[-_MAX_FIELD_END:]
                row = structs.replace(row, field=f"{begin}…{end}")
            rows.append(row)
        fields = max((count_columns(change.field) for change in rows), default=0)
        effects = max((count_columns(change.effect) for change in rows), default=0)
        for change in rows:
            line = f"  {output.mark(SIGNS[change.handling])} {pad(change.field, fields)}  {pad(change.effect, effects)}"
            used = 6 + fields + effects
            if output.width is None or used + 2 + count_columns(change.reason) <= output.width:
                output.write_line(f"{line}  {change.reason}".rstrip())
                continue
            output.write_line(line.rstrip())
            for reason in wrap_words(change.reason, output.width - 6):
                output.write_line(f"      {output.paint(reason, 'quiet')}")
        if result.recorded is not None:
            output.write_line()
            output.write_line(f"  Full upstream request:  {output.paint(upstream_request_command, 'type')}")

    def write_upstream_request(self) -> None:
        """Write method and URL, headers, and the exact bytes of the body."""
        sent = self._result.recorded
        assert sent is not None
        lines = [self._request_line(), *(f"{name}: {value}" for name, value in self._headers), "", ""]
        if self._output.is_terminal:
            self._output.write_text("\n".join(lines) + sent.request.body.decode(errors="backslashreplace") + "\n")
            return
        sys.stdout.flush()
        sys.stdout.buffer.write("\n".join(lines).encode("utf-8", "backslashreplace") + sent.request.body)
        sys.stdout.buffer.flush()

    def write_json(self) -> None:
        result = self._result
        receipt = self._result.receipt
        plan = self._result.plan
        sent = result.recorded
        error = result.error
        upstream = sent and {
            "transport": sent.transport,
            "method": sent.request.method,
            "url": self._url() if sent.transport == "http" else None,
            "headers": dict(self._headers),
            "body": sent.request.body.decode("utf-8", "replace"),
        }
        targets = plan.targets if plan is not None else ()
        route = [
            {"target": f"{row.provider.prefix}/{row.model}", "setting": str(row.model_setting or "")} for row in targets
        ]
        self._output.write_json(
            {
                "path": receipt.path,
                "requested_model": self._body.get("model"),
                "target": f"{receipt.prefix}/{receipt.model}" if receipt.model else None,
                "rule": plan.reason if plan is not None else None,
                "checks": encode_checks(result.checks),
                "route": route,
                "notices": list(plan.notes) if plan is not None else [],
                "unchanged": list_unchanged_fields(self._body, self._changes),
                "changes": self._changes,
                "skipped": result.skipped,
                "missing_key": result.missing_key,
                "estimated_tokens": result.estimated_tokens,
                "upstream": upstream,
                "error": error and {"status": error.status, "type": error.error_type, "message": error.message},
            }
        )

    def _used_target(self) -> Target | None:
        """Return the target of the request, else the first target of its route.

        None: the request has no route.
        """
        targets = self._result.plan.targets if self._result.plan is not None else ()
        return next(
            (row for row in targets if row.model == self._result.receipt.model), targets[0] if targets else None
        )

    def _write_route(self) -> None:
        result = self._result
        output = self._output
        plan = self._result.plan
        requested = escape_unprintable(str(self._body.get("model", "–")))
        used = self._used_target()
        if plan is None or used is None:
            output.write_line(f"  {output.paint(requested, 'title')}")
            return
        targets = plan.targets
        target = escape_unprintable(f"{used.provider.prefix}/{used.model}")
        output.write_line(f"  {output.paint(requested, 'title')} → {output.paint(target, 'type')}")
        self._write_labeled("rule", plan.reason)
        for label, text in describe_checks(result.checks, MAX_SHOWN_CHECKS):
            self._write_labeled(label, text)
        for note in plan.notes:
            if plan.reason not in note:
                self._write_labeled("notice", note)
        if result.recorded is not None and result.receipt.path == COUNT_TOKENS_PATH:
            self._write_labeled("attempt 1", self._request_line())
            self._write_labeled("otherwise", "an estimate of the proxy; other targets are not asked")
        elif result.recorded is not None:
            for number, row in enumerate(targets, start=1 - targets.index(used)):
                name = f"{row.provider.prefix}/{row.model}"
                if number < 1:
                    self._write_labeled("skipped", f"{name} cannot serve this request")
                elif number == 1:
                    self._write_labeled("attempt 1", self._request_line())
                else:
                    setting = f" ({row.model_setting})" if row.model_setting else ""
                    self._write_labeled(f"attempt {number}", f"{name}, if attempt {number - 1} fails{setting}")
        if result.missing_key:
            self._write_labeled("key", f"A real request fails with 401: {result.missing_key}")
        if result.receipt.path == COUNT_TOKENS_PATH:
            self._write_labeled("request", f"{COUNT_TOKENS_PATH}, because max_tokens and stream are missing")
        elif result.recorded is None and result.error is None:
            self._write_labeled("reply", "the proxy replies by itself; nothing is sent")

    def _write_labeled(self, label: str, text: str) -> None:
        self._output.write_labeled(label, text, LABEL_COLUMNS)

    def _request_line(self) -> str:
        """Return method and URL of the upstream request.

        Without HTTP, for example with LiteLLM, return a description of the transport.
        """
        sent = self._result.recorded
        assert sent is not None
        return _TRANSPORTS.get(sent.transport) or f"{sent.request.method} {self._url()}"

    def _url(self) -> str:
        """Return the URL without user name and password."""
        sent = self._result.recorded
        assert sent is not None
        return redact_secrets(build_shown_url(sent.base_url, sent.request.path), self._settings.reveal_all_secrets())


def build_shown_url(base_url: str, path: str) -> str:
    """Return the URL of an upstream request without user name and password."""
    scheme, _, remainder = join_url(base_url, path).partition("://")
    host, slash, rest = remainder.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{rest}"


def describe_checks(checks: Sequence[RouteCheck], limit: int | None = None) -> Iterator[tuple[str, str]]:
    """Yield lines about the checked routes, as pairs of label and text, the matching route first.

    With a `limit`, only that many routes without a match are listed, and a line gives the number of the others.
    """
    if not checks:
        return
    matching = checks[-1] if not checks[-1].failed else None
    failed = [check for check in checks if check.failed]
    if matching is not None:
        yield "conditions", "; ".join(matching.met) or "none: the route matches every request"
    else:
        yield "routes", f"none of {len(failed)} matches" if len(failed) > 1 else "the only one does not match"
    shown = failed if limit is None or len(failed) <= limit else failed[-limit:]
    if hidden := len(failed) - len(shown):
        yield "no match", f"{hidden} earlier routes. All of them:  anthropic-proxy routes explain"
    for check in shown:
        yield "no match", f'"{check.route.name}" {check.failed} ({check.route.origin})'


def encode_checks(checks: Sequence[RouteCheck]) -> list[dict[str, object]]:
    """Return the checked routes as objects for JSON, in the order of the configuration file."""
    return [
        {
            "route": check.route.name,
            "origin": os.path.expanduser(check.route.origin),
            "matches": not check.failed,
            "failed": check.failed or None,
            "met": list(check.met),
        }
        for check in checks
    ]
