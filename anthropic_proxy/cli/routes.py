"""Commands `routes list` and `routes explain`: the rules of the configuration file that choose models."""

import os
from datetime import date, datetime
from pathlib import Path

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.commands import new_group
from anthropic_proxy.cli.explain import describe_checks, dry_run_request, encode_checks
from anthropic_proxy.cli.output import Column, Output, describe_input, read_input
from anthropic_proxy.engine.exchange.dry_run import DryRunClient
from anthropic_proxy.engine.hooks import Client
from anthropic_proxy.engine.options import BALANCE_TEXTS, ConfiguredRoute
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.routes import describe_conditions
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.problems import find_retirements
from anthropic_proxy.gateway.server.auth import MAX_REQUEST_BYTES
from anthropic_proxy.gateway.settings import CONFIG_FILE
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable

routes = new_group("routes")
"""Group of the commands `routes list` and `routes explain`."""
_LABEL_COLUMNS = 13


@routes.command(name="list")
def list_routes(*, as_json: bool = False) -> None:
    """List the routes in the order in which they are checked, with their conditions and targets.

    Parameters
    ----------
    as_json
        Print one JSON object instead.
    """
    settings = load_command_settings()
    output = Output()
    if as_json:
        rows = [
            {
                "name": route.name,
                "conditions": describe_conditions(route),
                "targets": list(route.targets),
                "weights": list(route.weights) or None,
                "balance": route.balance,
                "sticky": route.sticky and route.balance in ("weighted", "latency"),
                "origin": os.path.expanduser(route.origin),
            }
            for route in settings.routes
        ]
        output.write_json({"routes": rows})
        return
    if not settings.routes:
        output.write_notice(f"There are no routes. {CONFIG_FILE} has no table [[routes]].")
        return
    if output.is_terminal:
        for number, route in enumerate(settings.routes, 1):
            name, conditions, targets, origin = _to_row(route)
            place = output.paint(origin, "quiet")
            output.write_line(f"  {number:>2}  {output.paint(name, 'title')}  {place}")
            output.write_labeled("when", conditions, _LABEL_COLUMNS)
            output.write_labeled("targets", targets, _LABEL_COLUMNS)
    else:
        columns = [Column(title) for title in ("Route", "Conditions", "Targets", "Source")]
        output.write_table(columns, [_to_row(route) for route in settings.routes])
    output.write_notice("The first route that matches is used. Without a match:  anthropic-proxy models")
    output.write_problems(find_retirements(settings, Catalog(), date.today(), only_routes=True))


@routes.command
def explain(
    file: Path,
    /,
    *,
    model: str | None = None,
    key: str = "local",
    team: str = "",
    owner: str = "",
    header: list[str] | None = None,
    at: str | None = None,
    as_json: bool = False,
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
    owner
        Owner of this key.
    header
        Header of the request: `'x-project: web'`. Several are allowed.
    at
        Date and time of the request: `2026-11-20T23:30`. Without a time zone, that of this machine is used.
    as_json
        Print one JSON object instead.
    """
    headers = {}
    for text in header or ():
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise ConfigurationError(
                f"--header is \"{text}\". Use a name and a value, such as 'x-project: web'.",
                code="routes-explain-option",
            )
        headers[name.strip().lower()] = value.strip()
    sender = DryRunClient(client=Client(name=key, owner=owner, team=team), headers=headers)
    try:
        moment = None if at is None else datetime.fromisoformat(at).timestamp()
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f'--at is "{at}". Use a date and time, such as 2026-11-20T23:30.', code="routes-explain-option"
        ) from None
    settings = load_command_settings()
    content = read_input(file, MAX_REQUEST_BYTES)
    clock = None if moment is None else lambda: moment
    fields, result, _ = dry_run_request(settings, content, describe_input(file), model, sender=sender, clock=clock)
    requested = str(fields.get("model", "–"))
    plan = result.plan
    error = result.error
    targets = [f"{target.provider.prefix}/{target.model}" for target in plan.targets] if plan is not None else []
    output = Output()
    if as_json:
        output.write_json(
            {
                "requested_model": requested,
                "route": plan.route.name if plan is not None and plan.route is not None else None,
                "rule": plan.reason if plan is not None else None,
                "targets": targets,
                "checks": encode_checks(result.checks),
                "error": None if error is None else {"status": error.status, "message": error.message},
            }
        )
    else:
        shown = output.paint(escape_unprintable(requested), "title")
        if plan is None:
            output.write_line(f"  {shown}")
        else:
            output.write_line(f"  {shown} → {output.paint(targets[0], 'type')}")
            output.write_labeled("rule", plan.reason, _LABEL_COLUMNS)
            if targets[1:]:
                output.write_labeled("then", ", ".join(targets[1:]), _LABEL_COLUMNS)
        for label, text in describe_checks(result.checks):
            output.write_labeled(label, text, _LABEL_COLUMNS)
        if not result.checks:
            output.write_labeled("routes", "none in anthropic-proxy.toml", _LABEL_COLUMNS)
    if plan is None and error is not None:
        raise error


def _to_row(route: ConfiguredRoute) -> tuple[str, str, str, str]:
    """Return name, conditions, targets and source. Targets: `a, then b`, or `a (3), b (1): weighted`."""
    targets = ", then ".join(route.targets)
    if route.balance != "order":
        names = [f"{target} ({route.find_weight(target):g})" if route.weights else target for target in route.targets]
        keeps = ", a session keeps its target" if route.sticky and route.balance != "cost" else ""
        targets = f"{', '.join(names)}: {BALANCE_TEXTS[route.balance]}{keeps}"
    return route.name, describe_conditions(route), targets, route.origin
