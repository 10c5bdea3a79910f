"""Output of the routes of the configuration file that were checked for a request, as text or JSON.

A route is a rule of the file that chooses the models of a request. A `RouteCheck` is the result for one route: it
matches the request, or one of its conditions failed. `describe_checks` returns texts, and `encode_checks` JSON objects.
"""

from collections.abc import Iterator, Sequence

from anthropic_proxy.routing.rules import RouteCheck


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
            "origin": check.route.origin,
            "matches": not check.failed,
            "failed": check.failed or None,
            "met": list(check.met),
        }
        for check in checks
    ]
