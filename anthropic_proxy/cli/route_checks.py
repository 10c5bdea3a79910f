"""Texts about the routes of the configuration file that were checked for a request.

A route is a rule that chooses the models of a request. `describe_checks` returns the result for each route
(`RouteCheck`) as text, and `encode_checks` as objects for JSON.
"""

from collections.abc import Iterator, Sequence

from anthropic_proxy.routing.rules import RouteCheck


def describe_checks(checks: Sequence[RouteCheck], limit: int | None = None) -> Iterator[tuple[str, str]]:
    """Yield label and text for the conditions of the matching route, then for each route that does not match.

    `limit`: maximum number of routes without a match, of which the last ones in the file are kept; None: all.
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
    """Return the checked routes for a JSON object, in the order of the file."""
    return [
        {
            "route": check.route.name,
            "origin": check.route.origin,
            "matches": not check.failed,
            "failed": check.failed or None,
            "met": list(check.met),
        }
        for check in checks
    ]
