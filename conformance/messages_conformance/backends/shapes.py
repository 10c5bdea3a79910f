"""The fields and types of a request as JSON Schema, and what a body breaks of them.

Objects are closed: a field that the provider does not know is an error. Fields with the value null are missing.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

Schema = Mapping[str, Any] | bool
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
FREE: Schema = {"type": "object"}
"""An object with any fields."""
ANY: Schema = True


@dataclass(frozen=True)
class Breach:
    """A place where a body has another shape."""

    rule: Literal["unknown_field", "missing", "type", "value"]
    path: tuple[str | int, ...]
    """Path of the field, also of one that is missing."""
    allowed: Sequence[Any] = ()
    """The types or values that are allowed there."""
    value: Any = None


def closed(required: Mapping[str, Schema], optional: Mapping[str, Schema]) -> Schema:
    """Return the schema of an object with these fields only."""
    properties = {**required, **optional}
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def listed(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def either(texts: Schema, others: Schema) -> Schema:
    """Return the schema of a value that is a text or something else."""
    return {"if": {"type": "string"}, "then": texts, "else": others}


def tagged(tag: str, kinds: Mapping[str, Schema], *, default: str = "") -> Schema:
    """Return the schema of an object whose field `tag` says which fields it has. `default`: the kind without a tag."""
    choices = [
        {"if": {"properties": {tag: {"const": kind}}, "required": [tag]}, "then": schema}
        for kind, schema in kinds.items()
    ]
    if default:
        choices.append({"if": {"required": [tag]}, "then": True, "else": kinds[default]})
    required = [] if default else [tag]
    return {
        "type": "object",
        "required": required,
        "properties": {tag: {"type": "string", "enum": list(kinds)}},
        "allOf": choices,
    }


def find_breaches(body: Any, schema: Schema) -> Iterator[Breach]:
    """Yield the breaches of a body, those nearest to its beginning first."""
    errors = Draft202012Validator(schema).iter_errors(without_nulls(body))
    for error in sorted(errors, key=lambda error: [str(step) for step in error.absolute_path]):
        yield from _read(error)


def _read(error: ValidationError) -> Iterator[Breach]:
    path = tuple(error.absolute_path)
    schema: Any = error.schema
    wanted: Any = error.validator_value
    instance: Any = error.instance
    match error.validator:
        case "additionalProperties":
            yield from (Breach("unknown_field", (*path, name)) for name in instance if name not in schema["properties"])
        case "required":
            missing = (name for name in wanted if name not in instance)
            yield Breach("missing", (*path, next(name for name in missing if f"'{name}'" in error.message)))
        case "type":
            yield Breach("type", path, [wanted], instance)
        case _:
            yield Breach("value", path, wanted if error.validator == "enum" else [wanted], instance)


def without_nulls(value: Any, free: Collection[str] = ()) -> Any:
    """Return a JSON value without the fields that are null, at every depth. `free`: names of objects that stay."""
    if isinstance(value, dict):
        return {
            name: inner if name in free and isinstance(inner, dict) else without_nulls(inner, free)
            for name, inner in value.items()
            if inner is not None
        }
    return [without_nulls(inner, free) for inner in value] if isinstance(value, list) else value
