"""`qualifies_for_strict`: checks that a JSON Schema obeys the rules of OpenAI's strict mode (Structured Outputs).

In strict mode, the arguments of a tool call always match the schema.
"""

from typing import Any

from anthropic_proxy.wire.json_schema.document import Schema

_STRICT = frozenset(
    (
        *("type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const"),
        *("$ref", "$defs", "definitions", "title", "description", "pattern", "format", "multipleOf"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"),
    )
)
"""Keywords that OpenAI's strict mode accepts (platform.openai.com, Structured Outputs, "Supported schemas"; 2026-11).
"""


def qualifies_for_strict(schema: Any) -> bool:
    """Return True if a schema, cleaned by `clean_schema`, may be sent with `strict: true`."""
    # Each object must require all its properties and forbid others. Each keyword must be accepted by strict mode.
    open_schemas = [schema]
    while open_schemas:
        one = open_schemas.pop()
        if not isinstance(one, dict) or not _STRICT.issuperset(one) or not _is_closed(one):
            return False
        for key in ("properties", "$defs", "definitions"):
            named = one.get(key, {})
            if not isinstance(named, dict):
                return False
            open_schemas += named.values()
        alternatives = one.get("anyOf", [])
        if not isinstance(alternatives, list):
            return False
        open_schemas += alternatives
        if "items" in one:
            open_schemas.append(one["items"])
    return True


def _is_closed(schema: Schema) -> bool:
    """Return True if a schema has a type. An object must also require all its properties and forbid others.

    `anyOf`, `$ref`, `enum` and `const` count as a type.
    """
    if schema.get("type") == "object" or "properties" in schema:
        names, required = schema.get("properties", {}), schema.get("required")
        if not isinstance(names, dict) or schema.get("additionalProperties") is not False:
            return False
        return names.keys() == {
            name for name in (required if isinstance(required, list) else ()) if isinstance(name, str)
        }
    return "type" in schema or bool({"anyOf", "$ref", "enum", "const"} & schema.keys())
