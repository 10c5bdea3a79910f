"""Decoding of the other configuration: its parts, fields and values, without those that cannot be used.

Each of these gets a note that names it, its value and what is allowed.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.cli.importing.plan import ImportPlan
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.errors import ConfigurationError, join_with_or
from anthropic_proxy.gateway.settings.sources import FoundSetting
from anthropic_proxy.gateway.settings.values import decode_integer, decode_url, remove_endpoint
from anthropic_proxy.secrets import redact_key_patterns

_Part = TypeVar("_Part")
Scalar = str | int | float | bool | None
_TYPE_NAMES = {
    "array": "a list",
    "object": "an object",
    "str": "a text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
}
"""Name of a type in messages of msgspec → its description."""
_PATH_ITEM = compile_later(r"\.(\w+)|\[(\d+)\]")
_REMOVED = object()
"""Stands for a part of a configuration that has another type."""
_MAX_SHOWN_CHARACTERS = 60


def decode_part(plan: ImportPlan, value: Any, kind: type[_Part], place: str = "") -> _Part:
    """Return `value`, a part of the other configuration, as `kind`, without fields and items of another type.

    Each of them gets a note with its value. `place`: path of the part. "": the whole file.
    """
    kept = _keep_part(plan, value, kind, place, ())
    return kind() if kept is _REMOVED else msgspec.convert(kept, kind, strict=False)


def _keep_part(plan: ImportPlan, value: Any, kind: type[object], place: str, steps: tuple[int | str, ...]) -> Any:
    """Return the value at `steps` without what has another type. `_REMOVED`: it has another type itself.

    Only the members of a value with a wrong one are decoded by themselves, each as the only one of its parents, so
    that the work is proportional to the size.
    """
    if (problem := _find_type_problem(value, kind, steps)) is None:
        return value
    if isinstance(value, dict | list) and problem.depth > len(steps):
        is_list = isinstance(value, list)
        members = enumerate(value) if isinstance(value, list) else value.items()
        decoded = [(key, _keep_part(plan, member, kind, place, (*steps, key))) for key, member in members]
        kept = {key: member for key, member in decoded if member is not _REMOVED}
        value = [*kept.values()] if is_list else kept
        if (problem := _find_type_problem(value, kind, steps)) is None:
            return value
    if problem.depth < len(steps):  # the name in its parent has another type
        return value
    field = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    field = f"{place}{field}" if place else field.removeprefix(".")
    reason = "has a name that is no text" if problem.is_name else _describe_wrong(field, value)
    plan.add_note(field, f"it is not imported, because it {reason}. Use {problem.allowed}", is_error=True)
    return _REMOVED


class _TypeProblem(Struct, frozen=True):
    """Why a value cannot be decoded."""

    depth: int
    """Number of names and indices that lead to the value."""
    allowed: str
    is_name: bool
    """True if the value is an object with a name that is no text."""


def _find_type_problem(value: object, kind: type[object], steps: Sequence[int | str]) -> _TypeProblem | None:
    """Return the first problem of `value`, which `steps` lead to in a value of `kind`."""
    for step in reversed(steps):
        value = [value] if isinstance(step, int) else {step: value}
    try:
        msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        expected, _, path = str(error).partition(" - at ")
        names = [_TYPE_NAMES[name] for name in expected.split("`")[1].split(" | ") if name in _TYPE_NAMES]
        allowed = join_with_or(list(dict.fromkeys(names))) + (" of 0 or more" if " >= 0" in expected else "")
        return _TypeProblem(len(_PATH_ITEM.findall(path)), allowed, path.startswith("`key`"))
    return None


def _describe_wrong(field: str, wrong: object) -> str:
    """Return the text about the value of a field that has another type."""
    if "key" in field.lower():  # the value may be a secret
        return "has a value that is not shown"
    if isinstance(wrong, list | dict):
        return "is a list" if isinstance(wrong, list) else "is an object"
    shown = redact_key_patterns(json.dumps(wrong, ensure_ascii=False, default=str))
    cut = shown if len(shown) <= _MAX_SHOWN_CHARACTERS else f"{shown[:_MAX_SHOWN_CHARACTERS]}…"
    return f"is {cut}"


def decode_scalar(plan: ImportPlan, value: Any, place: str) -> str:
    """Return a value as text. "": it is empty or false, or no text, number or Boolean, and gets a note."""
    if isinstance(value, list | dict):
        problem = f"it is not imported, because it {_describe_wrong(place, value)}"
        plan.add_note(place, f"{problem}. Use true or false, a number or a text", is_error=True)
        return ""
    return str(value or "")


def decode_address(setting: FoundSetting) -> str:
    """Return the base URL of a server for its base URL, or for the URL of an endpoint."""
    try:
        return decode_url(structs.replace(setting, text=remove_endpoint(setting.text)))
    except ConfigurationError:
        return decode_url(setting)  # its error has the whole text


decode_tokens = partial(decode_integer, minimum=1, maximum=100_000_000, unit="tokens")


def accepts(
    plan: ImportPlan,
    setting: str,
    field: str,
    value: str,
    decode: Callable[[FoundSetting], object],
    *,
    instead: str = "",
) -> bool:
    """Return True if `decode` accepts `value`, that of a field of `setting`. If not, add a note with its error.

    `instead`: sentence about the value that is used.
    """
    items = tuple(item for text in value.split(",") if (item := text.strip()))
    try:
        decode(FoundSetting(field, value, "", items, folder="/"))
    except ConfigurationError as error:
        reason = f"it is not imported, because its {error.messages[0].rstrip('.')}"
        plan.add_note(setting, f"{reason}. {instead}" if instead else reason, is_error=True)
        return False
    return True
