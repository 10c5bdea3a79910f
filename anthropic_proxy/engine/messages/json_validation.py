"""Validation of JSON by a JSON Schema (draft 2020-12) of the client, with bounded work.

This module imports the library `jsonschema`, so it is imported only when a schema is used.

Theory of operation. A schema of the client is a program: references and alternatives multiply, and a pattern can run
for ever. So every keyword and every subschema counts its steps in a `WorkBudget`, which ends the check above a limit.
Keywords that the library checks in more than linear time are replaced, and patterns are ignored.
"""

import json
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import msgspec
from jsonschema import Draft202012Validator, ValidationError, validators
from jsonschema.exceptions import relevance
from jsonschema.protocols import Validator
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from anthropic_proxy.engine.messages.models.raw_json import quote_text
from anthropic_proxy.engine.messages.schema_check import check_schema
from anthropic_proxy.engine.messages.work_budget import WorkBudget, WorkLimitExceeded, count_json_nodes
from anthropic_proxy.errors import InvalidRequest

_CHARACTERS_PER_STEP = 64
"""Number of characters of a validation error message that count as one step of a `WorkBudget`. Messages may be long,
because they repeat the invalid value."""
_MEMBERS_PER_STEP = 16
"""Number of members of lists and objects that count as one step of a `WorkBudget` when a keyword reads them."""
_MAX_PROBLEM_CHARACTERS = 300
_MAX_REPORT_STEPS = 20_000
"""Maximum steps to find out what is wrong with an invalid schema."""
_FALSE_SCHEMA: dict[str, Any] = {"not": {}}
"""Schema that rejects every value. It replaces the schema `false`, for which the library counts no step."""
_ALTERNATIVES = ("anyOf", "oneOf")
_COMPARING = ("enum", "const", "uniqueItems")
_REFERRING = ("$ref", "$dynamicRef")
_UNCHECKED = ("pattern", "patternProperties", "format", "unevaluatedItems", "unevaluatedProperties")
"""Keywords of a schema that are ignored: a pattern can block the process, a format is only a hint, and `unevaluated…`
depends on patterns."""
_Keyword = Callable[[Any, Any, Any, Any], "Iterator[ValidationError] | None"]

_budget: ContextVar[WorkBudget] = ContextVar("work budget of the current validation")


def build_validator(schema: bytes, budget: WorkBudget) -> Validator:
    """Return a validator for a schema in JSON.

    Raises `InvalidRequest` if the schema is invalid, or if its check needs more work than `budget` allows.
    """
    try:
        read = msgspec.json.decode(schema)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"{budget.field}: {error}", code="tool-schema") from None
    except RecursionError:
        raise InvalidRequest(f"{budget.field}: it is nested too deeply", code="tool-schema") from None
    form = check_schema(read, budget)
    if not form.is_valid:
        for_report = WorkBudget(budget.field, purpose="read", max_steps=_MAX_REPORT_STEPS)
        if problem := find_violation(_META_VALIDATOR, read, for_report):
            raise InvalidRequest(f"{budget.field}: {problem}", code="tool-schema", quotes=quote_text(problem))
    # a registry of our own: the library would fetch remote references, and search the whole schema for each anchor
    resource = DRAFT202012.create_resource(read)
    registry: Any = Registry().with_resource(resource.id() or "", resource)
    if form.names_places:
        registry = registry.crawl()  # which visits all schemas
    validator: Validator = _CHECKING(_without_draft(read), registry=registry)
    return validator


def find_violation(validator: Validator, value: Any, budget: WorkBudget) -> str:
    """Return the most relevant error in a value: its path and message. "": the value is valid.

    Raises `InvalidRequest` if the check needs more work than `budget` allows. A reference (`$ref`) in the schema also
    causes this error if its target is missing, or if it refers to itself without end.
    """
    token = _budget.set(budget)
    rejection, code, quotes = "", "tool-schema", dict[str, str]()
    try:
        error = max(validator.iter_errors(value), key=relevance, default=None)
        if error is None:
            return ""
        path = list(error.path)
        while isinstance(error, _Unmatched) and error.closest is not None:
            error = error.closest
            path += error.path
        return f"{ValidationError('', path=path).json_path}: {error.message}"[:_MAX_PROBLEM_CHARACTERS]
    except WorkLimitExceeded as exceeded:
        rejection, code = exceeded.message, exceeded.code
    except RecursionError:
        rejection = f"{budget.field}: it refers to itself without end"
    except Unresolvable as reference:
        rejection, quotes = f"{budget.field}: {reference.ref} does not stand in it", quote_text(reference.ref)
    finally:
        _budget.reset(token)
    # raised outside the handlers: an exception context would keep the frames of the check alive
    raise InvalidRequest(rejection, code=code, quotes=quotes)


class _Unmatched(ValidationError):
    """Error for a value that matches no alternative of `anyOf` or `oneOf`."""

    closest: ValidationError | None = None
    """Error of the alternative that fits the value best. None: several alternatives fit equally well. Only this error
    is kept, because the errors of all alternatives multiply with nesting."""


def _build_class(own: dict[str, _Keyword]) -> Any:
    """Return a validator class that counts its steps. `own`: keyword → function in place of the library's."""
    keywords = {**Draft202012Validator.VALIDATORS, **own}
    counted = {name: _counted(name, check) for name, check in keywords.items()}
    ours: Any = validators.extend(Draft202012Validator, counted)  # type: ignore[no-untyped-call]
    evolve = ours.evolve

    def evolve_counted(validator: Any, **changes: Any) -> Any:
        """Return the validator of a subschema, of the same counting class even if it names another `$schema`."""
        _budget.get().count_steps()
        if "schema" in changes:
            changes["schema"] = _FALSE_SCHEMA if changes["schema"] is False else _without_draft(changes["schema"])
        return evolve(validator, **changes)

    ours.evolve = evolve_counted
    return ours


def _without_draft(schema: Any) -> Any:
    """Return a schema without the keyword `$schema`, which makes the library use another draft of JSON Schema."""
    if isinstance(schema, dict) and "$schema" in schema:
        return {name: value for name, value in schema.items() if name != "$schema"}
    return schema


def _counted(keyword: str, check: _Keyword) -> _Keyword:
    def checked(validator: Any, keyword_value: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
        budget = _budget.get()
        members = _length(keyword_value) + _length(value)
        if keyword in _COMPARING and isinstance(value, dict | list):
            members += count_json_nodes(value) * (_length(keyword_value) if keyword == "enum" else 1)
        elif keyword in _REFERRING and isinstance(keyword_value, str):
            members += keyword_value.count("/") ** 2
        budget.count_steps(1 + members // _MEMBERS_PER_STEP)
        if keyword in _ALTERNATIVES and False in keyword_value:
            keyword_value = [_FALSE_SCHEMA if one is False else one for one in keyword_value]
        for error in check(validator, keyword_value, value, schema) or ():
            budget.count_steps(1 + len(error.message) // _CHARACTERS_PER_STEP)
            yield error

    return checked


def _length(value: Any) -> int:
    return len(value) if isinstance(value, dict | list) else 0


def _check_alternatives(
    validator: Any, alternatives: Any, value: Any, _schema: Any, *, only_one: bool
) -> Iterator[ValidationError]:
    """Check `anyOf` or `oneOf`. If no alternative matches, yield only the error of the alternative that fits best."""
    fitting: list[int] = []

    def errors() -> Iterator[ValidationError]:
        for index, alternative in enumerate(alternatives):
            fits = True
            for error in validator.descend(value, alternative, schema_path=index):
                fits = False
                yield error
            if fits:
                fitting.append(index)
                return

    # the error that `best_match` of the library would select, if it is better than all others
    first: tuple[Any, ValidationError] | None = None
    is_tied = False
    for error in errors():
        key = relevance(error)
        if first is None or key < first[0]:
            first = (key, error)
            is_tied = False
        elif key == first[0]:
            is_tied = True
    if not fitting:
        unmatched = _Unmatched(f"{value!r} is not valid under any of the given schemas")
        unmatched.closest = None if first is None or is_tied else first[1]
        yield unmatched
        return
    others = alternatives[fitting[0] + 1 :] if only_one else ()
    if more := [one for one in others if validator.evolve(schema=one).is_valid(value)]:
        shown = ", ".join(map(repr, [*more, alternatives[fitting[0]]]))
        yield ValidationError(f"{value!r} is valid under each of {shown}")


def _check_additional(validator: Any, keyword_value: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    """Check additional properties, unless the schema has `patternProperties`: patterns are not executed."""
    if "patternProperties" not in schema:
        yield from Draft202012Validator.VALIDATORS["additionalProperties"](validator, keyword_value, value, schema)


def _check_unique(_validator: Any, keyword_value: Any, value: Any, _schema: Any) -> Iterator[ValidationError]:
    """Check the keyword `uniqueItems` in linear time. The library compares objects in pairs."""
    if keyword_value and isinstance(value, list) and len(set(map(_canonical, value))) < len(value):
        yield ValidationError("two of its items are the same")


def _canonical(value: Any) -> str:
    """Return a text that is the same for all values that JSON Schema counts as equal, such as 1 and 1.0."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_canonical(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


_OWN: dict[str, _Keyword] = {name: partial(_check_alternatives, only_one=name == "oneOf") for name in _ALTERNATIVES}
_CHECKING = _build_class(
    {
        **_OWN,
        **dict.fromkeys(_UNCHECKED, lambda *_: None),
        "additionalProperties": _check_additional,
        "uniqueItems": _check_unique,
    }
)
_META_VALIDATOR: Validator = _build_class(_OWN)(Draft202012Validator.META_SCHEMA, registry=Registry())
