"""Parameters of the routes of both APIs, and the common parts of their OpenAPI documents."""

from collections.abc import Mapping, Sequence
from typing import Any

from anthropic_proxy import __version__
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.plugins import RouteRequest, RouteResponse

MAX_ROWS = 1_000
Schema = dict[str, Any]


def require_database_text(name: str, value: str) -> None:
    # for SQLite, a pattern of LIKE ends at a null character; PostgreSQL rejects the query
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidRequest(f"{name}: the value contains a character that no text has.", code="dashboard-parameter")


def parameter_error(text: str) -> InvalidRequest:
    return InvalidRequest(text, code="ledger-parameter")


class ApiQuery:
    """Query parameters of one HTTP request. The constructor raises `InvalidRequest` (400) if the URL has another name
    than the `known` ones, or a value with characters that databases reject.
    """

    def __init__(self, request: RouteRequest, known: Sequence[str]) -> None:
        unknown = next((name for name in request.query if name not in known), None)
        if unknown is not None:
            raise parameter_error(f"{unknown!r} is not a parameter of {request.path}. Use {', '.join(known)}.")
        self.values = {name: values[-1] for name, values in request.query.items()}
        for name, value in self.values.items():
            require_database_text(name, value)

    def read_limit(self, default: int) -> int:
        text = self.values.get("limit", str(default))
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= MAX_ROWS):
            raise parameter_error(f"limit is {text!r}. Use a whole number from 1 to {MAX_ROWS:,}.")
        return int(text)


def build_openapi(
    title: str, description: str, paths: Schema, schemas: Mapping[str, Any], *, needs_key: bool = True
) -> Schema:
    return {
        "openapi": "3.1.0",
        "info": {"title": f"anthropic-proxy: {title}", "version": __version__, "description": description},
        "security": [*([] if needs_key else [{}]), {"key": []}, {"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "token": {"type": "http", "scheme": "bearer"},
            },
            "schemas": schemas,
        },
    }


def build_operation(
    name: str,
    summary: str,
    content: Mapping[str, Schema],
    errors: Mapping[str, str],
    parameters: Sequence[Schema] = (),
    *,
    body: str = "",
) -> Schema:
    """`content`: media type → schema of a success. `errors`: status → what it means. `body`: name of a schema."""
    failure = {"application/json": {"schema": refer_to("Error")}}
    success = {kind: {"schema": schema} for kind, schema in content.items()}
    responses: Schema = {"200": {"description": "Success", "content": success}}
    responses |= {status: {"description": text, "content": failure} for status, text in errors.items()}
    sent = {"required": True, "content": {"application/json": {"schema": refer_to(body)}}} if body else None
    operation = {"operationId": name, "summary": summary, "parameters": list(parameters), "responses": responses}
    return {key: value for key, value in {**operation, "requestBody": sent}.items() if value}


def build_json_response(body: bytes) -> RouteResponse:
    return RouteResponse(headers={"content-type": "application/json", "cache-control": "no-store"}, body=body)


def build_parameter(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def build_object(properties: Mapping[str, Any], required: Sequence[str] = (), description: str = "") -> Schema:
    text = {"description": description} if description else {}
    return {"type": "object", **text, "properties": properties, **({"required": list(required)} if required else {})}


def refer_to(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
