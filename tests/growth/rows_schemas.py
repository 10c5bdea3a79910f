"""Rows of the table: schemas of tools and of replies, which a client controls."""

from collections.abc import Callable
from typing import Any

from tests.growth.exchange import reply, request
from tests.growth.replies import Reply
from tests.growth.table import CHECKED, Row

WIRES = ("server", "responses", "gemini", "gemini 1", "ollama")
REPLY_WIRES = ("responses", "gemini", *CHECKED)
"""Wires of reply schemas: the others convert them with the functions of their tools."""
MAX_REPLY_N = 200
"""Size of a reply schema at n: its check is refused above 300,000 steps, which large sizes reach at n."""
Schema = dict[str, Any]


def tool_schema(make: Callable[[int], Schema]) -> Callable[[int], dict[str, Any]]:
    return lambda n: {"tools": [{"name": "Read", "input_schema": {"type": "object", **make(n)}}]}


def reply_schema(make: Callable[[int], Schema]) -> Callable[[int], dict[str, Any]]:
    return lambda n: {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object", **make(n)}}}}


def property_a(schema: Schema) -> Schema:
    return {"properties": {"a": schema}}


def nested(n: int, wrap: Callable[[Schema], Schema]) -> Schema:
    schema: Schema = {"type": "string"}
    for _ in range(n):
        schema = wrap(schema)
    return schema


def doubling(n: int) -> Schema:
    definitions = {
        f"d{i}": {
            "type": "object",
            "properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}, "b": {"$ref": f"#/$defs/d{i + 1}"}},
        }
        for i in range(n)
    }
    return {**property_a({"$ref": "#/$defs/d0"}), "$defs": {**definitions, f"d{n}": {"type": "string"}}}


SCHEMAS: dict[str, tuple[Callable[[int], Schema], int]] = {
    "properties": (lambda n: {"properties": {f"p{i}": {"type": "string"} for i in range(n)}}, 1_600),
    "required": (
        lambda n: {"properties": {f"p{i}": {} for i in range(n)}, "required": [f"p{i}" for i in range(n)]},
        200,
    ),
    "depth of properties": (lambda n: nested(n, lambda s: {"type": "object", "properties": {"a": s}}), 8),
    "depth of items": (lambda n: property_a(nested(n, lambda s: {"type": "array", "items": s})), 8),
    "depth of unions": (lambda n: property_a(nested(n, lambda s: {"anyOf": [s, {"type": "null"}]})), 6),
    "depth of kinds": (
        lambda n: property_a(nested(n, lambda s: {"type": ["array", "string", "object"], "items": s})),
        5,
    ),
    "alternatives": (lambda n: property_a({"anyOf": [{"const": i} for i in range(n)]}), 100),
    "alternatives at the root": (lambda n: {"anyOf": [{"properties": {f"p{i}": {}}} for i in range(n)]}, 80),
    "references to the root": (lambda n: {"anyOf": [{"$ref": "#"}] * n}, 2),
    "allOf": (lambda n: property_a({"allOf": [{"properties": {f"p{i}": {}}} for i in range(n)]}), 50),
    "enum": (lambda n: property_a({"enum": [f"v{i}" for i in range(n)]}), 800),
    "prefixItems": (lambda n: property_a({"type": "array", "prefixItems": [{"const": i} for i in range(n)]}), 800),
    "patternProperties": (lambda n: {"patternProperties": {f"^p{i}": {} for i in range(n)}}, 100),
    "dependentSchemas": (lambda n: {"dependentSchemas": {f"p{i}": {"required": ["a"]} for i in range(n)}}, 100),
    "length of a pattern": (lambda n: property_a({"type": "string", "pattern": "(a*)*" * n}), 500),
    "length of a description": (lambda n: property_a({"type": "string", "description": "word " * n}), 5_000),
    "definitions": (
        lambda n: {**property_a({"$ref": "#/$defs/d0"}), "$defs": {f"d{i}": {"type": "string"} for i in range(n)}},
        1_600,
    ),
    "references": (
        lambda n: {
            "properties": {f"p{i}": {"$ref": "#/$defs/d"} for i in range(n)},
            "$defs": {"d": {"type": "string"}},
        },
        1_600,
    ),
    "references to a large definition": (
        lambda n: {
            "properties": {f"p{i}": {"$ref": "#/$defs/d"} for i in range(n)},
            "$defs": {"d": {"enum": [f"v{i}" for i in range(n)]}},
        },
        200,
    ),
    "chain of references": (
        lambda n: {
            **property_a({"$ref": "#/$defs/d0"}),
            "$defs": {**{f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(n)}, f"d{n}": {}},
        },
        20,
    ),
    "doubling definitions": (doubling, 4),
    "cyclic definitions": (
        lambda n: {
            **property_a({"$ref": "#/$defs/d0"}),
            "$defs": {f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{(i + 1) % n}"}}} for i in range(n)},
        },
        80,
    ),
}
"""Dimension → builder and n."""

ROWS = [
    *(Row(f"schema: {name}", WIRES, request(tool_schema(make)), n) for name, (make, n) in SCHEMAS.items()),
    *(
        Row(f"reply schema: {name}", REPLY_WIRES, request(reply_schema(make)), min(n, MAX_REPLY_N))
        for name, (make, n) in SCHEMAS.items()
    ),
    Row(
        "fields of a checked reply",
        CHECKED,
        reply(
            lambda n: Reply(texts=["{" + ",".join(f'"p{i}":1' for i in range(n)) + "}"]),
            "whole",
            **reply_schema(lambda n: {})(0),
        ),
    ),
]
"""One line per dimension."""
