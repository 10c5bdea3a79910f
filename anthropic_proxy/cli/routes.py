"""Commands `routes list` and `routes explain`: the rules of the configuration file that choose models.

`list_routes` and `explain` are the functions of the commands.
"""

import textwrap
from datetime import datetime
from pathlib import Path
from typing import Annotated

from cyclopts import App as Commands
from cyclopts import Parameter

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.command_table import COMMANDS
from anthropic_proxy.cli.explain import dry_run_request
from anthropic_proxy.cli.explanation import describe_checks, encode_checks
from anthropic_proxy.cli.output import Column, Output, describe_input, read_input
from anthropic_proxy.engine.exchange.dry_run import DryRun, DryRunClient
from anthropic_proxy.engine.options.routes import BALANCE_TEXTS, ConfiguredRoute
from anthropic_proxy.engine.routing.rules import describe_conditions
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.server.request_body import MAX_BODY_BYTES
from anthropic_proxy.gateway.settings import CONFIG_FILE
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable

routes = Commands(name="routes", help_epilogue=COMMANDS["routes"].show_examples())
"""Group of the commands `routes list` and `routes explain`."""
_LABEL_COLUMNS = 13
_AsJson = Annotated[bool, Parameter(name="--json", negative="")]


@routes.command(name="list")
def list_routes(*, as_json: _AsJson = False) -> None:
    """List the routes in the order in which they are checked, with their conditions and targets.

    Parameters
    ----------
    as_json
        Print one JSON object instead.
    """
    settings, output = load_command_settings(), Output()
    if as_json:
        output.write_json({"routes": [_encode(route) for route in settings.routes]})
        return
    if not settings.routes:
        output.write_notice(f"There are no routes. {CONFIG_FILE} has no table [[routes]].")
        return
    if output.is_terminal:
        for number, route in enumerate(settings.routes, 1):
            _write_route(output, number, route)
    else:
        columns = [Column(title) for title in ("Route", "Conditions", "Targets", "Source")]
        output.write_table(columns, [_to_row(route) for route in settings.routes])
    output.write_notice("The first route that matches is used. Without a match:  anthropic-proxy models")


@routes.command
def explain(
    file: Path,
    /,
    *,
    model: str | None = None,
    key: str = "local",
    team: str = "",
    header: Annotated[list[str] | None, Parameter(negative="")] = None,
    at: str | None = None,
    as_json: _AsJson = False,
) -> None:
    """Show the route of a request, and for each earlier route the first failed condition. Nothing is sent.

    Parameters
    ----------
    file
        JSON body of a request to `/v1/messages`; `-` for standard input.
    model
        Model to request instead of the model in the body.
    key
        Name of the client key.
    team
        Team of this key.
    header
        Header of the request: `'x-project: web'`. Several are allowed.
    at
        Date and time of the request: `2026-11-20T23:30`. Without a time zone, that of this machine is used.
    as_json
        Print one JSON object instead.
    """
    sender = DryRunClient(key=key, team=team, headers=dict(map(_decode_header, header or ())))
    moment = None if at is None else _decode_time(at)
    settings = load_command_settings()
    fields, result, _ = dry_run_request(
        settings,
        read_input(file, MAX_BODY_BYTES),
        describe_input(file),
        model,
        sender=sender,
        clock=None if moment is None else lambda: moment,
    )
    requested = str(fields.get("model", "–"))
    if as_json:
        Output().write_json(_encode_result(requested, result))
    else:
        _write_result(Output(), requested, result)
    if result.route is None and result.error is not None:
        raise result.error


def _decode_header(text: str) -> tuple[str, str]:
    """Return name and value of `text`, a header such as `x-project: web`.

    Raises `ConfigurationError` if the colon is missing.
    """
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ConfigurationError(f"--header is \"{text}\". Use a name and a value, such as 'x-project: web'.")
    return name.strip().lower(), value.strip()


def _decode_time(text: str) -> float:
    """Convert `text`, a date and time, to seconds since the epoch. Raises `ConfigurationError` for an invalid text."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise ConfigurationError(f'--at is "{text}". Use a date and time, such as 2026-11-20T23:30.') from None


def _describe_targets(route: "ConfiguredRoute") -> str:
    """Return the targets (models) of `route` as text: `a, then b`, or `a (3), b (1): weighted`."""
    if route.balance == "order":
        return ", then ".join(route.targets)
    names = [f"{target} ({route.weights[target]:g})" if route.weights else target for target in route.targets]
    keeps = ", a session keeps its target" if route.sticky and route.balance != "cost" else ""
    return f"{', '.join(names)}: {BALANCE_TEXTS[route.balance]}{keeps}"


def _to_row(route: "ConfiguredRoute") -> tuple[str, str, str, str]:
    return route.name, describe_conditions(route), _describe_targets(route), route.origin


def _encode(route: "ConfiguredRoute") -> dict[str, object]:
    name, conditions, _, origin = _to_row(route)
    return {
        "name": name,
        "conditions": conditions,
        "targets": list(route.targets),
        "weights": list(route.weights.values()) or None,
        "balance": route.balance,
        "sticky": route.sticky and route.balance in ("weighted", "latency"),
        "origin": origin,
    }


def _write_route(output: "Output", number: int, route: "ConfiguredRoute") -> None:
    """Write a route on three or more lines of the terminal."""
    name, conditions, targets, origin = _to_row(route)
    output.write_line(f"  {number:>2}  {output.paint(name, 'title')}  {output.paint(origin, 'quiet')}")
    _write_labeled(output, "when", conditions)
    _write_labeled(output, "targets", targets)


def _write_result(output: "Output", requested: str, result: "DryRun") -> None:
    """Write the requested and the first used model, the reason, the checked routes, and the further targets."""
    requested = escape_unprintable(requested)
    if result.route is None:
        output.write_line(f"  {output.paint(requested, 'title')}")
    else:
        first, *others = [f"{target.provider.prefix}/{target.model}" for target in result.route.targets]
        output.write_line(f"  {output.paint(requested, 'title')} → {output.paint(first, 'type')}")
        _write_labeled(output, "rule", result.route.reason)
        if others:
            _write_labeled(output, "then", ", ".join(others))
    for label, text in describe_checks(result.checks):
        _write_labeled(output, label, text)
    if not result.checks:
        _write_labeled(output, "routes", "none in anthropic-proxy.toml")


def _encode_result(requested: str, result: "DryRun") -> dict[str, object]:
    route, error = result.route, result.error
    return {
        "requested_model": requested,
        "route": route.rule.name if route is not None and route.rule is not None else None,
        "rule": route.reason if route is not None else None,
        "targets": [f"{target.provider.prefix}/{target.model}" for target in route.targets]
        if route is not None
        else [],
        "checks": encode_checks(result.checks),
        "error": None if error is None else {"status": error.status, "message": error.message},
    }


def _write_labeled(output: "Output", label: str, text: str) -> None:
    """Write `label` and `text` as one line to `output`, wrapped on a terminal."""
    width, text = output.width, escape_unprintable(text)
    columns = None if width is None else max(width - _LABEL_COLUMNS - 4, 30)
    lines = [text] if columns is None else textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines):
        name = "" if number else label
        output.write_line(f"    {output.paint(f'{name:<{_LABEL_COLUMNS}}', 'quiet')}{line}")
