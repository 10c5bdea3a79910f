"""Checks of values in the configuration file against the types of struct fields, and texts about the allowed values.

A table is a `StructType` (fixed fields) or a `DictType` (names that users choose).
"""

from functools import cache
from typing import Any

import msgspec
from msgspec import inspect
from msgspec.inspect import DictType, StructType

from anthropic_proxy.errors import join_with_or

__all__ = [
    "DictType",
    "StructType",
    "describe_type",
    "drop_invalid_fields",
    "find_item_struct",
    "find_table_type",
    "find_value_struct",
    "has_type",
    "list_allowed_texts",
]


def has_type(value: object, expected: Any) -> bool:
    try:
        msgspec.convert(value, expected)
    except msgspec.ValidationError:
        return False
    return True


def drop_invalid_fields(value: object, expected: Any) -> object:
    """Return the valid fields, or None if the value is invalid as a whole."""
    kind = find_table_type(expected) if isinstance(value, dict) else None
    if isinstance(value, dict) and isinstance(kind, StructType):
        types = {field.name: field.type for field in msgspec.structs.fields(kind.cls)}
        kept = {name: drop_invalid_fields(item, types[name]) for name, item in value.items() if name in types}
    elif isinstance(value, dict) and isinstance(kind, DictType):
        kept = {name: drop_invalid_fields(item, find_value_struct(kind)) for name, item in value.items()}
    else:
        return value if has_type(value, expected) else None
    return {name: item for name, item in kept.items() if item is not None}


@cache
def find_table_type(expected: Any) -> StructType | DictType | None:
    """Return None if the type permits no table, or one whose values are no tables."""
    for each in _alternatives(inspect.type_info(expected)):
        if isinstance(each, StructType) or (isinstance(each, DictType) and isinstance(each.value_type, StructType)):
            return each
    return None


@cache
def find_item_struct(expected: Any) -> Any:
    """The class of the tables in a list such as `[[routes]]`. None: the field accepts no such list."""
    for each in _alternatives(inspect.type_info(expected)):
        if isinstance(each, inspect.ListType) and isinstance(each.item_type, StructType):
            return each.item_type.cls
    return None


def find_value_struct(dict_type: DictType) -> Any:
    assert isinstance(dict_type.value_type, StructType)
    return dict_type.value_type.cls


def list_allowed_texts(expected: Any) -> list[str]:
    """The texts of a `Literal`."""
    alternatives = _alternatives(inspect.type_info(expected))
    return [str(word) for each in alternatives if isinstance(each, inspect.LiteralType) for word in each.values]


def describe_type(expected: Any) -> str:
    """`true or false`, `a list of texts in quotes`"""
    return _describe(inspect.type_info(expected))


def _describe(kind: inspect.Type) -> str:
    match kind:
        case inspect.UnionType(types=types):
            return join_with_or([_describe(each) for each in types if not isinstance(each, inspect.NoneType)])
        case inspect.LiteralType(values=values):
            return join_with_or([f'"{value}"' for value in values])
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType(ge=minimum, le=maximum) if minimum is not None and maximum is not None:
            return f"a whole number from {minimum} to {maximum}"
        case inspect.IntType():
            return "a whole number"
        case inspect.FloatType(gt=minimum, le=maximum) if minimum is not None and maximum is not None:
            return f"a number above {minimum:g} and up to {maximum:,g}"
        case inspect.FloatType():
            return "a number of at least 0"
        case inspect.DateType():
            return "a date without quotes, such as 2026-10-31"
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return f"a list, each item {_describe(item)}"
        case inspect.TupleType(item_types=items):
            return f"a list of {len(items)} items: {', '.join(_describe(item) for item in items)}"
        case DictType() | StructType():
            return "a table"
        case _:
            return "a text in quotes"


def _alternatives(kind: inspect.Type) -> list[inspect.Type]:
    return list(kind.types) if isinstance(kind, inspect.UnionType) else [kind]
