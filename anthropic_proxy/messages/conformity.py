"""Whether a reply is the JSON that was asked for, where the provider itself does not see to that."""

import re
from typing import TYPE_CHECKING, Any

import msgspec

from anthropic_proxy.errors import InvalidRequest

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

_FENCED = re.compile(r"```[a-zA-Z]*\s*\n(.*?)\n\s*```", re.DOTALL)
_UNCHECKED = ("pattern", "patternProperties", "format")
"""Keywords that are not looked at: a pattern of somebody else's can hold up the whole process, and a format is only a
hint."""
_LONGEST_PROBLEM = 300
"""Characters."""


class Shape:
    """The JSON Schema of a reply. Raises `InvalidRequest` where it is none (draft 2020-12)."""

    def __init__(self, schema: bytes) -> None:
        self._validator = _load_validator(schema)

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

        try:
            error = best_match(self._validator.iter_errors(value))
        except RecursionError:
            raise InvalidRequest("output_config.format.schema: it refers to itself without end") from None
        except Unresolvable as reference:
            raise InvalidRequest(f"output_config.format.schema: {reference.ref} does not stand in it") from None
        if error is None:
            return ""
        return f"{error.json_path}: {error.message}"[:_LONGEST_PROBLEM]


def _load_validator(schema: bytes) -> "Validator":
    """Load what checks with the first schema that needs checking: most processes never do."""
    from jsonschema import Draft202012Validator, SchemaError, validators  # noqa: PLC0415
    from referencing import Registry  # noqa: PLC0415

    ours: Any = validators.extend(Draft202012Validator, dict.fromkeys(_UNCHECKED, _pass))  # type: ignore[no-untyped-call]
    try:
        read = msgspec.json.decode(schema)
        ours.check_schema(read)
    except SchemaError as error:
        raise InvalidRequest(f"output_config.format.schema: {error.json_path}: {error.message}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"output_config.format.schema: {error}") from None
    # a registry of our own: the library would fetch what a schema of a client's refers to
    validator: Validator = ours(read, registry=Registry())
    return validator


def _pass(*_: object) -> tuple[()]:
    return ()


def _candidates(text: str) -> list[str]:
    """Return what may be the JSON: the whole, the only fenced part, what stands between the outermost brackets."""
    fenced = _FENCED.findall(text)
    starts = [place for place in (text.find("{"), text.find("[")) if place >= 0]
    end = max(text.rfind("}"), text.rfind("]"))
    between = [text[min(starts) : end + 1]] if starts and end > min(starts) else []
    return [text.strip(), *(fenced if len(fenced) == 1 else ()), *between]


def _decode(text: str) -> tuple[str, Any] | None:
    try:
        return text, msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None
