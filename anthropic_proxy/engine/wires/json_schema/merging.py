"""Merging of the schemas in an `allOf` into one schema, for providers that do not accept `allOf`.

A value must match all schemas of an `allOf`, so the merged schema has the conditions of each.
"""

from typing import Any

from anthropic_proxy.engine.messages.work_budget import WorkBudget
from anthropic_proxy.engine.wires.json_schema.document import Schema


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
            structure: Any
            if isinstance(one, dict):
                structure = frozenset((name, self._known(member)) for name, member in one.items())
            else:
                structure = tuple(map(self._known, one))
            self._read[id(one)] = one, self._number_of(structure)
        return self._known(value)

    def _known(self, value: Any) -> int:
        if isinstance(value, dict | list):
            return self._read[id(value)][1]
        return self._number_of((type(value), value))

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
            elif before is None:
                merged[key] = value
    if required is not None:
        merged["required"] = list(required)
    return merged


def required_names(required: Any) -> dict[str, None]:
    """Return the property names in the value of the keyword `required`, as the keys of a dictionary, in order."""
    return dict.fromkeys(one for one in required if isinstance(one, str)) if isinstance(required, list) else {}
