"""`ReplySchema`: checks that a reply matches the JSON Schema that the client requires.

It is used for providers that do not enforce the schema. `extract_json` finds the JSON in the text of a reply and
validates it. The work is limited, so that a schema or reply cannot block the process.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from anthropic_proxy.messages.work_budget import WorkBudget

if TYPE_CHECKING:
    from jsonschema.protocols import Validator
import json
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar

from jsonschema import Draft202012Validator, ValidationError, validators
from jsonschema.exceptions import relevance
from jsonschema.protocols import Validator
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.messages.work_budget import WorkLimitExceeded, count_json_nodes

MAX_CHECK_STEPS = 300_000
"""Maximum steps of one check of a reply. A step applies a schema or keyword to a value and takes some microseconds. An
ordinary reply of 100,000 characters takes 20,000 to 40,000 steps."""
_FREE_CHECK_STEPS, _CHECK_STEPS_PER_BYTE = 30_000, 8
"""Steps of a check for any input, and steps for each byte of the schema and of the JSON. References multiply, so a
small schema can take any number of steps. An ordinary check takes less than one step for each byte."""
_FIELD = "output_config.format.schema"
_FENCE = "```"


class ExtractedJson(NamedTuple):
    """The JSON in the text of a reply, and the result of its validation."""

    json: str
    """The JSON text. If the reply contains no JSON, the complete text of the reply."""
    error: str
    """Validation error. "": the JSON matches the schema."""


class ReplySchema:
    """The JSON Schema (draft 2020-12) that the client requires for a reply.

    The constructor raises `InvalidRequest` if the schema is invalid or too large to process.
    """

    def __init__(self, schema: bytes, *, max_steps: int = MAX_CHECK_STEPS, max_steps_here: int | None = None) -> None:
        # imported for the first schema only: most processes need no validation
        self._max_steps = max_steps
        self._schema_bytes = len(schema)
        budget = WorkBudget(_FIELD, purpose="read", max_steps=max_steps, max_steps_here=max_steps_here)
        self._validator: Validator = build_validator(schema, budget)

    def extract_json(self, text: str) -> ExtractedJson:
        """Return the JSON in the text of a reply, with the error of its validation by the schema.

        Raises `InvalidRequest` if the validation needs too much work. It also does so if a reference (`$ref`) in the
        schema has no target or refers to itself without end.
        """
        found = next((found for found in map(_decode, _candidates(text)) if found is not None), None)
        if found is None:
            return ExtractedJson(text, "it is no JSON" if text.strip() else "it is empty")
        json, value = found
        steps = _FREE_CHECK_STEPS + _CHECK_STEPS_PER_BYTE * (self._schema_bytes + len(json))
        budget = WorkBudget(_FIELD, purpose="check", max_steps=min(steps, self._max_steps))
        return ExtractedJson(json, find_violation(self._validator, value, budget))


def _candidates(text: str) -> list[str]:
    """Return the texts that may be the JSON of a reply.

    These are the complete text, the only fenced code block, and the text between the first and last bracket.
    """
    fenced = _find_fenced(text)
    starts = [place for place in (text.find("{"), text.find("[")) if place >= 0]
    end = max(text.rfind("}"), text.rfind("]"))
    between = [text[min(starts) : end + 1]] if starts and end > min(starts) else []
    return [text.strip(), *(fenced if len(fenced) == 1 else ()), *between]


def _find_fenced(text: str) -> list[str]:
    """Return the texts between Markdown code fences. An opening fence may follow other text in its line."""
    found: list[str] = []
    inside: list[str] | None = None
    for line in text.split("\n"):
        remainder = line.lstrip()
        if inside is not None:
            if not remainder.startswith(_FENCE):
                inside.append(line)
                continue
            found.append("\n".join(inside).strip())
            remainder = remainder[len(_FENCE) :]
        _, fence, language = remainder.rpartition(_FENCE)
        language = language.strip()
        inside = [] if fence and (not language or language.isalpha()) else None
    return found


def _decode(text: str) -> tuple[str, Any] | None:
    try:
        return text, msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None


_CHARACTERS_PER_STEP = 64
"""Number of characters of a validation error message that count as one step of a `WorkBudget`. Messages may be long,
because they repeat the invalid value."""
_MEMBERS_PER_STEP = 16
"""Number of members of lists and objects that count as one step of a `WorkBudget` when a keyword reads them."""
_MAX_PROBLEM_CHARACTERS = 300
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
    read = _decode_schema(schema, budget)
    problem = find_violation(_META_VALIDATOR, read, budget)
    if problem:
        raise InvalidRequest(f"{budget.field}: {problem}")
    # a registry of our own: the library would fetch remote references, and search the whole schema for each anchor
    resource = DRAFT202012.create_resource(read)
    registry: Any = Registry().with_resource(resource.id() or "", resource).crawl()
    validator: Validator = _CHECKING(_without_draft(read), registry=registry)
    return validator


def find_violation(validator: Validator, value: Any, budget: WorkBudget) -> str:
    """Return the most relevant error in a value: its path and message. "": the value is valid.

    Raises `InvalidRequest` if the check needs more work than `budget` allows. A reference (`$ref`) in the schema also
    causes this error if its target is missing, or if it refers to itself without end.
    """
    token = _budget.set(budget)
    refusal = ""
    try:
        error = max(validator.iter_errors(value), key=relevance, default=None)
        return "" if error is None else _describe(error)
    except WorkLimitExceeded as exceeded:
        refusal = exceeded.message
    except RecursionError:
        refusal = f"{budget.field}: it refers to itself without end"
    except Unresolvable as reference:
        refusal = f"{budget.field}: {reference.ref} does not stand in it"
    finally:
        _budget.reset(token)
    # raised outside the handlers: an exception context would keep the frames of the check alive
    raise InvalidRequest(refusal)


class _Unmatched(ValidationError):
    """Error for a value that matches no alternative of `anyOf` or `oneOf`."""

    closest: ValidationError | None = None
    """Error of the alternative that fits the value best. None: several alternatives fit equally well. Only this error
    is kept, because the errors of all alternatives multiply with nesting."""


def _decode_schema(schema: bytes, budget: WorkBudget) -> Any:
    try:
        return msgspec.json.decode(schema)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"{budget.field}: {error}") from None
    except RecursionError:
        raise InvalidRequest(f"{budget.field}: it is nested too deeply") from None


def _describe(error: ValidationError) -> str:
    path = list(error.path)
    while isinstance(error, _Unmatched) and error.closest is not None:
        error = error.closest
        path += error.path
    return f"{ValidationError('', path=path).json_path}: {error.message}"[:_MAX_PROBLEM_CHARACTERS]


def _find_closest(errors: Iterable[ValidationError]) -> ValidationError | None:
    """Return the error that `best_match` of the library would select among `errors`.

    None: no error is better than the others.
    """
    first: tuple[Any, ValidationError] | None = None
    is_tied = False
    for error in errors:
        key = relevance(error)
        if first is None or key < first[0]:
            first, is_tied = (key, error), False
        elif key == first[0]:
            is_tied = True
    return None if first is None or is_tied else first[1]


def _build_class(own: dict[str, _Keyword]) -> Any:
    """Return a validator class of `jsonschema` that counts its steps in a `WorkBudget`.

    `own`: keyword of JSON Schema → function that checks this keyword in place of the library's function.
    """
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
        budget.count_steps(_weight(keyword_value, value, keyword=keyword))
        if keyword in _ALTERNATIVES and False in keyword_value:
            keyword_value = [_FALSE_SCHEMA if one is False else one for one in keyword_value]
        for error in check(validator, keyword_value, value, schema) or ():
            budget.count_steps(1 + len(error.message) // _CHARACTERS_PER_STEP)
            yield error

    return checked


def _weight(keyword_value: Any, value: Any, *, keyword: str) -> int:
    """Return the number of steps that the check of one keyword counts, without the steps of its subschemas."""
    members = _length(keyword_value) + _length(value)
    if keyword in _COMPARING and isinstance(value, dict | list):
        members += count_json_nodes(value) * (_length(keyword_value) if keyword == "enum" else 1)
    elif keyword in _REFERRING and isinstance(keyword_value, str):
        members += keyword_value.count("/") ** 2
    return 1 + members // _MEMBERS_PER_STEP


def _length(value: Any) -> int:
    return len(value) if isinstance(value, dict | list) else 0


def _ignore(*_: object) -> None:
    return None


def _check_any(validator: Any, alternatives: Any, value: Any, _schema: Any) -> Iterator[ValidationError]:
    """Check the keyword `anyOf`. If no alternative matches, yield only the error of the alternative that fits best."""
    fitting, closest = _try_alternatives(validator, alternatives, value)
    if fitting is None:
        yield _unmatched(value, closest)


def _check_one(validator: Any, alternatives: Any, value: Any, _schema: Any) -> Iterator[ValidationError]:
    """Check the keyword `oneOf`. If no alternative matches, yield only the error of the alternative that fits best."""
    fitting, closest = _try_alternatives(validator, alternatives, value)
    if fitting is None:
        yield _unmatched(value, closest)
        return
    more = [one for one in alternatives[fitting + 1 :] if validator.evolve(schema=one).is_valid(value)]
    if more:
        shown = ", ".join(map(repr, [*more, alternatives[fitting]]))
        yield ValidationError(f"{value!r} is valid under each of {shown}")


def _try_alternatives(validator: Any, alternatives: list[Any], value: Any) -> tuple[int | None, ValidationError | None]:
    """Return the index of the first alternative that matches `value`. If none matches: None and the closest error."""
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

    closest = _find_closest(errors())
    return (fitting[0], None) if fitting else (None, closest)


def _unmatched(value: Any, closest: ValidationError | None) -> ValidationError:
    error = _Unmatched(f"{value!r} is not valid under any of the given schemas")
    error.closest = closest
    return error


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


_OWN: dict[str, _Keyword] = {"anyOf": _check_any, "oneOf": _check_one}
_CHECKING = _build_class(
    {
        **_OWN,
        **dict.fromkeys(_UNCHECKED, _ignore),
        "additionalProperties": _check_additional,
        "uniqueItems": _check_unique,
    }
)
_META_VALIDATOR: Validator = _build_class(_OWN)(Draft202012Validator.META_SCHEMA, registry=Registry())
