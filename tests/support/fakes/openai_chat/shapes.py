"""Check of a request body against the types of the official SDK: unknown fields and wrong types are reported.

The SDK's request types are typed dictionaries. This module walks their annotations, because a validator built from them
would read `Iterable` lazily and would not name an error the way the real server does.
"""

import functools
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import typing_extensions
from openai.types.chat import completion_create_params

from tests.support.fakes.server import ContractViolation

_NAMES = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "an integer", float: "a number"}


def _name(value: Any) -> str:
    return "null" if value is None else _NAMES.get(type(value), type(value).__name__)


def _is_fields(hint: Any) -> bool:
    return typing_extensions.is_typeddict(hint)


@functools.cache
def _fields(hint: Any) -> tuple[dict[str, Any], set[str]]:
    """Return the hints of a typed dictionary's fields, and the names of those that must be there."""
    fields, required = {}, set()
    for name, field in typing_extensions.get_type_hints(hint, include_extras=True).items():
        origin = get_origin(field)
        if origin is typing_extensions.Required:
            required.add(name)
        wrapped = origin in (typing_extensions.Required, typing_extensions.NotRequired)
        fields[name] = get_args(field)[0] if wrapped else field
    return fields, required


def _choices(hint: Any) -> list[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        return [one for part in get_args(hint) for one in _choices(part)]
    return [hint]


def _expects(hint: Any) -> str:
    origin = get_origin(hint) or hint
    if _is_fields(hint) or origin is dict:
        return "an object"
    if origin is Literal:
        return _name(get_args(hint)[0])
    return _NAMES.get(origin, "null" if origin is type(None) else "an array")


def _fits(value: Any, hint: Any) -> bool:
    expected = _expects(hint)
    return hint is object or _name(value) == expected or (expected == "a number" and type(value) is int)


def _matches_tag(value: dict[str, Any], hint: Any) -> bool:
    for name, field in _fields(hint)[0].items():
        if name in ("type", "role") and get_origin(field) is Literal and value.get(name) not in get_args(field):
            return False
    return True


def _check_fields(value: dict[str, Any], hint: Any, path: str) -> Iterator[ContractViolation]:
    fields, required = _fields(hint)
    for name in value:
        if name not in fields:
            if path:
                where = f"{path}.{name}"
                yield ContractViolation("unknown_field", f"Unknown parameter: '{where}'.", where, "unknown_parameter")
            else:
                yield ContractViolation("unknown_field", f"Unrecognized request argument supplied: {name}")
    for name, field in fields.items():
        where = f"{path}.{name}" if path else name
        if name in value:
            yield from check(value[name], field, where)
        elif name in required:
            yield ContractViolation(
                "missing", f"Missing required parameter: '{where}'.", where, "missing_required_parameter"
            )


def _check_choice(value: Any, hint: Any, path: str) -> Iterator[ContractViolation]:
    choices = _choices(hint)
    fitting = [choice for choice in choices if _fits(value, choice)]
    if not fitting:
        kinds = list(dict.fromkeys(_expects(choice) for choice in choices if choice is not type(None)))
        expected = kinds[0] if len(kinds) == 1 else f"one of {', '.join(kinds[:-1])} or {kinds[-1]}"
        text = f"Invalid type for '{path}': expected {expected}, but got {_name(value)} instead."
        yield ContractViolation("type", text, path, "invalid_type")
        return
    if isinstance(value, dict) and any(_is_fields(choice) for choice in fitting):
        fitting = [choice for choice in fitting if not _is_fields(choice) or _matches_tag(value, choice)]
        if not fitting:
            key = "role" if path.startswith("messages[") and path.endswith("]") and "." not in path else "type"
            if key not in value:
                where = f"{path}.{key}"
                yield ContractViolation(
                    "missing", f"Missing required parameter: '{where}'.", where, "missing_required_parameter"
                )
                return
            text = f"Invalid value: '{value.get(key)}' is not supported at '{path}.{key}'."
            yield ContractViolation("value", text, f"{path}.{key}", "invalid_value")
            return
    yield from min((list(_check_one(value, choice, path)) for choice in fitting), key=len)


def _check_one(value: Any, hint: Any, path: str) -> Iterator[ContractViolation]:
    origin = get_origin(hint)
    if _is_fields(hint):
        yield from _check_fields(value, hint, path)
    elif origin is Literal and value not in get_args(hint):
        supported = ", ".join(f"'{one}'" for one in get_args(hint))
        text = f"Invalid value: '{value}'. Supported values are: {supported}."
        yield ContractViolation("value", text, path, "invalid_value")
    elif origin is dict:
        for key, inner in value.items():
            yield from check(inner, get_args(hint)[1], f"{path}.{key}")
    elif isinstance(value, list) and get_args(hint):
        for position, inner in enumerate(value):
            yield from check(inner, get_args(hint)[0], f"{path}[{position}]")


def check(value: Any, hint: Any, path: str) -> Iterator[ContractViolation]:
    """Yield where a value differs from an annotation; `path` is its place as the real server writes it."""
    yield from _check_choice(value, hint, path)


class ChatRequest(completion_create_params.CompletionCreateParamsBase, total=False):  # type: ignore[call-arg]
    """The SDK's fields of a Chat Completions request, with the one that it declares twice."""

    stream: bool | None


def check_fields(body: dict[str, Any], request: Any) -> Iterator[ContractViolation]:
    yield from _check_fields(body, request, "")


def check_request(body: dict[str, Any]) -> Iterator[ContractViolation]:
    yield from check_fields(body, ChatRequest)
