"""Rows of the table: schemas of tools and of replies, which a client controls."""

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.growth.measure import Row
from tests.growth.operations import reply, request
from tests.growth.rows_replies import CHECKED
from tests.support.replies import Reply

WIRES = ("server", "responses", "gemini", "gemini 1", "ollama")
REPLY_WIRES = ("responses", "gemini", *CHECKED)
"""Wires of reply schemas: the others convert them with the functions of their tools."""
MAX_REPLY_N = 200
"""Size of a reply schema at n: its check is refused above 300,000 steps, which large sizes reach at n."""
Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
KEYWORDS = ("anyOf", "oneOf", "allOf")


def tool_schema(make: Callable[[int], Schema]) -> Callable[[int], dict[str, Any]]:
    return lambda n: {"tools": [{"name": "Read", "input_schema": {"type": "object", **make(n)}}]}


def reply_schema(make: Callable[[int], Schema]) -> Callable[[int], dict[str, Any]]:
    return lambda n: {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object", **make(n)}}}}


def prop(schema: Schema, **more: Any) -> Schema:
    return {"properties": {"a": schema}, **more}


def ref(name: object) -> Schema:
    return {"$ref": f"#/$defs/d{name}"}


def many(make: Callable[[int], Any]) -> Callable[[int], list[Any]]:
    return lambda n: [make(number) for number in range(n)]


def named(make: Callable[[int], Any], name: str = "p") -> Callable[[int], Schema]:
    return lambda n: {f"{name}{number}": make(number) for number in range(n)}


def nested(wrap: Callable[[Schema], Schema]) -> Callable[[int], Schema]:
    def build(n: int) -> Schema:
        schema = TEXT
        for _ in range(n):
            schema = wrap(schema)
        return prop(schema)

    return build


def chained(link: Callable[[Schema], Schema], last: Schema = TEXT) -> Callable[[int], Schema]:
    """Return a property with n definitions that each contain the next one. `link`: the content around a reference."""
    return lambda n: prop(ref(0), **{"$defs": {**named(lambda i: link(ref(i + 1)), "d")(n), f"d{n}": last}})


def repeated(large: Callable[[int], Schema]) -> Callable[[int], Schema]:
    """Return n references to a definition of size n."""
    return lambda n: {"properties": named(lambda i: ref(""))(n), "$defs": {"d": large(n)}}


def same_property(keyword: str, n: int) -> Schema:
    """Return parts that all describe the same property differently, at the root and in a property."""
    parts = [{"properties": {"p": {"type": "string", "title": f"{number}"}}} for number in range(n)]
    return prop({"type": "object", keyword: parts}, **{keyword: parts})


def eight_levels(keyword: str, n: int) -> Schema:
    """Return a root with eight levels of definitions, each with n different references to the next."""
    level = lambda i: {keyword: [{**ref(i + 1), "title": f"{number}"} for number in range(n)]}  # noqa: E731
    return {**ref(0), "$defs": {**named(level, "d")(8), "d8": {"properties": {"x": TEXT}}}}


def in_each_other(keyword: str, n: int) -> Schema:
    """Return a root that refers to two definitions, which refer to each other n times."""
    defs = {f"d{i}": {keyword: [ref(1 - i)] * n, "properties": {f"x{i}": TEXT}} for i in (0, 1)}
    return {keyword: [ref(0)] * n, "$defs": defs}


def surrounded(below: Schema) -> Schema:
    return {"type": "object", "properties": {"next": below}, "anyOf": [prop(TEXT), {"properties": {"b": TEXT}}]}


SCHEMAS: dict[str, tuple[Callable[[int], Schema], int]] = {
    "properties": (lambda n: {"properties": named(lambda i: TEXT)(n)}, 1_600),
    "required": (lambda n: {"properties": named(lambda i: {})(n), "required": many(lambda i: f"p{i}")(n)}, 200),
    "depth of properties": (nested(lambda s: {"type": "object", "properties": {"a": s}}), 8),
    "depth of items": (nested(lambda s: {"type": "array", "items": s}), 8),
    "depth of unions": (nested(lambda s: {"anyOf": [s, {"type": "null"}]}), 6),
    "depth of kinds": (nested(lambda s: {"type": ["array", "string", "object"], "items": s}), 5),
    "depth of kinds with properties": (nested(lambda s: {"type": ["object", "array"], "items": TEXT, **prop(s)}), 5),
    "depth of alternatives with properties": (nested(surrounded), 4),
    "alternatives": (lambda n: prop({"anyOf": many(lambda i: {"const": i})(n)}), 100),
    "alternatives at the root": (lambda n: {"anyOf": many(lambda i: {"properties": {f"p{i}": {}}})(n)}, 80),
    **{f"{word} of the root": (lambda n, word=word: {word: [{"$ref": "#"}] * n}, 2) for word in KEYWORDS},
    **{f"{word} of two definitions in each other": (partial(in_each_other, word), 2) for word in KEYWORDS},
    **{f"eight levels of {word}": (partial(eight_levels, word), 2) for word in ("anyOf", "allOf")},
    **{f"{word} of the same property": (partial(same_property, word), 50) for word in ("anyOf", "allOf")},
    "allOf": (
        lambda n: prop({"allOf": many(lambda i: {"properties": {f"p{i}": {}}, "required": [f"p{i}"]})(n)}),
        50,
    ),
    "enum": (lambda n: prop({"enum": many(lambda i: f"v{i}")(n)}), 800),
    "prefixItems": (lambda n: prop({"type": "array", "prefixItems": many(lambda i: {"const": i})(n)}), 800),
    "patternProperties": (lambda n: {"patternProperties": named(lambda i: {}, "^p")(n)}, 100),
    "dependentSchemas": (lambda n: {"dependentSchemas": named(lambda i: {"required": ["a"]})(n)}, 100),
    "length of a pattern": (lambda n: prop({"type": "string", "pattern": "(a*)*" * n}), 500),
    "length of a description": (lambda n: prop({"type": "string", "description": "word " * n}), 5_000),
    "definitions": (lambda n: prop(ref(0), **{"$defs": named(lambda i: TEXT, "d")(n)}), 1_600),
    "references": (repeated(lambda n: TEXT), 1_600),
    "references to a large definition": (repeated(lambda n: {"enum": many(lambda i: f"v{i}")(n)}), 200),
    "references to a wide definition": (repeated(lambda n: {"properties": named(lambda i: TEXT)(n)}), 200),
    "references to long texts": (repeated(lambda n: {"type": "string", "description": "x" * 10 * n}), 100),
    "chain of references": (chained(lambda below: below, {}), 20),
    "chain of definitions": (chained(prop), 20),
    "doubling definitions": (chained(lambda s: {"type": "object", "properties": {"a": s, "b": s}}), 4),
    **{f"doubling {word}": (chained(lambda s, word=word: {word: [s, s]}), 4) for word in ("anyOf", "allOf")},
    "cyclic definitions": (
        lambda n: prop(ref(0), **{"$defs": named(lambda i: prop(ref((i + 1) % n)), "d")(n)}),
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
