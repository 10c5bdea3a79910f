"""Check of a request body against the official SDK's own types: no field beyond them, every type as declared.

The SDK's request types are typed dictionaries; this walks their annotations and reports differences in the words of the
real server, which are those of its validation library.
"""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typing_extensions
from anthropic.types.beta import message_count_tokens_params, message_create_params

from tests.support.fakes.server import ContractViolation

BETA_FIELDS = {
    "mcp_servers": "mcp-client-",
    "context_management": "context-management-",
    "fallbacks": "server-side-fallback-",
    "speed": "fast-mode-",
    "thread": "threads-",
}
"""Top-level field → beginning of the beta without which the API does not know it."""
_UNTYPED = {"safeguards": object, "stream": bool, "temperature": float, "top_p": float, "top_k": int}
"""Fields that the API takes and the SDK's types do not list, or not where the rest is."""
_IN_HEADERS = {"betas", "user_profile_id", "workspace_id"}
_KINDS = {dict: "dictionary", list: "list", str: "string", bool: "boolean", int: "integer", float: "number"}


def _kind(value: Any) -> str:
    return "none" if value is None else _KINDS.get(type(value), "object")


def _plain(hint: Any) -> Any:
    while get_origin(hint) in (Annotated, typing_extensions.Required, typing_extensions.NotRequired):
        hint = get_args(hint)[0]
    return hint


def _fields(hint: Any) -> tuple[dict[str, Any], set[str]]:
    hints = typing_extensions.get_type_hints(hint, include_extras=True)
    required = {name for name, field in hints.items() if get_origin(field) is typing_extensions.Required}
    return {name: _plain(field) for name, field in hints.items()}, required


def _needed(hint: Any) -> set[str]:
    return _fields(hint)[1]


def _choices(hint: Any) -> list[Any]:
    hint = _plain(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return [one for part in get_args(hint) for one in _choices(part)]
    if isinstance(hint, typing_extensions.TypeAliasType):
        return _choices(hint.__value__)
    return [hint]


def _expects(hint: Any) -> str | None:
    """Return the kind of JSON value that a hint asks for; None: none, it is for the SDK's own objects."""
    origin = get_origin(hint) or hint
    if typing_extensions.is_typeddict(hint) or origin is dict:
        return "dictionary"
    if origin is Literal:
        return _kind(get_args(hint)[0])
    if origin in _KINDS:
        return _KINDS[origin]
    if hint is type(None):
        return "none"
    return "list" if getattr(origin, "__module__", "") == "collections.abc" and get_args(hint) else None


def _fits(value: Any, hint: Any) -> bool:
    expected = _expects(hint)
    return hint is object or _kind(value) == expected or (expected == "number" and type(value) is int)


def _tag(hint: Any) -> tuple[str, tuple[Any, ...]] | None:
    """Return the field that distinguishes a union's member from the others, and its values."""
    if not typing_extensions.is_typeddict(hint):
        return None
    fields = _fields(hint)[0]
    for name in ("type", "role"):
        for one in _choices(fields[name]) if name in fields else ():
            if get_origin(one) is Literal:
                return name, get_args(one)
    return None


def _check_fields(value: dict[str, Any], hint: Any, path: str, extra: dict[str, Any]) -> Iterator[ContractViolation]:
    fields, required = _fields(hint)
    fields = {**fields, **extra}
    for name in value:
        if name not in fields:
            yield ContractViolation("unknown_field", f"{path}{name}: Extra inputs are not permitted", f"{path}{name}")
    for name, field in fields.items():
        if name in value:
            yield from _check(value[name], field, f"{path}{name}")
        elif name in required:
            yield ContractViolation("missing", f"{path}{name}: Field required", f"{path}{name}")


def _check(value: Any, hint: Any, path: str) -> Iterator[ContractViolation]:
    choices = [choice for choice in _choices(hint) if choice is object or _expects(choice)]
    fitting = [choice for choice in choices if _fits(value, choice)]
    if not fitting:
        kinds = dict.fromkeys(_expects(choice) for choice in choices)
        expected = next((kind for kind in kinds if kind != "none"), "none")
        yield ContractViolation("type", f"{path}: Input should be a valid {expected}", path)
        return
    tagged = {id(choice): tag for choice in fitting if (tag := _tag(choice))}
    if isinstance(value, dict) and len(fitting) > 1 and tagged:
        name = next(iter(tagged.values()))[0]
        tag = value.get(name)
        loose = [choice for choice in fitting if not typing_extensions.is_typeddict(choice)]
        untold = [choice for choice in fitting if choice not in loose and tag is None and name not in _needed(choice)]
        fitting = [choice for choice in fitting if id(choice) in tagged and tag in tagged[id(choice)][1]]
        fitting = [*fitting, *loose] or untold
        if not fitting:
            yield _wrong_tag(tag, name, [one for _, values in tagged.values() for one in values], path)
            return
    yield from min((list(_check_one(value, choice, path)) for choice in fitting), key=len)


def _wrong_tag(tag: Any, name: str, allowed: list[str], path: str) -> ContractViolation:
    if tag is None:
        return ContractViolation("missing", f"{path}.{name}: Field required", path)
    if name == "role":
        return ContractViolation("value", f'{path}: Unexpected role "{tag}".', path)
    tags = ", ".join(f"'{one}'" for one in dict.fromkeys(allowed))
    text = f"{path}: Input tag '{tag}' found using '{name}' does not match any of the expected tags: {tags}"
    return ContractViolation("value", text, path)


def _check_one(value: Any, choice: Any, path: str) -> Iterator[ContractViolation]:
    origin = get_origin(choice)
    if typing_extensions.is_typeddict(choice):
        tag = value.get("type")
        yield from _check_fields(value, choice, f"{path}.{tag}." if tag and path[-1].isdigit() else f"{path}.", {})
    elif origin is Literal and value not in get_args(choice):
        allowed = " or ".join(f"'{one}'" for one in get_args(choice))
        yield ContractViolation("value", f"{path}: Input should be {allowed}", path)
    elif origin is dict:
        for key, inner in value.items():
            yield from _check(inner, get_args(choice)[1], f"{path}.{key}")
    elif isinstance(value, list) and get_args(choice):
        for position, inner in enumerate(value):
            yield from _check(inner, get_args(choice)[0], f"{path}.{position}")


def check_request(body: dict[str, Any], betas: str, *, counting: bool = False) -> Iterator[ContractViolation]:
    known = message_count_tokens_params.MessageCountTokensParams if counting else _CREATE
    unsaid = {name for name, beta in BETA_FIELDS.items() if beta not in betas} | _IN_HEADERS
    for name in sorted(unsaid & body.keys()):
        yield ContractViolation("unknown_field", f"{name}: Extra inputs are not permitted", name)
    others = {name: value for name, value in body.items() if name not in unsaid}
    yield from _check_fields(others, known, "", {**_UNTYPED, "model": str})


_CREATE = message_create_params.MessageCreateParamsBase
