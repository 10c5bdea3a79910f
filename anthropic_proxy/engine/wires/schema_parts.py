"""Parts that all conversions of JSON Schemas share: references, equal values, merged schemas, and texts about keywords.

A reference (`$ref`) such as `#/$defs/place` points to a schema inside the document, which is called its target.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any
from urllib.parse import unquote

import msgspec

from anthropic_proxy.engine.messages.work_budget import CHARACTERS_PER_NODE, WorkBudget

Schema = dict[str, Any]

_MAX_INDEX_DIGITS = 9
"""Maximum number of digits of a list index in a reference. A longer index is invalid."""
_MISSING = object()
MAX_INLINED_REFERENCES = 1_000
"""Maximum number of references (`$ref`) in one schema that are replaced by their targets. Each further one becomes a
plain object (`{"type": "object"}`). Definitions that contain each other would otherwise grow without end."""
REFERENCES_CUT = f"references after the first {MAX_INLINED_REFERENCES:,} became plain objects"
"""Text for fidelity notes."""


class SchemaDocument:
    def __init__(self, root: Schema, budget: WorkBudget) -> None:
        self.root = root
        self.budget = budget
        self._targets: dict[str, Any] = {}
        self._anchors: dict[str, Schema] | None = None
        """Name → schema with this anchor. None: not needed yet."""

    def find_target(self, reference: str) -> Any:
        """Return the value that `#/$defs/Name` points to. None: missing, or in another document."""
        target = self._targets.get(reference, _MISSING)
        if target is _MISSING:
            self.budget.count_steps(1 + len(reference) // CHARACTERS_PER_NODE + reference.count("/"))
            path = reference[1:]
            found: Any = self.root if reference.startswith("#") and path[:1] in ("", "/") else None
            if found is None and path and reference.startswith("#"):
                found = self._find_anchor(unquote(path))
                path = ""
            for step in path.split("/")[1:]:
                if isinstance(found, dict):
                    spellings = (step, unquote(step))  # some clients do not percent-encode names
                    names = (spelling.replace("~1", "/").replace("~0", "~") for spelling in spellings)
                    found = next((found[name] for name in names if name in found), None)
                else:
                    is_index = isinstance(found, list) and step.isdecimal() and len(step) <= _MAX_INDEX_DIGITS
                    found = found[int(step)] if is_index and int(step) < len(found) else None
            target = self._targets[reference] = found
        return target

    def inline_reference(self, schema: Schema) -> Schema:
        """Replace `$ref` by the keywords of its target. Keywords beside it take precedence. Not recursive."""
        seen: set[str] = set()
        while isinstance(reference := schema.get("$ref"), str) and reference not in seen:
            seen.add(reference)
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            target = self.find_target(reference)
            schema = {**target, **beside} if isinstance(target, dict) else beside
            self.budget.count_steps(1 + len(schema))
        return {key: value for key, value in schema.items() if key != "$ref"}

    def _find_anchor(self, name: str) -> Any:
        """Return the schema with `$anchor: name`, or with the `$id` of old drafts."""
        if self._anchors is None:
            self._anchors = {}
            for schema in iterate_objects(self.root, self.budget):
                anchor, identity = schema.get("$anchor"), schema.get("$id")
                if isinstance(identity, str) and identity.startswith("#"):
                    self._anchors.setdefault(identity[1:], schema)
                if isinstance(anchor, str):
                    self._anchors.setdefault(anchor, schema)
        return self._anchors.get(name)

    def has_recursion(self) -> bool:
        """Return True if a reference leads back to itself. Each target is read once."""
        inner: dict[str, set[str]] = {}
        """Reference → references inside its target."""
        open_references = list(self._find_references(self.root))
        while open_references:
            reference = open_references.pop()
            if reference not in inner:
                inner[reference] = self._find_references(self.find_target(reference))
                open_references += inner[reference]
        # references without further ones end no circle; what is left at the end is circular
        users: dict[str, list[str]] = {}
        for reference, others in inner.items():
            for other in others:
                users.setdefault(other, []).append(reference)
        remaining = {reference: len(others) for reference, others in inner.items()}
        ended = [reference for reference, number in remaining.items() if number == 0]
        for reference in ended:
            for user in users.get(reference, ()):
                remaining[user] -= 1
                if remaining[user] == 0:
                    ended.append(user)
        return len(ended) < len(inner)

    def _find_references(self, value: Any) -> set[str]:
        objects = iterate_objects(value, self.budget)
        return {one["$ref"] for one in objects if isinstance(one.get("$ref"), str)}


class EqualityIndex:
    """Assigns a number to each decoded JSON value. Two values are equal if they have the same number.

    A value must not change after its number was assigned.
    """

    def __init__(self, budget: WorkBudget) -> None:
        self.budget = budget
        self._numbers: dict[Any, int] = {}
        """Structure → number of the values with this structure. A structure is a scalar with its type, or the numbers
        of a container's members."""
        self._read: dict[int, tuple[Any, int]] = {}
        """`id()` of a list or object → the value and its number. The value is kept so that its id is not reused."""

    def assign_equality_number(self, value: Any) -> int:
        """Return the number of a decoded JSON value. Raises `WorkLimitExceeded`."""
        open_values = [value] if isinstance(value, dict | list) else []
        while open_values:
            one = open_values[-1]
            if id(one) in self._read:
                open_values.pop()
                continue
            members = one.values() if isinstance(one, dict) else one
            if unread := [each for each in members if isinstance(each, dict | list) and id(each) not in self._read]:
                open_values += unread
                continue
            open_values.pop()
            self.budget.count_steps(1 + len(one))
            structure: Any = tuple(map(self._known, members))
            if isinstance(one, dict):
                structure = frozenset(zip(one, structure, strict=True))
            self._read[id(one)] = one, self._number_of(structure)
        return self._known(value)

    def _known(self, value: Any) -> int:
        return self._read[id(value)][1] if isinstance(value, dict | list) else self._number_of((type(value), value))

    def _number_of(self, structure: Any) -> int:
        return self._numbers.setdefault(structure, len(self._numbers))


def merge_all_of(schema: Schema, index: EqualityIndex) -> Schema:
    """Return one schema with the keywords of a schema and of all schemas in its `allOf`.

    A property with different schemas gets an `allOf` of them. Required names are joined. Of other keywords, the first
    value counts. Raises `WorkLimitExceeded`.
    """
    parts = schema.get("allOf")
    if not isinstance(parts, list):
        return schema
    budget = index.budget
    merged = {key: value for key, value in schema.items() if key != "allOf"}
    owns_properties = False  # True: `properties` of the merged schema is a copy that may be changed
    conflicts: dict[str, list[Any]] = {}  # name of a property → its different schemas
    required: dict[str, None] | None = None  # None: at most one of the schemas has `required`
    for one in parts:
        if not isinstance(one, dict):
            continue
        part = merge_all_of(one, index)
        budget.count_steps(1 + len(part))
        for key, value in part.items():
            before = merged.get(key)
            if key == "properties" and isinstance(before, dict) and isinstance(value, dict):
                budget.count_steps(len(value))
                if not owns_properties:
                    budget.count_steps(len(before))
                    before = merged["properties"] = dict(before)
                    owns_properties = True
                for name, inner in value.items():
                    if name not in before:
                        before[name] = inner
                    elif name in conflicts:
                        conflicts[name].append(inner)
                    elif index.assign_equality_number(before[name]) != index.assign_equality_number(inner):
                        conflicts[name] = [before[name], inner]
                        before[name] = {"allOf": conflicts[name]}
            elif key == "required" and isinstance(before, list) and isinstance(value, list):
                if required is None:
                    required = required_names(before)
                budget.count_steps(len(value))
                required |= required_names(value)
            elif before is None or before == {}:  # an empty schema states no condition
                merged[key] = value
    if required is not None:
        merged["required"] = list(required)
    return merged


_ANNOTATIONS = frozenset(("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"))


def join_target(target: Schema, beside: Schema, index: EqualityIndex) -> Schema:
    """Return the target of a reference with the keywords beside the reference. Both must match a value.

    Annotations beside it take precedence.
    """
    shared = target.keys() & beside.keys() - _ANNOTATIONS
    if not shared:
        return {**target, **beside}
    parts = beside.get("allOf")
    return merge_all_of({**beside, "allOf": [*(parts if isinstance(parts, list) else ()), target]}, index)


def iterate_objects(value: Any, budget: WorkBudget) -> Iterator[Schema]:
    """Yield the objects in a decoded JSON value, the outer ones first."""
    open_values = [value]
    while open_values:
        one = open_values.pop()
        if isinstance(one, dict | list):
            budget.count_steps(1 + len(one) // 4)
            open_values += one.values() if isinstance(one, dict) else one
        if isinstance(one, dict):
            yield one


def required_names(required: Any) -> dict[str, None]:
    """Return the property names in the value of the keyword `required`, as the keys of a dictionary, in order."""
    return dict.fromkeys(one for one in required if isinstance(one, str)) if isinstance(required, list) else {}


def describe_keyword(key: str, value: Any) -> str:
    """Return the text `key: value` for a description. "": the value is too long."""
    text = encode_if_short(value)
    return "" if text is None else f"{key}: {text}"


def add_texts(schema: Schema, texts: list[str]) -> None:
    """Add texts about keywords that are not sent to the description of a schema."""
    if not texts:
        return
    before, hint = schema.get("description"), f"({'; '.join(texts)})"
    schema["description"] = f"{before} {hint}" if isinstance(before, str) and before else hint


def holds_type(kinds: Any, name: str) -> bool:
    """Return True if the value of the keyword `type` is or contains a type."""
    return name in kinds if isinstance(kinds, list) else kinds == name


MAX_TEXT_CHARACTERS = 200
"""Maximum length of the JSON text of one keyword value. A longer value is not added to a description."""


def encode_if_short(value: Any) -> str | None:
    """Return a decoded JSON value as JSON text. None: the text has more than `MAX_TEXT_CHARACTERS` characters."""
    remaining = MAX_TEXT_CHARACTERS
    open_values = [value]
    while open_values and remaining >= 0:  # a lower bound of the length, so that a huge value is not encoded
        one = open_values.pop()
        remaining -= len(one) if isinstance(one, str) else 1
        if isinstance(one, dict):
            remaining -= len(one)
            open_values += islice(one.values(), MAX_TEXT_CHARACTERS)
        elif isinstance(one, list):
            remaining -= len(one)
            open_values += islice(one, MAX_TEXT_CHARACTERS)
    if remaining < 0:
        return None
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= MAX_TEXT_CHARACTERS else None


def leave_out_empty_texts(schema: Schema, lost: list[str]) -> None:
    """Replace an `enum` with an empty text by a text in the description, so that all its values stay allowed.

    If the values are too long for a text, only the empty ones are left out. The text for a note is added to `lost`.
    """
    values = schema["enum"] if isinstance(schema.get("enum"), list) else [schema.get("const")]
    if "" not in values:
        return
    kept = [value for value in values if value != ""]
    text = describe_keyword("one of", values)
    schema.pop("const", None)
    schema.pop("enum", None)
    if all(isinstance(value, str) for value in values):
        schema.setdefault("type", "string")
    if text:
        add_texts(schema, [text])
    else:
        schema["enum"] = kept
        lost.append("the empty text was left out of the values of an enum")
