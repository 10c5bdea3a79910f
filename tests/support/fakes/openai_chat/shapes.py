"""Check of a request body against the types of the official SDK: unknown fields and wrong types are reported."""

import types
from collections.abc import Iterator
from typing import Any

from openai.types.chat import completion_create_params

from tests.support.fakes.declared_types import Alternative, Declared, read_fields
from tests.support.fakes.server import ContractViolation

_NAMES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    types.NoneType: "null",
}


def _name(value: Any) -> str:
    return _NAMES[type(value)]


def _check_fields(value: dict[str, Any], hint: Any, path: str) -> Iterator[ContractViolation]:
    fields = read_fields(hint)
    for name in value:
        if name not in fields.types:
            if path:
                where = f"{path}.{name}"
                yield ContractViolation("unknown_field", f"Unknown parameter: '{where}'.", where, "unknown_parameter")
            else:
                yield ContractViolation("unknown_field", f"Unrecognized request argument supplied: {name}")
    for name, field in fields.types.items():
        where = f"{path}.{name}" if path else name
        if name in value:
            yield from _check(value[name], field, where)
        elif name in fields.required:
            yield ContractViolation(
                "missing", f"Missing required parameter: '{where}'.", where, "missing_required_parameter"
            )


def _matches_tags(value: dict[str, Any], choice: Alternative) -> bool:
    """Return whether the value is this member of a union. A reference to an item may have no type."""
    fields = choice.fields
    for name, values in fields.tags.items():
        if value.get(name) not in values and len(fields.types[name].alternatives) == 1:
            return False
    return True


def _check(value: Any, declared: Declared, path: str) -> Iterator[ContractViolation]:
    fitting = declared.list_fitting(value)
    if not fitting:
        names = (_NAMES[choice.kind] for choice in declared.alternatives if choice.kind not in (None, types.NoneType))
        kinds = list(dict.fromkeys(names))
        expected = kinds[0] if len(kinds) == 1 else f"one of {', '.join(kinds[:-1])} or {kinds[-1]}"
        text = f"Invalid type for '{path}': expected {expected}, but got {_name(value)} instead."
        yield ContractViolation("type", text, path, "invalid_type")
        return
    if isinstance(value, dict) and any(choice.is_fields for choice in fitting):
        fitting = [choice for choice in fitting if not choice.is_fields or _matches_tags(value, choice)]
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
    yield from min((list(_check_choice(value, choice, path)) for choice in fitting), key=len)


def _check_choice(value: Any, choice: Alternative, path: str) -> Iterator[ContractViolation]:
    if choice.is_fields:
        yield from _check_fields(value, choice.hint, path)
    elif choice.literals:
        if value not in choice.literals:
            supported = ", ".join(f"'{literal}'" for literal in choice.literals)
            text = f"Invalid value: '{value}'. Supported values are: {supported}."
            yield ContractViolation("value", text, path, "invalid_value")
    elif choice.inner is not None and isinstance(value, dict):
        for key, inner in value.items():
            yield from _check(inner, choice.inner, f"{path}.{key}")
    elif choice.inner is not None and isinstance(value, list):
        for position, inner in enumerate(value):
            yield from choice.inner.check_once(inner, _check(inner, choice.inner, f"{path}[{position}]"))


class ChatRequest(completion_create_params.CompletionCreateParamsBase, total=False):  # type: ignore[call-arg]
    """The SDK's fields of a Chat Completions request, with the one that it declares twice."""

    stream: bool | None


def check_fields(body: dict[str, Any], request: Any) -> Iterator[ContractViolation]:
    yield from _check_fields(body, request, "")


def check_request(body: dict[str, Any]) -> Iterator[ContractViolation]:
    yield from check_fields(body, ChatRequest)
