"""Command `explain`: the route and translation of a request that is not sent, or the route of a stored request.

`dry_run_request` does all steps of a request except the call to the provider, and returns a `RequestDryRun`. Stored
requests are in the ledger, the database of requests.
"""

import asyncio
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from cyclopts import Parameter

from anthropic_proxy.cli.command_settings import load_command_settings

if TYPE_CHECKING:
    from anthropic_proxy.cli.explanation import Explanation
    from anthropic_proxy.exchange.dry_run import DryRun, DryRunClient
    from anthropic_proxy.settings import Settings

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
    """Show how a stored request was routed, or how a captured one would be routed. Nothing is sent.

    With --body or --model, the stored text (LEDGER_CONTENT=true) is translated again with the current settings.

    Exit status 0: the request was served, or would be sent; 1: it failed, or the proxy would reject it.

    Parameters
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
        from anthropic_proxy.cli.input_file import read_input  # noqa: PLC0415
        from anthropic_proxy.server.request_body import MAX_BODY_BYTES  # noqa: PLC0415

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
    from anthropic_proxy.errors import ConfigurationError  # noqa: PLC0415

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
    from anthropic_proxy.cli.stored_requests import require_stored_body, require_stored_request  # noqa: PLC0415

    settings = load_command_settings()
    row = require_stored_request(settings, request_id)
    remedy = " Explain a file with the request body:  anthropic-proxy explain FILE"
    return require_stored_body(settings, row, option, remedy), row.id


def _explain_stored(request_id: str | None, as_json: bool) -> int:
    """Print the explanation of a stored request, and return the exit status.

    `request_id`: None: the last stored request.
    """
    from anthropic_proxy.cli.stored_explanation import StoredExplanation  # noqa: PLC0415
    from anthropic_proxy.cli.stored_requests import require_stored_request  # noqa: PLC0415

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
    from anthropic_proxy.cli.explanation import Explanation  # noqa: PLC0415
    from anthropic_proxy.cli.input_file import describe_input  # noqa: PLC0415

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
    from anthropic_proxy.exchange.dry_run import COUNT_TOKENS_PATH, LOCAL_DRY_RUN_CLIENT  # noqa: PLC0415

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
    from msgspec import structs  # noqa: PLC0415

    from anthropic_proxy.cli.explanation import mask_credential  # noqa: PLC0415
    from anthropic_proxy.exchange.dry_run import run_dry  # noqa: PLC0415
    from anthropic_proxy.log import Log  # noqa: PLC0415
    from anthropic_proxy.services import new_transports, open_services  # noqa: PLC0415

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
    from anthropic_proxy.wire.anthropic.json_spans import Edit, apply_edits, find_members  # noqa: PLC0415

    value = json.dumps(new).encode()
    members = find_members(content)
    for member in members:
        if member.key == name:
            return apply_edits(content, [Edit(member.value, member.end, value)])
    start = content.index(b"{") + 1
    return apply_edits(content, [Edit(start, start, b'"%b":%b%b' % (name.encode(), value, b"," if members else b""))])


def _write_error(message: str) -> None:
    from anthropic_proxy.log import Log  # noqa: PLC0415

    sys.stdout.flush()
    log = Log(form="plain")
    log.write_line(f"✕ {message}", level="error")
    log.flush()
