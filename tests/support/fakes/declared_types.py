"""The types that an SDK declares for a request, read once: their alternatives, fields and kinds of JSON values.

An SDK declares requests as typed dictionaries. A validator built from them would read `Iterable` lazily and would not
name an error the way the real servers do, so that each fake walks the alternatives and reports in its own words.
"""

import hashlib
import json
import marshal
import types
from collections.abc import Iterator
from functools import cache, cached_property
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typing_extensions
from pydantic import TypeAdapter

_WRAPPERS = (Annotated, typing_extensions.Required, typing_extensions.NotRequired)
_KINDS = (dict, list, str, bool, int, float)
_WITHOUT_REFERENCES = 2
"""Version of the format of `marshal` in which equal values have equal bytes."""
T = TypeVar("T")


class Declared:
    """A declared type with its alternatives: one, or those of a union."""

    def __init__(self, hint: Any) -> None:
        self.alternatives = [Alternative(choice) for choice in _list_choices(hint)]
        self._without_breach = set[bytes]()
        """Digests of the values in which a check has found nothing."""

    def check_once(self, value: Any, breaches: Iterator[T]) -> Iterator[T]:
        """Yield the breaches in a value, unless an equal one had none: each request repeats the messages before."""
        digest = hashlib.sha256(marshal.dumps(value, _WITHOUT_REFERENCES)).digest()
        if digest in self._without_breach:
            return
        found = list(breaches)
        if not found:
            self._without_breach.add(digest)
        yield from found

    def list_fitting(self, value: Any) -> list["Alternative"]:
        kind = type(value)
        return [
            choice
            for choice in self.alternatives
            if choice.kind in (kind, object) or (kind is int and choice.kind is float)
        ]


class Alternative:
    """One type that is no union."""

    def __init__(self, hint: Any) -> None:
        self.hint = hint
        self.is_fields = typing_extensions.is_typeddict(hint)
        """True for a typed dictionary."""
        self.literals: tuple[Any, ...] = get_args(hint) if get_origin(hint) is Literal else ()
        self.kind = self._find_kind()
        """Type of the JSON value as Python decodes it. `object`: any value. None: no JSON, but an object of the SDK."""

    def _find_kind(self) -> type | None:
        origin = get_origin(self.hint) or self.hint
        if self.is_fields or origin is dict:
            return dict
        if self.literals:
            return type(self.literals[0])
        if origin in (*_KINDS, object, types.NoneType):
            return origin  # type: ignore[no-any-return]
        return list if get_args(self.hint) else None

    @property
    def fields(self) -> "Fields":
        """The fields of a typed dictionary."""
        return read_fields(self.hint)

    @cached_property
    def inner(self) -> Declared | None:
        """The type of the elements of a list, or of the values of a dictionary. None: any."""
        arguments = get_args(self.hint)
        return Declared(arguments[-1]) if arguments and not self.literals else None


class Fields:
    """The fields of a typed dictionary."""

    def __init__(self, hint: Any) -> None:
        hints = typing_extensions.get_type_hints(hint, include_extras=True)
        self.types = {name: Declared(field) for name, field in hints.items()}
        self.required = {name for name, field in hints.items() if get_origin(field) is typing_extensions.Required}
        self.tags = {
            name: tuple(value for choice in self.types[name].alternatives for value in choice.literals)
            for name in ("type", "role")
            if name in self.types and any(choice.literals for choice in self.types[name].alternatives)
        }
        """Name of a field that distinguishes a member of a union → its values in this member."""


@cache
def read_fields(hint: Any) -> Fields:
    """Return the fields of a typed dictionary. Do not change them."""
    return Fields(hint)


def _list_choices(hint: Any) -> list[Any]:
    while get_origin(hint) in _WRAPPERS:
        hint = get_args(hint)[0]
    if isinstance(hint, typing_extensions.TypeAliasType):
        return _list_choices(hint.__value__)
    if get_origin(hint) in (Union, types.UnionType):
        return [choice for part in get_args(hint) for choice in _list_choices(part)]
    return [hint]


def understood(kind: Any, value: Any) -> Any:
    """Return a JSON value without the fields that a declared type does not know.

    Raises pydantic's error if a field has another type.
    """
    adapter = _adapter(kind)
    return json.loads(adapter.dump_json(adapter.validate_python(value), warnings=False))


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
