"""Schemas that multiply in conversion: small texts that describe large trees."""

import json
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]
TEXT = {"type": "string"}


def root_references(keyword: str, count: int) -> Schema:
    """Return a root with alternatives that are all the root."""
    return {"type": "object", keyword: [{"$ref": "#"}] * count}


def cyclic_definitions(keyword: str, count: int) -> Schema:
    """Return a root that refers to two definitions, which refer to each other `count` times."""
    defs = {
        "a": {keyword: [{"$ref": "#/$defs/b"}] * count, "properties": {"x": TEXT}},
        "b": {keyword: [{"$ref": "#/$defs/a"}] * count, "properties": {"y": TEXT}},
    }
    return {"type": "object", keyword: [{"$ref": "#/$defs/a"}] * count, "$defs": defs}


def root_levels(keyword: str, count: int) -> Schema:
    """Return a root with eight levels of definitions, each with `count` different references to the next."""
    defs: Schema = {
        f"d{level}": {keyword: [{"$ref": f"#/$defs/d{level + 1}", "title": f"{number}"} for number in range(count)]}
        for level in range(8)
    }
    return {"type": "object", "$ref": "#/$defs/d0", "$defs": {**defs, "d8": {"properties": {"x": TEXT}}}}


def doubling(keyword: str, levels: int) -> Schema:
    """Return a property with a definition that refers to the next one twice, and so on."""
    defs: Schema = {
        f"d{level}": {"type": "object", "properties": {side: {"$ref": f"#/$defs/d{level + 1}"} for side in "ab"}}
        for level in range(levels)
    }
    if keyword != "properties":
        defs = {f"d{level}": {keyword: [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(levels)}
    return {"type": "object", "properties": {"p": {"$ref": "#/$defs/d0"}}, "$defs": {**defs, f"d{levels}": TEXT}}


def wide_definition(references: int, width: int) -> Schema:
    """Return properties that all refer to one definition with many properties."""
    wide = {"type": "object", "properties": {f"p{number}": TEXT for number in range(width)}}
    properties = {f"r{number}": {"$ref": "#/properties/wide"} for number in range(references)}
    return {"type": "object", "properties": {"wide": wide, **properties}}


def long_texts(references: int, characters: int) -> Schema:
    """Return properties that all refer to one definition with a long description and many values."""
    long = {"type": "string", "description": "x" * characters, "enum": [f"{n:08}" for n in range(characters // 10)]}
    properties = {f"r{number}": {"$ref": "#/properties/long"} for number in range(references)}
    return {"type": "object", "properties": {"long": long, **properties}}


def type_unions(levels: int) -> Schema:
    """Return lists in lists with a union as type at each level."""
    schema: Schema = TEXT
    for _ in range(levels):
        schema = {"type": ["array", "string", "object"], "items": schema}
    return {"type": "object", "properties": {"a": schema}}


def object_unions(levels: int) -> Schema:
    """Return objects in objects with a union as type at each level."""
    schema: Schema = TEXT
    for _ in range(levels):
        schema = {"type": ["object", "array"], "properties": {"a": schema}, "items": TEXT}
    return {"type": "object", "properties": {"a": schema}}


def surrounded_alternatives(levels: int) -> Schema:
    """Return objects with alternatives that each need the properties around them."""
    schema: Schema = TEXT
    for _ in range(levels):
        alternatives = [{"properties": {side: TEXT}} for side in "xy"]
        schema = {"type": "object", "properties": {"next": schema}, "anyOf": alternatives}
    return {"type": "object", "properties": {"a": schema}}


def tuple_items(count: int) -> Schema:
    """Return a list with a different schema for each place."""
    places = [{"type": "string", "description": f"{number}"} for number in range(count)]
    return {"type": "object", "properties": {"a": {"type": "array", "prefixItems": places}}}


def many_parts(count: int) -> Schema:
    """Return an `allOf` with parts that each add a property and a required name."""
    parts = [{"properties": {f"p{number}": TEXT}, "required": [f"p{number}"]} for number in range(count)]
    return {"type": "object", "properties": {"a": {"type": "object", "allOf": parts}}}


def same_property(count: int, keyword: str = "allOf") -> Schema:
    """Return parts that all describe the same property differently."""
    parts = [{"properties": {"p": {"type": "string", "title": f"{number}"}}} for number in range(count)]
    return {"type": "object", "properties": {"a": {"type": "object", keyword: parts}}, keyword: parts}


def chain(count: int) -> Schema:
    """Return definitions of which each contains the next."""
    defs: Schema = {f"d{n}": {"properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}} for n in range(count)}
    return {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": {**defs, f"d{count}": TEXT}}


def plain_chain(count: int) -> Schema:
    """Return definitions of which each is a reference to the next, and a property that refers to each."""
    defs: Schema = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(count)}
    properties = {f"p{n}": {"$ref": f"#/$defs/d{n}"} for n in range(count)}
    return {"type": "object", "properties": properties, "$defs": {**defs, f"d{count}": TEXT}}


GROWING: dict[str, Callable[[int], Schema]] = {
    **{f"{keyword} of the root in the root": lambda n, k=keyword: root_references(k, n)
       for keyword in ("anyOf", "oneOf", "allOf")},
    **{f"{keyword} of two definitions in each other": lambda n, k=keyword: cyclic_definitions(k, n)
       for keyword in ("anyOf", "oneOf", "allOf")},
    **{f"eight levels of {keyword}": lambda n, k=keyword: root_levels(k, n) for keyword in ("anyOf", "allOf")},
    **{f"doubling {keyword}": lambda n, k=keyword: doubling(k, n) for keyword in ("properties", "anyOf", "allOf")},
    "references to a wide definition": lambda n: wide_definition(n, n),
    "references to long texts": lambda n: long_texts(n, 10 * n),
    "unions with items": type_unions,
    "unions with properties": object_unions,
    "alternatives with properties around them": surrounded_alternatives,
    "tuples": tuple_items,
    "parts of allOf": many_parts,
    "parts with the same property": same_property,
    "alternatives with the same property": lambda n: same_property(n, "anyOf"),
    "a chain of definitions": chain,
    "a chain of references": plain_chain,
}  # fmt: skip
"""Kind of schema → the schema at a size."""


def encoded(schema: Schema) -> bytes:
    """Return a schema as the JSON text of a client."""
    return json.dumps(schema, separators=(",", ":")).encode()
