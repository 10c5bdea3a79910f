"""OpenAPI document of the routes of the ledger (`/api/usage`, `/api/requests`), for generators of API clients.

`build_ledger_document` returns the document as a JSON object.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from anthropic_proxy import __version__
from anthropic_proxy.ledger.api import DEFAULT_ROWS, MAX_ROWS
from anthropic_proxy.ledger.facets import FACETS
from anthropic_proxy.ledger.queries import GROUP_NAMES
from anthropic_proxy.ledger.request_queries import StoredRequest
from anthropic_proxy.ledger.sums import UsageSums
from anthropic_proxy.ledger.usage_export import EXPORT_TITLES

Schema = dict[str, Any]
_NUMBER_OR_NULL: Schema = {"type": ["number", "null"]}
_COSTS = ("cost", "requested_cost")
_PERIOD = (
    "`24h`, `7d`, `4w`, `today`, `yesterday`, or a date such as `2026-11-01`. Days are those of the proxy's time zone. "
    "Of more than three hours, the first and the last hour are complete."
)


def build_ledger_document() -> Schema:
    """Return the OpenAPI document of the routes `/api/usage` and `/api/requests` as a JSON object."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "anthropic-proxy: usage ledger",
            "version": __version__,
            "description": "Stored requests and sums of usage. The access rules are those of the Messages API.",
        },
        "security": [{}, {"key": []}, {"token": []}],
        "paths": {
            "/api/usage": {"get": _usage()},
            "/api/requests": {"get": _requests()},
            "/api/requests/{id}": {"get": _request()},
        },
        "components": {
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "token": {"type": "http", "scheme": "bearer"},
            },
            "schemas": {"Sums": _sums(), "Request": _row(), "Error": _ERROR},
        },
    }


def _usage() -> Schema:
    parameters = [
        _parameter("by", {"enum": list(GROUP_NAMES), "default": "model"}, "Grouping of the sums."),
        *_common(),
    ]
    group = {"allOf": [{"properties": {"name": {"type": "string"}}, "required": ["name"]}, _refer("Sums")]}
    result = {
        "type": "object",
        "properties": {
            "from": {"type": "string", "description": "Beginning of the period."},
            "to": {"type": "string", "description": "End of the period, exclusive."},
            "by": {"type": "string"},
            "total": _refer("Sums"),
            "groups": {"type": "array", "items": group},
        },
        "required": ["from", "to", "by", "total", "groups"],
    }
    return _operation("getUsage", "Sums of requests, tokens and costs by group.", parameters, result)


def _requests() -> Schema:
    number = {"type": "integer", "minimum": 1, "maximum": MAX_ROWS, "default": DEFAULT_ROWS}
    flag = {"type": "boolean", "default": False}
    parameters = [
        *_common(),
        *(_parameter(name, {"type": "string"}, f"Only requests with this {name}.") for name in FACETS),
        _parameter(
            "search",
            {"type": "string"},
            "Part of an error, model, project or session, or a request id. A search reads at most 100,000 requests. "
            "`before` of the response continues it.",
        ),
        _parameter("changed", flag, "Only requests that the translation changed."),
        _parameter("facets", flag, "Add the number of requests for each value of each filter."),
        _parameter("limit", number, "Maximum number of requests."),
        _parameter("before", {"type": "string"}, "Value of `before` in the response with newer requests."),
    ]
    counts = {"type": "object", "properties": {"value": {"type": "string"}, "requests": {"type": "integer"}}}
    result = {
        "type": "object",
        "properties": {
            "requests": {"type": "array", "items": _refer("Request")},
            "before": {"type": ["string", "null"], "description": "Position of older requests. Null: there are none."},
            "facets": {"type": "object", "additionalProperties": {"type": "array", "items": counts}},
        },
        "required": ["requests", "before"],
    }
    return _operation("listRequests", "Stored requests, the latest first.", parameters, result)


def _request() -> Schema:
    text = {"type": "string"}
    parameter = {"name": "id", "in": "path", "required": True, "schema": text, "description": "Header `request-id`."}
    return _operation("getRequest", "One stored request.", [parameter], _refer("Request"), has_csv=False)


def _operation(name: str, summary: str, parameters: list[Schema], result: Schema, *, has_csv: bool = True) -> Schema:
    content: Schema = {"application/json": {"schema": result}}
    if has_csv:
        content["text/csv"] = {"schema": {"type": "string"}}
    return {
        "operationId": name,
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Success", "content": content},
            "400": _error_response("A parameter is invalid."),
            "401": _error_response("The key is missing or wrong."),
            "404": _error_response("The ledger has no requests, or not this one."),
            "503": _error_response("The database cannot be read."),
            "504": _error_response("The query needs more than 10 seconds. Choose a shorter range, or add a filter."),
        },
    }


def _common() -> list[Schema]:
    return [
        _parameter("since", {"type": "string", "default": "24h"}, f"Beginning: {_PERIOD}"),
        _parameter("until", {"type": "string"}, "End, in the same forms. By default now."),
        _parameter("format", {"enum": ["json", "csv"], "default": "json"}, "Form of the response."),
    ]


def _parameter(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _sums() -> Schema:
    properties = {title: _NUMBER_OR_NULL if title in _COSTS else {"type": "integer"} for title in EXPORT_TITLES}
    for name in _COSTS:
        properties[name] = {**_NUMBER_OR_NULL, "description": "US dollars. Null: unknown."}
    description = UsageSums.__doc__ or ""
    return {
        "type": "object",
        "description": description.split(".")[0],
        "properties": properties,
        "required": list(EXPORT_TITLES),
    }


def _row() -> Schema:
    _, components = msgspec.json.schema_components([StoredRequest], ref_template="#/components/schemas/{name}")
    properties: Schema = dict(components["StoredRequest"]["properties"])
    for name in ("first_token", "duration"):
        properties.pop(name)
        properties[f"{name}_seconds"] = _NUMBER_OR_NULL if name == "first_token" else {"type": "number"}
    properties |= {
        "started_at": {"type": "string", "format": "date-time"},
        "failed_attempts": {"type": "array", "items": {"type": "string"}},
        "notes": {"type": "array", "items": _NOTE},
        "adaptations": {"type": "array", "items": {"type": "string"}},
        "attempt_times": {"type": "array", "items": _ATTEMPT},
        "reply_blocks": {"type": "array", "items": _BLOCK},
    }
    for name in _COSTS:
        properties[name] = {**_NUMBER_OR_NULL, "description": "US dollars. Null: unknown."}
    return {
        "type": "object",
        "description": "A stored request.",
        "properties": properties,
        "required": list(properties),
    }


def _refer(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _error_response(description: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": _refer("Error")}}}


_ATTEMPT: Mapping[str, Any] = {
    "type": "object",
    "description": "A call to a provider. Offset: time since the start of the client request.",
    "properties": {
        **{name: {"type": "number"} for name in ("offset_seconds", "duration_seconds")},
        **{name: {"type": "string"} for name in ("provider", "model", "error_type", "error")},
        "status": {"type": "integer"},
    },
}
_BLOCK: Mapping[str, Any] = {
    "type": "object",
    "description": "A content block of the reply. Offset: time since the start of the client request.",
    "properties": {
        **{name: {"type": "number"} for name in ("offset_seconds", "duration_seconds")},
        "kind": {"enum": ["text", "thinking", "tool call", "server tool"]},
        "name": {"type": "string", "description": "Name of the called tool, or empty."},
        "characters": {"type": "integer"},
    },
}
_NOTE: Mapping[str, Any] = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("handling", "field", "reason")},
}
_ERROR: Mapping[str, Any] = {
    "type": "object",
    "description": "An error in the format of the Messages API.",
    "properties": {
        "type": {"const": "error"},
        "error": {"type": "object", "properties": {"type": {"type": "string"}, "message": {"type": "string"}}},
    },
}
