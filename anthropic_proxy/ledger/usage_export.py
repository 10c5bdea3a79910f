"""Sums of usage in formats for other programs: a table for CSV, and an object for JSON.

Requests are divided into groups, for example by model or by day, and each group has its sums. `tabulate_usage` returns
a table with one row per group. `build_usage_object` returns an object with all groups.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from anthropic_proxy.ledger.export import ExportTable, to_dollars
from anthropic_proxy.ledger.queries import UsageGroup, UsageRange
from anthropic_proxy.ledger.sums import UsageSums, add_up, known_cost_or_none
from anthropic_proxy.ledger.tables import TOOL_COUNTS
from anthropic_proxy.routing.providers import find_registry
from anthropic_proxy.settings import Settings

EXPORT_TITLES = (
    *("requests", "succeeded", "errors", "cancelled"),
    *("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "thinking_tokens"),
    *TOOL_COUNTS,
    *("cost", "unknown_cost_requests", "requested_cost", "unknown_requested_cost_requests"),
)
"""Titles of the columns after the name of the group. Costs are in US dollars."""
_COSTS = {"cost": "unknown_cost_requests", "requested_cost": "unknown_requested_cost_requests"}
"""Title of a column with a cost → sum that counts the requests for which this cost is unknown."""


def name_group(settings: Settings, by: str, group: UsageGroup) -> str:
    """Return the name of a group of requests, such as those with the same model, as users see it.

    `by` is the property that the requests share. Providers and models have the same names as in model ids: `openai` for
    a provider, `openai/gpt-4.1` for a model.
    """
    if by not in ("model", "provider"):
        return group.name
    registry = find_registry(settings)
    name = group.provider if by == "model" else group.name
    prefix = next((row.prefix for row in registry if row.name == name), name)
    return f"{prefix}/{group.name}" if by == "model" and group.name else prefix


def encode_sums(sums: UsageSums) -> dict[str, Any]:
    """Return the numbers in `sums` as a mapping from their titles in CSV and JSON exports.

    Costs are converted to US dollars. They are None if no price is known.
    """
    values: dict[str, Any] = {title: getattr(sums, title) for title in EXPORT_TITLES}
    for cost, unknown in _COSTS.items():
        values[cost] = to_dollars(known_cost_or_none(values[cost], values[unknown]))
    return values


def tabulate_usage(settings: Settings, by: str, groups: Sequence[UsageGroup]) -> ExportTable:
    """Return a table with one row for each of `groups`, such as the requests with the same model.

    `by` is the property that the requests of a group share. It is also the title of the first column.
    """
    rows = [[name_group(settings, by, group), *encode_sums(group.sums).values()] for group in groups]
    return ExportTable([by, *EXPORT_TITLES], rows)


def build_usage_object(settings: Settings, by: str, groups: Sequence[UsageGroup], chosen: UsageRange) -> dict[str, Any]:
    """Return the sums of `groups`, such as requests with the same model, as an object for JSON.

    `by` is the property that the requests of a group share. `chosen` is the time range of the sums.
    """
    return {
        "from": _format_time(chosen.start),
        "to": _format_time(chosen.end),
        "by": by,
        "total": encode_sums(add_up(group.sums for group in groups)),
        "groups": [{"name": name_group(settings, by, group), **encode_sums(group.sums)} for group in groups],
    }


def _format_time(seconds: int) -> str:
    time = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    return f"{time.isoformat(timespec='seconds' if time.second else 'minutes')}Z"  # %Y has no leading zeros on Linux
