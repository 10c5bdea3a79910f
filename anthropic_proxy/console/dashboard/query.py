"""Parameters in the URL of a page, such as time range, filters and order, and links with changed parameters.

A facet is a property by which requests are filtered, such as the provider.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Literal
from urllib.parse import quote, urlencode

from msgspec import Struct, structs

from anthropic_proxy.console.ledger.periods import add_months, find_month, resolve_usage_range
from anthropic_proxy.console.ledger.records import FACETS
from anthropic_proxy.console.openapi import require_database_text
from anthropic_proxy.console.units import HOUR_SECONDS, MICROSECONDS
from anthropic_proxy.errors import InvalidRequest

RANGES = {"1h": 1, "24h": 24, "today": 24, "yesterday": 24, "7d": 7 * 24, "30d": 30 * 24, "90d": 90 * 24}
"""Value of `range` in the URL → length of the time range in hours. The command `usage` has the same values.

A calendar month such as `2026-11` is a value too.
"""
_MOVING = {"1h": "1 h", "24h": "24 h", "7d": "7 d", "30d": "30 d", "90d": "90 d"}
"""Ranges of a fixed length until now, with their titles."""
MAX_MONTHS = 12
"""Number of calendar months that the range picker lists, the latest first."""
MAX_VALUE_CHARACTERS = 300
MAX_RANGE_DAYS = 400
"""Maximum length of a time range in days. Each period of a chart needs memory and time."""
YEARS = (1990, 2200)
"""First and last year that a time range may have. Calculations with them stay within the calendar in every time zone.
"""
NO_COLUMNS = "none"
"""Value of the parameter `columns` for a table without optional columns. The form also sends it beside the chosen
columns."""
_HOUR_FORMAT = "%Y-%m-%dT%H:%MZ"
_LOCAL_FORMAT = "%Y-%m-%dT%H:%M"
"""Time in the zone of the server, as browsers send it."""
_TEXTS = {"q": "text", "by": "measure", "split": "split", "speed": "speed", "at": "compared", "sort": "order"}
_TEXTS |= {name: name for name in ("columns", "before", "after")}
"""Name in the URL → field of a text. Other pages do not have these parameters."""
_NO_TEXTS = dict.fromkeys(_TEXTS.values(), "")


class ViewQuery(Struct, frozen=True, kw_only=True):
    path: str
    range_name: str = "24h"
    """Name of the time range, a key of `RANGES` or a calendar month. "": the range from `start` to `end`."""
    start: int
    """Beginning of the time range in seconds since the epoch."""
    end: int
    """End of the time range in seconds since the epoch, exclusive."""
    now: float = 0.0
    """Time of the request in seconds since the epoch."""
    facets: Mapping[str, str] = {}
    """Name of a filter (key of `FACETS`) → value that requests must have. The value "" selects requests without a
    value."""
    has_notes: bool = False
    text: str = ""
    """Text of the search field: a portion of an error, a model or a session, or a request id. "": no search."""
    measure: str = ""
    """Quantity that a chart shows, or by which it is grouped. "": the default of the page."""
    split: str = ""
    """Facet by which each group of the page Costs is divided. "": none."""
    speed: str = ""
    """Grouping of the chart of the time to first token. "": all requests."""
    compared: str = ""
    """Model id with prefix, for which the page Models shows the cost of the same tokens. "": none."""
    order: str = ""
    """Column by which rows are sorted; `-` in front: highest first. "": the default order."""
    columns: str = ""
    """Names of the columns of a table, separated by commas. "": the default columns."""
    before: str = ""
    """Position in the list of requests, as `time.id`: only requests before this position are shown. "": from the
    beginning."""
    after: str = ""

    def link(self, path: str | None = None, **changes: object) -> str:
        """Return the URL of a page with the parameters of this page, some of them changed. `changes` maps fields of
        `ViewQuery` to their new values. None as `path` means this page.
        """
        if path not in (None, self.path):
            changes = {"measure": "", "split": "", "speed": "", "compared": "", **changes}
        if not {"before", "after"} & changes.keys() and changes.keys() - {"measure", "speed", "compared"}:
            changes |= {"before": "", "after": ""}
        changed = structs.replace(self, **changes)
        pairs = urlencode(list(changed._pairs()), quote_via=quote, safe=":/,")
        return f"{path or self.path}{'?' if pairs else ''}{pairs}"

    def link_with_facet(self, name: str, value: str, path: str | None = None) -> str:
        return self.link(path, facets={**self.facets, name: value})

    def link_without_facet(self, name: str) -> str:
        return self.link(facets={key: value for key, value in self.facets.items() if key != name})

    def link_to_requests(self, start: int, end: int) -> str:
        return self.link("/dashboard/requests", range_name="", start=start, end=end, measure="")

    def link_sorted_by(self, name: str, order: str) -> str:
        """The first click sorts highest values first, the second lowest first. The third click restores the default
        order. `order`: present order, in the form of the field.
        """
        following = {f"-{name}": name, name: ""}
        return self.link(order=following.get(order, f"-{name}"))

    def export_link(self, file_format: str, table: str) -> str:
        address = self.link(before=self.before)
        return f"{address}{'&' if '?' in address else '?'}format={file_format}&table={table}"

    def link_to_shifted_range(self, direction: Literal[-1, 1]) -> str:
        """Time range before (-1) or after (1) the present one. A range that reaches the present hour ends now again."""
        if self.is_month:
            return self.link(range_name=_shift_month(self.range_name, direction))
        length = RANGES[self.range_name] * HOUR_SECONDS if self.is_running else self.end - self.start
        start = self.start + length * direction
        name = next((name for name in _MOVING if RANGES[name] * HOUR_SECONDS == length), "")
        if direction == 1 and name and self.end < self.now < start + length + HOUR_SECONDS:
            return self.link(range_name=name)
        return self.link(range_name="", start=start, end=start + length)

    def link_to_page(self, path: str) -> str:
        """Return the URL of another page with the same range, and without filters."""
        return structs.replace(self, **_NO_TEXTS, facets={}, has_notes=False).link(path)

    @property
    def is_month(self) -> bool:
        return bool(self.range_name) and self.range_name not in RANGES

    @property
    def is_running(self) -> bool:
        """True if the range ends now, so that its last period is incomplete."""
        if self.is_month:
            return self.end < _require_month(self.range_name)[1]
        return self.range_name not in ("", "yesterday")

    def find_previous_month(self) -> tuple[int, int, str]:
        """Return beginning, end and words for the month before the one of the range. If this month has not ended, it is
        the same part of the month before.
        """
        name = _shift_month(self.range_name, -1)
        start, end = _require_month(name)
        if not self.is_running:
            return start, end, f"in {title_month(name)}"
        return start, min(end, start + self.end - self.start), f"in the same part of {title_month(name)}"

    @property
    def hours(self) -> float:
        return (self.end - self.start) / HOUR_SECONDS

    @property
    def is_filtered(self) -> bool:
        return bool(self.facets or self.text or self.has_notes)

    def hidden_fields(self) -> Iterator[tuple[str, str]]:
        """Range and filters, for a form with other parameters."""
        return structs.replace(self, **_NO_TEXTS)._pairs()

    def range_form_fields(self) -> Iterator[tuple[str, str]]:
        """All parameters without the range and the position in a list, for a form with another range."""
        return structs.replace(self, range_name="24h", before="", after="")._pairs()

    @property
    def local_range(self) -> tuple[str, str]:
        """Beginning and end in the time zone of the server, in the form of an input field."""
        start = datetime.fromtimestamp(self.start).strftime(_LOCAL_FORMAT)
        end = datetime.fromtimestamp(self.end).strftime(_LOCAL_FORMAT)
        return start, end

    def _pairs(self) -> Iterator[tuple[str, str]]:
        if not self.range_name:
            yield "from", datetime.fromtimestamp(self.start, UTC).strftime(_HOUR_FORMAT)
            yield "to", datetime.fromtimestamp(self.end, UTC).strftime(_HOUR_FORMAT)
        elif self.range_name != "24h":
            yield "range", self.range_name
        yield from ((name, self.facets[name]) for name in FACETS if name in self.facets)
        if self.has_notes:
            yield "notes", "1"
        yield from ((name, text) for name, field in _TEXTS.items() if (text := getattr(self, field)))


def read_view_query(path: str, query: Mapping[str, Sequence[str]], now: float) -> ViewQuery:
    """Raises `InvalidRequest` for a value that is not allowed."""
    values = {name: texts[-1] for name, texts in query.items()}
    for name, value in values.items():
        require_valid_text(name[:40], value)
    names = dict.fromkeys(",".join(query.get("columns", ())).split(","))
    if len(names) > 1:
        names.pop(NO_COLUMNS, None)
    columns = ",".join(names)
    require_valid_text("columns", columns)
    range_name, start, end = _read_range(values, now)
    texts = {field: values.get(name, "") for name, field in _TEXTS.items()}
    texts |= {"text": texts["text"].strip(), "compared": texts["compared"].strip(), "columns": columns}
    return ViewQuery(
        path=path,
        range_name=range_name,
        start=start,
        end=end,
        now=now,
        facets={name: values[name] for name in FACETS if name in values},
        has_notes=values.get("notes") == "1",
        **texts,
    )


def require_valid_text(name: str, value: str) -> None:
    if len(value) > MAX_VALUE_CHARACTERS:
        raise InvalidRequest(
            f"{name}: the value has more than {MAX_VALUE_CHARACTERS} characters.", code="dashboard-parameter"
        )
    require_database_text(name, value)


def session_link(session: str) -> str:
    return f"/dashboard/session?session={quote(session, safe='')}"


def _read_range(values: Mapping[str, str], now: float) -> tuple[str, int, int]:
    if "from" in values or "to" in values:
        start = _read_time("from", values.get("from", ""))
        last = _read_time("to", values.get("to", ""))
        if not start < last:
            raise InvalidRequest("to: the end of the range is not after its beginning.", code="dashboard-parameter")
        if last - start > MAX_RANGE_DAYS * 86_400:
            raise InvalidRequest(f"to: the range is longer than {MAX_RANGE_DAYS} days.", code="dashboard-parameter")
        return "", start, last
    name = values.get("range", "24h")
    if find_month(name) is not None:
        first, last = _require_month(name)
        return name, first, min(last, int(now) + 1) if first <= now else last
    if name not in RANGES:
        allowed = ", ".join(RANGES)
        raise InvalidRequest(
            f"range: {name!r} is not allowed; use {allowed}, or a month such as 2026-11.", code="dashboard-parameter"
        )
    if name == "today":
        now += 0.001  # at midnight, the range is not empty
    selection = resolve_usage_range(name, name if name == "yesterday" else "", datetime.fromtimestamp(now, UTC))
    return name, selection.start // MICROSECONDS, min(selection.end // MICROSECONDS, int(now) + 1)


def _require_month(name: str) -> tuple[int, int]:
    """Return the beginning and the end of a month in seconds since the epoch."""
    month = find_month(name)
    if month is None or not YEARS[0] <= month[0].year <= YEARS[1]:
        raise InvalidRequest(
            f"range: {name!r} is not a month between the years {YEARS[0]} and {YEARS[1]}.", code="dashboard-parameter"
        )
    return int(month[0].timestamp()), int(month[1].timestamp())


def _shift_month(name: str, count: int) -> str:
    return f"{add_months(date.fromisoformat(f'{name}-01'), count):%Y-%m}"


def title_month(name: str) -> str:
    """Return the title of a month: `November 2026`."""
    return f"{date.fromisoformat(f'{name}-01'):%B %Y}"


class RangeChoice(Struct, frozen=True):
    """The ranges that a page offers: value of `range` in the URL → title."""

    fixed: Mapping[str, str]
    months: Mapping[str, str]
    note: str = ""
    """Sentence about charts that begin later than the range. "": they begin with it."""


def list_ranges(first_hour: int | None, now: float) -> RangeChoice:
    """The months are those from the first request until now, the latest first. `first_hour`: hours since the epoch."""
    name = f"{datetime.fromtimestamp(now):%Y-%m}"
    first = f"{datetime.fromtimestamp(first_hour * HOUR_SECONDS):%Y-%m}" if first_hour is not None else name
    months: dict[str, str] = {}
    while name >= first and len(months) < MAX_MONTHS:
        months[name] = title_month(name)
        name = _shift_month(name, -1)
    return RangeChoice({name: _MOVING.get(name, name.capitalize()) for name in RANGES}, months)


def _read_time(name: str, text: str) -> int:
    try:
        if text.endswith("Z"):
            time = datetime.strptime(text, _HOUR_FORMAT).replace(tzinfo=UTC)
        else:
            time = datetime.strptime(text, _LOCAL_FORMAT).astimezone()
    except (ValueError, OverflowError, OSError):
        raise InvalidRequest(
            f"{name}: {text[:20]!r} is not a time such as 2026-11-21T10:00Z.", code="dashboard-parameter"
        ) from None
    if not YEARS[0] <= time.year <= YEARS[1]:
        raise InvalidRequest(
            f"{name}: {text[:20]!r} is not between the years {YEARS[0]} and {YEARS[1]}.", code="dashboard-parameter"
        )
    return int(time.timestamp())
