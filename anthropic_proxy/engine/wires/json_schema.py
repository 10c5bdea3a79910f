"""Reduction of a client's JSON Schema (tool input or reply) to the keywords that a provider accepts.

Theory of operation: providers read different parts of JSON Schema (`SchemaRules`), and reject a request with any other
keyword. `clean_schema` builds a copy in two passes. The first makes the root a plain object, because all providers
require one: alternatives at the root are merged into one object with all their properties (`_RootFlattener`). The
second walks over the rest, drops keywords, and inlines references if the provider accepts none. What is lost at the
root is described in texts for fidelity notes. A key counts as a keyword only where JSON Schema expects one, so a
property with the name `default` or `type` is kept.

Why it is not simpler: a small schema can cause unlimited work through its references and alternatives. So every list
of alternatives and every reference is read once, equal values are found by numbers instead of comparisons
(`EqualityIndex`), and a `WorkBudget` counts the rest and raises `WorkLimitExceeded` above a limit.

A loss is a condition of the client's schema that the cleaned schema no longer contains. A reference (`$ref`) such as
`#/$defs/place` points to a schema inside the document, which is called its target.
"""

import hashlib
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.messages.models.client_json import decode_values
from anthropic_proxy.engine.messages.work_budget import CHARACTERS_PER_NODE, WorkBudget, WorkCache, count_json_nodes
from anthropic_proxy.engine.wires.schema_parts import (
    MAX_INLINED_REFERENCES,
    REFERENCES_CUT,
    EqualityIndex,
    Schema,
    SchemaDocument,
    add_texts,
    describe_keyword,
    encode_if_short,
    holds_type,
    join_target,
    leave_out_empty_texts,
    merge_all_of,
    required_names,
)
from anthropic_proxy.engine.wires.typed_schemas import ALL_TYPES, TypedForm

SCHEMA_MAP_KEYWORDS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
"""Keywords with a mapping from names to schemas as value."""
SCHEMA_LIST_KEYWORDS = ("anyOf", "oneOf", "allOf", "prefixItems")
"""Keywords with a list of schemas as value."""
SINGLE_SCHEMA_KEYWORDS = ("items", "contains", "not", "if", "then", "else", "propertyNames")
"""Keywords with one schema as value. In old drafts, `items` may be a list of schemas."""
SCHEMA_OR_BOOLEAN_KEYWORDS = ("additionalProperties", "additionalItems", "unevaluatedProperties", "unevaluatedItems")
"""Keywords with a schema or a boolean as value. A boolean is kept unchanged."""
DROPPED_KEYWORDS = frozenset(("$schema", "$id", "$comment"))
"""Keywords that are removed for all providers."""
ALTERNATIVE_KEYWORDS = ("anyOf", "oneOf", "allOf")
"""Keywords with a list of schemas, of which at least one, exactly one or all must match."""


class SchemaRules(Struct, frozen=True, kw_only=True, cache_hash=True):
    """Features of JSON Schema that upstream requests may use, for all servers of an API (wire) or for one provider."""

    inlines_references: bool = False
    """True if each reference (`$ref`) is replaced by the schema that it names. A recursive one becomes a plain
    object."""
    allows_recursion: bool = True
    """False: in a schema whose references lead back to themselves, each is replaced as by `inlines_references`."""
    requires_types: bool = False
    """True if each schema must state its type, or alternatives (`anyOf`) without keywords beside them. Schemas are then
    sent without references, `allOf` and `oneOf`."""
    allows_type_beside_alternatives: bool = True
    """False: an older name of `requires_types = true`."""
    allows_empty_texts: bool = True
    """False: an empty text in `enum` is rejected. The values then become text in the description."""
    allows_basics_only: bool = False
    """True if only types, descriptions, properties, required names, items, enums and references are accepted. Of
    several alternatives, the first that is not `null` is kept."""
    suits_grammars: bool = False
    """True if the server compiles schemas to grammars, as llama.cpp does, which then limit what the model writes.

    Patterns, formats and lengths of strings and large counts of members become text in the description, because such a
    server rejects many of them (ggml-org/llama.cpp, common/json-schema-to-grammar.cpp, read 2026-11-26). Members of an
    array that may have any type get all types, of the basic keywords only strings, because `{}` allows only objects
    there."""


UNRESTRICTED_RULES = SchemaRules()
"""Rules without restrictions. Keywords in `DROPPED_KEYWORDS` are removed nevertheless, and the root becomes a plain
object."""


@lru_cache
def find_schema_rules(rules: SchemaRules, language: SchemaRules) -> SchemaRules:
    """Return the rules of a server together with those of the language that the model's vendor reads."""
    fields = {name: getattr(language, name) for name in SchemaRules.__struct_fields__}
    changes = {name: value for name, value in fields.items() if value != getattr(UNRESTRICTED_RULES, name)}
    return structs.replace(rules, **changes) if changes else rules


BASIC_RULES = SchemaRules(inlines_references=True, requires_types=True, allows_basics_only=True, suits_grammars=True)
"""Rules for basic keywords only, without references, with a type in each schema. They are used after a server rejected
a schema."""


_BASICS = frozenset(("type", "description", "properties", "required", "items", "enum", "$ref"))
_FIRST_KEPT = "of several types or alternatives, only the first was kept"
_NULL_LEFT_OUT = "null was left out beside other values"
_PLACES_FOR_ALL = "the schema of an array's first members became that of all its members"
_MEMBERS_BECAME_TEXTS = "members of arrays that may have any type became strings"


class CleanedSchema(NamedTuple):
    schema: Schema
    """The root is an object with `properties`."""
    losses: list[str]
    """Texts for fidelity notes, one for each loss. Only losses at the root of the schema and of references are
    noted."""


def clean_schema(
    schema: Any, rules: SchemaRules = UNRESTRICTED_RULES, budget: WorkBudget | None = None
) -> CleanedSchema:
    """Return a copy of a schema with only the keywords that `rules` permit. Raises `WorkLimitExceeded`."""
    budget = budget or WorkBudget("schema")
    lost: list[str] = []
    document = SchemaDocument(schema if isinstance(schema, dict) else {}, budget)
    index = EqualityIndex(budget)
    root = _RootFlattener(document, index, lost).flatten(document.root, 0)
    root |= {key: document.root[key] for key in ("$defs", "definitions") if key in document.root}
    requires_types = rules.requires_types or not rules.allows_type_beside_alternatives
    if not requires_types or rules.allows_basics_only or rules.suits_grammars:
        root = _Walk(SchemaDocument(root, budget), index, rules, lost).clean_root()
    if requires_types:
        root = TypedForm(SchemaDocument(root, budget), index, lost).fit()
    return CleanedSchema(root, list(dict.fromkeys(lost)))


class _Walk:
    def __init__(self, document: SchemaDocument, index: EqualityIndex, rules: SchemaRules, lost: list[str]) -> None:
        self._document = document
        self._index = index
        self._budget = document.budget
        self._rules = rules
        self._lost = lost
        self._inlines = rules.inlines_references or (not rules.allows_recursion and document.has_recursion())
        self._sizes: dict[int, int] = {}
        """`id()` of a value that is copied unchanged, such as an `enum` → number of its nodes."""
        self._inlined = 0
        """Number of references that were replaced so far."""

    def clean_root(self) -> Schema:
        cleaned = self.clean(self._document.root, (), 0)
        if self._inlines:
            cleaned.pop("$defs", None)
            cleaned.pop("definitions", None)
        if self._inlined > MAX_INLINED_REFERENCES:
            self._lost.append(REFERENCES_CUT)
        return cleaned

    def clean(self, schema: Any, trail: tuple[str, ...], depth: int) -> Schema:
        """A value that is no object becomes `{}`. `trail`: references that led here, to detect recursion."""
        if not isinstance(schema, dict):
            return {}
        self._budget.require_allowed_depth(depth)
        self._budget.count_nodes(1 + len(schema))
        if self._rules.allows_basics_only:
            schema = self._reduce_to_basics(schema)
        if isinstance(reference := schema.get("$ref"), str) and (
            self._inlines or self._document.find_target(reference) is None
        ):
            return self._inline(schema, reference, trail, depth)
        cleaned: Schema = {}
        for key, value in schema.items():
            if key in DROPPED_KEYWORDS:
                continue
            if key in SCHEMA_MAP_KEYWORDS and isinstance(value, dict):
                self._budget.count_nodes(len(value) + sum(map(len, value)) // CHARACTERS_PER_NODE)
                cleaned[key] = {name: self.clean(inner, trail, depth + 1) for name, inner in value.items()}
            elif isinstance(value, list) and (key in SCHEMA_LIST_KEYWORDS or key in SINGLE_SCHEMA_KEYWORDS):
                if value or key != "items":
                    name = "prefixItems" if key == "items" else key  # the list form of old drafts
                    cleaned[name] = [self.clean(inner, trail, depth + 1) for inner in value]
            elif key == "additionalItems":
                if "items" not in schema or isinstance(schema["items"], list):
                    cleaned["items"] = self.clean(value, trail, depth + 1)
            elif key in SINGLE_SCHEMA_KEYWORDS or (key in SCHEMA_OR_BOOLEAN_KEYWORDS and isinstance(value, dict)):
                cleaned[key] = self.clean(value, trail, depth + 1)
            else:
                self._count_copied(value)
                cleaned[key] = value
        if not self._rules.allows_empty_texts:
            leave_out_empty_texts(cleaned, self._lost)
        cleaned = _add_items(cleaned)
        if self._rules.suits_grammars:
            if self._rules.allows_basics_only and cleaned.get("items") == {}:
                self._lost.append(_MEMBERS_BECAME_TEXTS)
            _suit_grammar(cleaned, only_basics=self._rules.allows_basics_only)
        return cleaned

    def _inline(self, schema: Schema, reference: str, trail: tuple[str, ...], depth: int) -> Schema:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        target = self._document.find_target(reference)
        self._inlined += 1
        if reference in trail or not isinstance(target, dict) or self._inlined > MAX_INLINED_REFERENCES:
            return {"type": "object", **self.clean(beside, trail, depth + 1)}
        return self.clean(join_target(target, beside, self._index), (*trail, reference), depth + 1)

    def _count_copied(self, value: Any) -> None:
        if isinstance(value, str):
            if len(value) >= CHARACTERS_PER_NODE:
                self._budget.count_nodes(len(value) // CHARACTERS_PER_NODE)
        elif isinstance(value, list | dict):
            if id(value) not in self._sizes:
                self._sizes[id(value)] = count_json_nodes(value)
            self._budget.count_nodes(self._sizes[id(value)])

    def _reduce_to_basics(self, schema: Schema) -> Schema:
        """Return a schema with basic keywords, one type and no alternatives. Schemas inside it are unchanged."""
        whole = merge_all_of(schema, self._index)
        while key := next((key for key in ("anyOf", "oneOf") if isinstance(whole.get(key), list)), None):
            whole = self._keep_first(whole, key)
        if "const" in whole:
            whole = {"enum": [whole["const"]], **whole}
        basics = {key: value for key, value in whole.items() if key in _BASICS}
        if isinstance(kinds := basics.get("type"), list):
            if all(kind in kinds for kind in ALL_TYPES):
                del basics["type"]  # any value
            else:
                known = [kind for kind in kinds if kind != "null"]
                basics["type"] = (known or kinds or ["string"])[0]
                self._note_first(known, kinds)
        if isinstance(values := basics.get("enum"), list):
            basics["enum"] = [value for value in values if value is not None] or values
            if len(basics["enum"]) < len(values):
                self._lost.append(_NULL_LEFT_OUT)
            values = basics["enum"]
            if len({int if isinstance(value, float) else type(value) for value in values}) > 1:
                del basics["enum"]  # values of several types are alternatives
        places = whole.get("prefixItems", basics.get("items"))
        if isinstance(places, list):  # one schema for all places only if they agree
            numbers = {self._index.assign_equality_number(place) for place in places}
            basics["items"] = places[0] if len(numbers) == 1 else {}
            if len(numbers) == 1:
                self._lost.append(_PLACES_FOR_ALL)
        if "$ref" not in basics and not _states_type(basics) and _describes_object_and_array(basics):
            basics["type"] = "object"
            self._lost.append(_FIRST_KEPT)
        return basics

    def _keep_first(self, whole: Schema, key: str) -> Schema:
        """Return a schema without the alternatives in `key`, joined with the first one that is not `null`.

        Names that only this one requires are left out if there are others, because the others may lack them.
        """
        branches = whole[key]
        around = {name: value for name, value in whole.items() if name != key}
        self._budget.count_steps(sum(len(value) for value in whole.values() if isinstance(value, list | dict)))
        known = [branch for branch in branches if isinstance(branch, dict) and branch.get("type") != "null"]
        self._note_first(known, branches)
        if not known:
            return around
        first = merge_all_of(known[0], self._index)
        if len(known) > 1:
            first = {name: value for name, value in first.items() if name != "required"}
        return merge_all_of({**around, "allOf": [first]}, self._index)

    def _note_first(self, known: list[Any], choices: list[Any]) -> None:
        """`known`: those of the types or alternatives that are not `null`."""
        if len(known) > 1:
            self._lost.append(_FIRST_KEPT)
        if known and len(known) < len(choices):
            self._lost.append(_NULL_LEFT_OUT)


def _states_type(schema: Schema) -> bool:
    return schema.get("type") in (*ALL_TYPES, "integer") or (
        isinstance(values := schema.get("enum"), list) and len(values) > 0
    )


def _describes_object_and_array(schema: Schema) -> bool:
    of_objects = isinstance(schema.get("properties"), dict) or isinstance(schema.get("required"), list)
    return of_objects and "items" in schema


def _add_items(schema: Schema) -> Schema:
    """Return a cleaned schema with `items` if it describes arrays. Without this keyword, OpenAI and Gemini reject it.

    The added value permits all members, as its absence does.
    """
    return schema if "items" in schema or not holds_type(schema.get("type"), "array") else {**schema, "items": {}}


_LIMITS_OF_GRAMMARS = ("pattern", "format", "minLength", "maxLength", "minItems", "maxItems")
_MAX_GRAMMAR_ITEMS = 100
"""Maximum value of `minItems` and `maxItems` in a schema for a grammar, which contains a rule for each such member."""
_SCALARS = ["string", "number", "boolean", "object", "null"]
_ANY_TYPE: Schema = {"type": [*_SCALARS, "array"], "items": {"type": _SCALARS}}


def _suit_grammar(schema: Schema, *, only_basics: bool) -> None:
    """Change a cleaned schema for a server that compiles it (`SchemaRules.suits_grammars`)."""
    if schema.get("items") == {} and "prefixItems" not in schema:
        schema["items"] = {"type": "string"} if only_basics else _ANY_TYPE
    limits = [key for key in _LIMITS_OF_GRAMMARS if schema.get(key) is not None]
    for key in ("minItems", "maxItems"):
        if key in limits and not (isinstance(schema[key], int) and schema[key] > _MAX_GRAMMAR_ITEMS):
            limits.remove(key)
    add_texts(schema, [text for key in limits if (text := describe_keyword(key, schema.pop(key)))])


_OF_OBJECTS = frozenset(("title", "description", "required", "additionalProperties", "$defs", "definitions"))
"""Keywords that are kept if the root has another type than `object`. All others are dropped."""


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
        reference = schema.get("$ref") if len(schema) == 1 else None
        if isinstance(reference, str) and reference in self._targets:
            return self._targets[reference]
        budget = self._document.budget
        budget.require_allowed_depth(depth)
        flat = self._document.inline_reference(schema)
        budget.count_steps(_breadth(flat))
        for key in ALTERNATIVE_KEYWORDS:
            branches = flat.pop(key, None)
            if isinstance(branches, list):
                if (objects := self._lists.get(id(branches))) is None:
                    self._lists[id(branches)] = []
                    known = [one for one in branches if isinstance(one, dict) and one.get("type", "object") == "object"]
                    objects = self._lists[id(branches)] = [self.flatten(one, depth + 1) for one in known]
                _add_branches(flat, objects, key, self._index)
                if key != "allOf" or len(objects) < len(branches):
                    self._lost.append(f"{key} at the root became one object with all its properties")
        self._lost += [f"{key} at the root was removed" for key in ("enum", "const", "not") if key in flat]
        kinds = flat.get("type", "object")
        if kinds != "object":
            self._lost.append(
                f"type {kinds if encode_if_short(kinds) else 'of several kinds'} at the root became object"
            )
        properties = flat.get("properties")
        dropped = ("enum", "const", "not") if holds_type(kinds, "object") else flat.keys() - _OF_OBJECTS
        plain = {key: value for key, value in flat.items() if key not in dropped}
        plain |= {"type": "object", "properties": properties if isinstance(properties, dict) else {}}
        if isinstance(reference, str):
            self._targets[reference] = plain
        return plain


def _add_branches(flat: Schema, branches: list[Schema], key: str, index: EqualityIndex) -> None:
    """Add the properties and required names of alternative schemas (branches) to `flat`. A repeated one is skipped.

    A property with different descriptions becomes an `allOf` or `anyOf` of these descriptions. `key`: in an `allOf`, a
    name is required if any branch requires it, otherwise only if all require it.
    """
    is_all = key == "allOf"
    properties: Schema = dict(flat["properties"]) if isinstance(flat.get("properties"), dict) else {}
    # name of a property with different descriptions → number of a description (equal ones share it) → description
    alternatives: dict[str, dict[int, Any]] = {}
    distinct = list({id(branch): branch for branch in branches}.values())
    for branch in distinct:
        index.budget.count_steps(1 + len(branch["properties"]))
        for name, schema in branch["properties"].items():
            known = properties.setdefault(name, schema)
            if known is schema:
                continue
            number = index.assign_equality_number(schema)
            if name in alternatives:
                alternatives[name].setdefault(number, schema)
            elif (first := index.assign_equality_number(known)) != number:
                alternatives[name] = {first: known, number: schema}
    for name, schemas in alternatives.items():
        properties[name] = {"allOf" if is_all else "anyOf": list(schemas.values())}
    demands = [set(required_names(branch.get("required"))) for branch in distinct]
    index.budget.count_steps(sum(map(len, demands)))
    shared = (set.union if is_all else set.intersection)(*demands) if demands else set()
    required = required_names(flat.get("required")) | dict.fromkeys(name for name in properties if name in shared)
    flat["properties"] = properties
    if required:
        flat["required"] = list(required)


_STRICT = frozenset(
    (
        *("type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const"),
        *("$ref", "$defs", "definitions", "title", "description", "pattern", "format", "multipleOf"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"),
    )
)
"""Keywords that OpenAI's strict mode accepts (platform.openai.com, Structured Outputs, "Supported schemas"; 2026-11).
"""


def qualifies_for_strict(schema: Any) -> bool:
    """Return True if a schema, cleaned by `clean_schema`, may be sent with `strict: true`."""
    # Each object must require all its properties and forbid others, and any other schema must have a type or something
    # that counts as one. Each keyword must be accepted by strict mode.
    open_schemas = [schema]
    while open_schemas:
        one = open_schemas.pop()
        if not isinstance(one, dict) or not _STRICT.issuperset(one):
            return False
        if one.get("type") == "object" or "properties" in one:
            names, required = one.get("properties", {}), required_names(one.get("required"))
            is_closed = one.get("additionalProperties") is False and isinstance(names, dict)
            if not is_closed or names.keys() != required.keys():
                return False
        elif one.keys().isdisjoint(("type", "anyOf", "$ref", "enum", "const")):
            return False
        for key in ("properties", "$defs", "definitions"):
            named = one.get(key, {})
            if not isinstance(named, dict):
                return False
            open_schemas += named.values()
        alternatives = one.get("anyOf", [])
        if not isinstance(alternatives, list):
            return False
        open_schemas += alternatives
        if "items" in one:
            open_schemas.append(one["items"])
    return True


REPLY_SCHEMA_PATH = "output_config.format.schema"


def may_accept_object(schema: bytes, budget: WorkBudget | None = None) -> bool:
    """Return True if a reply schema may accept a JSON object. False: it requires a list or a plain value.

    Raises `WorkLimitExceeded`.
    """
    budget = budget or WorkBudget(REPLY_SCHEMA_PATH)
    with budget.error_field(REPLY_SCHEMA_PATH):
        return _find_admission(schema, budget)


def _decide_admission(schema: bytes, budget: WorkBudget) -> bool:
    budget.count_decoding_steps(schema)
    root = decode_values(schema)
    return not isinstance(root, dict) or _ObjectCheck(SchemaDocument(root, budget)).admits(root, 0)


_find_admission = WorkCache(
    _decide_admission, lambda schema: hashlib.blake2b(schema).digest(), lambda *_: 0
).get_or_encode


class _ObjectCheck:
    def __init__(self, document: SchemaDocument) -> None:
        self._document = document
        self._lists: dict[tuple[int, str], bool] = {}
        """`id()` of a list of alternatives and its keyword → True if the list may accept an object. True also while it
        is being checked."""
        self._targets: dict[str, bool] = {}
        """Reference → True if the schema that it names may accept an object."""

    def admits(self, schema: Any, depth: int) -> bool:
        reference = schema.get("$ref") if isinstance(schema, dict) and len(schema) == 1 else None
        if isinstance(reference, str) and reference in self._targets:
            return self._targets[reference]
        self._document.budget.require_allowed_depth(depth)
        if not isinstance(schema, dict):
            return True
        flat = self._document.inline_reference(schema)
        self._document.budget.count_steps(_breadth(flat))
        values = flat["enum"] if isinstance(flat.get("enum"), list) else [flat.get("const", {})]
        admits = holds_type(flat.get("type", "object"), "object") and any(isinstance(value, dict) for value in values)
        for key in ALTERNATIVE_KEYWORDS:
            branches = flat.get(key)
            if not admits or not isinstance(branches, list) or not branches:
                continue
            place = id(branches), key
            if place not in self._lists:
                self._lists[place] = True
                self._document.budget.count_steps(len(branches))
                admitting = (self.admits(one, depth + 1) for one in branches)
                self._lists[place] = all(admitting) if key == "allOf" else any(admitting)
            admits = self._lists[place]
        if isinstance(reference, str):
            self._targets[reference] = admits
        return admits


def _breadth(schema: Schema) -> int:
    return 1 + len(schema) + sum(len(value) for value in schema.values() if isinstance(value, list))


_MAX_KEPT_BYTES = 32 * 1024
"""Maximum size in bytes of the JSON text of a cached schema. A larger schema is encoded for every request."""


class EncodedSchema(NamedTuple):
    """A client's JSON Schema as the provider accepts it, with texts about the main conditions that were lost."""

    schema: Raw
    qualifies_for_strict: bool
    """True if OpenAI's strict mode allows the cleaned schema."""
    losses: tuple[str, ...]
    """Texts for fidelity notes, one for each loss. Only losses at the root of the schema and of references are
    noted."""


def encode_schema(schema: bytes, budget: WorkBudget, rules: SchemaRules = UNRESTRICTED_RULES) -> EncodedSchema:
    """Return a JSON Schema with only the keywords that `rules` permit. Raises `WorkLimitExceeded`."""
    budget.count_decoding_steps(schema)
    cleaned, lost = clean_schema(decode_values(schema) if schema else {}, rules, budget)
    return EncodedSchema(Raw(msgspec.json.encode(cleaned)), qualifies_for_strict(cleaned), tuple(lost))


_encode_kept = WorkCache(encode_schema, bytes, lambda schema, encoded: len(schema) + len(encoded.schema)).get_or_encode


def encode_schema_cached(
    schema: bytes, budget: WorkBudget, rules: SchemaRules, field: str = REPLY_SCHEMA_PATH
) -> EncodedSchema:
    """Return the result of `encode_schema`, from a cache if it was encoded before. `field`: path of the schema."""
    with budget.error_field(field):
        return (_encode_kept if len(schema) <= _MAX_KEPT_BYTES else encode_schema)(schema, budget, rules)
