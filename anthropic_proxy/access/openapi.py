"""OpenAPI document of the routes below `/admin` (virtual keys, teams, audit log).

`build_document` returns the document. `build_paths` and `build_schemas` return its paths and schemas.
"""

from collections.abc import Mapping
from typing import Any

from anthropic_proxy import __version__
from anthropic_proxy.access.api import DEFAULT_ROWS, MAX_ROWS
from anthropic_proxy.access.rules import LIST_FIELDS

Schema = dict[str, Any]
_TEXT: Mapping[str, Any] = {"type": "string"}
_TIME: Mapping[str, Any] = {"type": ["string", "null"], "format": "date-time"}
_COUNT: Mapping[str, Any] = {"type": ["integer", "null"], "minimum": 1, "description": "Null: no limit."}
_TEXTS: Mapping[str, Any] = {"type": "array", "items": _TEXT}


def build_document() -> Schema:
    """Return the OpenAPI document of the routes below `/admin` as a JSON object."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "anthropic-proxy: administration",
            "version": __version__,
            "description": "Virtual keys, teams and the audit log. Each request needs one of ADMIN_API_KEY.",
        },
        "security": [{"key": []}, {"token": []}],
        "paths": build_paths(),
        "components": {
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "token": {"type": "http", "scheme": "bearer"},
            },
            "schemas": {**build_schemas(), "Error": {"type": "object"}},
        },
    }


def build_paths() -> Schema:
    """Return the section `paths` of the OpenAPI document: the routes below `/admin` with their methods.

    The paths refer to the schemas of `build_schemas` and to a schema `Error`, which the caller must add to the
    document.
    """
    key, key_path, team_path = _refer("VirtualKey"), _in_path("id"), _in_path("name")
    return {
        "/admin/keys": {
            "get": _operation("listKeys", "All keys, the newest first.", _list_of(key), [*_paging(), *_KEY_FILTERS]),
            "post": _operation("createKey", "Create a key. Its text is only in this response.", _NEW, body="KeyFields"),
        },
        "/admin/keys/{id}": {
            "get": _operation("getKey", "One key, by id or label, with its spending.", _SPENDING, [key_path]),
            "post": _operation("changeKey", "Change fields of a key.", key, [key_path], body="KeyFields"),
        },
        "/admin/keys/{id}/rotate": {
            "post": _operation("rotateKey", "Give a key a new text.", _NEW, [key_path], body="RotationFields")
        },
        "/admin/keys/{id}/revoke": {"post": _operation("revokeKey", "Revoke a key for ever.", key, [key_path])},
        "/admin/teams": {"get": _operation("listTeams", "Teams with rules.", _list_of(_refer("Team")))},
        "/admin/teams/{name}": {
            "post": _operation("changeTeam", "Change the rules of a team.", _refer("Team"), [team_path], body="Rules")
        },
        "/admin/audit": {
            "get": _operation("listChanges", "Changes, the latest first.", _list_of(_refer("Change")), _paging())
        },
    }


def build_schemas() -> Schema:
    """Return the schemas of request and response bodies: name → schema. The paths of `build_paths` refer to them."""
    unit, period = {"enum": ["usd", "tokens"]}, {"enum": ["day", "month", "total"]}
    budget = _object({"amount": {"type": "number"}, "unit": unit, "period": period})
    counts = dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrency"), _COUNT)
    rules = {**dict.fromkeys(LIST_FIELDS, _TEXTS), **counts, "budgets": {"type": "array", "items": budget}}
    names = {"name": _TEXT, "owner": _TEXT, "team": _TEXT, "expires_at": _TIME}
    state = {"id": _TEXT, "type": {"const": "api_key"}, "status": {"enum": ["active", "expired", "revoked"]}}
    times = {"partial_key_hint": _TEXT, "created_at": _TIME, "revoked_at": _TIME}
    values = _object({"before": {}, "after": {}})
    change = dict.fromkeys(("actor", "action", "object"), _TEXT)
    overlap = {"type": "number", "default": 0, "description": "Time for which the old text stays valid."}
    return {
        "Rules": {"type": "object", "properties": rules, "additionalProperties": False},
        "KeyFields": {"type": "object", "properties": {**names, **rules}, "additionalProperties": False},
        "RotationFields": {"type": "object", "properties": {"overlap_seconds": overlap}},
        "VirtualKey": _object({**state, **names, **times, **rules}),
        "Spending": _object({"unit": unit, "period": period, "amount": {"type": "number"}, "used": {"type": "number"}}),
        "Team": _object({"type": {"const": "team"}, "name": _TEXT, **rules}),
        "Change": _object(
            {"id": {"type": "integer"}, "at": _TIME, **change, "changes": {"additionalProperties": values}}
        ),
    }


def _operation(
    name: str, summary: str, result: Mapping[str, Any], parameters: list[Schema] | None = None, *, body: str = ""
) -> Schema:
    errors = {"400": "A field is invalid.", "401": "The key is wrong.", "403": "The key is no admin key."}
    errors |= {"404": "There is no such key.", "529": "The database is not available."}
    operation: Schema = {
        "operationId": name,
        "summary": summary,
        "responses": {"200": _response("Success", result)}
        | {status: _response(text, _refer("Error")) for status, text in errors.items()},
    }
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _refer(body)}}}
    return operation


def _response(description: str, schema: Mapping[str, Any]) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _list_of(schema: Mapping[str, Any]) -> Schema:
    return {
        "type": "object",
        "properties": {"data": {"type": "array", "items": schema}, "has_more": {"type": "boolean"}},
        "required": ["data", "has_more"],
    }


def _object(properties: Mapping[str, Any]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _in_path(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": _TEXT}


def _in_query(name: str, schema: Mapping[str, Any], description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _paging() -> list[Schema]:
    number = {"type": "integer", "minimum": 1, "maximum": MAX_ROWS, "default": DEFAULT_ROWS}
    return [
        _in_query("limit", number, "Maximum number of rows."),
        _in_query("after_id", _TEXT, "`last_id` of the previous response."),
    ]


def _refer(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_KEY_FILTERS = [
    _in_query("status", {"enum": ["active", "expired", "revoked"]}, "Only keys in this state."),
    _in_query("team", _TEXT, "Only keys of this team."),
]
_SPENDING: Mapping[str, Any] = {
    "allOf": [_refer("VirtualKey"), {"properties": {"spending": {"type": "array", "items": _refer("Spending")}}}],
}
"""Schema: a virtual key with the used amounts of its budgets in the present period."""
_NEW: Mapping[str, Any] = {
    "allOf": [_refer("VirtualKey"), {"properties": {"key": _TEXT}, "required": ["key"]}],
}
"""Schema: a virtual key with its text, which only the response to its creation or rotation contains."""
