"""Stored requests and sums of usage as CSV and JSON, in one format for the dashboard, the API and the commands.

Money is in US dollars, durations are seconds, and times are texts in UTC. A missing or unknown value is an empty cell
in CSV and null in JSON.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TextIO, TypeVar

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.console.ledger.activity import Activity
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.queries import UsageGroup
from anthropic_proxy.console.ledger.records import (
    SUM_NAMES,
    AttemptTime,
    BlockTime,
    RequestCounts,
    StoredRequest,
    UsageSums,
    add_up,
    decode_attempt_times,
    decode_block_times,
    decode_checks,
    decode_inspections,
    decode_model_usage,
    decode_tool_times,
    known_cost_or_none,
)
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.engine.messages.deltas import TokenCounts
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.gateway.money import NANO_DOLLARS
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.log.lines import escape_terminal_controls, escape_unprintable_json
from anthropic_proxy.plugins import ModelUsage, RouteResponse

RowT = TypeVar("RowT")
FORMATS = ("csv", "json")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Beginnings of texts that spreadsheet programs run as formulas (owasp.org, "CSV Injection", read 21 Nov 2026)."""
_INNER_FORMULA = compile_later(rf"([;\t\r\n][ \"]*)([{''.join(map(re.escape, _FORMULA_STARTS))}])")
"""Matches a formula after `;`, tab or line break, with which a new cell may begin."""
_LISTS = ("failed_attempts", "notes", "adaptations")
"""Columns of the table `requests` that contain a list as JSON text. "": an empty list."""
COSTS = ("cost", "requested_cost")
TIMES = ("offset", "duration")
"""Fields of `AttemptTime` and `BlockTime` that are exported in seconds."""
DURATIONS = ("first_token", "duration")
"""Fields of `StoredRequest` that are exported in seconds."""
_COUNTS = {
    "message_count": TokenCounts.__struct_fields__,
    "route": tuple(name for name in RequestCounts.__struct_fields__ if name not in TokenCounts.__struct_fields__),
}
"""Column → counts that follow it, because programs may read a CSV file by the position of its columns."""
REQUEST_TITLES: Sequence[str] = (
    *(
        title
        for name in StoredRequest.__struct_fields__[len(RequestCounts.__struct_fields__) :]
        if name not in DURATIONS
        for title in (name, *_COUNTS.get(name, ()))
    ),
    *(f"{name}_seconds" for name in DURATIONS),
)
_json = msgspec.json.Encoder(decimal_format="number")


class ExportTable(Struct, frozen=True):
    """Table for export as CSV or JSON, with column titles and rows. A `Decimal` in a row is an amount in US dollars,
    and None is a missing or unknown value.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def encode_csv(self) -> str:
        text = io.StringIO(newline="")
        write_csv(text, self.titles, self.rows)
        return text.getvalue()

    def list_json_objects(self) -> list[dict[str, Any]]:
        return [dict(zip(self.titles, row, strict=True)) for row in self.rows]

    def build_download(self, name: str, file_format: str) -> RouteResponse:
        if file_format == "csv":
            return _download(self.encode_csv().encode("utf-8", "replace"), "text/csv; charset=utf-8", f"{name}.csv")
        return _download(encode_json(self.list_json_objects()), "application/json", f"{name}.json")


def write_csv(stream: TextIO, titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A text that a spreadsheet program would run as a formula gets an apostrophe in front."""
    writer = csv.writer(stream)
    writer.writerow(titles)
    writer.writerows([_to_cell(value) for value in row] for row in rows)


def encode_json(value: Any) -> bytes:
    """A `Decimal` is written as a number with all its digits."""
    return _json.encode(value)


def to_dollars(nano_dollars: int | None) -> Decimal | None:
    """Convert nano-dollars (10⁻⁹ US dollars) to US dollars without trailing zeros. None, which is an unknown amount, is
    returned as None.
    """
    if nano_dollars is None:
        return None
    amount = Decimal(nano_dollars) / NANO_DOLLARS
    return amount.quantize(Decimal(1)) if amount == amount.to_integral_value() else amount.normalize()


def format_time(microseconds: int) -> str:
    """UTC, such as `2026-11-21T10:00:00.000Z`, from microseconds since the epoch."""
    text = datetime.fromtimestamp(microseconds / MICROSECONDS, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def build_request_object(row: StoredRequest) -> dict[str, Any]:
    values: dict[str, Any] = dict(zip(row.__struct_fields__, structs.astuple(row), strict=True))
    for name in _LISTS:
        values[name] = msgspec.json.decode(values[name]) if values[name] else []
    values["attempt_times"] = [_encode_times(attempt) for attempt in decode_attempt_times(row.attempt_times)]
    values["reply_blocks"] = [_encode_times(block) for block in decode_block_times(row.reply_blocks)]
    values["checks"] = [structs.asdict(check) for check in decode_checks(row.checks)]
    values["inspections"] = [structs.asdict(record) for record in decode_inspections(row.inspections)]
    values["tool_times"] = [
        {"name": tool.name, "duration_seconds": tool.duration / MICROSECONDS}
        for tool in decode_tool_times(row.tool_times)
    ]
    values["model_usage"] = [_encode_part(part) for part in decode_model_usage(row.model_usage)]
    for name in COSTS:
        values[name] = to_dollars(values[name])
    values["started_at"] = format_time(row.started_at)
    for name in DURATIONS:
        microseconds = values[name]
        values[f"{name}_seconds"] = None if microseconds is None else microseconds / MICROSECONDS
    return {title: values[title] for title in REQUEST_TITLES}


def _encode_times(timed: AttemptTime | BlockTime) -> dict[str, Any]:
    values: dict[str, Any] = {name: values for name, values in structs.asdict(timed).items() if name not in TIMES}
    return {f"{name}_seconds": getattr(timed, name) / MICROSECONDS for name in TIMES} | values


def _encode_part(part: ModelUsage) -> dict[str, Any]:
    values = {name: getattr(part, name) for name in ("provider", "model", "kind", *TokenCounts.__struct_fields__)}
    return values | {"searches": part.searches, **{name: to_dollars(getattr(part, name)) for name in COSTS}}


def tabulate_requests(rows: Iterable[StoredRequest]) -> ExportTable:
    return ExportTable(REQUEST_TITLES, [list_request_values(row) for row in rows])


def list_request_values(row: StoredRequest) -> list[Any]:
    return list(build_request_object(row).values())


def _to_cell(value: Any) -> Any:
    """Return the text of `value` for a CSV cell. A text that is a formula gets an apostrophe in front. None: "".

    Control characters are escaped, because programs print CSV on terminals.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        text = f"'{value}" if value.lstrip(" ").startswith(_FORMULA_STARTS) else value
        return escape_terminal_controls(_INNER_FORMULA.sub(r"\1'\2", text))
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, (list, tuple)):
        text = encode_json(value).decode() if value else ""
        # the same value in JSON
        text = _INNER_FORMULA.sub(lambda formula: f"{formula[1]}\\u{ord(formula[2]):04x}", text)
        return escape_unprintable_json(text)
    return value


def _download(body: bytes, media_type: str, name: str) -> RouteResponse:
    headers = {
        "content-type": media_type,
        "content-disposition": f'attachment; filename="{name}"',
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }
    return RouteResponse(headers=headers, body=body)


_FIRST_TITLES = ("requests", "succeeded", "errors", "cancelled")
EXPORT_TITLES = (
    *_FIRST_TITLES,
    *(name for name in SUM_NAMES if name not in _FIRST_TITLES and name != "cache_write_1h_tokens"),
)
_UNKNOWN_COUNTS = {"cost": "unknown_cost_requests", "requested_cost": "unknown_requested_cost_requests"}
"""Title of a column with a cost → sum that counts the requests for which this cost is unknown."""


def name_group(settings: Settings, by: str, group: UsageGroup) -> str:
    """Return a name as in model ids: `openai` for a provider, `openai/gpt-4.1` for a model."""
    return _name_value(settings, by, group.provider, group.name)


def name_part(settings: Settings, split: str, group: UsageGroup) -> str:
    """Return the name of the part of a divided group, in the same form."""
    return _name_value(settings, split, group.part[0], group.part[-1])


def _name_value(settings: Settings, by: str, provider: str, value: str) -> str:
    if by not in ("model", "provider"):
        return value
    registry = find_registry(settings)
    name = provider if by == "model" else value
    prefix = next((row.prefix for row in registry if row.name == name), name)
    return f"{prefix}/{value}" if by == "model" and value else prefix


def encode_sums(sums: UsageSums) -> dict[str, Any]:
    """Costs in US dollars; None if no price is known."""
    values: dict[str, Any] = {title: getattr(sums, title) for title in EXPORT_TITLES}
    for cost, unknown in _UNKNOWN_COUNTS.items():
        values[cost] = to_dollars(known_cost_or_none(values[cost], values[unknown]))
    return values


def list_activity(activity: Activity) -> dict[str, Any]:
    """Return the numbers by their names in exports. Times are in seconds."""
    values = structs.asdict(activity)
    return {
        name.replace("_microseconds", "_seconds"): value / MICROSECONDS if name.endswith("_microseconds") else value
        for name, value in values.items()
    }


ACTIVITY_TITLES = tuple(list_activity(Activity()))


def tabulate(
    fields: Mapping[str, Callable[[RowT], Any]],
    rows: Iterable[RowT],
    find_sums: Callable[[RowT], UsageSums] | None = None,
) -> ExportTable:
    """`fields`: title of a column → function that returns its value. `find_sums`: sums of a row, which follow them."""
    values = [
        [*(find(row) for find in fields.values()), *(encode_sums(find_sums(row)).values() if find_sums else ())]
        for row in rows
    ]
    return ExportTable([*fields, *(EXPORT_TITLES if find_sums else ())], values)


def tabulate_usage(settings: Settings, by: str, groups: Sequence[UsageGroup], split: str | None = None) -> ExportTable:
    fields: dict[str, Callable[[UsageGroup], str]] = {by: lambda group: name_group(settings, by, group)}
    if split:
        fields[split] = lambda group: name_part(settings, split, group)
    return tabulate(fields, groups, lambda group: group.sums)


def build_usage_object(
    settings: Settings,
    by: str,
    groups: Sequence[UsageGroup],
    chosen: RequestSelection,
    *,
    split: str | None = None,
    forecast: int | None = None,
) -> dict[str, Any]:
    return {
        "from": _format_time(chosen.start // MICROSECONDS),
        "to": _format_time(chosen.end // MICROSECONDS),
        "by": by,
        "split": split,
        "total": encode_sums(add_up(group.sums for group in groups)),
        "forecast": to_dollars(forecast),
        "groups": [
            {
                "name": name_group(settings, by, group),
                **({"part": name_part(settings, split, group)} if split else {}),
                **encode_sums(group.sums),
                **({} if group.activity is None else {"activity": list_activity(group.activity)}),
            }
            for group in groups
        ],
    }


def _format_time(seconds: int) -> str:
    time = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    return f"{time.isoformat(timespec='seconds' if time.second else 'minutes')}Z"  # %Y has no leading zeros on Linux
