"""Check of a request body against the official SDK's own types: no field beyond them, every type as declared.

Differences are reported in the words of the real server, which are those of its validation library.
"""

import types
from collections.abc import Iterator, Mapping
from typing import Any

from anthropic.types.beta import message_count_tokens_params, message_create_params

from tests.support.fakes.declared_types import Alternative, Declared, read_fields
from tests.support.fakes.server import ContractViolation

BETA_FIELDS = {
    "mcp_servers": ("mcp-client-",),
    "context_management": ("context-management-", "compact-2026-01-12"),
    "compaction": ("compact-2026-09-04",),
    "fallbacks": ("server-side-fallback-",),
    "speed": ("fast-mode-",),
    "thread": ("threads-",),
}
"""Top-level field → beginnings of the betas without which the API does not know it; one of them is enough."""
_UNTYPED = {"safeguards": object, "stream": bool, "temperature": float, "top_p": float, "top_k": int, "model": str}
_EXTRA = {name: Declared(hint) for name, hint in _UNTYPED.items()}
"""Fields that the API takes and the SDK's types do not list, or not where the rest is."""
_IN_HEADERS = {"betas", "user_profile_id", "workspace_id"}
_KINDS = {
    dict: "dictionary",
    list: "list",
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    types.NoneType: "none",
}


def _check_fields(
    value: dict[str, Any], hint: Any, path: str, extra: Mapping[str, Declared]
) -> Iterator[ContractViolation]:
    fields = read_fields(hint)
    known = {**fields.types, **extra} if extra else fields.types
    for name in value:
        if name not in known:
            yield ContractViolation("unknown_field", f"{path}{name}: Extra inputs are not permitted", f"{path}{name}")
    for name, field in known.items():
        if name in value:
            yield from _check(value[name], field, f"{path}{name}")
        elif name in fields.required:
            yield ContractViolation("missing", f"{path}{name}: Field required", f"{path}{name}")


def _check(value: Any, declared: Declared, path: str) -> Iterator[ContractViolation]:
    fitting = declared.list_fitting(value)
    if not fitting:
        kinds = dict.fromkeys(choice.kind for choice in declared.alternatives if choice.kind is not None)
        expected = _KINDS[next((kind for kind in kinds if kind is not types.NoneType), types.NoneType)]
        yield ContractViolation("type", f"{path}: Input should be a valid {expected}", path)
        return
    if isinstance(value, dict) and len(fitting) > 1 and any(_tags(choice) for choice in fitting):
        name = next(name for choice in fitting for name in _tags(choice))
        tag = value.get(name)
        loose = [choice for choice in fitting if not choice.is_fields]
        untold = [
            choice for choice in fitting if choice.is_fields and tag is None and name not in choice.fields.required
        ]
        allowed = [literal for choice in fitting for tags in list(_tags(choice).values())[:1] for literal in tags]
        fitting = [choice for choice in fitting if tag in next(iter(_tags(choice).values()), ())]
        fitting = [*fitting, *loose] or untold
        if not fitting:
            yield _wrong_tag(tag, name, allowed, path)
            return
    yield from min((list(_check_choice(value, choice, path)) for choice in fitting), key=len)


def _tags(choice: Alternative) -> Mapping[str, tuple[Any, ...]]:
    """Return the field that distinguishes a member of a union from the others, and its values."""
    return choice.fields.tags if choice.is_fields else {}


def _wrong_tag(tag: Any, name: str, allowed: list[str], path: str) -> ContractViolation:
    if tag is None:
        return ContractViolation("missing", f"{path}.{name}: Field required", path)
    if name == "role":
        return ContractViolation("value", f'{path}: Unexpected role "{tag}".', path)
    tags = ", ".join(f"'{literal}'" for literal in dict.fromkeys(allowed))
    text = f"{path}: Input tag '{tag}' found using '{name}' does not match any of the expected tags: {tags}"
    return ContractViolation("value", text, path)


def _check_choice(value: Any, choice: Alternative, path: str) -> Iterator[ContractViolation]:
    if choice.is_fields:
        tag = value.get("type")
        yield from _check_fields(value, choice.hint, f"{path}.{tag}." if tag and path[-1].isdigit() else f"{path}.", {})
    elif choice.literals:
        if value not in choice.literals:
            allowed = " or ".join(f"'{literal}'" for literal in choice.literals)
            yield ContractViolation("value", f"{path}: Input should be {allowed}", path)
    elif choice.inner is not None and isinstance(value, dict):
        for key, inner in value.items():
            yield from _check(inner, choice.inner, f"{path}.{key}")
    elif choice.inner is not None and isinstance(value, list):
        for position, inner in enumerate(value):
            yield from choice.inner.check_once(inner, _check(inner, choice.inner, f"{path}.{position}"))


def check_request(body: dict[str, Any], betas: str, *, counting: bool = False) -> Iterator[ContractViolation]:
    known = message_count_tokens_params.MessageCountTokensParams if counting else _CREATE
    unsaid = {name for name, heads in BETA_FIELDS.items() if all(head not in betas for head in heads)} | _IN_HEADERS
    for name in sorted(unsaid & body.keys()):
        yield ContractViolation("unknown_field", f"{name}: Extra inputs are not permitted", name)
    others = {name: value for name, value in body.items() if name not in unsaid}
    yield from _check_fields(others, known, "", _EXTRA)


_CREATE = message_create_params.MessageCreateParamsBase
