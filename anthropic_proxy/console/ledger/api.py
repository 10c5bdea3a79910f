"""Answers to the HTTP routes under `/api/`, by which other programs read the ledger, and their OpenAPI document.

`respond` runs in a thread. Responses contain no message content.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import structs
from sqlalchemy import Connection, exc

from anthropic_proxy.console.ledger.activity_queries import ACTIVITY_GROUPS, add_activity
from anthropic_proxy.console.ledger.engines import EngineReader, open_empty_ledger, read_ledger
from anthropic_proxy.console.ledger.export import (
    ACTIVITY_TITLES,
    COSTS,
    DURATIONS,
    EXPORT_TITLES,
    REQUEST_TITLES,
    TIMES,
    build_request_object,
    build_usage_object,
    encode_json,
    tabulate_requests,
    tabulate_usage,
)
from anthropic_proxy.console.ledger.periods import RequestSelection, resolve_usage_range
from anthropic_proxy.console.ledger.queries import UsageGroup, count_facets, expect_month_cost, sum_usage
from anthropic_proxy.console.ledger.read_access import (
    MAX_READ_SECONDS,
    describe_read_failure,
    limit_search_range,
    restrict_reading,
)
from anthropic_proxy.console.ledger.records import (
    FACETS,
    GROUP_NAMES,
    SPLIT_NAMES,
    AttemptTime,
    BlockTime,
    StoredRequest,
    UsageSums,
)
from anthropic_proxy.console.ledger.request_queries import find_stored_request, list_stored_requests
from anthropic_proxy.console.ledger.users import find_client_user
from anthropic_proxy.console.openapi import (
    MAX_ROWS,
    ApiQuery,
    Schema,
    build_json_response,
    build_object,
    build_operation,
    build_parameter,
    parameter_error,
    refer_to,
    require_database_text,
)
from anthropic_proxy.engine.messages.deltas import TokenCounts
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.errors import ConfigurationError, UnknownModel
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.outcomes import VERDICTS
from anthropic_proxy.plugins import CallCheck, RouteRequest, RouteResponse

DEFAULT_ROWS = 100
_MAX_FACET_VALUES = 50
_FORMATS = ("json", "csv")


def respond(
    route: str, request: RouteRequest, settings: Settings, warn: Callable[[str], None] | None = None
) -> RouteResponse:
    """Raises `InvalidRequest`, and `UnknownModel` if this request is not stored. `warn` is that of `LedgerReader`."""
    try:
        if route == "/api/usage":
            query = _Query(request, ("by", "split", "since", "until", "format", *FACETS))
            by = query.choose("by", GROUP_NAMES, "model")
            form = query.choose("format", _FORMATS, "json")
            split = query.choose("split", SPLIT_NAMES, "") if "split" in query.values else None
            chosen = structs.replace(query.resolve_usage_range(), values=query.list_facets())
            with _reading(request, settings, warn) as connection:
                groups: Sequence[UsageGroup] = sum_usage(connection, chosen, by, split=split)
                groups = groups if split else add_activity(connection, chosen, by, groups)
                expected = expect_month_cost(connection, chosen, datetime.now(UTC))
            if form == "csv":
                return tabulate_usage(settings, by, groups, split).build_download(f"usage-by-{by}", form)
            return _json(build_usage_object(settings, by, groups, chosen, split=split, forecast=expected))
        if route == "/api/requests":
            return _list_requests(request, settings, warn)
        request_id = request.path_parameters["id"]
        require_database_text("id", request_id)
        with _reading(request, settings, warn) as connection:
            row = find_stored_request(connection, request_id)
        if row is None:
            raise UnknownModel(f"The ledger has no request {request_id!r}.", code="ledger-request")
        return _json(build_request_object(row))
    except ConfigurationError as error:
        return _fail(error.message)
    except exc.SQLAlchemyError as error:
        failure = describe_read_failure(error)
        return _fail(failure.message, failure.status)


def _list_requests(request: RouteRequest, settings: Settings, warn: Callable[[str], None] | None) -> RouteResponse:
    names = ("since", "until", "format", "limit", "before", "search", "changed", "facets", *FACETS)
    query = _Query(request, names)
    form = query.choose("format", _FORMATS, "json")
    limit = query.read_limit(DEFAULT_ROWS)
    chosen = structs.replace(
        query.resolve_usage_range(),
        has_model=False,
        values=query.list_facets(),
        is_changed=query.is_true("changed"),
        text=query.values.get("search", ""),
    )
    with _reading(request, settings, warn) as connection:
        position = query.find_position()
        searched = limit_search_range(connection, chosen, position and position[0])
        rows = list_stored_requests(connection, searched, limit + 1, before=position)
        counted = [facet for name, facet in FACETS.items() if facet.sums and name != "session"]
        columns = [facet.column for facet in counted if query.is_true("facets")]
        counts = count_facets(connection, chosen, columns, _MAX_FACET_VALUES).values
    shown = rows[:limit]
    if form == "csv":
        return tabulate_requests(shown).build_download("requests", form)
    if len(rows) > limit:
        older: str | None = f"{shown[-1].started_at}.{shown[-1].id}"
    else:
        older = None if searched is chosen else f"{searched.start}."  # a search of the requests before continues
    body: dict[str, Any] = {"requests": [build_request_object(row) for row in shown], "before": older}
    if counts:
        body["facets"] = {
            name: [{"value": value, "requests": count} for value, count in counts[facet.column]]
            for name, facet in FACETS.items()
            if facet.column in counts
        }
    return _json(body)


@contextmanager
def _reading(request: RouteRequest, settings: Settings, warn: Callable[[str], None] | None) -> Iterator[Connection]:
    """The connection shows what the client may read. Raises `ConfigurationError` as `LedgerReader`."""
    with read_ledger(settings, MAX_READ_SECONDS, warn) as connection:
        if connection is not None:
            user = find_client_user(request.client).resolve(EngineReader(connection))
            restrict_reading(connection, user, settings)
            yield connection
            return
    with open_empty_ledger() as empty:
        yield empty


def _fail(message: str, status: int = 503) -> RouteResponse:
    kind = {400: "invalid_request_error", 504: "timeout_error"}.get(status, "api_error")
    failure = {"type": "error", "error": {"type": kind, "message": message}}
    return structs.replace(_json(failure), status=status)


def _json(value: Any) -> RouteResponse:
    return build_json_response(encode_json(value))


class _Query(ApiQuery):
    """Every method raises `InvalidRequest` (400) for an invalid value."""

    def choose(self, name: str, allowed: Sequence[str], default: str) -> str:
        value = self.values.get(name, default)
        if value not in allowed:
            raise parameter_error(f"{name} is {value!r}. Use {', '.join(allowed)}.")
        return value

    def list_facets(self) -> Mapping[str, str]:
        """Return column → value of the filters."""
        return {facet.column: self.values[name] for name, facet in FACETS.items() if name in self.values}

    def is_true(self, name: str) -> bool:
        return self.choose(name, ("true", "false"), "false") == "true"

    def resolve_usage_range(self) -> RequestSelection:
        """Days of `since` and `until` begin at midnight in the time zone of the process."""
        since = self.values.get("since", "24h")
        until = self.values.get("until", "")
        try:
            return resolve_usage_range(since, until, datetime.now(UTC), names=("since", "until"))
        except ConfigurationError as error:
            raise parameter_error(error.message) from None

    def find_position(self) -> tuple[int, str] | None:
        """A position is the start of a request in microseconds, and its id. None: the list begins with the latest
        request.
        """
        if not (text := self.values.get("before", "")):
            return None
        time, point, request_id = text.partition(".")
        if not (time.isascii() and time.isdecimal() and len(time) < 19 and point):
            raise parameter_error(f"before is {text!r}. Use the value of before in the response with newer requests.")
        return int(time), request_id


_NUMBER_OR_NULL: Schema = {"type": ["number", "null"]}
_DOLLARS: Schema = {**_NUMBER_OR_NULL, "description": "US dollars. Null: unknown."}
_NO_FORECAST = "Null: the range is not this month until now, or there is too little data."
_PERIOD = (
    "`24h`, `7d`, `4w`, `today`, `yesterday`, a month such as `2026-11`, or a date such as `2026-11-01`. Days are "
    "those of the proxy's time zone. Of more than three hours, the first and the last hour are complete."
)


_ABOUT_ACTIVITY = (
    "What Claude Code states in its metrics. Missing for groups of which it is unknown: with `split`, with a filter "
    f"by something else than {', '.join(FACETS[name].title.lower() for name in ACTIVITY_GROUPS if name in FACETS)}, "
    "or grouped by something else than these, day and hour."
)


def build_paths() -> Schema:
    """The paths refer to the schemas of `build_schemas`."""
    common = [
        build_parameter("since", {"type": "string", "default": "24h"}, f"Beginning: {_PERIOD}"),
        build_parameter(
            "until", _TEXT, "End, in the same forms. By default now. A day or a month is included completely."
        ),
        build_parameter("format", {"enum": ["json", "csv"], "default": "json"}, "Form of the response."),
    ]
    filters = [build_parameter(name, _TEXT, f"Only requests with this {name}.") for name in FACETS]
    usage_parameters = [
        build_parameter("by", {"enum": list(GROUP_NAMES), "default": "model"}, "Grouping of the sums."),
        build_parameter("split", {"enum": list(SPLIT_NAMES)}, "Facet by which each group is divided."),
        *common,
        *filters,
    ]
    part = {"type": "string", "description": "Value of the facet `split`. Missing without it."}
    work = refer_to("Activity")
    names = {"properties": {"name": {"type": "string"}, "part": part, "activity": work}, "required": ["name"]}
    group = {"allOf": [names, refer_to("Sums")]}
    forecast = f"US dollars at the end of the running month. {_NO_FORECAST}"
    sums = {
        "from": {"type": "string", "description": "Beginning of the period."},
        "to": {"type": "string", "description": "End of the period, exclusive."},
        "by": {"type": "string"},
        "split": {"type": ["string", "null"]},
        "total": refer_to("Sums"),
        "forecast": {**_NUMBER_OR_NULL, "description": forecast},
        "groups": {"type": "array", "items": group},
    }
    usage = build_object(sums, [*sums])
    number = {"type": "integer", "minimum": 1, "maximum": MAX_ROWS, "default": DEFAULT_ROWS}
    flag = {"type": "boolean", "default": False}
    list_parameters = [
        *common,
        *filters,
        build_parameter(
            "search",
            _TEXT,
            "Part of an error, failed attempt (`groq 503`), model, project or session, or a request id. "
            "A search reads at most 100,000 requests. `before` of the response continues it.",
        ),
        build_parameter("changed", flag, "Only requests that the translation changed."),
        build_parameter("facets", flag, "Add the number of requests for each value of each filter."),
        build_parameter("limit", number, "Maximum number of requests."),
        build_parameter("before", {"type": "string"}, "Value of `before` in the response with newer requests."),
    ]
    counts = build_object({"value": {"type": "string"}, "requests": {"type": "integer"}})
    items = {
        "requests": {"type": "array", "items": refer_to("Request")},
        "before": {"type": ["string", "null"], "description": "Position of older requests. Null: there are none."},
        "facets": {"type": "object", "additionalProperties": {"type": "array", "items": counts}},
    }
    listed = build_object(items, ["requests", "before"])
    parameter = {"name": "id", "in": "path", "required": True, "schema": _TEXT, "description": "Header `request-id`."}
    operations = {
        "/api/usage": _operation("getUsage", "Sums of requests, tokens and costs by group.", usage_parameters, usage),
        "/api/requests": _operation("listRequests", "Stored requests, the latest first.", list_parameters, listed),
        "/api/requests/{id}": _operation(
            "getRequest", "One stored request.", [parameter], refer_to("Request"), has_csv=False
        ),
    }
    return {path: {"get": operation} for path, operation in operations.items()}


def build_schemas() -> Mapping[str, Schema]:
    _, components = msgspec.json.schema_components([StoredRequest], ref_template="#/components/schemas/{name}")
    columns: Schema = {
        name: {key: value for key, value in schema.items() if key != "default"}
        for name, schema in components["StoredRequest"]["properties"].items()
    }
    for name in DURATIONS:
        columns[f"{name}_seconds"] = _NUMBER_OR_NULL if "anyOf" in columns[name] else {"type": "number"}
    columns |= {name: {"type": "array", "items": items} for name, items in _LISTS.items()}
    columns |= {"started_at": {"type": "string", "format": "date-time"}, **dict.fromkeys(COSTS, _DOLLARS)}
    stored = build_object({name: columns[name] for name in REQUEST_TITLES}, REQUEST_TITLES, "A stored request.")
    properties = {title: _DOLLARS if title in COSTS else {"type": "integer"} for title in EXPORT_TITLES}
    about_sums = (UsageSums.__doc__ or "").split(".")[0]
    activity = {title: {"type": "number"} for title in ACTIVITY_TITLES}
    return {
        "Sums": build_object(properties, EXPORT_TITLES, about_sums),
        "Activity": build_object(activity, ACTIVITY_TITLES, _ABOUT_ACTIVITY),
        "Request": stored,
        "Error": _ERROR,
    }


def _operation(name: str, summary: str, parameters: list[Schema], result: Schema, *, has_csv: bool = True) -> Schema:
    content = {"application/json": result, **({"text/csv": {"type": "string"}} if has_csv else {})}
    errors = {
        "400": "A parameter is invalid, or the sums have too many groups.",
        "401": "The key is missing or wrong.",
        **({} if has_csv else {"404": "The ledger does not have this request."}),
        "503": "The database cannot be read.",
        "504": "The query needs more than 10 seconds. Choose a shorter range, or add a filter.",
    }
    return build_operation(name, summary, content, errors, parameters)


def _times(kind: type[AttemptTime | BlockTime], description: str, further: Mapping[str, Any]) -> Schema:
    """`further`: fields with another schema than that of their type."""
    names = {f"{name}_seconds": {"type": "number"} for name in TIMES}
    types = {str: "string", int: "integer"}
    others = {
        field.name: {"type": types[field.type]}
        for field in structs.fields(kind)
        if f"{field.name}_seconds" not in names
    }
    text = f"{description} Offset: time since the start of the client request."
    return build_object({**names, **others, **further}, description=text)


_BLOCK = {
    "kind": {"enum": ["text", "thinking", "tool call", "server tool"]},
    "name": {"type": "string", "description": "Name of the called tool, or empty."},
}
_TEXT: Schema = {"type": "string"}
_CHECK = {
    **dict.fromkeys(CallCheck.__struct_fields__, _TEXT),
    "verdict": {"enum": list(VERDICTS)},
    "probability": _NUMBER_OR_NULL,
}
_TOOL_TIME = {"name": _TEXT, "duration_seconds": {"type": "number"}}
_MODEL_USAGE = {
    **dict.fromkeys(("provider", "model", "kind"), _TEXT),
    **{name: {"type": "integer"} for name in (*TokenCounts.__struct_fields__, "searches")},
    **dict.fromkeys(COSTS, _NUMBER_OR_NULL),
}
_LISTS: Mapping[str, Schema] = {
    **dict.fromkeys(("failed_attempts", "adaptations"), _TEXT),
    "notes": build_object(dict.fromkeys(FidelityNote.__struct_fields__, _TEXT)),
    "attempt_times": _times(AttemptTime, "A call to a provider.", {}),
    "reply_blocks": _times(BlockTime, "A content block of the reply.", _BLOCK),
    "checks": build_object(_CHECK, description="The check of a tool call of the reply."),
    "model_usage": build_object(_MODEL_USAGE, description="What a model used of the request, if it is not all of it."),
    "tool_times": build_object(_TOOL_TIME, description="How long a tool took whose result the request has."),
}
"""Field of a stored request → schema of the items of its list."""
_ERROR = build_object(
    {"type": {"const": "error"}, "error": build_object({"type": _TEXT, "message": _TEXT})},
    description="An error in the format of the Messages API.",
)
