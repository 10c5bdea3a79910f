"""`EqualityIndex`: compares decoded JSON values (parts of a schema) in linear time, even if compared many times.

`assign_equality_number` returns a number for each value. Two values are equal if they have the same number. A
`WorkBudget` limits the work for one client request.
"""

from typing import Any

from anthropic_proxy.messages.work_budget import WorkBudget


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
