"""Conversion of the root of a client's JSON Schema to the schema of a plain object, which all providers require.

`flatten_root` converts a root that is a reference, or that has alternatives (`anyOf`). `may_accept_object` is False for
a reply schema that allows no object. `required_names` returns the names in the keyword `required`. A `WorkBudget`
limits the work for one client request.
"""

import hashlib
from itertools import islice
from typing import Any

import msgspec

from anthropic_proxy.messages.work_budget import WorkBudget, WorkCache
from anthropic_proxy.wire.json_schema.document import ALTERNATIVE_KEYWORDS, Schema, SchemaDocument
from anthropic_proxy.wire.json_schema.merging import EqualityIndex

REPLY_SCHEMA_PATH = "output_config.format.schema"
"""Path of the reply schema in the client request, for error messages."""
_ADMISSIONS_KEPT = 1_024
"""Maximum number of cached results of `may_accept_object`."""
_OF_OBJECTS = frozenset(("title", "description", "required", "additionalProperties", "$defs", "definitions"))
"""Keywords that are kept if the root has another type than `object`. All others are dropped."""


def flatten_root(document: SchemaDocument, index: EqualityIndex, losses: list[str]) -> Schema:
    """Return the root of a schema as an object with `properties`, into which alternatives such as `anyOf` are merged.

    A text for each lost condition of the schema is appended to `losses`. Raises `WorkLimitExceeded` for a too large
    schema.
    """
    root = document.root
    flattened = _RootFlattener(document, index, losses).flatten(root, 0)
    return flattened | {key: root[key] for key in ("$defs", "definitions") if key in root}


def may_accept_object(schema: bytes, budget: WorkBudget | None = None) -> bool:
    """Return True if a reply schema may accept a JSON object. False: it requires a list or a plain value.

    Raises `WorkLimitExceeded` if the work exceeds `budget`.
    """
    budget = budget or WorkBudget(REPLY_SCHEMA_PATH)
    with budget.error_field(REPLY_SCHEMA_PATH):
        return _find_admission(schema, budget)


def _decide_admission(schema: bytes, budget: WorkBudget) -> bool:
    budget.count_decoding_steps(schema)
    root = msgspec.json.decode(schema)
    return not isinstance(root, dict) or _ObjectCheck(SchemaDocument(root, budget)).admits(root, 0)


def _digest(schema: bytes) -> bytes:
    return hashlib.blake2b(schema).digest()


_find_admission = WorkCache(_decide_admission, _digest, _ADMISSIONS_KEPT).get_or_encode


class _RootFlattener:
    """Merges the alternatives of a schema's root into one object. Each list of alternatives is read once."""

    def __init__(self, document: SchemaDocument, index: EqualityIndex, lost: list[str]) -> None:
        self._document = document
        self._index = index
        self._lost = lost
        self._lists: dict[int, list[Schema]] = {}
        """`id()` of a list of alternatives → its alternatives as objects. Empty list: not yet complete, or no
        objects."""
        self._targets: dict[str, Schema] = {}
        """Reference → the schema that it names, as a plain object."""

    def flatten(self, schema: Schema, depth: int) -> Schema:
        """Return a schema as one object with the properties of all its alternatives. Losses are added to `lost`."""
        budget = self._document.budget
        budget.require_allowed_depth(depth)
        flat = self._document.inline_reference(schema)
        budget.count_steps(_breadth(flat))
        for key in ALTERNATIVE_KEYWORDS:
            branches = flat.pop(key, None)
            if isinstance(branches, list):
                objects = self._objects_among(branches, depth)
                _Union(flat, self._index, everyone_holds=key == "allOf").add(objects)
                if key != "allOf" or len(objects) < len(branches):
                    self._lost.append(f"{key} at the root became one object with all its properties")
        self._lost += [f"{key} at the root was removed" for key in ("enum", "const", "not") if key in flat]
        kinds = flat.get("type", "object")
        if kinds != "object":
            self._lost.append(f"type {_describe(kinds)} at the root became object")
        properties = flat.get("properties")
        dropped = ("enum", "const", "not") if _holds_objects(kinds) else flat.keys() - _OF_OBJECTS
        kept = {key: value for key, value in flat.items() if key not in dropped}
        return {**kept, "type": "object", "properties": properties if isinstance(properties, dict) else {}}

    def _objects_among(self, branches: list[Any], depth: int) -> list[Schema]:
        known = self._lists.get(id(branches))
        if known is None:
            self._lists[id(branches)] = []
            known = [self._flatten_branch(one, depth + 1) for one in branches if _is_object(one)]
            self._lists[id(branches)] = known
        return known

    def _flatten_branch(self, branch: Schema, depth: int) -> Schema:
        reference = branch.get("$ref")
        if not isinstance(reference, str) or len(branch) > 1:
            return self.flatten(branch, depth)
        if reference not in self._targets:
            self._targets[reference] = self.flatten(branch, depth)
        return self._targets[reference]


class _Union:
    """Adds the properties of alternative schemas (branches) to the object schema `flat`.

    `everyone_holds`: True for `allOf`, where a name is required if any branch requires it. False: it is required only
    if all branches require it.
    """

    def __init__(self, flat: Schema, index: EqualityIndex, *, everyone_holds: bool) -> None:
        self._flat = flat
        self._index = index
        self._keyword = "allOf" if everyone_holds else "anyOf"
        properties = flat.get("properties")
        self._properties: Schema = dict(properties) if isinstance(properties, dict) else {}
        self._alternatives: dict[str, dict[int, Any]] = {}
        """Name of a property with different descriptions → number of a description (equal ones share it) →
        description."""

    def add(self, branches: list[Schema]) -> None:
        """Add the properties and required names of the branches to `flat`. A repeated branch is skipped.

        A property with different descriptions becomes an `allOf` or `anyOf` of these descriptions.
        """
        distinct = list({id(branch): branch for branch in branches}.values())
        for branch in distinct:
            self._index.budget.count_steps(1 + len(branch["properties"]))
            for name, schema in branch["properties"].items():
                self._add_property(name, schema)
        for name, alternatives in self._alternatives.items():
            self._properties[name] = {self._keyword: list(alternatives.values())}
        demands = [set(required_names(branch.get("required"))) for branch in distinct]
        self._index.budget.count_steps(sum(map(len, demands)))
        combine = set.union if self._keyword == "allOf" else set.intersection
        shared = combine(*demands) if demands else set()
        required = required_names(self._flat.get("required"))
        required |= dict.fromkeys(name for name in self._properties if name in shared)
        self._flat["properties"] = self._properties
        if required:
            self._flat["required"] = list(required)

    def _add_property(self, name: str, schema: Any) -> None:
        known = self._properties.setdefault(name, schema)
        if known is schema:
            return
        number = self._index.assign_equality_number(schema)
        if name in self._alternatives:
            self._alternatives[name].setdefault(number, schema)
        elif (first := self._index.assign_equality_number(known)) != number:
            self._alternatives[name] = {first: known, number: schema}


class _ObjectCheck:
    """Check of one schema: may it accept a JSON object? Each list of alternatives is read once."""

    def __init__(self, document: SchemaDocument) -> None:
        self._document = document
        self._lists: dict[tuple[int, str], bool] = {}
        """`id()` of a list of alternatives and its keyword → True if the list may accept an object. True also while it
        is being checked."""
        self._targets: dict[str, bool] = {}
        """Reference → True if the schema that it names may accept an object."""

    def admits(self, schema: Any, depth: int) -> bool:
        """Return True if a schema may accept a JSON object. `depth`: nesting depth of the schema."""
        self._document.budget.require_allowed_depth(depth)
        if not isinstance(schema, dict):
            return True
        flat = self._document.inline_reference(schema)
        self._document.budget.count_steps(_breadth(flat))
        values = flat["enum"] if isinstance(flat.get("enum"), list) else [flat.get("const", {})]
        if not _holds_objects(flat.get("type", "object")) or not any(isinstance(value, dict) for value in values):
            return False
        return all(self._list_admits(flat.get(key), key, depth) for key in ALTERNATIVE_KEYWORDS)

    def _list_admits(self, branches: Any, key: str, depth: int) -> bool:
        if not isinstance(branches, list) or not branches:
            return True
        place = id(branches), key
        if place not in self._lists:
            self._lists[place] = True
            self._document.budget.count_steps(len(branches))
            admitting = (self._branch_admits(one, depth + 1) for one in branches)
            self._lists[place] = all(admitting) if key == "allOf" else any(admitting)
        return self._lists[place]

    def _branch_admits(self, branch: Any, depth: int) -> bool:
        reference = branch.get("$ref") if isinstance(branch, dict) else None
        if not isinstance(reference, str) or len(branch) > 1:
            return self.admits(branch, depth)
        if reference not in self._targets:
            self._targets[reference] = self.admits(branch, depth)
        return self._targets[reference]


def _breadth(schema: Schema) -> int:
    """Return the number of budget steps for the top level of a schema."""
    return 1 + len(schema) + sum(len(value) for value in schema.values() if isinstance(value, list))


def _describe(kinds: Any) -> str:
    return str(kinds) if encode_if_short(kinds) else "of several kinds"


def required_names(required: Any) -> dict[str, None]:
    """Return the property names in the value of the keyword `required`, as the keys of a dictionary, in order."""
    return dict.fromkeys(one for one in required if isinstance(one, str)) if isinstance(required, list) else {}


def _holds_objects(kinds: Any) -> bool:
    return "object" in kinds if isinstance(kinds, list) else kinds == "object"


def _is_object(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type", "object") == "object"


MAX_TEXT_CHARACTERS = 200
"""Maximum length of the JSON text of one keyword value. A longer value is not added to a description."""


def encode_if_short(value: Any) -> str | None:
    """Return a decoded JSON value as JSON text. None: the text has more than `MAX_TEXT_CHARACTERS` characters."""
    if not _may_be_short(value):
        return None
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= MAX_TEXT_CHARACTERS else None


def _may_be_short(value: Any) -> bool:
    remaining, open_values = MAX_TEXT_CHARACTERS, [value]
    while open_values and remaining >= 0:
        one = open_values.pop()
        remaining -= len(one) if isinstance(one, str) else 1
        if isinstance(one, dict):
            remaining -= len(one)
            open_values += islice(one.values(), MAX_TEXT_CHARACTERS)
        elif isinstance(one, list):
            remaining -= len(one)
            open_values += islice(one, MAX_TEXT_CHARACTERS)
    return remaining >= 0
