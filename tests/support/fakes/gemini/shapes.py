"""Checks of a request body against the official SDK's own types: no field beyond them, every type as they define it."""

import re
import warnings
from collections.abc import Iterator
from typing import Any, get_args

from google.genai import types
from google.genai._common import BaseModel
from pydantic import ValidationError

from tests.support.fakes.server import ContractViolation


class GenerateContentRequest(BaseModel):
    """The fields of a body; the SDK spreads them over its functions' arguments."""

    contents: list[types.Content] | None = None
    system_instruction: types.Content | None = None
    tools: list[types.Tool] | None = None
    tool_config: types.ToolConfig | None = None
    generation_config: types.GenerationConfig | None = None
    safety_settings: list[types.SafetySetting] | None = None
    cached_content: str | None = None
    labels: dict[str, str] | None = None


# Fields that only one of the two doors knows (the SDK's converters, google-genai 3.3), by the path's last two names.
_ONLY_VERTEX = {
    *("labels", "functionCall.partialArgs", "functionCall.willContinue", "inlineData.displayName"),
    *("fileData.displayName", "tools.retrieval", "tools.enterpriseWebSearch"),
}
_ONLY_AI_STUDIO = {
    *("toolConfig.includeServerSideToolInvocations", "functionResponse.willContinue", "parts.toolCall"),
    *("parts.toolResponse", "parts.partMetadata", "tools.fileSearch"),
}
# The SDK's `Schema` has these for its own use; neither door's has.
_ONLY_SDK = {"additionalProperties", "defs", "ref", "$defs", "$ref"}


def _names_of(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[str]:
    """Return the names of all fields of the SDK's types that a request can hold, as JSON has them."""
    if model in seen:
        return set()
    seen.add(model)
    names = set()
    for name, field in model.model_fields.items():
        names.add(field.alias or name)
        for inner in _models_in(field.annotation):
            names |= _names_of(inner, seen)
    return names


def _models_in(hint: Any) -> Iterator[type[BaseModel]]:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        yield hint
    for inner in get_args(hint):
        yield from _models_in(inner)


_NAMES = _names_of(GenerateContentRequest, set())


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda found: "_" + found[1].lower(), name)


_FREE = ("args", "response", "parameters", "parametersJsonSchema", "responseSchema", "responseJsonSchema", "labels")


def in_camel_case(value: Any) -> Any:
    """Return a body with the field names that JSON has: the server takes those of its own language too."""
    if isinstance(value, list):
        return [in_camel_case(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for name, inner in value.items():
        camel = re.sub(r"_([a-z])", lambda match: match[1].upper(), name)
        known = camel if camel in _NAMES else name
        found[known] = inner if known in _FREE else in_camel_case(inner)
    return found


def _path(place: tuple[int | str, ...]) -> str:
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{_snake(step)}"
    return text.removeprefix(".")


def unknown(place: tuple[int | str, ...], name: str) -> ContractViolation:
    path = _path(place)
    where = f" at '{path}'" if path else ""
    return ContractViolation(
        "unknown_field", f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.'
    )


def _check_types(body: dict[str, Any]) -> Iterator[ContractViolation]:
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always")  # of an enum's unknown value the SDK only warns
        try:
            GenerateContentRequest.model_validate(body)
        except ValidationError as error:
            for fault in error.errors(include_url=False):
                place = fault["loc"]
                if fault["type"] == "extra_forbidden":
                    yield unknown(place[:-1], str(place[-1]))
                else:
                    yield ContractViolation("type", f"Invalid value at '{_path(place)}': {fault['msg']}")
    for doubt in doubts:
        if issubclass(doubt.category, ResourceWarning):
            continue  # of something else, that happened to be cleared away here
        yield ContractViolation("enum", f"Invalid value: {doubt.message}")


def _check_foreign_fields(
    value: Any, foreign: set[str], place: tuple[int | str, ...] = ()
) -> Iterator[ContractViolation]:
    """Yield fields that the SDK knows for the other door."""
    if isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _check_foreign_fields(inner, foreign, (*place, position))
    elif isinstance(value, dict):
        holder = next((step for step in reversed(place) if isinstance(step, str)), "")
        for name, inner in value.items():
            if f"{holder}.{name}".removeprefix(".") in foreign:
                yield unknown(place, name)
            if name not in _FREE:
                yield from _check_foreign_fields(inner, foreign, (*place, name))


def _check_lowered(schema: Any, place: tuple[int | str, ...]) -> Iterator[ContractViolation]:
    """Yield the fields of the SDK's own schemas that the servers lack."""
    if not isinstance(schema, dict):
        return
    for name, inner in schema.items():
        if name in _ONLY_SDK:
            yield unknown(place, name)
        elif name == "properties" and isinstance(inner, dict):
            for key, one in inner.items():
                yield from _check_lowered(one, (*place, name, key))
        elif name == "items":
            yield from _check_lowered(inner, (*place, name))
        elif name == "anyOf" and isinstance(inner, list):
            for position, one in enumerate(inner):
                yield from _check_lowered(one, (*place, name, position))


def check_request(body: dict[str, Any], *, vertex: bool) -> Iterator[ContractViolation]:
    yield from _check_types(body)
    yield from _check_foreign_fields(body, _ONLY_AI_STUDIO if vertex else _ONLY_VERTEX)
    for position, tool in enumerate(body.get("tools") or ()):
        for number, declared in enumerate(tool.get("functionDeclarations") or ()):
            place = ("tools", position, "functionDeclarations", number, "parameters")
            yield from _check_lowered(declared.get("parameters"), place)
