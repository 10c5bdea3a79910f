"""Merging of the schemas in an `allOf` into one schema, for providers that do not accept `allOf`.

`merge_all_of` returns the merged schema. A value must match all schemas of an `allOf`, so the merged schema has the
conditions of each. A `WorkBudget` limits the work for one client request.
"""

from typing import Any

from anthropic_proxy.messages.work_budget import WorkBudget
from anthropic_proxy.wire.json_schema.document import Schema


class EqualityIndex:
    """Assigns a number to each decoded JSON value. Two values are equal if they have the same number.

    A value must not change after its number was assigned.
    """

    def __init__(self, budget: WorkBudget) -> None:
        self.budget = budget
        """Budget of the client request. It counts one step for each member of a list or object that is read."""
        self._numbers: dict[Any, int] = {}
        """Structure → number of the values with this structure. A structure is a scalar with its type, or the numbers
        of a container's members."""
        self._read: dict[int, tuple[Any, int]] = {}
        """`id()` of a list or object → the value and its number. The value is kept so that its id is not reused."""

    def assign_equality_number(self, value: Any) -> int:
        """Return the number of a decoded JSON value. Equal values have the same number, unequal values different ones.

        Raises `WorkLimitExceeded` if the client request causes more work than its `WorkBudget` permits.
        """
        open_values = [value] if isinstance(value, dict | list) else []
        while open_values:
            one = open_values[-1]
            unread = [] if id(one) in self._read else self._unread_members(one)
            if unread:
                open_values += unread
                continue
            open_values.pop()
            if id(one) not in self._read:
                self.budget.count_steps(1 + len(one))
                self._read[id(one)] = one, self._number_of(self._structure(one))
        return self._known(value)

    def _unread_members(self, container: Any) -> list[Any]:
        members = container.values() if isinstance(container, dict) else container
        return [one for one in members if isinstance(one, dict | list) and id(one) not in self._read]

    def _structure(self, container: Any) -> Any:
        if isinstance(container, dict):
            return frozenset((name, self._known(member)) for name, member in container.items())
        return tuple(map(self._known, container))

    def _known(self, value: Any) -> int:
        if isinstance(value, dict | list):
            return self._read[id(value)][1]
        return self._number_of((type(value), value))

    def _number_of(self, structure: Any) -> int:
        return self._numbers.setdefault(structure, len(self._numbers))


def merge_all_of(schema: Schema, index: EqualityIndex) -> Schema:
    """Return one schema with the keywords of a schema and of all schemas in its `allOf`.

    Raises `WorkLimitExceeded` if the work exceeds the `WorkBudget` of `index`.
    """
    parts = schema.get("allOf")
    if not isinstance(parts, list):
        return schema
    # A property with different schemas gets an `allOf` of them. Required names are joined; else the first value counts.
    merger = _Merger({key: value for key, value in schema.items() if key != "allOf"}, index)
    for part in parts:
        if isinstance(part, dict):
            merger.add(merge_all_of(part, index))
    return merger.finish()


class _Merger:
    """Merges the schemas of an `allOf` into one schema."""

    def __init__(self, whole: Schema, index: EqualityIndex) -> None:
        self._whole = whole
        self._index = index
        self._own_properties = False
        """True if `properties` of the merged schema is a copy that may be changed."""
        self._conflicts: dict[str, list[Any]] = {}
        """Name of a property with different descriptions → the list of these descriptions."""
        self._required: dict[str, None] | None = None
        """Required names in order. None: at most one of the schemas has `required`."""

    def add(self, part: Schema) -> None:
        """Merge one schema of the `allOf` into the merged schema. Existing keywords are kept."""
        self._index.budget.count_steps(1 + len(part))
        for key, value in part.items():
            before = self._whole.get(key)
            if key == "properties" and isinstance(before, dict) and isinstance(value, dict):
                self._add_properties(before, value)
            elif key == "required" and isinstance(before, list) and isinstance(value, list):
                self._add_required(before, value)
            elif before is None:
                self._whole[key] = value

    def finish(self) -> Schema:
        """Return the schema into which `add` merged all schemas of the `allOf`."""
        if self._required is not None:
            self._whole["required"] = list(self._required)
        return self._whole

    def _add_properties(self, before: Schema, added: Schema) -> None:
        self._index.budget.count_steps(len(added))
        if not self._own_properties:
            self._index.budget.count_steps(len(before))
            before = self._whole["properties"] = dict(before)
            self._own_properties = True
        for name, schema in added.items():
            if name not in before:
                before[name] = schema
            elif name in self._conflicts:
                self._conflicts[name].append(schema)
            elif self._index.assign_equality_number(before[name]) != self._index.assign_equality_number(schema):
                self._conflicts[name] = [before[name], schema]
                before[name] = {"allOf": self._conflicts[name]}

    def _add_required(self, before: list[Any], added: list[Any]) -> None:
        if self._required is None:
            self._required = _unique(before)
        self._index.budget.count_steps(len(added))
        self._required |= _unique(added)


def _unique(values: list[Any]) -> dict[Any, None]:
    return dict.fromkeys(value for value in values if isinstance(value, str))
