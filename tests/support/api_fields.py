"""The fields of the Messages API by the types of the official SDK, for `engine/wires/anthropic/api_fields.json`."""

import types
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple, NotRequired, Required, Union, get_args, get_origin, get_type_hints

from anthropic.types import message_count_tokens_params as stable_counts
from anthropic.types import message_create_params as stable_messages
from anthropic.types.beta import (
    BetaContentBlock,
    BetaFallbackParam,
    BetaMessageParam,
    message_count_tokens_params,
    message_create_params,
)
from pydantic import BaseModel
from typing_extensions import is_typeddict

REQUESTS = (
    message_create_params.MessageCreateParamsNonStreaming,
    message_create_params.MessageCreateParamsStreaming,
    message_count_tokens_params.MessageCountTokensParams,
    stable_messages.MessageCreateParamsNonStreaming,
    stable_messages.MessageCreateParamsStreaming,
    stable_counts.MessageCountTokensParams,
)
ANY, MAP = "*", "{}"
"""Value of a field with any content, and the beginning of that of a field with keys of the client's own, whose values
are at the place that follows."""
_CLOSED = (BetaFallbackParam,)
"""Types that the SDK declares as open, although the API rejects other fields (see their docstring)."""

Places = dict[str, dict[str, str]]
"""Place of an object → its fields → place of the object or list of objects in the field; "": no object."""


def read_places() -> Places:
    """Return the objects of a request by their paths. Objects with the same fields have one path, the shortest."""
    found: dict[frozenset[Any], tuple[str, dict[str, str]]] = {}
    _add_place(found, frozenset(REQUESTS), "")
    return _merge_equal(dict(sorted(found.values(), key=lambda place: (place[0].count("."), place[0]))))


def _add_place(found: dict[frozenset[Any], tuple[str, dict[str, str]]], classes: frozenset[Any], path: str) -> str:
    if BetaMessageParam in classes:
        path = "messages"
    if classes in found:
        return found[classes][0]
    fields: dict[str, str] = {}
    found[classes] = path, fields
    values: dict[str, list[Any]] = defaultdict(list)
    for each in sorted(classes, key=lambda kind: kind.__qualname__):
        for name, annotation in list_fields(each):
            values[name].append(annotation)
    if path == "messages":  # clients send back the blocks of replies
        values["content"].append(BetaContentBlock)
    for name, annotations in sorted(values.items()):
        inner = [kind for annotation in annotations for kind in _list_kinds(annotation)]
        below = f"{path}.{name}".removeprefix(".")
        if ANY in inner or not inner:
            fields[name] = ANY if inner else ""
            continue
        maps = [kind for kind in inner if isinstance(kind, _Map)]
        objects = [kind for kind in inner if not isinstance(kind, _Map)]
        if maps:  # beside it, an object may have some of the keys
            objects = [kind for each in objects for _, value in list_fields(each) for kind in _list_kinds(value)]
            objects += [kind for each in maps for kind in _list_kinds(each.value)]
        fields[name] = (MAP if maps else "") + _add_place(found, frozenset(objects), below)
    return path


class _Map(NamedTuple):
    """An object with keys of the client's own and values of one type."""

    value: Any


def list_fields(kind: Any) -> Iterator[tuple[str, Any]]:
    if is_typeddict(kind):
        yield from get_type_hints(kind, include_extras=True).items()
        return
    for name, field in kind.model_fields.items():
        yield field.alias or name, field.annotation


def _list_kinds(annotation: Any) -> Iterable[Any]:
    """Yield the types of objects that a value may be, or have in a list. `ANY`: an object with any keys."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Required, NotRequired, Annotated):
        return _list_kinds(arguments[0])
    if origin is Union or origin is types.UnionType:
        return [kind for argument in arguments for kind in _list_kinds(argument)]
    if is_typeddict(annotation):
        is_open = getattr(annotation, "__extra_items__", None) is object and annotation not in _CLOSED
        return [ANY] if is_open else [annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if annotation is object or annotation is Any:
        return [ANY]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return [_Map(arguments[1])] if is_typeddict(arguments[1]) else [ANY]
    if (isinstance(origin, type) and issubclass(origin, Iterable)) or getattr(
        origin, "__name__", ""
    ) == "SequenceNotStr":
        return _list_kinds(arguments[0])
    return []


def _merge_equal(places: Places) -> Places:
    """Give objects with the same fields one place."""
    while True:
        names: dict[str, str] = {}
        first: dict[tuple[tuple[str, str], ...], str] = {}
        for path, fields in places.items():
            names[path] = first.setdefault((*fields.items(),), path)
        if len(first) == len(places):
            return places
        places = {
            path: {
                name: MAP * below.startswith(MAP) + names.get(below.removeprefix(MAP), below.removeprefix(MAP))
                for name, below in fields.items()
            }
            for path, fields in places.items()
            if names[path] == path
        }
