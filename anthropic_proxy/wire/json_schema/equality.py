"""Equality of JSON values in time linear in their sizes, however often they are compared."""

from typing import Any

from anthropic_proxy.messages.work_budget import WorkBudget


class EqualityIndex:
    """Gives numbers to JSON values: equal values have equal numbers. Each list and object is read once.

    Comparing two values directly reads both. With references, the same pair of large values can be compared thousands
    of times. A value must not change after its number was asked for.
    """

    def __init__(self, budget: WorkBudget) -> None:
        self.budget = budget
        self._numbers: dict[Any, int] = {}
        """Structure → its number. A structure is a scalar, or a container of numbers."""
        self._read: dict[int, tuple[Any, int]] = {}
        """Identity → the container, kept so that its identity stays its own, and its number."""

    def number(self, value: Any) -> int:
        """Return the number of a value; does not recurse."""
        open_values = [value] if isinstance(value, dict | list) else []
        while open_values:
            one = open_values[-1]
            unread = [] if id(one) in self._read else self._unread_members(one)
            if unread:
                open_values += unread
                continue
            open_values.pop()
            if id(one) not in self._read:
                self.budget.spend(1 + len(one))
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
