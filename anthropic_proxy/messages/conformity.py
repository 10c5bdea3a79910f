"""Whether a reply is the JSON that was asked for, where the provider itself does not see to that.

The schema is a client's and the reply a model's, so neither may hold up the process: no pattern is searched, and a
check has so many steps and no more.
"""

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from anthropic_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

MOST_STEPS = 300_000
"""Of one check. A step is a schema or a keyword that is applied to a value, or what takes as long, some microseconds:
an ordinary reply of 100,000 characters takes 20,000 to 40,000, and reading a schema 60 for each of its parts."""
_CHARACTERS_A_STEP = 64
"""Of the text in which the library says what is wrong: it repeats the value."""
_MEMBERS_A_STEP = 16
"""Of lists and objects that a keyword goes through."""
_ALTERNATIVES = ("anyOf", "oneOf")
_NEVER: dict[str, Any] = {"not": {}}
"""What `false` means, as a schema whose steps are counted: that one is refused where nobody counts."""
_COMPARING = ("enum", "const", "uniqueItems")
_REFERRING = ("$ref", "$dynamicRef")
_FENCE = "```"
_UNCHECKED = ("pattern", "patternProperties", "format", "unevaluatedItems", "unevaluatedProperties")
"""Keywords that are not looked at: a pattern of somebody else's can hold up the whole process, a format is only a hint,
and what is unevaluated depends on patterns."""
_Keyword = Callable[[Any, Any, Any, Any], "Iterator[Any] | None"]
_LONGEST_PROBLEM = 300
"""Characters."""


class _TooManySteps(Exception):
    pass


class _Steps:
    """Counts what a check does."""

    def __init__(self, most: int) -> None:
        self.most = self._left = most

    def begin(self) -> None:
        self._left = self.most

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise _TooManySteps


class Shape:
    """The JSON Schema of a reply (draft 2020-12).

    Raises `InvalidRequest` where it is none, or needs too many steps: when it is made, and from `find_json`.
    """

    def __init__(self, schema: bytes, *, most_steps: int = MOST_STEPS) -> None:
        self._steps = _Steps(most_steps)
        try:
            self._validator = _load_validator(schema, self._steps)
        except _TooManySteps:
            raise _too_long(most_steps, "read") from None

    def find_json(self, text: str) -> tuple[str, str]:
        """Return the JSON of a reply, without what a model writes around it, and what is wrong with it.

        What is wrong is empty where the reply is as it was asked for.
        """
        found = next((found for found in map(_decode, _candidates(text)) if found is not None), None)
        if found is None:
            return text, "it is no JSON" if text.strip() else "it is empty"
        json, value = found
        return json, self._find_problem(value)

    def _find_problem(self, value: Any) -> str:
        from jsonschema.exceptions import best_match  # noqa: PLC0415
        from referencing.exceptions import Unresolvable  # noqa: PLC0415

        self._steps.begin()
        try:
            error = best_match(self._validator.iter_errors(value))
        except _TooManySteps:
            raise _too_long(self._steps.most, "check") from None
        except RecursionError:
            raise InvalidRequest("output_config.format.schema: it refers to itself without end") from None
        except Unresolvable as reference:
            raise InvalidRequest(f"output_config.format.schema: {reference.ref} does not stand in it") from None
        if error is None:
            return ""
        return f"{error.json_path}: {error.message}"[:_LONGEST_PROBLEM]


def _too_long(most: int, what: str) -> InvalidRequest:
    return InvalidRequest(
        f"output_config.format.schema: it needs more than {most:,} steps to {what}; at most that many are taken. "
        "Refer to fewer definitions from each other, or list fewer alternatives."
    )


def _load_validator(schema: bytes, steps: _Steps) -> "Validator":
    """Load what checks with the first schema that needs checking: most processes never do."""
    from jsonschema import Draft202012Validator, SchemaError  # noqa: PLC0415
    from referencing import Registry  # noqa: PLC0415
    from referencing.jsonschema import DRAFT202012  # noqa: PLC0415

    try:
        read = msgspec.json.decode(schema)
        told = _counting({}, steps)(Draft202012Validator.META_SCHEMA, registry=Registry())
        for error in told.iter_errors(read):
            raise SchemaError.create_from(error)
    except SchemaError as error:
        raise InvalidRequest(
            f"output_config.format.schema: {error.json_path}: {error.message}"[:_LONGEST_PROBLEM]
        ) from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"output_config.format.schema: {error}") from None
    except RecursionError:
        raise InvalidRequest("output_config.format.schema: it is nested too deeply") from None
    own: dict[str, _Keyword] = {
        **dict.fromkeys(_UNCHECKED, _pass),
        "additionalProperties": _check_additional,
        "uniqueItems": _check_unique,
    }
    # a registry of our own: the library would fetch what a schema of a client's refers to, and look through the whole
    # schema at each reference to a name in it
    whole = DRAFT202012.create_resource(read)
    registry: Any = Registry().with_resource(whole.id() or "", whole).crawl()
    validator: Validator = _counting(own, steps)(_undeclared(read), registry=registry)
    return validator


def _counting(own: dict[str, _Keyword], steps: _Steps) -> Any:
    """Return a class of validators that takes a step for whatever it does."""
    from jsonschema import Draft202012Validator, validators  # noqa: PLC0415

    keywords = {**Draft202012Validator.VALIDATORS, **own}
    counted = {name: _counted(name, check, steps) for name, check in keywords.items()}
    ours: Any = validators.extend(Draft202012Validator, counted)  # type: ignore[no-untyped-call]
    evolve = ours.evolve

    def evolve_counted(validator: Any, **changes: Any) -> Any:
        """Go on with a part of the schema: in this class, whatever draft that part says it is."""
        steps.take(1)
        if "schema" in changes:
            changes["schema"] = _NEVER if changes["schema"] is False else _undeclared(changes["schema"])
        return evolve(validator, **changes)

    ours.evolve = evolve_counted
    return ours


def _undeclared(schema: Any) -> Any:
    """Return a schema that does not name its draft: the library would check by that one, and all that it knows."""
    if isinstance(schema, dict) and "$schema" in schema:
        return {name: value for name, value in schema.items() if name != "$schema"}
    return schema


def _counted(keyword: str, check: _Keyword, steps: _Steps) -> _Keyword:
    def checked(validator: Any, said: Any, value: Any, schema: Any) -> Iterator[Any]:
        steps.take(_weight(said, value, keyword=keyword))
        if keyword in _ALTERNATIVES and False in said:
            said = [_NEVER if one is False else one for one in said]
        for error in check(validator, said, value, schema) or ():
            steps.take(1 + len(error.message) // _CHARACTERS_A_STEP)
            yield error

    return checked


def _weight(said: Any, value: Any, *, keyword: str) -> int:
    """Return the steps that a keyword takes by itself; the members that it looks at are lighter than parts."""
    members = _length(said) + _length(value)
    if keyword in _COMPARING and isinstance(value, dict | list):
        members += _size(value) * (_length(said) if keyword == "enum" else 1)
    elif keyword in _REFERRING and isinstance(said, str):
        members += said.count("/") ** 2
    return 1 + members // _MEMBERS_A_STEP


def _length(value: Any) -> int:
    return len(value) if isinstance(value, dict | list) else 0


def _size(value: Any) -> int:
    """Return how many values there are in a value, with itself."""
    size, within = 0, [value]
    while within:
        one = within.pop()
        size += 1
        within += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
    return size


def _pass(*_: object) -> None:
    return None


def _check_additional(validator: Any, said: Any, value: Any, schema: Any) -> Iterator[Any]:
    """Check properties that the schema does not name, unless a pattern may: patterns are not looked at."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415

    if "patternProperties" not in schema:
        yield from Draft202012Validator.VALIDATORS["additionalProperties"](validator, said, value, schema)


def _check_unique(_validator: Any, said: Any, value: Any, _schema: Any) -> Iterator[Any]:
    """Compare each item with all others at once; the library compares objects two by two."""
    from jsonschema import ValidationError  # noqa: PLC0415

    if said and isinstance(value, list) and len(set(map(_canonical, value))) < len(value):
        yield ValidationError("two of its items are the same")


def _canonical(value: Any) -> str:
    """Return one text for values that are equal in JSON Schema, as 1 and 1.0 are."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_canonical(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


def _candidates(text: str) -> list[str]:
    """Return what may be the JSON: the whole, the only fenced part, what stands between the outermost brackets."""
    fenced = _find_fenced(text)
    starts = [place for place in (text.find("{"), text.find("[")) if place >= 0]
    end = max(text.rfind("}"), text.rfind("]"))
    between = [text[min(starts) : end + 1]] if starts and end > min(starts) else []
    return [text.strip(), *(fenced if len(fenced) == 1 else ()), *between]


def _find_fenced(text: str) -> list[str]:
    """Return what stands in fences: one may begin behind words, and ends at the beginning of a line."""
    found: list[str] = []
    inside: list[str] | None = None
    for line in text.split("\n"):
        rest = line.lstrip()
        if inside is not None:
            if not rest.startswith(_FENCE):
                inside.append(line)
                continue
            found.append("\n".join(inside).strip())
            rest = rest[len(_FENCE) :]
        _, fence, language = rest.rpartition(_FENCE)
        language = language.strip()
        inside = [] if fence and (not language or language.isalpha()) else None
    return found


def _decode(text: str) -> tuple[str, Any] | None:
    try:
        return text, msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None
