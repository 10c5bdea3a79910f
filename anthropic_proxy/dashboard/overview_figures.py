"""The five figures at the top of the page Overview: requests, success, cost, time to first token, cached input.

`build_figures` returns them for a time range. A `Figure` is a number with a label.
"""

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from msgspec import Struct

from anthropic_proxy.dashboard import formats
from anthropic_proxy.dashboard.charts import draw_sparkline
from anthropic_proxy.dashboard.page_context import PageContext
from anthropic_proxy.dashboard.periods import Periods
from anthropic_proxy.ledger.histograms import Histogram, add_histogram, find_percentile
from anthropic_proxy.ledger.sums import UsageSums, add_up
from anthropic_proxy.money import format_cost

Latencies = Mapping[tuple[int, tuple[str, ...]], Histogram]
"""(beginning of a period in seconds since the epoch, values of the group) → histogram of the times to first token."""


class Figure(Struct, frozen=True):
    """One of the numbers at the top of a page, with its label, as texts."""

    label: str
    value: str
    note: str
    line: Markup = Markup("")
    href: str = ""


def build_figures(
    context: PageContext,
    periods: Periods,
    sums: Sequence[UsageSums],
    latencies: Latencies,
    previous_requests: int,
) -> list[Figure]:
    """Return the five figures of a time range: requests, success, cost, time to first token and cached input."""
    query, total = context.query, add_up(sums)
    failed = query.link_with_facet("outcome", "error", "/dashboard/requests")
    listed, models = query.link("/dashboard/requests", measure=""), query.link("/dashboard/models", measure="")
    good = [one.succeeded / one.requests if one.requests else None for one in sums]
    succeeded = formats.percent(total.succeeded, total.requests, 1)
    others = formats.plural(total.errors, "error") + (f", {total.cancelled:,} cancelled" if total.cancelled else "")
    change = _compare(total.requests, previous_requests)
    spent = format_cost(total.cost, total.unknown_cost_requests) if total.requests else formats.UNKNOWN
    return [
        Figure(
            "Requests", formats.count(total.requests), change, draw_sparkline([one.requests for one in sums]), listed
        ),
        Figure("Succeeded", succeeded, others, draw_sparkline(good), failed),
        Figure("Spent", spent, _requested_cost(total), draw_sparkline([one.cost for one in sums]), models),
        _speed_figure(context, periods, latencies),
        _cache_figure(total, sums, listed),
    ]


def _requested_cost(total: UsageSums) -> str:
    if not total.requests:
        return ""
    if total.unknown_requested_cost_requests:
        return "price of a requested model unknown"
    return f"{formats.money(total.requested_cost)} at the requested models’ prices"


def _speed_figure(context: PageContext, periods: Periods, latencies: Latencies) -> Figure:
    everything: Histogram = {}
    for histogram in latencies.values():
        add_histogram(everything, histogram)
    low, high = find_percentile(everything, 0.5), find_percentile(everything, 0.95)
    speeds = [find_percentile(latencies.get((start, ()), {}), 0.5) for start in periods.starts]
    href = context.query.link("/dashboard/models", measure="", order="-p95")
    return Figure(
        "Time to first token, p50", formats.seconds(low), f"p95 {formats.seconds(high)}", draw_sparkline(speeds), href
    )


def _cache_figure(total: UsageSums, sums: Sequence[UsageSums], href: str) -> Figure:
    shares = [one.cached_input_share for one in sums]
    cached, everything = formats.short_count(total.cache_read_tokens), formats.short_count(total.all_input_tokens)
    share = formats.percent(total.cache_read_tokens, total.all_input_tokens)
    return Figure("Input read from cache", share, f"{cached} of {everything} tokens", draw_sparkline(shares), href)


def _compare(value: int, before: int) -> str:
    if not before:
        return "none in the range before"
    change = round(100 * (value - before) / before)
    if not change:
        return "as many as in the range before"
    return f"{abs(change):,} % {'more' if change > 0 else 'fewer'} than in the range before"
