"""Numbers of several requests together, as tables of pages and of the command `usage` show them.

`MEASURES` says once how each is called, written and sorted. A table lists the names of those that it shows, in its
order. Files and the API have the fields of `UsageSums` instead (`console/ledger/export.py`).
"""

from collections.abc import Callable, Mapping

from msgspec import Struct

from anthropic_proxy.console import formats
from anthropic_proxy.console.ledger.activity import Activity
from anthropic_proxy.console.ledger.records import UsageSums
from anthropic_proxy.gateway.money import format_cost


class Measure(Struct, frozen=True, kw_only=True):
    title: str
    find: Callable[[UsageSums], float | None]
    """Returns the number by which rows are sorted. None: there is none."""
    show: Callable[[UsageSums], str]
    """Returns the text of a cell."""
    show_briefly: Callable[[UsageSums], str] | None = None
    """Returns the text for a terminal. None: the same as `show`."""
    page_title: str = ""
    """Title on a page, whose tables have many columns. "": the same as `title`."""
    description: str = ""
    """Title that is clear without the other columns. "": the same as that on a page."""
    style: str = ""
    """CSS classes of the cells on pages, as in `TableColumn`."""
    phone_label: str = ""
    """Title on a phone, beside a cell with a place."""


def format_sums(sums: UsageSums) -> str:
    """Return the cost of several requests as text. Requests without tokens, such as failed ones, have none: `–`."""
    if not sums.has_replies:
        return formats.UNKNOWN
    return formats.cost_with_unknown(sums.cost, sums.unknown_cost_requests)


def format_sums_briefly(sums: UsageSums) -> str:
    """Return the same without the number of requests whose cost is unknown."""
    return format_cost(sums.cost, sums.unknown_cost_requests) if sums.has_replies else formats.UNKNOWN


def _format_requested_cost(sums: UsageSums) -> str:
    if not sums.has_replies:
        return formats.UNKNOWN
    return formats.cost_with_unknown(sums.requested_cost, sums.unknown_requested_cost_requests)


def _find_mean_cost(sums: UsageSums) -> float | None:
    """Nano-dollars. A model that was called only for parts of requests of another one has no requests."""
    return sums.cost / sums.requests if sums.requests else None


def _format_mean_cost(sums: UsageSums) -> str:
    mean = _find_mean_cost(sums)
    return (
        format_cost(round(mean), sums.unknown_cost_requests)
        if sums.all_tokens and mean is not None
        else formats.UNKNOWN
    )


def find_cost_per_commit(sums: UsageSums, activity: Activity) -> float | None:
    """Nano-dollars. None: there are no commits."""
    return sums.cost / activity.commits if activity.commits else None


def format_cost_per_commit(sums: UsageSums, activity: Activity) -> str:
    mean = find_cost_per_commit(sums, activity)
    return formats.UNKNOWN if mean is None else format_cost(round(mean), sums.unknown_cost_requests)


MEASURES: Mapping[str, Measure] = {
    "requests": Measure(
        title="Requests",
        find=lambda sums: sums.requests,
        show=lambda sums: formats.count(sums.requests),
        style="a-count",
        phone_label="requests",
    ),
    "errors": Measure(
        title="Errors",
        find=lambda sums: sums.error_share,
        show=lambda sums: formats.error_share(sums.errors, sums.requests),
    ),
    "tool_errors": Measure(
        title="Tool errors",
        find=lambda sums: sums.tool_error_share,
        show=lambda sums: formats.error_count_and_share(sums.tool_errors, sums.tool_results),
    ),
    "input": Measure(
        title="Input",
        page_title="In",
        find=lambda sums: sums.all_input_tokens,
        show=lambda sums: formats.short_count(sums.all_input_tokens),
    ),
    "cached": Measure(
        title="Cached",
        find=lambda sums: sums.cached_input_share,
        show=lambda sums: formats.percent(sums.cache_read_tokens, sums.all_input_tokens),
    ),
    "output": Measure(
        title="Output",
        page_title="Out",
        find=lambda sums: sums.output_tokens,
        show=lambda sums: formats.short_count(sums.output_tokens),
    ),
    "mean": Measure(
        title="Per request",
        find=_find_mean_cost,
        show=_format_mean_cost,
        description="Cost per request",
    ),
    "requested": Measure(
        title="At Claude's prices",
        find=lambda sums: sums.requested_cost,
        show=_format_requested_cost,
        description="Cost at the prices of the requested models",
        style="muted",
    ),
    "cost": Measure(
        title="Cost",
        find=lambda sums: sums.cost,
        show=format_sums,
        show_briefly=format_sums_briefly,
        style="a-cost",
    ),
}
"""Name of the column in the URL of a page → measure."""
